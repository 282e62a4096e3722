"""Every metric family of the API's numbers, declared once, and built from what was committed.

Families are made anew from a view (prometheus_client's direct instrumentation would keep a second
copy of the state, which could differ from the ledger). A group of series that is not released yet
is built at 0: promise 3 of the contract.

Longer than most modules: a third of it is the list of the families.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.utils import floatToGoString

from invent_exporter.api.models import (
    INVALID_REASONS,
    OPEN_STATUSES,
    ORIGINS,
    OTHER_WORKFLOW,
)
from invent_exporter.ledger.counts import (
    BASE_GROUP,
    BASE_KEYS,
    Exemplar,
    Histogram,
    OrgCounts,
    WorkflowCounts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.core import Metric

_AnyFamily: TypeAlias = (
    CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily
)

_POLLED = "From polls of the Invent API, not from the scrape."
_EXEMPLAR_CHARACTERS = 128 - len("run_id")
"""OpenMetrics' limit for the names and values of an exemplar's labels together."""


@dataclass(frozen=True)
class Family:
    """One metric family: the name without the suffix that its type adds."""

    name: str
    kind: type[_AnyFamily]
    documentation: str
    labels: tuple[str, ...]

    def metric(self) -> Any:  # noqa: ANN401 (each kind's `add_metric` has arguments of its own)
        """Make the family without samples."""
        return self.kind(self.name, f"{self.documentation} {_POLLED}", labels=self.labels)

    def values(self, labels: Mapping[str, str]) -> list[str]:
        """Put labels in their order; prometheus_client zips positions and drops what is over."""
        if labels.keys() != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return [labels[name] for name in self.labels]


_WORKFLOW = ("org_id", "workflow_id")

FINISHED = Family(
    "invent_runs_finished",
    CounterMetricFamily,
    "Runs that reached a final status, each counted once, with its first final status.",
    (*_WORKFLOW, "origin", "status"),
)
SUBMITTED = Family(
    "invent_runs_submitted",
    CounterMetricFamily,
    "Runs that were seen for the first time.",
    (*_WORKFLOW, "origin"),
)
OPEN = Family(
    "invent_runs_open",
    GaugeMetricFamily,
    "Runs that are PENDING or RUNNING now, of any age.",
    (*_WORKFLOW, "origin", "status"),
)
OPEN_OLDEST = Family(
    "invent_runs_open_oldest_timestamp_seconds",
    GaugeMetricFamily,
    "Unix time since when the oldest open run is in its status; absent when none is open.",
    (*_WORKFLOW, "status"),
)
DURATION = Family(
    "invent_run_duration_seconds",
    HistogramMetricFamily,
    "Seconds from start to end of COMPLETED, FAILED and CANCELED runs that started.",
    (*_WORKFLOW, "status"),
)
QUEUE = Family(
    "invent_run_queue_seconds",
    HistogramMetricFamily,
    "Seconds from creation to start of COMPLETED, FAILED and CANCELED runs that started.",
    _WORKFLOW,
)
CREDITS = Family(
    "invent_credits",
    CounterMetricFamily,
    "Credits of finished runs; kind is ai, or other for what is not ai.",
    (*_WORKFLOW, "origin", "status", "kind"),
)
RUN_CREDITS = Family(
    "invent_run_credits",
    HistogramMetricFamily,
    "Credits of one finished run, observed once, when its usage is first known.",
    _WORKFLOW,
)
STEP_CREDITS = Family(
    "invent_step_credits",
    CounterMetricFamily,
    "Credits of finished runs by step of the workflow.",
    (*_WORKFLOW, "step"),
)
LAST_FINISHED = Family(
    "invent_workflow_last_finished_timestamp_seconds",
    GaugeMetricFamily,
    "Unix time at which the newest run with that final status ended; 0 when none is known.",
    (*_WORKFLOW, "status"),
)
STREAK = Family(
    "invent_workflow_consecutive_failures",
    GaugeMetricFamily,
    "FAILED runs since the last COMPLETED one, in the order in which they ended.",
    _WORKFLOW,
)
WORKFLOW = Family(
    "invent_workflow",
    InfoMetricFamily,
    "The workflow: its name, the org that owns it, the version of its newest run.",
    (*_WORKFLOW, "workflow_name", "workflow_org_id", "version"),
)
ORG = Family("invent_org", InfoMetricFamily, "The org and its name.", ("org_id", "org_name"))
INVALID = Family(
    "invent_runs_invalid",
    CounterMetricFamily,
    "Runs that could not be read and were left out, once for each run and reason.",
    ("org_id", "reason"),
)
RECOVERED = Family(
    "invent_runs_recovered",
    CounterMetricFamily,
    "Runs that only the reconciliation found.",
    ("org_id",),
)
VANISHED = Family(
    "invent_runs_vanished",
    CounterMetricFamily,
    "Open runs that left the API without a final status.",
    ("org_id",),
)
REVISED = Family(
    "invent_runs_revised",
    CounterMetricFamily,
    "Runs whose final status changed after it was counted.",
    ("org_id",),
)
CORRECTIONS = Family(
    "invent_credit_corrections",
    CounterMetricFamily,
    "Credits by which usage was revised downward after it was counted.",
    ("org_id",),
)
FOLDED = Family(
    "invent_workflows_folded",
    GaugeMetricFamily,
    "Workflows behind workflow_id __other__.",
    ("org_id",),
)

FAMILIES = (
    FINISHED,
    SUBMITTED,
    OPEN,
    OPEN_OLDEST,
    DURATION,
    QUEUE,
    CREDITS,
    RUN_CREDITS,
    STEP_CREDITS,
    LAST_FINISHED,
    STREAK,
    WORKFLOW,
    ORG,
    INVALID,
    RECOVERED,
    VANISHED,
    REVISED,
    CORRECTIONS,
    FOLDED,
)
"""In the order in which they are exposed."""


@dataclass(frozen=True)
class OpenRuns:
    """Open runs with the same origin and status; 0 runs when there were some before."""

    origin: str
    status: str
    runs: int
    oldest_timestamp_seconds: float


@dataclass(frozen=True)
class WorkflowView:
    """What is committed of one workflow, and its open runs: None when they are not known."""

    org_id: str
    workflow_id: str
    workflow_name: str
    counts: WorkflowCounts
    open_runs: tuple[OpenRuns, ...] | None

    def metrics(self) -> list[Metric]:
        """Build the series of the workflow."""
        return _WorkflowBuilder(self).build()


@dataclass(frozen=True)
class OrgView:
    """What is committed of one org as a whole."""

    org_id: str
    org_name: str
    counts: OrgCounts
    folded: int

    def metrics(self) -> list[Metric]:
        """Build the series of the org."""
        labels = {"org_id": self.org_id}
        org, invalid = ORG.metric(), INVALID.metric()
        org.add_metric(ORG.values({**labels, "org_name": self.org_name}), {})
        for reason in INVALID_REASONS:
            count = self.counts.invalid.get(reason, 0)
            invalid.add_metric(INVALID.values({**labels, "reason": reason}), count)
        metrics = [org, invalid]
        for family, value in (
            (RECOVERED, self.counts.recovered),
            (VANISHED, self.counts.vanished),
            (REVISED, self.counts.revised),
            (CORRECTIONS, self.counts.credit_corrections),
            (FOLDED, self.folded),
        ):
            metric = family.metric()
            metric.add_metric(family.values(labels), value)
            metrics.append(metric)
        return metrics


@dataclass
class _WorkflowBuilder:
    view: WorkflowView
    metrics: dict[str, Any] = field(default_factory=dict)

    def build(self) -> list[Metric]:
        counts = self.view.counts
        late = [key for key in counts.finished if key not in BASE_KEYS]
        for key in (*BASE_KEYS, *late):
            self._finished(key, is_base=key in BASE_KEYS)
        origins = [*ORIGINS, *(origin for origin in counts.submitted if origin not in ORIGINS)]
        for origin in origins:
            group = BASE_GROUP if origin in ORIGINS else f"submitted:{origin}"
            count = counts.submitted.get(origin, 0)
            self._add(SUBMITTED, self._shown(group, count), origin=origin)
        self._open()
        for status, histogram in counts.duration.items():
            self._histogram(DURATION, histogram, status=status)
        self._histogram(QUEUE, counts.queue)
        self._histogram(RUN_CREDITS, counts.run_credits)
        for step, total in counts.steps.items():
            self._add(STEP_CREDITS, self._shown(f"step:{step}", total), step=step)
        if self.view.workflow_id == OTHER_WORKFLOW:
            return list(self.metrics.values())
        self._add(STREAK, counts.consecutive_failures)
        self._family(WORKFLOW).add_metric(
            WORKFLOW.values(
                self._labels(
                    workflow_name=self.view.workflow_name,
                    workflow_org_id=counts.workflow_org_id,
                    version=counts.version,
                )
            ),
            {},
        )
        return list(self.metrics.values())

    def _finished(self, key: str, *, is_base: bool) -> None:
        counts = self.view.counts
        origin, status = key.split("/")
        group = BASE_GROUP if is_base else f"finished:{key}"
        count = self._shown(group, counts.finished.get(key, 0))
        exemplar = counts.finished_exemplars.get(key) if count else None
        self._family(FINISHED).add_metric(
            FINISHED.values(self._labels(origin=origin, status=status)),
            count,
            exemplar=_exemplar(exemplar),
        )
        for kind, totals in (("ai", counts.credits_ai), ("other", counts.credits_other)):
            total = self._shown(group, totals.get(key, 0))
            self._add(CREDITS, total, origin=origin, status=status, kind=kind)
        if origin == ORIGINS[0] or not is_base:
            if status in {
                sample.labels["status"] for sample in self._family(LAST_FINISHED).samples
            }:
                return
            self._add(LAST_FINISHED, counts.last_finished.get(status, 0), status=status)

    def _open(self) -> None:
        if self.view.open_runs is None:
            return
        runs = {(group.origin, group.status): group.runs for group in self.view.open_runs}
        for origin in ORIGINS:
            for status in OPEN_STATUSES:
                runs.setdefault((origin, status), 0)
        for (origin, status), count in runs.items():
            self._add(OPEN, count, origin=origin, status=status)
        oldest: dict[str, float] = {}
        for group in self.view.open_runs:
            if group.runs:
                since = group.oldest_timestamp_seconds
                oldest[group.status] = min(oldest.get(group.status, since), since)
        for status, since in oldest.items():
            self._add(OPEN_OLDEST, since, status=status)

    def _histogram(self, family: Family, histogram: Histogram, **labels: str) -> None:
        shown = BASE_GROUP in self.view.counts.released
        counts = list(accumulate(histogram.counts))
        bounds = [*map(_format_bound, histogram.bounds), "+Inf"]
        buckets: list[tuple[str, float] | tuple[str, float, SampleExemplar]] = []
        for index, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
            exemplar = _exemplar(histogram.exemplars.get(index)) if shown else None
            value = count if shown else 0
            buckets.append((bound, value) if exemplar is None else (bound, value, exemplar))
        self._family(family).add_metric(
            family.values(self._labels(**labels)), buckets, histogram.total if shown else 0.0
        )

    def _shown(self, group: str, value: float) -> float:
        return value if group in self.view.counts.released else 0

    def _labels(self, **labels: str) -> dict[str, str]:
        return {"org_id": self.view.org_id, "workflow_id": self.view.workflow_id, **labels}

    def _family(self, family: Family) -> Any:  # noqa: ANN401 (see Family.metric)
        if family.name not in self.metrics:
            self.metrics[family.name] = family.metric()
        return self.metrics[family.name]

    def _add(self, family: Family, value: float, **labels: str) -> None:
        self._family(family).add_metric(family.values(self._labels(**labels)), value)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.run_id) > _EXEMPLAR_CHARACTERS:
        return None
    timestamp = exemplar.timestamp_seconds or None
    return SampleExemplar({"run_id": exemplar.run_id}, exemplar.value, timestamp)


def _format_bound(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text
