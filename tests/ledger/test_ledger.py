"""Each run counts once, with what it brought, and only what is committed shows (contract 5, 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from invent_exporter.api.decoding import decode_page
from invent_exporter.api.models import Run, Usage
from invent_exporter.errors import StorageError
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.org import OrgLedger
from invent_exporter.ledger.recorded import InvalidRow, Recorded
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.scan.poll import ScanState
from tests.ledger.blocking import BlockingLedger
from tests.proof.runs import BOUNDS, NOW, at, pending, run, running, usage

DAY = 86400.0
SETTINGS = LedgerSettings(BOUNDS, 1000, step_credits=True, reconcile_window_seconds=DAY)


def brief(run_id: str, time: float | None) -> Run:
    """Make a run that came, started and ended at one time."""
    return run(run_id, created=time, started=time, ended=time)


def failed(run_id: str, ended: float | None, **fields: object) -> Run:
    """Make a run that failed."""
    return run(run_id, "FAILED", ended=ended, **fields)  # type: ignore[arg-type]


class Book:
    """A ledger with one org."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.org_id = "org-1"
        self.settings = SETTINGS
        self.contact_at = -DAY
        self.open()

    def open(self) -> None:
        """Open the state, as at a start."""
        self.ledger = BlockingLedger(Ledger(open_database(self.url), self.settings))
        self.__dict__.pop("org", None)

    @cached_property
    def org(self) -> OrgLedger:
        """What is committed of the org."""
        return self.other(self.org_id)

    def other(self, org_id: str = "org-2", *, contact: bool = False) -> OrgLedger:
        """Load an org, perhaps past its first contact."""
        org: OrgLedger = self.ledger.load(org_id, walk_floor=NOW - DAY)
        if contact:
            self.ledger.complete(org, ScanState(), absent=(), contact_seconds=NOW - DAY)
        return org

    def reopen(self, **changes: object) -> None:
        """Start again, perhaps with other settings."""
        self.ledger.close()
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.open()

    def record(
        self, *runs: Run, invalid: Sequence[InvalidRow] = (), now: float = 0.0, **options: object
    ) -> Recorded:
        """Record one page at `now` seconds after `NOW`."""
        recorded: Recorded = self.ledger.record(self.org, runs, invalid, now=NOW + now, **options)
        return recorded

    def contact(self, *history: Run) -> None:
        """Make the first contact."""
        self.record(*history)
        self.complete(contact=True)

    def complete(self, *absent: str, contact: bool = False) -> None:
        """Complete a poll."""
        seconds = NOW + self.contact_at if contact else None
        self.ledger.complete(self.org, ScanState(), absent=absent, contact_seconds=seconds)

    def prune(self, now: float) -> None:
        """Forget all that may be forgotten."""
        while self.ledger.prune(self.org, NOW + now):
            pass

    @property
    def wf(self) -> WorkflowCounts:
        """The numbers of the workflow `wf`."""
        return self.org.workflows["wf"]

    @property
    def counts(self) -> OrgCounts:
        """The org's own counts."""
        return self.org.counts


@pytest.fixture
def new_book(state_url: str) -> Iterator[Book]:
    """Give a ledger before its first contact."""
    book = Book(state_url)
    yield book
    book.ledger.close()


@pytest.fixture
def book(new_book: Book) -> Book:
    """Give a ledger past its first contact."""
    new_book.contact()
    return new_book


@pytest.fixture
def c_book(new_book: Book) -> Book:
    """Give a ledger of `c` before its first contact."""
    new_book.org_id = "c"
    return new_book


def only(told: str, sound: Run) -> Run:
    """Take all times from a run but one."""
    unknown = {f"{name}_at": None for name in ("created", "started", "ended", "updated")}
    del unknown[f"{told}_at"]
    return msgspec.structs.replace(sound, **unknown)


def stored(org: OrgLedger) -> tuple[object, ...]:
    """Take a picture of all that is committed of an org."""
    return tuple(msgspec.to_builtins((org.workflows, org.counts, sorted(org.folded))))


# -- counted once


def test_a_run_adds_one_to_one_series_and_its_times_and_credits_with_it(book: Book) -> None:
    """Promise 1: count, duration, queue time and credits go together."""
    book.record(run(credits_used=usage(10.0, 4.0)))
    wf = book.wf
    assert (wf.finished, wf.submitted) == ({"TRIGGER/COMPLETED": 1}, {"TRIGGER": 1})
    assert (sum(wf.duration["COMPLETED"].counts), wf.duration["COMPLETED"].total) == (1, 2.0)
    assert (sum(wf.queue.counts), wf.queue.total) == (1, 1.0)
    assert wf.credits_ai == {"TRIGGER/COMPLETED": 4.0}
    assert wf.credits_other == {"TRIGGER/COMPLETED": 6.0}
    assert (sum(wf.run_credits.counts), wf.run_credits.total) == (1, 10.0)


def test_a_run_that_is_listed_again_adds_nothing(book: Book) -> None:
    """On later pages, later polls and after a restart; and its row is no news."""
    book.record(run(credits_used=usage(10.0, 4.0)))
    before = stored(book.org)
    assert not book.record(run(credits_used=usage(10.0, 4.0))).news
    book.complete()
    book.reopen()
    assert not book.record(run(credits_used=usage(10.0, 4.0)), recovering=True).news
    assert stored(book.org) == before


