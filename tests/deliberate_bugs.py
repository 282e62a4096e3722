"""Put each deliberate bug into a copy of the code and see that the test meant for it fails.

python -m tests.deliberate_bugs            # all of deliberate_bugs.yaml, two at a time
python -m tests.deliberate_bugs usage      # those whose names hold a word

First the tests must be green on the copy as it is, or a failure would prove nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[1]
LIST: Final = Path(__file__).with_suffix(".yaml")
TAKEN: Final = ("exporter.py", "pyproject.toml", "invent_exporter", "tests")
SECONDS: Final = 1800
PASSED, FAILED = 0, 1  # pytest's exit statuses


class Bug(msgspec.Struct, forbid_unknown_fields=True):
    """In `file`, `new` in the place of `old` makes `bug`, which `test` must see."""

    bug: str
    test: str
    file: str
    old: str
    new: str


class BugList(msgspec.Struct):
    """The file; beside the bugs it has names for what they share."""

    bugs: list[Bug]


def copy(folder: Path) -> None:
    """Copy what the tests need."""
    for name in TAKEN:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)


def run(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Run pytest in a copy; return its exit status (None: it took too long) and last words."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None, f"not within {SECONDS} s"
    lines = done.stdout.splitlines() or done.stderr.splitlines() or [""]
    named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (named or lines)[-1]


def find(bug: Bug) -> tuple[bool, str]:
    """Make the bug; tell whether its test failed, and how."""
    with tempfile.TemporaryDirectory(prefix="bug-") as name:
        folder = Path(name)
        copy(folder)
        path = folder / "invent_exporter" / bug.file
        text = path.read_text()
        if text.count(bug.old) != 1:
            return False, f"{bug.file} has its text {text.count(bug.old)} times, not once"
        path.write_text(text.replace(bug.old, bug.new))
        status, said = run(folder, "--long", bug.test)
        return status == FAILED, said


def main() -> int:
    """Run all that were asked for; return 1 when a bug was not found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="", help="only bugs whose names hold it")
    parser.add_argument("--at-once", type=int, default=2, help="how many tests run side by side")
    flags = parser.parse_args()
    every = msgspec.yaml.decode(LIST.read_bytes(), type=BugList).bugs
    bugs = [bug for bug in every if flags.word in bug.bug]
    with tempfile.TemporaryDirectory(prefix="bug-") as name:
        copy(Path(name))
        status, said = run(Path(name), *sorted({bug.test for bug in bugs}))
    print(f"without a bug: {said}", flush=True)
    if status != PASSED:
        return 1
    missed = 0
    with ThreadPoolExecutor(flags.at_once) as pool:
        for bug, (is_found, said) in zip(bugs, pool.map(find, bugs), strict=True):
            missed += not is_found
            print(f"{'found ' if is_found else 'MISSED'} {bug.bug}: {said}", flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} deliberate bugs were found")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
