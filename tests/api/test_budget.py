"""One budget for the bodies of all orgs, and one thread that decodes them."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import weakref
from contextlib import suppress
from functools import partial

from invent_exporter.api.budget import LARGE_SECONDS, POOL_BYTES, SHARE_BYTES, Budget, Lease
from invent_exporter.api.worker import Worker

LARGEST = 16 * 2**20
PIECE = 64 * 1024


async def test_bodies_that_grow_together_stay_within_the_budget_and_all_come_to_an_end() -> None:
    """Each holds a part and wants more; some break off. One large body is there at a time."""
    budget, chance = Budget(), random.Random(14)
    sizes: dict[int, int] = {}
    highest = 0

    async def read(number: int) -> None:
        nonlocal highest
        lease = Lease(budget)
        try:
            for size in range(PIECE, chance.choice((PIECE, SHARE_BYTES, LARGEST)), PIECE):
                if not lease.covers(size):
                    await lease.become_large()
                sizes[number] = size
                highest = max(highest, sum(sizes.values()))
                await asyncio.sleep(0)
                if chance.random() < 0.001:
                    raise ConnectionError
        finally:
            sizes.pop(number, None)
            lease.release()
            lease.release()

    await asyncio.gather(*(read(number) for number in range(60)), return_exceptions=True)
    assert SHARE_BYTES < highest <= POOL_BYTES + LARGEST
    assert (budget.free_bytes, budget.large.locked(), budget.waiting) == (POOL_BYTES, False, 0)


async def test_who_gives_up_waiting_leaves_the_place_to_the_next() -> None:
    """A request that is dropped must not keep it."""
    budget = Budget()
    first, second, third = (Lease(budget) for _ in range(3))
    await first.become_large()
    waiting = [asyncio.create_task(lease.become_large()) for lease in (second, third)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.release()
    await waiting[1]
    assert third.covers(LARGEST)
    assert not second.covers(SHARE_BYTES + 1)
    assert second.covers(SHARE_BYTES)


async def test_waiting_for_others_does_not_count_as_slow() -> None:
    """A deadline stands still meanwhile; the place itself is held for ten seconds at most."""
    budget, loop, heartbeats = Budget(), asyncio.get_running_loop(), list[float]()
    first = Lease(budget)
    await first.become_large()
    async with asyncio.timeout(3600) as deadline:
        wanted = Lease(budget).grow(LARGEST, deadline=deadline, heartbeat=heartbeats.append)
        waiting = asyncio.create_task(wanted)
        await asyncio.sleep(0)
        assert (deadline.when(), heartbeats) == (None, [2 * LARGE_SECONDS])
        first.release()
        await waiting
        assert 0 < (deadline.when() or 0) - loop.time() <= LARGE_SECONDS


async def test_work_is_done_in_turn_and_its_errors_come_back() -> None:
    """And what nobody waits for any more is not begun."""
    worker, done = Worker(), list[int]()
    await asyncio.gather(*(worker.run(partial(done.append, number)) for number in range(5)))
    assert done == list(range(5))
    results = await asyncio.gather(worker.run(lambda: 1 // 0), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)


async def test_an_error_keeps_nothing_of_what_was_decoded() -> None:
    """Garbage is collected seldom: until then the bodies of many polls would fill the memory."""

    class Body:
        """Can be watched."""

        def decode(self) -> None:
            raise ValueError

    body, worker = Body(), Worker()
    is_there, decode = weakref.ref(body), body.decode
    del body
    gc.disable()
    try:
        with suppress(ValueError):
            await worker.run(decode)
        del decode
        await worker.run(lambda: None)  # the thread has let go of what was before
        assert is_there() is None
    finally:
        gc.enable()


def test_no_exit_waits_for_what_is_being_decoded() -> None:
    """A stop comes while the thread is at work without end."""
    program = (
        "import asyncio, time\n"
        "from invent_exporter.api.worker import Worker\n"
        "async def main():\n"
        "    asyncio.ensure_future(Worker().run(lambda: time.sleep(3600)))\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
