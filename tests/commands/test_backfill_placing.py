"""Which runs are for backfill to write, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from invent_exporter.api.models import Run
from invent_exporter.commands.backfill_placing import Place, Window, place

NOW = 1_800_000_000.0
WINDOW = Window(
    NOW - 100,
    NOW,
    {"other": NOW - 50},
    live=frozenset({"live"}),
    history=frozenset({"history"}),
    met=frozenset({"met"}),
)


def run_of(run_id: str = "r", status: str = "FAILED", **times: float | str | None) -> Run:
    """Make a run with times relative to the window's end."""
    fields: dict[str, Any] = {
        name: datetime.fromtimestamp(NOW + value, UTC) if isinstance(value, float) else value
        for name, value in times.items()
    }
    return Run(run_id, status, "TRIGGER", **fields)


@pytest.mark.parametrize(
    ("run", "submitted", "finished"),
    [
        (run_of(created_at=-60.0, ended_at=-10.0), -60, -10),
        (run_of(created_at=-900.0, ended_at=-10.0), None, -10),
        (run_of(created_at=-900.0, ended_at=-101.0), None, None),
        # counted live, for it ended after contact; it was submitted before
        (run_of(created_at=-60.0, ended_at=1.0), -60, None),
        (run_of(created_at=1.0, ended_at=2.0), None, None),
        # open now: the live counters will have its end
        (run_of(status="RUNNING", created_at=-60.0), -60, None),
        (run_of(status="RUNNING", created_at=1.0), None, None),
        # seen open at contact though it had ended by its times
        (run_of("live", created_at=-60.0, ended_at=-10.0), -60, None),
        # met as final by first contact itself, though it ended after its first answer
        (run_of("history", created_at=1.0, ended_at=2.0), 1, 2),
        # met as open by first contact, in the second in which it was created
        (run_of("met", status="RUNNING", created_at=0.5), 0.5, None),
        (run_of("met", created_at=0.5, ended_at=9.0), 0.5, None),
        # without an end the time of creation decides what is history, as in the ledger
        (run_of(created_at=-60.0, updated_at=9.0), -60, 9),
        (run_of(updated_at=-10.0), -10, -10),
        # what another org's counters have, and what of it is history for all
        (run_of(created_at=-60.0, ended_at=-51.0, org_id="other"), -60, -51),
    ],
)
def test_each_run_stands_on_one_side_of_contact(
    run: Run, submitted: float | None, finished: float | None
) -> None:
    """By its times as the ledger reads them, and by what the ledger knows beside them."""
    placed = place(run, WINDOW)
    assert placed is not None
    times = [None if at is None else at - NOW for at in (placed.submitted, placed.finished)]
    assert times == [submitted, finished]


@pytest.mark.parametrize(
    "run",
    [
        run_of(),
        run_of(created_at=-60.0, ended_at=-49.0, org_id="other"),
        run_of(status="RUNNING", created_at=-60.0, org_id="other"),
    ],
)
def test_some_are_nobody_s_here(run: Run) -> None:
    """Those without a time, and those that another org has that is read as well."""
    assert place(run, WINDOW) is None


def test_of_two_orgs_that_list_a_run_the_one_has_it_whose_counters_do() -> None:
    """Then the one that it names, or that lists it first."""
    live = place(run_of(created_at=-60.0, ended_at=1.0), WINDOW)
    own = place(run_of(created_at=-60.0, ended_at=-51.0), WINDOW)
    named = place(run_of(created_at=-60.0, ended_at=-51.0, org_id="other"), WINDOW)
    ranks = [placed.rank for placed in (live, own, named) if isinstance(placed, Place)]
    assert ranks == [0, 1, 2]
