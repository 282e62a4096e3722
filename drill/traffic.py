"""The runs of a working day, and what an incident changes about them. Times are drill minutes."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from drill.speed import SPEED
from invent_exporter.simulator import World
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


@dataclass
class Traffic:
    """Makes runs by the habits, in a thread of its own, until it is stopped."""

    world: World
    habits: tuple[Habit, ...]
    random: Random
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self) -> threading.Thread:
        """Begin."""
        for habit in self.habits:
            self.later(habit.every_minutes * self.random.random(), lambda h=habit: self._arrive(h))  # type: ignore[misc]
        thread = threading.Thread(target=self._work, daemon=True, name="traffic")
        thread.start()
        return thread

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    def later(self, minutes: float, action: Callable[[], None]) -> None:
        """Do something in so many minutes."""
        with self._lock:
            self._count += 1
            heapq.heappush(self._events, (time.time() + minutes * MINUTE, self._count, action))

    def storm(self, habit: Habit, runs: int, minutes: float) -> None:
        """Let many short runs come at even intervals, started by webhooks."""
        for number in range(runs):
            self.later(number * minutes / runs, lambda: self._begin(habit, "WEBHOOK", 0.2))

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                due = []
                while self._events and self._events[0][0] <= time.time():
                    due.append(heapq.heappop(self._events)[2])
            for action in due:
                action()
            self._stopped.wait(0.01)

    def _arrive(self, habit: Habit) -> None:
        self.later(habit.every_minutes * self.random.uniform(0.7, 1.3), lambda: self._arrive(habit))
        if habit.paused:
            return
        habit.duration_minutes *= habit.growth
        self._begin(habit, habit.origin, habit.duration_minutes)

    def _begin(self, habit: Habit, origin: Origin, minutes: float) -> None:
        run_id = self.world.add_run(
            org_id=habit.org_id, workflow_id=habit.workflow_id, origin=origin
        )
        if habit.waiting:
            return
        self.later(0.1, lambda: self.world.start_run(run_id))
        status: Status = "FAILED" if self.random.random() < habit.failing else "COMPLETED"
        if status == "COMPLETED" and self.random.random() < CANCELED_SHARE:
            status = "CANCELED"
        burned = habit.credits * self.random.uniform(0.8, 1.2)
        usage = Usage(total=burned, ai_total=burned / 2)
        took = 0.1 + minutes * self.random.lognormvariate(0, 0.25)
        self.later(took, lambda: self._end(run_id, status, usage))

    def _end(self, run_id: str, status: Status, usage: Usage) -> None:
        error = "Error: the step failed" if status == "FAILED" else None
        self.world.finish_run(run_id, status, usage=usage, error=error)
