"""A history as the exporter would have served it, minute by minute: OpenMetrics for promtool.

Runs come and go by habits; the exporter's own counts and families make a scrape of each minute.
What it says of a workflow is written anew only when one of its runs moved: 100 orgs with 250,000
series take a second a minute.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from drill.incidents import Theater
from drill.traffic import Habit, Traffic
from invent_exporter.api.models import Run, Usage
from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.config.schema import MetricsConfig
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts, series_key
from invent_exporter.ledger.ledger import OpenGroup
from invent_exporter.metrics.families import OrgView, WorkflowView
from invent_exporter.simulator import Fault
from invent_exporter.simulator import runs as simulator
from invent_exporter.telemetry import Telemetry

SCRAPE_SECONDS: Final = 60
_REASONS: Final = {401: "unauthorized", 429: "rate_limited", 503: "server_error"}
JOB: Final = "invent-exporter"
TARGET: Final = {"job": JOB, "instance": JOB}
"""Of what the ledger counts, whichever replica serves it; and of a lone process."""
_DEFAULT: Final = MetricsConfig()
_BOUNDS: Final = Bounds(_DEFAULT.duration_buckets, _DEFAULT.queue_buckets, _DEFAULT.credit_buckets)


@dataclass(frozen=True)
class Purse:
    """What a sub-org has when the scene begins; its runs burn it."""

    balance: float | None = None
    promo: float = 0
    cap: float | None = None
    used: float = 0


@dataclass(frozen=True)
class Scene:
    """What happened, from `begin` to `end` in unix seconds."""

    begin: int
    end: int
    habits: tuple[Habit, ...] = ()
    acts: tuple[tuple[float, Callable[[Theater], None]], ...] = ()
    """What begins, and how many minutes before the end."""
    has_odd_runs: bool = False
    """Some are found late, or have a field that can't be read, or can't be read at all."""
    seed: int = 1
    purses: Mapping[str, Purse] = field(default_factory=dict)
    """By org: those that are sub-orgs."""
    replicas: int = 1
    pauses: tuple[tuple[float, float], ...] = ()
    """From when to when, in minutes before the end, the last replica stood still."""
    is_backfilled: bool = False
    """Nobody scraped: what `backfill` wrote of the runs is all that there is."""


Exemplars = dict[tuple[str, str], None]
"""Series with an exemplar each, as OpenMetrics writes both, in the order of the scrapes."""


class Workflow:
    """The series of one workflow."""

    def __init__(self, org_id: str, workflow_id: str) -> None:
        self.org_id, self.workflow_id = org_id, workflow_id
        self.counts = WorkflowCounts.empty(_BOUNDS)
        self.is_released = False
        self.open: dict[str, Run] = {}
        self._texts: dict[bool, str] = {}  # as long as nothing moves

    def take(self, run: Run) -> None:
        """Take a run that was created, started or ended."""
        self._texts.clear()
        if run.status == "PENDING":
            self.counts.submit(run)
        self.open[run.id] = run
        if not run.is_final:
            return
        del self.open[run.id]
        self.counts.learn(run)
        self.counts.finish(run)
        self.counts.conclude(run)
        self.counts.spend_first(series_key(run.origin_label, run.status_label), run)
        for step, burned in run.step_credits.items():
            self.counts.spend_step(step, burned)

    def release(self) -> None:
        """Show what was counted: its zeros were scraped."""
        self.is_released = True
        self._texts.clear()

    def text(self, exemplars: Exemplars, *, live: bool) -> str:
        """Return the samples; without the live gauges of open runs when their org is not read."""
        if live not in self._texts:
            self.counts.released = self.counts.groups() if self.is_released else []
            name = self.workflow_id.removeprefix("wf-").replace("-", " ").capitalize()
            open_runs = self._open() if live else None
            view = WorkflowView(self.org_id, self.workflow_id, name, self.counts, open_runs)
            self._texts[live] = _text(view.metrics(), exemplars)
        return self._texts[live]

    def _open(self) -> tuple[OpenGroup, ...]:
        since: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for run in self.open.values():
            since[run.origin_label, run.status].append(run.started or run.created or 0.0)
        return tuple(
            OpenGroup(self.workflow_id, *key, len(times), min(times))
            for key, times in since.items()
        )


class Past:
    """What the exporter knew; the runs come from the drill's traffic."""

    def __init__(self, scene: Scene) -> None:
        """Let everything happen that happens in the scene, as time goes by."""
        self.random = Random(scene.seed)  # noqa: S311 (it makes times)
        self.workflows: dict[tuple[str, str], Workflow] = {}
        self.faults: list[Fault] = []
        self.started: float | None = scene.begin
        self.burned: defaultdict[str, float] = defaultdict(float)
        self._runs: dict[str, Run] = {}
        habits = tuple(map(replace, scene.habits))
        self.traffic = Traffic(self, habits, self.random, 60, scene.begin)
        self.traffic.schedule()
        theater = Theater(
            self.traffic,
            self.faults.append,
            self.faults.clear,
            partial(setattr, self, "started", None),
            lambda: setattr(self, "started", self.traffic.now),
        )
        for minutes_ago, act in scene.acts:
            self.traffic.later((scene.end - scene.begin) / 60 - minutes_ago, partial(act, theater))
        for habit in habits:
            self._workflow(habit.org_id, habit.workflow_id).release()

    def _workflow(self, org_id: str, workflow_id: str) -> Workflow:
        if (org_id, workflow_id) not in self.workflows:
            born = self.workflows[org_id, workflow_id] = Workflow(org_id, workflow_id)
            self.traffic.later(1.5, born.release)
        return self.workflows[org_id, workflow_id]

    def _take(self, run: Run) -> None:
        self._runs[run.id] = run
        self._workflow(run.org_id or "", run.workflow_label).take(run)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.traffic.now, UTC)

    def add_run(self, *, org_id: str, workflow_id: str, origin: str, version: int) -> str:
        """Take a run that waits."""
        run_id = f"run-{len(self._runs):06d}"
        run = Run(run_id, "PENDING", origin, self._now(), org_id=org_id, workflow_id=workflow_id)
        self._take(msgspec.structs.replace(run, workflow_org_id=org_id, version=version))
        return run_id

    def start_run(self, run_id: str) -> None:
        """Let it start."""
        run = self._runs[run_id]
        self._take(msgspec.structs.replace(run, status="RUNNING", started_at=self._now()))

    def finish_run(
        self, run_id: str, status: str, *, usage: simulator.Usage | None, error: str | None
    ) -> None:
        """Let it end."""
        self.burned[self._runs[run_id].org_id or ""] += usage.total if usage else 0.0
        steps = msgspec.Raw(msgspec.json.encode(usage.steps if usage else {}))
        spent = usage and Usage(usage.total, usage.ai_total, steps)
        self._take(
            msgspec.structs.replace(
                self._runs[run_id], status=status, ended_at=self._now(), usage=spent, error=error
            )
        )


