"""Show whether anything is broken now. The first 20 rows of the grid fill one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import (
    ERRORS_LINK,
    EXPORTER_LINK,
    ORG_LINK,
    OVERVIEW,
    RUNBOOK_LINK,
    WORKFLOW_LINK,
    job,
    mark_restarts,
    org,
    start,
    team,
)
from grafana.overview_rows import (
    LASTS_MIN,
    WORKFLOW_OF_ORG,
    balances,
    credits_burned,
    off_the_usual,
    times,
)
from grafana.panels import (
    GREY,
    NOTHING,
    ORIGIN_COLORS,
    RED,
    YELLOW,
    Column,
    Place,
    State,
    critical,
    fixed_color,
    lines,
    listing,
    low,
    now,
    query,
    row,
    rows,
    tile,
    warning,
)
from grafana.parts import (
    age_tile,
    finished,
    open_runs,
    orgs_not_read_tile,
)
from grafana.queries import (
    BY_ORG,
    BY_WORKFLOW,
    CREDITS_1D,
    CREDITS_1H,
    DECIDED_1H,
    FAILED_1H,
    LAST,
    ON_ORG,
    ON_WORKFLOW,
    ORG,
    ORG_NAME,
    STREAK,
    alerts_firing,
    count_workflows,
    failing,
    firing,
    increase,
    last_of_orgs,
    lasts,
    limit,
    named,
    of_team,
    org_named,
    overdue,
    rise,
    slow,
    stuck,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

NAMES = [
    Column("workflow_name", "Workflow", link=WORKFLOW_LINK),
    Column("org_name", "Org", link=ORG_LINK, width=110),
]


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        OVERVIEW,
        "Invent / Overview",
        "For whoever is woken up: is anything broken now, where, and since when? On a calm screen "
        "no tile has a color. Yellow is a warning, red is critical, grey is not known; the limits "
        "are those of the alerts. It reads what the recording rules write.",
        [job(), org(), team()],
    )
    mark_restarts(board)
    _tiles(board)
    _lists(board)
    _activity(board)
    _orgs(board)
    board.with_row(off_the_usual(30))
    board.with_row(times(31))
    board.with_row(credits_burned(32))
    board.with_row(balances(33))
    return board


def _tiles(board: dashboard.Dashboard) -> None:
    board.with_panel(
        tile(
            "Alerts",
            "That fire now, by severity; the list below names them. Normal: 0 and 0. Not known: "
            "Prometheus does not evaluate the rules.",
            Place(0, 0, 3, 3),
            now(firing("critical"), "critical"),
            now(firing("warning"), "warning", "B"),
            colors={"critical": critical(1), "warning": warning(1)},
        )
    )
    board.with_panel(orgs_not_read_tile(Place(3, 0, 3, 3)))
    board.with_panel(age_tile(Place(6, 0, 3, 3)))
    board.with_panel(
        tile(
            "Failing",
            f"Workflows of which over {limit('failure_ratio_max'):.0%} of the last hour's runs "
            f"failed, or {limit('consecutive_failures_max'):.0f} and more in a row. Normal: 0.",
            Place(9, 0, 2, 3),
            now(count_workflows(failing())),
            limits=critical(1),
        )
    )
    board.with_panel(
        tile(
            "Overdue",
            "Workflows without a success for twice the longest silence of the last 14 days: they "
            "fail, hang, or are not started any more. Normal: 0.",
            Place(11, 0, 2, 3),
            now(count_workflows(overdue())),
            limits=warning(1),
        )
    )
    board.with_panel(
        tile(
            "Slow",
            f"Workflows whose runs of the last hour took {limit('slow_factor'):g} times as long as "
            "those of the last 7 days. Normal: 0.",
            Place(13, 0, 2, 3),
            now(count_workflows(slow())),
            limits=warning(1),
        )
    )
    board.with_panel(
        tile(
            "Stuck or waiting",
            "Workflows with a run that runs far longer than theirs do, or that waits to start for "
            f"over {limit('queue_wait_max_seconds') / 60:.0f} minutes. Normal: 0.",
            Place(15, 0, 3, 3),
            now(count_workflows(stuck())),
            limits=warning(1),
        )
    )
    board.with_panel(
        tile(
            "Low credits",
            "Sub-orgs whose balance, or what is left under their cap, lasts for less than "
            f"{limit('credits_left_min_days'):g} days at the pace of the last day; the row "
            "Balances names them. Normal: 0.",
            Place(18, 0, 3, 3),
            now(count_workflows(f"{lasts()} < {LASTS_MIN:g}")),
            limits=critical(1),
        )
    )
    requests = increase("invent_api_requests_total", ORG, "10m")
    not_ok = increase("invent_api_requests_total", f'{ORG}, code!="200"', "10m")
    # Of orgs that are served now: of others the last minutes say nothing.
    asked = f"(sum {BY_ORG} ({requests}) and {ON_ORG} invent_up{{{ORG}}})"
    by_org = f"(sum {BY_ORG} ({not_ok}) or 0 * {asked}) / {asked}"
    board.with_panel(
        tile(
            "API errors, 10m",
            "Share of the requests of the last 10 minutes that were throttled (429), "
            "refused or failed, of the org with the most. Normal: 0 %, now and then a little more.",
            Place(21, 0, 3, 3),
            now(f"max({by_org})"),
            unit="percentunit",
            decimals=0,
            limits=warning(limit("rate_limited_ratio_max")),
        )
    )


def _lists(board: dashboard.Dashboard) -> None:
    severities = {"critical": State("critical", RED), "warning": State("warning", YELLOW)}
    board.with_panel(
        listing(
            "Alerts firing",
            "What fires now, but for severity info, and for how long. An alert leads to its "
            "runbook, a workflow to its dashboard. Normal: empty.",
            Place(0, 3, 12, 9),
            [rows(alerts_firing(), "A")],
            [
                Column("severity", "Severity", states=severities, width=72),
                Column("alertname", "Alert", link=RUNBOOK_LINK, width=205),
                Column("Value", "For", "s", width=80),
                *NAMES,
            ],
            sort={"Severity": False, "For": False},
            empty="No alert is firing",
        )
    )
    failed = f"round({FAILED_1H}{{{ORG}}})"
    streak = f"last_over_time({STREAK}{{{ORG}}}[1h])"
    streak = f"max {BY_WORKFLOW} ({streak})"
    most = f"topk(10, {of_team(f'({failed} + {ON_WORKFLOW} {streak}) > 0')})"
    success = (
        f'time() - max {BY_WORKFLOW} (last_over_time({LAST}{{{ORG}, status="COMPLETED"}}[1h]) > 0)'
    )
    ratio = f"{FAILED_1H}{{{ORG}}} / ({DECIDED_1H}{{{ORG}}} > 0)"
    board.with_panel(
        listing(
            "Failing most, last hour",
            "Failed runs and their share in the last hour, failures in a row, and time since the "
            "last success: the ten workflows with the most. Normal: empty, or numbers without "
            "color.",
            Place(12, 3, 12, 9),
            [
                rows(named(f"{values} and {ON_WORKFLOW} {most}"), ref)
                for ref, values in zip("BCDE", (failed, ratio, streak, success), strict=True)
            ],
            [
                *NAMES,
                Column("Value #B", "Failed", "none", link=ERRORS_LINK, width=70),
                Column(
                    "Value #C",
                    "Ratio",
                    "percentunit",
                    critical(limit("failure_ratio_max")),
                    width=75,
                ),
                Column(
                    "Value #D",
                    "In a row",
                    "none",
                    critical(limit("consecutive_failures_max")),
                    width=85,
                ),
                Column("Value #E", "Last success", "s", width=110),
            ],
            sort={"Failed": True, "In a row": True},
            empty="No failure is known of the last hour",
        )
    )


def _activity(board: dashboard.Dashboard) -> None:
    board.with_panel(finished(Place(0, 12, 6, 8), "org_status:invent_runs_finished_total:sum", ORG))
    board.with_panel(
        lines(
            "Runs submitted",
            "Runs by what started them, in each step. Normal: the usual rhythm. A tower is a "
            "storm, a gap a trigger that fell silent.",
            Place(6, 12, 6, 8),
            query(
                f"sum by (origin) ({rise('org_origin:invent_runs_submitted_total:sum', ORG)})",
                "{{origin}}",
            ),
            bars=True,
            colors=ORIGIN_COLORS,
        )
    )
    board.with_panel(open_runs(Place(12, 12, 6, 8), "org_status:invent_runs_open:sum", ORG))
    burned = f"{CREDITS_1H}{{{ORG}}}"
    highest = f"max_over_time({burned}[$__range] @ end())"
    first, some = f"topk(1, {highest})", f"topk(4, {highest})"
    next_ones = f"{some} unless {ON_WORKFLOW} {first}"
    # Of an org that is not served any more the recorded hour fades to 0, which nobody saw.
    served = f"and {ON_ORG} {ORG_NAME}{{{ORG}}}"
    others = f"sum {BY_ORG} ({burned} unless {ON_WORKFLOW} {some})"

    def of(chosen: str) -> str:
        # The names are found once, at the end, and not at each step.
        names = f"({named(chosen)}) >= bool 0"
        labels = "group_left (workflow_name, org_name)"
        return f"{burned} * {ON_WORKFLOW} {labels} ({names}) {served}"

    panel = lines(
        "Credits an hour",
        "Credits of the runs that finished in the hour before each moment: the workflow with the "
        "dearest hour of the chosen time, the next three, and all others. Normal: even. One that "
        "towers is a loop.",
        Place(18, 12, 6, 8),
        query(of(first), WORKFLOW_OF_ORG),
        query(of(next_ones), WORKFLOW_OF_ORG, "B"),
        query(f"sum({others} {served})", "all others", "C"),
        area=True,
        shades="super-light-blue",
        colors={"all others": GREY},
    )
    board.with_panel(panel.override_by_query("A", [fixed_color("dark-blue")]))


def _orgs(board: dashboard.Dashboard) -> None:
    window = "6h"
    up = last_of_orgs("invent_up", window)
    read = f"max {BY_ORG} (invent_up{{{ORG}}}) or 0 * {up}"
    last = last_of_orgs("invent_poll_last_success_timestamp_seconds", "1d")
    decided = f"sum {BY_ORG} ({DECIDED_1H}{{{ORG}}})"
    failed = f"sum {BY_ORG} ({FAILED_1H}{{{ORG}}})"
    asked = {
        "B": read,
        "C": f"time() - {last}",
        "D": f"round({decided})",
        "E": f"round({failed})",
        "F": f"{failed} / ({decided} > 0)",
        "G": f"sum {BY_ORG} (org_status:invent_runs_open:sum{{{ORG}}})",
        "H": f"{CREDITS_1D}{{{ORG}}}",
        "I": lasts(),
    }
    board.with_row(row("Orgs", 20))
    board.with_panel(
        listing(
            "Orgs",
            "Each org: whether it is read, how old its data is, its runs and failures of the last "
            "hour, its open runs, its credits of a day and, of sub-orgs, for how long what they "
            "have lasts at that pace. Normal: all of them are read.",
            Place(0, 21, 24, 9),
            [rows(org_named(expr), ref) for ref, expr in asked.items()],
            [
                Column("org_name", "Org", link=ORG_LINK),
                Column(
                    "Value #B",
                    "Read",
                    states={"0": State("not read", RED), "1": State("read", NOTHING)},
                    link=EXPORTER_LINK,
                    width=100,
                ),
                Column("Value #C", "Age", "s", critical(limit("poll_stale_seconds")), width=100),
                Column("Value #D", "Completed or failed, 1 h", "none", width=190),
                Column("Value #E", "Failed, 1 h", "none", link=ERRORS_LINK, width=110),
                Column(
                    "Value #F",
                    "Ratio, 1 h",
                    "percentunit",
                    critical(limit("failure_ratio_max")),
                    width=110,
                ),
                Column("Value #G", "Open", "none", width=90),
                Column("Value #H", "Credits, 24 h", "none", width=120),
                Column("Value #I", "Lasts", "s", low(LASTS_MIN), width=90),
            ],
            sort={"Read": False, "Failed, 1 h": True},
            empty="No org is known",
        )
    )
