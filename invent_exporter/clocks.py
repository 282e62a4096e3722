"""Time and chance, which are passed in wherever they decide something."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


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
