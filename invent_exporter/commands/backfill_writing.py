"""From the spool to the file: each workflow's past is replayed, then written family by family."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from invent_exporter.api.models import OTHER_WORKFLOW, Run, Usage
from invent_exporter.commands.backfill_plan import Forecast, Plan, TaskOrg
from invent_exporter.commands.backfill_progress import Bar
from invent_exporter.commands.backfill_replay import Changes, Event, Workflow, header_of
from invent_exporter.commands.backfill_spool import Spool
from invent_exporter.commands.backfill_text import lines
from invent_exporter.config.load import Config
from invent_exporter.errors import BackfillError
from invent_exporter.ledger.counts import Bounds, OrgCounts
from invent_exporter.metrics.families import FAMILIES, ORG, OrgView

_EVENTS_A_LOOK = 1000


class PastWriter:
    """Writes the past that a spool holds."""

    def __init__(self, spool: Spool, plan: Plan, config: Config) -> None:
        """Write what the plan asks for, counted as the configuration has it."""
        self._spool = spool
        self._plan = plan
        self._config = config
        self._series = 0

    def replay(self, orgs: Sequence[TaskOrg]) -> None:
        """Make the samples of each org's workflows."""
        spool, written = self._spool, set[str]()
        spool.begin_points()
        with Bar("events replayed", spool.events()) as bar:
            for number, org in enumerate(orgs):
                org_id = real_id(spool, number, org)
                if org.end is None or org_id in written:
                    continue  # two entries that are one org: each run is the first one's
                written.add(org_id)
                end_ms = round(org.end * 1000)
                self._put_org(org_id, self._config.orgs[number].name, end_ms)
                folded = folded_workflows(self.workflows(number), org, self._max_workflows)
                spool.fold(number, folded, OTHER_WORKFLOW)
                for name in self.workflows(number):
                    past = heapq.merge(
                        spool.submitted_runs(number, name),
                        spool.finished_runs(number, name),
                        key=lambda event: event[:2],
                    )
                    self._put_workflow(self.workflow(org_id, name), _watched(past, bar), end_ms)

    def workflows(self, number: int) -> list[str]:
        """List the workflows of an org's past, without those that the configuration leaves out."""
        leave_out = self._config.workflows.leave_out
        return [name for name in self._spool.workflows(number) if not leave_out(name)]

    def workflow(self, org_id: str, workflow_id: str) -> Workflow:
        """Describe a workflow as the configuration has it."""
        metrics = self._config.metrics
        name, more, _ = self._config.workflows.shown(workflow_id)
        return Workflow(
            org_id,
            workflow_id,
            name,
            Bounds(metrics.duration_buckets, metrics.queue_buckets, metrics.credit_buckets),
            metrics.step_credits,
            tuple(more.items()),
        )

    @property
    def _max_workflows(self) -> int:
        return self._config.metrics.max_workflows

    def _put_org(self, org_id: str, name: str | None, end_ms: int) -> None:
        changes = Changes(self._plan, end_ms, self._series)
        metrics = OrgView(org_id, name or org_id, OrgCounts(), 0).metrics()
        # The others tell of polls, of which there were none.
        only = [metric for metric in metrics if metric.name == ORG.name]
        self._spool.put_points(changes.take(self._plan.start_ms, only), changes.series)
        self._series += len(changes.series)

    def _put_workflow(self, workflow: Workflow, past: Iterable[Event], end_ms: int) -> None:
        changes = Changes(self._plan, end_ms, self._series)
        moments = workflow.moments(
            past, lambda seconds: self._plan.moment_of(seconds, end_ms), self._plan.step_ms
        )
        points = (point for at_ms, metrics in moments for point in changes.take(at_ms, metrics))
        self._spool.put_points(points, changes.series)
        self._series += len(changes.series)

    def write(self) -> int:
        """Write the file and return its size in bytes; it has its name when it is whole.

        Raises:
            BackfillError: it can't be written.

        """
        output = self._plan.output
        part = output.with_name(f"{output.name}.part")
        try:
            with part.open("w", encoding="utf-8") as file, Bar("series", self._series) as bar:
                done = 0
                for family in range(len(FAMILIES)):
                    has_header = False
                    for number, until_ms, names in self._spool.series(family):
                        if not has_header:
                            has_header = True
                            file.write(header_of(family))
                        file.writelines(lines(names, self._spool.points(number), until_ms))
                        done += 1
                        bar.passed(0, done)
                file.write("# EOF\n")
                file.flush()
                os.fsync(file.fileno())
            size_bytes = part.stat().st_size
            part.replace(output)
        except OSError as error:
            raise BackfillError(f"--output: {part}: {error.strerror}") from error
        return size_bytes


def real_id(spool: Spool, number: int, org: TaskOrg) -> str:
    """Tell an org's real id: the ledger's, the configured one, else what most runs name."""
    if org.org_id is not None or org.configured_id != "c":
        return org.org_id or org.configured_id
    return spool.named_most(number) or org.configured_id


def folded_workflows(workflows: Iterable[str], org: TaskOrg, max_workflows: int) -> list[str]:
    """Choose those beyond `max_workflows`: the live ones stay what they are, then the oldest."""
    own, folded = set(org.workflows) - {OTHER_WORKFLOW}, []
    for name in workflows:
        if name in own or name == OTHER_WORKFLOW:
            continue
        if name in org.folded or len(own) >= max_workflows:
            folded.append(name)
        else:
            own.add(name)
    return folded


def forecast_of(workflow: Workflow, plan: Plan) -> Forecast:
    """Measure the samples of a workflow, and those that one completed run changes."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    run = Run("run", "COMPLETED", "TRIGGER", moment, moment, moment, moment, usage=Usage(2.0, 1.0))
    at = moment.timestamp()
    changes = Changes(plan, round(at * 1000), 0)
    sizes = []
    for at_ms, metrics in workflow.moments(
        [(at, False, run), (at, True, run)], lambda seconds: round(seconds * 1000), plan.step_ms
    ):
        points = list(changes.take(at_ms, metrics))
        texts = (
            text
            for number, _, numbers in points
            for text in lines(changes.series[number].names, [(at_ms, numbers)], at_ms)
        )
        sizes.append(sum(map(len, texts)))
    return Forecast(*sizes)


def _watched(events: Iterable[Event], bar: Bar) -> Iterator[Event]:
    count = 0
    for count, event in enumerate(events, start=1):
        if count % _EVENTS_A_LOOK == 0:
            bar.advance(_EVENTS_A_LOOK)
        yield event
    bar.advance(count % _EVENTS_A_LOOK)
