"""Turns what the ledger committed into what is served, and lets newborn series go.

Promise 3: the series of a new workflow (a *group*) are served at 0 until `newborn_hold` has passed
since they were first published and an answer of /metrics has carried the 0. Why it holds:

* A group that is not released is built at 0 in every view, so it is at 0 in every generation from
  the one that first holds it until its release is published.
* An acknowledged generation was delivered whole. When it is the first one of a group or a later
  one, it carried the group's 0.
* A release is committed before it is published, so a crash between the two shows 0 again and then
  the value: no scraper sees the value fall.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from invent_exporter.api.models import OTHER_WORKFLOW
from invent_exporter.errors import StorageError
from invent_exporter.log import get_logger
from invent_exporter.metrics.families import OpenRuns, OrgView, WorkflowView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from invent_exporter.ledger.ledger import Ledger, OpenGroup
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.metrics.exposition import Exposition, View
    from invent_exporter.telemetry import Telemetry

_RETRY_SECONDS = 5.0

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
        workflow_names: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """Publish into `exposition`.

        Args:
            exposition: where views go.
            ledger: where releases are committed.
            telemetry: told of releases that could not be.
            newborn_hold_seconds: how long a group is shown at 0 at least.
            workflow_names: names by workflow id, where people gave some.
            clock: seconds that never go back.

        """
        self._exposition = exposition
        self._ledger = ledger
        self._telemetry = telemetry
        self._hold_seconds = newborn_hold_seconds
        self._names = workflow_names
        self._clock = clock
        self._orgs: dict[int, OrgLedger] = {}
        self._org_names: dict[int, str] = {}
        self._org_views: dict[int, OrgView] = {}
        self._open: dict[int, dict[str, tuple[OpenRuns, ...]] | None] = {}
        self._held: dict[tuple[int, str, str], tuple[int, float]] = {}
        self._wake = asyncio.Event()
        exposition.on_acknowledge = self._wake.set

    async def publish(
        self,
        org: OrgLedger,
        changed: Iterable[str],
        *,
        org_name: str,
    ) -> None:
        """Serve what is committed of these workflows and of the org."""
        if org.org_id is None or not org.contacted:
            return
        names = set(changed)
        self._org_names[org.key] = org_name
        if org.key not in self._orgs:
            self._orgs[org.key] = org
            self._open.setdefault(org.key, None)
            names = set(org.workflows)
        if names or self._org_view(org) != self._org_views.get(org.key):
            await self._publish(org, names)

    async def withdraw(self, org: OrgLedger) -> None:
        """Serve nothing of the org any more; `publish` brings it back, as it was committed."""
        for known in (self._open, self._orgs, self._org_names, self._org_views):
            known.pop(org.key, None)
        self._held = {held: since for held, since in self._held.items() if held[0] != org.key}
        gone = [(org.key,), *((org.key, name) for name in org.workflows)]
        await self._exposition.publish(dict.fromkeys(gone))

    async def set_open(self, org: OrgLedger, groups: tuple[OpenGroup, ...] | None) -> None:
        """Serve these open runs; None when they are not known, and their gauges go away."""
        before = self._open.get(org.key)
        if groups is None:
            after = None
        else:
            after = _fold(org, groups)
            for name, runs in (before or {}).items():
                # A pair of labels that was there goes on at 0.
                seen = {(run.origin, run.status) for run in after.get(name, ())}
                rest = [run for run in runs if (run.origin, run.status) not in seen]
                zeros = tuple(OpenRuns(run.origin, run.status, 0, 0.0) for run in rest)
                after[name] = (*after.get(name, ()), *zeros)
        self._open[org.key] = after
        if org.key not in self._orgs or before == after:
            return
        if before is None or after is None:
            names = set(org.workflows)
        else:
            names = {name for name in after if after[name] != before.get(name)}
        await self._publish(org, names)

    def open_runs(self, org: OrgLedger) -> dict[str, tuple[OpenRuns, ...]] | None:
        """Return what is served of the open runs, by workflow."""
        return self._open.get(org.key)

    async def _publish(self, org: OrgLedger, names: set[str]) -> None:
        org_view = self._org_views[org.key] = self._org_view(org)
        changes: dict[object, View | None] = {(org.key,): org_view}
        for name in sorted(names):
            changes[org.key, name] = self._workflow_view(org, name)
        # Before the generation is there: `publish` may give way to a scrape of it.
        groups = [
            (org.key, name, group) for name in names for group in org.workflows[name].unreleased()
        ]
        generation = await self._exposition.publish(changes)
        if self._orgs.get(org.key) is not org:
            return  # it was withdrawn meanwhile
        now = self._clock()
        for group in groups:
            self._held.setdefault(group, (generation, now))
        self._wake.set()

    def _org_view(self, org: OrgLedger) -> OrgView:
        name = self._org_names[org.key]
        return OrgView(org.org_id or "", name, org.counts, len(org.folded))

    def _workflow_view(self, org: OrgLedger, name: str) -> WorkflowView:
        open_runs = self._open.get(org.key)
        return WorkflowView(
            org.org_id or "",
            name,
            self._names.get(name, name),
            org.workflows[name],
            None if open_runs is None else open_runs.get(name, ()),
        )

    # -- releases

    async def run(self) -> None:
        """Release groups when their time has come, until cancelled."""
        while True:
            self._wake.clear()
            due, wait_seconds = self._due()
            if due and not await self._let_go(due):
                await asyncio.sleep(_RETRY_SECONDS)
            elif not due:
                try:
                    await asyncio.wait_for(self._wake.wait(), wait_seconds)
                except TimeoutError:
                    continue

    def _due(self) -> tuple[list[tuple[int, str, str]], float | None]:
        """List what can be released now, and how long until time alone makes more so."""
        now = self._clock()
        acknowledged = self._exposition.acknowledged
        due = []
        waits = []
        for group, (generation, since) in self._held.items():
            if generation > acknowledged:
                continue
            left = since + self._hold_seconds - now
            if left <= 0:
                due.append(group)
            else:
                waits.append(left)
        return due, min(waits, default=None)

    async def _let_go(self, due: list[tuple[int, str, str]]) -> bool:
        by_org: defaultdict[int, defaultdict[str, list[str]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for key, name, group in due:
            by_org[key][name].append(group)
        done = True
        for key, groups in by_org.items():
            org = self._orgs.get(key)
            if org is None:
                continue
            try:
                await self._ledger.release(org, dict(groups))
            except StorageError as error:
                done = False
                self._telemetry.failed_beside_polls(org.org_id or "", "storage")
                log.warning("new series can't be released", org_id=org.org_id, error=str(error))
                continue
            for name, released in groups.items():
                for group in released:
                    self._held.pop((key, name, group), None)
            if self._orgs.get(key) is org:
                await self._publish(org, set(groups))
        return done


def _fold(org: OrgLedger, groups: Iterable[OpenGroup]) -> dict[str, tuple[OpenRuns, ...]]:
    merged: dict[str, dict[tuple[str, str], OpenRuns]] = {}
    for group in groups:
        name = group.workflow_id if group.workflow_id in org.workflows else OTHER_WORKFLOW
        by_labels = merged.setdefault(name, {})
        known = by_labels.get((group.origin, group.status))
        oldest = group.oldest_timestamp_seconds
        by_labels[group.origin, group.status] = OpenRuns(
            group.origin,
            group.status,
            group.runs + (known.runs if known else 0),
            min(oldest, known.oldest_timestamp_seconds) if known else oldest,
        )
    return {name: tuple(runs.values()) for name, runs in merged.items()}
