"""Where a run stands in the past: what of it is for `backfill` to write, and when. Pure.

What the live counters have is left out, by the rules with which they took it (docs/backfill.md,
"The seam").
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from invent_exporter.api.models import Run
from invent_exporter.config.workflows import Workflows


class Window(msgspec.Struct, frozen=True):
    """The past of one org: from `start` to `end`, seconds since the epoch, and what is known of it.

    `others` are the other orgs that are read, by their real ids, each with its own end; `live`,
    `history` and `met` are runs that stand on the other side than their times say (`KnownOrg`);
    `workflows` says which are left out.
    """

    start: float
    end: float
    others: Mapping[str, float]
    live: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    met: frozenset[str] = frozenset()
    workflows: Workflows = Workflows()


class Place(msgspec.Struct, frozen=True):
    """When a run was submitted and when it finished, in seconds, as far as backfill writes it.

    What is later than the window's end is shown there. Of several orgs that list a run the one
    with the lowest `rank` has it.
    """

    submitted: float | None
    finished: float | None
    rank: int


def place(run: Run, window: Window) -> Place | None:
    """Place a run; None for one that nothing is to be written of, whoever else lists it."""
    if run.told_time is None or run.first_time is None or _is_foreign(run, window):
        return None
    if window.workflows.leave_out(run.workflow_label):
        return None
    is_history = run.id in window.history
    is_live = run.id in window.live or (run.told_time > window.end and not is_history)
    submitted = finished = None
    was_met = is_history or run.id in window.met
    if window.start <= run.first_time and (run.first_time <= window.end or was_met):
        submitted = run.first_time
    if run.is_final and not is_live and run.concluded >= window.start:
        finished = run.concluded
    names_another = run.org_id in window.others
    # Where one org's live counters have it, it is no other's past.
    return Place(submitted, finished, 0 if is_live else 1 + names_another)


def _is_foreign(run: Run, window: Window) -> bool:
    """Tell whether a run is another org's that is read as well, by the recorder's rule."""
    other_end = window.others.get(run.org_id or "")
    if other_end is None or run.id in window.live or run.id in window.history:
        return False
    return not run.is_final or (run.told_time or 0.0) > other_end
