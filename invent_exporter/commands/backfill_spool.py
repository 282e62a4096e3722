"""The file beside the output that holds what was read, so that a break costs one page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from invent_exporter.api.models import Run
from invent_exporter.commands.backfill_placing import Place
from invent_exporter.commands.backfill_plan import Task
from invent_exporter.commands.backfill_replay import Event, Point, Series
from invent_exporter.errors import BackfillError
from invent_exporter.scan.order import PageFacts

_SCHEMA = """
CREATE TABLE task (document BLOB NOT NULL);
CREATE TABLE run (
    run_id TEXT NOT NULL, org INTEGER NOT NULL, workflow TEXT NOT NULL, named TEXT,
    submitted REAL, finished REAL, rank INTEGER NOT NULL, document BLOB NOT NULL,
    UNIQUE (run_id, org)
);
CREATE INDEX run_submitted ON run (org, workflow, submitted, run_id);
CREATE INDEX run_finished ON run (org, workflow, finished, run_id);
CREATE TABLE invalid (run_key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE walk (org INTEGER, status TEXT, document BLOB NOT NULL, PRIMARY KEY (org, status));
"""
_POINTS = """
DROP TABLE IF EXISTS series;
DROP TABLE IF EXISTS point;
CREATE TABLE series (
    series INTEGER PRIMARY KEY, family INTEGER NOT NULL, until INTEGER NOT NULL,
    names TEXT NOT NULL
);
CREATE TABLE point (
    series INTEGER, at INTEGER, numbers TEXT NOT NULL, PRIMARY KEY (series, at)
) WITHOUT ROWID;
"""


class WalkState(msgspec.Struct):
    """Where the walk through one listing stands; `last` is the page that was read last."""

    last: PageFacts | None = None
    at_end: bool = False
    refused_rows: int | None = None


class _Kept(Run, frozen=True, dict=True, kw_only=True):
    """A run whose texts are what was read of them: what the API may say in them is wider."""

    id: str
    status: str
    origin: str | None = None
    org_id: str | None = None
    workflow_org_id: str | None = None
    workflow_id: str | None = None
    version: str | None = None


_RUN = msgspec.json.Decoder(_Kept)


class Spool:
    """The open file; one process at a time has it."""

    def __init__(self, path: Path) -> None:
        """Open or make it.

        Raises:
            BackfillError: another process has it, or it can't be used.

        """
        self.path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=1)
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("BEGIN EXCLUSIVE")
            if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            what = f"{path} can't be used: {error}"
            raise BackfillError(f"{what}; end the other backfill, or remove the file") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; what is not committed is as if it had not been read."""
        self._connection.close()

    def remove(self) -> None:
        """Close it and delete it."""
        self._connection.close()
        self.path.unlink()

    # -- what is to be read, and what was

    def task(self) -> Task | None:
        """Return the task that was begun."""
        row = self._connection.execute("SELECT document FROM task").fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Task)

    def put_task(self, task: Task) -> None:
        """Keep the task."""
        self._connection.execute("DELETE FROM task")
        self._connection.execute("INSERT INTO task VALUES (?)", [msgspec.json.encode(task)])

    def walk(self, org: int, status: str) -> WalkState:
        """Tell where a walk stands."""
        query = "SELECT document FROM walk WHERE org = ? AND status = ?"
        row = self._connection.execute(query, (org, status)).fetchone()
        return WalkState() if row is None else msgspec.json.decode(row[0], type=WalkState)

    def record(
        self,
        org: int,
        status: str,
        state: WalkState,
        placed: Iterable[tuple[Run, Place]],
        invalid: Iterable[str],
    ) -> None:
        """Take a page in, and where the walk stands behind it, in one transaction."""
        rows = [
            (
                *(run.id, org, run.workflow_label, run.org_id),
                *(it.submitted, it.finished, it.rank, msgspec.json.encode(_slim(run))),
            )
            for run, it in placed
        ]
        connection = self._connection
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO run VALUES (?,?,?,?,?,?,?,?)", rows)
        connection.executemany("INSERT OR IGNORE INTO invalid VALUES (?)", [(k,) for k in invalid])
        document = msgspec.json.encode(state)
        connection.execute("INSERT OR REPLACE INTO walk VALUES (?,?,?)", (org, status, document))
        connection.execute("COMMIT")

    def invalid(self) -> int:
        """Count the runs that can't be read."""
        return self._count("SELECT count(*) FROM invalid")

    # -- what came of it

    def runs(self) -> int:
        """Count the runs of the past."""
        return self._count("SELECT count(*) FROM run WHERE rank > 0")

    def finished(self) -> int:
        """Count the runs that ended within the window."""
        return self._count("SELECT count(*) FROM run WHERE finished IS NOT NULL")

    def events(self) -> int:
        """Count what is to be replayed."""
        return self._count("SELECT count(submitted) + count(finished) FROM run")

    def named_most(self, org: int) -> str | None:
        """Tell the org that most runs of an org name."""
        query = (
            "SELECT named FROM run WHERE org = ? AND named IS NOT NULL "
            "GROUP BY named ORDER BY count(*) DESC, named LIMIT 1"
        )
        row = self._connection.execute(query, [org]).fetchone()
        return None if row is None else str(row[0])

    def give_each_run_to_one_org(self) -> None:
        """Keep a run that several orgs list with the one that has it."""
        self._connection.execute(
            "DELETE FROM run WHERE EXISTS (SELECT 1 FROM run AS other WHERE "
            "other.run_id = run.run_id AND (other.rank, other.org) < (run.rank, run.org))"
        )

    def workflows(self, org: int) -> list[str]:
        """List the workflows of an org's past, in the order in which they appear."""
        query = (
            "SELECT workflow FROM run WHERE org = ? AND "
            "(submitted IS NOT NULL OR finished IS NOT NULL) GROUP BY workflow "
            "ORDER BY min(min(ifnull(submitted, finished), ifnull(finished, submitted))), workflow"
        )
        return [name for (name,) in self._connection.execute(query, [org])]

    def fold(self, org: int, workflows: Sequence[str], into: str) -> None:
        """Let the runs of workflows be another one's."""
        self._connection.executemany(
            "UPDATE run SET workflow = ? WHERE org = ? AND workflow = ?",
            [(into, org, name) for name in workflows],
        )

    def submitted_runs(self, org: int, workflow: str) -> Iterator[Event]:
        """Yield when each run was submitted, in order."""
        return self._runs("submitted", org, workflow, is_end=False)

    def finished_runs(self, org: int, workflow: str) -> Iterator[Event]:
        """Yield when each run finished, in order."""
        return self._runs("finished", org, workflow, is_end=True)

    def _runs(self, column: str, org: int, workflow: str, *, is_end: bool) -> Iterator[Event]:
        query = (
            f"SELECT {column}, document FROM run WHERE org = ? AND workflow = ? "  # noqa: S608 (two names)
            f"AND {column} IS NOT NULL ORDER BY {column}, run_id"
        )
        for at, document in self._connection.execute(query, (org, workflow)):
            yield at, is_end, _RUN.decode(document)

    # -- samples, before they are text

    def begin_points(self) -> None:
        """Forget the samples of a writing that broke off."""
        for statement in _POINTS.split(";"):
            self._connection.execute(statement)

    def put_points(self, points: Iterable[Point], series: Iterable[Series]) -> None:
        """Keep samples, and then their series, which are known only when all samples are made."""
        connection = self._connection
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO point VALUES (?,?,?)", points)
        connection.executemany(
            "INSERT INTO series VALUES (?,?,?,?)",
            ((it.number, it.family, it.until_ms, "\n".join(it.names)) for it in series),
        )
        connection.execute("COMMIT")

    def series(self, family: int) -> Iterator[tuple[int, int, list[str]]]:
        """Yield the series of a family: number, until when (milliseconds), beginnings of lines.

        What has the same name stands together, in the order of time.
        """
        query = "SELECT series, until, names FROM series WHERE family = ? ORDER BY names, series"
        for number, until_ms, names in self._connection.execute(query, [family]):
            yield number, until_ms, names.split("\n")

    def points(self, series: int) -> Iterator[tuple[int, str]]:
        """Yield the samples of a series: when (milliseconds), and the numbers of its lines."""
        return self._connection.execute(
            "SELECT at, numbers FROM point WHERE series = ? ORDER BY at", [series]
        )

    def _count(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])


def _slim(run: Run) -> Run:
    """Leave out what no series needs."""
    version = run.version_label
    return msgspec.structs.replace(
        run, error=None, unreadable={}, workflow_version=None, version=version
    )