@pytest.mark.parametrize(
    "page", [(run(), run()), (run(), pending()), (pending(), run())], ids=["twice", "", "ends"]
)
def test_a_run_that_stands_twice_on_a_page_counts_once(book: Book, page: tuple[Run, Run]) -> None:
    """Rows shift while pages are read, and it may end meanwhile; whatever their order."""
    book.record(*page)
    assert (book.wf.finished, book.wf.submitted) == ({"TRIGGER/COMPLETED": 1}, {"TRIGGER": 1})
    assert book.ledger.open_runs(book.org) == {}


def test_an_open_run_counts_when_it_ends_and_was_submitted_when_it_came(book: Book) -> None:
    """Its origin and workflow are those of the final row."""
    book.record(pending())
    assert (book.wf.finished, book.wf.submitted) == ({}, {"TRIGGER": 1})
    book.record(running())
    book.record(run(status="FAILED"))
    assert (book.wf.finished, book.wf.submitted) == ({"TRIGGER/FAILED": 1}, {"TRIGGER": 1})


def test_a_run_that_opens_again_stays_counted_and_is_not_followed(book: Book) -> None:
    """Its first final status is the one that counts."""
    book.record(run(status="FAILED"))
    facts = book.record(running(updated=9.0)).facts
    assert not facts[0].is_open
    assert book.ledger.open_runs(book.org) == {}
    book.record(run(status="FAILED", ended=20.0))
    assert book.wf.finished == {"TRIGGER/FAILED": 1}
    assert book.counts.revised == 0


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_write_that_fails_leaves_all_as_it_was(book: Book, fails_at: int) -> None:
    """At each statement and at the commit: in memory and on the disk, all or nothing."""
    book.record(pending(), run("old", credits_used=usage(1.0)))
    before = stored(book.org)
    left = fails_at

    def fail(*_arguments: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("disk is full")

    engine = book.ledger.engine
    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, fail)
    page = (run(), run("new", "FAILED"), run("old", credits_used=usage(5.0)))
    bad = [InvalidRow("bad", "time")]
    try:
        book.record(*page, invalid=bad)
    except StorageError:
        assert stored(book.org) == before
        book.reopen()
        assert stored(book.org) == before
        book.record(*page, invalid=bad)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2, "TRIGGER/FAILED": 1}
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 5.0}
    assert book.counts.invalid == {"time": 1}


def test_changed_buckets_are_kept_and_nothing_goes_back(book: Book) -> None:
    """The new bounds hold after the next restart too."""
    book.record(run(ended=6.0))
    other = Bounds((5.0, 20.0), (1.0,), (1.0,))
    book.reopen(bounds=other)
    assert book.wf.duration["COMPLETED"].bounds == [5.0, 20.0]
    assert book.wf.duration["COMPLETED"].counts == [0, 1, 0]
    book.reopen()
    assert book.wf.duration["COMPLETED"].counts == [0, 1, 0]


def test_a_release_is_committed(book: Book) -> None:
    """It is never undone (promise 3)."""
    book.record(run())
    book.ledger.release(book.org, {"wf": [""]})
    for number in range(2):
        book.reopen()
        assert book.wf.released == [""]
        book.record(run(f"r{number}"))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 3}


# -- unknown statuses and origins, times


def test_an_unknown_status_is_final_once_the_run_has_ended(book: Book) -> None:
    """It becomes UNKNOWN, and has no duration. A known status alone decides, even with an end."""
    book.record(run(status="PAUSED", ended=None, workflow_id=None), run("run-2", "RUNNING"))
    groups = book.ledger.open_groups(book.org)
    assert {(group.workflow_id, group.status) for group in groups} == {
        ("__none__", "UNKNOWN"),
        ("wf", "RUNNING"),
    }
    book.record(run(status="ARCHIVED", origin="MANUAL"))
    assert list(book.ledger.open_runs(book.org)) == ["run-2"]
    assert book.wf.finished == {"UNKNOWN/UNKNOWN": 1}
    assert all(sum(each.counts) == 0 for each in book.wf.duration.values())


@pytest.mark.parametrize(
    ("ended", "duration", "queue"),
    [
        pytest.param(run(ended=None, updated=5.0), (0, 0.0), (1, 1.0), id="no end"),
        pytest.param(run(created=5.0, started=4.0, ended=2.0), (1, 0.0), (1, 0.0), id="skew"),
        pytest.param(run(status="CANCELED", started=None), (0, 0.0), (0, 0.0), id="no start"),
        pytest.param(run(status="SKIPPED"), None, (0, 0.0), id="skipped"),
    ],
)
def test_a_run_without_these_times_is_counted_and_left_out_of_them(
    book: Book, ended: Run, duration: tuple[int, float] | None, queue: tuple[int, float]
) -> None:
    """A negative difference, which is clock skew, is observed as 0."""
    book.record(ended)
    assert book.wf.finished == {f"TRIGGER/{ended.status}": 1}
    histogram = book.wf.duration.get(ended.status_label)
    assert (histogram and (sum(histogram.counts), histogram.total)) == duration
    assert (sum(book.wf.queue.counts), book.wf.queue.total) == queue


