"""What a run says beside what is known of it: an answer may leave out what an earlier one had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from invent_exporter.api.models import Run
    from invent_exporter.ledger.schema import RunRow


def credits_of(run: Run, row: RunRow) -> tuple[float, float] | None:
    """Return a run's credits as (ai, other); which part is AI's stays known once it was."""
    spent = run.credits
    if spent is None or run.usage is None or row.credits_ai is None:
        return spent
    if run.usage.ai_total is not None:
        return spent
    return row.credits_ai, max(0.0, sum(spent) - row.credits_ai)


def more_steps(run: Run, row: RunRow) -> dict[str, float]:
    """List the steps that took more than ever before: there are no corrections by step."""
    before = steps_of(row)
    return {
        step: total for step, total in run.step_credits.items() if total > before.get(step, 0.0)
    }


def steps_of(row: RunRow) -> dict[str, float]:
    """Return the most that each step was seen to take."""
    return {} if row.steps is None else msgspec.json.decode(row.steps, type=dict[str, float])


def since_of(run: Run, now: float) -> float:
    """When a final run ended; since when an open one is PENDING or RUNNING."""
    if run.is_final:
        return run.concluded
    times = (None if run.status_label == "PENDING" else run.started, run.created, now)
    return next(time for time in times if time is not None)


def created_of(run: Run, row: RunRow) -> float:
    """When the run came to be, by the latest that was told: so long its row is kept.

    With an earlier one the row might be gone while the run still passes for a new one.
    """
    return row.created if run.first_time is None else max(row.created, run.first_time)
