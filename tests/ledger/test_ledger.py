"""Each run counts once, with what it brought, and only what is committed shows (contract 5, 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event

from invent_exporter.api.decoding import decode_page
from invent_exporter.api.models import Run
from invent_exporter.errors import StorageError
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.org import OrgLedger
from invent_exporter.ledger.recorder import InvalidRow, LedgerSettings, Recorded
from invent_exporter.ledger.sqlite import open_database
from invent_exporter.scan.poll import ScanState
from tests.ledger.blocking import BlockingLedger
from tests.proof.runs import BOUNDS, NOW, at, pending, run, running, usage

DAY = 86400.0
SETTINGS = LedgerSettings(BOUNDS, 1000, step_credits=True, reconcile_window_seconds=DAY)


class Book:
    """A ledger on a file, with one org that is past its first contact."""

    def __init__(self, path: Path, *, org_id: str = "org-1", contact: bool = True) -> None:
        self.path = path
        self.org_id = org_id
        self.settings = SETTINGS
        self.contact_at = -DAY
        self.open()
        if contact:
            self.contact()

    def open(self) -> None:
        """Open the file, as at a start."""
        self.ledger = BlockingLedger(Ledger(open_database(f"sqlite:///{self.path}"), self.settings))
        self.org = self.ledger.load(self.org_id, walk_floor=NOW - DAY)

    def close(self) -> None:
        """Let go of the file."""
        self.ledger.close()

    def reopen(self, **changes: object) -> None:
        """Start again, perhaps with other settings."""
        self.close()
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self.open()

    def record(
        self,
        *runs: Run,
        invalid: Sequence[InvalidRow] = (),
        now: float = 0.0,
        others: dict[str, float] | None = None,
        recovering: bool = False,
    ) -> Recorded:
        """Record one page at `now` seconds after `NOW`."""
        recorded: Recorded = self.ledger.record(
            self.org,
            runs,
            invalid,
            now=NOW + now,
            others=others or {},
            recovering=recovering,
        )
        return recorded

    def contact(self, *history: Run) -> None:
        """Make the first contact."""
        self.record(*history)
        self.complete(contact=True)

    def complete(self, *absent: str, contact: bool = False) -> int:
        """Complete a poll."""
        seconds = NOW + self.contact_at if contact else None
        vanished: int = self.ledger.complete(
            self.org, ScanState(), absent=absent, contact_seconds=seconds
        )
        return vanished

    @property
    def wf(self) -> WorkflowCounts:
        """The numbers of the workflow `wf`."""
        counts: WorkflowCounts = self.org.workflows["wf"]
        return counts

    @property
    def counts(self) -> OrgCounts:
        """The org's own counts."""
        counts: OrgCounts = self.org.counts
        return counts


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """Give a ledger past its first contact."""
    book = Book(tmp_path / "state.db")
    yield book
    book.close()


@pytest.fixture
def new_book(tmp_path: Path) -> Iterator[Book]:
    """Give a ledger before its first contact."""
    book = Book(tmp_path / "state.db", contact=False)
    yield book
    book.close()


def stored(org: OrgLedger) -> tuple[object, ...]:
    """Take a picture of all that is committed of an org."""
    return (
        msgspec.to_builtins(org.workflows),
        msgspec.to_builtins(org.counts),
        sorted(org.folded),
    )


# -- counted once


def test_a_run_adds_one_to_one_series_and_its_times_and_credits_with_it(book: Book) -> None:
    """Promise 1: count, duration, queue time and credits go together."""
    book.record(run(credits_used=usage(10.0, 4.0)))
    wf = book.wf
    assert wf.finished == {"TRIGGER/COMPLETED": 1}
    assert wf.submitted == {"TRIGGER": 1}
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


def test_a_run_that_stands_twice_on_a_page_counts_once(book: Book) -> None:
    """Rows shift while pages are read."""
    book.record(run(), run())
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert book.wf.submitted == {"TRIGGER": 1}


def test_a_run_that_ends_on_the_page_that_shows_it_open_counts_once(book: Book) -> None:
    """Whatever the order of the two rows."""
    book.record(run(), pending())
    book.record(pending("run-2"), run("run-2"))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    assert book.wf.submitted == {"TRIGGER": 2}
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


# -- unknown statuses and origins, times


def test_an_unknown_status_is_final_once_the_run_has_ended(book: Book) -> None:
    """It becomes UNKNOWN, and has no duration."""
    book.record(run(status="PAUSED", ended=None))
    assert list(book.ledger.open_runs(book.org)) == ["run-1"]
    assert [group.status for group in book.ledger.open_groups(book.org)] == ["UNKNOWN"]
    book.record(run(status="ARCHIVED", origin="MANUAL"))
    assert book.wf.finished == {"UNKNOWN/UNKNOWN": 1}
    assert all(sum(each.counts) == 0 for each in book.wf.duration.values())


