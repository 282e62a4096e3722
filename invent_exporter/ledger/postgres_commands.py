"""How commands get at a PostgreSQL state: to read it beside `serve`, or alone with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, create_engine, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from invent_exporter.config.state import shown
from invent_exporter.errors import StateError
from invent_exporter.ledger.postgres import check_tables, connect, open_database, unusable
from invent_exporter.ledger.schema import SCHEMA_VERSION, leases, meta, replica, tables

_READS: Final = "SET default_transaction_read_only = on"
_WAITS: Final = "SET lock_timeout = '5s'"
_NUMBER_ON: Final = sa.text(
    "SELECT setval(pg_get_serial_sequence('org', 'org'), max(org)) FROM org HAVING max(org) > 0"
)
"""A new org gets the number after those that were copied."""


@contextmanager
def reading(url: str) -> Iterator[Connection | None]:
    """Read what is committed at one moment, of a standby too; None where there are no tables.

    Raises:
        StateError: the server can't be reached, or the tables are not ours, or of another version.

    """
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, _READS, target_session_attrs="any"),
        isolation_level="REPEATABLE READ",
        poolclass=NullPool,
    )
    try:
        with engine.connect() as connection:
            is_there = inspect(connection).has_table(meta.name)
            if is_there and check_tables(connection, shown(url)) < SCHEMA_VERSION:
                raise StateError(
                    f"state.url: {shown(url)} is of an older version; "
                    "let `serve` of this version open it first"
                )
            yield connection if is_there else None
    except SQLAlchemyError as error:
        expected = "expected a PostgreSQL server that lets this user read the tables"
        raise unusable(url, error, expected) from error


@contextmanager
def alone(url: str) -> Iterator[Connection]:
    """Begin a transaction, as long as it may be, in which nobody else writes or holds a lease.

    Raises:
        StateError: somebody does, or the tables can't be used.

    """
    open_database(url).close()
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: connect(url, _WAITS), poolclass=NullPool
    )
    names = ", ".join(table.name for table in (*tables.sorted_tables, *leases.sorted_tables))
    now = sa.extract("epoch", sa.func.clock_timestamp())
    alive = select(replica.c.name, replica.c.until - now).where(replica.c.until > now)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
            for name, seconds in connection.execute(alive):
                raise StateError(
                    f"state.url: {shown(url)} is in use by replica {name}; stop it, "
                    f"or if it is gone wait {seconds:.0f} s for its leases to end"
                )
            yield connection
            connection.execute(_NUMBER_ON)
    except SQLAlchemyError as error:
        raise unusable(url, error, "expected tables that nobody else uses") from error
