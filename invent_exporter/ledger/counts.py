"""What the series of one workflow say, and what one run adds to them. Pure: no I/O, no clock.

The ledger stores one `WorkflowCounts` for each workflow as JSON and replaces it whole, so a run's
count, duration, queue time and credits can't come apart.

Longer than most modules: each kind of number, with what one run does to it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from copy import copy
from itertools import pairwise
from typing import Any, Self

import msgspec

from invent_exporter.api import models
from invent_exporter.api.models import TIMED_STATUSES, UNKNOWN, Run

MAX_STEPS = 50
BASE_GROUP = ""
"""The group of series that a workflow is born with; every later series is a group of its own."""


class Exemplar(msgspec.Struct, array_like=True, gc=False):
    """The run behind a sample."""

    run_id: str
    value: float
    timestamp_seconds: float


class Histogram(msgspec.Struct, gc=False):
    """Observations by bucket, not cumulative; the last bucket is +Inf."""

    bounds: list[float]
    counts: list[int]
    total: float = 0.0
    exemplars: dict[int, Exemplar] = {}

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        """Make a histogram without observations."""
        return cls(list(bounds), [0] * (len(bounds) + 1), 0.0, {})

    def observe(self, value: float, run_id: str, timestamp_seconds: float | None) -> None:
        """Add one observation, with the run as exemplar of its bucket when it is the newest."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        keep_newest(self.exemplars, bucket, Exemplar(run_id, value, timestamp_seconds or 0.0))

    def draft(self) -> Histogram:
        """Copy what changes; bounds and exemplars are only ever replaced."""
        return Histogram(self.bounds, [*self.counts], self.total, {**self.exemplars})

    def add(self, other: Histogram) -> None:
        """Add the observations of another one with the same bounds."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        for bucket, exemplar in other.exemplars.items():
            keep_newest(self.exemplars, bucket, exemplar)

    def rebucket(self, bounds: tuple[float, ...]) -> Histogram:
        """Carry the observations over to other bounds, so that no cumulative count goes back.

        A new bound starts with the old cumulative count at the largest old bound at or below it.
        """
        if tuple(self.bounds) == bounds:
            return self
        at_new = [sum(self.counts[: bisect_right(self.bounds, bound)]) for bound in bounds]
        at_new.append(sum(self.counts))
        counts = [upper - lower for lower, upper in pairwise([0, *at_new])]
        moved = Histogram(list(bounds), counts, self.total, {})
        for exemplar in self.exemplars.values():
            keep_newest(moved.exemplars, bisect_left(moved.bounds, exemplar.value), exemplar)
        return moved


def keep_newest(exemplars: dict[Any, Exemplar], key: int | str, exemplar: Exemplar) -> None:
    """Keep of two runs the one that ended later."""
    old = exemplars.get(key)
    if old is None or old.timestamp_seconds <= exemplar.timestamp_seconds:
        exemplars[key] = exemplar


class Bounds(msgspec.Struct, frozen=True):
    """The upper bounds of the histograms, as configured."""

    duration_seconds: tuple[float, ...]
    queue_seconds: tuple[float, ...]
    credits: tuple[float, ...]


def series_key(origin: str, status: str) -> str:
    """Name a pair of labels: the stored maps are JSON, whose keys are strings."""
    return f"{origin}/{status}"


BASE_KEYS = tuple(
    series_key(origin, status) for origin in models.ORIGINS for status in models.FINAL_STATUSES
)


class _Counts(msgspec.Struct, omit_defaults=True):
    def draft(self) -> Self:
        """Copy, so that the copy can be changed and dropped."""
        copied = copy(self)
        for name, value in zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True):
            if value.__class__ in (dict, list):
                setattr(copied, name, value.copy())
        return copied


class WorkflowCounts(_Counts, omit_defaults=True):
    """The value of every series of one workflow. Maps hold what is not 0."""

    duration: dict[str, Histogram]
    queue: Histogram
    run_credits: Histogram
    finished: dict[str, int] = {}
    finished_exemplars: dict[str, Exemplar] = {}
    submitted: dict[str, int] = {}
    credits_ai: dict[str, float] = {}
    credits_other: dict[str, float] = {}
    steps: dict[str, float] = {}
    last_finished: dict[str, float] = {}
    last_completed: tuple[float, str] | None = None
    last_failed: tuple[float, str] | None = None
    consecutive_failures: int = 0
    newest_created: float | None = None
    version: str = ""
    workflow_org_id: str = ""
    released: list[str] = []

    @classmethod
    def empty(cls, bounds: Bounds) -> WorkflowCounts:
        """Make the numbers of a workflow that nothing is known of."""
        return cls(
            {status: Histogram.empty(bounds.duration_seconds) for status in TIMED_STATUSES},
            Histogram.empty(bounds.queue_seconds),
            Histogram.empty(bounds.credits),
        )

    def draft(self) -> Self:
        """Copy with the histograms."""
        copied = super().draft()
        copied.duration = {status: each.draft() for status, each in self.duration.items()}
        copied.queue, copied.run_credits = self.queue.draft(), self.run_credits.draft()
        return copied

    def rebucket(self, bounds: Bounds) -> bool:
        """Follow changed bounds; True when anything changed."""
        old = (dict(self.duration), self.queue, self.run_credits)
        seconds = bounds.duration_seconds
        self.duration = {name: each.rebucket(seconds) for name, each in self.duration.items()}
        self.queue = self.queue.rebucket(bounds.queue_seconds)
        self.run_credits = self.run_credits.rebucket(bounds.credits)
        return old != (self.duration, self.queue, self.run_credits)

    def absorb(self, other: WorkflowCounts) -> None:
        """Add all that another workflow counted; both have the same bounds.

        What was shown at its value goes on to be: held at 0 it would fall.
        """
        for status, histogram in other.duration.items():
            self.duration[status].add(histogram)
        self.queue.add(other.queue)
        self.run_credits.add(other.run_credits)
        for name in ("finished", "submitted", "credits_ai", "credits_other"):
            mine = getattr(self, name)
            for key, value in getattr(other, name).items():
                mine[key] = mine.get(key, 0) + value
        for key, exemplar in other.finished_exemplars.items():
            keep_newest(self.finished_exemplars, key, exemplar)
        for step, total in other.steps.items():
            self.spend_step(step, total)
        for status, ended in other.last_finished.items():
            self.last_finished[status] = max(self.last_finished.get(status, ended), ended)
        self.released = [*dict.fromkeys(self.released + other.released)]

    def drop_long_labels(self) -> bool:
        """Take away what is too long to be a label, its credits kept; True when there was any.

        Version 0.1.0 counted whatever the API sent.
        """
        before = msgspec.json.encode(self)
        for step in [step for step in self.steps if models.is_too_long(step)]:
            self.spend_step(models.OTHER_STEP, self.steps.pop(step))
        if models.is_too_long(self.version):
            self.version = ""
        if models.is_too_long(self.workflow_org_id):
            self.workflow_org_id = ""
        histograms = (*self.duration.values(), self.queue, self.run_credits)
        maps: list[dict[Any, Exemplar]] = [each.exemplars for each in histograms]
        for exemplars in (self.finished_exemplars, *maps):
            for key in [key for key, each in exemplars.items() if models.is_too_long(each.run_id)]:
                del exemplars[key]
        return msgspec.json.encode(self) != before

    def submit(self, run: Run) -> None:
        """Count a run that is seen for the first time."""
        self.submitted[run.origin_label] = self.submitted.get(run.origin_label, 0) + 1

    def finish(self, run: Run) -> None:
        """Count a run that reached its first final status, without its credits."""
        status = run.status_label
        key = series_key(run.origin_label, status)
        self.finished[key] = self.finished.get(key, 0) + 1
        keep_newest(self.finished_exemplars, key, Exemplar(run.id, 1.0, run.ended or 0.0))
        if status not in TIMED_STATUSES:
            return
        if (duration := run.duration_seconds) is not None:
            self.duration[status].observe(duration, run.id, run.ended)
        if (queue := run.queue_seconds) is not None:
            self.queue.observe(queue, run.id, run.ended)

    def spend_first(self, key: str, run: Run) -> None:
        """Count the credits of a run when they are first known; `key` names its final series."""
        if (spent := run.credits) is not None and (total := run.credits_total) is not None:
            self.spend(key, *spent)
            self.run_credits.observe(total, run.id, run.ended)

    def spend(self, key: str, ai: float, other: float) -> None:
        """Add credits to a final series."""
        for known, added in ((self.credits_ai, ai), (self.credits_other, other)):
            if added > 0:
                known[key] = known.get(key, 0.0) + added

    def spend_step(self, step: str, credits_added: float) -> None:
        """Add credits to a step; the steps beyond the first 50 share `__other__`."""
        if step not in self.steps and len(self.steps) >= MAX_STEPS:
            step = models.OTHER_STEP
        self.steps[step] = self.steps.get(step, 0.0) + credits_added

    def learn(self, run: Run) -> None:
        """Follow the newest run's version, and the org that owns the workflow."""
        created = run.first_time or 0.0
        if self.newest_created is None or created >= self.newest_created:
            self.newest_created = created
            self.version = run.version_label or self.version
            self.workflow_org_id = run.workflow_org_id or self.workflow_org_id

    def conclude(self, run: Run) -> tuple[float, str] | None:
        """Follow the last result by status and the streak of failures.

        A COMPLETED run that turned up out of order: return the moment after which the caller must
        count the failures anew.
        """
        status, ended = run.status_label, run.concluded
        self.last_finished[status] = max(self.last_finished.get(status, ended), ended)
        moment = (ended, run.id)
        if self.last_completed is not None and moment <= self.last_completed:
            return None
        if status == "FAILED":
            self.consecutive_failures += 1
            self.last_failed = max(self.last_failed or moment, moment)
        if status != "COMPLETED":
            return None
        self.last_completed = moment
        if self.last_failed is not None and moment <= self.last_failed:
            return moment
        self.consecutive_failures, self.last_failed = 0, None
        return None

    def take_back_failure(self, moment: tuple[float, str]) -> None:
        """Leave a failure out of the streak: it goes on."""
        if self.last_completed is None or moment > self.last_completed:
            self.consecutive_failures = max(0, self.consecutive_failures - 1)

    def groups(self) -> list[str]:
        """List the groups of series that exist: the base, and each series that came late."""
        late = [f"finished:{key}" for key in self.finished if key not in BASE_KEYS]
        late += [f"submitted:{UNKNOWN}"] if UNKNOWN in self.submitted else []
        late += [f"step:{step}" for step in self.steps]
        return [BASE_GROUP, *late]

    def unreleased(self) -> list[str]:
        """List the groups that are still shown at 0."""
        return [group for group in self.groups() if group not in self.released]


