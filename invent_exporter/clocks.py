"""Time and chance, which are passed in wherever they decide something."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol

DAY_SECONDS = 86400.0


def contact_seconds(told: float | None, ours: float, *runs: float | None) -> float:
    """Tell when contact was: when the API's `Date` says, if our clock or a run is near.

    A `Date` more than a day ahead of both would make history of all that is to come. `runs` are the
    newest times of runs that were listed; without a `Date` that can be, they do not matter.
    """
    if told is None:
        return ours
    known = max([ours, *(time for time in runs if time is not None)])
    return told if told <= known + DAY_SECONDS else known


class Clocks(Protocol):
    """Time and chance, passed in."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


def boot_seconds() -> float:
    """Seconds that never go back, and go on while this machine sleeps (where it can tell)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SystemClocks:
    """The time of this machine, and chance."""

    monotonic = staticmethod(time.monotonic)
    random = staticmethod(random.random)  # spreads polls, guards nothing
    sleep = staticmethod(asyncio.sleep)
    time = staticmethod(time.time)
