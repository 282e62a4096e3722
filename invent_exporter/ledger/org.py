"""The ledger of one org: what is committed, and the drafts of the workflows that a page changes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from invent_exporter.api.models import OTHER_WORKFLOW
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts
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
        self.contact_seconds: float | None = row.contact
        """When first contact was, by the API's clock; None before, and in a ledger of 0.1.0."""
        self.missed_until = -math.inf
        """What a reconciliation finds of runs created until then, the polls had missed."""
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

    @property
    def likely_org_id(self) -> str | None:
        """Tell the org that most of the runs of `c` name."""
        votes = Counter(self.named_by.values()).most_common(1)
        return votes[0][0] if votes else None


def load_org(connection: Connection, row: Any, bounds: Bounds) -> OrgLedger:  # noqa: ANN401
    """Load an org whole from its stored row; its histograms follow the configured bounds."""
    org = OrgLedger(row)
    changed = {}
    for stored in connection.execute(
        select(schema.workflow).where(schema.workflow.c.org == org.key)
    ):
        if stored.counts is None:
            org.folded.add(stored.workflow_id)
            continue
        counts = msgspec.json.decode(stored.counts, type=WorkflowCounts)
        if counts.rebucket(bounds):
            changed[stored.workflow_id] = counts
        org.workflows[stored.workflow_id] = counts
    put_workflows(connection, org, changed)
    return org


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
    """Drafts of workflows' counts; the workflows beyond `max_workflows` are folded into one."""

    def __init__(self, org: OrgLedger, bounds: Bounds, max_workflows: int) -> None:
        self._org = org
        self._bounds = bounds
        self._max_workflows = max_workflows
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
        if workflow_id == OTHER_WORKFLOW or len(own) < self._max_workflows:
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
        return set(self._drafts)
