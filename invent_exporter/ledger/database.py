"""The database behind a ledger: one process has a SQLite file, several share a PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter.config.state import POSTGRESQL
from invent_exporter.errors import StateError, StorageError
from invent_exporter.ledger import sqlite


class Database(Protocol):
    """What a ledger needs beyond SQL; only `size_bytes` and `room_bytes` may be asked anywhere."""

    is_shared: bool
    """Other processes write, too; and it is behind a network: a commit may be in doubt."""

    @property
    def engine(self) -> Engine:
        """Begin transactions here, each as strict as if it were alone."""

    @property
    def leased(self) -> Engine:
        """Begin those here that keep to the rows of an org whose lease they hold."""

    def lock_runs(self, connection: Connection, run_ids: Iterable[str]) -> None:
        """Let nobody else read or write these runs, of whatever org, until the transaction ends."""

    def size_bytes(self) -> int:
        """Tell how large it is, as far as is known; 0 for one in memory."""

    def room_bytes(self) -> float:
        """Tell how much it may grow; `inf` when nobody knows."""

    def failure(self, error: Exception) -> StorageError:
        """Say what a failed transaction means, and do what can help the next one."""

    def close(self) -> None:
        """Let go of it, also of what is under way."""


def open_database(url: str) -> Database:
    """Open or create the database of a `state.url`.

    Raises:
        StateError: it can't be used: it is newer, damaged, not ours, held by another process, not
            writable or not there.

    """
    if not url.startswith(POSTGRESQL):
        return sqlite.open_database(url)
    from invent_exporter.ledger import postgres  # noqa: PLC0415 (its driver is an extra)

    return postgres.open_database(url)


@contextmanager
def alone(url: str) -> Iterator[Connection]:
    """Begin a transaction while no other process has the state in use, and keep others out of it.

    Raises:
        StateError: one has, or it can't be used.

    """
    if url.startswith(POSTGRESQL):
        from invent_exporter.ledger import postgres_commands  # noqa: PLC0415 (its driver is an extra)

        with postgres_commands.alone(url) as connection:
            yield connection
        return
    database = sqlite.open_database(url)
    try:
        with database.engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise StateError(f"state.url: {url}: {database.failure(error)}") from error
    finally:
        database.close()