def test_an_unknown_run_without_any_time_is_left_out(book: Book) -> None:
    """It could not be told from history; with a time it counts after all."""
    bare = brief("bare", None)
    for _ in range(2):
        recorded = book.record(bare, run())
        assert recorded.timeless == ["bare"]
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert book.counts.invalid == {"time": 1}
    book.record(run("bare", created=None, started=None, ended=None, updated=5.0))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


# -- usage


@pytest.mark.parametrize(
    ("sent", "counted", "first", "corrected"),
    [
        pytest.param([None, usage(None)], (0.0, 0.0), (0, 0.0), 0.0, id="missing is not 0"),
        pytest.param([None, usage(3.0, 1.0)], (1.0, 2.0), (1, 3.0), 0.0, id="late"),
        pytest.param([usage(0.0)], (0.0, 0.0), (1, 0.0), 0.0, id="0 is known"),
        pytest.param([usage(3.0, 1.0), usage(7.0, 2.0)], (2.0, 5.0), (1, 3.0), 0.0, id="up"),
        pytest.param([usage(7.0, 2.0), usage(3.0, 2.0)], (2.0, 5.0), (1, 7.0), 4.0, id="down"),
        pytest.param([usage(7.0), usage(3.0), usage(4.0)], (0.0, 8.0), (1, 7.0), 4.0, id="both"),
        pytest.param([usage(6.0, 6.0), usage(6.0, 2.0)], (6.0, 4.0), (1, 6.0), 4.0, id="shift"),
        pytest.param([usage(2.0, 3.0)], (3.0, 0.0), (1, 2.0), 0.0, id="ai above the total"),
        pytest.param([usage(4.0), None, usage(6.0)], (0.0, 6.0), (1, 4.0), 0.0, id="disappears"),
    ],
)
def test_usage_adds_what_it_grew_by(
    book: Book,
    sent: list[Usage | None],
    counted: tuple[float, float],
    first: tuple[int, float],
    corrected: float,
) -> None:
    """No counter falls: what it shrank by goes to the corrections. The histogram keeps the first.

    An answer without usage takes nothing back, and is no news.
    """
    news = [book.record(run(credits_used=each)).news for each in sent]
    assert news == [True, *(bool(each and each.total) for each in sent[1:])]
    both = (book.wf.credits_ai, book.wf.credits_other)
    assert tuple(each.get("TRIGGER/COMPLETED", 0.0) for each in both) == counted
    assert (sum(book.wf.run_credits.counts), book.wf.run_credits.total) == first
    assert book.counts.credit_corrections == corrected


def test_usage_counts_when_its_run_ends_and_follows_that_series(book: Book) -> None:
    """A later status, origin or workflow moves nothing."""
    book.record(running(credits_used=usage(5.0)))
    assert book.wf.credits_other == {}
    book.record(run(credits_used=usage(6.0)))
    book.record(failed("run-1", 3.0, origin="WEBHOOK", workflow_id="x", credits_used=usage(8.0)))
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 8.0}
    assert "x" not in book.org.workflows


def test_steps_follow_what_they_grew_by(book: Book) -> None:
    """A step's counter never falls either; it is a number, or an object with a total.

    Its name is a label: with a control character it would end a scrape.
    """
    steps: dict[str, Any] = {
        "a": 2.0,
        "b": {"total": 3.0},
        "d": None,
        "e": [],
        "f": {},
        "n\0": 2.0,
        "n\\": 3.0,
    }
    for sent in (usage(5.0, **steps), None, usage(5.0, **{**steps, "a": 3.0, "b": 1.0, "c": 1.0})):
        book.record(run(credits_used=sent))
    assert book.wf.steps == {"a": 3.0, "b": 3.0, "c": 1.0, "n\\x00": 2.0, "n\\\\": 3.0}


def test_a_step_that_shrinks_or_is_left_out_for_a_while_counts_once(book: Book) -> None:
    """There are no corrections by step; nothing is news then that had to be settled again."""
    book.record(run(credits_used=usage(10.0, a=6.0, b=4.0)))
    for sent in (usage(10.0), usage(10.0, a=1.0), usage(10.0, a=6.0, b=4.0)):
        assert not book.record(run(credits_used=sent)).news
    book.record(run(credits_used=usage(10.0, b=5.0)))
    book.record(run(credits_used=usage(10.0, a=6.0, b=5.0)))
    assert book.wf.steps == {"a": 6.0, "b": 5.0}


def test_the_part_of_ai_stays_known_while_it_is_not_told(book: Book) -> None:
    """An answer without it says nothing of it; what the total grows by is other then."""

    def record(total: float, ai_total: float | None) -> None:
        book.record(run(credits_used=Usage(total=total, ai_total=ai_total)))

    record(10.0, 4.0)
    for _ in range(2):
        record(10.0, None)
        record(10.0, 4.0)
    record(12.0, None)
    key = "TRIGGER/COMPLETED"
    assert (book.wf.credits_ai[key], book.wf.credits_other[key]) == (4.0, 8.0)
    assert book.counts.credit_corrections == 0


