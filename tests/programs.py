"""Find the programs that tests start beside Python's own: Prometheus, promtool and the like."""

import os
import shutil
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
