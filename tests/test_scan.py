"""Which pages a poll reads, in each order, and what makes it stop."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from invent_exporter.order import Order, PageFacts, RowFact
from invent_exporter.scan import Poll, Reconciliation, ScanState
from invent_exporter.walk import ALL, Missing, Read, Steps, Walk


def order(
    *, created: str = "", updated: str = "", created_steps: int = 8, updated_steps: int = 8
) -> Order:
    """Make an order in which times are `rising` or `falling`, or neither."""
    return Order(
        created_descending=created == "falling",
        created_ascending=created == "rising",
        updated_descending=updated == "falling",
        updated_ascending=updated == "rising",
        created_steps=created_steps,
        updated_steps=updated_steps,
    )


def row(
    number: int, *, created: float | None = None, is_open: bool = False, settled: bool = False
) -> RowFact:
    """Make a row whose time of creation follows its number."""
    time = float(number) if created is None else created
    return RowFact(
        f"run-{number}",
        time,
        time,
        is_open=is_open,
        owned=True,
        settled=settled,
        signature=(number, is_open),
    )


@dataclass
class Rows:
    """A listing that answers a scan: pages begin at multiples of `take`."""

    rows: list[RowFact]
    take: int = 10
    sends_count: bool = True
    open_known: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def drive(self, steps: Steps) -> None:
        """Answer whatever the scan asks for."""
        seen: set[str] = set()
        try:
            request = next(steps)
            while True:
                if isinstance(request, Missing):
                    request = steps.send(
                        {key: at for key, at in self.open_known.items() if key not in seen}
                    )
                    continue
                page = self.answer(request)
                seen.update(each.run_id for each in page.rows if each.is_open)
                request = steps.send(page)
        except StopIteration:
            return

    def answer(self, read: Read) -> PageFacts:
        """Answer one read, with a page that overlaps where the size allows it."""
        self.asked.append((read.status, read.offset))
        rows = [each for each in self.rows if read.status == ALL or each.is_open]
        takes = [
            take
            for take in range(self.take, 1, -1)
            if (
                read.offset == 0 or read.offset % take
                if read.forward
                else read.offset % take < take - 1
            )
        ]
        reach = {
            take: take - read.offset % take if read.forward else read.offset % take
            for take in takes
        }
        take = max(takes or [self.take], key=lambda take: reach.get(take, 0))
        start = read.offset // take * take
        page = rows[start : start + take]
        return PageFacts(
            start,
            start + len(page),
            at_end=len(page) < take,
            count=len(rows) if self.sends_count else None,
            rows=page,
        )

    @property
    def pages(self) -> int:
        """How many pages of ALL were asked for."""
        return sum(1 for status, _ in self.asked if status == ALL)


@pytest.mark.parametrize("take", [1, 2, 3, 10])
@pytest.mark.parametrize("forward", [True, False])
def test_a_walk_reaches_its_end_with_pages_of_any_size(take: int, *, forward: bool) -> None:
    """Pages of one or two rows can't overlap, which is not taken for a gap."""
    listing = Rows([row(number) for number in range(11)], take)
    walk = Walk(0 if forward else 10, forward=forward)
    seen: set[str] = set()

    def steps() -> Steps:
        for _ in range(20):
            page = yield from walk.read()
            seen.update(each.run_id for each in page.rows)
            if walk.is_through:
                return

    listing.drive(steps())
    assert walk.is_through
    assert walk.is_whole
    assert len(seen) == 11


def test_an_ascending_order_is_believed_only_once_the_end_was_seen() -> None:
    """Else polls would look for news at a page that is not the last, for good.

    A run went and one came, so the count is the same, and the order gets its last evidence on the
    first page: this poll may miss the new run, the reconciliation must not.
    """
    before = order(created="rising", updated="rising", created_steps=7, updated_steps=7)
    state = ScanState(order=before, signature="other", count=9, count_is_true=True)
    listing = Rows([row(number) for number in range(9)], take=3)
    poll = Poll(state, open_known=False, contact_floor=None)
    listing.drive(poll.steps())
    reconciliation = Reconciliation(poll.state, now=100.0, window_from=0.0)
    listing.asked.clear()
    listing.drive(reconciliation.steps(100))
    assert reconciliation.is_done
    assert max(offset for _, offset in listing.asked) >= 8
