"""A missing program is skipped at home and fails where CI is set."""

import sys
from pathlib import Path

import pytest

from tests.programs import require

MISSING = "no-program-has-this-name"


def test_program_on_path_is_returned_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path leads to the program itself, so that a test can start it."""
    python = Path(sys.executable)
    monkeypatch.setenv("PATH", str(python.parent))
    assert require(python.name) == python


@pytest.mark.parametrize("ci", [None, ""])
def test_missing_program_skips_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, ci: str | None
) -> None:
    """Without CI (an empty one is none) the test is skipped and names the program."""
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.skip.Exception, match=MISSING):
        require(MISSING)


def test_missing_program_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CI nothing is skipped silently."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=MISSING):
        require(MISSING)
