"""A history as the exporter would have served it, minute by minute: OpenMetrics for promtool.

Runs come and go by habits; each minute becomes one scrape. What a scrape says of a workflow is
written anew only when one of its runs moved: 100 orgs with 250,000 series take a second a minute.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, product
from random import Random
from typing import Final

SCRAPE_SECONDS: Final = 60
ORIGINS: Final = ("WORKFLOW", "TRIGGER", "WEBHOOK")
FINAL: Final = ("COMPLETED", "FAILED", "CANCELED", "SKIPPED")
TIMED: Final = FINAL[:3]
DURATION: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
QUEUE: Final = (0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 7200)
CREDITS: Final = (0.1, 1, 2, 5, 10, 20, 50, 100, 500, 1000)
REQUEST: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TARGET: Final = 'job="invent-exporter",instance="invent-exporter"'


@dataclass(frozen=True)
class Habit:
    """How the runs of one workflow come and go."""

    org_id: str
    workflow_id: str
    origin: str
    every_minutes: float
    duration_minutes: float
    credits: float = 1.0
    failing: float = 0.0
    waiting: bool = False
    """Runs stay PENDING."""
    growth: float = 1.0
    """Each run takes so many times as long as the one before."""
    paused: bool = False
    version: int = 1


@dataclass(frozen=True)
class Change:
    """From a moment on, in unix seconds, a workflow has other habits."""

    at: float
    org_id: str
    workflow_id: str
    habits: dict[str, float | bool]


@dataclass(frozen=True)
class Trouble:
    """A time in which polls of an org (of all, without one) fail with a share and a reason."""

    begin: float
    end: float
    reason: str
    code: str
    share: float = 1.0
    org_id: str | None = None


@dataclass(frozen=True)
class Scene:
    """What happened, from `begin` to `end` in unix seconds."""

    begin: int
    end: int
    habits: tuple[Habit, ...] = ()
    changes: tuple[Change, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    killed_at: float | None = None
    one_offs: tuple[Habit, ...] = ()
    """Workflows that are first seen at `begin + every_minutes`, with one run that fails."""
    seed: int = 1


@dataclass
class Histogram:
    """Counts by upper bound, as one sample for each."""

    name: str
    labels: str
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> Iterator[str]:
        """Yield its samples."""
        sum_ = 0
        for le, found in zip(
            (*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True
        ):
            sum_ += found
            yield f'{self.name}_bucket{{{self.labels},le="{le}"}} {sum_}'
        yield f"{self.name}_sum{{{self.labels}}} {self.total:.6g}"
        yield f"{self.name}_count{{{self.labels}}} {sum_}"


class Workflow:
    """The series of one workflow."""

    def __init__(self, habit: Habit) -> None:
        self.habit = habit
        self.labels = f'{TARGET},org_id="{habit.org_id}",workflow_id="{habit.workflow_id}"'
        self.finished: Counter[tuple[str, str]] = Counter()
        self.submitted: Counter[str] = Counter()
        self.credits: Counter[tuple[str, str, str]] = Counter()
        self.open: dict[int, tuple[str, str, float]] = {}
        self.last: dict[str, float] = {}
        self.streak = 0
        self.durations = {
            status: Histogram(
                "invent_run_duration_seconds", f'{self.labels},status="{status}"', DURATION
            )
            for status in TIMED
        }
        self.queue = Histogram("invent_run_queue_seconds", self.labels, QUEUE)
        self.burned = Histogram("invent_run_credits", self.labels, CREDITS)
        self._text: str | None = None  # as long as nothing moves
        self._live: str | None = None

    def submit(self, run: int, origin: str, at: float) -> None:
        """Take a run that waits."""
        self.submitted[origin] += 1
        self.open[run] = (origin, "PENDING", at)
        self._text = self._live = None

    def start(self, run: int, at: float) -> None:
        """Start it."""
        origin, _, created = self.open[run]
        self.queue.observe(at - created)
        self.open[run] = (origin, "RUNNING", at)
        self._live = None

    def finish(self, run: int, at: float, status: str, burned: float) -> None:
        """End it."""
        origin, _, started = self.open.pop(run)
        self.finished[origin, status] += 1
        self.durations[status].observe(at - started)
        self.burned.observe(burned)
        for kind in ("ai", "other"):
            self.credits[origin, status, kind] += burned / 2  # type: ignore[assignment]
        self.last[status] = at
        self.streak = {"FAILED": self.streak + 1, "COMPLETED": 0}.get(status, self.streak)
        self._text = self._live = None

    def text(self, *, live: bool) -> str:
        """Return the samples; without the live gauges of open runs when their org is not read."""
        if self._text is None:
            self._text = "".join(f"{line}\n" for line in self._counted())
        if self._live is None:
            self._live = "".join(f"{line}\n" for line in self._open())
        return self._text + self._live if live else self._text

    def _counted(self) -> Iterator[str]:
        labels = self.labels
        for origin in ORIGINS:
            by = f'{labels},origin="{origin}"'
            yield f"invent_runs_submitted_total{{{by}}} {self.submitted[origin]}"
            for status in FINAL:
                found = self.finished[origin, status]
                yield f'invent_runs_finished_total{{{by},status="{status}"}} {found}'
                for kind in ("ai", "other"):
                    burned = self.credits[origin, status, kind]
                    yield f'invent_credits_total{{{by},status="{status}",kind="{kind}"}} {burned:g}'
        for histogram in (*self.durations.values(), self.queue, self.burned):
            yield from histogram.lines()
        for status in FINAL:
            yield (
                f'invent_workflow_last_finished_timestamp_seconds{{{labels},status="{status}"}}'
                f" {self.last.get(status, 0)}"
            )
        yield f"invent_workflow_consecutive_failures{{{labels}}} {self.streak}"
        name = self.habit.workflow_id.removeprefix("wf-").replace("-", " ").capitalize()
        yield (
            f'invent_workflow_info{{{labels},workflow_name="{name}",'
            f'workflow_org_id="{self.habit.org_id}",version="{self.habit.version}"}} 1'
        )

    def _open(self) -> Iterator[str]:
        found = Counter((origin, status) for origin, status, _ in self.open.values())
        for origin, status in product(ORIGINS, ("PENDING", "RUNNING")):
            by = f'origin="{origin}",status="{status}"'
            yield f"invent_runs_open{{{self.labels},{by}}} {found[origin, status]}"
        oldest: dict[str, float] = {}
        for _, status, since in self.open.values():
            oldest[status] = min(since, oldest.get(status, since))
        for status, since in oldest.items():
            yield (
                f'invent_runs_open_oldest_timestamp_seconds{{{self.labels},status="{status}"}}'
                f" {since}"
            )


class Org:
    """The series of one org's polls."""

    def __init__(self, org_id: str, random: Random) -> None:
        self.org_id, self.random = org_id, random
        self.labels = f'{TARGET},org_id="{org_id}"'
        self.errors: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.last_success = 0.0
        self.reconciled = 0.0
        self.broken = 0
        self.offset = random.uniform(2, 28)

    def poll(self, at: int, troubles: Iterable[Trouble]) -> None:
        """Poll twice in the minute that ends."""
        for moment in (at - 30 - self.offset, at - self.offset):
            hit = [
                one
                for one in troubles
                if one.begin <= moment < one.end and one.org_id in {None, self.org_id}
            ]
            if hit and self.random.random() < hit[0].share:
                self.errors[hit[0].reason] += 1
                self.requests[hit[0].code] += 1
                self.broken += 1
            else:
                self.requests["200"] += 1
                self.last_success, self.broken = moment, 0
                if moment - self.reconciled > 900:  # noqa: PLR2004 (seconds between them)
                    self.reconciled = moment

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        labels = self.labels
        yield f'invent_org_info{{{labels},org_name="{self.org_id.title()}"}} 1'
        yield f"invent_up{{{labels}}} {int(not self.broken)}"
        yield f"invent_poll_last_success_timestamp_seconds{{{labels}}} {self.last_success:.1f}"
        took = self.random.uniform(0.2, 0.6)
        yield f"invent_poll_duration_seconds{{{labels}}} {took:.3f}"
        yield f"invent_poll_interval_seconds{{{labels}}} 30"
        yield f"invent_reconcile_last_success_timestamp_seconds{{{labels}}} {self.reconciled:.1f}"
        for reason in ("unauthorized", "rate_limited", "server_error", "timeout", "storage"):
            yield f'invent_poll_errors_total{{{labels},reason="{reason}"}} {self.errors[reason]}'
        for code in {"200", *self.requests}:
            yield f'invent_api_requests_total{{{labels},code="{code}"}} {self.requests[code]}'
        for name in ("runs_recovered", "runs_vanished", "runs_revised", "credit_corrections"):
            yield f"invent_{name}_total{{{labels}}} 0"
        yield f'invent_runs_invalid_total{{{labels},reason="status"}} 0'
        yield f'invent_run_fields_unreadable_total{{{labels},field="usage"}} 0'
        yield f"invent_workflows_folded{{{labels}}} 0"


