"""Corners of a scan that chance seldom comes to: each of them once, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from invent_exporter.ledger.org import OrgLedger
from tests.proof.machine import HOUR, Machine
from tests.proof.process import Settings
from tests.proof.service import Run, Service

IN_PARTS = {"wf-a": range(100, 10_000, 150), "wf-b": range(10_000, 10_100, 10)}
"""Ages by workflow, in which a list that is sorted by workflow looks sorted by age."""


class Corner(Machine):
    """The machine, with a sequence that a test writes."""

    def starts(
        self,
        order: str,
        *,
        sends_count: bool = False,
        lookback_seconds: float = HOUR,
        ages: dict[str, range] | None = None,
    ) -> None:
        """Make first contact; `ages` are those of the runs that ended before, by workflow."""
        self.service = Service(order=order, sends_count=sends_count)
        self.settings = Settings(
            lookback_seconds=lookback_seconds, reconcile_window_seconds=2 * HOUR, page_size=10
        )
        past = ages or {"wf-a": range(100, 125)}
        history = [(age, workflow) for workflow, each in past.items() for age in each]
        for age, workflow in sorted(history, reverse=True):
            run = self.opened(workflow, age=float(age))
            self._finish(run, "COMPLETED", 1.0, None, 0.0, at=run.created)
        self.polls(3)

    def restarts(self, page_size: int) -> None:
        """Start anew, with pages of another size."""
        self._kill()
        self.settings = replace(self.settings, page_size=page_size)
        self.polls(3)

    def turns_round(self, order: str) -> None:
        """List the other way round from now on."""
        self.service.order, self.order_changed = order, True

    def polls(self, times: int = 1, *, after_seconds: float = 30.0) -> int:
        """Poll some times; return how many requests the last poll took."""
        began = 0
        for _ in range(times):
            self.clocks.now += after_seconds
            began = self.service.reads
            self._poll()
        return self.service.reads - began

    def opened(self, workflow: str = "wf-a", *, age: float = 0.0) -> Run:
        """Create a run."""
        return self._arrive(workflow, "WORKFLOW", 0.0, age=age)

    def ends(self, run: Run, status: str = "FAILED") -> None:
        """End a run."""
        self._finish(run, status, 1.0, None, 0.0)

    def brief(self, count: int, status: str = "COMPLETED", workflow: str = "wf-a") -> list[Run]:
        """Create runs that have ended already."""
        runs = [self.opened(workflow) for _ in range(count)]
        for run in runs:
            self.ends(run, status)
        return runs

    def bad(self, count: int) -> None:
        """Create runs that each page fails for that they are on."""
        for run in self.brief(count):
            run.stumbles = run.late = True

    def knows(self, *runs: Run) -> bool:
        """Tell whether each of these was recorded as it is."""
        seen = [self.reference.runs.get(run.run_id) for run in runs]
        return all(
            each is not None and each.is_final == run.is_final
            for each, run in zip(seen, runs, strict=True)
        )

    @property
    def org(self) -> OrgLedger:
        """What is committed."""
        org = self._alive().collector.org
        assert org is not None
        return org

    @property
    def is_up(self) -> bool:
        """Whether the last poll was complete."""
        return bool(self._alive().collector.up)


@pytest.fixture
def corner() -> Iterator[Corner]:
    """Give a machine, and clear it up."""
    corner = Corner()
    yield corner
    corner.clear_up()


# -- an API that refuses to list far back


def test_an_open_run_is_known_that_stands_where_all_is_refused(corner: Corner) -> None:
    """Nothing else is open, so only the refusal says that the lists of open runs are needed."""
    corner.starts("created_desc")
    corner.service.refuses_from = 20
    run = corner.opened()
    corner.clocks.now += 1
    corner.brief(15)
    corner.brief(15, "SKIPPED")
    corner.polls()
    assert corner.knows(run)
    corner.ends(run)
    corner.polls()
    assert corner.knows(run)


def test_a_count_that_stops_where_the_api_refuses_to_list_proves_nothing(corner: Corner) -> None:
    """From there on the first answer is the same, whatever is new: search engines do so."""
    corner.starts("created_asc", sends_count=True)
    corner.service.refuses_from = corner.service.counts_to = 40
    for status in ("COMPLETED", "FAILED", "SKIPPED", "CANCELED"):
        new = corner.brief(9, status)
        corner.polls(2)
        assert corner.knows(*new)


def test_a_look_back_ends_at_a_depth_that_is_refused_by_server_errors(corner: Corner) -> None:
    """Polls that read page 2 meanwhile say nothing of what lies deeper."""
    corner.starts("created_desc")
    corner.brief(40)
    corner.polls(2)
    corner.service.refuses_from, corner.service.refusal = 30, "server_error"
    began = corner.now
    for _ in range(8):
        corner.brief(12)
        corner.polls(after_seconds=300.0)
    assert corner.org.scan.reconciled > began


# -- a listing that turns round


def test_a_settled_row_that_tells_no_direction_ends_no_walk(corner: Corner) -> None:
    """The listing has turned round, and the first page holds its oldest run alone."""
    corner.starts("created_desc")
    corner.restarts(page_size=1)
    corner.turns_round("created_asc")
    new = corner.brief(2)
    corner.polls(2)
    assert corner.knows(*new)


def test_no_open_run_vanishes_because_the_listing_turned_round(corner: Corner) -> None:
    """The search for it sees that too, in pages of one row, and goes on to the end."""
    corner.starts("updated_asc")
    # Only the times of change stand in an order.
    for run in reversed([corner.opened(age=600.0 - number) for number in range(20)]):
        corner.clocks.now += 2
        corner.ends(run)
    corner.polls(3)
    corner.clocks.now += 8000
    run = corner.opened()
    corner.polls(3)
    corner.restarts(page_size=1)
    corner.turns_round("updated_desc")
    corner.ends(run)
    corner.polls(4)
    assert corner.org.counts.vanished == 0
    assert corner.knows(run)


# -- runs that come while a poll reads


def test_a_run_is_seen_that_comes_and_ends_before_the_open_lists_are_read(corner: Corner) -> None:
    """A page of newer ones, known from those lists by then, stands ahead of it."""
    corner.starts("created_desc")
    corner.opened()
    corner.polls(2)
    new: list[Run] = []

    def before_read(_reads: int) -> None:
        if not new and corner.service.requests[-1][0] == "ALL":
            new.extend(corner.brief(1))
            for _ in range(10):
                corner.clocks.now += 1
                corner.opened()

    corner.clocks.now += 30
    corner._poll(before_read)
    assert new
    corner.polls()
    assert corner.knows(*new)


# -- rows that can't be read


def test_a_row_that_is_unreadable_hides_no_gap(corner: Corner) -> None:
    """Rows ahead of two pages go between them, so that these share none."""
    corner.starts("created_desc", sends_count=True)
    new = []
    for _ in range(40):
        corner.clocks.now += 0.5
        new += corner.brief(1)
    new[23].unreadable = new[23].late = True
    began = corner.service.reads

    def before_read(reads: int) -> None:
        if reads - began == 2:
            for run in new[36:]:
                corner._remove(run)

    corner._poll(before_read)
    assert corner.knows(*new[:23], *new[24:36])


@pytest.mark.parametrize("order", ["created_desc", "created_asc"])
def test_nine_bad_rows_side_by_side_are_passed_over(corner: Corner, order: str) -> None:
    """A row that answers is looked for far enough behind them."""
    corner.starts(order)
    corner.bad(9)
    corner.polls(3)
    assert corner.is_up
    corner.clocks.now += 1
    new = corner.brief(1)
    corner.polls(3)
    assert corner.knows(*new)


def test_oldest_first_a_bad_row_at_the_end_costs_no_walk(corner: Corner) -> None:
    """A last page without a readable row is not one behind the end."""
    corner.starts("created_asc")
    corner.brief(50)
    corner.polls(3)
    corner.bad(1)
    corner.polls(4)
    assert corner.polls() <= 4


def test_oldest_first_an_end_proves_no_bad_row(corner: Corner) -> None:
    """A run ahead of it has gone: what is last now is a new run, in the bad one's old place."""
    corner.starts("created_asc")
    corner.bad(1)
    corner.polls(3)
    corner._remove(corner.service.listed()[3])
    new = corner.brief(1)
    corner.polls()
    assert corner.knows(*new)


# -- what the count says


def test_history_is_not_what_the_count_grew_by(corner: Corner) -> None:
    """A look back reads runs that first contact left out, and goes on to the one that is new."""
    corner.starts("workflow", sends_count=True, ages=IN_PARTS)
    corner.brief(1)
    corner.polls(3)
    [new] = corner.brief(1, workflow="wf-b")
    new.late = True
    corner.polls(2)
    assert corner.knows(new)


def test_a_bad_row_does_not_switch_the_count_off(corner: Corner) -> None:
    """Its page has no count, which says nothing of the others."""
    corner.starts("workflow", sends_count=True, lookback_seconds=2 * HOUR, ages=IN_PARTS)
    corner.bad(1)
    corner.polls(3)
    [new] = corner.brief(1, workflow="wf-b")
    new.late = True
    corner.polls(2)
    assert corner.knows(new)
