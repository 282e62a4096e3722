"""Looks at a state file before anything is written: is it ours, is it whole, can it be understood.

One that this program can't use stops the start, with one line, and is left as it is. SQLite's own
check sees pages, not what is in them: hence a look at each row.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import sqlalchemy as sa

from invent_exporter.errors import StateError, escaped
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import OrgCounts, WorkflowCounts
from invent_exporter.ledger.place import Place
from invent_exporter.scan.poll import ScanState

APPLICATION_ID = 0x1E7E17
"""Stands in the header of a SQLite file, so that another program's file is not taken for ours."""

_SQLITE_MAGIC = b"SQLite format 3\x00"
_KINDS = {sa.Text: ("text",), sa.Float: ("real", "integer")}
_WHOLE = ("integer",)
_JSON: dict[sa.Column[Any], Any] = {
    schema.org.c.scan: ScanState,
    schema.org.c.counts: OrgCounts,
    schema.workflow.c.counts: WorkflowCounts,
    schema.run.c.steps: dict[str, float],
}


def is_blank(path: Place) -> bool:
    """Tell whether nothing is in the file yet, or there is none; reads only.

    Raises:
        StateError: it is damaged, newer, not ours or not writable.

    """
    log = path.beside("-wal")
    if not path.real.exists() or path.real.stat().st_size == 0:
        if log.exists() and log.stat().st_size:
            raise StateError(
                f"state.url: {path} is empty or gone, and its log {log.name} is not; "
                "restore both from a backup, or move both away to start anew from 0"
            )
        return True
    _refuse_others(path)
    mode = "ro" if log.exists() else "ro&immutable=1"
    with closing(sqlite3.connect(f"{path.real.as_uri()}?mode={mode}", uri=True)) as connection:
        try:
            application = _ask(connection, "PRAGMA application_id")
            if application == 0 and _ask(connection, "SELECT count(*) FROM sqlite_master") == 0:
                return True
            if application != APPLICATION_ID:
                raise StateError(f"state.url: {path} is another program's SQLite file")
            problem = find_damage(connection, path)
        except sqlite3.DatabaseError as error:
            problem = str(error)
    if problem is not None:
        raise StateError(
            f"state.url: {path} is damaged ({' '.join(problem.split())}); "
            "restore it from a backup, or move it away to start anew from 0"
        )
    return False


def _refuse_others(path: Place) -> None:
    if not os.access(path.real, os.W_OK):
        raise StateError(f"state.url: {path} can't be written; a writable file is expected")
    with path.real.open("rb") as file:
        header = file.read(100)
    if not header.startswith(_SQLITE_MAGIC):
        raise StateError(
            f"state.url: {path} is not a SQLite file, or a damaged one; "
            "restore it, or move it away to start anew from 0"
        )


def _ask(connection: sqlite3.Connection, question: str) -> object:
    return connection.execute(question).fetchone()[0]


def find_damage(connection: sqlite3.Connection, path: Place) -> str | None:
    """Say what is wrong and where; None when nothing is."""
    problem = _ask(connection, "PRAGMA quick_check(1)")
    if problem != "ok":
        return str(problem)
    version = _ask(connection, "SELECT max(schema_version) FROM meta")
    if not isinstance(version, int) or version > schema.SCHEMA_VERSION:
        raise StateError(
            f"state.url: {path} has schema version {version}, this program knows up to "
            f"{schema.SCHEMA_VERSION}; start the newer program, or move the file away to start "
            "from 0"
        )
    is_current = version == schema.SCHEMA_VERSION
    every = schema.tables.sorted_tables
    tables = [table for table in every if table.info.get("since_version", 1) <= version]
    found = (_find_bad_row(connection, table, is_current=is_current) for table in tables)
    return next((place for place in found if place is not None), None)


