"""Show one workflow in depth, or a few beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import WORKFLOWS, job, mark_restarts, mark_runs, org, origin, start, workflow
from grafana.overview import (
    DECIDED,
    FAILED,
    FINISHED,
    LAST,
    OLDEST,
    OPEN_LIMITS,
    STATUS_COLORS,
    WASTED,
)
from grafana.panels import (
    CALM,
    GREEN,
    ORANGE,
    RED,
    Column,
    Place,
    lines,
    listing,
    now,
    query,
    row,
    rows,
    tile,
    warmth,
)
from grafana.queries import BY_WORKFLOW, RUNS, WORKFLOW, increase, named, quantile, rate

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

DONE = f'{WORKFLOW}, status="COMPLETED"'
DURATION = "invent_run_duration_seconds"
STREAK_LIMITS = ((None, GREEN), (1, ORANGE), (3, RED))
QUANTILES = ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        WORKFLOWS,
        "Invent / Workflow",
        "One workflow in depth. Choose it above; several are added up or drawn beside each other.",
        [job(), org(), workflow(), origin()],
    )
    mark_runs(board, failures=True)
    mark_restarts(board)
    _tiles(board)
    _results(board)
    _times(board)
    _credits(board)
    _versions(board)
    return board


def _mean(window: str, offset: str = "") -> str:
    total = f"sum(rate({DURATION}_sum{{{DONE}}}[{window}]{offset}))"
    return f"{total} / sum(rate({DURATION}_count{{{DONE}}}[{window}]{offset}))"


def _tiles(board: dashboard.Dashboard) -> None:
    failed = f"sum({increase(FINISHED, FAILED, '$__range')})"
    decided = f"sum({increase(FINISHED, DECIDED, '$__range')})"
    success = f'max({LAST}{{{WORKFLOW}, status="COMPLETED"}}) > 0'
    credits_each = (
        f"sum({increase('invent_run_credits_sum', WORKFLOW, '$__range')})"
        f" / sum({increase('invent_run_credits_count', WORKFLOW, '$__range')})"
    )
    board.with_panel(
        tile(
            "Failures in a row",
            "FAILED runs since the last COMPLETED one; of several workflows the most.",
            Place(0, 0, 4, 4),
            now(f"max(invent_workflow_consecutive_failures{{{WORKFLOW}}})"),
            unit="short",
            limits=STREAK_LIMITS,
        )
    )
    board.with_panel(
        tile(
            "Last success",
            "Time since a run completed.",
            Place(4, 0, 4, 4),
            now(f"time() - ({success})"),
            unit="s",
            limits=CALM,
        )
    )
    board.with_panel(
        tile(
            "Success ratio",
            "COMPLETED of COMPLETED and FAILED in the chosen time.",
            Place(8, 0, 4, 4),
            now(f"1 - {failed} / ({decided} > 0)"),
            unit="percentunit",
            decimals=1,
            limits=((None, RED), (0.9, ORANGE), (0.98, GREEN)),
        )
    )
    board.with_panel(
        tile(
            "Failed runs",
            "Runs that FAILED in the chosen time.",
            Place(12, 0, 4, 4),
            now(failed),
            unit="short",
            decimals=0,
            limits=((None, GREEN), (0.5, ORANGE)),
        )
    )
    board.with_panel(
        tile(
            "Mean duration",
            "Of the runs that completed in the chosen time.",
            Place(16, 0, 4, 4),
            now(_mean("$__range")),
            unit="s",
            limits=CALM,
        )
    )
    board.with_panel(
        tile(
            "Credits a run",
            "Mean credits of a finished run in the chosen time.",
            Place(20, 0, 4, 4),
            now(credits_each),
            unit="short",
            limits=CALM,
        )
    )


def _results(board: dashboard.Dashboard) -> None:
    board.with_panel(
        lines(
            "Runs finished",
            "Runs by final status.",
            Place(0, 4, 8, 8),
            query(f"sum by (status) ({increase(FINISHED, RUNS)})", "{{status}}"),
            unit="short",
            stack=True,
            colors=STATUS_COLORS,
        )
    )
    board.with_panel(
        lines(
            "Failures in a row",
            "FAILED runs since the last COMPLETED one.",
            Place(8, 4, 8, 8),
            query(
                named(f"max {BY_WORKFLOW} (invent_workflow_consecutive_failures{{{WORKFLOW}}})"),
                "{{workflow_name}}",
            ),
            unit="short",
            limits=STREAK_LIMITS,
        )
    )
    board.with_panel(
        lines(
            "Arrivals and finishes",
            "Runs submitted and runs finished: apart for long, runs pile up or are lost.",
            Place(16, 4, 8, 8),
            query(f"sum({increase('invent_runs_submitted_total', RUNS)})", "submitted"),
            query(f"sum({increase(FINISHED, RUNS)})", "finished", "B"),
            unit="short",
        )
    )


def _times(board: dashboard.Dashboard) -> None:
    board.with_row(row("Times", 12))
    board.with_panel(
        lines(
            "Duration",
            "From start to end of runs that completed, all origins.",
            Place(0, 13, 8, 8),
            *(query(quantile(share, DURATION, DONE), name, ref) for share, name, ref in QUANTILES),
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Mean duration against last week",
            "Of completed runs, over an hour, and the same hour a week before.",
            Place(8, 13, 8, 8),
            query(_mean("1h"), "now"),
            query(_mean("1h", " offset 1w"), "a week before", "B"),
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Time in the queue",
            "From creation to start, all origins.",
            Place(16, 13, 8, 8),
            *(
                query(quantile(share, "invent_run_queue_seconds", WORKFLOW), name, ref)
                for share, name, ref in QUANTILES
            ),
            unit="s",
        )
    )
    board.with_panel(
        warmth(
            "Durations of runs",
            "How many runs took how long. The dots are single runs, with their run_id.",
            Place(0, 21, 8, 8),
            f"sum by (le) ({increase(f'{DURATION}_bucket', WORKFLOW)})",
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Open runs",
            "Runs that wait or run now.",
            Place(8, 21, 8, 8),
            query(f"sum by (status) (invent_runs_open{{{RUNS}}})", "{{status}}"),
            unit="short",
            colors=STATUS_COLORS,
        )
    )
    board.with_panel(
        lines(
            "Oldest open runs",
            "How long the oldest run of each status has been in it.",
            Place(16, 21, 8, 8),
            query(f"time() - min by (status) ({OLDEST}{{{WORKFLOW}}})", "{{status}}"),
            unit="s",
            limits=OPEN_LIMITS,
            colors=STATUS_COLORS,
        )
    )


def _credits(board: dashboard.Dashboard) -> None:
    board.with_row(row("Credits", 29))
    board.with_panel(
        lines(
            "Credits a run",
            "Of runs whose usage became known, all origins.",
            Place(0, 30, 8, 8),
            *(
                query(quantile(share, "invent_run_credits", WORKFLOW), name, ref)
                for share, name, ref in QUANTILES
            ),
            unit="short",
        )
    )
    board.with_panel(
        lines(
            "Credits by kind and fate",
            "What AI burned and what the rest; wasted are those of FAILED and CANCELED runs.",
            Place(8, 30, 8, 8),
            query(f"sum by (kind) ({increase('invent_credits_total', RUNS)})", "{{kind}}"),
            query(f"sum({increase('invent_credits_total', WASTED)})", "wasted", "B"),
            unit="short",
        )
    )
    board.with_panel(
        lines(
            "Credits by step",
            "Where metrics.step_credits is on; empty elsewhere.",
            Place(16, 30, 8, 8),
            query(f"sum by (step) ({increase('invent_step_credits_total', WORKFLOW)})", "{{step}}"),
            unit="short",
            stack=True,
        )
    )


def _versions(board: dashboard.Dashboard) -> None:
    board.with_row(row("Versions", 38))
    info = (
        "group by (job, org_id, workflow_id, workflow_name, workflow_org_id, version)"
        f" (invent_workflow_info{{{WORKFLOW}}})"
    )
    runs = f"sum {BY_WORKFLOW} ({rate(FINISHED, RUNS, '$__range')}) * 3600"
    board.with_panel(
        listing(
            "Versions in use",
            "The version of each workflow's newest run, and how many runs finish in an hour.",
            Place(0, 39, 24, 7),
            [rows(info, "A"), rows(named(runs), "B")],
            [
                Column("workflow_name", "Workflow"),
                Column("org_id", "Org"),
                Column("workflow_id", "Id"),
                Column("workflow_org_id", "Owner"),
                Column("version", "Version"),
                Column("Value #B", "Runs an hour", "short"),
                Column("Value #A", "", hidden=True),
            ],
            sort="Runs an hour",
        )
    )
