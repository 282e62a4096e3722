"""The workflows that a page changes: copies, written and put in place together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invent_exporter.api.models import OTHER_WORKFLOW
from invent_exporter.ledger.counts import Bounds, WorkflowCounts
from invent_exporter.ledger.org import put_workflows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from invent_exporter.ledger.org import OrgLedger


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
