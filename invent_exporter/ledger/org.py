"""The ledger of one org: what is committed, and the drafts of the workflows that a page changes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from invent_exporter.api.models import MAX_LABEL_BYTES, OTHER_WORKFLOW, is_too_long
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts
from invent_exporter.ledger.room import TextRoom
from invent_exporter.scan.poll import ScanState


class OrgLedger:
    """What is committed of one org; only the ledger's thread changes it, after a commit."""

    def __init__(self, row: Any) -> None:  # noqa: ANN401 (a SQLAlchemy row)
        self.key: int = row.org
        self.org_id: str | None = row.org_id
        self.settled_walk: int = row.settled_walk
        self.contacted = bool(row.contacted)
        self.floor_seconds: float = row.floor
        self.scan = msgspec.json.decode(row.scan, type=ScanState)
        self.counts = msgspec.json.decode(row.counts, type=OrgCounts)
        self.workflows: dict[str, WorkflowCounts] = {}
        self.folded: set[str] = set()
        self.left_out: set[str] = set()
        """Workflows of which runs were met while they were not to be counted."""
        self.text_bytes = 0
        """What the workflows take of /metrics, each as large as when it was born."""
        self.contact_seconds: float | None = row.contact
        """When first contact was, by the API's clock; None before, and in a ledger of 0.1.0."""
        self.missed_until = -math.inf
        """What a reconciliation finds of runs created until then, the polls had missed."""
        self.lease: int | None = None
        """The epoch of the lease under which it was loaded; None where no other replica can be."""
        self.is_stale = False
        """A commit to a shared database failed, and may have happened: load the org anew."""
        self.named_by: dict[str, str] = {}
        """Until it is known which org `c` is: which org each of its runs names."""
        if self.org_id is None and self.counts.named:
            # What a process before this one had heard is one vote: those runs may be gone by now.
            self.named_by[""] = self.counts.named

    @property
    def history_until(self) -> float:
        """What ended until then is not this org's to count, but for the org that listed it."""
        if not self.contacted:
            return math.inf
        return -math.inf if self.contact_seconds is None else self.contact_seconds

    def likely_org_id(self, sub_orgs: Collection[str] = ()) -> str | None:
        """Tell the org that most of the runs of `c` name, and that is none of its sub-orgs."""
        named = (org_id for org_id in self.named_by.values() if org_id not in sub_orgs)
        votes = Counter(named).most_common(1)
        return votes[0][0] if votes else None


def load_org(connection: Connection, row: Any, bounds: Bounds, room: TextRoom) -> OrgLedger:  # noqa: ANN401
    """Load an org whole from its stored row; its histograms follow the configured bounds."""
    org = OrgLedger(row)
    changed = {}
    too_long: dict[str, WorkflowCounts | None] = {}
    for stored in connection.execute(
        select(schema.workflow).where(schema.workflow.c.org == org.key)
    ):
        name, counts = stored.workflow_id, None
        if stored.counts is not None:
            counts = msgspec.json.decode(stored.counts, type=WorkflowCounts)
            # Both, whatever the first says.
            if counts.rebucket(bounds) | counts.drop_long_labels():
                changed[name] = counts
        if is_too_long(name):
            too_long[name] = counts
        elif counts is None:
            org.folded.add(name)
        else:
            org.workflows[name] = counts
            org.text_bytes += room.newborn_bytes(org.org_id, name)
    if too_long:
        _fold(connection, org, too_long, bounds)
        changed = {name: org.workflows[name] for name in changed.keys() - too_long.keys()}
    put_workflows(connection, org, changed)
    return org


def _fold(
    connection: Connection,
    org: OrgLedger,
    too_long: Mapping[str, WorkflowCounts | None],
    bounds: Bounds,
) -> None:
    """Count workflows, and the runs that are known of them, as `__other__` from now on."""
    other = org.workflows.setdefault(OTHER_WORKFLOW, WorkflowCounts.empty(bounds))
    table = schema.workflow
    for name, counts in too_long.items():
        if counts is not None:
            other.absorb(counts)
        is_it = (table.c.org == org.key) & (table.c.workflow_id == name)
        connection.execute(delete(table).where(is_it))
    put_workflows(connection, org, {OTHER_WORKFLOW: other})
    # Only these rows have no workflow any more.
    run = schema.run.c
    owner = select(table.c.org).where(
        table.c.org == run.org, table.c.workflow_id == run.workflow_id
    )
    orphaned = (run.org == org.key) & (func.length(run.workflow_id) > MAX_LABEL_BYTES / 4)
    connection.execute(
        update(schema.run).where(orphaned, ~owner.exists()).values(workflow_id=OTHER_WORKFLOW)
    )
    org.counts.failed = [
        each
        for each in org.counts.failed
        if not (is_too_long(each.workflow_id) or is_too_long(each.run_id))
    ]
    update_org(connection, org, counts=to_json(org.counts))


