"""How much work a proof may be: some of its cases each time, or all of them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

import pytest

_T = TypeVar("_T")


class Effort(Enum):
    """The size of a proof: `make test` asks for the quick one, `make test-system` for the long."""

    QUICK = "quick"
    LONG = "long"

    def choose(self, quick: _T, long: _T) -> _T:
        """Return what belongs to this size."""
        return long if self is Effort.LONG else quick


def cases(each: Iterable[str], *, quick: Iterable[str]) -> list[object]:
    """Return all parameters of a test; only those that are quick belong to `make test`."""
    of_both = set(quick)
    system = pytest.mark.system
    return [case if case in of_both else pytest.param(case, marks=system) for case in each]