def test_a_known_open_status_is_open_even_with_an_end(book: Book) -> None:
    """A known status alone decides."""
    book.record(run(status="RUNNING"))
    assert list(book.ledger.open_runs(book.org)) == ["run-1"]


def test_a_final_run_without_an_end_is_counted_and_left_out_of_the_duration(book: Book) -> None:
    """Its queue time is known all the same."""
    book.record(run(ended=None, updated=5.0))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert sum(book.wf.duration["COMPLETED"].counts) == 0
    assert sum(book.wf.queue.counts) == 1


def test_clock_skew_reads_as_zero(book: Book) -> None:
    """A negative difference is observed as 0."""
    book.record(run(created=5.0, started=4.0, ended=2.0))
    assert (book.wf.duration["COMPLETED"].counts[0], book.wf.duration["COMPLETED"].total) == (1, 0)
    assert (book.wf.queue.counts[0], book.wf.queue.total) == (1, 0.0)


@pytest.mark.parametrize("status", ["SKIPPED"])
def test_a_skipped_run_has_neither_duration_nor_queue_time(book: Book, status: str) -> None:
    """Only COMPLETED, FAILED and CANCELED ones have."""
    book.record(run(status=status))
    assert book.wf.finished == {f"TRIGGER/{status}": 1}
    assert sum(book.wf.queue.counts) == 0
    assert status not in book.wf.duration


def test_a_run_without_a_workflow_has_a_name_for_it(book: Book) -> None:
    """`__none__`."""
    book.record(run(workflow_id=None))
    assert book.org.workflows["__none__"].finished == {"TRIGGER/COMPLETED": 1}


def test_an_unknown_run_without_any_time_is_left_out(book: Book) -> None:
    """It could not be told from history; with a time it counts after all."""
    bare = run("bare", created=None, started=None, ended=None)
    for _ in range(2):
        recorded = book.record(bare, run())
        assert recorded.timeless == ["bare"]
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert book.counts.invalid == {"time": 1}
    book.record(run("bare", created=None, started=None, ended=None, updated=5.0))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


# -- usage


def test_usage_that_comes_late_counts_when_it_comes(book: Book) -> None:
    """Missing usage is not 0: the histogram waits for it."""
    book.record(run())
    assert sum(book.wf.run_credits.counts) == 0
    book.record(run(credits_used=usage(None)))
    assert sum(book.wf.run_credits.counts) == 0
    assert book.record(run(credits_used=usage(3.0, 1.0))).news
    assert book.wf.credits_ai == {"TRIGGER/COMPLETED": 1.0}
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 2.0}
    assert sum(book.wf.run_credits.counts) == 1


def test_usage_of_zero_is_known(book: Book) -> None:
    """A run that cost nothing is observed as 0."""
    book.record(run(credits_used=usage(0.0)))
    assert book.wf.run_credits.counts[0] == 1
    assert (book.wf.credits_ai, book.wf.credits_other) == ({}, {})


def test_an_upward_revision_is_added_to_the_counter_alone(book: Book) -> None:
    """The histogram keeps what was known first."""
    book.record(run(credits_used=usage(3.0, 1.0)))
    book.record(run(credits_used=usage(7.0, 2.0)))
    assert book.wf.credits_ai == {"TRIGGER/COMPLETED": 2.0}
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 5.0}
    assert (sum(book.wf.run_credits.counts), book.wf.run_credits.total) == (1, 3.0)
    assert book.counts.credit_corrections == 0


def test_a_downward_revision_goes_to_the_corrections(book: Book) -> None:
    """The counter stays; going up again from there adds."""
    book.record(run(credits_used=usage(7.0, 2.0)))
    book.record(run(credits_used=usage(3.0, 2.0)))
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 5.0}
    assert book.counts.credit_corrections == 4.0
    book.record(run(credits_used=usage(4.0, 2.0)))
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 6.0}
    assert book.counts.credit_corrections == 4.0


def test_a_shift_from_ai_to_other_moves_both(book: Book) -> None:
    """One part grows, the other is corrected, so that no counter falls."""
    book.record(run(credits_used=usage(6.0, 6.0)))
    book.record(run(credits_used=usage(6.0, 2.0)))
    assert book.wf.credits_ai == {"TRIGGER/COMPLETED": 6.0}
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 4.0}
    assert book.counts.credit_corrections == 4.0


def test_ai_above_the_total_makes_no_negative_rest(book: Book) -> None:
    """`other` is max(0, total - ai)."""
    book.record(run(credits_used=usage(2.0, 3.0)))
    assert book.wf.credits_ai == {"TRIGGER/COMPLETED": 3.0}
    assert book.wf.credits_other == {}


