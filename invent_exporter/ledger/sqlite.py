"""A SQLite file opened so that nothing in it can be harmed, by one process at a time."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Connection, create_engine, event, insert, select
from sqlalchemy.engine import Engine
from sqlalchemy.pool import StaticPool

from invent_exporter.errors import NoRoomError, StateError, StateGoneError, StorageError
from invent_exporter.ledger.examine import APPLICATION_ID, is_blank
from invent_exporter.ledger.files import copy_to, create_private, driver, sync
from invent_exporter.ledger.lock import Identity, Lock, identity
from invent_exporter.ledger.place import place_of
from invent_exporter.ledger.schema import SCHEMA_VERSION, meta, tables
from invent_exporter.ledger.upgrade import upgrade
from invent_exporter.log import get_logger

_LOCKED_SECONDS = 3.0
"""How long another connection may hold a lock; a stop waits as long, and has 5 s in all."""
_PRAGMAS = (
    "synchronous=FULL",  # what was served must have been on the disk, also after the power failed
    "secure_delete=ON",  # a text that is not shown any more is not kept either
)
_VACUUM_FULL = 1
"""What deletions left empty goes back to the file system."""
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)

log = get_logger(__name__)


@dataclass
class Database:
    """One connection to the ledger's database, and the lock that keeps other processes out."""

    engine: Engine
    lock: Lock | None = None
    is_shared = False

    @property
    def leased(self) -> Engine:
        """Return the engine: one process has all, and one transaction is there at a time."""
        return self.engine

    def lock_runs(self, connection: Connection, run_ids: Iterable[str]) -> None:
        """Lock nothing: nobody else is there."""

    def failure(self, error: Exception) -> StorageError:
        """Say what a failed transaction means, and do what can help the next one."""
        cause = getattr(error, "orig", None) or error
        if isinstance(error, StateGoneError):
            # Nothing has changed; the next transaction finds the file in its place.
            try:
                self._put_back()
            except OSError as failed:
                cause = failed
        if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            self._make_room()
            return NoRoomError(str(cause))
        return StorageError(str(cause))

    def _put_back(self) -> None:
        """Put the open file back where its path is, after somebody removed or replaced it.

        Why it is right, and what stands in its place is not: docs/how-it-counts.md, "A run counts
        once".

        Raises:
            OSError: the copy could not be made, or its place is not ours; the open file stays in
                use.

        """
        if self.lock is None:
            return
        place = self.lock.place
        if place.is_moved:
            raise OSError(
                f"{place} leads to another file than the one in use; point it to {place.real} "
                "again, or stop the exporter first"
            )
        with driver(self.engine) as connection:
            self.lock.confirm(connection)
        copy = place.beside(".copy")
        copy_to(self.engine, copy)
        for leftover in ("-wal", "-shm"):
            place.beside(leftover).unlink(missing_ok=True)
        copy.replace(place.real)
        sync(place.real.parent)
        # The next connection opens the copy. SQLite sees that the old file has moved, and leaves
        # what stands at its path alone.
        self.engine.dispose()

    def size_bytes(self) -> int:
        """Size of the state file with its log, 0 for state in memory."""
        size_bytes = 0
        for file in () if self.lock is None else map(self.lock.place.beside, ("", "-wal")):
            with suppress(FileNotFoundError):
                size_bytes += file.stat().st_size
        return size_bytes

    def room_bytes(self) -> float:
        """Room that is left on the state's disk, `inf` for state in memory."""
        with suppress(OSError):  # without its folder the next transaction fails, and says so
            if self.lock is not None:
                return shutil.disk_usage(self.lock.place.real.parent).free
        return math.inf

    def _make_room(self) -> None:
        """Give back the log's space where one can: on a disk that is full it may be what fills it.

        SQLite itself does so only after some thousand pages were committed to the log.
        """
        is_alone = False
        with driver(self.engine) as connection, suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            is_alone = connection.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
        if is_alone:
            self.engine.dispose()  # the next step opens it as it should be, if there is room

    def close(self) -> None:
        """Close the file and let the next process have it."""
        self.engine.dispose()
        if self.lock is not None:
            self.lock.release()


def open_database(url: str) -> Database:
    """Open or create the database of a `state.url`.

    Raises:
        StateError: the file is newer, damaged, not ours, held by another process or not writable.

    """
    place = place_of(url)
    if place is None:
        database = Database(_engine(None))
        _create(database.engine, url)
        return database
    lock = Lock(place)
    database = Database(_engine(lock), lock)
    try:
        if is_blank(place):
            create_private(place.real)
            _create(database.engine, str(place))
        upgrade(database.engine, place)
    except Exception as error:
        database.close()
        if isinstance(error, StateError):
            raise
        # SQLAlchemy wraps what the driver raises; the one line keeps the driver's words.
        cause = getattr(error, "orig", None) or error
        raise StateError(f"state.url: {place}: {cause}; a writable file is expected") from error
    return database


def _connect(path: str, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_LOCKED_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in (*pragmas, *_PRAGMAS):
            connection.execute(f"PRAGMA {pragma}").fetchone()
        if connection.execute("PRAGMA auto_vacuum").fetchone() != (_VACUUM_FULL,):
            with suppress(sqlite3.OperationalError):  # a full disk: a later start does it
                connection.execute(f"PRAGMA auto_vacuum={_VACUUM_FULL}")
        # The first look opens the log, which from now on belongs to the file.
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_to_read_at_least(path: str) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM:
            raise
        # Alone with the file SQLite needs no index of the log beside it.
        connection = _connect(path, "locking_mode=EXCLUSIVE")
        log.warning("no room beside the state, which is read until there is", error=str(error))
        return connection


def _engine(lock: Lock | None) -> Engine:
    path, real = (":memory:",) * 2 if lock is None else map(str, lock.place)
    opened: list[Identity | None] = []

    def connect() -> sqlite3.Connection:
        nonlocal opened
        connection = _connect_to_read_at_least(real)
        opened = [identity(real), identity(f"{real}-wal")]
        if lock is not None:
            try:
                lock.begin(connection)
            except OSError:
                connection.close()
                raise
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)

    def look(_connection: Connection) -> None:
        """Refuse a transaction in a file that another process has, or the next would not find."""
        if lock is not None:
            lock.keep()
            if [identity(path), identity(f"{real}-wal")] != opened:
                raise StateGoneError(f"{path} was removed or replaced while in use")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The driver's own transactions start at the first write; a read before it would not be
        # part of the transaction.
        look(connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        look(connection)
        if lock is not None:
            lock.confirm(cast("sqlite3.Connection", connection.connection.driver_connection))

    return engine


def _create(engine: Engine, path: str) -> None:
    with engine.begin() as connection:
        tables.create_all(connection)
        if connection.execute(select(meta.c.schema_version)).first() is not None:
            raise StateError(
                f"state.url: {path} was taken for empty and has a ledger, which is left as it is; "
                "start again, or restore it from a backup"
            )
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(insert(meta).values(schema_version=SCHEMA_VERSION))
