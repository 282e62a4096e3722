"""Short ways to make what the ledger is given, for tests that state one rule each."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from invent_exporter.api.models import Run, Usage, Version
from invent_exporter.ledger.counts import Bounds

NOW = 1_800_000_000.0
BOUNDS = Bounds((1.0, 10.0, 60.0), (1.0, 10.0), (1.0, 10.0))


def at(seconds: float | None) -> datetime | None:
    """Make a time that many seconds after `NOW`."""
    return None if seconds is None else datetime.fromtimestamp(NOW + seconds, UTC)


def usage(total: float | None, ai: float | None = None, **steps: object) -> Usage:
    """Make the usage of a run."""
    return Usage(total, ai, msgspec.Raw(msgspec.json.encode(steps)))


def run(
    run_id: str = "run-1",
    status: str = "COMPLETED",
    *,
    workflow_id: str | None = "wf",
    origin: str | None = "TRIGGER",
    created: float | None = 0.0,
    started: float | None = 1.0,
    ended: float | None = 3.0,
    updated: float | None = None,
    org_id: str | None = "org-1",
    workflow_org_id: str | None = None,
    version: float | None = None,
    error: str | None = None,
    credits_used: Usage | None = None,
) -> Run:
    """Make a run; times are seconds after `NOW`, and `updated` is the latest of them."""
    times = [time for time in (created, started, ended) if time is not None]
    return Run(
        run_id,
        status,
        origin,
        at(created),
        at(started),
        at(ended),
        at(updated if updated is not None or not times else max(times)),
        org_id,
        workflow_org_id,
        workflow_id,
        None if version is None else Version(version),
        None,
        error,
        credits_used,
    )


def pending(run_id: str = "run-1", **fields: object) -> Run:
    """Make a run that waits."""
    return run(run_id, "PENDING", started=None, ended=None, **fields)  # type: ignore[arg-type]


def running(run_id: str = "run-1", **fields: object) -> Run:
    """Make a run that is under way."""
    return run(run_id, "RUNNING", ended=None, **fields)  # type: ignore[arg-type]
