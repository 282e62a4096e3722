"""What the ledger says of the past."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, or_, select

from invent_exporter.errors import StateError
from invent_exporter.ledger import schema
from invent_exporter.ledger.reading import reading


class KnownOrg(msgspec.Struct, frozen=True):
    """An org that had its first contact; `alias` is `c` for the one that `c` stands for.

    `live` are runs that the live counters have, or will have when they end, though they may be of
    before `contact_seconds`; `history` those that they never will, though they ended after it;
    `met` those that first contact met, though they were created after it: `Date` is cut to seconds.
    """

    org_id: str
    alias: str | None
    contact_seconds: float
    live: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    met: frozenset[str] = frozenset()
    workflows: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()


def read_ledger(state_url: str) -> list[KnownOrg]:
    """Read what is committed of each org; nothing where there is no state file.

    Raises:
        StateError: the file can't be read, is not the exporter's, or of another version.

    """
    with reading(state_url) as state:
        if state is None:
            return []
        rows = state.connection.execute(select(schema.org)).all()
        return [_org(state.connection, state.place, row) for row in rows]


def _org(connection: Connection, place: str, row: Row[Any]) -> KnownOrg:
    name = row.org_id or row.alias or ""
    if not row.contacted or row.org_id is None:
        raise StateError(f"state.url: {place}: first contact with {name} is not complete; wait")
    if row.contact is None:
        raise StateError(
            f"state.url: {place}: the ledger of {name} was begun by version 0.1.0, which did not "
            "note when first contact was: what it counted can't be told from history"
        )
    run, workflow, contact = schema.run.c, schema.workflow.c, row.contact

    def ids(*where: ColumnElement[bool]) -> frozenset[str]:
        query = select(run.run_id).where(run.org == row.org, *where)
        return frozenset(connection.execute(query).scalars())

    def names(where: ColumnElement[bool]) -> frozenset[str]:
        query = select(workflow.workflow_id).where(workflow.org == row.org, where)
        return frozenset(connection.execute(query).scalars())

    # Only what the time of the contact does not decide by itself, so that few are kept in memory.
    began_before = or_(run.created <= contact, run.since <= contact)
    went_on_behind = or_(run.created > contact, run.since > contact, run.updated > contact)
    return KnownOrg(
        name,
        row.alias,
        contact,
        live=ids(run.owned, or_(run.counted, ~run.final), began_before),
        history=ids(run.owned, ~run.counted, run.final, went_on_behind),
        met=ids(run.owned, run.met_by == "contact", run.created > contact),
        workflows=names(workflow.counts.is_not(None)),
        folded=names(workflow.counts.is_(None)),
    )
