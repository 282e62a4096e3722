"""How the runs of one workflow come and go: a plan for each run, drawn from a seeded generator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from invent_exporter.simulator.runs import Call, Origin, Status, StepTotal, Usage

if TYPE_CHECKING:
    from random import Random

DAY_SECONDS = 86_400.0
CANCELED_WAITING = 0.3
"""The share of canceled runs that never started."""
Profile = Literal["flat", "office", "night", "clock"]
"""When runs come: evenly at random, in office hours, around 02:00 UTC, or at even intervals."""


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow and its habits. Chances are for each run, the rest of them COMPLETED."""

    id: str | None
    name: str
    org_id: str
    origins: tuple[Origin, ...] = ("WORKFLOW",)
    profile: Profile = "flat"
    runs_per_hour: float
    duration_seconds: float
    """The median."""
    duration_spread: float = 0.5
    """The sigma of the lognormal distribution."""
    queue_seconds: float = 0.4
    failed: float = 0.0
    fails_at_least_every: int | None = None
    """So many runs never go by without a FAILED one."""
    canceled: float = 0.0
    skipped: float = 0.0
    first_fails: bool = False
    stuck_run: int | None = None
    """The number of the run that stays RUNNING for ever, from 1."""
    credits: float = 1.0
    ai_share: float = 0.3
    late_usage_seconds: float = 0.0
    """How long after its end a run's usage appears."""
    step_objects: bool = False
    """Credits by step as objects with `total`, not as numbers."""
    steps: int = 4
    output_bytes: int = 300
    appears_after_seconds: float = 0.0
    """After the world's opening, which is the end of its history; 0: there from the start."""
    errors: tuple[str, ...] = ("Error: the step failed",)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will become of one run. Waits are in seconds."""

    run_id: str
    origin: Origin
    start_after: float | None
    end_after: float | None
    """After the start, or after the creation when it never starts; None: it never ends."""
    status: Status
    error: str | None
    usage: Usage | None
    usage_after: float


class Habit:
    """Draws the arrivals and the plans of one workflow, one after the other."""

    def __init__(self, workflow: Workflow, random: Random) -> None:
        """Start before the first run; `random` is this workflow's own."""
        self.workflow = workflow
        self._random = random
        self._number = 0
        self._since_failure = 0

    @property
    def has_begun(self) -> bool:
        """Whether a run has come yet."""
        return self._number > 0

    def next_arrival(self, after: float, pace: float) -> float:
        """Draw when the next run comes; `pace` multiplies the rate."""
        workflow = self.workflow
        if workflow.profile == "clock":
            return after + 3600.0 / (workflow.runs_per_hour * pace)
        # Thinning: candidates come at the highest rate and are kept by the share of the hour's.
        peak = workflow.runs_per_hour * pace / 3600.0
        moment = after
        while True:
            moment += self._random.expovariate(peak)
            if self._random.random() < _share(workflow.profile, moment):
                return moment

    def next_plan(self) -> Plan:
        """Draw what becomes of the next run."""
        workflow, random = self.workflow, self._random
        self._number += 1
        run_id = f"run_{random.getrandbits(96):024x}"
        origin = random.choice(workflow.origins)
        status = self._status()
        is_stuck = self._number == workflow.stuck_run
        starts = status != "SKIPPED" and not (
            status == "CANCELED" and random.random() < CANCELED_WAITING
        )
        queue = workflow.queue_seconds * random.lognormvariate(0.0, 0.6)
        duration = workflow.duration_seconds * random.lognormvariate(0.0, workflow.duration_spread)
        usage = self._usage() if starts and status != "CANCELED" else None
        return Plan(
            run_id=run_id,
            origin=origin,
            start_after=queue if starts else None,
            end_after=None if is_stuck else duration if starts else queue,
            status=status,
            error=random.choice(workflow.errors) if status == "FAILED" else None,
            usage=usage,
            usage_after=workflow.late_usage_seconds,
        )

    def _status(self) -> Status:
        workflow = self.workflow
        chance = self._random.random()
        every = workflow.fails_at_least_every
        is_due = every is not None and self._since_failure + 1 >= every
        is_first = workflow.first_fails and self._number == 1
        if is_due or is_first or chance < workflow.failed:
            self._since_failure = 0
            return "FAILED"
        self._since_failure += 1
        if chance < workflow.failed + workflow.canceled:
            return "CANCELED"
        if chance < workflow.failed + workflow.canceled + workflow.skipped:
            return "SKIPPED"
        return "COMPLETED"

    def _usage(self) -> Usage:
        workflow, random = self.workflow, self._random
        total = round(workflow.credits * random.lognormvariate(0.0, 0.4), 2)
        ai = round(total * workflow.ai_share, 2)
        first = round(total * 0.4, 2)
        shares = {"step_1": first, "step_2": round(total - first, 2)}
        return Usage(
            total=total,
            ai_total=ai,
            steps={
                step: StepTotal(share) if workflow.step_objects else share
                for step, share in shares.items()
            },
            calls=(Call("call_1", total, ai, (Call("call_2", ai, ai), None)),),
        )


def _share(profile: Profile, moment: float) -> float:
    hour = moment % DAY_SECONDS / 3600.0
    if profile == "office":
        return 0.08 + 0.92 * math.exp(-(((hour - 13.0) / 4.0) ** 2))
    if profile == "night":
        return math.exp(-((((hour - 2.0 + 12.0) % 24.0 - 12.0) / 1.0) ** 2))
    return 1.0
