"""The closed rows of the overview: they ask nothing until they are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import ORG_LINK
from grafana.panels import (
    Column,
    Place,
    lines,
    listing,
    low,
    now,
    query,
    row,
    rows,
    tile,
    warning,
    worst,
)
from grafana.parts import (
    credits_by_kind,
    credits_wasted,
    durations,
    percentiles,
)
from grafana.queries import (
    AGE,
    BY_ORG,
    CREDITS_1D,
    CREDITS_BY_KIND,
    CREDITS_LAST,
    CREDITS_LEFT,
    CREDITS_SUM,
    MEAN_1H,
    MEAN_7D,
    ON_ORG,
    ORG,
    OVERDUE_AFTER,
    STUCK_AFTER,
    SUB_ORGS,
    increase,
    lasts,
    limit,
    named,
    of_team,
    oldest,
    org_named,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

WORKFLOW_OF_ORG = "{{workflow_name}} · {{org_name}}"
LASTS_MIN = 86400 * limit("credits_left_min_days")
"""Seconds for which the credits of an org must last."""
WASTED = f'{ORG}, status=~"FAILED|CANCELED"'


def off_the_usual(y: int) -> dashboard.Row:
    """Compare workflows with what is usual for them."""
    share = warning(1)
    late = f"{AGE}{{{ORG}}} / {OVERDUE_AFTER}{{{ORG}}}"
    slower = f"{MEAN_1H}{{{ORG}}} / ({MEAN_7D}{{{ORG}}} > 0)"
    running = f"({oldest('RUNNING')}) / {STUCK_AFTER}{{{ORG}}}"
    return row(
        "Off the usual",
        y,
        [
            worst(
                "Overdue for a success",
                "Time since the last success as a share of the time after which it is overdue "
                "(100 %: InventNoSuccess fires); the ten with the most. Normal: below 100 %.",
                Place(0, y + 1, 8, 10),
                now(named(f"topk(10, {of_team(late)})"), WORKFLOW_OF_ORG),
                unit="percentunit",
                limits=share,
                most=2,
            ),
            worst(
                "Slower than usual",
                "Mean duration of the last hour over that of the last 7 days; the ten with the "
                f"most. Normal: around 1; from {limit('slow_factor'):g} on InventRunsSlow fires.",
                Place(8, y + 1, 8, 10),
                now(named(f"topk(10, {of_team(slower)})"), WORKFLOW_OF_ORG),
                unit="suffix: x usual",
                limits=warning(limit("slow_factor")),
                most=2 * limit("slow_factor"),
            ),
            worst(
                "Longest running",
                "Time that the oldest running run has taken, as a share of that after which it is "
                "stuck (100 %: InventRunStuck fires); the ten with the most. Normal: below 100 %.",
                Place(16, y + 1, 8, 10),
                now(named(f"topk(10, {of_team(running)})"), WORKFLOW_OF_ORG),
                unit="percentunit",
                limits=share,
                most=2,
                empty="No run is known to be running",
            ),
        ],
    )


def times(y: int) -> dashboard.Row:
    """Draw how long runs take and wait."""
    duration = "org:invent_run_duration_seconds_bucket:sum"
    return row(
        "Times",
        y,
        [
            durations(Place(0, y + 1, 8, 9), duration, ORG),
            percentiles(
                "Duration",
                "From start to end of runs that completed or failed, of all workflows together. "
                "Normal: level lines.",
                Place(8, y + 1, 8, 9),
                duration,
                ORG,
            ),
            percentiles(
                "Time in the queue",
                "From creation to start. Normal: level, and seconds.",
                Place(16, y + 1, 8, 9),
                "org:invent_run_queue_seconds_bucket:sum",
                ORG,
            ),
        ],
    )


def credits_burned(y: int) -> dashboard.Row:
    """Show what runs burn."""
    day = f"sum({CREDITS_1D}{{{ORG}}})"
    wasted = f"sum({increase(CREDITS_BY_KIND, WASTED, '1d')})"
    pace = f"max(30 * {CREDITS_1D}{{{ORG}}}) / {limit('credits_monthly_budget'):.0f}"
    remaining = "((days_in_month() - day_of_month() + 1) - hour() / 24 - minute() / 1440)"
    month = f"sum({increase(CREDITS_SUM, ORG, '$__range')})"
    return row(
        "Credits",
        y,
        [
            tile(
                "Credits, last 24 hours",
                "Credits of the runs that finished in the last 24 hours. Normal: as yesterday.",
                Place(0, y + 1, 4, 3),
                now(f"round({day}, 0.1)"),
            ),
            tile(
                "Of the budget, worst org",
                "What the org that burns most would burn in 30 days at the pace of the last 24 "
                "hours, as a share of the budget in the thresholds. Normal: below 100 %.",
                Place(0, y + 4, 8, 3),
                now(pace),
                unit="percentunit",
                decimals=0,
                limits=warning(1),
            ),
            tile(
                "Forecast",
                "Credits burned since the month began, and until its end at the pace of the last "
                "24 hours. With fixed dates chosen above: burned in those.",
                Place(0, y + 7, 8, 3),
                now(f"round({month} + {day} * {remaining}, 0.1)"),
                month=True,
            ),
            tile(
                "Wasted, last 24 hours",
                "Share of the credits that went to runs that FAILED or were CANCELED. Normal: a "
                "few percent.",
                Place(4, y + 1, 4, 3),
                now(f"{wasted} / ({day} > 0)"),
                unit="percentunit",
                decimals=1,
                limits=warning(limit("wasted_ratio_max")),
            ),
            credits_wasted(Place(8, y + 1, 8, 9), CREDITS_BY_KIND, ORG),
            credits_by_kind(Place(16, y + 1, 8, 9), CREDITS_BY_KIND, ORG),
        ],
    )


def balances(y: int) -> dashboard.Row:
    """Show what sub-orgs have, and how long it lasts."""

    def money(kind: str) -> str:
        return f"max {BY_ORG} (invent_org_{kind}_credits{{{ORG}}})"

    cap, used = money("spending_cap"), money("spending_cap_used")
    asked = {
        "B": money("balance"),
        "C": money("promo_balance"),
        "D": cap,
        "E": f"{used} and {cap}",
        "F": f"{used} / {cap}",
        "G": f"{CREDITS_1D}{{{ORG}}} and {SUB_ORGS}{{{ORG}}}",
    }
    first = f"bottomk(5, min {BY_ORG} ({CREDITS_LAST}{{{ORG}}} @ end()))"
    left = f"min {BY_ORG} ({CREDITS_LEFT}{{{ORG}}})"
    return row(
        "Balances",
        y,
        [
            listing(
                "Balances of sub-orgs",
                "What each sub-org has and may spend, what its runs burned in 24 h, and for how "
                "long the rest lasts at the pace of the last day; who runs dry first is on top. "
                "Without a balance it uses its parent's. Normal: no red.",
                Place(0, y + 1, 16, 10),
                [
                    rows(f"sort({org_named(lasts())})", "A"),
                    *(rows(org_named(expr), ref) for ref, expr in asked.items()),
                ],
                [
                    Column("org_name", "Org", link=ORG_LINK),
                    Column("Value #A", "Lasts", "s", low(LASTS_MIN), width=95),
                    Column("Value #B", "Balance", "none", width=90),
                    Column("Value #C", "Promotional", "none", width=105),
                    Column("Value #D", "Cap", "none", width=90),
                    Column("Value #E", "Cap used", "none", width=90),
                    Column("Value #F", "Share", "percentunit", warning(0.9), width=75),
                    Column("Value #G", "Burned, 24 h", "none", width=110),
                ],
                sort={},
                empty="No balance is known: sub_orgs reads them",
            ),
            lines(
                "Credits left",
                "Until the balance or the cap is reached, whichever is nearer: the five sub-orgs "
                "that run dry first. Normal: none falls to 0 soon; a jump up is a payment.",
                Place(16, y + 1, 8, 10),
                query(org_named(f"{left} and {ON_ORG} {first}"), "{{org_name}}"),
                fractions=True,
                empty="No balance is known",
            ),
        ],
    )
