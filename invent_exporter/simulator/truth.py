"""What really happened in a world, for tests to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from invent_exporter.simulator.runs import Run


class Credits(msgspec.Struct, frozen=True):
    """Credits of one usage, split so that they can be summed."""

    ai: float
    other: float


class TrueRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `status` is the first final status when `finished`, else the status now."""

    id: str
    org_id: str
    workflow_id: str | None
    origin: str
    status: str
    status_now: str
    finished: bool
    state: Literal["listed", "hidden", "removed"]
    spoiled: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    final_at: float | None
    removed_at: float | None
    usages: tuple[Credits, ...]
    """Each usage the run ever had, in order; the last one is the present one."""


class FinishedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Finished runs with the same labels. Durations are of runs that started, in seconds."""

    org_id: str
    workflow_id: str | None
    origin: str
    status: str
    finished: int
    credits_ai: float
    credits_other: float
    durations: tuple[float, ...]


class SubmittedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that were created, whatever came of them."""

    org_id: str
    workflow_id: str | None
    origin: str
    submitted: int


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """The sums and the runs they are made of. Hidden runs are in `runs` but in no sum."""

    at: float
    since: float | None
    finished: tuple[FinishedGroup, ...]
    submitted: tuple[SubmittedGroup, ...]
    runs: tuple[TrueRun, ...]

    @property
    def finished_counts(self) -> dict[tuple[str, str | None, str, str], int]:
        """Finished runs by (org, workflow, origin, status)."""
        return {(g.org_id, g.workflow_id, g.origin, g.status): g.finished for g in self.finished}


def tell_truth(runs: Iterable[Run], *, at: float, since: float | None) -> Truth:
    """Sum the runs up; with `since`, only those created after it or open at it.

    `submitted` counts, with `since`, only the runs created after it.
    """
    told = []
    finished: dict[tuple[str, str | None, str, str], list[TrueRun]] = {}
    submitted: dict[tuple[str, str | None, str], int] = {}
    for run in runs:
        is_new = since is None or run.created_at > since
        if since is not None and not is_new and run.final_at is not None and run.final_at <= since:
            continue
        true = _true_run(run)
        told.append(true)
        if run.hidden:
            continue
        group = (run.org_id, run.workflow_id, run.origin)
        if is_new:
            submitted[group] = submitted.get(group, 0) + 1
        if true.finished:
            finished.setdefault((*group, true.status), []).append(true)
    return Truth(
        at=at,
        since=since,
        finished=tuple(_finished_group(labels, members) for labels, members in finished.items()),
        submitted=tuple(
            SubmittedGroup(org_id=org, workflow_id=workflow, origin=origin, submitted=count)
            for (org, workflow, origin), count in submitted.items()
        ),
        runs=tuple(told),
    )


def _true_run(run: Run) -> TrueRun:
    return TrueRun(
        id=run.id,
        org_id=run.org_id,
        workflow_id=run.workflow_id,
        origin=run.origin,
        status=run.first_final or run.status,
        status_now=run.status,
        finished=run.first_final is not None,
        state="removed" if run.removed_at is not None else "hidden" if run.hidden else "listed",
        spoiled=run.spoiled,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        final_at=run.final_at,
        removed_at=run.removed_at,
        usages=tuple(
            Credits(ai=max(0.0, u.ai_total), other=max(0.0, u.total - max(0.0, u.ai_total)))
            for u in run.usages
        ),
    )


def _finished_group(
    labels: tuple[str, str | None, str, str], members: list[TrueRun]
) -> FinishedGroup:
    org_id, workflow_id, origin, status = labels
    present = [run.usages[-1] for run in members if run.usages]
    return FinishedGroup(
        org_id=org_id,
        workflow_id=workflow_id,
        origin=origin,
        status=status,
        finished=len(members),
        credits_ai=sum(usage.ai for usage in present),
        credits_other=sum(usage.other for usage in present),
        durations=tuple(
            max(0.0, run.ended_at - run.started_at)
            for run in members
            if run.started_at is not None and run.ended_at is not None
        ),
    )