def test_the_steps_beyond_fifty_share_a_series(book: Book) -> None:
    """A workflow with generated step keys does not drown Prometheus."""
    steps = {f"step-{number:02d}": 1.0 for number in range(60)}
    book.record(run(credits_used=usage(60.0, **steps)))
    assert (len(book.wf.steps), book.wf.steps["__other__"]) == (51, 10.0)
    book.record(run("run-2", credits_used=usage(2.0, **{"step-00": 1.0, "step-59": 1.0})))
    assert (book.wf.steps["step-00"], book.wf.steps["__other__"]) == (2.0, 11.0)


def test_steps_are_left_alone_when_they_are_not_asked_for(book: Book) -> None:
    """`metrics.step_credits` is off by default."""
    book.reopen(step_credits=False)
    book.record(run(credits_used=usage(5.0, a=2.0)))
    assert book.wf.steps == {}


def test_a_changed_final_status_is_revised_once_and_moves_nothing_else(book: Book) -> None:
    """However often it changes."""
    book.record(run(credits_used=usage(1.0)))
    wf = msgspec.json.encode(book.wf)
    for status in ("FAILED", "CANCELED", "COMPLETED"):
        book.record(run(status=status, credits_used=usage(1.0), updated=9.0))
    assert book.counts.revised == 1
    assert msgspec.json.encode(book.wf) == wf


@pytest.mark.parametrize(
    ("usage_sent", "counted"),
    [
        ({"total": 1e308}, 0),
        ({"total": 1, "ai_total": 1e308}, 0),
        ({"total": -1e308}, 0),
        ({"total": 2, "steps": {"odd": 1e308, "odd_object": {"total": 1e308}, "good": 2}}, 2),
    ],
)
def test_credits_whose_sum_is_infinite_never_reach_the_state(
    book: Book, usage_sent: object, counted: int
) -> None:
    """Infinity is not JSON: stored as null, it would be more than a later start could read."""
    row = {"status": "FAILED", "workflow_id": "wf", "usage": usage_sent, "created_at": NOW}
    page = decode_page(json.dumps([{"id": "r0", **row}, {"id": "r1", **row}]).encode())
    assert len([run for run in page.runs if run.unreadable]) == 2 - counted
    book.record(*page.runs, run("sound", credits_used=usage(1.0)))
    book.reopen()
    assert sum(book.wf.finished.values()) == 3
    assert math.isfinite(book.wf.run_credits.total)
    assert set(book.wf.steps) <= {"good"}


# -- first contact and history


def test_history_moves_no_counter_but_is_known(new_book: Book) -> None:
    """Workflows, streaks, last results and versions are learned from it."""
    failures = [failed(f"f{n}", 10.0 + n, version=2.0) for n in range(3)]
    new_book.contact(run("c", ended=5.0), *failures)
    wf = new_book.wf
    assert (wf.finished, wf.submitted, wf.credits_other) == ({}, {}, {})
    assert (wf.consecutive_failures, wf.version) == (3, "2")
    assert wf.last_finished == {"COMPLETED": NOW + 5, "FAILED": NOW + 12}
    new_book.record(*failures)
    assert wf.finished == {}


def test_a_run_that_first_contact_saw_open_counts_when_it_ends(new_book: Book) -> None:
    """It was not submitted since. One may end while contact goes on, and a kill changes nothing."""
    new_book.record(running(), running("long", created=-9 * DAY, started=-9 * DAY))
    new_book.reopen()
    new_book.contact(run())
    new_book.record(run("long", created=-9 * DAY, started=-9 * DAY))
    assert (new_book.wf.finished, new_book.wf.submitted) == ({"TRIGGER/COMPLETED": 2}, {})


def test_an_unknown_final_run_from_before_the_floor_is_history(book: Book) -> None:
    """It is neither counted nor kept, and stops a walk as a settled row does.

    One that ended behind the floor may not have been seen open: it is known, but not counted.
    """
    recorded = book.record(brief("old", -3 * DAY))
    assert (book.org.workflows, recorded.news) == ({}, False)
    assert recorded.facts[0].settled
    book.record(failed("long", 5.0, created=-3 * DAY, started=-3 * DAY))
    assert (book.wf.finished, book.wf.consecutive_failures) == ({}, 1)


def test_runs_count_though_the_clock_of_the_api_is_far_behind(new_book: Book) -> None:
    """What is newer than all of the history is no history."""
    new_book.contact_at = -3 * DAY
    new_book.contact(brief("old", -3 * DAY))
    new_book.reopen()
    for created in (-3 * DAY, -3 * DAY + 1, -2 * DAY):
        new_book.record(brief(f"run {created}", created))
    assert new_book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_what_ended_before_first_contact_never_counts(book: Book) -> None:
    """However late it is read, and though it is in no row."""
    book.record(run("late", created=-DAY - 9, started=-DAY - 8, ended=-DAY))
    assert book.wf.finished == {}
    book.record(run("just after", created=-DAY - 9, started=-DAY - 8, ended=-DAY + 1))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}