def find_bad_json(connection: sa.Connection) -> str | None:
    """Say where the first JSON stands that is not what its column holds; None when all is."""
    for column, kind in _JSON.items():
        decode = msgspec.json.Decoder(kind).decode
        keys = [*column.table.primary_key]
        query = sa.select(column, *keys).where(column.is_not(None))
        for value, *row in connection.execution_options(stream_results=True).execute(query):
            try:
                decode(value)
            except msgspec.DecodeError as error:
                named = (f"{key.name} {each}" for key, each in zip(keys, row, strict=True))
                where = ", ".join(sorted(named))
                return f"table {column.table.name}, {where}: {column.name} has bad JSON: {error}"
    return None


def _find_bad_row(
    connection: sqlite3.Connection, table: sa.Table, *, is_current: bool
) -> str | None:
    """Say where the first value stands that is not what its column holds."""
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
    columns = [column for column in table.c if column.name in there]
    lacks = [column.name for column in table.c if column.name not in there]
    if lacks and (is_current or not columns):
        return f"table {table.name} lacks {', '.join(lacks)}"
    cases = [f"WHEN NOT {_fits(column)} THEN {index}" for index, column in enumerate(columns)]
    wrong_column = f"CASE {' '.join(cases)} END"
    if _are_sound(connection, columns):
        return None
    names = ", ".join(column.name for column in columns)
    # Only names of this module stand in the statement.
    query = f"SELECT {wrong_column}, {names} FROM {table.name}"  # noqa: S608
    connection.text_factory = bytes
    for wrong, *values in connection.execute(query):
        problem = _problem(columns, values) if wrong is None else (columns[wrong], "another type")
        if problem is not None:
            column, what = problem
            keys = [
                f"{each.name} {_shown(value)}"
                for each, value in zip(columns, values, strict=True)
                if each.primary_key
            ]
            return f"table {table.name}, {', '.join(sorted(keys))}: {column.name} has {what}"
    connection.text_factory = str
    return None


def _are_sound(connection: sqlite3.Connection, columns: list[sa.Column[Any]]) -> bool:
    """Read all that can be wrong, the quick way: in SQLite and the driver, a microsecond a row."""
    table = columns[0].table.name
    numbers, texts = ["0"], ["''"]
    for column in (each for each in columns if each not in _JSON):
        values, default = (texts, "''") if isinstance(column.type, sa.Text) else (numbers, "0")
        values.append(f"coalesce({column.name}, {default})" if column.nullable else column.name)
    # All numbers come before all texts, those before all that is neither, and null is nothing.
    are_typed = f"max({', '.join(numbers)}) < '' AND max({', '.join(texts)}) < x''"
    query = f"SELECT CASE WHEN {are_typed} THEN {' || char(10) || '.join(texts)} END FROM {table}"  # noqa: S608
    try:
        if (None,) in connection.execute(query):
            return False
        for column in columns:
            if column in _JSON:
                decode = msgspec.json.Decoder(_JSON[column]).decode
                query = f"SELECT {column.name} FROM {table} WHERE {column.name} IS NOT NULL"  # noqa: S608
                for (value,) in connection.execute(query):
                    decode(value)
    except (sqlite3.OperationalError, msgspec.DecodeError):
        return False  # the driver decodes texts, and says no more than that it can't
    return True


def _fits(column: sa.Column[Any]) -> str:
    kinds = next((kinds for kind, kinds in _KINDS.items() if isinstance(column.type, kind)), _WHOLE)
    allowed = (*kinds, "null") if column.nullable else kinds
    return f"typeof({column.name}) IN ({', '.join(map(repr, allowed))})"


def _problem(columns: list[sa.Column[Any]], values: list[Any]) -> tuple[sa.Column[Any], str] | None:
    for column, value in zip(columns, values, strict=True):
        if isinstance(value, bytes):
            try:
                if column in _JSON:
                    msgspec.json.decode(value, type=_JSON[column])
                else:
                    value.decode()
            except UnicodeDecodeError:
                return column, "bad UTF-8"
            except msgspec.DecodeError as error:
                return column, f"bad JSON: {error}"
    return None


def _shown(key: object) -> str:
    return escaped(key.decode(errors="replace"), 60) if isinstance(key, bytes) else str(key)