def test_usage_of_an_open_run_counts_only_when_it_ends(book: Book) -> None:
    """Credits are those of finished runs."""
    book.record(running(credits_used=usage(5.0)))
    assert book.wf.credits_other == {}
    book.record(run(credits_used=usage(6.0)))
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 6.0}


def test_usage_follows_the_series_that_the_run_was_counted_in(book: Book) -> None:
    """A later status, origin or workflow moves nothing."""
    book.record(run())
    book.record(
        run(status="FAILED", origin="WEBHOOK", workflow_id="other", credits_used=usage(2.0))
    )
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 2.0}
    assert "other" not in book.org.workflows


def test_steps_follow_what_they_grew_by(book: Book) -> None:
    """A step's counter never falls either."""
    book.record(run(credits_used=usage(5.0, a=2.0, b=3.0)))
    book.record(run(credits_used=usage(5.0, a=3.0, b=1.0, c=1.0)))
    assert book.wf.steps == {"a": 3.0, "b": 3.0, "c": 1.0}


def test_the_name_of_a_step_is_a_label_that_no_scrape_stumbles_over(book: Book) -> None:
    """A control character would end a scrape; read again, the step is still the same one."""
    for _ in range(2):
        book.record(run(credits_used=usage(5.0, **{"a\0": 2.0, "b\\c": 3.0})))
    assert book.wf.steps == {"a\\x00": 2.0, "b\\\\c": 3.0}


def test_the_steps_beyond_fifty_share_a_series(book: Book) -> None:
    """A workflow with generated step keys does not drown Prometheus."""
    steps = {f"step-{number:02d}": 1.0 for number in range(60)}
    book.record(run(credits_used=usage(60.0, **steps)))
    assert len(book.wf.steps) == 51
    assert book.wf.steps["__other__"] == 10.0
    book.record(run("run-2", credits_used=usage(2.0, **{"step-00": 1.0, "step-59": 1.0})))
    assert book.wf.steps["step-00"] == 2.0
    assert book.wf.steps["__other__"] == 11.0


def test_steps_are_left_alone_when_they_are_not_asked_for(book: Book) -> None:
    """`metrics.step_credits` is off by default."""
    book.reopen(step_credits=False)
    book.record(run(credits_used=usage(5.0, a=2.0)))
    assert book.wf.steps == {}


# -- a status that changes after it was counted


def test_a_changed_final_status_is_revised_once_and_moves_nothing_else(book: Book) -> None:
    """However often it changes."""
    book.record(run(credits_used=usage(1.0)))
    wf = msgspec.json.encode(book.wf)
    for status in ("FAILED", "CANCELED", "COMPLETED"):
        book.record(run(status=status, credits_used=usage(1.0), updated=9.0))
    assert book.counts.revised == 1
    assert msgspec.json.encode(book.wf) == wf


# -- first contact


def test_history_moves_no_counter_but_is_known(new_book: Book) -> None:
    """Workflows, streaks, last results and versions are learned from it."""
    book = new_book
    failed = [run(f"f{n}", "FAILED", ended=10.0 + n, version=2.0) for n in range(3)]
    book.contact(run("c", ended=5.0), *failed)
    wf = book.wf
    assert (wf.finished, wf.submitted, wf.credits_other) == ({}, {}, {})
    assert wf.consecutive_failures == 3
    assert wf.last_finished == {"COMPLETED": NOW + 5, "FAILED": NOW + 12}
    assert wf.version == "2"
    book.record(*failed)
    assert wf.finished == {}


def test_a_run_that_first_contact_saw_open_counts_when_it_ends(new_book: Book) -> None:
    """It was not submitted since, though."""
    book = new_book
    book.contact(running(created=-9 * DAY, started=-9 * DAY))
    book.record(run(created=-9 * DAY, started=-9 * DAY))
    assert (book.wf.finished, book.wf.submitted) == ({"TRIGGER/COMPLETED": 1}, {})


def test_a_run_that_ended_while_first_contact_went_on_counts_when_it_was_seen_open(
    new_book: Book,
) -> None:
    """A kill in between changes nothing."""
    book = new_book
    book.record(running())
    book.reopen()
    book.record(run())
    book.complete(contact=True)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}


def test_an_unknown_final_run_from_before_the_floor_is_history(book: Book) -> None:
    """It is neither counted nor kept, and stops a walk as a settled row does."""
    old = run("old", created=-3 * DAY, started=-3 * DAY, ended=-3 * DAY)
    recorded = book.record(old)
    assert book.org.workflows == {}
    assert recorded.facts[0].settled
    assert not recorded.news