def write(scene: Scene) -> Iterator[str]:
    """Yield the scrapes of a scene as OpenMetrics; nothing when it has no workflows."""
    random = Random(scene.seed)  # noqa: S311 (it makes times)
    workflows = {(one.org_id, one.workflow_id): Workflow(one) for one in scene.habits}
    orgs = {org_id: Org(org_id, random) for org_id in dict.fromkeys(o for o, _ in workflows)}
    by_org = {
        org_id: [one for (owner, _), one in workflows.items() if owner == org_id] for org_id in orgs
    }
    requests = Histogram("invent_api_request_duration_seconds", TARGET, REQUEST)
    events = _Events(random)
    for habit in scene.habits:
        events.later(
            scene.begin + habit.every_minutes * 60 * random.random(),
            _arrival(events, workflows, habit),
        )
    for change in scene.changes:
        events.later(change.at, _changing(workflows, change))
    for one_off in scene.one_offs:
        events.later(
            scene.begin + one_off.every_minutes * 60,
            _newborn(events, workflows, by_org, one_off),
        )
    for at in range(scene.begin, scene.end + 1, SCRAPE_SECONDS):
        events.play_until(at)
        if scene.killed_at is not None and at >= scene.killed_at:
            down = {"up": 0, "scrape_duration_seconds": 0.001, "scrape_samples_scraped": 0}
            yield "".join(f"{name}{{{TARGET}}} {value} {at}\n" for name, value in down.items())
            continue
        parts: list[str] = []
        for org_id, org in orgs.items():
            org.poll(at, scene.troubles)
            requests.observe(random.lognormvariate(-2, 0.5))
            parts.extend(f"{line}\n" for line in org.lines())
            live = org.broken < 3  # noqa: PLR2004 (the contract's)
            parts.extend(one.text(live=live) for one in by_org[org_id])
        parts.extend(f"{line}\n" for line in _process(scene, at, requests, len(workflows)))
        yield "".join(parts).replace("\n", f" {at}\n")
    yield "# EOF\n"


