"""The ledger counts each run once, whatever order and however often it is listed."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from invent_exporter.api.models import Run, Usage
from invent_exporter.errors import StateError, StorageError
from invent_exporter.ledger.counts import Bounds, WorkflowCounts
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.org import OrgLedger
from invent_exporter.ledger.recorder import InvalidRow, LedgerSettings, Recorded
from invent_exporter.ledger.sqlite import open_database
from tests.ledger.blocking import BlockingLedger

NOW = 1_800_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR
SETTINGS = LedgerSettings(
    Bounds((1.0, 10.0), (1.0,), (1.0, 5.0)),
    max_workflows=1000,
    step_credits=True,
    reconcile_window_seconds=DAY,
)


class Book:
    """A ledger on a file, with one org that had its first contact."""

    def __init__(self, path: Path, settings: LedgerSettings = SETTINGS) -> None:
        self.path = path
        self.now = NOW
        self.open(settings)
        if not self.org.contacted:
            self.settle(contact=True)

    def open(self, settings: LedgerSettings = SETTINGS) -> None:
        """Open the file, as a new process does."""
        self.ledger = BlockingLedger(Ledger(open_database(f"sqlite:///{self.path}"), settings))
        self.org: OrgLedger = self.ledger.load("org", walk_floor=NOW - DAY)

    def close(self) -> None:
        """End the process."""
        self.ledger.close()

    def reopen(self, settings: LedgerSettings = SETTINGS) -> None:
        """Restart: what is not committed is gone."""
        self.close()
        self.open(settings)

    def see(self, *runs: Run) -> Recorded:
        """Record a page."""
        recorded: Recorded = self.ledger.record(self.org, runs, [], now=self.now)
        return recorded

    def settle(self, *absent: str, contact: bool = False) -> None:
        """End a complete poll."""
        seconds = NOW - DAY if contact else None
        self.ledger.complete(self.org, self.org.scan, absent=absent, contact_seconds=seconds)

    def of(self, workflow: str = "wf") -> WorkflowCounts:
        """Return the numbers of a workflow."""
        return self.org.workflows[workflow]

    def finished(self, workflow: str = "wf") -> dict[str, int]:
        """Return its counts by origin and status."""
        counts = self.org.workflows.get(workflow)
        return {} if counts is None else counts.finished


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """Make a ledger that a test may fill."""
    made = Book(tmp_path / "state.db")
    yield made
    made.close()


def at(seconds: float) -> datetime:
    """Turn seconds into a time."""
    return datetime.fromtimestamp(seconds, UTC)


def run(
    run_id: str = "r1", status: str = "COMPLETED", *, created: float = NOW, **more: object
) -> Run:
    """Make a run that started at once and took 5 s, unless told otherwise."""
    is_final = status not in ("PENDING", "RUNNING")
    fields: dict[str, object] = {
        "id": run_id,
        "status": status,
        "origin": "WEBHOOK",
        "workflow_id": "wf",
        "created_at": at(created),
        "started_at": None if status == "PENDING" else at(created),
        "ended_at": at(created + 5) if is_final else None,
        "updated_at": at(created + 5),
    }
    return Run(**(fields | more))  # type: ignore[arg-type]


def used(total: float | None, ai: float | None = 0.0, steps: bytes = b"null") -> Usage:
    """Make the usage of a run."""
    return Usage(total, ai, msgspec.Raw(steps))


def test_final_run_counts_once_however_often_it_is_listed(book: Book) -> None:
    """Twice on a page, on the next page, after a poll and after a restart."""
    book.see(run(), run())
    book.see(run())
    book.settle()
    book.see(run())
    book.reopen()
    book.see(run())
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}
    assert book.of().submitted == {"WEBHOOK": 1}
    assert sum(book.of().duration["COMPLETED"].counts) == 1


def test_open_run_counts_with_its_first_final_status(book: Book) -> None:
    """PENDING, RUNNING, FAILED: submitted when first seen, finished at the end."""
    book.see(run(status="PENDING"))
    assert book.of().submitted == {"WEBHOOK": 1}
    book.see(run(status="RUNNING"))
    assert book.finished() == {}
    book.see(run(status="FAILED"))
    book.see(run(status="RUNNING"))  # an answer from an old replica
    assert book.finished() == {"WEBHOOK/FAILED": 1}
    assert book.of().submitted == {"WEBHOOK": 1}


def test_history_moves_no_counter_but_open_runs_of_first_contact_count(tmp_path: Path) -> None:
    """First contact learns workflows, streaks and results; an open run counts when it ends."""
    book = Book.__new__(Book)
    book.path, book.now = tmp_path / "state.db", NOW
    book.open()
    book.see(run("old", "FAILED", created=NOW - HOUR), run("open", "RUNNING"))
    assert book.of().consecutive_failures == 1
    assert book.of().last_finished == {"FAILED": NOW - HOUR + 5}
    assert (book.finished(), book.of().submitted) == ({}, {})
    book.settle(contact=True)
    book.see(run("old", "FAILED", created=NOW - HOUR), run("open", "COMPLETED"))
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}
    assert book.of().submitted == {}
    book.close()


def test_unknown_run_from_before_the_kept_window_is_history(book: Book) -> None:
    """One from within the window counts: only a walk that missed it can be the reason."""
    book.see(run("ancient", created=NOW - 2 * DAY), run("missed", created=NOW - DAY / 2))
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}


def test_run_that_was_pruned_does_not_count_again(book: Book) -> None:
    """Pruning moves the window in the same transaction in which it forgets."""
    book.see(run("first"), run("open", "RUNNING"))
    book.settle()
    book.now = NOW + 3 * DAY
    book.see(run("later", created=book.now))
    assert not book.ledger.prune(book.org, book.now)
    book.see(run("first"))
    assert book.finished() == {"WEBHOOK/COMPLETED": 2}
    book.reopen()
    book.see(run("first"), run("open"))
    assert book.finished() == {"WEBHOOK/COMPLETED": 3}, "an open run is never pruned"


def test_late_usage_counts_when_it_appears_and_revisions_are_followed(book: Book) -> None:
    """Up: added. Down: a correction. The histogram takes the first value alone."""
    book.see(run())
    assert (book.of().credits_ai, book.of().credits_other) == ({}, {})
    key = "WEBHOOK/COMPLETED"
    book.see(run(usage=used(4.0, 1.0)))
    assert (book.of().credits_ai, book.of().credits_other) == ({key: 1.0}, {key: 3.0})
    book.see(run(usage=used(6.0, 1.0)))
    assert book.of().credits_other == {key: 5.0}
    book.see(run(usage=used(3.0, 1.0)))
    assert book.of().credits_other == {key: 5.0}
    assert book.org.counts.credit_corrections == 3.0
    book.see(run(usage=used(4.0, 1.0)))
    assert book.of().credits_other[key] - book.org.counts.credit_corrections == 3.0
    book.see(run())  # usage that disappears takes nothing back
    assert book.of().credits_other == {key: 6.0}
    assert sum(book.of().run_credits.counts) == 1
    assert book.of().run_credits.total == 4.0


def test_revised_status_is_counted_as_revised_and_moves_nothing_else(book: Book) -> None:
    """Once for each run; late credits go to the series of the first final status."""
    book.see(run(status="FAILED"))
    book.see(run(status="COMPLETED"), run(status="COMPLETED"))
    book.see(run(status="FAILED", usage=used(2.0)))
    assert book.finished() == {"WEBHOOK/FAILED": 1}
    assert book.org.counts.revised == 1
    assert book.of().credits_other == {"WEBHOOK/FAILED": 2.0}
    assert book.of().consecutive_failures == 1


@pytest.mark.parametrize("order", ["forward", "backward", "by page"])
def test_streak_follows_the_end_of_runs_not_the_order_of_reading(book: Book, order: str) -> None:
    """FAILED since the last COMPLETED one, ordered by the time of the end, then by id."""
    runs = [
        run("a", "FAILED", created=NOW - 50),
        run("b", "COMPLETED", created=NOW - 40),
        run("c", "FAILED", created=NOW - 30),
        run("d", "FAILED", created=NOW - 30),
    ]
    if order == "by page":
        for one in reversed(runs):
            book.see(one)
    else:
        book.see(*(runs if order == "forward" else reversed(runs)))
    assert book.of().consecutive_failures == 2
    book.see(run("c2", "COMPLETED", created=NOW - 30))
    assert book.of().consecutive_failures == 1, "ends with c and d at once, between them by id"


def test_unknown_words_become_unknown(book: Book) -> None:
    """An unknown status is final when the run has ended, else open."""
    book.see(
        run("ended", "ARCHIVED", origin="CRON"),
        run("going", "PAUSED", ended_at=None),
        run("odd", "RUNNING", ended_at=at(NOW)),
    )
    assert book.finished() == {"UNKNOWN/UNKNOWN": 1}
    opened = {(group.status, group.runs) for group in book.ledger.open_groups(book.org)}
    assert opened == {("UNKNOWN", 1), ("RUNNING", 1)}


def test_clock_skew_and_missing_times(book: Book) -> None:
    """A negative difference is 0; no end, no duration; never started, neither."""
    book.see(
        run("skewed", started_at=at(NOW - 3), ended_at=at(NOW - 9)),
        run("endless", ended_at=None),
        run("unstarted", "CANCELED", started_at=None),
        run("skipped", "SKIPPED"),
    )
    assert sum(book.finished().values()) == 4
    assert [sum(h.counts) for h in book.of().duration.values()] == [1, 0, 0]
    assert book.of().duration["COMPLETED"].total == 0.0
    assert (sum(book.of().queue.counts), book.of().queue.total) == (2, 0.0)


def test_absent_run_vanishes_the_second_time_and_still_counts_when_it_ends(book: Book) -> None:
    """Absent once may be chance; a vanished run is not open, and is remembered."""
    book.see(run(status="RUNNING"))
    book.settle()
    book.settle("r1")
    assert book.org.counts.vanished == 0
    book.see(run(status="RUNNING"))
    book.settle("r1")
    assert book.org.counts.vanished == 0, "seen in between: the misses begin anew"
    book.settle("r1")
    assert book.org.counts.vanished == 1
    assert book.ledger.open_groups(book.org) == ()
    assert book.ledger.open_runs(book.org) == {}
    book.see(run())
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}


def test_workflows_beyond_the_limit_are_folded_for_good(tmp_path: Path) -> None:
    """They share `__other__`, also after the limit is raised."""
    few = msgspec.structs.replace(SETTINGS, max_workflows=2)
    book = Book(tmp_path / "state.db", few)
    book.see(*(run(f"r{number}", workflow_id=f"wf{number}") for number in range(4)))
    assert set(book.org.workflows) == {"wf0", "wf1", "__other__"}
    book.reopen()
    book.see(run("r9", workflow_id="wf3"), run("r8", workflow_id="wf8"))
    assert book.finished("__other__") == {"WEBHOOK/COMPLETED": 3}
    assert book.org.folded == {"wf2", "wf3"}
    assert "wf8" in book.org.workflows
    book.close()


def test_run_of_another_polled_org_is_theirs(book: Book) -> None:
    """The one that its own org_id names, else the one that committed it first."""
    other = book.ledger.load("other", walk_floor=NOW - DAY)
    book.ledger.complete(other, other.scan, absent=(), contact_seconds=NOW - DAY)
    named, anonymous = run("named", org_id="other"), run("anonymous")
    book.ledger.record(book.org, [named, anonymous], [], now=NOW, others={"other": -math.inf})
    book.ledger.record(other, [named, anonymous], [], now=NOW, others={"org": -math.inf})
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}
    assert other.workflows["wf"].finished == {"WEBHOOK/COMPLETED": 1}


def test_unreadable_run_counts_once_for_each_id_and_reason(book: Book) -> None:
    """It is met again at each poll."""
    rows = [InvalidRow("r1", "time"), InvalidRow("r1", "time"), InvalidRow("r1", "usage")]
    for _ in range(2):
        book.ledger.record(book.org, [], rows, now=NOW)
        book.reopen()
    assert book.org.counts.invalid == {"time": 1, "usage": 1}


def test_changed_buckets_never_go_back(book: Book) -> None:
    """A new bound starts at the old cumulative count of the largest old bound at or below it."""
    book.see(run("fast", ended_at=at(NOW + 0.5)), run("slow", ended_at=at(NOW + 20)), run("mid"))
    for bounds, expected in (
        ((1.0, 5.0, 10.0), [1, 0, 1, 1]),
        ((2.0, 100.0), [1, 1, 1]),
    ):
        book.reopen(msgspec.structs.replace(SETTINGS, bounds=Bounds(bounds, (1.0,), (1.0,))))
        assert book.of().duration["COMPLETED"].counts == expected
        assert book.of().duration["COMPLETED"].total == 25.5


def test_step_credits_are_read_as_numbers_and_as_objects(book: Book) -> None:
    """At most 50 steps of a workflow have a name of their own."""
    book.see(run(usage=used(3.0, steps=b'{"a": 1, "b": {"total": 2}, "c": null, "d": []}')))
    assert book.of().steps == {"a": 1.0, "b": 2.0}
    many = "{" + ",".join(f'"s{number}": 1' for number in range(60)) + "}"
    book.see(run("r2", usage=used(60.0, steps=many.encode())))
    assert len(book.of().steps) == 51
    assert book.of().steps["__other__"] == 12.0


def test_broken_transaction_leaves_numbers_as_they_were(book: Book) -> None:
    """What is published is what is committed: a page that fails halfway adds nothing."""
    book.see(run())

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invent_exporter.ledger.recorder.update_org", fail)
        with pytest.raises(StorageError, match="disk full"):
            book.see(run("r2"), run("r3", workflow_id="new"))
    assert book.finished() == {"WEBHOOK/COMPLETED": 1}
    assert set(book.org.workflows) == {"wf"}
    book.see(run("r2"))
    assert book.finished() == {"WEBHOOK/COMPLETED": 2}


def test_only_a_complete_poll_settles(book: Book) -> None:
    """Rows of a walk that broke off are counted, but stop no scan."""
    assert [fact.settled for fact in book.see(run()).facts] == [False]
    assert [fact.settled for fact in book.see(run()).facts] == [False]
    book.settle()
    assert [fact.settled for fact in book.see(run()).facts] == [True]
    changed = run(updated_at=at(NOW + 60))
    assert [fact.settled for fact in book.see(changed).facts] == [False]


def test_state_held_by_another_process_is_refused(book: Book) -> None:
    """The message says what to do."""
    with pytest.raises(StateError, match="held by another process"):
        open_database(f"sqlite:///{book.path}")


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
def test_damaged_state_is_refused_and_left_alone(book: Book, damage: str) -> None:
    """Not a byte of it changes."""
    book.see(*(run(f"r{number}") for number in range(500)))
    book.close()
    content = bytearray(book.path.read_bytes())
    if damage == "header":
        content[:16] = b"x" * 16
    elif damage == "middle":
        content[8192:16384] = b"\xa5" * 8192
    else:
        content = bytearray(b"no database at all")
    book.path.write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        open_database(f"sqlite:///{book.path}")
    assert book.path.read_bytes() == bytes(content)
    book.path.unlink()
    book.open()


def test_newer_state_is_refused_and_left_alone(book: Book) -> None:
    """A newer program wrote it; this one would lose what it does not know."""
    with book.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE meta SET schema_version = 99")
    book.close()
    content = book.path.read_bytes()
    with pytest.raises(StateError, match="schema version 99"):
        open_database(f"sqlite:///{book.path}")
    assert book.path.read_bytes() == content
    book.path.unlink()
    book.open()


def test_file_of_another_program_is_refused(tmp_path: Path) -> None:
    """Any SQLite file would do for SQLite, not for us."""
    import sqlite3  # noqa: PLC0415 (the one test that needs it)

    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="another program"):
        open_database(f"sqlite:///{path}")
