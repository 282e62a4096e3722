"""Where a state file is: as it is named, and where the links on the way to it lead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_SCHEME = "sqlite:///"


class Place(NamedTuple):
    """A state file; as text it is what the user wrote.

    SQLite resolves links and keeps its log beside the real file. All that goes by the name of the
    file does the same, or one file had two logs, and two locks.
    """

    named: Path
    real: Path

    def __str__(self) -> str:
        """Return the path as `state.url` has it."""
        return str(self.named)

    def beside(self, suffix: str) -> Path:
        """Name a file that belongs to this one."""
        return Path(f"{self.real}{suffix}")

    @property
    def is_moved(self) -> bool:
        """Tell whether the links lead elsewhere by now."""
        return _behind_links(self.named) != self.real


def place_of(state_url: str) -> Place | None:
    """Tell where the file of a `state.url` is, or would be made; None for state in no file."""
    if not state_url.startswith(_SCHEME):
        return None
    named = Path(state_url.removeprefix(_SCHEME))
    return Place(named, _behind_links(named))


def _behind_links(path: Path) -> Path:
    # Not `Path.resolve`, which raises where links go round in a circle; opening it then says so.
    return Path(os.path.realpath(path))
