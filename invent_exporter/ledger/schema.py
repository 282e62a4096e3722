"""The ledger's tables. Every one carries the org, so that replicas can share a database.

A table's columns are written once: those of `run` are the fields of `RunRow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Connection, Float, Index, Integer, Table

SCHEMA_VERSION = 2

tables = sa.MetaData()

# SQLite compares texts by their bytes; what runs count must not depend on a database's language.
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite numbers the rows of nothing but an INTEGER.
Whole = Integer().with_variant(BigInteger(), "postgresql")


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


_TYPES: dict[type, sa.types.TypeEngine[Any]] = {
    str: Text,
    int: Whole,
    float: Float(),
    bool: Boolean(),
}


def _columns(struct: type[msgspec.Struct], *primary: str) -> list[Column[Any]]:
    columns: list[Column[Any]] = []
    for field in msgspec.structs.fields(struct):
        kind, *null = get_args(field.type) or [field.type]
        is_primary = field.name in primary
        columns.append(
            Column(field.name, _TYPES[kind], primary_key=is_primary, nullable=bool(null))
        )
    return columns


meta = Table("meta", tables, Column("schema_version", Whole, nullable=False))

org = Table(
    "org",
    tables,
    Column("org", Whole, primary_key=True),
    Column("org_id", Text, unique=True, doc="the real id; null until a run of `c` names one"),
    Column("alias", Text, doc="`c`, when that is how the configuration names it"),
    Column("settled_walk", Whole, nullable=False, doc="rows of walks up to this are settled"),
    Column("contacted", Whole, nullable=False, doc="1 once first contact was complete"),
    Column("floor", Float, nullable=False, doc="unknown final runs created before are history"),
    Column("scan", Text, nullable=False, doc="what the scan learned, JSON"),
    Column("numbers", Text, key="counts", nullable=False, doc="the org's own counters, JSON"),
    Column("contact", Float, doc="what ended until then is history; null: of schema 1, `floor` is"),
)

workflow = Table(
    "workflow",
    tables,
    Column("org", Whole, primary_key=True),
    Column("workflow_id", Text, primary_key=True),
    Column("numbers", Text, key="counts", doc="every series of the workflow, JSON; null: folded"),
    sqlite_with_rowid=False,
)

run = Table("run", tables, *_columns(RunRow, "run_id", "org"), sqlite_with_rowid=False)


def _partial(name: str, where: sa.ColumnElement[bool], *columns: Column[Any]) -> None:
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


_partial("run_open", ~run.c.final, run.c.org, run.c.workflow_id)
_partial("run_failed", run.c.status == "FAILED", run.c.org, run.c.workflow_id, run.c.since)
Index("run_created", run.c.org, run.c.created)

invalid = Table(
    "invalid",
    tables,
    Column("org", Whole, primary_key=True),
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

leases = sa.MetaData()
"""In a shared database alone: who polls what. Their times are by the database's clock."""

replica = Table(
    "replica",
    leases,
    Column("name", Text, primary_key=True),
    Column("until", Float, nullable=False, doc="it counts as alive until then"),
    Column("wants", Text, nullable=False, doc="a digest of the orgs that it is to poll"),
)

lease_epoch = sa.Sequence("lease_epoch", metadata=leases)

lease = Table(
    "lease",
    leases,
    Column("org_id", Text, primary_key=True, doc="the org's real id; `c` until that is known"),
    Column("owner", Text, doc="a replica's name; null: free"),
    Column("epoch", Whole, unique=True, doc="the number of its last take"),
    Column("until", Float, nullable=False, doc="nobody else may take it before"),
)


def put(connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
    """Write whole rows, in the order of the table's columns, in place of those with their keys.

    By the driver's own executemany: SQLAlchemy would put together each row's parameters anew,
    which made recording a page a quarter slower.
    """
    if rows:
        mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
        connection.exec_driver_sql(_upsert(table, mark), list(rows))


@cache
def _upsert(table: Table, mark: str) -> str:
    """Spell the statement, the same for both databases but for the marks of their drivers."""
    keys = [column.name for column in table.primary_key]
    names = [column.name for column in table.c]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 (names of this module)
        f"VALUES ({', '.join([mark] * len(names))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )
