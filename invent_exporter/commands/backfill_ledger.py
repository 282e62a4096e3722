"""What the ledger says of the past."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

import msgspec

from invent_exporter.errors import StateError
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
    if not state_url.startswith("sqlite://"):
        raise StateError("state.url: backfill can read sqlite:/// alone")
    with reading(state_url) as state:
        if state is None:
            return []
        rows = state.connection.execute(_ORGS).fetchall()
        return [_org(state.connection, state.path, _OrgRow(*row)) for row in rows]


class _OrgRow(NamedTuple):
    org: int
    org_id: str | None
    alias: str | None
    contacted: int
    contact: float | None


def _org(connection: sqlite3.Connection, path: Path, row: _OrgRow) -> KnownOrg:
    name = row.org_id or row.alias or ""
    if not row.contacted or row.org_id is None:
        raise StateError(f"state.url: {path}: first contact with {name} is not complete; wait")
    if row.contact is None:
        raise StateError(
            f"state.url: {path}: the ledger of {name} was begun by version 0.1.0, which did not "
            "note when first contact was: what it counted can't be told from history"
        )
    key = {"org": row.org, "contact": row.contact}

    def ids(query: str) -> frozenset[str]:
        return frozenset(name for (name,) in connection.execute(query, key))

    known = map(ids, (_LIVE, _HISTORY, _MET, _WORKFLOWS, _FOLDED))
    return KnownOrg(name, row.alias, row.contact, *known)


_ORGS = "SELECT org, org_id, alias, contacted, contact FROM org"
_OF_RUNS = "SELECT run_id FROM run WHERE org = :org AND owned = 1 AND"
# Only what the time of the contact does not decide by itself, so that few are kept in memory.
_LIVE = f"{_OF_RUNS} (counted = 1 OR final = 0) AND min(created, since) <= :contact"
_HISTORY = (
    f"{_OF_RUNS} counted = 0 AND final = 1 AND max(created, since, ifnull(updated, 0)) > :contact"
)
_MET = f"{_OF_RUNS} met_by = 'contact' AND created > :contact"
_WORKFLOWS = "SELECT workflow_id FROM workflow WHERE org = :org AND numbers IS NOT NULL"
_FOLDED = "SELECT workflow_id FROM workflow WHERE org = :org AND numbers IS NULL"