def test_runs_count_though_the_clock_of_the_api_is_far_behind(new_book: Book) -> None:
    """What is newer than all of the history is no history."""
    new_book.contact_at = -3 * DAY
    new_book.contact(run("old", created=-3 * DAY, started=-3 * DAY, ended=-3 * DAY))
    new_book.reopen()
    for created in (-3 * DAY, -3 * DAY + 1, -2 * DAY):
        new_book.record(run(f"run {created}", created=created, started=created, ended=created))
    assert new_book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_from_before_the_floor_that_ended_behind_it_is_known_but_not_counted(
    book: Book,
) -> None:
    """It was created before the kept window; it may not have been seen open."""
    book.record(run("old", "FAILED", created=-3 * DAY, started=-3 * DAY, ended=5.0))
    assert book.wf.finished == {}
    assert book.wf.consecutive_failures == 1


# -- streaks


def test_a_streak_is_counted_in_the_order_in_which_runs_ended(book: Book) -> None:
    """Whatever the order in which they are seen."""
    book.record(run("f3", "FAILED", ended=30.0))
    book.record(run("f1", "FAILED", ended=10.0))
    assert book.wf.consecutive_failures == 2
    book.record(run("c2", ended=20.0))
    assert book.wf.consecutive_failures == 1
    book.record(run("f0", "FAILED", ended=5.0))
    assert book.wf.consecutive_failures == 1
    book.record(run("c9", ended=90.0))
    assert book.wf.consecutive_failures == 0


def test_runs_that_ended_at_the_same_time_stand_in_the_order_of_their_ids(book: Book) -> None:
    """So that every replica and every restart says the same."""
    book.record(
        run("b", ended=10.0), run("a", "FAILED", ended=10.0), run("c", "FAILED", ended=10.0)
    )
    assert book.wf.consecutive_failures == 1
    book.record(run("bb", ended=10.0))
    assert book.wf.consecutive_failures == 1
    book.record(run("d", ended=10.0))
    assert book.wf.consecutive_failures == 0


def test_other_statuses_neither_break_nor_lengthen_a_streak(book: Book) -> None:
    """Only COMPLETED ends one."""
    book.record(run("f1", "FAILED", ended=1.0))
    book.record(run("x", "CANCELED", ended=2.0), run("y", "SKIPPED", ended=3.0))
    book.record(run("f2", "FAILED", ended=4.0))
    assert book.wf.consecutive_failures == 2


def test_a_run_without_an_end_stands_where_it_was_changed_last(book: Book) -> None:
    """ended_at, else updated_at."""
    book.record(run("f1", "FAILED", ended=None, updated=30.0), run("c1", ended=20.0))
    assert book.wf.consecutive_failures == 1
    assert book.wf.last_finished == {"FAILED": NOW + 30, "COMPLETED": NOW + 20}


def test_a_failure_that_was_only_created_later_is_in_the_streak(book: Book) -> None:
    """The rows of a page are taken in the order that decides what a streak is."""
    bare = Run("f1", "FAILED", "TRIGGER", at(30.0), workflow_id="wf")
    book.record(bare, run("c1", ended=20.0))
    assert book.wf.consecutive_failures == 1


def test_a_streak_out_of_order_counts_only_runs_of_its_workflow(book: Book) -> None:
    """And those that belong to this org."""
    book.record(
        run("f1", "FAILED", ended=30.0),
        run("f2", "FAILED", ended=31.0, workflow_id="other"),
        run("f3", "FAILED", ended=32.0, org_id="org-2"),
        others={"org-2": -math.inf},
    )
    book.record(run("c", ended=10.0))
    assert book.wf.consecutive_failures == 1


def test_a_streak_is_right_when_the_failures_stand_on_the_same_page(book: Book) -> None:
    """A row of the page itself is not stored yet when the page is drawn up."""
    book.record(running("f1"), running("f2"))
    book.record(run("f2", "FAILED", ended=40.0), run("f1", "FAILED", ended=30.0))
    book.record(run("c", ended=35.0), run("f3", "FAILED", ended=50.0))
    assert book.wf.consecutive_failures == 2


# -- folding


def test_workflows_beyond_the_limit_share_one_and_stay_there(book: Book) -> None:
    """Also when the limit is raised; known ones stay when it is lowered."""
    book.reopen(max_workflows=2)
    book.record(*(run(f"r{name}", workflow_id=name) for name in "abcd"))
    assert set(book.org.workflows) == {"a", "b", "__other__"}
    assert book.org.folded == {"c", "d"}
    assert book.org.workflows["__other__"].finished == {"TRIGGER/COMPLETED": 2}
    book.reopen(max_workflows=1000)
    book.record(run("c2", workflow_id="c"), run("e1", workflow_id="e"))
    assert book.org.workflows["__other__"].finished == {"TRIGGER/COMPLETED": 3}
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


