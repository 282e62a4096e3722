"""When a request may go out, what `Retry-After` says, and how many pages a look back may read."""

from __future__ import annotations

import asyncio
from collections import Counter
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invent_exporter.api.ratelimit import (
    RECONCILE_SHARE,
    PageAllowance,
    RateLimiter,
    parse_retry_after,
)
from invent_exporter.clocks import SystemClocks
from invent_exporter.errors import PausedError
from tests.proof.process import FakeClocks


def test_reconciliations_together_stay_within_their_share() -> None:
    """However many orgs ask at the same time: what one has taken the next can't take again."""
    clocks = FakeClocks()
    allowance = PageAllowance(300, clocks.monotonic)
    taken = 0
    for _ in range(120):
        taken += sum(allowance.take(f"org-{number}") for number in range(50))
        clocks.now += 30.0
    assert taken <= 300 * RECONCILE_SHARE * (1 + 60)
    assert taken >= 300 * RECONCILE_SHARE * 55


def test_an_org_that_always_has_more_to_read_leaves_the_others_their_part() -> None:
    """Polls come in the same order each time, so the first would otherwise take all of it."""
    clocks = FakeClocks()
    allowance = PageAllowance(300, clocks.monotonic)
    taken: Counter[str] = Counter()
    for _ in range(60):
        for org_id in ("busy", "also-busy", "third"):
            taken[org_id] += allowance.take(org_id)
        clocks.now += 30.0
    assert min(taken.values()) > sum(taken.values()) / 8


def test_what_was_not_read_can_be_read_by_another() -> None:
    """A small org takes much and reads little."""
    allowance = PageAllowance(300, FakeClocks().monotonic)
    pages = allowance.take("small")
    assert allowance.take("other") == 0
    allowance.give_back(pages - 2)
    assert allowance.take("other") == pages - 2