def test_without_an_end_the_creation_tells_history(book: Book) -> None:
    """Else the start, else the last change: one of them is what can be read."""
    old, new = -DAY - 5, -DAY + 5
    for name in ("created", "started", "updated"):
        book.record(only(name, brief(f"old {name}", old)), only(name, brief(f"new {name}", new)))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 3}


def test_history_is_not_submitted_and_counts_when_it_goes_on_and_ends(book: Book) -> None:
    """A run that is opened again."""
    book.record(run("again", created=-DAY - 9, started=-DAY - 8, ended=-DAY))
    book.record(running("again", created=-DAY - 9, started=-DAY - 8))
    assert [group.runs for group in book.ledger.open_groups(book.org)] == [1]
    assert book.wf.submitted == {}
    for _ in range(2):
        book.record(run("again", "FAILED", created=-DAY - 9, started=-DAY - 8, ended=5.0))
    assert book.wf.finished == {"TRIGGER/FAILED": 1}


@pytest.mark.parametrize(("completed", "others"), [(-DAY - 5, 1), (-DAY - 3, 1), (-DAY - 1, 0)])
def test_a_failure_of_history_that_goes_on_is_in_no_streak_until_it_fails_again(
    book: Book, completed: float, others: int
) -> None:
    """And then once; it was in none where a completed run came after it."""
    book.record(failed("again", -DAY - 4, created=-DAY - 9))
    book.record(run("ok", created=completed, started=completed, ended=completed))
    book.record(failed("other", -DAY - 2, created=-DAY - 9))
    book.record(running("again", created=-DAY - 9))
    assert book.wf.consecutive_failures == others
    assert [each.run_id for each in book.counts.failed] == ["other"]
    book.record(failed("again", 5.0, created=-DAY - 9))
    assert book.wf.consecutive_failures == others + 1
    assert [each.run_id for each in book.counts.failed] == ["other", "again"]


# -- streaks and versions


@pytest.mark.parametrize(
    ("pages", "streaks"),
    [
        ("f3 FAILED 30 | f1 FAILED 10 | c2 COMPLETED 20 | f0 FAILED 5 | c9 COMPLETED 90", "12110"),
        ("b COMPLETED 9, a FAILED 9, c FAILED 9 | bb COMPLETED 9 | d COMPLETED 9", "110"),
        ("f1 FAILED 1 | x CANCELED 2, y SKIPPED 3 | f2 FAILED 4", "112"),
        # A row of the page itself is not stored yet when the page is drawn up.
        ("f2 FAILED 40, f1 FAILED 30 | c COMPLETED 35, f3 FAILED 50", "22"),
    ],
)
def test_a_streak_is_counted_in_the_order_in_which_runs_ended_then_of_their_ids(
    book: Book, pages: str, streaks: str
) -> None:
    """So that every replica and every restart says the same, however the runs are seen."""
    for page, streak in zip(pages.split(" | "), streaks, strict=True):
        fields = [row.split() for row in page.split(", ")]
        book.record(*(run(name, status, ended=float(at)) for name, status, at in fields))
        assert book.wf.consecutive_failures == int(streak)


@pytest.mark.parametrize("updated", [30.0, None], ids=["changed last", "created"])
def test_a_run_without_an_end_stands_where_it_was(book: Book, updated: float | None) -> None:
    """ended_at, else updated_at, else created_at."""
    bare = Run("f1", "FAILED", "TRIGGER", at(30.0), updated_at=at(updated), workflow_id="wf")
    book.record(bare, run("c1", ended=20.0))
    assert book.wf.consecutive_failures == 1


def test_a_streak_out_of_order_counts_only_runs_of_its_workflow(book: Book) -> None:
    """And those that belong to this org."""
    elsewhere = [failed("f2", 31.0, workflow_id="other"), failed("f3", 32.0, org_id="org-2")]
    book.record(failed("f1", 30.0), *elsewhere, others={"org-2": -math.inf})
    book.record(run("c", ended=10.0))
    assert book.wf.consecutive_failures == 1


def test_the_newest_run_names_the_version_and_the_owner(book: Book) -> None:
    """Older runs that turn up later don't."""
    book.record(run("a", created=50.0, version=3.0, workflow_org_id="owner"))
    book.record(run("b", created=10.0, version=2.0, workflow_org_id="former"))
    assert (book.wf.version, book.wf.workflow_org_id) == ("3", "owner")


# -- folding


def test_workflows_beyond_the_limit_share_one_and_stay_there(book: Book) -> None:
    """Also when the limit is raised; known ones stay when it is lowered.

    Revised usage goes where its run was counted.
    """
    book.reopen(max_workflows=2)
    book.record(*(run(f"r{name}", workflow_id=name) for name in "abcd"))
    assert set(book.org.workflows) == {"a", "b", "__other__"}
    assert book.org.folded == {"c", "d"}
    book.reopen(max_workflows=1000)
    book.record(run("c2", workflow_id="c"), run("e1", workflow_id="e"))
    book.record(run("rd", workflow_id="d", credits_used=usage(2.0)))
    assert book.org.workflows["__other__"].finished == {"TRIGGER/COMPLETED": 3}
    assert book.org.workflows["__other__"].credits_other == {"TRIGGER/COMPLETED": 2.0}
    assert "e" in book.org.workflows
    book.reopen(max_workflows=1)
    book.record(run("a2", workflow_id="a"), run("f", workflow_id="f"))
    assert book.org.workflows["a"].finished == {"TRIGGER/COMPLETED": 2}
    assert book.org.folded == {"c", "d", "f"}


