"""The `migrate` command: copies all that is known to another state, in one transaction there.

Nobody may use either meanwhile. The source is only read: whatever fails, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter.commands.backfill_progress import Bar
from invent_exporter.config.state import shown
from invent_exporter.errors import StateError, UsageError
from invent_exporter.ledger import schema
from invent_exporter.ledger.database import alone
from invent_exporter.ledger.lock import held
from invent_exporter.ledger.place import place_of
from invent_exporter.ledger.reading import reading

_ROWS = 1000
"""So many are in memory."""
_COPIED = [table for table in schema.tables.sorted_tables if table is not schema.meta]


def migrate(source_url: str, target_url: str) -> str:
    """Copy what is known; say how much it was.

    Raises:
        UsageError: one of them keeps nothing, or both are the same.
        StateError: one is in use or can't be used, or the target knows orgs; nothing was copied.

    """
    for flag, url in (("--from", source_url), ("--to", target_url)):
        if url == "sqlite://":
            raise UsageError(
                f"{flag}: sqlite:// keeps nothing: expected sqlite:/// or postgresql://"
            )
    source_file, target_file = place_of(source_url), place_of(target_url)
    is_one_file = source_file and target_file and source_file.real == target_file.real
    if source_url == target_url or is_one_file:
        raise UsageError("--to: the same as --from: expected another state")
    with _source(source_url) as source, _target(target_url) as target:
        counts = {table: _count(source, table) for table in _COPIED}
        with Bar("rows", sum(counts.values())) as bar:
            for table in _COPIED:
                _copy(table, source, target, bar)
        for table, rows in counts.items():
            if (found := _count(target, table)) != rows:
                raise StateError(f"{table.name}: {rows} rows were read and {found} written")
        if _counted(source) != _counted(target):
            raise StateError("run: the rows that were written do not count what was read")
    of_each = ", ".join(f"{rows} rows of {table.name}" for table, rows in counts.items() if rows)
    return f"ok: {of_each or 'nothing was known'}"


@contextmanager
def _source(url: str) -> Iterator[Connection]:
    with reading(url) as state:  # before anything is made there
        if state is None:
            raise StateError(f"--from: {shown(url)}: no state; expected that of serve")
        if state.file is None:
            with alone(url) as connection:
                yield connection
            return
        with held(state.file.path), reading(url) as resting:
            if resting is not None:
                yield resting.connection


@contextmanager
def _target(url: str) -> Iterator[Connection]:
    with alone(url) as connection:
        known = connection.execute(select(schema.org.c.org_id, schema.org.c.alias)).all()
        if known:
            names = ", ".join(sorted(row.org_id or row.alias for row in known))
            raise StateError(f"--to: {shown(url)} knows orgs: {names}; expected a state with none")
        yield connection


def _copy(table: Table, source: Connection, target: Connection, bar: Bar) -> None:
    for rows in _read(table, source):
        schema.put(target, table, rows)
        bar.advance(len(rows))


def _read(table: Table, source: Connection) -> Iterator[list[tuple[object, ...]]]:
    options = {"stream_results": True, "yield_per": _ROWS}
    try:
        for rows in source.execute(select(table), execution_options=options).partitions():
            yield [tuple(row) for row in rows]
    except SQLAlchemyError as error:  # or the target would be blamed
        raise StateError(f"--from: {getattr(error, 'orig', None) or error}") from error


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _counted(connection: Connection) -> set[tuple[object, ...]]:
    """Count the runs that stand in the counters, by org and status."""
    labels = schema.run.c.org, schema.run.c.status
    query = select(*labels, func.count()).where(schema.run.c.counted).group_by(*labels)
    return {tuple(row) for row in connection.execute(query)}
