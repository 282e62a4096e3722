"""How much work a proof may be: some of its cases each time, or all of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

import pytest

_T = TypeVar("_T")
Test = TypeVar("Test", bound=Callable[..., Any])


class Effort(Enum):
    """The size of a proof: `make test` asks for the quick one, `make test-system` for the long."""

    QUICK = "quick"
    LONG = "long"

    def choose(self, quick: _T, long: _T) -> _T:
        """Return what belongs to this size."""
        return long if self is Effort.LONG else quick


def system_sharing(what: str) -> Callable[[Test], Test]:
    """Mark a system test that shares a costly fixture: all who do run on one worker."""

    def mark(test: Test) -> Test:
        for each in (pytest.mark.system, pytest.mark.xdist_group(what)):
            each(test)  # it marks the function itself
        return test

    return mark
