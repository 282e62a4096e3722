"""Fetch what tests need of Go modules: their files, or a program to run."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.programs import run


def _go(*arguments: str, cwd: Path | None) -> subprocess.CompletedProcess[str]:
    """Run Go; end the test when the network is what fails."""
    done = run("go", *arguments, cwd=cwd, env={"GOFLAGS": "-modcacherw"})
    said = done.stdout + done.stderr
    if done.returncode != 0 and ("dial tcp" in said or "no such host" in said):
        reason = f"Go can't fetch {arguments}: {said}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return done


def module_folder(module: str) -> Path:
    """Return the folder with the files of `module`, such as example.org/name@v1.2.3."""
    done = _go("mod", "download", "-json", module, cwd=None)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])


def run_program(
    package: str, *arguments: str | Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run the program of `package`, such as example.org/name/cmd@v1.2.3, in a folder."""
    return _go("run", package, *map(str, arguments), cwd=cwd)