def test_revised_usage_of_a_folded_workflow_goes_where_its_run_was_counted(book: Book) -> None:
    """That is, to `__other__`."""
    book.reopen(max_workflows=1)
    book.record(run("a", workflow_id="a"), run("b", workflow_id="b"))
    book.record(run("b", workflow_id="b", credits_used=usage(2.0)))
    assert book.org.workflows["__other__"].credits_other == {"TRIGGER/COMPLETED": 2.0}


# -- whose run it is


def test_a_run_belongs_to_the_org_that_it_names(book: Book) -> None:
    """It is kept, so that it is not asked about again, and adds nothing here."""
    recorded = book.record(run(org_id="org-2"), others={"org-2": -math.inf})
    assert book.org.workflows == {}
    assert not recorded.facts[0].owned
    assert not book.record(run(org_id="org-2"), others={"org-2": -math.inf}).news


def test_a_run_that_names_no_polled_org_belongs_to_the_first_that_committed_it(
    book: Book,
) -> None:
    """A parent's list may hold its sub-orgs' runs."""
    other = book.ledger.load("org-2", walk_floor=NOW - DAY)
    book.ledger.complete(other, ScanState(), absent=(), contact_seconds=NOW - DAY)
    book.record(run(org_id="org-3"), run("r2", org_id=None))
    for org in (other, book.org):
        book.ledger.record(org, [run(org_id="org-3"), run("r2", org_id=None)], [], now=NOW)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    assert other.workflows == {}


def test_open_runs_of_other_orgs_are_not_followed(book: Book) -> None:
    """They are no part of the gauges either."""
    recorded = book.record(running(org_id="org-2"), others={"org-2": -math.inf})
    assert recorded.facts[0].is_open
    assert not recorded.facts[0].owned
    assert book.ledger.open_runs(book.org) == {}
    assert book.ledger.open_groups(book.org) == ()


def test_the_org_of_c_is_known_by_its_votes_and_remembered(tmp_path: Path) -> None:
    """After a restart it is found by its alias."""
    book = Book(tmp_path / "c.db", org_id="c", contact=False)
    book.contact(run("a"), run("b"), run("x", org_id="org-9"), run("n", org_id=None))
    assert sorted(book.org.named_by.values()) == ["org-1", "org-1", "org-9"]
    assert book.ledger.identify(book.org, "org-1", walk_floor=NOW) is book.org
    book.reopen()
    assert book.org.org_id == "org-1"
    book.close()


def test_a_run_that_names_its_org_late_says_which_org_c_is(tmp_path: Path) -> None:
    """Its first answer may have been without; once it did, it has one vote like every other."""
    book = Book(tmp_path / "c.db", org_id="c")
    book.record(running("a", org_id=None), run("b", org_id=None))
    assert book.org.named_by == {}
    for _ in range(3):
        book.record(running("a"), run("b", org_id=None))
    assert book.org.named_by == {"a": "org-1"}
    book.close()


def test_a_run_that_is_gone_after_a_kill_has_said_which_org_c_is(tmp_path: Path) -> None:
    """What it was counted in must not wait for another; it has one vote, whatever comes."""
    book = Book(tmp_path / "c.db", org_id="c", contact=False)
    book.record(run("a"))
    book.reopen()
    assert book.org.likely_org_id == "org-1"
    book.record(run("x", org_id="org-9"), run("y", org_id="org-9"))
    assert book.org.likely_org_id == "org-9"
    book.close()


def test_runs_from_before_the_floor_say_which_org_c_is(tmp_path: Path) -> None:
    """An org that slept for longer than `lookback` has no others."""
    book = Book(tmp_path / "c.db", org_id="c", contact=False)
    for _ in range(2):  # the first contact may break off, and be made again
        book.record(run("old", created=-2 * DAY, started=-2 * DAY, ended=-2 * DAY))
    assert book.org.named_by == {"old": "org-1"}
    book.complete(contact=True)
    assert book.org.workflows == {}
    book.close()


def test_c_goes_on_with_the_ledger_that_its_id_had_before(tmp_path: Path) -> None:
    """The configuration may name an org by its id first, and as `c` later."""
    book = Book(tmp_path / "c.db")
    book.record(run())
    book.org_id = "c"
    book.reopen()
    assert book.org.workflows == {}
    book.record(run())
    named = book.ledger.identify(book.org, "org-1", walk_floor=NOW)
    assert named.workflows["wf"].finished == {"TRIGGER/COMPLETED": 1}
    book.reopen()
    assert book.org.org_id == "org-1"
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    book.close()


