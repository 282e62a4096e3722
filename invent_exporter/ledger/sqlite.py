"""A SQLite file opened so that nothing in it can be harmed.

A state file that this program can't use (newer, damaged, another program's, held by another
process) stops the start and is left as it is: it is looked at before anything is written.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection, create_engine, event, insert
from sqlalchemy.pool import StaticPool

from invent_exporter.errors import StateError, StateGoneError, StorageError
from invent_exporter.ledger.schema import SCHEMA_VERSION, meta, tables
from invent_exporter.ledger.upgrade import sync, upgrade

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

APPLICATION_ID = 0x1E7E17
"""Stands in the header of a SQLite file, so that another program's file is not taken for ours."""

_LOCKED_SECONDS = 3.0
"""How long another connection may hold a lock; a stop waits as long, and has 5 s in all."""
_VACUUM_PAGES = 200
_SQLITE_MAGIC = b"SQLite format 3\x00"


class Database:
    """One connection to the ledger's database, and the lock that keeps other processes out."""

    def __init__(self, engine: Engine, path: Path | None, lock: int | None) -> None:
        self.engine = engine
        self.path = path
        self._lock = lock

    def put_back(self) -> None:
        """Put the open file back where its path is, after somebody removed or replaced it.

        Why it is right, and what stands in its place is not: docs/how-it-counts.md, "A run counts
        once".

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
            sync(copy)
        except sqlite3.Error as error:
            raise OSError(f"{self.path} can't be put back: {error}") from error
        for leftover in ("-wal", "-shm"):
            Path(f"{self.path}{leftover}").unlink(missing_ok=True)
        copy.replace(self.path)
        sync(self.path.parent)
        # The next connection opens the copy. SQLite sees that the old file has moved, and leaves
        # what stands at its path alone.
        self.engine.dispose()

    def size_bytes(self) -> int:
        """Size of the state file with its log, 0 for state in memory."""
        files = () if self.path is None else (self.path, Path(f"{self.path}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def room_bytes(self) -> float:
        """Room that is left on the state's disk, `inf` for state in memory."""
        with suppress(OSError):  # without its folder the next transaction fails, and says so
            if self.path is not None:
                return shutil.disk_usage(self.path.parent).free
        return math.inf

    def make_room(self) -> None:
        """Give back the log's space where one can: on a disk that is full it may be what fills it.

        SQLite itself does so only after some thousand pages were committed to the log.
        """
        with closing(self.engine.raw_connection()) as pooled, suppress(sqlite3.Error):
            connection = cast("sqlite3.Connection", pooled.driver_connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def give_back_pages(self) -> None:
        """Return some pages that deletions left empty to the file system, else StorageError."""
        with closing(self.engine.raw_connection()) as pooled:
            # `execute` would take one step of this statement, which is one page.
            connection = cast("sqlite3.Connection", pooled.driver_connection)
            try:
                connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            except sqlite3.Error as error:
                raise StorageError(str(error)) from error

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
    if not url.startswith("sqlite:///"):
        database = Database(_engine(":memory:"), None, None)
        _create(database.engine)
        return database
    path = Path(url.removeprefix("sqlite:///"))
    database = Database(_engine(str(path)), path, _lock(path))
    try:
        if not path.exists() or path.stat().st_size == 0 or _is_blank(path):
            _create(database.engine)
        upgrade(database.engine, path)
    except Exception as error:
        database.close()
        if isinstance(error, StateError):
            raise
        # SQLAlchemy wraps what the driver raises; the one line keeps the driver's words.
        cause = getattr(error, "orig", None) or error
        raise StateError(f"state.url: {path}: {cause}; a writable file is expected") from error
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
    with closing(sqlite3.connect(f"file:{_quoted(path)}?mode={mode}", uri=True)) as connection:

        def ask(question: str) -> object:
            return connection.execute(question).fetchone()[0]

        try:
            application = ask("PRAGMA application_id")
            is_blank = application == 0 and ask("SELECT count(*) FROM sqlite_master") == 0
            if application != APPLICATION_ID and not is_blank:
                raise StateError(f"state.url: {path} is another program's SQLite file")
            if is_blank:
                return True
            problem = ask("PRAGMA quick_check(1)")
            if problem != "ok":
                raise _damaged(path, problem)
            version = ask("SELECT max(schema_version) FROM meta")
        except sqlite3.DatabaseError as error:
            raise _damaged(path, error) from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StateError(
            f"state.url: {path} has schema version {version}, this program knows up to "
            f"{SCHEMA_VERSION}; start the newer program, or move the file away to start from 0"
        )
    return False


def _damaged(path: Path, problem: object) -> StateError:
    return StateError(
        f"state.url: {path} is damaged ({' '.join(str(problem).split())}); "
        "restore it from a backup, or move it away to start anew from 0"
    )


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _identity(path: str) -> tuple[int, int] | None:
    """Tell which file this is now; None for one that is missing."""
    try:
        status = os.stat(path)  # noqa: PTH116 (twice for each transaction: no Path is made)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _engine(path: str) -> Engine:
    files = (path, f"{path}-wal")
    opened: list[tuple[int, int] | None] = []

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
        opened = [_identity(file) for file in files]
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)

    def look(_connection: Connection) -> None:
        """Refuse a transaction in a file that the next start would not find."""
        if path != ":memory:" and [_identity(file) for file in files] != opened:
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
        tables.create_all(connection)
        connection.execute(insert(meta).values(schema_version=SCHEMA_VERSION))
