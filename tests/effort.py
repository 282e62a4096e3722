"""How much work a proof may be: some of its cases each time, or all of them."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

_T = TypeVar("_T")


class Effort(Enum):
    """The size of a proof: `make test` asks for the quick one, `make test-system` for the long."""

    QUICK = "quick"
    LONG = "long"

    def choose(self, quick: _T, long: _T) -> _T:
        """Return what belongs to this size."""
        return long if self is Effort.LONG else quick
