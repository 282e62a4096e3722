"""A PostgreSQL database that several replicas share, each transaction as if it were alone.

What docs/how-it-counts.md proves for one process, with one transaction after the other, holds for
many, because the result is that of some order. Transactions are SERIALIZABLE: those that meet fail
with one of `_CONFLICTS`, and the ledger runs them again. PostgreSQL notes what such a transaction
reads by the page and by the table, so of two that record runs one would fail for nothing. So those
that keep to an org's rows hold its lease, under which nobody else writes them, and lock each run
that they look up, which may stand under several orgs: READ COMMITTED is as good then.

What a failed COMMIT did nobody knows, so the ledger loads the org anew after any other error.

A connection that is silent is given up in seconds: the network's own ways (keepalives) see a dead
peer, but not a proxy that takes everything and answers nothing. So a thread looks at each
connection in use, and breaks it off when it has been used for too long.

Longer than most modules: a connection's whole life, and the tables that it must find.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine, event, insert, inspect, select, update
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError

from invent_exporter.config.state import shown
from invent_exporter.errors import ConflictError, NoRoomError, StateError, StorageError
from invent_exporter.ledger.schema import SCHEMA_VERSION, leases, meta, tables
from invent_exporter.ledger.upgrade import run_steps
from invent_exporter.log import get_logger

log = get_logger(__name__)

_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 3,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,
    "target_session_attrs": "read-write",  # of several hosts, the one that is not a standby
    "fallback_application_name": "invent-exporter",
    "client_encoding": "utf8",
}
"""What the URL does not say itself."""
_SESSION: Final = (
    "SET statement_timeout = '8s'; "
    # Of a process that was stopped in the middle: its locks must not hold up who takes over.
    "SET idle_in_transaction_session_timeout = '5s'; "
    # A serializable transaction that scans a table meets everybody who writes to it.
    "SET enable_seqscan = off"
)
_PATIENCE_SECONDS: Final = 10.0
"""A transaction takes milliseconds; one that takes this long waits for an answer in vain."""
_STOP_SECONDS: Final = 1.0
"""A stop waits so long for what is under way, and has 5 s in all."""
_IDLE_SECONDS: Final = 1.0
"""A connection that was not used for so long is asked whether it is still one."""
_SIZE_SECONDS: Final = 30.0
_LOCK: Final = 0x1E7E17
"""Of PostgreSQL's advisory locks: under which tables are made, and the first half of runs' own."""
# What goes wrong is an error of the step; the driver's own lines name hosts and users as well.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

_CONFLICTS: Final = (
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "23505",  # unique_violation: another replica has just inserted the same
)
_DISK_FULL: Final = "53100"
_PRED_LOCKS: Final = 256
"""A page looks up 100 ids; above half of the setting the lock becomes one of the whole index."""


class Database:
    """The connections of one process to a PostgreSQL database."""

    is_shared = True

    def __init__(self, url: str) -> None:
        """Connect to nothing yet."""
        self._url = url
        self._size_bytes, self._size_due = 0, -math.inf
        self._busy: dict[object, tuple[psycopg.Connection[Any], float]] = {}
        self._free = threading.Condition()
        self._closed = threading.Event()
        # The ledger's thread, and the one that holds leases.
        self.engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            isolation_level="SERIALIZABLE",
            paramstyle="format",
            pool_size=2,
            max_overflow=0,
        )
        self.leased = self.engine.execution_options(isolation_level="READ COMMITTED")
        event.listen(self.engine, "checkout", self._take)
        event.listen(self.engine, "checkin", self._give_back)
        event.listen(self.engine, "begin", self._look_at_size)
        threading.Thread(target=self._watch, name="postgres", daemon=True).start()

    def lock_runs(self, connection: Connection, run_ids: Iterable[str]) -> None:
        """Let nobody else read or write these runs, of whatever org, until the transaction ends."""
        # In one order, so that no two wait for each other. Ids that share a number only wait.
        numbers = sorted({zlib.crc32(run_id.encode()) - 2**31 for run_id in run_ids})
        connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock(%s, run) FROM unnest(%s::int[]) AS run", (_LOCK, numbers)
        )

    def size_bytes(self) -> int:
        """Size of the whole database, as it was a short time ago."""
        return self._size_bytes

    def room_bytes(self) -> float:
        """Nobody tells a client how much room its server has."""
        return math.inf

    def failure(self, error: Exception) -> StorageError:
        """Say what a failed transaction means; after most errors the next one connects anew."""
        text, state = _cause(error)
        if state in _CONFLICTS:
            return ConflictError(text)
        self.engine.dispose()  # another host may be the one that can be written to now
        return NoRoomError(text) if state == _DISK_FULL else StorageError(text)

    def close(self) -> None:
        """Let what is under way end, but not for long."""
        with self._free:
            self._free.wait_for(lambda: not self._busy, _STOP_SECONDS)
        self._closed.set()
        self._break_off(0.0)
        self.engine.dispose()

    # -- connections

    def _connect(self) -> psycopg.Connection[Any]:
        if self._closed.is_set():
            raise psycopg.OperationalError("closed")
        return connect(self._url, _SESSION)

    def _take(self, connection: psycopg.Connection[Any], record: Any, _proxy: object) -> None:  # noqa: ANN401
        now = time.monotonic()
        self._busy[record] = connection, now
        if now - record.info.get("used", now) > _IDLE_SECONDS:
            try:
                self.engine.dialect.do_ping(cast("DBAPIConnection", connection))
            except psycopg.Error as error:
                raise DisconnectionError from error  # the pool tries a new one

    def _give_back(self, _connection: object, record: Any) -> None:  # noqa: ANN401
        record.info["used"] = time.monotonic()
        with self._free:
            self._busy.pop(record, None)
            self._free.notify_all()

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            self._break_off(_PATIENCE_SECONDS)

    def _break_off(self, patience_seconds: float) -> None:
        """End the connections that have been in use for so long: who waits there gets an error."""
        for connection, since in [*self._busy.values()]:
            if time.monotonic() - since >= patience_seconds:
                # libpq can't be told by another thread, but it sees that its socket has ended.
                with (
                    suppress(OSError, psycopg.Error),
                    socket.socket(fileno=os.dup(connection.fileno())) as same,
                ):
                    same.shutdown(socket.SHUT_RDWR)

    def _look_at_size(self, connection: Connection) -> None:
        if time.monotonic() >= self._size_due:
            query = select(sa.func.pg_database_size(sa.func.current_database()))
            self._size_bytes = connection.execute(query).scalar_one()
            self._size_due = time.monotonic() + _SIZE_SECONDS


def connect(url: str, session: str, **options: Any) -> psycopg.Connection[Any]:  # noqa: ANN401
    """Connect as the URL says; what it leaves open is `options`, and `_CONNECT`."""
    known = conninfo_to_dict(url)
    defaults = {**_CONNECT, **options}.items()
    chosen = {name: value for name, value in defaults if name not in known}
    connection = psycopg.connect(url, **chosen)
    try:
        connection.autocommit = True
        connection.execute(session)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


def open_database(url: str) -> Database:
    """Connect, and make the tables where there are none.

    Raises:
        StateError: the server can't be reached or refuses, or the tables are not ours or newer.

    """
    database = Database(url)
    try:
        # The lock is waited for outside of the snapshot in which the tables are looked for.
        options = {"isolation_level": "READ COMMITTED"}
        engine = database.engine.execution_options(**options)
        with engine.begin() as connection:
            connection.execute(select(sa.func.pg_advisory_xact_lock(_LOCK)))
            _prepare(connection, shown(url))
    except StateError:
        database.close()
        raise
    except SQLAlchemyError as error:
        database.close()
        expected = "expected a PostgreSQL server that lets this user make and write tables"
        raise unusable(url, error, expected) from error
    return database


def unusable(url: str, error: Exception, expected: str) -> StateError:
    """Say in one line why the state can't be used, in the driver's words."""
    return StateError(f"state.url: {shown(url)}: {_cause(error)[0]}; {expected}")


def _prepare(connection: Connection, url: str) -> None:
    encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise StateError(f"state.url: {url}: its encoding is {encoding}, expected UTF8")
    locks = int(connection.execute(sa.text("SHOW max_pred_locks_per_transaction")).scalar_one())
    if locks < _PRED_LOCKS:
        line = "replicas will meet in the database more often than they need to (docs/scaling.md)"
        log.info(line, max_pred_locks_per_transaction=locks, expected=_PRED_LOCKS)
    there = set(inspect(connection).get_table_names()) & tables.tables.keys()
    if not there:
        tables.create_all(connection)
        leases.create_all(connection)
        connection.execute(insert(meta).values(schema_version=SCHEMA_VERSION))
        return
    version = check_tables(connection, url)
    if version < SCHEMA_VERSION:
        run_steps(connection, version)
        connection.execute(update(meta).values(schema_version=SCHEMA_VERSION))


def check_tables(connection: Connection, url: str) -> int:
    """Look whether the tables are the exporter's, of a version that we know; return which.

    Raises:
        StateError: they are not.

    """
    found = inspect(connection)
    columns = found.get_columns(meta.name) if found.has_table(meta.name) else []
    if meta.c.schema_version.name not in {column["name"] for column in columns}:
        raise StateError(
            f"state.url: {url}: its tables are another program's; "
            "expected a database, or a schema (options=-csearch_path%3DNAME), of its own"
        )
    version = connection.execute(select(meta.c.schema_version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise StateError(
            f"state.url: {url} has schema version {version}, this program knows up to "
            f"{SCHEMA_VERSION}; start the newer program"
        )
    return int(version)


def _cause(error: Exception) -> tuple[str, str | None]:
    """Return the driver's words, in one line, and its SQLSTATE."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split()) or type(cause).__name__, getattr(cause, "sqlstate", None)