def test_a_workflow_may_be_named_like_the_one_that_others_are_folded_into(book: Book) -> None:
    """Before the limit is reached and after; it is counted there with the folded ones."""
    book.reopen(max_workflows=1)
    book.record(run("a", workflow_id="a"), run("o1", workflow_id="__other__"))
    book.record(run("b", workflow_id="b"), run("o2", workflow_id="__other__"))
    book.reopen()
    book.record(run("o3", workflow_id="__other__"))
    assert book.org.workflows["__other__"].finished == {"TRIGGER/COMPLETED": 4}
    assert book.org.folded == {"b"}


# -- whose run it is


@pytest.mark.parametrize(
    ("listed", "contact", "workflows"),
    [
        (run(org_id="org-2", ended=101.0), NOW + 100, set()),
        (run(org_id="org-2", ended=99.0), NOW + 100, {"wf"}),
        (run(org_id="org-2"), -math.inf, set()),
        (run(org_id="org-2"), math.inf, {"wf"}),
        (running(org_id="org-2"), -math.inf, set()),
    ],
    ids=["ended after", "ended before", "of a ledger of 0.1.0", "without contact", "open"],
)
def test_a_run_belongs_to_the_org_that_it_names_from_that_orgs_contact_on(
    book: Book, listed: Run, contact: float, workflows: set[str]
) -> None:
    """Before that, to the one that listed it. What is not ours is kept, but not asked about again.

    It adds nothing, and is not followed.
    """
    (fact,) = book.record(listed, others={"org-2": contact}).facts
    assert (fact.owned, fact.is_open) == (bool(workflows), not listed.is_final)
    assert set(book.org.workflows) == workflows
    assert not book.record(listed, others={"org-2": contact}).news
    assert book.ledger.open_runs(book.org) == {}
    assert book.ledger.open_groups(book.org) == ()


def test_a_run_that_two_list_counts_in_the_org_that_it_names_else_in_the_first(book: Book) -> None:
    """A parent's list may hold its sub-orgs' runs, and takes none of them away."""
    other = book.other(contact=True)
    listed = [run(org_id="org-2"), run("r2", org_id="org-3"), run("r3", org_id=None)]
    for org, peer in ((book.org, "org-2"), (other, "org-1"), (book.org, "org-2")):
        book.ledger.record(org, listed, [], now=NOW, others={peer: -math.inf})
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    assert other.workflows["wf"].finished == {"TRIGGER/COMPLETED": 1}


def test_the_org_of_c_is_known_by_its_votes_and_remembered(c_book: Book) -> None:
    """A run may name its org late; once it did it has one vote. A restart finds it by its alias."""
    c_book.contact(run("a", org_id=None), run("b"), run("x", org_id="org-9"), run("n", org_id=None))
    assert c_book.org.named_by == {"b": "org-1", "x": "org-9"}
    for _ in range(3):
        c_book.record(run("a"))
    assert sorted(c_book.org.named_by.values()) == ["org-1", "org-1", "org-9"]
    assert c_book.ledger.identify(c_book.org, "org-1", walk_floor=NOW) is c_book.org
    c_book.reopen()
    assert c_book.org.org_id == "org-1"


def test_runs_that_are_gone_or_not_kept_have_said_which_org_c_is(c_book: Book) -> None:
    """An org that slept for longer than `lookback` has no others; what came later has a vote too.

    The first contact may break off, and be made again.
    """
    for _ in range(2):
        c_book.record(brief("old", -2 * DAY))
    assert c_book.org.named_by == {"old": "org-1"}
    c_book.reopen()
    assert (c_book.org.likely_org_id(), c_book.org.workflows) == ("org-1", {})
    c_book.record(run("x", org_id="org-9"), run("y", org_id="org-9"))
    assert c_book.org.likely_org_id() == "org-9"


def test_c_goes_on_with_the_ledger_that_its_id_had_before(book: Book) -> None:
    """The configuration may name an org by its id first, and as `c` later."""
    book.record(run())
    book.org_id = "c"
    book.reopen()
    book.record(run())
    book.ledger.identify(book.org, "org-1", walk_floor=NOW)
    book.reopen()
    assert (book.org.org_id, book.wf.finished) == ("org-1", {"TRIGGER/COMPLETED": 1})


def test_c_begins_anew_when_its_runs_passed_for_those_of_another_entry(c_book: Book) -> None:
    """Its own ledger holds them as another's, which nobody would ever count."""
    c_book.contact()
    c_book.record(running("r1"), others={"org-1": -math.inf})
    c_book.org = c_book.ledger.identify(c_book.org, "org-1", walk_floor=NOW - DAY, was_foreign=True)
    assert (c_book.org.contacted, c_book.org.floor_seconds) == (False, NOW - DAY)
    assert c_book.ledger.load("c", walk_floor=NOW) is c_book.org
    c_book.contact(running("r1"))
    c_book.record(run("r1"))
    c_book.reopen()
    assert (c_book.org.org_id, c_book.wf.finished) == ("org-1", {"TRIGGER/COMPLETED": 1})


