"""The sub-orgs that are known: the rows of `sub_org`, as the last listings told them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, select

from invent_exporter.ledger import schema
from invent_exporter.ledger.schema import SubOrgRow

_ALIAS = "c"


class SubOrgRows(NamedTuple):
    """All rows, by parent and id; and which org `c` is, None where that is not known."""

    rows: tuple[SubOrgRow, ...] = ()
    alias: str | None = None


def read(connection: Connection) -> SubOrgRows:
    """Read what is known of all parents."""
    order = schema.sub_org.c.parent, schema.sub_org.c.org_id
    rows = connection.execute(select(schema.sub_org).order_by(*order))
    query = select(schema.org.c.org_id).where(schema.org.c.alias == _ALIAS)
    return SubOrgRows(tuple(SubOrgRow(*row) for row in rows), connection.execute(query).scalar())


def put(connection: Connection, parent: str, rows: Sequence[SubOrgRow], *, is_whole: bool) -> None:
    """Write what a parent lists; only when that `is_whole`, what it does not list goes.

    What was noted for `c` goes with the first whole listing of the org that it turned out to be.
    """
    if is_whole:
        noted = select(schema.org.c.org_id).where(schema.org.c.alias == _ALIAS)
        is_alias = connection.execute(noted).scalar() == parent
        parents = (parent, _ALIAS) if is_alias else (parent,)
        connection.execute(delete(schema.sub_org).where(schema.sub_org.c.parent.in_(parents)))
    schema.put(connection, schema.sub_org, [msgspec.structs.astuple(row) for row in rows])
