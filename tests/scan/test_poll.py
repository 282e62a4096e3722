"""Which pages a poll reads, in each order, and what makes it stop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from invent_exporter.scan.order import Order, PageFacts, RowFact
from invent_exporter.scan.poll import Poll, ScanState
from invent_exporter.scan.reconcile import Reconciliation
from invent_exporter.scan.walk import ALL, Missing, Read, Steps, Walk


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
    met: set[str] = field(default_factory=set)
    says_count: int | None = None
    """What it tells in place of the true count."""
    refuses_from: int | None = None
    """From which row on it refuses to list."""

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
        if read.optional and self.refuses_from is not None and read.offset >= self.refuses_from:
            at = read.offset
            return PageFacts(at, at, at_end=True, count=None, rows=(), refused=True)
        page = rows[start : start + take]
        self.met.update(each.run_id for each in page)
        count = len(rows) if self.says_count is None else self.says_count
        return PageFacts(
            start,
            start + len(page),
            at_end=len(page) < take,
            count=count if self.sends_count else None,
            rows=page,
            met=len(self.met),
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
    reconciliation = reconciled(listing, polled(listing, state).state)
    assert reconciliation.is_done
    assert max(offset for _, offset in listing.asked) >= 8


# -- orders


FALLING = tuple(row(number, settled=True) for number in range(40, 0, -1))
RISING = FALLING[::-1]
MIXED = (*FALLING[::2], *FALLING[1::2])
ANY_ORDER = pytest.mark.parametrize("rows", [FALLING, RISING, MIXED])


def learn(rows: Sequence[RowFact], *, take: int = 10, sends_count: bool = True) -> ScanState:
    """Make first contact with a listing, and return what was learned."""
    listing = Rows(list(rows), take, sends_count=sends_count)
    return polled(listing, ScanState(), contact_floor=0.0).state


def polled(
    listing: Rows,
    state: ScanState,
    *,
    open_known: bool = False,
    contact_floor: float | None = None,
) -> Poll:
    """Poll a listing."""
    poll = Poll(state, open_known=open_known, contact_floor=contact_floor)
    listing.asked.clear()
    listing.drive(poll.steps())
    return poll


def reconciled(
    listing: Rows, state: ScanState, *, now: float = 100.0, window_from: float = 0.0
) -> Reconciliation:
    """Look back over a listing in one slice."""
    reconciliation = Reconciliation(state, now, window_from)
    listing.asked.clear()
    listing.drive(reconciliation.steps(100))
    return reconciliation


TIED = tuple(row(number, created=5.0, settled=True) for number in range(30))
UNTIMED = RowFact("null", None, None, is_open=False, owned=True, settled=True, signature=("null",))


@pytest.mark.parametrize(
    ("rows", "learned"),
    [
        (FALLING, "newest first"),
        (RISING, "oldest first"),
        (MIXED, None),
        (TIED, None),  # equal times fit either order, and prove neither
        (FALLING[:8], None),  # by chance, a few rows always stand in one
        (FALLING[:9], "newest first"),
        ((*FALLING[:20], UNTIMED, *FALLING[20:]), None),  # where will the next of its kind stand?
    ],
)
def test_an_order_is_learned_from_what_was_seen(
    rows: tuple[RowFact, ...], learned: str | None
) -> None:
    """Newest first, oldest first, or none."""
    order = learn(rows).order
    assert order.newest_first == (learned == "newest first")
    assert order.oldest_first == (learned == "oldest first")


def test_a_contradiction_unlearns_the_order() -> None:
    """The listing is then walked whole, until it is learned anew."""
    state = learn(FALLING, sends_count=False)
    listing = Rows([*FALLING[30:], *FALLING[:30]], take=20, sends_count=False)
    poll = polled(listing, state)
    assert not poll.state.order.learned
    assert max(offset for _, offset in listing.asked) >= 35


@pytest.mark.parametrize("is_falling", [True, False])
def test_a_contradiction_counts_from_the_page_that_shows_it(*, is_falling: bool) -> None:
    """However well the first page fits: a settled page behind it is no place to stop."""
    news = [row(number) for number in (*range(60, 48, -1), *range(100, 88, -1))]
    rows = [*news, *FALLING, row(0)]
    listing = Rows(rows if is_falling else rows[::-1], sends_count=False)
    polled(listing, learn(FALLING if is_falling else RISING, sends_count=False))
    assert "run-0" in listing.met


@pytest.mark.parametrize("take", [1, 2, 10])
def test_a_listing_that_turned_round_is_noticed_in_pages_of_any_size(take: int) -> None:
    """A page of one row says nothing by itself; it does beside the row of the page before."""
    state = learn(RISING, sends_count=False)
    assert not polled(Rows(list(FALLING), take, sends_count=False), state).state.order.oldest_first


@pytest.mark.parametrize("take", [1, 2, 10])
@pytest.mark.parametrize("rows", [FALLING, RISING])
def test_a_reconciliation_notices_a_listing_that_turned_round_in_pages_of_any_size(
    rows: tuple[RowFact, ...], take: int
) -> None:
    """Also where a poll reads no more than one settled row."""
    turned = Rows(list(rows[::-1]), take, sends_count=False)
    assert not reconciled(turned, learn(rows, sends_count=False)).state.order.learned


@pytest.mark.parametrize("rows", [FALLING, RISING])
def test_a_reconciliation_does_not_end_behind_one_old_row(rows: tuple[RowFact, ...]) -> None:
    """It tells no direction: perhaps it is the first of a listing that turned round."""
    turned = Rows(list(rows[::-1]), take=1, sends_count=False)
    state = learn(rows, sends_count=False)
    assert not reconciled(turned, state, window_from=30.5).state.order.learned


def test_rows_that_each_poll_reads_anew_are_evidence_once() -> None:
    """The API refuses to list more of them, say: by chance, a few always stand in an order."""
    listing = Rows(list(MIXED), take=4, sends_count=False, refuses_from=4)
    state = ScanState()
    for _ in range(3):
        state = polled(listing, state).state
    assert not state.order.learned


def test_pages_of_one_row_teach_no_order() -> None:
    """They do not overlap, so rows may have slipped by between them."""
    state = ScanState()
    for _ in range(3):
        state = polled(Rows(list(FALLING), take=1), state).state
    assert not state.order.learned


# -- what a poll reads


def test_newest_first_a_poll_reads_to_the_first_settled_page() -> None:
    """What is new stands before it; a page with one new row is not settled."""
    state = learn(FALLING)
    new = [row(number) for number in range(55, 40, -1)]
    listing = Rows([*new, *FALLING])
    polled(listing, state)
    ends = max(offset for _, offset in listing.asked)
    assert 15 <= ends < 35


@pytest.mark.parametrize("falling", [True, False])
@pytest.mark.parametrize("sends_count", [True, False])
def test_new_runs_that_share_their_time_with_known_ones_may_stand_behind_those(
    *, falling: bool, sends_count: bool
) -> None:
    """A burst in one second fills a page; the next of that second come behind it, or before."""
    old = [row(number, settled=True) for number in range(40)]
    burst = [row(number, created=50.0, settled=True) for number in range(100, 115)]
    late = [row(number, created=50.0) for number in range(200, 203)]
    rows, grown = [*old, *burst], [*old, *late, *burst]
    if falling:
        rows, grown = rows[::-1], grown[::-1]
    state = learn(rows, sends_count=sends_count)
    assert state.order.learned
    listing = Rows(grown, sends_count=sends_count)
    polled(listing, state)
    assert {each.run_id for each in late} <= listing.met


def test_the_newest_time_is_read_past_once_and_then_an_idle_poll_is_one_request() -> None:
    """Its moment is over by the next poll, so nothing more can come behind the first page."""
    burst = [row(number, created=50.0, settled=True) for number in range(115, 100, -1)]
    rows = [*burst, *(row(number, settled=True) for number in range(40, 0, -1))]
    listing = Rows(rows, sends_count=False)
    poll = polled(listing, ScanState(), contact_floor=0.0)
    for is_idle in (False, True, True):
        poll = polled(listing, poll.state)
        assert (len(listing.asked) == 1) == is_idle


def test_runs_that_the_count_knows_and_no_poll_met_are_looked_for() -> None:
    """The listing is ordered only in its parts: the reconciliation reads on until it met them."""
    known = [row(number, settled=True) for number in range(200, 0, -1)]
    state = msgspec.structs.replace(learn(known), met=200)
    new = [msgspec.structs.replace(row(number), is_new=True) for number in (302, 301)]
    listing = Rows([*known, *new], met={each.run_id for each in known})
    poll = polled(listing, state)
    poll.note_unmet(len(listing.met))
    assert poll.state.unmet == 2
    reconciliation = reconciled(listing, poll.state, now=300.0, window_from=150.0)
    assert reconciliation.is_done
    assert {each.run_id for each in new} <= listing.met
    assert reconciliation.state.unmet == reconciliation.state.reconcile_unmet == 0
    assert not reconciliation.state.order.learned


@pytest.mark.parametrize("rows", [11, 12])
def test_oldest_first_an_idle_poll_is_one_request_also_behind_a_full_page(rows: int) -> None:
    """With small pages the walk may end at an empty one, which is no place to begin from."""
    listing = Rows([row(number, settled=True) for number in range(rows)], take=3)
    poll = polled(listing, ScanState(), contact_floor=0.0)
    for _ in range(3):
        poll = polled(listing, poll.state)
        assert listing.pages == 1
    listing.rows.append(row(rows))
    polled(listing, poll.state)
    assert max(offset for _, offset in listing.asked) >= rows


def test_oldest_first_a_listing_that_shrank_is_found_again() -> None:
    """Old runs are removed, so the page that was the last is beyond the end."""
    state = learn(RISING, sends_count=False)
    listing = Rows([*RISING[30:], row(50)], sends_count=False)
    poll = polled(listing, state)
    assert (ALL, 0) in listing.asked
    assert poll.walked_all


def test_a_count_that_is_wrong_is_not_believed() -> None:
    """A server may say how many rows a page has, or nothing true."""
    listing = Rows(list(MIXED), says_count=7)
    state = polled(listing, ScanState(), contact_floor=0.0).state
    assert polled(listing, state).walked_all


def test_a_count_that_stopped_to_grow_is_found_out_by_a_reconciliation() -> None:
    """At a limit of the server's, say; from then on each poll walks."""
    state = learn(MIXED)
    assert state.count_is_true
    listing = Rows([*MIXED, row(50)], says_count=40)
    reconciliation = reconciled(listing, state)
    assert reconciliation.is_done
    assert polled(listing, reconciliation.state).walked_all


