"""Show one workflow in depth, or a few beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import (
    WORKFLOWS,
    job,
    mark_restarts,
    mark_runs,
    org,
    origin,
    start,
    team,
    workflow,
)
from grafana.panels import (
    BLUE,
    GREY,
    OPEN_COLORS,
    PURPLE,
    Column,
    Place,
    critical,
    lines,
    listing,
    now,
    query,
    row,
    rows,
    tile,
    warning,
)
from grafana.parts import (
    credits_by_kind,
    credits_wasted,
    durations,
    finished,
    open_runs,
    percentiles,
)
from grafana.queries import (
    AGE,
    BY_WORKFLOW,
    COUNT_1H,
    DURATION,
    FINISHED,
    LAST,
    MEAN_1H,
    MEAN_7D,
    OLDEST,
    OVERDUE_AFTER,
    QUEUE,
    RUNS,
    STREAK,
    STUCK_AFTER,
    WORKFLOW,
    increase,
    limit,
    named,
    oldest,
    rise,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

DONE = f'{WORKFLOW}, status="COMPLETED"'
FAILED = f'{RUNS}, status="FAILED"'
DECIDED = f'{RUNS}, status=~"COMPLETED|FAILED"'


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        WORKFLOWS,
        "Invent / Workflow",
        "For whoever owns a workflow: how its runs end, how long they take and what they burn. "
        "Alerts and tables lead here. Several workflows are added up.",
        [job(), org(), team(), workflow(), origin()],
    )
    mark_runs(board)
    mark_restarts(board)
    _tiles(board)
    _results(board)
    _times(board)
    board.with_row(_credits(31))
    board.with_row(_versions(32))
    return board


def _tiles(board: dashboard.Dashboard) -> None:
    failed = f"sum({increase(FINISHED, FAILED, '1h')})"
    decided = f"sum({increase(FINISHED, DECIDED, '1h')})"
    stuck_after = f"max({STUCK_AFTER}{{{WORKFLOW}}})"
    enough = f"{limit('failure_ratio_min_runs') - 0.5:g}"
    board.with_panel(
        tile(
            "Failures in a row",
            "FAILED runs since the last COMPLETED one; of several workflows the most. Normal: 0.",
            Place(0, 0, 4, 3),
            now(f"max({STREAK}{{{WORKFLOW}}})"),
            limits=critical(limit("consecutive_failures_max")),
        )
    )
    board.with_panel(
        tile(
            "Failed, last hour",
            "Runs that FAILED in the last hour, all chosen origins. Normal: 0, or few.",
            Place(4, 0, 4, 3),
            now(f"round({failed})"),
        )
    )
    board.with_panel(
        tile(
            "Failure ratio, last hour",
            "FAILED of COMPLETED and FAILED in the last hour; nothing below "
            f"{limit('failure_ratio_min_runs'):.0f} runs, of which no ratio means much. Normal: a "
            "few percent at most.",
            Place(8, 0, 4, 3),
            now(f"{failed} / ({decided} > {enough})"),
            unit="percentunit",
            decimals=0,
            limits=warning(limit("failure_ratio_max")),
        )
    )
    board.with_panel(
        tile(
            "Last success",
            "Time since a run completed. Normal: less than the usual pause between two. Yellow "
            "when InventNoSuccess would fire: the number beside it is over 100 %.",
            Place(12, 0, 4, 3),
            now(f'time() - (max({LAST}{{{WORKFLOW}, status="COMPLETED"}}) > 0)', "ago"),
            now(f"max({AGE}{{{WORKFLOW}}} / {OVERDUE_AFTER}{{{WORKFLOW}}})", "of the limit", "B"),
            unit="s",
            units={"of the limit": "percentunit"},
            decimals=0,
            colors={"of the limit": warning(1)},
        )
    )
    board.with_panel(
        tile(
            "Oldest running run",
            "How long it has been running. Normal: less than the limit after which it is stuck, "
            "the number beside it.",
            Place(16, 0, 4, 3),
            now(f"max({oldest('RUNNING', WORKFLOW)}) or 0 * {stuck_after}", "running"),
            now(stuck_after, "stuck after", "B"),
            unit="s",
            decimals=0,
        )
    )
    credits_each = (
        f"sum({increase('invent_run_credits_sum', WORKFLOW, '1d')})"
        f" / sum({increase('invent_run_credits_count', WORKFLOW, '1d')})"
    )
    board.with_panel(
        tile(
            "Credits a run, 24 hours",
            "Mean credits of the runs of the last 24 hours. Normal: as ever.",
            Place(20, 0, 4, 3),
            now(credits_each),
            decimals=2,
        )
    )


def _results(board: dashboard.Dashboard) -> None:
    board.with_panel(finished(Place(0, 3, 12, 9), FINISHED, RUNS))
    submitted = rise("invent_runs_submitted_total", RUNS)
    board.with_panel(
        lines(
            "Arrivals and finishes",
            "Runs submitted and runs finished in each step. Normal: one follows the other; apart "
            "for long, runs pile up.",
            Place(12, 3, 6, 9),
            query(f"sum({submitted})", "submitted"),
            query(f"sum({rise(FINISHED, RUNS)})", "finished", "B"),
            steps=True,
            colors={"submitted": PURPLE, "finished": BLUE},
        )
    )
    board.with_panel(open_runs(Place(18, 3, 6, 9), "invent_runs_open", RUNS))


def _times(board: dashboard.Dashboard) -> None:
    board.with_row(row("Times", 12))
    ages = f"time() - min by (status) ({OLDEST}{{{WORKFLOW}}})"
    board.with_panel(durations(Place(0, 13, 12, 9), f"{DURATION}_bucket", WORKFLOW))
    board.with_panel(
        percentiles(
            "Duration",
            "From start to end of runs that completed, all origins. Normal: level lines.",
            Place(12, 13, 12, 9),
            f"{DURATION}_bucket",
            DONE,
        )
    )
    board.with_panel(
        lines(
            "Mean duration and its limit",
            "Of the runs that completed in the hour before; the line that it must stay under is "
            f"{limit('slow_factor'):g} times the mean of 7 days. Normal: well below.",
            Place(0, 22, 8, 9),
            query(f"max({MEAN_1H}{{{WORKFLOW}}} and {COUNT_1H}{{{WORKFLOW}}} > 0)", "last hour"),
            query(f"max({limit('slow_factor'):g} * {MEAN_7D}{{{WORKFLOW}}})", "limit", "B"),
            unit="s",
            colors={"limit": GREY},
        )
    )
    board.with_panel(
        percentiles(
            "Time in the queue",
            "From creation to start, all origins. Normal: level, and seconds.",
            Place(8, 22, 8, 9),
            f"{QUEUE}_bucket",
            WORKFLOW,
        )
    )
    board.with_panel(
        lines(
            "Oldest open runs",
            "How long the oldest run of each status has been in it, the most in each step. Normal: "
            "it falls back again and again; a line that only rises is one run that hangs.",
            Place(16, 22, 8, 9),
            query(f"max_over_time(({ages})[$__interval:])", "{{status}}"),
            unit="s",
            steps=True,
            colors=OPEN_COLORS,
        )
    )


def _credits(y: int) -> dashboard.Row:
    steps = rise("invent_step_credits_total", WORKFLOW)
    most = f"increase(invent_step_credits_total{{{WORKFLOW}}}[$__range] @ end())"
    most = f"sum by (step) ({most})"
    return row(
        "Credits",
        y,
        [
            percentiles(
                "Credits a run",
                "Of runs whose usage became known, all origins. Normal: level lines.",
                Place(0, y + 1, 8, 8),
                "invent_run_credits_bucket",
                WORKFLOW,
                unit="none",
            ),
            credits_by_kind(Place(8, y + 1, 8, 8), "invent_credits_total", RUNS),
            credits_wasted(Place(16, y + 1, 8, 8), "invent_credits_total", RUNS),
            lines(
                "Credits by step",
                "The ten steps that burned most, in each step of time. Normal: empty, unless "
                "metrics.step_credits is on.",
                Place(0, y + 9, 24, 8),
                query(f"sum by (step) ({steps}) and on (step) topk(10, {most})", "{{step}}"),
                bars=True,
                fractions=True,
                empty="No credits by step are known",
            ),
        ],
    )


def _versions(y: int) -> dashboard.Row:
    info = (
        "group by (job, org_id, workflow_id, workflow_name, workflow_org_id, version)"
        f" (last_over_time(invent_workflow_info{{{WORKFLOW}}}[$__range]))"
    )
    day = f"round(sum {BY_WORKFLOW} ({increase(FINISHED, WORKFLOW, '1d')}))"
    return row(
        "Versions",
        y,
        [
            listing(
                "Versions",
                "Each version that a newest run had in the chosen time, and how many runs of the "
                "workflow finished in the last 24 hours. Normal: one version each.",
                Place(0, y + 1, 24, 7),
                [rows(info, "A"), rows(named(day, WORKFLOW), "B")],
                [
                    Column("workflow_name", "Workflow"),
                    Column("org_name", "Org", width=140),
                    Column("workflow_id", "Id"),
                    Column("workflow_org_id", "Owner", width=140),
                    Column("version", "Version", width=90),
                    Column("Value #B", "Runs, 24 h", "none", width=100),
                ],
                sort={"Runs, 24 h": True},
            )
        ],
    )
