"""The lock files serve every machine: pinned, hashed, and silent about where wheels come from."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"

PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)((?: --hash=sha256:[0-9a-f]{64})+)")


def pins(lock: Path) -> dict[str, str]:
    """Return name → version of a lock file, and fail on any line that is not a hashed pin."""
    text = re.sub(r" *\\\n *", " ", lock.read_text("utf-8"))
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin = PINNED.fullmatch(line)
            assert pin is not None, f"{lock.name}: neither a pin with hashes nor a comment: {line}"
            found[pin["name"]] = pin["version"]
    return found


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT], ids=lambda lock: lock.name)
def test_lock_file_names_no_index(lock: Path) -> None:
    """Every requirement is an exact version with hashes; no option and no address stands there."""
    assert pins(lock)
    assert "://" not in lock.read_text("utf-8")


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    """What the program runs on is pinned alike for the tests, so one install serves both."""
    assert pins(RUNTIME).items() <= pins(DEVELOPMENT).items()
