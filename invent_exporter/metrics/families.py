"""Every metric family of the API's numbers, declared once, and built from what was committed.

Families are made anew from a view (prometheus_client's direct instrumentation would keep a second
copy of the state, which could differ from the ledger). A group of series that is not released yet
is built at 0: promise 3 of the contract.

Longer than most modules: a third of it is the list of the families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, product
from math import inf
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar as SampleExemplar

from invent_exporter.api.models import (
    INVALID_REASONS,
    OPEN_STATUSES,
    ORIGINS,
    OTHER_WORKFLOW,
    READ_FIELDS,
)
from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.ledger.counts import (
    BASE_GROUP,
    BASE_KEYS,
    Exemplar,
    Histogram,
    OrgCounts,
    WorkflowCounts,
)
from invent_exporter.ledger.ledger import OpenGroup
from invent_exporter.metrics.lines import number

_POLLED = "From polls of the Invent API, not from the scrape."
_EXEMPLAR_CHARACTERS = 128 - len("run_id")
"""OpenMetrics' limit for the names and values of an exemplar's labels together."""

_ESCAPED = frozenset('\\"')


@dataclass(frozen=True)
class Family:
    """One metric family: the name without the suffix that its type adds."""

    name: str
    kind: Callable[..., Any]
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


FAMILIES: list[Family] = []
"""In the order in which they are exposed, which is the one below."""


def _declare(kind: Callable[..., Any], series: str, documentation: str) -> Family:
    """Take a family as PromQL writes it: `name{label,label}`."""
    name, labels = series.removesuffix("}").split("{")
    family = Family(name, kind, documentation, tuple(labels.split(",")))
    FAMILIES.append(family)
    return family


_counter = partial(_declare, CounterMetricFamily)
_gauge = partial(_declare, GaugeMetricFamily)
_histogram = partial(_declare, HistogramMetricFamily)
_info = partial(_declare, InfoMetricFamily)

FINISHED = _counter(
    "invent_runs_finished{org_id,workflow_id,origin,status}",
    "Runs that reached a final status, each counted once, with its first final status.",
)
SUBMITTED = _counter(
    "invent_runs_submitted{org_id,workflow_id,origin}", "Runs that were seen for the first time."
)
OPEN = _gauge(
    "invent_runs_open{org_id,workflow_id,origin,status}",
    "Runs that are PENDING or RUNNING now, of any age.",
)
OPEN_OLDEST = _gauge(
    "invent_runs_open_oldest_timestamp_seconds{org_id,workflow_id,status}",
    "Unix time since when the oldest open run is in its status; absent when none is open.",
)
DURATION = _histogram(
    "invent_run_duration_seconds{org_id,workflow_id,status}",
    "Seconds from start to end of COMPLETED, FAILED and CANCELED runs that started.",
)
QUEUE = _histogram(
    "invent_run_queue_seconds{org_id,workflow_id}",
    "Seconds from creation to start of COMPLETED, FAILED and CANCELED runs that started.",
)
CREDITS = _counter(
    "invent_credits{org_id,workflow_id,origin,status,kind}",
    "Credits of finished runs; kind is ai, or other for what is not ai.",
)
RUN_CREDITS = _histogram(
    "invent_run_credits{org_id,workflow_id}",
    "Credits of one finished run, observed once, when its usage is first known.",
)
STEP_CREDITS = _counter(
    "invent_step_credits{org_id,workflow_id,step}",
    "Credits of finished runs by step of the workflow.",
)
LAST_FINISHED = _gauge(
    "invent_workflow_last_finished_timestamp_seconds{org_id,workflow_id,status}",
    "Unix time at which the newest run with that final status ended; 0 when none is known.",
)
STREAK = _gauge(
    "invent_workflow_consecutive_failures{org_id,workflow_id}",
    "FAILED runs since the last COMPLETED one, in the order in which they ended.",
)
WORKFLOW = _info(
    "invent_workflow{org_id,workflow_id,workflow_name,workflow_org_id,version}",
    "The workflow: its name, the org that owns it, the version of its newest run.",
)
ORG = _info("invent_org{org_id,org_name}", "The org and its name.")
BALANCE = _gauge(
    "invent_org_balance_credits{org_id}",
    "Credits that a sub-org has; absent where its parent's are used.",
)
PROMO_BALANCE = _gauge(
    "invent_org_promo_balance_credits{org_id}", "Promotional credits that a sub-org has."
)
SPENDING_CAP = _gauge(
    "invent_org_spending_cap_credits{org_id}",
    "Credits that a sub-org may spend; absent where no cap is enabled.",
)
SPENDING_CAP_USED = _gauge(
    "invent_org_spending_cap_used_credits{org_id}", "Credits that count against the spending cap."
)
INVALID = _counter(
    "invent_runs_invalid{org_id,reason}",
    "Runs that could not be read and were left out, once for each run and reason.",
)
UNREADABLE = _counter(
    "invent_run_fields_unreadable{org_id,field}",
    "Fields of counted runs that could not be read and are unknown, once for each run and field.",
)
RECOVERED = _counter("invent_runs_recovered{org_id}", "Runs that only the reconciliation found.")
VANISHED = _counter(
    "invent_runs_vanished{org_id}", "Open runs that left the API without a final status."
)
REVISED = _counter(
    "invent_runs_revised{org_id}", "Runs whose final status changed after it was counted."
)
CORRECTIONS = _counter(
    "invent_credit_corrections{org_id}",
    "Credits by which usage was revised downward after it was counted.",
)
FOLDED = _gauge("invent_workflows_folded{org_id}", "Workflows behind workflow_id __other__.")
EXCLUDED = _gauge(
    "invent_workflows_excluded{org_id}",
    "Workflows left out by the configuration: their runs are read, and not counted.",
)


@dataclass(frozen=True)
class WorkflowView:
    """What is committed of one workflow, and its open runs: None when they are not known.

    A group of open runs that is gone stays, with 0 runs.
    """

    org_id: str
    workflow_id: str
    workflow_name: str
    counts: WorkflowCounts
    open_runs: tuple[OpenGroup, ...] | None
    more_labels: tuple[tuple[str, str], ...] = ()
    """Of its info, as `workflow_labels` says."""

    def metrics(self) -> list[Metric]:
        """Build the series of the workflow."""
        return _WorkflowSeries(self).build()


@dataclass(frozen=True)
class OrgView:
    """What is committed of one org as a whole."""

    org_id: str
    org_name: str
    counts: OrgCounts
    folded: int
    excluded: int = 0
    finances: Finances = NO_FINANCES

    def metrics(self) -> list[Metric]:
        """Build the series of the org."""
        series = _Series(org_id=self.org_id)
        series.add(ORG, {}, org_name=self.org_name)
        for family, value in (
            (BALANCE, self.finances.balance_credits),
            (PROMO_BALANCE, self.finances.promo_balance_credits),
            (SPENDING_CAP, self.finances.spending_cap_credits),
            (SPENDING_CAP_USED, self.finances.spending_cap_used_credits),
        ):
            if value is not None:
                series.add(family, value)
        # Reasons of an older version stay where there are any: a counter does not go away.
        for reason in dict.fromkeys((*INVALID_REASONS, *self.counts.invalid)):
            series.add(INVALID, self.counts.invalid.get(reason, 0), reason=reason)
        for name in READ_FIELDS:
            series.add(UNREADABLE, self.counts.unreadable.get(name, 0), field=name)
        series.add(RECOVERED, self.counts.recovered)
        series.add(VANISHED, self.counts.vanished)
        series.add(REVISED, self.counts.revised)
        series.add(CORRECTIONS, self.counts.credit_corrections)
        series.add(FOLDED, self.folded)
        series.add(EXCLUDED, self.excluded)
        return list(series.metrics.values())


class _Series:
    """Families by name, with series whose first labels are the same."""

    def __init__(self, **labels: str) -> None:
        self.metrics: dict[str, Any] = {}
        self._labels = labels

    def add(self, family: Family, *value: object, **labels: str) -> None:
        """Add one series; `value` is what `add_metric` of its type takes."""
        if family.name not in self.metrics:
            self.metrics[family.name] = family.metric()
        self.metrics[family.name].add_metric(family.values({**self._labels, **labels}), *value)


class _WorkflowSeries(_Series):
    def __init__(self, view: WorkflowView) -> None:
        super().__init__(org_id=view.org_id, workflow_id=view.workflow_id)
        self.view = view

    def build(self) -> list[Metric]:
        counts = self.view.counts
        keys = dict.fromkeys((*BASE_KEYS, *counts.finished))
        for key in keys:
            self._add_finished(key, *key.split("/"))
        for status in dict.fromkeys(key.split("/")[1] for key in keys):
            self.add(LAST_FINISHED, counts.last_finished.get(status, 0), status=status)
        for origin in dict.fromkeys((*ORIGINS, *counts.submitted)):
            group = BASE_GROUP if origin in ORIGINS else f"submitted:{origin}"
            self.add(SUBMITTED, self._shown(group, counts.submitted.get(origin, 0)), origin=origin)
        if self.view.open_runs is not None:
            self._add_open(self.view.open_runs)
        for status, histogram in counts.duration.items():
            self._add_histogram(DURATION, histogram, status=status)
        self._add_histogram(QUEUE, counts.queue)
        self._add_histogram(RUN_CREDITS, counts.run_credits)
        for step, total in counts.steps.items():
            self.add(STEP_CREDITS, self._shown(f"step:{step}", total), step=step)
        if self.view.workflow_id != OTHER_WORKFLOW:
            self.add(STREAK, counts.consecutive_failures)
            self.add(
                WORKFLOW,
                dict(self.view.more_labels),
                workflow_name=self.view.workflow_name,
                workflow_org_id=counts.workflow_org_id,
                version=counts.version,
            )
        return list(self.metrics.values())

    def _add_finished(self, key: str, origin: str, status: str) -> None:
        counts = self.view.counts
        group = BASE_GROUP if key in BASE_KEYS else f"finished:{key}"
        count = self._shown(group, counts.finished.get(key, 0))
        exemplar = _exemplar(counts.finished_exemplars.get(key)) if count else None
        self.add(FINISHED, count, None, None, exemplar, origin=origin, status=status)
        for kind, totals in (("ai", counts.credits_ai), ("other", counts.credits_other)):
            total = self._shown(group, totals.get(key, 0))
            self.add(CREDITS, total, origin=origin, status=status, kind=kind)

    def _add_open(self, open_runs: tuple[OpenGroup, ...]) -> None:
        runs = {(group.origin, group.status): group.runs for group in open_runs}
        for pair in product(ORIGINS, OPEN_STATUSES):
            runs.setdefault(pair, 0)
        for (origin, status), count in runs.items():
            self.add(OPEN, count, origin=origin, status=status)
        counted = [group for group in open_runs if group.runs]
        for status in dict.fromkeys(group.status for group in counted):
            alike = (each.oldest_timestamp_seconds for each in counted if each.status == status)
            self.add(OPEN_OLDEST, min(alike), status=status)

    def _add_histogram(self, family: Family, histogram: Histogram, **labels: str) -> None:
        if BASE_GROUP not in self.view.counts.released:
            histogram = Histogram.empty(tuple(histogram.bounds))
        buckets = [
            (number(bound), count, _exemplar(histogram.exemplars.get(index)))
            for index, (bound, count) in enumerate(
                zip((*histogram.bounds, inf), accumulate(histogram.counts), strict=True)
            )
        ]
        self.add(family, buckets, histogram.total, **labels)

    def _shown(self, group: str, value: float) -> float:
        return value if group in self.view.counts.released else 0


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    if exemplar is None or len(exemplar.run_id) > _EXEMPLAR_CHARACTERS:
        return None
    if not exemplar.run_id.isprintable() or not _ESCAPED.isdisjoint(exemplar.run_id):
        # For a NUL or its like Prometheus' parsers drop the whole scrape, and escapes they keep.
        return None
    timestamp = exemplar.timestamp_seconds or None
    return SampleExemplar({"run_id": exemplar.run_id}, exemplar.value, timestamp)