def _process(scene: Scene, at: int, requests: Histogram, workflows: int) -> Iterator[str]:
    labels = TARGET
    yield from requests.lines()
    build = f'{labels},version="0.2.0",revision="",python_version="3.13"'
    yield f"invent_exporter_build_info{{{build}}} 1"
    yield f"invent_api_throttled_seconds_total{{{labels}}} 0"
    yield f"invent_ledger_size_bytes{{{labels}}} {2_000_000 + 300 * (at - scene.begin) // 60}"
    yield f"process_start_time_seconds{{{labels}}} {scene.begin - 1000}"
    yield f"process_resident_memory_bytes{{{labels}}} {90_000_000 + workflows * 50_000}"
    yield f"process_cpu_seconds_total{{{labels}}} {(at - scene.begin) * 0.02:.2f}"
    yield f"up{{{labels}}} 1"
    yield f"scrape_duration_seconds{{{labels}}} {0.004 + workflows * 2e-5:.4f}"
    yield f"scrape_samples_scraped{{{labels}}} {workflows * 126 + 100}"


class _Events:
    def __init__(self, random: Random) -> None:
        self.random = random
        self._waiting: list[tuple[float, int, Callable[[float], None]]] = []
        self._ids = count()

    def later(self, at: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._waiting, (at, next(self._ids), action))

    def play_until(self, at: float) -> None:
        while self._waiting and self._waiting[0][0] <= at:
            moment, _, action = heapq.heappop(self._waiting)
            action(moment)

    def run(self, workflow: Workflow, at: float, status: str | None = None) -> None:
        """Let a run be created now, and go its way."""
        habit, run, random = workflow.habit, next(self._ids), self.random
        workflow.submit(run, habit.origin, at)
        if habit.waiting:
            return
        started = at + random.uniform(0.3, 3)
        ended = started + habit.duration_minutes * 60 * random.lognormvariate(0, 0.25)
        chosen = status or ("FAILED" if random.random() < habit.failing else "COMPLETED")
        burned = round(habit.credits * random.uniform(0.8, 1.2), 2)
        self.later(started, lambda moment: workflow.start(run, moment))
        self.later(ended, lambda moment: workflow.finish(run, moment, chosen, burned))


def _arrival(
    events: _Events, workflows: dict[tuple[str, str], Workflow], first: Habit
) -> Callable[[float], None]:
    workflow = workflows[first.org_id, first.workflow_id]

    def arrive(at: float) -> None:
        habit = workflow.habit
        if not habit.paused:
            workflow.habit = replace(habit, duration_minutes=habit.duration_minutes * habit.growth)
            events.run(workflow, at)
        events.later(at + habit.every_minutes * 60 * events.random.uniform(0.7, 1.3), arrive)

    return arrive


def _changing(
    workflows: dict[tuple[str, str], Workflow], change: Change
) -> Callable[[float], None]:
    workflow = workflows[change.org_id, change.workflow_id]

    def apply(_: float) -> None:
        workflow.habit = replace(workflow.habit, **change.habits)  # type: ignore[arg-type]

    return apply


def _newborn(
    events: _Events,
    workflows: dict[tuple[str, str], Workflow],
    by_org: dict[str, list[Workflow]],
    habit: Habit,
) -> Callable[[float], None]:
    def appear(at: float) -> None:
        workflow = workflows[habit.org_id, habit.workflow_id] = Workflow(habit)
        by_org[habit.org_id].append(workflow)
        # Its zeros are scraped first, as the exporter sees to.
        events.later(at + 90, lambda moment: events.run(workflow, moment, "FAILED"))

    return appear
