"""Run an image as a platform would and see that it behaves: python -m release.run_image IMAGE.

The demo of the image comes up hardened: read-only, without capabilities, as a user that nobody
knows. It is healthy, counts runs, writes nowhere but in /data, and ends by itself within 5 seconds
of being asked to, or `--stop-seconds` on a machine that is busy. `--containers` names the program,
with arguments of its own: "podman --root …".
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

READY_SECONDS: Final = 120.0

FINISHED: Final = """
import sys, urllib.request
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5).read().decode()
sys.exit(0 if "\\ninvent_runs_finished_total{" in text else "no run has finished")
"""
TRY_TO_WRITE: Final = """
import tempfile
written = []
for folder in ("/", "/app", "/data", "/etc", "/usr/bin"):
    try:
        tempfile.TemporaryFile(dir=folder).close()
        written.append(folder)
    except OSError:
        pass
print(*written)
"""


@dataclass(frozen=True)
class Container:
    """A container by its name; `program` is what starts the command that talks to it."""

    program: tuple[str, ...]
    name: str

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the container program, whatever its exit status."""
        return subprocess.run(  # noqa: S603 - the caller names the program
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python code inside: there is no shell."""
        return self.ask("exec", self.name, "/usr/bin/python", "-c", code, *arguments)


def faults(
    container: Container, image: str, port: int, run: tuple[str, ...], stop_seconds: float
) -> list[str]:
    """Start the image's demo, look at it, stop it, and return what is wrong with it."""
    user = f"{secrets.randbelow(10**9) + 100_000}:0"
    started = container.ask(
        *("run", "--detach", "--name", container.name, "--read-only", "--cap-drop", "all"),
        *("--security-opt", "no-new-privileges", "--user", user, *run),
        *("--env", f"HEALTHCHECK_PORT={port}", image, "demo"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--simulator.listen-address=127.0.0.1:0"),
    )
    if started.returncode != 0:
        return [f"does not start: {started.stderr}"]
    found = []
    for what, code, arguments in (
        ("healthy", "import runpy; runpy.run_path('/app/healthcheck.py')", ()),
        ("counting runs", FINISHED, (str(port),)),
    ):
        deadline = time.monotonic() + READY_SECONDS
        while (asked := container.python(code, *arguments)).returncode != 0:
            if time.monotonic() > deadline:
                found.append(f"not {what} in {READY_SECONDS:g} s: {asked.stderr}")
                break
            time.sleep(0.5)
    if (written := container.python(TRY_TO_WRITE).stdout.split()) != ["/data"]:
        found.append(f"can write to {written}, expected /data alone")
    asked_at = time.monotonic()
    container.ask("stop", "--time", "30", container.name)
    seconds = time.monotonic() - asked_at
    if seconds > stop_seconds:
        found.append(f"took {seconds:.1f} s to stop, expected {stop_seconds:g}")
    state = json.loads(container.ask("inspect", container.name).stdout)[0]["State"]
    if state["ExitCode"] != 0:
        found.append(f"ended with exit status {state['ExitCode']}, expected 0")
    return found


def main() -> int:
    """Run it and print what is wrong, or that nothing is; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--containers", default="docker", help="(default %(default)s)")
    parser.add_argument("--run", default="", help="further arguments of `run`")
    parser.add_argument("--port", type=int, default=10480, help="(default %(default)s)")
    parser.add_argument("--stop-seconds", type=float, default=5.0, help="(default %(default)s)")
    flags = parser.parse_args()
    name = f"invent-exporter-run-{secrets.token_hex(4)}"
    container = Container(tuple(shlex.split(flags.containers)), name)
    try:
        found = faults(
            container, flags.image, flags.port, tuple(shlex.split(flags.run)), flags.stop_seconds
        )
        log = container.ask("logs", name) if found else None
    finally:
        container.ask("rm", "--force", name)
    print("\n".join(found) or f"{flags.image}: well")
    if log is not None:
        print(log.stdout, log.stderr, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
