"""A poll finds every new run in any order of the listing, and costs one request when idle.

The scan is driven without HTTP and without a ledger: a list of rows stands for the API, a set of
settled rows for what the last complete poll knew.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import pytest

from invent_exporter.scan.order import PageFacts, RowFact
from invent_exporter.scan.poll import Poll, Reconciliation, ScanState
from invent_exporter.scan.walk import ALL, Missing, Read, Steps

TAKE = 10


@dataclass(frozen=True)
class Row:
    """A run in the model."""

    run_id: str
    created: float
    updated: float
    status: str = "COMPLETED"


def _hash(row: Row) -> float:
    return int.from_bytes(blake2b(row.run_id.encode(), digest_size=6).digest())


ORDERS: dict[str, Callable[[Row], float]] = {
    "created": lambda row: -row.created,
    "updated": lambda row: -row.updated,
    "oldest": lambda row: row.created,
    "mixed": _hash,
}


@dataclass
class World:
    """The API, and what the exporter knows of it."""

    order: str = "created"
    has_count: bool = True
    rows: list[Row] = field(default_factory=list)
    settled: dict[str, Row] = field(default_factory=dict)
    state: ScanState = field(default_factory=ScanState)
    known: dict[str, Row] = field(default_factory=dict)
    requests: list[Read] = field(default_factory=list)
    before_page: Callable[[Read], None] = lambda _read: None

    def add(self, number: int, status: str = "COMPLETED") -> str:
        """Add a run; numbers are the times of creation."""
        run_id = f"r{number}"
        self.rows.append(Row(run_id, number, number, status))
        return run_id

    def change(self, run_id: str, status: str, updated: float) -> None:
        """Let a run move on."""
        self.rows = [
            replace(row, status=status, updated=updated) if row.run_id == run_id else row
            for row in self.rows
        ]

    def remove(self, *run_ids: str) -> None:
        """Let runs leave the API."""
        self.rows = [row for row in self.rows if row.run_id not in run_ids]

    def poll(self, *, contact_floor: float | None = None) -> Poll:
        """Poll to the end; what was read is known and settled then."""
        opened = {row.run_id for row in self.known.values() if _is_open(row)}
        poll = Poll(self.state, open_known=bool(opened), contact_floor=contact_floor)
        self.drive(poll.steps())
        if poll.is_whole:
            self.state = poll.state
            self.settled = dict(self.known)
        return poll

    def drive(self, steps: Steps) -> int:
        """Answer what a scan asks for; return the number of requests."""
        self.requests = []
        seen: set[str] = set()
        try:
            request = next(steps)
            while True:
                if isinstance(request, Missing):
                    request = steps.send(
                        {
                            row.run_id: row.created
                            for row in self.known.values()
                            if _is_open(row) and row.run_id not in seen
                        }
                    )
                    continue
                self.requests.append(request)
                self.before_page(request)
                page = self._page(request)
                seen |= {row.run_id for row in page.rows if row.is_open}
                request = steps.send(page)
        except StopIteration:
            return len(self.requests)

    def _page(self, read: Read) -> PageFacts:
        listed = sorted(self.rows, key=ORDERS[self.order])
        listed = [row for row in listed if read.status in (ALL, row.status)]
        # As `api.Listing` does: with a row of the page before, or behind it.
        start = max(0, read.offset - 1) if read.forward else max(0, read.offset - TAKE + 2)
        part = listed[start : start + TAKE]
        facts = []
        for row in part:
            settled = self.settled.get(row.run_id) == row
            facts.append(
                RowFact(
                    row.run_id,
                    row.created,
                    row.updated,
                    is_open=_is_open(row),
                    owned=True,
                    settled=settled,
                    signature=(row.run_id, row.status, row.updated),
                )
            )
            self.known[row.run_id] = row
        count = len(listed) if self.has_count else None
        end = start + len(part)
        at_end = len(part) < TAKE and (count is None or end >= count)
        return PageFacts(start, end, at_end=at_end, count=count, rows=facts)


def _is_open(row: Row) -> bool:
    return row.status in ("PENDING", "RUNNING")


def world(order: str = "created", *, has_count: bool = True, runs: int = 55) -> World:
    """Make a world after first contact, with finished runs."""
    made = World(order, has_count)
    for number in range(runs):
        made.add(number)
    made.poll(contact_floor=-1.0)
    return made


every_order = pytest.mark.parametrize("order", ORDERS)
with_and_without_count = pytest.mark.parametrize("has_count", [True, False])


@every_order
@with_and_without_count
@pytest.mark.parametrize("runs", [0, 1, 9, 10, 11, 55, 60, 100])
def test_idle_poll_is_one_request_where_the_order_or_the_count_proves_it(
    order: str, *, has_count: bool, runs: int
) -> None:
    """Without either, it walks through all pages, and says so."""
    made = world(order, has_count=has_count, runs=runs)
    made.poll()  # an unlearned order may learn from a second look
    poll = made.poll()
    is_learned = made.state.order.learned
    if is_learned or has_count or runs < TAKE:
        assert len(made.requests) == 1
        assert not poll.is_walk
    elif runs > TAKE:
        assert poll.is_walk
    if runs >= 11:
        assert is_learned == (order != "mixed")


@every_order
@with_and_without_count
@pytest.mark.parametrize("burst", [1, 9, 10, 37])
def test_every_new_run_is_found_by_the_next_poll(
    order: str, *, has_count: bool, burst: int
) -> None:
    """Also a burst over several pages."""
    made = world(order, has_count=has_count)
    fresh = {made.add(1000 + number) for number in range(burst)}
    made.poll()
    assert fresh <= set(made.settled)


@every_order
@with_and_without_count
def test_broken_walk_hides_nothing(order: str, *, has_count: bool) -> None:
    """The rows of a poll that broke off are known, but do not stop the next one."""
    made = world(order, has_count=has_count)
    fresh = {made.add(1000 + number) for number in range(45)}

    def fail(_read: Read) -> None:
        if len(made.requests) == 3:
            raise ConnectionError

    made.before_page = fail
    with pytest.raises(ConnectionError):
        made.poll()
    made.before_page = lambda _read: None
    made.poll()
    assert fresh <= set(made.settled)


@pytest.mark.parametrize("order", ["created", "updated", "oldest"])
@with_and_without_count
def test_rows_that_are_deleted_while_pages_are_read_leave_no_gap(
    order: str, *, has_count: bool
) -> None:
    """Deletions pull rows to pages that were read already: the walk steps back."""
    made = world(order, has_count=has_count)
    fresh = [made.add(1000 + number) for number in range(40)]
    doomed = iter(fresh if order == "oldest" else reversed(fresh))

    def delete(_read: Read) -> None:
        if 1 < len(made.requests) < 5:
            made.remove(*(next(doomed) for _ in range(4)))

    made.before_page = delete
    made.poll()
    listed = {row.run_id for row in made.rows}
    assert set(fresh) & listed <= set(made.known)


@every_order
@with_and_without_count
def test_open_run_is_followed_until_it_is_found_final_however_deep(
    order: str, *, has_count: bool
) -> None:
    """It ends under 300 younger runs."""
    made = world(order, has_count=has_count)
    run_id = made.add(500, "RUNNING")
    made.poll()
    for number in range(300):
        made.add(1000 + number)
    made.poll()
    made.change(run_id, "FAILED", 2000)
    poll = made.poll()
    assert made.settled[run_id].status == "FAILED"
    assert poll.absent == set()


def test_buried_run_is_found_by_halving() -> None:
    """A walk through 5,000 runs would take 500 requests."""
    made = world(runs=100)
    run_id = made.add(200, "RUNNING")
    made.poll()
    for number in range(5000):
        made.add(1000 + number)
    made.poll()
    made.change(run_id, "COMPLETED", 200)
    made.poll()
    assert made.settled[run_id].status == "COMPLETED"
    assert len(made.requests) < 30


@every_order
@with_and_without_count
def test_open_run_that_left_the_api_is_absent_after_a_complete_search(
    order: str, *, has_count: bool
) -> None:
    """The ledger calls it vanished after the second one."""
    made = world(order, has_count=has_count)
    run_id = made.add(500, "RUNNING")
    made.poll()
    made.remove(run_id)
    assert made.poll().absent == {run_id}


def test_first_contact_reads_no_further_than_the_lookback_where_the_order_allows() -> None:
    """Newest first it stops behind the floor, with a look at what is behind; else at the end."""
    for order, expected in (("created", 2 + 5 + 3), ("mixed", 2 + 12)):
        made = World(order)
        for number in range(100):
            made.add(number)
        made.poll(contact_floor=70.0)
        assert len(made.requests) == expected, order


def test_order_that_changes_is_noticed() -> None:
    """A contradiction means unlearned, and the next walk learns anew."""
    made = world("created")
    made.order = "mixed"
    made.add(1000)
    made.poll()
    assert not made.state.order.learned
    fresh = {made.add(2000 + number) for number in range(3)}
    made.poll()
    assert fresh <= set(made.settled)


def test_server_that_ignores_the_page_number_ends_the_walk() -> None:
    """And such a poll is not complete."""
    made = World(has_count=False)
    for number in range(30):
        made.add(number)
    page = made._page(Read(ALL, 0))
    poll = Poll(ScanState(), open_known=False, contact_floor=None)
    steps = poll.steps()
    request = next(steps)
    for _ in range(20):
        assert isinstance(request, Read)
        try:
            shifted = PageFacts(
                request.offset, request.offset + TAKE, at_end=False, count=None, rows=page.rows
            )
            request = steps.send(shifted)
        except StopIteration:
            break
    assert not poll.is_whole


@every_order
@pytest.mark.parametrize("pages", [1, 2, 50])
def test_reconciliation_in_slices_sees_the_whole_window(order: str, pages: int) -> None:
    """A run that appears late with an old time of creation is read, whatever the slice."""
    made = world(order, runs=100)
    made.rows.append(Row(late := "late", 60.5, 60.5))
    state = made.state
    reconciliation = Reconciliation(state, now=1000.0, window_from=50.0)
    for _ in range(60):
        reconciliation = Reconciliation(state, now=1000.0, window_from=50.0)
        made.drive(reconciliation.steps(pages))
        state = reconciliation.state
        if reconciliation.is_done:
            break
    assert reconciliation.is_done
    assert late in made.known
    assert state.reconciled == 1000.0
    assert state.reconcile_offset is None
