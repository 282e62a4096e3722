"""Memory for the bodies of answers: all orgs together stay within one budget.

Small bodies take from a pool as they grow. One that is larger than its share, or finds the pool
empty, waits for the one place of a large body: whoever has that needs nothing more, so it always
comes to an end, and what waits for it holds no more than the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SHARE_BYTES = 4 * 2**20
POOL_BYTES = 24 * 2**20
_STEP_BYTES = 64 * 2**10
LARGE_SECONDS = 10.0
"""So long a large body may take while it is read, whatever the timeout: others may wait."""


class Budget:
    """What all bodies in flight may take, beside the one large one."""

    def __init__(self) -> None:
        self.free_bytes = POOL_BYTES
        self.large = asyncio.Lock()  # first come, first served
        self.waiting = 0


class Lease:
    """What one body takes of the budget, until it is released; that may be done twice."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0
        self._is_large = False

    def covers(self, size_bytes: int) -> bool:
        """Take what a body of this size needs, where that can be had at once."""
        while not self._is_large and self._held_bytes < size_bytes:
            if size_bytes > SHARE_BYTES or self._budget.free_bytes < _STEP_BYTES:
                return False
            self._budget.free_bytes -= _STEP_BYTES
            self._held_bytes += _STEP_BYTES
        return True

    async def grow(
        self, size_bytes: int, *, deadline: asyncio.Timeout, heartbeat: Callable[[float], None]
    ) -> None:
        """Take what a body of this size needs; the wait for others does not count as slow."""
        if self.covers(size_bytes):
            return
        loop = asyncio.get_running_loop()
        left_seconds = (deadline.when() or loop.time()) - loop.time()
        deadline.reschedule(None)
        heartbeat((self._budget.waiting + 2) * LARGE_SECONDS)
        await self.become_large()
        deadline.reschedule(loop.time() + min(left_seconds, LARGE_SECONDS))

    async def become_large(self) -> None:
        """Wait until no other body is large."""
        self._budget.waiting += 1
        try:
            await self._budget.large.acquire()
        finally:
            self._budget.waiting -= 1
        self._is_large = True

    def release(self) -> None:
        """Give all of it back: the body was decoded, or is gone."""
        self._budget.free_bytes += self._held_bytes
        self._held_bytes = 0
        if self._is_large:
            self._is_large = False
            self._budget.large.release()