def test_a_count_below_the_rows_before_an_empty_end_is_not_believed() -> None:
    """An empty page ends a walk of single rows; the count must be that of the rows before it."""
    contact = polled(Rows(list(MIXED), take=1, says_count=0), ScanState(), contact_floor=0.0)
    assert contact.walked_all
    assert not contact.state.count_is_true


def test_one_page_that_is_all_proves_itself() -> None:
    """A small org costs one request in any order."""
    rows = [row(5, settled=True), row(2, settled=True), row(9, settled=True)]
    state = learn(rows, sends_count=False)
    listing = Rows(rows, sends_count=False)
    polled(listing, state)
    assert listing.pages == 1


# -- open runs


def test_open_runs_are_looked_up_in_both_lists_in_the_order_in_which_they_move() -> None:
    """PENDING before RUNNING: a run that moves on meanwhile is in one of them."""
    state = learn(FALLING)
    listing = Rows([row(41, is_open=True), *FALLING])
    polled(listing, state)
    statuses = [status for status, _ in listing.asked if status != ALL]
    assert statuses == ["PENDING", "RUNNING"]


def test_an_open_run_of_another_org_is_not_followed() -> None:
    """Its own org's poll does that."""
    foreign = RowFact("x", 41.0, 41.0, is_open=True, owned=False, settled=True, signature=("x",))
    state = learn(FALLING)
    listing = Rows([foreign, *FALLING], met={each.run_id for each in FALLING})
    polled(listing, state)
    assert {status for status, _ in listing.asked} == {ALL}


