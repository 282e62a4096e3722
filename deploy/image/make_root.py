"""Lay out the file system of the image: Python, the libraries it loads, the program, nothing else.

Runs in the build stage, where LICENSE is: python make_root.py APP ROOT. No shell, package manager,
pip or compiler is copied, which is why the result is smaller than any distribution's base and has
less to patch. What came from Debian's packages is named in /var/lib/dpkg/status.d, where scanners
look for it, and its copyright is in /usr/share/doc.

Works wherever Python lies: /usr/local in the official image, /usr in Debian's.
"""
# ruff: noqa: INP001, S603, S607 - a script of the build stage, whose PATH is the base image's

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USER_ID: Final = 65532

UNUSED_MODULES: Final = (
    *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "tkinter", "turtledemo"),
    *("venv", "site-packages", "dist-packages", "__pycache__", "config-*", "turtle.py"),
    *("_test*.so", "_ctypes_test*.so", "xxlimited*.so", "_xxtestfuzz*.so"),
    # They would bring ncurses, readline, Tk and databases along.
    *("_curses*.so", "_tkinter*.so", "readline*.so", "_dbm*.so", "_gdbm*.so"),
    *("EXTERNALLY-MANAGED", "*.pyc", "bin"),
)

LOADED_LATER: Final = ("libgcc_s.so.1",)
"""What glibc opens only when a thread ends early, so `ldd` does not name it."""

FILES: Final = {
    "etc/passwd": f"root:x:0:0:root:/:/none\ninvent:x:{USER_ID}:{USER_ID}:invent:/data:/none\n",
    "etc/group": f"root:x:0:\ninvent:x:{USER_ID}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def main() -> None:
    """Make the root from the two arguments: the folder of the program, and the folder to fill."""
    app, root = Path(sys.argv[1]), Path(sys.argv[2])
    copied = [*_copy_python(root)]
    shutil.copytree(app, root / "app", ignore=shutil.ignore_patterns(*UNUSED_MODULES))
    _make_command(root)
    copied += _copy_libraries(root)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _copy(Path("/etc/os-release"), root, Path("/etc/os-release"))
    _describe_packages(root, copied)
    _copy(Path("LICENSE"), root, Path("/licenses/LICENSE"))
    _compile(root)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    _make_data(root / "data")
    _date(root, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


def _copy(source: Path, root: Path, target: Path) -> None:
    """Copy a file, not the link to it, to its place below the root."""
    place = root / target.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, place)


def _copy_python(root: Path) -> Iterator[Path]:
    """Copy interpreter and standard library; yield where they came from."""
    executable = Path(sys.executable).resolve()
    _copy(executable, root, executable)
    yield executable
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/python").symlink_to(executable)
    library = Path(os.__file__).resolve().parent
    shutil.copytree(
        library,
        root / library.relative_to("/"),
        ignore=shutil.ignore_patterns(*UNUSED_MODULES),
    )
    # Debian spreads the standard library over three packages; one file of each names it.
    yield from (library / name for name in ("os.py", "abc.py", "asyncio/__init__.py"))


def _make_command(root: Path) -> None:
    """Make `invent-exporter` a command, for `docker exec`; it needs no shell to start Python."""
    script = root / "app/exporter.py"
    script.write_text(f"#!/usr/bin/python\n{script.read_text()}")
    script.chmod(0o755)
    (root / "usr/bin/invent-exporter").symlink_to("/app/exporter.py")


def _copy_libraries(root: Path) -> list[Path]:
    """Copy the shared libraries that anything in the root loads; return where they came from."""
    executable = Path(sys.executable).resolve()
    users = [executable, *root.rglob("*.so"), *root.rglob("*.so.*")]
    said = subprocess.run(
        ["ldd", *users], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    if missing := re.findall(r"(\S+) => not found", said):
        sys.exit(f"make_root.py: libraries not found: {', '.join(sorted(set(missing)))}")
    paths = {Path(path) for path in re.findall(r"(/\S+)(?= \(0x)", said)}
    libc = next(path for path in paths if path.name == "libc.so.6")
    paths |= {libc.parent / name for name in LOADED_LATER}
    copied = []
    for path in sorted(paths):
        if not path.is_relative_to(root):
            _copy(path, root, path.parent.resolve() / path.name)
            copied.append(path.resolve())
    for link in ("lib", "lib64"):
        if Path("/", link).is_symlink() and not (root / link).exists():
            (root / link).symlink_to(Path("/", link).readlink())
    # For libraries outside of the loader's own folders, such as /usr/local/lib.
    _copy(Path("/etc/ld.so.conf"), root, Path("/etc/ld.so.conf"))
    shutil.copytree("/etc/ld.so.conf.d", root / "etc/ld.so.conf.d")
    subprocess.run(["/sbin/ldconfig", "-r", root, "-X"], check=True)
    return copied


def _describe_packages(root: Path, copied: list[Path]) -> None:
    """Write what Debian knows of each package that a copied file belongs to, and its copyright."""
    folder = root / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True)
    found = set()
    for path in copied:
        # Some packages still name their files below /lib, which is a link to /usr/lib.
        for name in (str(path), str(path).removeprefix("/usr")):
            done = subprocess.run(
                ["dpkg-query", "--search", name], capture_output=True, text=True, check=False
            )
            found |= {line.split(":")[0] for line in done.stdout.splitlines()}
    for package in sorted(found | {"base-files"}):
        text = subprocess.run(
            ["dpkg-query", "--status", package], capture_output=True, text=True, check=True
        ).stdout
        (folder / package).write_text(text)
        copyright_file = Path("/usr/share/doc", package, "copyright")
        _copy(copyright_file.resolve(), root, copyright_file)


def _compile(root: Path) -> None:
    """Compile everything once: no file below a read-only root is compiled at each start.

    Bytecode that is checked by the hash of its source, and here never, does not depend on times.
    """
    is_done = compileall.compile_dir(
        root,
        maxlevels=20,
        quiet=1,
        stripdir=root,
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not is_done:
        sys.exit("make_root.py: not everything could be compiled")


def _make_data(folder: Path) -> None:
    """Make the folder of the state, for the image's user and, as OpenShift has it, for group 0."""
    folder.mkdir()
    os.chown(folder, USER_ID, 0)
    folder.chmod(0o2770)


def _date(root: Path, epoch_seconds: int) -> None:
    """Give every file the same time, so that the same inputs make the same layer."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (epoch_seconds, epoch_seconds), follow_symlinks=False)


if __name__ == "__main__":
    main()
