"""How much of the request budget looking back may take, and who gets it."""

from __future__ import annotations

from collections import Counter

from invent_exporter.api.ratelimit import RECONCILE_SHARE, PageAllowance
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