def is_known(connection: Connection, org_id: str) -> bool:
    """Tell whether an org has a ledger."""
    query = select(schema.org.c.org).where(schema.org.c.org_id == org_id)
    return connection.execute(query).first() is not None


def let_c_be(connection: Connection, org_id: str, walk_floor: float) -> None:
    """Let `c` stand for an org from now on; one that is not known yet is added."""
    if not is_known(connection, org_id):
        add_org(connection, org_id, walk_floor)
    connection.execute(update(schema.org).where(schema.org.c.org_id == org_id).values(alias="c"))


def add_org(connection: Connection, configured_id: str, walk_floor: float) -> None:
    """Insert an org that is about to have its first contact."""
    connection.execute(
        insert(schema.org).values(
            org_id=None if configured_id == "c" else configured_id,
            alias="c" if configured_id == "c" else None,
            settled_walk=0,
            contacted=0,
            floor=walk_floor,
            scan=to_json(ScanState()),
            counts=to_json(OrgCounts()),
        )
    )


def update_org(connection: Connection, org: OrgLedger, **values: object) -> None:
    """Write columns of an org."""
    connection.execute(update(schema.org).where(schema.org.c.org == org.key).values(**values))


def delete_org(connection: Connection, org: OrgLedger) -> None:
    """Delete all that is known of an org."""
    for table in (schema.run, schema.workflow, schema.invalid, schema.org):
        connection.execute(delete(table).where(table.c.org == org.key))


def forget_texts(connection: Connection, *, but_of: Collection[int]) -> None:
    """Drop the error texts of all orgs but these."""
    table = schema.org
    others = select(table.c.org, table.c.counts).where(table.c.org.not_in(but_of))
    for key, known in connection.execute(others).all():
        counts = msgspec.json.decode(known, type=OrgCounts)
        if any(run.error for run in counts.failed):
            counts.failed = [msgspec.structs.replace(run, error="") for run in counts.failed]
            values = {"counts": to_json(counts)}
            connection.execute(update(table).where(table.c.org == key).values(values))


def newest_created(connection: Connection, org: OrgLedger) -> float:
    """Tell when the newest known run was created; `inf` without any."""
    query = select(func.max(schema.run.c.created)).where(schema.run.c.org == org.key)
    newest = connection.execute(query).scalar()
    return math.inf if newest is None else float(newest)


def put_workflows(
    connection: Connection, org: OrgLedger, drafts: Mapping[str, WorkflowCounts | None]
) -> None:
    """Write the counts of workflows; None for one that is folded."""
    rows = [
        (org.key, name, None if draft is None else to_json(draft)) for name, draft in drafts.items()
    ]
    schema.put(connection, schema.workflow, rows)


def to_json(value: object) -> str:
    """Encode what is stored."""
    return msgspec.json.encode(value).decode()


class WorkflowDrafts:
    """Drafts of workflows' counts; those for which there is no room are folded into one."""

    def __init__(
        self,
        org: OrgLedger,
        bounds: Bounds,
        max_workflows: int,
        room: TextRoom,
        left_bytes: Callable[[], float],
    ) -> None:
        self._org = org
        self._bounds = bounds
        self._max_workflows = max_workflows
        self._room = room
        self._left_bytes = left_bytes
        self._born_bytes = 0
        self._drafts: dict[str, WorkflowCounts] = {}
        self._folded: set[str] = set()

    def draft(self, workflow_id: str) -> WorkflowCounts:
        """Return the one draft of a workflow, or of what it is folded into."""
        name = self._fold(workflow_id)
        if name not in self._drafts:
            known = self._org.workflows.get(name)
            draft = WorkflowCounts.empty(self._bounds) if known is None else known.draft()
            self._drafts[name] = draft
        return self._drafts[name]

    def _fold(self, workflow_id: str) -> str:
        org = self._org
        if workflow_id in org.workflows or workflow_id in self._drafts:
            return workflow_id
        if workflow_id in org.folded or workflow_id in self._folded:
            return OTHER_WORKFLOW
        own = (org.workflows.keys() | self._drafts.keys()) - {OTHER_WORKFLOW}
        size = self._room.newborn_bytes(org.org_id, workflow_id)
        has_room = len(own) < self._max_workflows and self._born_bytes + size <= self._left_bytes()
        if workflow_id == OTHER_WORKFLOW or has_room:
            self._born_bytes += size
            return workflow_id
        self._folded.add(workflow_id)
        return OTHER_WORKFLOW

    def store(self, connection: Connection) -> None:
        """Write the drafts, and the names of what was folded."""
        put_workflows(connection, self._org, {**self._drafts, **dict.fromkeys(self._folded)})

    def put_in_place(self) -> set[str]:
        """After the commit: let the drafts be what is published; return their names."""
        self._org.workflows.update(self._drafts)
        self._org.folded.update(self._folded)
        self._org.text_bytes += self._born_bytes
        return set(self._drafts)
