"""The past of one workflow, run by run, as changes of its series. Pure: no I/O, no clock.

The series are built by what builds those of /metrics, so names, labels and values are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from prometheus_client.core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from invent_exporter.api.models import Run, escape
from invent_exporter.commands.backfill_plan import LOOKBACK_MS, Plan
from invent_exporter.ledger.counts import Bounds, WorkflowCounts, series_key
from invent_exporter.metrics.families import FAMILIES, WorkflowView
from invent_exporter.metrics.formats import OPENMETRICS
from invent_exporter.metrics.lines import lines_of

Event = tuple[float, bool, Run]
"""When (seconds), whether the run finished then or was submitted, and the run."""
Point = tuple[int, int, str]
"""A series' number, when (milliseconds), and the numbers of its lines."""

_FROM_ZERO = ("counter", "histogram")

_FAMILY_NUMBERS = {family.name: number for number, family in enumerate(FAMILIES)}


@dataclass(frozen=True)
class Workflow:
    """What is the same at each moment of a workflow's past."""

    org_id: str
    workflow_id: str
    name: str
    bounds: Bounds
    step_credits: bool
    more_labels: tuple[tuple[str, str], ...] = ()

    def moments(
        self, events: Iterable[Event], moment_of: Callable[[float], int], step_ms: int
    ) -> Iterator[tuple[int, list[Metric]]]:
        """Yield, in order, each moment at which the series changed, and what they say then.

        They begin at 0, one step before the first event, as a new workflow's do in /metrics.
        """
        counts = WorkflowCounts.empty(self.bounds)
        is_born = False
        for moment, group in groupby(events, key=lambda event: moment_of(event[0])):
            for _, is_end, run in group:
                counts.learn(run)
                if not is_born:
                    is_born = True
                    yield moment - step_ms, self._metrics(counts)
                if is_end:
                    self._finish(counts, run)
                else:
                    counts.submit(run)
            yield moment, self._metrics(counts)

    def _finish(self, counts: WorkflowCounts, run: Run) -> None:
        """Count as the recorder counts a run that it first meets when it has ended."""
        counts.finish(run)
        counts.conclude(run)
        counts.spend_first(series_key(run.origin_label, run.status_label), run)
        if self.step_credits:
            for step, spent in run.step_credits.items():
                counts.spend_step(escape(step), spent)

    def _metrics(self, counts: WorkflowCounts) -> list[Metric]:
        counts.released = counts.groups()
        of = self.org_id, self.workflow_id, self.name
        return WorkflowView(*of, counts, None, self.more_labels).metrics()


@dataclass
class Series:
    """One series, or those of one histogram, which stand and change together.

    `names` are the beginnings of its lines; one that ends before it begins was never there.
    """

    number: int
    family: int
    names: list[str]
    begins_ms: int
    until_ms: int
    values: list[float] = field(default_factory=list)


class Changes:
    """Tells which series of a workflow, or of an org, changed from one moment to the next."""

    def __init__(self, plan: Plan, end_ms: int, first_number: int) -> None:
        """Begin without series; they are numbered from `first_number` on, and go on to `end_ms`."""
        self.series: list[Series] = []
        self._plan = plan
        self._end_ms = end_ms
        self._first_number = first_number
        self._current: dict[tuple[str, ...], Series] = {}
        self._infos: dict[str, tuple[str, ...]] = {}
        self._layouts: dict[str, list[tuple[Series, int, int]]] = {}

    def take(self, at_ms: int, metrics: Iterable[Metric]) -> Iterator[Point]:
        """Yield a sample of each series that changed."""
        is_first = not self.series
        for metric in metrics:
            known = len(self.series)
            values = [sample.value for sample in metric.samples]
            layout = self._layouts.get(metric.name, ())
            # Series never leave their family, but for those of type info.
            if metric.type == "info" or not layout or layout[-1][2] != len(values):
                layout = self._layouts[metric.name] = list(self._lay_out(metric, at_ms))
            for series, start, end in layout:
                now = values[start:end]
                if now == series.values:
                    continue
                is_late = not is_first and series.number >= self._first_number + known
                if is_late and metric.type in _FROM_ZERO:
                    # What comes late begins at 0 too, for `increase()` to see its first event.
                    yield series.number, at_ms - self._plan.step_ms, _text([0.0] * len(now))
                series.values = now
                yield series.number, max(at_ms, series.begins_ms), _text(now)

    def _lay_out(self, metric: Metric, at_ms: int) -> Iterator[tuple[Series, int, int]]:
        """Yield each series of a family, and which of its samples are that one's."""
        end = 0
        for labels, group in groupby(metric.samples, key=_labels_but_le):
            samples = list(group)
            identity = (metric.name, *labels)
            if identity not in self._current:
                begins_ms = self._follow_info(identity, at_ms) if metric.type == "info" else at_ms
                self._current[identity] = self._begin(metric, samples, begins_ms)
            start, end = end, end + len(samples)
            yield self._current[identity], start, end

    def _begin(self, metric: Metric, samples: list[Sample], begins_ms: int) -> Series:
        series = Series(
            self._first_number + len(self.series),
            _FAMILY_NUMBERS[metric.name],
            _names(metric, samples, self._plan.labels),
            begins_ms,
            self._end_ms,
        )
        self.series.append(series)
        return series

    def _follow_info(self, identity: tuple[str, ...], at_ms: int) -> int:
        """End the info series that another one takes the place of; return when that begins.

        No sample can say that a series ended: it is seen for 5 minutes more. Two at a time would
        make every query fail that joins them.
        """
        before = self._infos.get(identity[0])
        self._infos[identity[0]] = identity
        if before is None:
            return at_ms
        ended = self._current.pop(before)
        if ended.begins_ms > at_ms:
            ended.until_ms = ended.begins_ms - 1
            return ended.begins_ms
        ended.until_ms = at_ms
        return at_ms + LOOKBACK_MS + 1000


def _text(values: Iterable[float]) -> str:
    return " ".join(map(floatToGoString, values))


def _labels_but_le(sample: Sample) -> tuple[str, ...]:
    return tuple(value for name, value in sample.labels.items() if name != "le")


def header_of(family: int) -> str:
    """Write the lines before the samples of a family, as /metrics has them."""
    return OPENMETRICS.header(FAMILIES[family].metric()).decode()


def _names(metric: Metric, samples: list[Sample], labels: Mapping[str, str]) -> list[str]:
    """Write the beginnings of lines, up to the value."""
    only = Metric(metric.name, metric.documentation, metric.type)
    only.samples = [Sample(each.name, {**each.labels, **labels}, 0) for each in samples]
    lines = lines_of([only]).by_family[metric.name].decode().split("\n")[:-1]
    return [line.rpartition(" ")[0] for line in lines]
