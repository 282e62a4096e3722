"""Runs the steps of a ledger in a thread of their own, one by one, and again after a conflict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial, wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from invent_exporter.errors import ConflictError

_MOST_CONFLICTS = 9
_APART_SECONDS = 0.002
"""At first; twice as long each time, so that a step that meets others waits a second at most."""


class HasThread(Protocol):
    """Has steps, and the one thread in which they run."""

    thread: ThreadPoolExecutor


_S = TypeVar("_S", bound=HasThread)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_thread(
    method: Callable[Concatenate[_S, _P], _T],
) -> Callable[Concatenate[_S, _P], Awaitable[_T]]:
    """Run a method in the ledger's thread, in the order of the calls."""

    @wraps(method)
    async def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        step = partial(method, self, *args, **kwargs)
        return await loop.run_in_executor(self.thread, _in_peace, step)

    return call


def _in_peace(step: Callable[[], _T]) -> _T:
    """Run a step again until nobody else commits between what it reads and what it writes.

    Of those that meet one always commits, so it is rarely more than once.
    """
    for tries in range(_MOST_CONFLICTS):
        with suppress(ConflictError):
            return step()
        time.sleep(random.uniform(0, _APART_SECONDS * 2**tries))  # noqa: S311 (nothing secret)
    return step()
