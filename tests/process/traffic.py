"""Lively simulated worlds, and the trouble that tests make in them."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Final

from invent_exporter.simulator import (
    Fault,
    Order,
    Org,
    Settings,
    SimulatorServer,
    Usage,
    Workflow,
    World,
    add_many,
)

if TYPE_CHECKING:
    from invent_exporter.simulator.spoil import SpoilKind
    from invent_exporter.simulator.truth import TrueRun
    from tests.process.harness import Samples

ORG: Final = "org-main"
KEY: Final = "key-main"
_SPOILS: Final[tuple[SpoilKind, ...]] = (
    *("null_id", "long_id", "missing_status", "not_an_object", "null_run", "deep_nesting"),
)


def quiet_api(order: Order = "created", *, count: bool = True, port: int = 0) -> SimulatorServer:
    """Prepare an API where nothing happens by itself, with one old run, so that `c` has a name."""
    settings = Settings(order=order, count=count, rate_limit_per_minute=None)
    simulator = SimulatorServer(settings=settings, port=port)
    # Older than the second in which a first look may come.
    minute_ago = simulator.world.clock() - 60
    simulator.world.add_run(
        status="COMPLETED", workflow_id="wf-old", created_at=minute_ago, ended_at=minute_ago
    )
    return simulator


def lively_world(
    seed: int,
    *,
    history: int = 300,
    resolution_seconds: float = 0.001,
    odd_every: int | None = None,
) -> World:
    """Make a world with some history, and with traffic once it is made automatic.

    In whole seconds many runs share their times; each so-manyth may have an odd field.
    """
    world = World(seed, time.time, resolution_seconds=resolution_seconds, odd_every=odd_every)
    world.add_org(Org(id=ORG, name="Main", key=KEY))
    for workflow in workflows():
        world.add_workflow(workflow)
    world.automatic = False
    if history:
        add_many(world, history, workflows=3, seconds=7200)
    return world


def workflows() -> tuple[Workflow, ...]:
    """Return workflows whose runs end in all ways, one that hangs, and one that appears late."""
    return (
        Workflow(
            id="wf-fast",
            name="fast",
            org_id=ORG,
            origins=("WEBHOOK", "TRIGGER"),
            runs_per_hour=3 * 3600,
            duration_seconds=0.05,
            duration_spread=1.5,
            queue_seconds=0.05,
            failed=0.1,
            skipped=0.1,
        ),
        Workflow(
            id="wf-flaky",
            name="flaky",
            org_id=ORG,
            runs_per_hour=3600,
            duration_seconds=1.0,
            failed=0.3,
            canceled=0.2,
            late_usage_seconds=0.7,
            step_objects=True,
        ),
        Workflow(
            id=None,
            name="deleted",
            org_id=ORG,
            origins=("TRIGGER",),
            runs_per_hour=1800,
            duration_seconds=6.0,
            stuck_run=2,
        ),
        Workflow(
            id="wf-late",
            name="appears later, its first run fails",
            org_id=ORG,
            runs_per_hour=1800,
            duration_seconds=0.3,
            first_fails=True,
            appears_after_seconds=4.0,
        ),
    )


def faults() -> tuple[Fault, ...]:
    """Make one request in twenty go wrong, in each way that a sick service or network has."""
    share = 0.004
    return (
        Fault(kind="status", status=500, probability=share),
        Fault(kind="status", status=503, body="empty", probability=share),
        Fault(kind="rate_limited", probability=share),
        Fault(kind="rate_limited", retry_after="seconds", seconds=1, probability=share / 2),
        Fault(kind="rate_limited", retry_after="date", seconds=1, probability=share / 2),
        Fault(kind="html", probability=share),
        Fault(kind="empty_body", probability=share),
        Fault(kind="half_json", probability=share),
        Fault(kind="not_a_list", probability=share),
        Fault(kind="no_pagination", probability=share),
        Fault(kind="cut_off", probability=share),
        Fault(kind="reset", probability=share),
        Fault(kind="drip", seconds=0.3, probability=share),
        Fault(kind="slow", seconds=0.4, probability=share),
        Fault(kind="slow", seconds=3, probability=share / 2),
    )


class Trouble:
    """Lets runs vanish, be revised and be unreadable, so that what must be counted stays known.

    A run is let vanish only when all there is to count of it has been read.
    """

    def __init__(self, simulator: SimulatorServer, seed: int) -> None:
        """Make trouble in the world of `simulator`."""
        self._simulator = simulator
        self._world = simulator.world
        self._random = Random(f"{seed}:trouble")
        self._polls: list[float] = []
        self.polls_to_know = 2
        self.rows_in_reach: int | None = None
        """How deep the listing can be read, with room for what comes meanwhile; None: whole."""
        self._reconciled = 0.0
        self._spoiled: list[str] = []
        self._ever_spoiled: set[str] = set()
        self.vanished_open = 0
        self.removed = 0
        self.revised = 0
        self.spoiled = 0

    @property
    def polls(self) -> int:
        """How many complete polls were noted."""
        return len(self._polls)

    @property
    def has_come(self) -> bool:
        """Each kind of trouble was made at least once, and requests met some faults."""
        faults = [fault for fault, hits in self._simulator.faults.hits if hits]
        return len(faults) > 2 and min(self.removed, self.revised, self.spoiled) > 0

    def polled(self, samples: Samples) -> None:
        """Note how far the exporter has got, by its own account."""
        success = samples.find("invent_poll_last_success_timestamp_seconds", org_id=ORG)
        if success and success not in self._polls[-1:]:
            self._polls.append(success)
        reconciled = samples.find("invent_reconcile_last_success_timestamp_seconds", org_id=ORG)
        self._reconciled = max(self._reconciled, reconciled or 0.0)

    def make(self) -> None:
        """Make a little trouble."""
        with self._world.lock:
            self._world.advance()
            runs = self._world.truth().runs
            listed = [run for run in runs if run.state == "listed" and run.id.startswith("run_")]
            if self.rows_in_reach is not None:
                listed = sorted(listed, key=lambda run: run.created_at)[-self.rows_in_reach :]
            for run in self._random.sample(listed, min(2, len(listed))):
                usage = run.usages[-1] if run.usages else None
                if run.finished and usage is not None:
                    # Upward, for every sum to be known whichever revisions were seen.
                    grown = Usage(usage.ai + usage.other + 1.5, usage.ai + 0.5)
                    self._world.revise_usage(run.id, grown)
                    self.revised += 1
            # Where the end of the listing is out of reach, it can't be told that one has left it.
            is_whole = self.rows_in_reach is None
            known = [run for run in listed if (run.finished or is_whole) and self._is_known(run)]
            for run in self._random.sample(known, min(1, len(known))):
                self._world.remove_run(run.id)
                self.removed += 1
                self.vanished_open += not run.finished
            since = self._world.clock() - 0.5 - self._world.resolution_seconds
            fresh = [run for run in listed if run.created_at > since and run.spoiled is None]
            for run in self._random.sample(fresh, min(self._random.random() < 0.2, len(fresh))):
                if self._world.get_run(run.id).removed_at is None:
                    self._world.spoil_run(run.id, self._random.choice(_SPOILS))
                    self._spoiled.append(run.id)
                    self._ever_spoiled.add(run.id)
                    self.spoiled += 1
            if len(self._spoiled) > 3:
                self._mend(self._spoiled.pop(0))

    def _is_known(self, run: TrueRun) -> bool:
        """Tell whether all there is to count of a run has been read."""
        if len(self._polls) < self.polls_to_know or run.id in self._ever_spoiled:
            return False
        # The last complete poll began after the one before it had ended. One more, because in an
        # unlearned order a poll may miss a run that came in the moment in which another one went.
        updated_at = self._world.get_run(run.id).updated_at
        # The world may have told an earlier time than that at which it changed.
        changed_at = updated_at + self._world.resolution_seconds
        is_read = changed_at < self._polls[-self.polls_to_know]
        # Usage that came after the end is found by a reconciliation when it lies deep.
        return is_read and (updated_at == run.ended_at or changed_at < self._reconciled)

    def end(self) -> None:
        """Let the world stand still, with every run readable."""
        self._world.automatic = False
        for run_id in self._spoiled:
            self._mend(run_id)
        self._spoiled.clear()

    def _mend(self, run_id: str) -> None:
        self._world.spoil_run(run_id, None)