@pytest.mark.parametrize("open_run", [("run-20", 20.0), ("gone", 20.5)])
@ANY_ORDER
def test_a_buried_run_that_ended_is_searched_until_it_is_found(
    rows: tuple[RowFact, ...], open_run: tuple[str, float]
) -> None:
    """However deep it lies; it is absent only when a complete search did not find it."""
    run_id, created = open_run
    listing = Rows(list(rows), open_known={run_id: created})
    poll = polled(listing, learn(rows), open_known=True)
    assert poll.absent == {run_id} - listing.met
    assert poll.is_whole


@pytest.mark.parametrize("is_learned", [True, False])
@pytest.mark.parametrize("refuses_from", [1, 10, 30])
@ANY_ORDER
def test_no_run_is_absent_that_may_stand_where_the_api_refuses_to_list(
    rows: tuple[RowFact, ...], refuses_from: int, *, is_learned: bool
) -> None:
    """It is given up, and the org stays up."""
    listing = Rows(list(rows), open_known={"buried": 20.5}, refuses_from=refuses_from)
    state = learn(rows) if is_learned else ScanState()
    poll = polled(listing, state, open_known=True)
    assert (poll.absent, poll.given_up) == (set(), {"buried"})


@pytest.mark.parametrize("is_falling", [True, False])
def test_a_buried_run_is_found_by_halving(*, is_falling: bool) -> None:
    """A walk through 5,000 runs would take 500 requests."""
    rows = [row(number, settled=True) for number in range(5000)]
    rows = rows[::-1] if is_falling else rows
    listing = Rows(rows, open_known={"run-170": 170.0})
    poll = polled(listing, learn(rows), open_known=True)
    assert "run-170" in listing.met
    assert (poll.absent, len(listing.asked) < 30) == (set(), True)


