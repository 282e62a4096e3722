"""What the exporter must serve, worked out from the simulator's truth."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from invent_exporter.simulator.spoil import ODD_WORKFLOW, leap_second

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invent_exporter.simulator import Truth
    from invent_exporter.simulator.truth import TrueRun
    from tests.process.harness import Labels, Samples

DURATION_BUCKETS: Final = (
    *(1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400),
    math.inf,
)
COMPARED: Final = (
    "invent_runs_finished_total",
    "invent_runs_submitted_total",
    "invent_runs_open",
    "invent_credits_total",
    "invent_run_credits_count",
    "invent_run_duration_seconds_count",
    "invent_run_duration_seconds_sum",
    "invent_run_duration_seconds_bucket",
    "invent_run_queue_seconds_count",
    "invent_run_queue_seconds_sum",
)
DURABLE: Final = tuple(name for name in COMPARED if name != "invent_runs_open")
_TIMED: Final = ("COMPLETED", "FAILED", "CANCELED")

Sums = dict[tuple[str, "Labels"], float]

_UNREADABLE: Final[dict[str, dict[str, object]]] = {
    **{kind: {"usages": ()} for kind in ("bad_usage", "usage_list", "usage_total_empty")},
    **{kind: {"started_at": None} for kind in ("start_epoch", "start_zero")},
    **{kind: {"ended_at": None} for kind in ("end_never", "end_object")},
    **{kind: {"origin": "UNKNOWN"} for kind in ("origin_null", "origin_number")},
    "workflow_long": {"workflow_id": None},
    "workflow_number": {"workflow_id": str(ODD_WORKFLOW)},
}
"""What can be known of a run with an odd field, where that is not what is true."""


def as_told(run: TrueRun) -> TrueRun:
    """Return a run as it can be known from what the API writes of it."""
    changes = dict(_UNREADABLE.get(run.spoiled or "", {}))
    if run.spoiled == ("status_expired" if run.finished else "status_paused"):
        changes["status"] = "UNKNOWN"
    if run.spoiled == "end_leap_second" and run.ended_at is not None:
        end = leap_second(datetime.fromtimestamp(run.ended_at, UTC))
        changes["ended_at"] = end.timestamp()
    return msgspec.structs.replace(run, **changes)


def expected_of(truth: Truth) -> Sums:  # noqa: C901 - one branch for each thing a run adds
    """Sum up the runs one by one; series that would be 0 are left out."""
    sums: defaultdict[tuple[str, Labels], float] = defaultdict(float)

    def add(name: str, value: float, **labels: str) -> None:
        sums[name, frozenset(labels.items())] += value

    for run in map(as_told, truth.runs):
        if run.state == "hidden":
            continue
        group = {"org_id": run.org_id, "workflow_id": run.workflow_id or "__none__"}
        origin = {**group, "origin": run.origin}
        if truth.since is None or run.created_at > truth.since:
            add("invent_runs_submitted_total", 1, **origin)
        if not run.finished:
            if run.state == "listed":
                add("invent_runs_open", 1, **origin, status=run.status)
            continue
        add("invent_runs_finished_total", 1, **origin, status=run.status)
        if run.usages:
            last = run.usages[-1]
            add("invent_credits_total", last.ai, **origin, status=run.status, kind="ai")
            add("invent_credits_total", last.other, **origin, status=run.status, kind="other")
            add("invent_run_credits_count", 1, **group)
        if run.status in _TIMED and run.started_at is not None and run.ended_at is not None:
            duration = max(0.0, run.ended_at - run.started_at)
            timed = {**group, "status": run.status}
            add("invent_run_duration_seconds_count", 1, **timed)
            add("invent_run_duration_seconds_sum", duration, **timed)
            for bound in DURATION_BUCKETS:
                le = "+Inf" if math.isinf(bound) else f"{bound:.1f}"
                if duration <= bound:
                    add("invent_run_duration_seconds_bucket", 1, **timed, le=le)
        if run.status in _TIMED and run.started_at is not None and run.spoiled != "created_zero":
            add("invent_run_queue_seconds_count", 1, **group)
            add("invent_run_queue_seconds_sum", max(0.0, run.started_at - run.created_at), **group)
    return dict(sums)


def differences(samples: Samples, truth: Truth) -> list[str]:
    """Compare every series, both ways; empty when all is exact."""
    return differences_from(samples, expected_of(truth))


def differences_from(samples: Samples, expected: Sums) -> list[str]:
    """Compare every series with what is expected, both ways."""
    served = {key: value for key, value in samples.items() if key[0] in COMPARED and value}
    return [
        f"{name}{dict(sorted(labels))}: served {served.get((name, labels), 0)}, "
        f"true {expected.get((name, labels), 0)}"
        for name, labels in sorted(served.keys() | expected.keys(), key=str)
        if not math.isclose(
            served.get((name, labels), 0.0),
            expected.get((name, labels), 0.0),
            rel_tol=1e-9,
            abs_tol=1e-6,
        )
    ]


def finished_counts(samples: Mapping[tuple[str, Labels], float]) -> Counter[Labels]:
    """Choose the finished runs by labels."""
    counts: Counter[Labels] = Counter()
    for (name, labels), value in samples.items():
        if name == "invent_runs_finished_total":
            counts[labels] = int(value)
    return counts
