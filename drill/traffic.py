"""The runs of a working day, and what an incident changes about them. Times are drill minutes.

It plays in a thread, against the simulated API, or in no time, for a history that is to be drawn.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from drill.speed import SPEED
from invent_exporter.simulator.runs import Origin, Status, Usage

MINUTE = 60 / SPEED
"""A minute of the drill in seconds of the machine."""


CANCELED_SHARE = 0.02


@dataclass
class Habit:
    """How the runs of one workflow come and go; an incident changes it while it is played."""

    workflow_id: str
    org_id: str
    origin: Origin
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
    steps: tuple[str, ...] = ()
    """The steps that burn the credits, in equal parts."""


class Runs(Protocol):
    """Where the runs are: the simulated API's world, or whoever else keeps them."""

    def add_run(self, *, org_id: str, workflow_id: str, origin: Origin, version: int) -> str:
        """Take a run that waits, and return its id."""

    def start_run(self, run_id: str) -> None:
        """Let it start."""

    def finish_run(
        self, run_id: str, status: Status, *, usage: Usage | None, error: str | None
    ) -> None:
        """Let it end."""


@dataclass
class Traffic:
    """Makes runs by the habits."""

    runs: Runs
    habits: tuple[Habit, ...]
    random: Random
    minute_seconds: float = MINUTE
    now: float = 0.0
    """The moment that is played, in unix seconds."""
    hung: list[str] = field(default_factory=list)
    """Runs that never end by themselves."""
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def schedule(self) -> None:
        """Let each habit begin, somewhere in its rhythm."""
        for habit in self.habits:
            self.later(habit.every_minutes * self.random.random(), lambda h=habit: self._arrive(h))  # type: ignore[misc]

    def start(self) -> None:
        """Play from now on, in a thread of its own, until it is stopped."""
        self.now = time.time()
        self.schedule()
        threading.Thread(target=self._work, daemon=True, name="traffic").start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    def later(self, minutes: float, action: Callable[[], None]) -> None:
        """Do something in so many minutes."""
        with self._lock:
            self._count += 1
            moment = self.now + minutes * self.minute_seconds
            heapq.heappush(self._events, (moment, self._count, action))

    def play_until(self, moment: float) -> None:
        """Do what is due until then, each at its moment."""
        with self._lock:
            while self._events and self._events[0][0] <= moment:
                self.now, _, action = heapq.heappop(self._events)
                action()
            self.now = moment

    def storm(self, habit: Habit, runs: int, minutes: float) -> None:
        """Let many short runs come at even intervals, started by webhooks."""
        for number in range(runs):
            self.later(number * minutes / runs, lambda: self._begin(habit, "WEBHOOK", 0.2))

    def begin(self, habit: Habit) -> None:
        """Let one run come."""
        self._begin(habit, habit.origin, habit.duration_minutes)

    def hang(self, habit: Habit) -> None:
        """Let a run come that starts and does not end."""
        run_id = self._add(habit, habit.origin)
        self.runs.start_run(run_id)
        self.hung.append(run_id)

    def calm_down(self, habits: tuple[Habit, ...]) -> None:
        """Cancel the runs that hang or wait, and go on by these habits."""
        for habit, fresh in zip(self.habits, habits, strict=True):
            habit.__dict__.update(fresh.__dict__)
        for run_id in self.hung:
            self.runs.finish_run(run_id, "CANCELED", usage=None, error=None)

    def _add(self, habit: Habit, origin: Origin) -> str:
        return self.runs.add_run(
            org_id=habit.org_id,
            workflow_id=habit.workflow_id,
            origin=origin,
            version=habit.version,
        )

    def _work(self) -> None:
        while not self._stopped.is_set():
            self.play_until(time.time())
            self._stopped.wait(0.01)

    def _arrive(self, habit: Habit) -> None:
        self.later(habit.every_minutes * self.random.uniform(0.7, 1.3), lambda: self._arrive(habit))
        if habit.paused:
            return
        habit.duration_minutes *= habit.growth
        self.begin(habit)

    def _begin(self, habit: Habit, origin: Origin, minutes: float) -> None:
        run_id = self._add(habit, origin)
        if habit.waiting:
            self.hung.append(run_id)
            return
        waited = self.random.uniform(0.005, 0.1)
        self.later(waited, lambda: self.runs.start_run(run_id))
        status: Status = "FAILED" if self.random.random() < habit.failing else "COMPLETED"
        if status == "COMPLETED" and self.random.random() < CANCELED_SHARE:
            status = "CANCELED"
        burned = round(habit.credits * self.random.uniform(0.8, 1.2), 2)
        usage = Usage(
            total=burned,
            ai_total=burned / 2,
            steps={step: burned / len(habit.steps) for step in habit.steps},
        )
        took = waited + minutes * self.random.lognormvariate(0, 0.25)
        self.later(took, lambda: self._end(run_id, status, usage))

    def _end(self, run_id: str, status: Status, usage: Usage) -> None:
        error = "Error: the step failed" if status == "FAILED" else None
        self.runs.finish_run(run_id, status, usage=usage, error=error)