class Org:
    """One org's polls."""

    def __init__(self, org_id: str, replica: Replica, random: Random, purse: Purse | None) -> None:
        self.org_id, self.random = org_id, random
        self._purse, self._finances = purse, NO_FINANCES
        self.counts = OrgCounts(invalid=Counter(), unreadable=Counter())
        self.reconciled = 0.0
        self.broken = 0
        self.offset = random.uniform(2, 28)
        self.serve_by(replica)

    def serve_by(self, replica: Replica) -> None:
        """Go to a replica."""
        self.replica, self.telemetry = replica, replica.telemetry
        self.telemetry.declare_org(self.org_id)
        self.telemetry.set_poll_interval(self.org_id, 30)

    def poll(self, at: int, faults: Iterable[Fault]) -> None:
        """Poll twice in the minute that ends."""
        hit = next((one for one in faults if one.org in {None, self.org_id}), None)
        for moment in (at - 30 - self.offset, at - self.offset):
            took = self.random.lognormvariate(-2, 0.5)
            if hit and self.random.random() < hit.probability:
                status = 429 if hit.kind == "rate_limited" else hit.status
                self.telemetry.request_done(self.org_id, str(status), took)
                self.telemetry.poll_failed(self.org_id, _REASONS[status], took)
                self.broken += 1
                continue
            self.telemetry.request_done(self.org_id, "200", took)
            self.telemetry.poll_succeeded(self.org_id, took, moment)
            self.broken = 0
            if moment - self.reconciled > 900:  # noqa: PLR2004 (seconds between them)
                self.reconciled = moment
                self.telemetry.reconciled(self.org_id, moment)

    def meet_odd_runs(self) -> None:
        """Now and then."""
        if self.random.random() < 0.3:  # noqa: PLR2004 (a share of the minutes)
            self.counts.unreadable["usage"] += 1
            self.counts.invalid["row"] += 1
            self.counts.recovered += 1

    def look_at_purse(self, burned: float) -> None:
        """Read what the org has, when so much of it was burned."""
        if self._purse is None:
            return
        balance, cap, used = self._purse.balance, self._purse.cap, self._purse.used + burned
        self._finances = Finances(
            None if balance is None else max(round(balance - burned, 2), 0),
            self._purse.promo,
            cap,
            round(used if cap is None else min(used, cap), 2),
        )

    def text(self) -> str:
        """Return the samples of the org as a whole."""
        name = self.org_id.replace("-", " ").title()
        view = OrgView(self.org_id, name, self.counts, 0, finances=self._finances)
        return _text(view.metrics(), {})