def test_c_begins_anew_when_its_runs_passed_for_those_of_another_entry(tmp_path: Path) -> None:
    """Its own ledger holds them as another's, which nobody would ever count."""
    book = Book(tmp_path / "c.db", org_id="c")
    book.record(running("r1"), others={"org-1": -math.inf})
    named = book.ledger.identify(book.org, "org-1", walk_floor=NOW - DAY, was_foreign=True)
    assert not named.contacted
    assert named.floor_seconds == NOW - DAY
    assert book.ledger.load("c", walk_floor=NOW) is named
    book.org = named
    book.contact(running("r1"))
    book.record(run("r1"))
    book.reopen()
    assert book.org.org_id == "org-1"
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    book.close()


def test_c_shares_the_ledger_of_an_entry_that_is_polled_too(book: Book) -> None:
    """Two of the same would take back what the other committed."""
    alias = book.ledger.load("c", walk_floor=NOW - DAY)
    assert book.ledger.identify(alias, "org-1", walk_floor=NOW) is book.org
    assert book.ledger.load("c", walk_floor=NOW - DAY) is book.org


def test_a_c_without_a_name_takes_no_run_from_an_org_that_has_one(book: Book) -> None:
    """It may be the same org, and what it counted is forgotten then."""
    alias = book.ledger.load("c", walk_floor=NOW - DAY)
    book.ledger.complete(alias, ScanState(), absent=(), contact_seconds=NOW - DAY)
    runs = [run("r1", org_id=None), running("r2", org_id=None)]
    book.ledger.record(alias, runs, [], now=NOW)
    book.record(*runs)
    book.ledger.dissolve(alias)
    book.record(run("r2", org_id=None))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


# -- unreadable, recovered and vanished runs


def test_an_unreadable_run_counts_once_for_each_id_and_reason(book: Book) -> None:
    """However often it is met, also after a restart."""
    bad = [InvalidRow("a", "time"), InvalidRow("a", "time"), InvalidRow("b", "time")]
    book.record(invalid=bad)
    book.record(invalid=[*bad, InvalidRow("a", "usage")])
    book.reopen()
    book.record(invalid=bad)
    assert book.counts.invalid == {"time": 2, "usage": 1}


def test_an_unreadable_run_that_can_be_read_later_counts_then(book: Book) -> None:
    """It is tried again at later polls."""
    book.record(invalid=[InvalidRow("run-1", "time")])
    book.record(run())
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}


def test_only_runs_that_were_not_known_are_recovered(book: Book) -> None:
    """What a reconciliation meets again is no recovery."""
    book.record(run("known"))
    book.ledger.window_from(book.org, NOW)
    book.record(run("known"), run("found"), running("open"), recovering=True)
    assert book.counts.recovered == 2


def test_a_run_that_came_after_the_poll_is_no_recovery(book: Book) -> None:
    """A busy org has one at nearly every reconciliation; the next poll would have found it."""
    book.record(run("known", created=10.0))
    book.ledger.window_from(book.org, NOW)
    book.record(run("missed", created=9.0), run("new", created=11.0), recovering=True)
    book.record(run("second page", created=10.5), recovering=True)
    assert book.counts.recovered == 1
    assert book.wf.finished == {"TRIGGER/COMPLETED": 4}


def test_history_is_no_recovery(book: Book) -> None:
    """It moves no counter, this one included."""
    old = run("old", created=-2 * DAY, started=-2 * DAY, ended=5.0)
    book.record(old, recovering=True)
    assert book.counts.recovered == 0


def test_an_open_run_vanished_when_two_searches_missed_it(book: Book) -> None:
    """Then it is neither followed nor part of the gauges."""
    book.record(pending())
    book.complete("run-1")
    assert (book.counts.vanished, len(book.ledger.open_groups(book.org))) == (0, 1)
    book.complete("run-1")
    assert (book.counts.vanished, book.ledger.open_groups(book.org)) == (1, ())
    assert book.ledger.open_runs(book.org) == {}


def test_a_run_that_is_seen_between_two_searches_has_not_vanished(book: Book) -> None:
    """Both searches must come one after the other."""
    book.record(pending())
    book.complete("run-1")
    book.record(pending())
    book.complete("run-1")
    assert book.counts.vanished == 0


def test_a_vanished_run_that_is_seen_final_later_counts(book: Book) -> None:
    """It was seen open, so it counts when it ends."""
    book.record(pending())
    for _ in range(2):
        book.complete("run-1")
    book.record(run())
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    assert book.counts.vanished == 1


# -- settling


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


# -- open runs


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


def test_a_start_that_is_told_late_is_followed(book: Book) -> None:
    """Also when the run's status and its time of update are the same as before."""
    book.record(run("r1", "RUNNING", started=None, ended=None, created=7.0, updated=9.0))
    assert book.record(run("r1", "RUNNING", started=8.0, ended=None, created=7.0, updated=9.0)).news
    (group,) = book.ledger.open_groups(book.org)
    assert group.oldest_timestamp_seconds == NOW + 8


