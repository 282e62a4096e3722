"""The ledger's tables, and a SQLite file opened so that nothing in it can be harmed.

A state file that this program can't use (newer, damaged, another program's, held by another
process) stops the start and is left as it is: it is looked at before anything is written.
Every table carries the org, so that a database shared by several replicas can hold the same schema.

Longer than most modules: what keeps one file from harm, from its first look to its being put back,
belongs together.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from invent_exporter.errors import StateError, StateGoneError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Insert, Update
    from sqlalchemy.engine import Engine

SCHEMA_VERSION = 1
APPLICATION_ID = 0x1E7E17
"""Stands in the header of a SQLite file, so that another program's file is not taken for ours."""

_LOCKED_SECONDS = 3.0
"""How long another connection may hold a lock; a stop waits as long, and has 5 s in all."""
_VACUUM_PAGES = 200
_SQLITE_MAGIC = b"SQLite format 3\x00"
_tables = MetaData()

meta = Table("meta", _tables, Column("schema_version", Integer, nullable=False))

org = Table(
    "org",
    _tables,
    Column("org", Integer, primary_key=True),
    Column("org_id", Text, unique=True, doc="the real id; null until a run of `c` names one"),
    Column("alias", Text, doc="`c`, when that is how the configuration names it"),
    Column("settled_walk", Integer, nullable=False, doc="rows of walks up to this are settled"),
    Column("contacted", Integer, nullable=False, doc="1 once first contact was complete"),
    Column("floor", Float, nullable=False, doc="unknown final runs created before are history"),
    Column("scan", Text, nullable=False, doc="what the scan learned, JSON"),
    Column("numbers", Text, key="counts", nullable=False, doc="the org's own counters, JSON"),
)

workflow = Table(
    "workflow",
    _tables,
    Column("org", Integer, primary_key=True),
    Column("workflow_id", Text, primary_key=True),
    Column("numbers", Text, key="counts", doc="every series of the workflow, JSON; null: folded"),
    sqlite_with_rowid=False,
)