class Replica:
    """One process."""

    def __init__(self, instance: str, begin: float) -> None:
        self.target = {"job": JOB, "instance": instance}
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(self.registry)
        self.telemetry.set_build("0.2.0", "", "3.13")
        self.telemetry.config_read(begin)
        self.orgs = 0
        self.telemetry.watch_orgs(lambda: self.orgs)

    def text(self, process: dict[str, float]) -> str:
        """Return what it says of itself, its polls and its process."""
        return _text(self.registry.collect(), {}, self.target) + _of_target(process, self.target)


def _text(
    metrics: Iterable[Metric], exemplars: Exemplars, target: Mapping[str, str] = TARGET
) -> str:
    lines = []
    for sample in (sample for metric in metrics for sample in metric.samples):
        labels = ",".join(
            f'{name}="{value}"' for name, value in {**target, **sample.labels}.items()
        )
        series = f"{sample.name}{{{labels}}}"
        lines.append(f"{series} {sample.value}\n")
        if one := sample.exemplar:
            run = f'{{run_id="{one.labels["run_id"]}"}} {one.value} {one.timestamp}'
            exemplars[series, run] = None
    return "".join(lines)


def write(scene: Scene, exemplars: Exemplars) -> Iterator[str]:
    """Yield the scrapes of a scene as OpenMetrics; collect what exemplars they carried."""
    names = [JOB] if scene.replicas == 1 else [f"10.0.0.{n}:10480" for n in range(scene.replicas)]
    replicas = [Replica(name, scene.begin) for name in names]
    past = Past(scene)
    orgs = {
        org_id: Org(org_id, replicas[number % len(replicas)], past.random, scene.purses.get(org_id))
        for number, org_id in enumerate(dict.fromkeys(org_id for org_id, _ in past.workflows))
    }
    for at in range(scene.begin, scene.end + 1, SCRAPE_SECONDS):
        past.traffic.play_until(at)
        ago = (scene.end - at) / 60
        stands_still = any(begin >= ago > end for begin, end in scene.pauses)
        answering = replicas[: -1 if stands_still else None] if past.started is not None else []
        parts = [_of_target(_DOWN, one.target) for one in replicas if one not in answering]
        if answering:
            _share(list(orgs.values()), replicas, answering)
        for org in orgs.values() if answering else ():
            org.poll(at, past.faults)
            if scene.has_odd_runs:
                org.meet_odd_runs()
            if (at - scene.begin) % 600 == 0:
                org.look_at_purse(past.burned[org.org_id])
            parts.append(org.text())
        for (org_id, _), one in past.workflows.items() if answering else ():
            live = orgs[org_id].broken < 3  # noqa: PLR2004 (the contract's)
            parts.append(one.text(exemplars, live=live))
        for replica in answering:
            replica.telemetry.set_ledger_size(2_000_000 + 300 * (at - scene.begin) // 60)
            replica.orgs = sum(org.replica is replica for org in orgs.values())
            workflows = len(past.workflows) * replica.orgs // len(orgs)
            parts.append(replica.text(_process(past.started or 0, at, workflows)))
        yield "".join(parts).replace("\n", f" {at}\n")
    yield "# EOF\n"


def _share(orgs: list[Org], replicas: list[Replica], answering: list[Replica]) -> None:
    """Give each org to a replica that answers, its own where that does."""
    for number, org in enumerate(orgs):
        own = replicas[number % len(replicas)]
        fit = own if own in answering else answering[number % len(answering)]
        if org.replica is not fit:
            org.telemetry.forget_org(org.org_id)
            if org.replica not in answering:
                org.telemetry.leases_lost(1)
            org.serve_by(fit)


_DOWN: Final = {"up": 0.0, "scrape_duration_seconds": 0.001, "scrape_samples_scraped": 0.0}


def _process(began: float, at: int, workflows: int) -> dict[str, float]:
    return {
        "process_start_time_seconds": began,
        "process_resident_memory_bytes": 90_000_000 + workflows * 50_000,
        "process_cpu_seconds_total": (at - began) * 0.02,
        "up": 1,
        "scrape_duration_seconds": 0.004 + workflows * 2e-5,
        "scrape_samples_scraped": workflows * 126 + 100,
    }


def _of_target(samples: dict[str, float], target: Mapping[str, str] = TARGET) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in target.items())
    return "".join(f"{name}{{{labels}}} {value}\n" for name, value in samples.items())
