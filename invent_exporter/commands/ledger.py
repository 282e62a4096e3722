"""The `ledger` command: look whether a state file is whole, copy it, or forget an org."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import Connection

import msgspec
from sqlalchemy import delete, select

from invent_exporter.errors import OutputError, StateError, UsageError
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import WorkflowCounts, series_key
from invent_exporter.ledger.examine import find_damage
from invent_exporter.ledger.files import create_private, sync
from invent_exporter.ledger.reading import State, reading
from invent_exporter.ledger.sqlite import open_database


def verify(state_url: str) -> str:
    """Look at every row of a state file, also while `serve` runs; say what is in it.

    Raises:
        StateError: something is wrong; the text says where.

    """
    with reading(state_url) as found:
        state = _there(found, state_url)
        problem = find_damage(state.connection, state.path) or _find_uncounted(state.connection)
        if problem is not None:
            raise StateError(f"state.url: {state.path}: {problem}; restore it from a backup")
        orgs, workflows, runs = (
            state.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 (names of ours)
            for table in ("org", "workflow", "run")
        )
    return f"ok: {orgs} orgs, {workflows} workflows, {runs} runs"


def _find_uncounted(connection: Connection) -> str | None:
    """Hold the counters against the runs that they count; ids that were pruned are in none."""
    rows: Counter[tuple[int, str, str]] = Counter()
    for org, workflow_id, origin, status, count in connection.execute(_COUNTED):
        rows[org, workflow_id, series_key(origin, status)] = count
    for org, workflow_id, stored in connection.execute(
        "SELECT org, workflow_id, numbers FROM workflow WHERE numbers IS NOT NULL"
    ):
        counts = msgspec.json.decode(stored, type=WorkflowCounts)
        for key, count in counts.finished.items():
            known = rows.pop((org, workflow_id, key), 0)
            if known > count:
                return (
                    f"workflow {workflow_id} counted {count} runs {key}, "
                    f"and {known} rows say that they were counted"
                )
    return None


_COUNTED = (
    "SELECT org, workflow_id, origin, status, count(*) FROM run WHERE counted = 1 "
    "GROUP BY org, workflow_id, origin, status"
)


def backup(state_url: str, file: Path) -> str:
    """Copy a state file as it is at one moment, also while `serve` runs.

    Raises:
        StateError: there is nothing to copy, or it can't be read.
        OutputError: the copy can't be written; nothing is left of it.

    """
    if file.exists():
        raise OutputError(f"{file} exists; expected a file to be made")
    with reading(state_url) as found:
        state = _there(found, state_url)
        try:
            create_private(file)
            with closing(sqlite3.connect(file)) as copy:
                state.connection.backup(copy)
            sync(file)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            raise OutputError(f"{file} could not be written: {error}") from error
    return f"{file}: {file.stat().st_size:,} bytes"


def forget(state_url: str, org_id: str) -> str:
    """Delete all that is known of an org; `serve` must not run. The next contact is its first.

    Raises:
        StateError: the file can't be used, or is in use.
        UsageError: no such org is known.

    """
    org_id = org_id.encode("utf-8", "backslashreplace").decode()  # a flag may be any bytes
    with reading(state_url) as found:
        _there(found, state_url)
    database = open_database(state_url)
    try:
        with database.engine.begin() as connection:
            named = (schema.org.c.org_id == org_id) | (schema.org.c.alias == org_id)
            keys = connection.execute(select(schema.org.c.org).where(named)).scalars().all()
            if not keys:
                known = connection.execute(select(schema.org.c.org_id)).scalars().all()
                listed = ", ".join(sorted(filter(None, known))) or "none"
                raise UsageError(f"ledger forget: org {org_id} is not known; known are: {listed}")
            rows = 0
            for table in (schema.run, schema.workflow, schema.invalid, schema.org):
                rows += connection.execute(delete(table).where(table.c.org.in_(keys))).rowcount
    finally:
        database.close()
    return f"forgot org {org_id}: {rows} rows"


def _there(state: State | None, state_url: str) -> State:
    if state is None:
        raise StateError(f"state.url: {state_url} is no state file; expected that of `serve`")
    return state