class FailedRun(msgspec.Struct, frozen=True):
    """A failed run as the page for people shows it."""

    run_id: str
    workflow_id: str
    ended_seconds: float | None
    error: str
    origin: str = UNKNOWN
    duration_seconds: float | None = None
    credits: float | None = None


class HourCounts(msgspec.Struct, frozen=True):
    """What ended in one hour: runs that counted, by status, and their credits."""

    finished: dict[str, int] = {}
    credits: float = 0.0


KEPT_HOURS = 24


class OrgCounts(_Counts, omit_defaults=True):
    """The counters of an org as a whole, its last hours, and its newest failed runs.

    No series: `met`, which the scan compares with what the count of all runs grew by, and `named`,
    the org that most runs of a `c` named which is not known yet.
    """

    invalid: dict[str, int] = {}
    unreadable: dict[str, int] = {}
    met: int = 0
    named: str | None = None
    recovered: int = 0
    vanished: int = 0
    revised: int = 0
    credit_corrections: float = 0.0
    failed: list[FailedRun] = []
    hours: dict[int, HourCounts] = {}

    def note_hour(self, ended: float, now: float, status: str | None, spent: float) -> None:
        """Add a run that ended, or (without status) credits of one, to the hour in which it did."""
        hour, newest = int(ended // 3600), int(now // 3600)
        if not newest - KEPT_HOURS < hour <= newest:
            return
        if hour not in self.hours:
            self.hours = {key: of for key, of in self.hours.items() if key > newest - KEPT_HOURS}
        known = self.hours.get(hour, HourCounts())
        finished = known.finished
        if status is not None:
            finished = {**finished, status: finished.get(status, 0) + 1}
        self.hours[hour] = HourCounts(finished, known.credits + spent)