run = Table(
    "run",
    _tables,
    Column("run_id", Text, primary_key=True),
    Column("org", Integer, primary_key=True),
    Column("workflow_id", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("revised", Text, doc="the final status that it was changed to after it was counted"),
    Column("final", Integer, nullable=False),
    Column("owned", Integer, nullable=False, doc="0: it belongs to another polled org"),
    Column("counted", Integer, nullable=False, doc="1: it stands in the counters"),
    Column("walk", Integer, nullable=False, doc="the walk that saw its last change"),
    Column("created", Float, nullable=False),
    Column("since", Float, nullable=False, doc="open: since when; final: when it ended"),
    Column("updated", Float),
    Column("seen", Float, nullable=False, doc="our time of its last change"),
    Column("absent", Integer, nullable=False, doc="complete searches without it; 2: vanished"),
    Column("credits_ai", Float),
    Column("credits_other", Float),
    Column("steps", Text, doc="credits by step, JSON, where they are counted"),
    sqlite_with_rowid=False,
)
Index("run_open", run.c.org, run.c.workflow_id, sqlite_where=run.c.final == 0)
Index(
    "run_failed", run.c.org, run.c.workflow_id, run.c.since, sqlite_where=run.c.status == "FAILED"
)
Index("run_created", run.c.org, run.c.created)

invalid = Table(
    "invalid",
    _tables,
    Column("org", Integer, primary_key=True),
    Column("run_key", Text, primary_key=True, doc="the run's id, else a digest of its bytes"),
    Column("reason", Text, primary_key=True),
    Column("seen", Float, nullable=False),
    sqlite_with_rowid=False,
)


class Batch:
    """A statement for many rows, compiled at its first use.

    `Connection.execute` would put together the parameters of each row anew, which takes longer
    than SQLite needs for the row.
    """

    def __init__(self, statement: Insert | Update) -> None:
        """Take a statement whose bound parameters, or columns, the rows name."""
        self._statement = statement
        self._sql = ""
        self._names: Sequence[str] | None = None

    def execute(self, connection: Connection, rows: Collection[Mapping[str, object]]) -> None:
        """Run the statement for each row; every row of every call has the same keys."""
        if not rows:
            return
        if not self._sql:
            compiled = self._statement.compile(
                dialect=connection.dialect, column_keys=list(next(iter(rows)))
            )
            self._sql, self._names = str(compiled), compiled.positiontup
        if self._names is None:  # the driver takes parameters by name
            connection.exec_driver_sql(self._sql, [dict(row) for row in rows])
        else:
            values = itemgetter(*self._names)
            connection.exec_driver_sql(self._sql, [values(row) for row in rows])


class Database:
    """One connection to the ledger's database, and the lock that keeps other processes out."""

    def __init__(self, engine: Engine, path: Path | None, lock: int | None) -> None:
        """Take an engine that `open_database` made."""
        self.engine = engine
        self.path = path
        self._lock = lock

    def put_back(self) -> None:
        """Put the open file back where its path is, after somebody removed or replaced it.

        The open file holds all that was ever served, although no path leads to it. A file that
        stands in its place now can only be older or another's: to go on from that one would take
        numbers back under the eyes of every scraper, so it gives way. Until the copy is in place
        every transaction fails, so nothing is served that the next start would not find. Whoever
        wants to start from another file stops the process first.

        Raises:
            OSError: the copy could not be made; the open file stays in use.

        """
        if self.path is None:
            return
        copy = Path(f"{self.path}.copy")
        copy.unlink(missing_ok=True)
        try:
            with closing(self.engine.raw_connection()) as pooled:
                source = pooled.driver_connection
                with closing(sqlite3.connect(copy)) as target:
                    # Has no say in SQLAlchemy's typing: it is the connection that `_engine` made.
                    cast("sqlite3.Connection", source).backup(target)
            _sync(copy)
        except sqlite3.Error as error:
            raise OSError(f"{self.path} can't be put back: {error}") from error
        for leftover in ("-wal", "-shm"):
            Path(f"{self.path}{leftover}").unlink(missing_ok=True)
        copy.replace(self.path)
        _sync(self.path.parent)
        # The next connection opens the copy. SQLite sees that the old file has moved, and leaves
        # what stands at its path alone.
        self.engine.dispose()

    def size_bytes(self) -> int:
        """Size of the state file with its log, 0 for state in memory."""
        if self.path is None:
            return 0
        files = (self.path, Path(f"{self.path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def give_back_pages(self) -> None:
        """Return some of the pages that deletions left empty to the file system."""
        pooled = self.engine.raw_connection()
        try:
            # `execute` would take one step of this statement, which is one page.
            connection = cast("sqlite3.Connection", pooled.driver_connection)
            connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        finally:
            pooled.close()

    def close(self) -> None:
        """Close the file and let the next process have it."""
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_database(url: str) -> Database:
    """Open or create the database of a `state.url`.

    Raises:
        StateError: the file is newer, damaged, not ours, held by another process or not writable.

    """
    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is None:
        database = Database(_engine(":memory:"), None, None)
        _create(database.engine)
        return database
    lock = _lock(path)
    try:
        new = not path.exists() or path.stat().st_size == 0 or _is_blank(path)
        database = Database(_engine(str(path)), path, lock)
        if new:
            _create(database.engine)
        _check(database, path)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        os.close(lock)
        # SQLAlchemy wraps what the driver raises; the one line keeps the driver's words.
        cause = getattr(error, "orig", None) or error
        raise StateError(f"state.url: {path}: {cause}; a writable file is expected") from error
    except StateError:
        os.close(lock)
        raise
    return database


def _lock(path: Path) -> int:
    """Hold `path`.lock: advisory, ended by the kernel with the process, however that ends."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"state.url: {path}: {error.strerror}; a file in a writable directory is expected"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StateError(
            f"state.url: {path} is held by another process; "
            "stop that one, or give each exporter a file of its own"
        ) from error
    return descriptor


def _is_blank(path: Path) -> bool:
    """Refuse a file that is not ours or damaged, reading only; True when nothing is in it yet."""
    if not os.access(path, os.W_OK):
        raise StateError(f"state.url: {path} can't be written; a writable file is expected")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(_SQLITE_MAGIC):
        raise StateError(
            f"state.url: {path} is not a SQLite file, or a damaged one; "
            "restore it, or move it away to start anew from 0"
        )
    wal = Path(f"{path}-wal")
    mode = "ro" if wal.exists() else "ro&immutable=1"
    connection = sqlite3.connect(f"file:{_quoted(path)}?mode={mode}", uri=True)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application not in (APPLICATION_ID, 0):
            raise StateError(f"state.url: {path} is another program's SQLite file")
        if application == 0:
            names = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if names:
                raise StateError(f"state.url: {path} is another program's SQLite file")
            return True
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StateError(_damaged(path, problem))
        version = connection.execute("SELECT max(schema_version) FROM meta").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise StateError(_damaged(path, str(error))) from error
    finally:
        connection.close()
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StateError(
            f"state.url: {path} has schema version {version}, this program knows up to "
            f"{SCHEMA_VERSION}; start the newer program, or move the file away to start from 0"
        )
    return False


def _damaged(path: Path, problem: str) -> str:
    detail = " ".join(problem.split())
    return (
        f"state.url: {path} is damaged ({detail}); "
        "restore it from a backup, or move it away to start anew from 0"
    )


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identities(path: str) -> tuple[tuple[int, int] | None, ...]:
    """Tell which files the path and its log are now; None for one that is missing."""
    found: list[tuple[int, int] | None] = []
    for name in (path, f"{path}-wal"):
        try:
            status = os.stat(name)  # noqa: PTH116 (twice for each transaction: no Path is made)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def _engine(path: str) -> Engine:
    opened: tuple[tuple[int, int] | None, ...] = ()

    def connect() -> sqlite3.Connection:
        nonlocal opened
        connection = sqlite3.connect(
            path, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
        # auto_vacuum comes first: it takes effect only before the file has a first page.
        # FULL: what was served must have been on the disk, also after the power failed.
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        # The first look opens the log, which from now on belongs to the file.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        opened = _identities(path)
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)

    def look(_connection: Connection) -> None:
        """Refuse a transaction in a file that the next start would not find."""
        if path != ":memory:" and _identities(path) != opened:
            raise StateGoneError(f"{path} was removed or replaced while in use")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The driver's own transactions start at the first write; a read before it would not be
        # part of the transaction.
        look(connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "commit", look)
    return engine


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        _tables.create_all(connection)
        connection.execute(insert(meta).values(schema_version=SCHEMA_VERSION))


_MIGRATIONS: dict[int, tuple[str, ...]] = {}
"""Statements that lead from a schema version to the next, run in one transaction."""


def _check(database: Database, path: Path) -> None:
    try:
        with database.engine.begin() as connection:
            version = connection.execute(select(meta.c.schema_version)).scalar()
            while version is not None and version < SCHEMA_VERSION:
                for statement in _MIGRATIONS[version]:
                    connection.execute(text(statement))
                version += 1
                connection.execute(update(meta).values(schema_version=version))
    except Exception as error:
        database.engine.dispose()
        # SQLAlchemy wraps what the driver raises; the one line keeps the driver's words.
        cause = getattr(error, "orig", None) or error
        raise StateError(f"state.url: {path}: {cause}; a writable file is expected") from error