def test_c_shares_the_ledger_of_an_entry_that_is_polled_too(book: Book) -> None:
    """Two of the same would take back what the other committed."""
    alias = book.other("c")
    assert book.ledger.identify(alias, "org-1", walk_floor=NOW) is book.org
    assert book.ledger.load("c", walk_floor=NOW - DAY) is book.org


def test_a_c_without_a_name_takes_no_run_from_an_org_that_has_one(book: Book) -> None:
    """It may be the same org, and what it counted is forgotten then."""
    alias = book.other("c", contact=True)
    runs = [run("r1", org_id=None), running("r2", org_id=None)]
    book.ledger.record(alias, runs, [], now=NOW)
    book.record(*runs)
    book.ledger.dissolve(alias, book.org.org_id or "", walk_floor=NOW - DAY)
    book.record(run("r2", org_id=None))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_open_runs_of_an_org_that_nobody_polls_are_followed_by_who_lists_them(book: Book) -> None:
    """And are not that org's any more when it is back."""
    other = book.other(contact=True)
    book.ledger.record(other, [running("r", org_id="org-2")], [], now=NOW)
    book.record(running("r", org_id="org-2"), others={"org-2": -math.inf})
    assert book.ledger.open_groups(book.org) == ()
    book.record(running("r", org_id="org-2"))
    assert len(book.ledger.open_groups(book.org)) == 1
    ended = run("r", org_id="org-2")
    book.record(ended)
    book.ledger.record(other, [ended], [], now=NOW, others={"org-1": -math.inf})
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert other.workflows["wf"].finished == {}


def test_a_run_that_ended_unseen_by_its_org_counts_where_it_is_listed(book: Book) -> None:
    """Its org was polled still when the other list said so, and left before it read its own."""
    other = book.other(contact=True)
    book.ledger.record(other, [running("r", org_id="org-2")], [], now=NOW)
    ended, polled = run("r", org_id="org-2"), {"org-2": -math.inf}
    book.record(ended, others=polled)
    assert book.org.workflows == {}
    for _ in range(2):
        book.record(ended)
        assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    book.ledger.record(other, [ended], [], now=NOW, others={"org-1": -math.inf})
    book.record(ended, others=polled)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert other.workflows["wf"].finished == {}


# -- unreadable, recovered, vanished and open runs


def test_an_unreadable_run_counts_once_for_each_id_and_reason(book: Book) -> None:
    """However often it is met, also after a restart; and as a run when it can be read later."""
    bad = [InvalidRow("a", "time"), InvalidRow("a", "time"), InvalidRow("b", "time")]
    book.record(invalid=bad)
    book.record(invalid=[*bad, InvalidRow("a", "usage")])
    book.reopen()
    book.record(run("a"), invalid=bad)
    assert book.counts.invalid == {"time": 2, "usage": 1}
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}


def test_a_run_that_the_poll_should_have_found_is_recovered(book: Book) -> None:
    """A known one is not, nor history, nor one that came after the poll: the next had found it."""
    book.record(run("known", created=10.0))
    book.ledger.window_from(book.org, NOW)
    history = run("history", created=-3 * DAY, started=-3 * DAY, ended=5.0)
    missed = [run("missed", created=9.0), running("open", created=9.0)]
    book.record(run("known", created=10.0), history, *missed, recovering=True)
    book.record(run("new", created=11.0), run("second page", created=10.5), recovering=True)
    assert book.counts.recovered == 2
    assert book.wf.finished == {"TRIGGER/COMPLETED": 4}


def test_an_open_run_vanished_when_two_searches_missed_it_in_a_row(book: Book) -> None:
    """Then it is neither followed nor part of the gauges; one that is seen final later counts."""
    for _ in range(2):
        book.record(pending())
        book.complete("run-1")
    assert (book.counts.vanished, len(book.ledger.open_groups(book.org))) == (0, 1)
    book.complete("run-1")
    assert (book.counts.vanished, book.ledger.open_groups(book.org)) == (1, ())
    assert book.ledger.open_runs(book.org) == {}
    book.record(run())
    assert (book.counts.vanished, book.wf.finished) == (1, {"TRIGGER/COMPLETED": 1})


def test_a_field_that_can_not_be_read_is_counted_with_its_run(book: Book) -> None:
    """Once for each run and field, when the run counts."""
    odd = msgspec.structs.replace(run(), unreadable={"usage": "[]", "version": "{}"})
    for _ in range(2):
        assert [each.id for each in book.record(odd).odd] in (["run-1"], [])
    assert book.counts.unreadable == {"usage": 1, "version": 1}


