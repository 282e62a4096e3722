"""The traffic that a world makes by itself: what is planned, and when it happens."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from random import Random
from typing import Literal

import msgspec

from invent_exporter.simulator.workflows import Habit, Plan, Workflow


class _Event(msgspec.Struct, frozen=True, order=True):
    at: float
    number: int
    kind: Literal["arrive", "start", "end", "usage"]
    habit: int
    run_id: str


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happens to one run of a workflow, at a time in seconds since the epoch."""

    at: float
    kind: Literal["arrive", "start", "end", "usage"]
    workflow: Workflow
    plan: Plan


class Traffic:
    """Plans the runs of each workflow and tells in order of time what happens.

    Each workflow draws from a generator of its own, and things happen at the time they are
    planned for, so that nothing depends on how often `due` is asked.
    """

    def __init__(self, seed: int, *, begun_at: float, opened_at: float, pace: float) -> None:
        """Begin at `begun_at`; workflows that appear later do so after `opened_at`."""
        self._seed = seed
        self._begun_at = begun_at
        self._opened_at = opened_at
        self._pace = pace
        self._habits: list[Habit] = []
        self._plans: dict[str, Plan] = {}
        self._events: list[_Event] = []
        self._number = 0
        self._paused_at: float | None = None
        self._shift_seconds = 0.0

    def add(self, workflow: Workflow) -> None:
        """Plan the first run of a workflow."""
        habit = Habit(workflow, Random(f"{self._seed}:{workflow.org_id}:{workflow.id}"))
        self._habits.append(habit)
        if workflow.appears_after_seconds:
            first = self._opened_at + workflow.appears_after_seconds
        else:
            first = habit.next_arrival(self._begun_at, self._pace)
        self._plan(first, "arrive", len(self._habits) - 1)

    @property
    def is_paused(self) -> bool:
        """Whether the plans stand still."""
        return self._paused_at is not None

    def pause(self, now: float) -> None:
        """Let the plans stand still."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Go on; everything planned is put off by the length of the pause."""
        if self._paused_at is not None:
            self._shift_seconds += now - self._paused_at
            self._paused_at = None

    @property
    def pace(self) -> float:
        """How much more often than their own rate workflows run."""
        return self._pace

    def change_pace(self, pace: float, now: float) -> None:
        """Bring the next arrivals nearer too, but those of workflows that are still to appear."""
        start = now - self._shift_seconds
        for place, event in enumerate(self._events):
            if event.kind == "arrive" and self._habits[event.habit].has_begun:
                at = start + (event.at - start) * self._pace / pace
                self._events[place] = msgspec.structs.replace(event, at=at)
        heapq.heapify(self._events)
        self._pace = pace

    def has_planned(self, run_id: str) -> bool:
        """Whether a run is one of the world's own."""
        return run_id in self._plans

    def due(self, now: float) -> Iterator[Happening]:
        """Give what happens up to `now`, each once."""
        if self._paused_at is not None:
            return
        until = now - self._shift_seconds
        while self._events and self._events[0].at <= until:
            event = heapq.heappop(self._events)
            habit = self._habits[event.habit]
            plan = self._arrive(event) if event.kind == "arrive" else self._plans[event.run_id]
            yield Happening(
                at=event.at + self._shift_seconds,
                kind=event.kind,
                workflow=habit.workflow,
                plan=plan,
            )

    def _arrive(self, event: _Event) -> Plan:
        """Draw a run, and plan what becomes of it and when the next one comes."""
        habit = self._habits[event.habit]
        plan = habit.next_plan()
        self._plans[plan.run_id] = plan
        moment = event.at
        if plan.start_after is not None:
            moment += plan.start_after
            self._plan(moment, "start", event.habit, plan.run_id)
        if plan.end_after is not None:
            moment += plan.end_after
            self._plan(moment, "end", event.habit, plan.run_id)
            if plan.usage is not None and plan.usage_after:
                self._plan(moment + plan.usage_after, "usage", event.habit, plan.run_id)
        self._plan(habit.next_arrival(event.at, self._pace), "arrive", event.habit)
        return plan

    def _plan(
        self,
        at: float,
        kind: Literal["arrive", "start", "end", "usage"],
        habit: int,
        run_id: str = "",
    ) -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at, self._number, kind, habit, run_id))
