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


class SystemClocks:
    """The time of this machine, and chance."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return random.random()  # noqa: S311 (spreads polls, guards nothing)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
