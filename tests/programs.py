"""Find and run the programs beside Python's own: Prometheus, promtool and the like."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def require(name: str) -> Path:
    """Return the path of the program `name`, or end the test that needs it.

    A missing program skips the test, with the reason; where the environment variable CI is set it
    fails it, so that a machine that should have the program can't pass without using it.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    reason = f"{name} is not on PATH: .ci/install-tools installs it on Debian"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run(
    program: str | Path,
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said, whatever its exit status."""
    return subprocess.run(
        [require(str(program)), *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=seconds,
    )
