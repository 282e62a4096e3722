"""The traffic that a world makes by itself: what is planned, and when it happens."""

from __future__ import annotations

import heapq
from random import Random
from typing import TYPE_CHECKING, Literal

import msgspec

from invent_exporter.simulator.workflows import Habit

if TYPE_CHECKING:
    from invent_exporter.simulator.workflows import Plan, Workflow
    from invent_exporter.simulator.world import World

EventKind = Literal["arrive", "start", "end", "usage"]


class _Event(msgspec.Struct, frozen=True, order=True):
    at: float
    number: int
    kind: EventKind
    key: str
    """The id of the run; for an arrival the place of the habit."""


class Traffic:
    """Plans the runs of each workflow and lets them happen in order of time.

    Each workflow draws from a generator of its own, and events happen at the time they are
    planned for, so that nothing depends on how often `advance` is called.
    """

    def __init__(self, world: World, *, begun_at: float) -> None:
        """Begin at `begun_at`, which lies before the world's opening when it has a history."""
        self._world = world
        self._begun_at = begun_at
        self._habits: list[Habit] = []
        self._plans: dict[str, Plan] = {}
        self._events: list[_Event] = []
        self._number = 0
        self._paused_at: float | None = None
        self._shift_seconds = 0.0

    def add(self, workflow: Workflow) -> None:
        """Plan the first run of a workflow."""
        world = self._world
        habit = Habit(workflow, Random(f"{world.seed}:{workflow.org_id}:{workflow.id}"))
        self._habits.append(habit)
        if workflow.appears_after_seconds:
            first = world.opened_at + workflow.appears_after_seconds
        else:
            first = habit.next_arrival(self._begun_at, world.pace)
        self._plan(first, "arrive", str(len(self._habits) - 1))

    @property
    def is_paused(self) -> bool:
        """Whether the plans stand still."""
        return self._paused_at is not None

    def pause(self, now: float) -> None:
        """Let happen what is planned up to `now`, and nothing more."""
        if self._paused_at is None:
            self.advance(now)
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Go on; everything planned is put off by the length of the pause."""
        if self._paused_at is not None:
            self._shift_seconds += now - self._paused_at
            self._paused_at = None

    def has_planned(self, run_id: str) -> bool:
        """Whether a run is one of the world's own."""
        return run_id in self._plans

    def advance(self, now: float) -> None:
        """Let everything happen that is planned up to `now`."""
        if self._paused_at is not None:
            return
        until = now - self._shift_seconds
        while self._events and self._events[0].at <= until:
            self._happen(heapq.heappop(self._events))

    def _happen(self, event: _Event) -> None:
        now = event.at + self._shift_seconds
        if event.kind == "arrive":
            self._arrive(event, now)
            return
        world, plan, run = self._world, self._plans[event.key], self._world.get_run(event.key)
        if run.removed_at is not None:
            return
        if event.kind == "start" and run.status == "PENDING":
            world.start_run(run.id, at=now)
            if plan.end_after is not None:
                self._plan(event.at + plan.end_after, "end", run.id)
        elif event.kind == "end" and not run.is_final:
            is_late = plan.usage_after > 0
            usage = None if is_late else plan.usage
            world.finish_run(run.id, plan.status, usage=usage, error=plan.error, at=now)
            if is_late and plan.usage is not None:
                self._plan(event.at + plan.usage_after, "usage", run.id)
        elif event.kind == "usage" and plan.usage is not None:
            world.revise_usage(run.id, plan.usage, at=now)

    def _arrive(self, event: _Event, now: float) -> None:
        habit = self._habits[int(event.key)]
        workflow, plan = habit.workflow, habit.next_plan()
        self._plans[plan.run_id] = plan
        self._world.add_run(
            run_id=plan.run_id,
            org_id=workflow.org_id,
            workflow_id=workflow.id,
            origin=plan.origin,
            created_at=now,
        )
        if plan.start_after is not None:
            self._plan(event.at + plan.start_after, "start", plan.run_id)
        elif plan.end_after is not None:
            self._plan(event.at + plan.end_after, "end", plan.run_id)
        self._plan(habit.next_arrival(event.at, self._world.pace), "arrive", event.key)

    def _plan(self, at: float, kind: EventKind, key: str) -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at, self._number, kind, key))
