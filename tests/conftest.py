"""Give every test the same surroundings."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own INVENT_* variables (a real key among them) out of the tests."""
    for name in os.environ:
        if name.startswith("INVENT_"):
            monkeypatch.delenv(name)