def test_a_row_is_settled_when_a_complete_poll_came_after_its_last_change(book: Book) -> None:
    """A walk that broke off settles nothing."""
    assert not book.record(run()).facts[0].settled
    assert not book.record(run()).facts[0].settled
    book.complete()
    assert book.record(run()).facts[0].settled
    assert not book.record(run(updated=50.0)).facts[0].settled
    assert not book.record(run(updated=50.0)).facts[0].settled
    book.complete()
    assert book.record(run(updated=50.0)).facts[0].settled


def test_open_runs_are_counted_by_label_with_the_oldest(book: Book) -> None:
    """PENDING since created_at; RUNNING since started_at, else created_at."""
    book.record(
        pending("p1", created=5.0),
        pending("p2", created=4.0),
        running("r1", started=9.0),
        run("r2", "RUNNING", started=None, ended=None, created=7.0),
    )
    groups = {group.status: group for group in book.ledger.open_groups(book.org)}
    assert (groups["PENDING"].runs, groups["PENDING"].oldest_timestamp_seconds) == (2, NOW + 4)
    assert (groups["RUNNING"].runs, groups["RUNNING"].oldest_timestamp_seconds) == (2, NOW + 7)


def test_a_start_that_is_told_late_is_followed_and_one_that_is_told_no_more_is_kept(
    book: Book,
) -> None:
    """Also when status and time of update are the same; nothing unreadable makes a run younger."""
    book.record(running("r1", started=None, created=7.0, updated=9.0))
    assert book.record(running("r1", started=8.0, created=7.0, updated=9.0)).news
    book.record(Run("r1", "RUNNING", "TRIGGER", workflow_id="wf"), now=40.0)
    (group,) = book.ledger.open_groups(book.org)
    assert group.oldest_timestamp_seconds == NOW + 8


# -- the kept window


def test_pruning_forgets_finished_runs_and_never_counts_them_again(book: Book) -> None:
    """The floor moves with what is deleted."""
    book.record(run("old"), pending("open"))
    book.record(brief("new", 2 * DAY), now=2 * DAY)
    book.complete()
    book.prune(2 * DAY)
    for _ in range(2):
        assert book.org.floor_seconds == NOW + DAY
        assert not book.record(run("old"), now=2 * DAY).news
        assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
        book.reopen()
    assert list(book.ledger.open_runs(book.org)) == ["open"]


def test_pruning_keeps_the_window_behind_the_newest_run(book: Book) -> None:
    """An org that sleeps for a month, or whose clock is behind, loses nothing."""
    book.record(run())
    book.complete()
    book.prune(30 * DAY)
    assert book.org.floor_seconds <= NOW - DAY
    book.record(run(), run("late", created=-100.0), now=30 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_long_run_ends_after_its_window_and_counts(book: Book) -> None:
    """Open runs are never pruned."""
    book.record(running())
    book.record(brief("new", 40 * DAY), now=40 * DAY)
    book.prune(40 * DAY)
    book.record(run(ended=40 * DAY), now=40 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_that_ends_without_any_time_counts_once_however_long_it_is_listed(
    book: Book,
) -> None:
    """Its row tells it from history; once that is gone, nothing does, and it is left out."""
    bare = Run("bare", "COMPLETED", "TRIGGER", workflow_id="wf")
    book.record(running("bare"))
    for day in range(5):
        book.record(bare, run(f"r{day}", created=day * DAY), now=day * DAY)
        book.complete()
        book.prune(day * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 6}


@pytest.mark.parametrize("told", ["at the end", "while it was open", "after it was counted"])
def test_a_run_whose_creation_is_told_late_is_kept_as_long_as_it_passes_for_new(
    book: Book, told: str
) -> None:
    """Here the API's clock is ahead of ours: by the time of its first sight the row would go."""
    bare = Run("r1", "RUNNING", "TRIGGER", workflow_id="wf")
    book.record(bare)
    if told == "while it was open":
        book.record(running("r1", created=DAY, started=DAY, updated=None))
    if told == "after it was counted":
        book.record(Run("r1", "COMPLETED", "TRIGGER", workflow_id="wf"))
    late = brief("r1", DAY)
    book.record(late)
    book.complete()
    book.record(brief("new", 1.5 * DAY), now=1.5 * DAY)
    book.prune(1.5 * DAY)
    book.record(late, now=1.5 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


@pytest.mark.parametrize("told", ["created", "started", "ended", "updated"])
def test_a_pruned_run_does_not_count_again_whichever_time_can_be_read(
    book: Book, told: str
) -> None:
    """From one day to the next the others are written unreadably."""
    book.record(run("old"), brief("newest", 2.5 * DAY))
    book.complete()
    book.prune(3 * DAY)
    assert book.org.floor_seconds > NOW
    book.record(only(told, run("old")), now=3 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_is_kept_while_one_of_its_times_is_within_the_window(book: Book) -> None:
    """It began before, and its end may be all that can be read of it later, with late usage."""
    long = msgspec.structs.replace(run("long", ended=2 * DAY), updated_at=None)
    book.record(long, brief("newest", 2.5 * DAY))
    book.complete()
    book.prune(4 * DAY)
    bare = msgspec.structs.replace(long, created_at=None, started_at=None, usage=usage(4.0))
    book.record(bare, now=4 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 4.0}
