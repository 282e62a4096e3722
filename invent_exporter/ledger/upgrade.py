"""Brings a state file of an older version up to date: a copy beside it first, then one transaction.

Schema 2 adds when first contact was; an org of an older file has none, and keeps its bound. It also
adds to each run what `explain` tells, and the table of sub-orgs. Ids are written escaped, so that
none has a character that a label or another database refuses.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import cast

from sqlalchemy import Connection, select, update
from sqlalchemy.engine import Engine

from invent_exporter.api.models import escape
from invent_exporter.errors import StateError
from invent_exporter.ledger.files import copy_to
from invent_exporter.ledger.place import Place
from invent_exporter.ledger.schema import SCHEMA_VERSION, meta, sub_org

_IDS = {
    "run": ("run_id", "workflow_id"),
    "workflow": ("workflow_id",),
    "org": ("org_id",),
    "invalid": ("run_key",),
}


def upgrade(engine: Engine, path: Place) -> None:
    """Do what leads from the file's version to this program's; nothing when it has that one.

    Raises:
        StateError: there is no room for the copy; the file is as it was.

    """
    with engine.connect() as connection:
        version = connection.execute(select(meta.c.schema_version)).scalar_one()
    if version == SCHEMA_VERSION:
        return
    try:
        copy_to(engine, path.beside(f".schema-{version}"))
    except OSError as error:
        raise StateError(
            f"state.url: {error}; room for a copy of the state file is expected beside it, "
            "before it is upgraded"
        ) from error
    with engine.begin() as connection:
        run_steps(connection, version)
        connection.execute(update(meta).values(schema_version=SCHEMA_VERSION))


def run_steps(connection: Connection, version: int) -> None:
    """Do what leads from a version to this program's; from 2 on in PostgreSQL, too."""
    for step in range(version, SCHEMA_VERSION):
        _STEPS[step](connection)


def _to_2(connection: Connection) -> None:
    sub_org.create(connection)
    connection.exec_driver_sql("ALTER TABLE org ADD COLUMN contact FLOAT")
    for column in ("met FLOAT", "met_by TEXT", "counted_at FLOAT", "duration FLOAT", "queue FLOAT"):
        connection.exec_driver_sql(f"ALTER TABLE run ADD COLUMN {column}")
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    driver.create_function("escaped", 1, lambda text: text and escape(text), deterministic=True)
    for table, columns in _IDS.items():
        for column in columns:
            # In two steps, because one id may be another's escape. Only names of this module stand
            # in the statements, and no escaped id begins with the mark.
            for change, where in (
                (f"char(1) || escaped({column})", f"{column} != escaped({column})"),
                (f"substr({column}, 2)", f"substr({column}, 1, 1) = char(1)"),
            ):
                connection.exec_driver_sql(f"UPDATE {table} SET {column} = {change} WHERE {where}")  # noqa: S608


_STEPS: dict[int, Callable[[Connection], None]] = {1: _to_2}
