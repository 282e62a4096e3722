"""Show whether anything is broken now. The first 20 rows of the grid fill one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import (
    AGE_LIMITS,
    OVERVIEW,
    WORKFLOW_LINK,
    job,
    mark_restarts,
    mark_runs,
    org,
    origin,
    start,
    workflow,
)
from grafana.panels import (
    CALM,
    GREEN,
    ORANGE,
    RED,
    Column,
    Place,
    bars,
    lines,
    listing,
    now,
    query,
    row,
    rows,
    tile,
    warmth,
)
from grafana.queries import (
    BY_WORKFLOW,
    ORG,
    RUNS,
    WORKFLOW,
    age,
    increase,
    last_success,
    named,
    quantile,
    rate,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

FAILED = f'{RUNS}, status="FAILED"'
DECIDED = f'{RUNS}, status=~"COMPLETED|FAILED"'
WASTED = f'{RUNS}, status=~"FAILED|CANCELED"'
FINISHED = "invent_runs_finished_total"
OLDEST = "invent_runs_open_oldest_timestamp_seconds"
LAST = "invent_workflow_last_finished_timestamp_seconds"
OPEN_LIMITS = ((None, GREEN), (3600, ORANGE), (21600, RED))
STATUS_COLORS = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELED": "orange",
    "SKIPPED": "blue",
    "PENDING": "yellow",
    "RUNNING": "blue",
}


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        OVERVIEW,
        "Invent / Overview",
        "Is anything broken now? Runs, durations, credits and the freshness of the data.",
        [job(), org(), workflow(), origin()],
    )
    mark_runs(board, failures=False)
    mark_restarts(board)
    _tiles(board)
    _what_and_where(board)
    _how_much(board)
    _durations(board)
    _credits(board)
    _freshness(board)
    return board


def _tiles(board: dashboard.Dashboard) -> None:
    decided = f"sum({increase(FINISHED, DECIDED, '$__range')})"
    failed = f"sum({increase(FINISHED, FAILED, '$__range')})"
    streaks = f"invent_workflow_consecutive_failures{{{WORKFLOW}}}"
    not_ok = increase("invent_api_requests_total", f'{ORG}, code!="200"', "10m")
    requests = increase("invent_api_requests_total", ORG, "10m")
    credits_so_far = f"sum({increase('invent_credits_total', RUNS, '$__range')})"
    pace = f"sum({rate('invent_credits_total', RUNS, '1d')})"
    remaining = "((days_in_month() - day_of_month() + 1) * 86400 - hour() * 3600 - minute() * 60)"
    board.with_panel(
        tile(
            "Success ratio",
            "COMPLETED of COMPLETED and FAILED in the chosen time.",
            Place(0, 0, 3, 4),
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
            Place(3, 0, 3, 4),
            now(failed),
            unit="short",
            decimals=0,
            limits=((None, GREEN), (0.5, ORANGE)),
        )
    )
    board.with_panel(
        tile(
            "Workflows failing",
            "Workflows whose last run that completed or failed has FAILED.",
            Place(6, 0, 3, 4),
            now(f"sum(max {BY_WORKFLOW} ({streaks}) > bool 0)"),
            unit="short",
            limits=((None, GREEN), (1, RED)),
        )
    )
    board.with_panel(
        tile(
            "Open runs",
            "Runs that are PENDING or RUNNING now.",
            Place(9, 0, 3, 4),
            now(f"sum(invent_runs_open{{{RUNS}}})"),
            unit="short",
            limits=CALM,
        )
    )
    board.with_panel(
        tile(
            "Oldest open run",
            "How long the oldest open run has been PENDING or RUNNING.",
            Place(12, 0, 3, 4),
            # 0 where it is known that nothing is open, nothing where open runs are not known.
            now(
                f"(time() - min({OLDEST}{{{WORKFLOW}}})) or 0 * sum(invent_runs_open{{{WORKFLOW}}})"
            ),
            unit="s",
            limits=OPEN_LIMITS,
        )
    )
    board.with_panel(
        tile(
            "Credits this month, forecast",
            "Credits burned since the month began, and until its end at the pace of the last day. "
            "With fixed dates chosen above: burned in those, instead of since the month began.",
            Place(15, 0, 3, 4),
            now(f"{credits_so_far} + {pace} * {remaining}"),
            unit="short",
            decimals=0,
            limits=CALM,
            month=True,
        )
    )
    board.with_panel(
        tile(
            "API answers not OK",
            "Share of the requests of the last ten minutes that were throttled (429), refused, or "
            "failed.",
            Place(18, 0, 3, 4),
            now(f"(sum({not_ok}) or vector(0)) / sum({requests})"),
            unit="percentunit",
            decimals=1,
            limits=((None, GREEN), (0.05, ORANGE), (0.5, RED)),
        )
    )
    board.with_panel(
        tile(
            "Age of the data",
            "Time since the last complete poll of the org that waits longest. It goes on rising "
            "when the exporter is gone.",
            Place(21, 0, 3, 4),
            now(f"time() - min({last_success()})"),
            unit="s",
            limits=AGE_LIMITS,
        )
    )


def _what_and_where(board: dashboard.Dashboard) -> None:
    failed = f"sum {BY_WORKFLOW} ({increase(FINISHED, FAILED, '$__range')})"
    decided = f"sum {BY_WORKFLOW} ({increase(FINISHED, DECIDED, '$__range')})"
    streak = f"max {BY_WORKFLOW} (invent_workflow_consecutive_failures{{{WORKFLOW}}})"
    board.with_panel(
        listing(
            "Workflows that fail most",
            "Failed runs and their share in the chosen time, failures in a row, and time since the "
            "last success. A click on a name opens the workflow.",
            Place(0, 4, 11, 8),
            [
                rows(named(f"topk(100, {failed})"), "A"),
                rows(named(f"{failed} / ({decided} > 0)"), "B"),
                rows(named(streak), "C"),
                rows(named(age(LAST, WORKFLOW, "COMPLETED")), "D"),
            ],
            [
                Column("workflow_name", "Workflow", link=WORKFLOW_LINK),
                Column("org_id", "Org"),
                Column("Value #A", "Failed", "short", ((None, "text"), (0.5, RED))),
                Column("Value #B", "Failure ratio", "percentunit", ((None, "text"), (0.2, RED))),
                Column("Value #C", "In a row", "short", ((None, "text"), (3, RED))),
                Column("Value #D", "Last success", "s"),
                Column("workflow_id", "", hidden=True),
            ],
            sort="Failed",
        )
    )
    usual = f"2 * quantile_over_time(0.5, ({age(LAST, WORKFLOW, 'COMPLETED')})[7d:30m])"
    overdue = f"topk(5, ({age(LAST, WORKFLOW, 'COMPLETED')}) / ({usual} > 0))"
    board.with_panel(
        bars(
            "Most overdue for a success",
            "Time since the last success, in multiples of the time that usually lies between two: "
            "twice the median age of the last success over a week. High: not started, or failing.",
            Place(11, 4, 5, 8),
            now(named(overdue), "{{workflow_name}}"),
            unit="suffix:x usual",
            limits=((None, GREEN), (4, ORANGE), (8, RED)),
        )
    )
    board.with_panel(
        lines(
            "Runs finished",
            "Runs by final status.",
            Place(16, 4, 8, 8),
            query(f"sum by (status) ({increase(FINISHED, RUNS)})", "{{status}}"),
            unit="short",
            stack=True,
            colors=STATUS_COLORS,
        )
    )


def _how_much(board: dashboard.Dashboard) -> None:
    duration = f'{WORKFLOW}, status=~"COMPLETED|FAILED"'
    board.with_panel(
        lines(
            "Runs submitted",
            "Runs by what started them. A storm of webhooks, or a trigger that fell silent.",
            Place(0, 12, 6, 8),
            query(
                f"sum by (origin) ({increase('invent_runs_submitted_total', RUNS)})",
                "{{origin}}",
            ),
            unit="short",
            stack=True,
        )
    )
    board.with_panel(
        lines(
            "Open runs",
            "PENDING runs wait to start: a rising line is a jammed queue.",
            Place(6, 12, 6, 8),
            query(f"sum by (status) (invent_runs_open{{{RUNS}}})", "{{status}}"),
            unit="short",
            colors=STATUS_COLORS,
        )
    )
    board.with_panel(
        lines(
            "Duration",
            "From start to end of runs that completed or failed, of all chosen workflows and "
            "origins together.",
            Place(12, 12, 6, 8),
            *(
                query(quantile(share, "invent_run_duration_seconds", duration), name, ref)
                for share, name, ref in ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))
            ),
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Credits burned",
            "Credits of finished runs, the five workflows that burned most in the chosen time.",
            Place(18, 12, 6, 8),
            query(
                named(
                    f"sum {BY_WORKFLOW} ({increase('invent_credits_total', RUNS)})"
                    f" and topk(5, sum {BY_WORKFLOW}"
                    f" ({increase('invent_credits_total', RUNS, '$__range')}))"
                ),
                "{{workflow_name}}",
            ),
            unit="short",
            stack=True,
        )
    )


def _durations(board: dashboard.Dashboard) -> None:
    board.with_row(row("Durations", 20))
    seen = increase("invent_run_duration_seconds_bucket", WORKFLOW)
    board.with_panel(
        warmth(
            "Durations of runs",
            "How many runs took how long. The dots are single runs, with their run_id; where the "
            "data source has a link for run_id, it leads to the run.",
            Place(0, 21, 12, 9),
            f"sum by (le) ({seen})",
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Time in the queue",
            "From creation to start.",
            Place(12, 21, 6, 9),
            *(
                query(quantile(share, "invent_run_queue_seconds", WORKFLOW), name, ref)
                for share, name, ref in ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))
            ),
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Oldest open runs",
            "How long the oldest run of each status has been in it.",
            Place(18, 21, 6, 9),
            query(
                f"time() - min by (status) ({OLDEST}{{{WORKFLOW}}})",
                "{{status}}",
            ),
            unit="s",
            limits=OPEN_LIMITS,
            colors=STATUS_COLORS,
        )
    )


def _credits(board: dashboard.Dashboard) -> None:
    board.with_row(row("Credits", 30))
    total = increase("invent_credits_total", RUNS, "$__range")
    wasted = increase("invent_credits_total", WASTED, "$__range")
    board.with_panel(
        tile(
            "Credits burned",
            "Credits of the runs that finished in the chosen time.",
            Place(0, 31, 4, 4),
            now(f"sum({total})"),
            unit="short",
            decimals=0,
            limits=CALM,
        )
    )
    board.with_panel(
        tile(
            "Credits wasted",
            "Share of the credits that went to runs that FAILED or were CANCELED.",
            Place(0, 35, 4, 4),
            now(f"sum({wasted}) / sum({total})"),
            unit="percentunit",
            decimals=1,
            limits=((None, GREEN), (0.1, ORANGE), (0.3, RED)),
        )
    )
    board.with_panel(
        lines(
            "Credits wasted",
            "Credits of runs that FAILED or were CANCELED, by status.",
            Place(4, 31, 10, 8),
            query(f"sum by (status) ({increase('invent_credits_total', WASTED)})", "{{status}}"),
            unit="short",
            stack=True,
            colors=STATUS_COLORS,
        )
    )
    board.with_panel(
        lines(
            "Credits by kind",
            "What AI burned, and everything else.",
            Place(14, 31, 10, 8),
            query(f"sum by (kind) ({increase('invent_credits_total', RUNS)})", "{{kind}}"),
            unit="short",
            stack=True,
        )
    )


def _freshness(board: dashboard.Dashboard) -> None:
    board.with_row(row("Freshness", 39))
    success = f"max by (job, org_id) (invent_poll_last_success_timestamp_seconds{{{ORG}}})"
    board.with_panel(
        lines(
            "Age of the data",
            "Time since the last complete poll of each org.",
            Place(0, 40, 12, 7),
            query(f"time() - {success}", "{{org_id}}"),
            unit="s",
            limits=AGE_LIMITS,
        )
    )
    board.with_panel(
        lines(
            "Polls that failed",
            "By org and reason.",
            Place(12, 40, 12, 7),
            query(
                f"sum by (org_id, reason) ({increase('invent_poll_errors_total', ORG)})",
                "{{org_id}} {{reason}}",
            ),
            unit="short",
            stack=True,
        )
    )
