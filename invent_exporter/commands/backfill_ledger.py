"""What the ledger says of the past, read while `serve` may be running, and without a trace.

A reader must neither take `serve`'s lock nor leave files behind: SQLite would make a log and its
index for a file that nobody has open, with the rights of whoever runs this command.
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

import msgspec

from invent_exporter.errors import StateError
from invent_exporter.ledger.examine import APPLICATION_ID
from invent_exporter.ledger.schema import SCHEMA_VERSION


class KnownOrg(msgspec.Struct, frozen=True):
    """An org that had its first contact; `alias` is `c` for the one that `c` stands for.

    `live` are runs that the live counters have, or will have when they end, though they may be of
    before `contact_seconds`; `history` those that they never will, though they ended after it.
    """

    org_id: str
    alias: str | None
    contact_seconds: float
    live: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    workflows: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()


def read_ledger(state_url: str) -> list[KnownOrg]:
    """Read what is committed of each org; nothing where there is no state file.

    Raises:
        StateError: the file can't be read, is not the exporter's, or of another version.

    """
    if not state_url.startswith("sqlite://"):
        raise StateError("state.url: backfill can read sqlite:/// alone")
    path = Path(state_url.removeprefix("sqlite:///"))
    if state_url == "sqlite://" or not path.exists() or not path.stat().st_size:
        return []
    try:
        with _opened(path) as connection:
            connection.execute("BEGIN")
            _check(connection, path)
            rows = connection.execute(_ORGS).fetchall()
            return [_org(connection, path, _OrgRow(*row)) for row in rows]
    except (sqlite3.Error, OSError) as error:
        raise StateError(f"state.url: {path} can't be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    if not log.exists():
        # Nobody has it open, and all of it is in the one file.
        before = path.stat()
        with closing(_connect(path, "mode=ro&immutable=1")) as connection:
            yield connection
        if log.exists() or path.stat().st_mtime_ns != before.st_mtime_ns:
            raise StateError(f"state.url: {path} was opened meanwhile; run the same command again")
    elif index.exists():
        with closing(_connect(path, "mode=ro")) as connection:
            yield connection
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(path, folder))
            shutil.copy(log, folder)
            with closing(_connect(copy, "mode=rw")) as connection:
                yield connection


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StateError(f"state.url: {path} is another program's SQLite file")
    (version,) = connection.execute("SELECT max(schema_version) FROM meta").fetchone()
    if version != SCHEMA_VERSION:
        raise StateError(
            f"state.url: {path} has schema version {version}, expected {SCHEMA_VERSION}; "
            "let `serve` of this version open it first"
        )


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

    return KnownOrg(
        name, row.alias, row.contact, ids(_LIVE), ids(_HISTORY), ids(_WORKFLOWS), ids(_FOLDED)
    )


_ORGS = "SELECT org, org_id, alias, contacted, contact FROM org"
_OF_RUNS = "SELECT run_id FROM run WHERE org = :org AND owned = 1 AND"
# Only what the time of the contact does not decide by itself, so that few are kept in memory.
_LIVE = f"{_OF_RUNS} (counted = 1 OR final = 0) AND min(created, since) <= :contact"
_HISTORY = (
    f"{_OF_RUNS} counted = 0 AND final = 1 AND max(created, since, ifnull(updated, 0)) > :contact"
)
_WORKFLOWS = "SELECT workflow_id FROM workflow WHERE org = :org AND numbers IS NOT NULL"
_FOLDED = "SELECT workflow_id FROM workflow WHERE org = :org AND numbers IS NULL"
