"""The ledger's tables. Every one carries the org, so that replicas can share a database.

A table's columns are written once: those of `run` are the fields of `RunRow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

import msgspec
import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Connection, Float, Index, Integer, Table, Text
from sqlalchemy.dialects.sqlite import insert

SCHEMA_VERSION = 2

tables = sa.MetaData()


class RunRow(msgspec.Struct, gc=False):
    """A row of `run`: what is kept of one run as long as it may be met again."""

    run_id: str
    org: int
    workflow_id: str
    origin: str
    status: str
    final: bool
    owned: bool  # False: it belongs to another polled org
    counted: bool  # it stands in the counters
    walk: int  # the walk that saw its last change
    created: float
    since: float  # open: since when it is in its status; final: when it ended
    updated: float | None
    seen: float  # our time of its last change
    absent: int = 0  # complete searches without it; 2: vanished
    revised: str | None = None  # the final status that it was changed to after it was counted
    credits_ai: float | None = None
    credits_other: float | None = None
    steps: str | None = None  # credits by step, JSON, where they are counted
    # For people who ask why a run counted, or did not: nothing depends on it.
    met: float | None = None  # our time when it was first seen; null: by 0.1.0
    met_by: str | None = None  # contact, poll or reconciliation
    counted_at: float | None = None
    duration: float | None = None
    queue: float | None = None


class SubOrgRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `sub_org`: an org as one that lists it told it last; None is not known."""

    parent: str  # its real id; `c` until that is known
    org_id: str
    seen: float  # our time when it was listed last
    name: str | None = None
    balance_credits: float | None = None
    promo_balance_credits: float | None = None
    spending_cap_credits: float | None = None
    spending_cap_used_credits: float | None = None


_TYPES = {str: Text, int: Integer, float: Float, bool: Boolean}


def _columns(struct: type[msgspec.Struct], *primary: str) -> list[Column[Any]]:
    columns: list[Column[Any]] = []
    for field in msgspec.structs.fields(struct):
        kind, *null = get_args(field.type) or [field.type]
        is_primary = field.name in primary
        columns.append(
            Column(field.name, _TYPES[kind], primary_key=is_primary, nullable=bool(null))
        )
    return columns


meta = Table("meta", tables, Column("schema_version", Integer, nullable=False))

org = Table(
    "org",
    tables,
    Column("org", Integer, primary_key=True),
    Column("org_id", Text, unique=True, doc="the real id; null until a run of `c` names one"),
    Column("alias", Text, doc="`c`, when that is how the configuration names it"),
    Column("settled_walk", Integer, nullable=False, doc="rows of walks up to this are settled"),
    Column("contacted", Integer, nullable=False, doc="1 once first contact was complete"),
    Column("floor", Float, nullable=False, doc="unknown final runs created before are history"),
    Column("scan", Text, nullable=False, doc="what the scan learned, JSON"),
    Column("numbers", Text, key="counts", nullable=False, doc="the org's own counters, JSON"),
    Column("contact", Float, doc="what ended until then is history; null: of schema 1, `floor` is"),
)

workflow = Table(
    "workflow",
    tables,
    Column("org", Integer, primary_key=True),
    Column("workflow_id", Text, primary_key=True),
    Column("numbers", Text, key="counts", doc="every series of the workflow, JSON; null: folded"),
    sqlite_with_rowid=False,
)

run = Table("run", tables, *_columns(RunRow, "run_id", "org"), sqlite_with_rowid=False)
Index("run_open", run.c.org, run.c.workflow_id, sqlite_where=~run.c.final)
Index(
    "run_failed", run.c.org, run.c.workflow_id, run.c.since, sqlite_where=run.c.status == "FAILED"
)
Index("run_created", run.c.org, run.c.created)

invalid = Table(
    "invalid",
    tables,
    Column("org", Integer, primary_key=True),
    Column("run_key", Text, primary_key=True, doc="the run's id, else a digest of its bytes"),
    Column("reason", Text, primary_key=True),
    Column("seen", Float, nullable=False),
    sqlite_with_rowid=False,
)

sub_org = Table(
    "sub_org",
    tables,
    *_columns(SubOrgRow, "parent", "org_id"),
    sqlite_with_rowid=False,
    info={"since_version": 2},
)


def put(connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
    """Write whole rows, in the order of the table's columns, in place of those with their keys.

    By the driver's own executemany: SQLAlchemy would put together each row's parameters anew,
    which made recording a page a quarter slower.
    """
    if rows:
        connection.exec_driver_sql(_upsert(table, connection.dialect), list(rows))


@cache
def _upsert(table: Table, dialect: sa.Dialect) -> str:
    statement = insert(table)
    values = {column.key: statement.excluded[column.key] for column in table.c}
    keys = [column.name for column in table.primary_key]
    return str(statement.on_conflict_do_update(keys, set_=values).compile(dialect=dialect))