@pytest.mark.parametrize("rows", [FALLING, RISING])
def test_a_buried_run_that_ended_before_it_was_created_is_found(rows: tuple[RowFact, ...]) -> None:
    """By its times, where clocks differ: rows older than its creation do not end the search."""
    listing = Rows(list(rows), open_known={"run-3": 99.0})
    poll = polled(listing, learn(rows), open_known=True)
    place = next(index for index, each in enumerate(rows) if each.run_id == "run-3")
    assert any(offset - 10 < place < offset + 10 for _, offset in listing.asked)
    assert poll.absent == set()


def test_a_search_that_contradicts_the_order_goes_on_to_the_end() -> None:
    """Rows older than the run end it only where they stand in the order that was learned."""
    front = [row(number, created=30_000.0 + number, settled=True) for number in range(40, 0, -1)]
    odd = row(99, created=90_000.0, settled=True)
    back = [row(number, created=float(number), settled=True) for number in range(240, 200, -1)]
    state = learn(front, sends_count=False)
    rows = [*front, odd, *back, row(300, created=15_000.0)]
    listing = Rows(rows, sends_count=False, open_known={"run-300": 15_000.0})
    poll = polled(listing, state, open_known=True)
    assert "run-300" in listing.met
    assert not poll.state.order.learned


def test_what_a_search_sees_against_the_order_is_kept() -> None:
    """Oldest first the walk stands at the end, and the search alone goes on to the front."""
    rows = [
        msgspec.structs.replace(row(number, settled=True), created=None) for number in range(40)
    ]
    state = learn(rows, sends_count=False)
    assert state.order.oldest_first
    listing = Rows([*rows[9::-1], *rows[10:]], sends_count=False, open_known={"gone": 0.0})
    assert not polled(listing, state, open_known=True).state.order.learned


def test_pages_that_share_an_unreadable_row_leave_no_gap() -> None:
    """It is known by its id; a step back would ask for what was read."""
    first = PageFacts(0, 3, at_end=False, count=None, rows=[row(9), row(8)], unreadable=["odd"])
    second = PageFacts(2, 5, at_end=True, count=None, rows=[row(6), row(5)], unreadable=["odd"])
    walk = Walk(0)
    for page in (first, second):
        reading = walk.read()
        next(reading)
        with pytest.raises(StopIteration):
            reading.send(page)
    assert (walk.last, walk.is_whole) == (second, True)


def test_a_buried_run_is_found_though_its_search_has_just_learned_the_order() -> None:
    """The walk read the oldest rows only, because the count said that nothing is new."""
    rows = [row(number, settled=True) for number in range(40)]
    state = ScanState(count=40, count_is_true=True, signature="another")
    # Equal times: looking by halving gives up, so the walk has to find it.
    rows[25:] = [row(number, created=25.0, settled=True) for number in range(25, 40)]
    listing = Rows(rows, open_known={"run-27": 25.0})
    poll = polled(listing, state, open_known=True)
    assert any(start <= 27 < start + 10 for _, start in listing.asked)
    assert poll.absent == set()


# -- first contact and reconciliation


def test_first_contact_reads_the_open_lists_before_all() -> None:
    """What ends in between was seen open, and counts."""
    listing = Rows(list(FALLING))
    polled(listing, ScanState(), open_known=True, contact_floor=0.0)
    assert [status for status, _ in listing.asked][:2] == ["PENDING", "RUNNING"]


