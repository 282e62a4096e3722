"""The `ledger` command: look whether the state is whole, copy it, or forget an org."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import msgspec
from sqlalchemy import Connection, delete, func, select

from invent_exporter.config.state import shown
from invent_exporter.errors import OutputError, StateError, UsageError
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import WorkflowCounts, series_key
from invent_exporter.ledger.database import alone
from invent_exporter.ledger.examine import find_bad_json, find_damage
from invent_exporter.ledger.files import create_private, sync
from invent_exporter.ledger.reading import State, reading


def verify(state_url: str) -> str:
    """Look at every row of a state file, also while `serve` runs; say what is in it.

    Raises:
        StateError: something is wrong; the text says where.

    """
    with reading(state_url) as found:
        state = _there(found, state_url)
        if state.file is None:  # the server sees to the types of values
            problem = find_bad_json(state.connection)
        else:
            problem = find_damage(state.file.connection, state.file.path)
        problem = problem or _find_uncounted(state.connection)
        if problem is not None:
            raise StateError(f"state.url: {state.place}: {problem}; restore it from a backup")
        orgs, workflows, runs = (
            state.connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (schema.org, schema.workflow, schema.run)
        )
    return f"ok: {orgs} orgs, {workflows} workflows, {runs} runs"


def _find_uncounted(connection: Connection) -> str | None:
    """Hold the counters against the runs that they count; ids that were pruned are in none."""
    rows: Counter[tuple[int, str, str]] = Counter()
    run, workflow = schema.run.c, schema.workflow.c
    series = run.org, run.workflow_id, run.origin, run.status
    counted = select(*series, func.count()).where(run.counted).group_by(*series)
    for org, workflow_id, origin, status, count in connection.execute(counted):
        rows[org, workflow_id, series_key(origin, status)] = count
    known = select(workflow.org, workflow.workflow_id, workflow.counts)
    for org, workflow_id, stored in connection.execute(known.where(workflow.counts.is_not(None))):
        counts = msgspec.json.decode(stored, type=WorkflowCounts)
        for key, count in counts.finished.items():
            of_rows = rows.pop((org, workflow_id, key), 0)
            if of_rows > count:
                return (
                    f"workflow {workflow_id} counted {count} runs {key}, "
                    f"and {of_rows} rows say that they were counted"
                )
    return None


def backup(state_url: str, file: Path) -> str:
    """Copy a state file as it is at one moment, also while `serve` runs.

    Raises:
        StateError: there is nothing to copy, or it can't be read.
        UsageError: it is not in a file.
        OutputError: the copy can't be written; nothing is left of it.

    """
    if file.exists():
        raise OutputError(f"{file} exists; expected a file to be made")
    with reading(state_url) as found:
        state = _there(found, state_url).file
        if state is None:
            raise UsageError("ledger backup copies a file: expected pg_dump for PostgreSQL")
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
    with alone(state_url) as connection:
        named = (schema.org.c.org_id == org_id) | (schema.org.c.alias == org_id)
        found_orgs = select(schema.org.c.org, schema.org.c.org_id, schema.org.c.alias).where(named)
        orgs = connection.execute(found_orgs).all()
        if not orgs:
            known = connection.execute(select(schema.org.c.org_id)).scalars().all()
            listed = ", ".join(sorted(filter(None, known))) or "none"
            raise UsageError(f"ledger forget: org {org_id} is not known; known are: {listed}")
        keys, *names = zip(*orgs, strict=True)
        listed_by = schema.sub_org.c.parent.in_(filter(None, chain(*names)))
        rows = connection.execute(delete(schema.sub_org).where(listed_by)).rowcount
        for table in (schema.run, schema.workflow, schema.invalid, schema.org):
            rows += connection.execute(delete(table).where(table.c.org.in_(keys))).rowcount
    return f"forgot org {org_id}: {rows} rows"


def _there(state: State | None, state_url: str) -> State:
    if state is None:
        raise StateError(f"state.url: {shown(state_url)}: no state; expected that of serve")
    return state
