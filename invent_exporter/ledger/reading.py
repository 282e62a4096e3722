"""Reads the state while `serve` may be running, and without a trace.

A reader of a file must neither take `serve`'s lock nor leave files behind: SQLite would make a log
and its index for a file that nobody has open, with the rights of whoever runs the command.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from invent_exporter.config.state import POSTGRESQL, shown
from invent_exporter.errors import StateError
from invent_exporter.ledger.examine import APPLICATION_ID
from invent_exporter.ledger.place import Place, place_of
from invent_exporter.ledger.schema import SCHEMA_VERSION


class StateFile(NamedTuple):
    """A file, and SQLite's own connection to it."""

    path: Place
    connection: sqlite3.Connection


class State(NamedTuple):
    """State that is read, as it was committed at one moment; `place` is where, for messages."""

    place: str
    connection: Connection
    file: StateFile | None = None


@contextmanager
def reading(state_url: str) -> Iterator[State | None]:
    """Read what is committed; None where there is nothing yet.

    Raises:
        StateError: it can't be read, is not the exporter's, or of another version.

    """
    if state_url.startswith(POSTGRESQL):
        from invent_exporter.ledger import postgres_commands  # noqa: PLC0415 (its driver is an extra)

        with postgres_commands.reading(state_url) as connection:
            yield None if connection is None else State(shown(state_url), connection)
        return
    path = place_of(state_url)
    if path is None or not path.real.exists() or not path.real.stat().st_size:
        yield None
        return
    try:
        with _opened(path) as opened:
            opened.execute("BEGIN")
            _check(opened, path)
            engine = create_engine("sqlite://", creator=lambda: opened, poolclass=StaticPool)
            with engine.connect() as connection:
                yield State(str(path), connection, StateFile(path, opened))
    except (sqlite3.Error, SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StateError(f"state.url: {path} can't be read: {cause}") from error


@contextmanager
def _opened(path: Place) -> Iterator[sqlite3.Connection]:
    log, index = path.beside("-wal"), path.beside("-shm")
    if not log.exists():
        # Nobody has it open, and all of it is in the one file.
        before = path.real.stat()
        with closing(_connect(path.real, "mode=ro&immutable=1")) as connection:
            yield connection
        if log.exists() or path.real.stat().st_mtime_ns != before.st_mtime_ns:
            raise StateError(f"state.url: {path} was opened meanwhile; run the same command again")
    elif index.exists():
        with closing(_connect(path.real, "mode=ro")) as connection:
            yield connection
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(path.real, folder))
            shutil.copy(log, folder)
            with closing(_connect(copy, "mode=rw")) as connection:
                yield connection


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)


def _check(connection: sqlite3.Connection, path: Place) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StateError(f"state.url: {path} is another program's SQLite file")
    (version,) = connection.execute("SELECT max(schema_version) FROM meta").fetchone()
    if version != SCHEMA_VERSION:
        raise StateError(
            f"state.url: {path} has schema version {version}, expected {SCHEMA_VERSION}; "
            "let `serve` of this version open it first"
        )
