"""Turns what the ledger committed into what is served, and lets newborn series go.

The news of all orgs are published together, one publish after the other, with a rest after each:
what changes meanwhile goes with the next.

Promise 3: the series of a new workflow (a *group*) are served at 0 until `newborn_hold` has passed
since they were first published and an answer of /metrics has carried the 0. A release is committed
before it is published. Why that holds: docs/how-it-counts.md, "The first event is seen".

Longer than most modules: what is held, published and let go is one state.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
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
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.families import OrgView, WorkflowView
from invent_exporter.metrics.groups import View
from invent_exporter.telemetry import Telemetry

_RETRY_SECONDS = 5.0
_REST = 20
"""Publishing takes at most a twentieth of the time, however many series changed;"""
_LONGEST_REST_SECONDS = 5.0
"""but no news wait for longer than that."""
_WALK_SECONDS = 1.0
"""What a walk that is under way finds is published no more often."""

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
        self._names: dict[int, str] = {}
        self._news: dict[int, set[str]] = {}
        self._gone: dict[Hashable, None] = {}
        self._next: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._publishing = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._ended_at, self._took_seconds = -inf, 0.0
        self._wake = asyncio.Event()
        exposition.on_acknowledge = self._wake.set

    def note(
        self,
        org: OrgLedger,
        changed: Iterable[str],
        *,
        org_name: str,
        finances: Finances = NO_FINANCES,
    ) -> None:
        """Publish what is committed of these workflows and of the org, with the next publish."""
        if org.org_id is not None and org.contacted:
            names = set(changed if self._orgs.get(org.key) is org else org.workflows)
            self._orgs[org.key], self._names[org.key] = org, org_name
            self._finances[org.key] = finances
            self._news.setdefault(org.key, set()).update(names)
        if self._clock() - self._ended_at >= _WALK_SECONDS:
            _ = self._soon()

    async def flush(self) -> None:
        """Wait until all that was noted is served."""
        await asyncio.shield(self._soon())

    def serving(self, org_id: str) -> list[OrgLedger]:
        """List the ledgers from which an org is served: for a moment two, when `c` becomes it."""
        return [org for org in self._orgs.values() if org.org_id == org_id]

    async def apply(self, newborn_hold_seconds: float, workflows: Workflows) -> None:
        """Hold new groups for so long, and serve workflows as this says, from now on."""
        before, self._workflows = self._workflows, workflows
        self._hold_seconds = newborn_hold_seconds
        self._wake.set()
        if before != workflows:
            for key, org in self._orgs.items():
                self._news.setdefault(key, set()).update(
                    name for name in org.workflows if before.shown(name) != workflows.shown(name)
                )
            await self.flush()

    async def withdraw(self, *orgs: OrgLedger) -> None:
        """Serve nothing of the orgs any more; `note` brings them back, as was committed."""
        keys = {org.key for org in orgs}
        all_known = (self._orgs, self._names, self._views, self._finances, self._open, self._news)
        for org in orgs:
            for known in all_known:
                known.pop(org.key, None)
            self._gone |= dict.fromkeys([(org.key,), *((org.key, name) for name in org.workflows)])
        self._held = {held: since for held, since in self._held.items() if held[0] not in keys}
        self._hurry.set()
        await self.flush()

    def set_open(self, org: OrgLedger, groups: tuple[OpenGroup, ...] | None) -> None:
        """Show these open runs at the next publish; None: they are not known, their gauges go."""
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
        self._news.setdefault(org.key, set()).update(names)

    def open_runs(self, org: OrgLedger) -> _OpenByWorkflow | None:
        """Return what is served of the open runs, by workflow."""
        return self._open.get(org.key)

    # -- publishing

    def _soon(self) -> asyncio.Task[None]:
        """Return the publish that takes with it all that is noted now."""
        if self._next is None:
            self._next = asyncio.create_task(self._publish_next(), name="publish")
        return self._next

    async def _publish_next(self) -> None:
        async with self._publishing:
            await self._rest()
            self._running, self._next = self._next, None
            began = self._clock()
            try:
                await self._publish()
            finally:
                self._ended_at = self._clock()
                self._took_seconds = self._ended_at - began

    async def _rest(self) -> None:
        rest_seconds = min(_LONGEST_REST_SECONDS, _REST * self._took_seconds)
        left_seconds = self._ended_at + rest_seconds - self._clock()
        if left_seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), left_seconds)
        self._hurry.clear()

    async def _publish(self) -> None:
        await self._exposition.collect()
        news, self._news = self._news, {}
        gone, self._gone = self._gone, {}
        try:
            await self._publish_changes(news, gone)
        except BaseException:
            for key, names in news.items():
                self._news.setdefault(key, set()).update(names)
            self._gone = gone | self._gone
            raise

    async def _publish_changes(
        self, news: Mapping[int, set[str]], gone: Mapping[Hashable, None]
    ) -> None:
        changes: dict[Hashable, View | None] = {**gone}
        # Before the generation is there: the exposition may give way to a scrape of it.
        groups: list[tuple[OrgLedger, str, str]] = []
        for key, names in news.items():
            org = self._orgs.get(key)
            if org is None:
                continue  # it was withdrawn while a publish failed
            view = self._org_view(org, self._names[key])
            if view != self._views.get(key):
                changes[(key,)] = self._views[key] = view
            # A standby that took over may not know them all.
            for name in sorted(names & org.workflows.keys()):
                if self._workflows.leave_out(name):
                    changes[key, name] = None
                    continue
                changes[key, name] = self._workflow_view(org, name)
                groups += [(org, name, group) for group in org.workflows[name].unreleased()]
        generation = await self._exposition.publish(changes)
        born_bytes = sum(each.text_bytes for each in self._orgs.values())
        self._ledger.room.grown_bytes = max(0, self._exposition.text_bytes - born_bytes)
        now = self._clock()
        for org, name, group in groups:
            if self._orgs.get(org.key) is org:  # it may have been withdrawn meanwhile
                self._held.setdefault((org.key, name, group), (generation, now))
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
                self._news.setdefault(key, set()).update(groups)
        await self.flush()
        return done

    def close(self) -> None:
        """Publish nothing any more."""
        for task in (self._next, self._running):
            if task is not None:
                task.cancel()


def _fold(org: OrgLedger, groups: Iterable[OpenGroup], before: _OpenByWorkflow) -> _OpenByWorkflow:
    """Add up groups by the workflow that they count for; labels that were there go on at 0."""
    folded: defaultdict[str, dict[tuple[str, str], OpenGroup]] = defaultdict(dict)
    for group in groups:
        name = group.workflow_id if group.workflow_id in org.workflows else OTHER_WORKFLOW
        if name not in org.workflows:
            continue  # a reload let its workflow in a moment ago: the next poll meets it
        labels = (group.origin, group.status)
        known = folded[name].get(labels, OpenGroup(name, *labels, 0, inf))
        oldest = min(group.oldest_timestamp_seconds, known.oldest_timestamp_seconds)
        folded[name][labels] = OpenGroup(name, *labels, group.runs + known.runs, oldest)
    for name, runs in before.items():
        for run in runs:
            labels = (run.origin, run.status)
            folded[name].setdefault(labels, OpenGroup(name, *labels, 0, 0.0))
    return {name: tuple(by_labels.values()) for name, by_labels in folded.items()}