def test_first_contact_stops_behind_its_floor_where_the_order_allows_it() -> None:
    """Else it reads to the end. What is behind is only looked into, at doubling distances."""
    numbers = range(200, 0, -1)
    falling = [row(number, settled=True) for number in numbers]
    parts = [*falling[100:], *falling[:100]]
    for rows, is_short in ((falling, True), (falling[::-1], False), (parts, False)):
        listing = Rows(rows)
        polled(listing, ScanState(), contact_floor=150.5)
        assert (listing.pages < 20) == is_short


@ANY_ORDER
def test_a_reconciliation_goes_on_where_its_slice_ended(rows: tuple[RowFact, ...]) -> None:
    """A few pages at a time, and all of them in the end."""
    state = learn(rows, take=4)
    listing = Rows(list(rows), take=4)
    for slices in range(1, 40):
        reconciliation = Reconciliation(state, now=100.0 + slices, window_from=0.0)
        listing.drive(reconciliation.steps(20))
        state = reconciliation.state
        if reconciliation.is_done:
            break
    assert (state.reconciled, state.reconcile_offset) == (101.0, None)
    assert len(listing.met) == 40


@pytest.mark.parametrize("rows", [FALLING, RISING])
def test_a_reconciliation_ends_behind_its_window(rows: tuple[RowFact, ...]) -> None:
    """From the end where the new runs stand."""
    listing = Rows(list(rows))
    reconciliation = reconciled(listing, learn(rows), window_from=30.5)
    assert reconciliation.is_done
    assert listing.pages <= 3


@pytest.mark.parametrize("rows", [FALLING, RISING])
def test_a_reconciliation_that_began_before_the_order_was_learned_reads_on(
    rows: tuple[RowFact, ...],
) -> None:
    """From the end at which it began; old rows there say nothing of those behind them."""
    began = Reconciliation(ScanState(), now=100.0, window_from=30.5)
    assert not began.state.reconcile_backward
    state = msgspec.structs.replace(began.state, order=learn(rows).order)
    listing = Rows(list(rows))
    reconciliation = reconciled(listing, state, now=130.0, window_from=60.5)
    assert reconciliation.is_done
    newest = rows.index(max(rows, key=lambda each: each.created or 0.0))
    assert max(offset for _, offset in listing.asked) + 10 > newest


# -- pages that shift


@pytest.mark.parametrize("removed", [1, 5, 12, 30])
def test_a_walk_steps_back_over_rows_that_were_removed(removed: int) -> None:
    """Each row that stays is seen, or the walk says that it has a gap."""

    class Shrinking(Rows):
        def answer(self, read: Read) -> PageFacts:
            if len(self.asked) == 3:
                del self.rows[:removed]
            return super().answer(read)

    mixed = [row(number * 37 % 101) for number in range(80)]
    listing = Shrinking(list(mixed), sends_count=False)
    poll = polled(listing, ScanState())
    left = {each.run_id for each in mixed[removed:]}
    assert left <= listing.met or not poll.is_whole
    if removed <= 12:
        assert left <= listing.met


def test_a_server_that_ignores_the_page_number_ends_the_walk() -> None:
    """It would go on for ever; and nothing is settled by it."""

    class Stuck(Rows):
        def answer(self, read: Read) -> PageFacts:
            self.asked.append((read.status, read.offset))
            rows = self.rows[:10] if read.status == ALL else []
            start = read.offset // 10 * 10
            return PageFacts(start, start + len(rows), at_end=len(rows) < 10, count=None, rows=rows)

    listing = Stuck([row(number) for number in range(40, 0, -1)])
    poll = polled(listing, ScanState())
    assert listing.pages < 20
    assert not poll.is_whole


def test_a_walk_comes_to_its_end_where_ties_are_dealt_anew_at_each_request() -> None:
    """Small pages of many such runs seldom share a row: the walk is broken, and not endless."""
    dice, walk, pages = Random(1), Walk(0), 0
    while not walk.at_end:
        step = walk.read()
        request = next(step)
        with suppress(StopIteration):
            while True:
                pages += 1
                assert pages < 1000
                assert isinstance(request, Read)
                tied = dice.sample(range(250), 250)
                start = max(0, request.offset - 1)
                rows = [row(number, created=1.0) for number in tied[start : start + 7]]
                at_end = start + 7 >= len(tied)
                request = step.send(PageFacts(start, start + len(rows), at_end, None, rows))
    assert not walk.is_whole
