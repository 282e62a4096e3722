"""Turns what the ledger committed into what is served, and lets newborn series go.

Promise 3: the series of a new workflow (a *group*) are served at 0 until `newborn_hold` has passed
since they were first published and an answer of /metrics has carried the 0. A release is committed
before it is published. Why that holds: docs/how-it-counts.md, "The first event is seen".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from typing import TypeAlias

from invent_exporter.api.models import OTHER_WORKFLOW
from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.config.workflows import Workflows
from invent_exporter.errors import StorageError
from invent_exporter.ledger.ledger import Ledger, OpenGroup
from invent_exporter.ledger.org import OrgLedger
from invent_exporter.log import get_logger
from invent_exporter.metrics.exposition import Exposition, View
from invent_exporter.metrics.families import OrgView, WorkflowView
from invent_exporter.telemetry import Telemetry

_RETRY_SECONDS = 5.0

_OpenByWorkflow: TypeAlias = dict[str, tuple[OpenGroup, ...]]

log = get_logger(__name__)


class Publisher:
    """What is served of each org."""

    def __init__(
        self,
        exposition: Exposition,
        ledger: Ledger,
        telemetry: Telemetry,
        *,
        newborn_hold_seconds: float,
        workflows: Workflows,
        clock: Callable[[], float],
    ) -> None:
        """Publish into `exposition`, commit releases to `ledger`, count in `telemetry` what fails.

        A group is shown at 0 for `newborn_hold_seconds` at least. `workflows` says what they are
        called, and which are not served. `clock` tells seconds that never go back.
        """
        self._exposition = exposition
        self._ledger = ledger
        self._telemetry = telemetry
        self._hold_seconds = newborn_hold_seconds
        self._workflows = workflows
        self._clock = clock
        self._orgs: dict[int, OrgLedger] = {}
        self._views: dict[int, OrgView] = {}
        self._finances: dict[int, Finances] = {}
        self._open: dict[int, _OpenByWorkflow | None] = {}
        self._held: dict[tuple[int, str, str], tuple[int, float]] = {}
        self._wake = asyncio.Event()
        exposition.on_acknowledge = self._wake.set

    async def publish(
        self,
        org: OrgLedger,
        changed: Iterable[str],
        *,
        org_name: str,
        finances: Finances = NO_FINANCES,
    ) -> None:
        """Serve what is committed of these workflows and of the org."""
        if org.org_id is None or not org.contacted:
            return
        self._finances[org.key] = finances
        names = set(changed if self._orgs.get(org.key) is org else org.workflows)
        if names or self._org_view(org, org_name) != self._views.get(org.key):
            self._orgs[org.key] = org
            await self._publish(org, names, org_name)

    def serving(self, org_id: str) -> list[OrgLedger]:
        """List the ledgers from which an org is served: for a moment two, when `c` becomes it."""
        return [org for org in self._orgs.values() if org.org_id == org_id]

    async def apply(self, newborn_hold_seconds: float, workflows: Workflows) -> None:
        """Hold new groups for so long, and serve workflows as this says, from now on."""
        before, self._workflows = self._workflows, workflows
        self._hold_seconds = newborn_hold_seconds
        self._wake.set()
        for key, org in [*self._orgs.items()]:
            names = {name for name in org.workflows if before.shown(name) != workflows.shown(name)}
            if (names or before != workflows) and self._orgs.get(key) is org:
                await self._publish(org, names, self._views[key].org_name)

    async def withdraw(self, org: OrgLedger) -> None:
        """Serve nothing of the org any more; `publish` brings it back, as it was committed."""
        for known in (self._orgs, self._views, self._finances, self._open):
            known.pop(org.key, None)
        self._held = {held: since for held, since in self._held.items() if held[0] != org.key}
        gone = [(org.key,), *((org.key, name) for name in org.workflows)]
        await self._exposition.publish(dict.fromkeys(gone))

    async def set_open(self, org: OrgLedger, groups: tuple[OpenGroup, ...] | None) -> None:
        """Serve these open runs; None when they are not known, and their gauges go away."""
        before = self._open.get(org.key)
        after = None
        if groups is not None:
            leave_out = self._workflows.leave_out
            counted = [group for group in groups if not leave_out(group.workflow_id)]
            after = _fold(org, counted, before or {})
        self._open[org.key] = after
        if org.key not in self._orgs or before == after:
            return
        if before is None or after is None:
            names = set(org.workflows)
        else:
            names = {name for name in after if after[name] != before.get(name)}
        await self._publish(org, names, self._views[org.key].org_name)

    def open_runs(self, org: OrgLedger) -> _OpenByWorkflow | None:
        """Return what is served of the open runs, by workflow."""
        return self._open.get(org.key)

    async def _publish(self, org: OrgLedger, names: set[str], org_name: str) -> None:
        view = self._views[org.key] = self._org_view(org, org_name)
        changes: dict[object, View | None] = {(org.key,): view}
        for name in sorted(names):
            is_left_out = self._workflows.leave_out(name)
            changes[org.key, name] = None if is_left_out else self._workflow_view(org, name)
        # Before the generation is there: `publish` may give way to a scrape of it.
        groups = [
            (org.key, name, group)
            for name in names
            if changes[org.key, name] is not None
            for group in org.workflows[name].unreleased()
        ]
        generation = await self._exposition.publish(changes)
        if self._orgs.get(org.key) is not org:
            return  # it was withdrawn meanwhile
        born_bytes = sum(each.text_bytes for each in self._orgs.values())
        self._ledger.room.grown_bytes = max(0, self._exposition.text_bytes - born_bytes)
        now = self._clock()
        for group in groups:
            self._held.setdefault(group, (generation, now))
        self._wake.set()

    def _workflow_view(self, org: OrgLedger, name: str) -> WorkflowView:
        runs = self._open.get(org.key)
        open_runs = None if runs is None else runs.get(name, ())
        title, labels, _ = self._workflows.shown(name)
        more = tuple(labels.items())
        return WorkflowView(org.org_id or "", name, title, org.workflows[name], open_runs, more)

    def _org_view(self, org: OrgLedger, org_name: str) -> OrgView:
        known = org.left_out | org.workflows.keys()
        left_out = sum(map(self._workflows.leave_out, known))
        finances = self._finances[org.key]
        return OrgView(org.org_id or "", org_name, org.counts, len(org.folded), left_out, finances)

    # -- releases

    async def run(self) -> None:
        """Release groups when their time has come, until cancelled."""
        while True:
            self._wake.clear()
            due, wait_seconds = self._due()
            if not due:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_seconds)
            elif not await self._let_go(due):
                await asyncio.sleep(_RETRY_SECONDS)

    def _due(self) -> tuple[list[tuple[int, str, str]], float | None]:
        """List what can be released now; if nothing, say how long until time alone makes it so."""
        now = self._clock()
        left_seconds = {
            group: since + self._hold_seconds - now
            for group, (generation, since) in self._held.items()
            if generation <= self._exposition.acknowledged
        }
        due = [group for group, left in left_seconds.items() if left <= 0]
        return due, min(left_seconds.values(), default=None)

    async def _let_go(self, due: list[tuple[int, str, str]]) -> bool:
        by_org: defaultdict[int, dict[str, list[str]]] = defaultdict(dict)
        for key, name, group in due:
            by_org[key].setdefault(name, []).append(group)
        done = True
        for key, groups in by_org.items():
            org = self._orgs.get(key)
            if org is None:
                continue
            try:
                await self._ledger.release(org, groups)
            except StorageError as error:
                done = False
                self._telemetry.failed_beside_polls(org.org_id or "", "storage")
                log.warning("new series can't be released", org_id=org.org_id, error=str(error))
                continue
            for name, released in groups.items():
                for group in released:
                    self._held.pop((key, name, group), None)
            if self._orgs.get(key) is org:
                await self._publish(org, set(groups), self._views[key].org_name)
        return done


def _fold(org: OrgLedger, groups: Iterable[OpenGroup], before: _OpenByWorkflow) -> _OpenByWorkflow:
    """Add up groups by the workflow that they count for; labels that were there go on at 0."""
    folded: defaultdict[str, dict[tuple[str, str], OpenGroup]] = defaultdict(dict)
    for group in groups:
        name = group.workflow_id if group.workflow_id in org.workflows else OTHER_WORKFLOW
        labels = (group.origin, group.status)
        known = folded[name].get(labels, OpenGroup(name, *labels, 0, inf))
        oldest = min(group.oldest_timestamp_seconds, known.oldest_timestamp_seconds)
        folded[name][labels] = OpenGroup(name, *labels, group.runs + known.runs, oldest)
    for name, runs in before.items():
        for run in runs:
            labels = (run.origin, run.status)
            folded[name].setdefault(labels, OpenGroup(name, *labels, 0, 0.0))
    return {name: tuple(by_labels.values()) for name, by_labels in folded.items()}
