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


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_missing_program_skips_with_the_reason_and_fails_under_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Without CI (an empty one is none) the test is skipped; under CI nothing is in silence."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=MISSING):
        require(MISSING)