def test_an_open_run_that_loses_its_times_is_open_since_it_was(book: Book) -> None:
    """Nothing that can't be read makes it younger."""
    book.record(running("r1"))
    (before,) = book.ledger.open_groups(book.org)
    book.record(Run("r1", "RUNNING", "TRIGGER", workflow_id="wf"), now=40.0)
    assert book.ledger.open_groups(book.org) == (before,)


# -- the kept window


def test_pruning_forgets_finished_runs_and_never_counts_them_again(book: Book) -> None:
    """The floor moves with what is deleted."""
    book.record(run("old"), pending("open"))
    book.record(run("new", created=2 * DAY, started=2 * DAY, ended=2 * DAY), now=2 * DAY)
    book.complete()
    book.ledger.prune(book.org, NOW + 2 * DAY)
    assert book.org.floor_seconds == NOW + DAY
    book.record(run("old"), now=2 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    book.reopen()
    assert book.org.floor_seconds == NOW + DAY
    book.record(run("old"), now=2 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    assert list(book.ledger.open_runs(book.org)) == ["open"]


def test_pruning_keeps_the_window_behind_the_newest_run(book: Book) -> None:
    """An org that sleeps for a month, or whose clock is behind, loses nothing."""
    book.record(run())
    book.complete()
    book.ledger.prune(book.org, NOW + 30 * DAY)
    assert book.org.floor_seconds <= NOW - DAY
    book.record(run(), run("late", created=-100.0), now=30 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_long_run_ends_after_its_window_and_counts(book: Book) -> None:
    """Open runs are never pruned."""
    book.record(running())
    book.record(run("new", created=40 * DAY, started=40 * DAY, ended=40 * DAY), now=40 * DAY)
    book.ledger.prune(book.org, NOW + 40 * DAY)
    book.record(run(ended=40 * DAY), now=40 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_that_ended_lately_is_kept_however_long_ago_it_was_created(book: Book) -> None:
    """Else its late usage would be lost."""
    book.record(running())
    book.record(
        run(ended=40 * DAY),
        run("new", created=40 * DAY, started=40 * DAY, ended=40 * DAY),
        now=40 * DAY,
    )
    book.ledger.prune(book.org, NOW + 40 * DAY)
    book.record(run(ended=40 * DAY, credits_used=usage(4.0)), now=40 * DAY)
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 4.0}


def test_a_run_that_ends_without_any_time_counts_once_however_long_it_is_listed(
    book: Book,
) -> None:
    """Its row tells it from history; once that is gone, nothing does, and it is left out."""
    bare = Run("bare", "COMPLETED", "TRIGGER", workflow_id="wf")
    book.record(running("bare"))
    for day in range(5):
        book.record(bare, run(f"r{day}", created=day * DAY), now=day * DAY)
        book.complete()
        book.ledger.prune(book.org, NOW + day * DAY)
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
    late = run("r1", created=DAY, started=DAY, ended=DAY)
    book.record(late)
    book.complete()
    book.record(run("new", created=1.5 * DAY, started=1.5 * DAY, ended=1.5 * DAY), now=1.5 * DAY)
    while book.ledger.prune(book.org, NOW + 1.5 * DAY):
        pass
    book.record(late, now=1.5 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


# -- configuration that changes


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
    book.reopen()
    assert book.wf.released == [""]
    book.record(run("r2"))
    book.reopen()
    assert book.wf.released == [""]
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_the_newest_run_names_the_version_and_the_owner(book: Book) -> None:
    """Older runs that turn up later don't."""
    book.record(run("a", created=50.0, version=3.0, workflow_org_id="owner"))
    book.record(run("b", created=10.0, version=2.0, workflow_org_id="former"))
    assert (book.wf.version, book.wf.workflow_org_id) == ("3", "owner")


# -- what a hostile API sends must not make the state unreadable


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
    rows = [
        {"id": f"r{i}", "status": "FAILED", "workflow_id": "wf", "usage": usage_sent}
        | {"created_at": NOW}
        for i in range(2)
    ]
    page = decode_page(json.dumps(rows).encode())
    assert len([run for run in page.runs if run.unreadable]) == 2 - counted
    book.record(*page.runs, run("sound", credits_used=usage(1.0)))
    book.reopen()
    assert sum(book.wf.finished.values()) == 3
    assert math.isfinite(book.wf.run_credits.total)
    assert set(book.wf.steps) <= {"good"}


# -- what is not there


def test_a_run_that_never_started_has_neither_duration_nor_queue_time(book: Book) -> None:
    """It was canceled while it waited."""
    book.record(run(status="CANCELED", started=None))
    assert book.wf.finished == {"TRIGGER/CANCELED": 1}
    assert sum(book.wf.duration["CANCELED"].counts) == 0
    assert sum(book.wf.queue.counts) == 0


def test_usage_that_disappears_takes_nothing_back(book: Book) -> None:
    """And what comes after it is compared with what was known before."""
    book.record(run(credits_used=usage(4.0, a=4.0)))
    assert not book.record(run()).news
    assert not book.record(run(credits_used=usage(None))).news
    book.record(run(credits_used=usage(6.0, a=6.0)))
    assert book.wf.credits_other == {"TRIGGER/COMPLETED": 6.0}
    assert book.wf.steps == {"a": 6.0}
    assert book.counts.credit_corrections == 0


def test_a_step_is_a_number_or_an_object_with_a_total(book: Book) -> None:
    """The documentation says neither; anything else is left out."""
    book.record(run(credits_used=usage(3.0, a=1.0, b={"total": 2.0}, c=None, d=[], e={})))
    assert book.wf.steps == {"a": 1.0, "b": 2.0}


def test_a_run_counts_in_the_org_that_it_names_though_another_met_it_first(book: Book) -> None:
    """A parent that lists its sub-org's runs takes none of them away."""
    other = book.ledger.load("org-2", walk_floor=NOW - DAY)
    book.ledger.complete(other, ScanState(), absent=(), contact_seconds=NOW - DAY)
    named = run(org_id="org-2")
    book.record(named, others={"org-2": -math.inf})
    book.ledger.record(other, [named], [], now=NOW, others={"org-1": -math.inf})
    assert book.org.workflows == {}
    assert other.workflows["wf"].finished == {"TRIGGER/COMPLETED": 1}


# -- history never counts


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
        unknown = dict.fromkeys(
            {"created_at", "started_at", "ended_at", "updated_at"} - {f"{name}_at"}
        )
        for kind, time in (("old", old), ("new", new)):
            sound = run(f"{kind} {name}", created=time, started=time, ended=time)
            book.record(msgspec.structs.replace(sound, **unknown))
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


def test_a_counted_run_that_is_opened_again_does_not_count_again(book: Book) -> None:
    """Once is once."""
    book.record(run())
    book.record(running("run-1"))
    book.record(run("run-1", "FAILED", ended=50.0))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}


@pytest.mark.parametrize("told", ["created", "started", "ended", "updated"])
def test_a_pruned_run_does_not_count_again_whichever_time_can_be_read(
    book: Book, told: str
) -> None:
    """From one day to the next the others are written unreadably."""
    book.record(run("old"), run("newest", created=2.5 * DAY, started=2.5 * DAY, ended=2.5 * DAY))
    book.complete()
    while book.ledger.prune(book.org, NOW + 3 * DAY):
        pass
    assert book.org.floor_seconds > NOW
    sound = run("old")
    times = {
        name: getattr(sound, f"{name}_at") for name in ("created", "started", "ended", "updated")
    }
    only = {f"{name}_at": time if name == told else None for name, time in times.items()}
    book.record(msgspec.structs.replace(sound, **only), now=3 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_is_kept_while_one_of_its_times_is_within_the_window(book: Book) -> None:
    """It began before, and its end may be all that can be read of it later."""
    long = msgspec.structs.replace(run("long", ended=2 * DAY), updated_at=None)
    book.record(long, run("newest", created=2.5 * DAY, started=2.5 * DAY, ended=2.5 * DAY))
    book.complete()
    for _ in range(3):
        book.ledger.prune(book.org, NOW + 4 * DAY)
    bare = msgspec.structs.replace(long, created_at=None, started_at=None)
    book.record(bare, now=4 * DAY)
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_a_run_goes_to_the_org_that_it_names_if_it_ended_after_that_orgs_contact(
    book: Book,
) -> None:
    """Before that, to the one that listed it; an org without contact has nothing of its own yet."""
    contact = NOW + 100
    book.record(run("before", org_id="org-2", ended=99.0), others={"org-2": contact})
    book.record(run("after", org_id="org-2", ended=101.0), others={"org-2": contact})
    book.record(run("unmet", org_id="org-3", ended=101.0), others={"org-3": math.inf})
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}


def test_open_runs_of_an_org_that_nobody_polls_are_followed_by_who_lists_them(book: Book) -> None:
    """And are not that org's any more when it is back."""
    other = book.ledger.load("org-2", walk_floor=NOW - DAY)
    book.ledger.complete(other, ScanState(), absent=(), contact_seconds=NOW - DAY)
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


def test_a_field_that_can_not_be_read_is_counted_with_its_run(book: Book) -> None:
    """Once for each run and field, when the run counts."""
    odd = msgspec.structs.replace(run(), unreadable={"usage": "[]", "version": "{}"})
    for _ in range(2):
        assert [each.id for each in book.record(odd).odd] in (["run-1"], [])
    assert book.counts.unreadable == {"usage": 1, "version": 1}