def test_an_org_that_asks_no_more_is_not_waited_for() -> None:
    """Its polls fail, or it is done."""
    clocks = FakeClocks()
    allowance = PageAllowance(300, clocks.monotonic)
    whole = allowance.take("busy")
    assert allowance.take("fails") == 0
    clocks.now += 60.0
    assert allowance.take("busy") == whole // 2
    clocks.now += 3600.0
    assert allowance.take("busy") == whole


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        ("7", None, 7),
        (" 7 ", None, 7),
        ("1.5", None, 1.5),
        ("99999999", None, 3600),
        ("9" * 300, None, 3600),
        (formatdate(1_000_060, usegmt=True), None, 60),
        (formatdate(1_000_060, usegmt=True), formatdate(1_000_050, usegmt=True), 10),
        (formatdate(1_000_060, usegmt=True), "nonsense", 60),
        (formatdate(9_000_000, usegmt=True), None, 3600),
        (formatdate(999_000, usegmt=True), None, None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("", None, None),
        ("٣", None, None),
        ("1e3", None, None),
        ("inf", None, None),
        ("Mon, 99 Nov 2026 99:99:99 GMT", None, None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None, None),
        (None, None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_nonsense_is_ignored(
    value: str | None, date: str | None, expected: float | None
) -> None:
    """RFC 9110, 10.2.3; a date counts from the answer's own clock."""
    assert parse_retry_after(value, date, 1_000_000.0) == expected


def ignore(_seconds: float) -> None:
    """Take no heartbeat."""


class FakeTime(FakeClocks):
    """A clock that moves when somebody sleeps on it, and lets the others have their turn."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await super().sleep(seconds)
        await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(1, 600),
    gaps=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.1, 3.0, 59.0, 200.0]), max_size=400),
)
def test_no_minute_ever_has_more_requests_than_the_limit(
    per_minute: int, gaps: list[float]
) -> None:
    """Whatever the pauses before: a full bucket and its refill are together within the limit."""

    async def main() -> list[float]:
        time_ = FakeTime()
        limiter = RateLimiter(per_minute, time_)
        sent = []
        for gap in gaps + [0.0] * (2 * per_minute):
            time_.now += gap
            await limiter.acquire("org-1", ignore)
            sent.append(time_.now)
        return sent

    sent = asyncio.run(main())
    for first, later in zip(sent, sent[per_minute:], strict=False):
        assert later - first >= 60 - 1e-6


async def test_turns_are_given_in_order_and_the_limit_is_used() -> None:
    """Who asked first goes first; 300 a minute really are about 300."""
    time_ = FakeTime()
    limiter = RateLimiter(300, time_)
    order: list[int] = []
    heartbeats: list[float] = []

    async def one(number: int) -> None:
        await limiter.acquire("org-1", heartbeats.append)
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(300)))
    assert order == list(range(300))
    assert 55 < time_.now <= 60.001
    assert len(heartbeats) >= 270  # everybody who waits says so


async def test_an_org_that_catches_up_delays_a_request_of_another_by_one_at_most() -> None:
    """A backlog of thousands of pages is read a page at a time, each in its turn."""
    time_ = FakeTime()
    limiter = RateLimiter(300, time_)
    turns: list[str] = []

    async def read(org_id: str, pages: int) -> None:
        for _ in range(pages):
            asked = len(turns)
            await limiter.acquire(org_id, lambda _seconds: None)
            before = turns[asked:]
            turns.append(org_id)
            if org_id != "busy":
                assert before.count("busy") <= 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(read("busy", 100_000))
    await asyncio.gather(*(read(f"org-{number}", 50) for number in range(3)))
    assert turns.count("busy") >= 40  # it is served all the while
    busy.cancel()


async def test_another_limit_holds_from_now_on() -> None:
    """What the one before had saved beyond it is lost."""
    clocks = FakeTime()
    limiter = RateLimiter(6000, clocks)
    allowance = PageAllowance(6000, clocks.monotonic)
    limiter.apply(60)
    allowance.apply(60)
    assert allowance.take("org") == 60 * RECONCILE_SHARE
    for _ in range(60):
        await limiter.acquire("org", ignore)
    assert clocks.now >= 54
    limiter.apply(6000)
    before = clocks.now
    for _ in range(60):
        await limiter.acquire("org", ignore)
    assert clocks.now - before < 1


async def test_a_turn_that_is_given_up_is_not_lost() -> None:
    """A cancelled waiter lets the next one through."""
    limiter = RateLimiter(10, SystemClocks())
    await limiter.acquire("org-1", ignore)
    waiting = asyncio.create_task(limiter.acquire("org-1", ignore))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    limiter._tokens = 1.0
    await limiter.acquire("org-1", ignore)


async def test_the_longer_of_two_pauses_holds_and_a_long_one_refuses_at_once() -> None:
    """Those who waited already, too."""
    time_ = FakeTime()
    limiter = RateLimiter(60, time_)
    limiter.pause("org-1", 10)
    limiter.pause("org-1", 5)
    assert await limiter.acquire("org-2", ignore)
    assert time_.now == 10
    limiter.probed("org-2", is_answered=True)
    waiters = [asyncio.create_task(limiter.acquire(f"org-{n}", ignore)) for n in range(20)]
    limiter.pause("org-30", 600)
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(result, PausedError) for result in results)


def limited(*, until: float = 60.0) -> tuple[FakeTime, RateLimiter]:
    """Make a limiter that one org's hour of pause has held until now."""
    time_ = FakeTime()
    limiter = RateLimiter(6000, time_)
    limiter.pause("throttled", 3600)
    time_.now = until
    return time_, limiter


async def test_after_a_minute_one_other_org_probes_and_if_answered_the_others_go_on() -> None:
    """The throttled one waits its own time."""
    time_, limiter = limited(until=59.0)
    assert limiter.pause_seconds("other") == 1.0
    time_.now = 60.0
    assert await limiter.acquire("prober", ignore)
    others = [asyncio.create_task(limiter.acquire(f"org-{n}", ignore)) for n in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(other.done() for other in others)
    limiter.probed("prober", is_answered=True)
    assert await asyncio.gather(*others) == [False] * 5
    with pytest.raises(PausedError) as caught:
        await limiter.acquire("throttled", ignore)
    assert caught.value.retry_after_seconds == 3540.0


async def test_a_probe_that_is_throttled_too_pauses_all_again_and_a_broken_one_is_the_nexts() -> (
    None
):
    """The limit is the address's then; what broke off says nothing."""
    _, limiter = limited()
    assert await limiter.acquire("first", ignore)
    second = asyncio.create_task(limiter.acquire("second", ignore))
    await asyncio.sleep(0)
    limiter.probed("first", is_answered=False)
    assert await second
    limiter.probed("second", is_answered=False)
    limiter.pause("second", 600)
    assert limiter.pause_seconds("first") == 60.0
    assert limiter.pause_seconds("second") == 600.0


async def test_an_org_that_is_limited_alone_holds_no_other_any_more() -> None:
    """Until another one is throttled: then the limit may be the address's again."""
    time_, limiter = limited()
    await limiter.acquire("other", ignore)
    limiter.probed("other", is_answered=True)
    time_.now += 3600
    limiter.pause("throttled", 20)
    waiting = asyncio.create_task(limiter.acquire("throttled", ignore))
    assert not await limiter.acquire("other", ignore)
    assert limiter.pause_seconds("throttled") > 0
    assert not await waiting
    limiter.pause("other", 20)
    limiter.pause("throttled", 40)
    assert limiter.pause_seconds("third") == 40.0
