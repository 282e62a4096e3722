"""Give every test the same surroundings."""

import os

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own INVENT_* variables (a real key among them) out of the tests."""
    for name in tuple(os.environ):
        if name.startswith("INVENT_"):
            monkeypatch.delenv(name)
