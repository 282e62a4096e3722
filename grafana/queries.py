"""Selectors, joins and windows that the dashboards' queries are made of.

A query selects by the variables at the top of the dashboard and never by `instance`: each org is
served by one exporter at a time, and its numbers are the ledger's, not the address's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana.rules import read_thresholds

JOB = 'job=~"$job"'
ORG = f'{JOB}, org_id=~"$org_id"'
WORKFLOW = f'{ORG}, workflow_id=~"$workflow_id"'
RUNS = f'{WORKFLOW}, origin=~"$origin"'
EXPORTER = f'{JOB}, instance=~"$instance"'
ALERT = 'alertname=~"Invent.+", job=~"$job|", org_id=~"$org_id|"'
"""Also an alert that has no org, or no job: such as that nothing is scraped."""

BY_ORG, ON_ORG = "by (job, org_id)", "on (job, org_id)"
BY_WORKFLOW, ON_WORKFLOW = "by (job, org_id, workflow_id)", "on (job, org_id, workflow_id)"

SUB_ORGS = "org:invent_sub_orgs:group6h"
HEARTBEAT = f"job:invent_exporter_up:max{{{JOB}}}"
ORG_NAME = "org:invent_org_info:name"
NAME = "workflow:invent_workflow_info:name"
FINISHED = "invent_runs_finished_total"
OLDEST = "invent_runs_open_oldest_timestamp_seconds"
LAST = "invent_workflow_last_finished_timestamp_seconds"
STREAK = "invent_workflow_consecutive_failures"
DURATION, QUEUE = "invent_run_duration_seconds", "invent_run_queue_seconds"
FAILED_1H, DECIDED_1H = (
    "workflow:invent_runs_failed:increase1h",
    "workflow:invent_runs_decided:increase1h",
)
AGE = "workflow:invent_workflow_success:age_seconds"
OVERDUE_AFTER = "workflow:invent_workflow_success:overdue_after"
STUCK_AFTER = "workflow:invent_run_duration_seconds:stuck_after"
MEAN_1H, MEAN_7D = (
    "workflow:invent_run_duration_seconds:mean1h",
    "workflow:invent_run_duration_seconds:mean7d",
)
COUNT_1H = "workflow:invent_run_duration_seconds_count:increase1h"
CREDITS_1H = "workflow:invent_credits:increase1h"
CREDITS_1D = "org:invent_credits:increase1d"
CREDITS_SUM = "org:invent_credits_total:sum"
CREDITS_LEFT, CREDITS_LAST = (
    "org_limit:invent_credits_left:sum",
    "org_limit:invent_credits_left:seconds",
)
CREDITS_BY_KIND = "org_status_kind:invent_credits_total:sum"

THRESHOLDS: Final = read_thresholds(Path(__file__).parent / "thresholds.yaml")
"""The alerts' own: a tile turns to its color where the alert begins."""


def limit(name: str) -> float:
    """Return a threshold of the alerts as a number."""
    return float(THRESHOLDS[name])


def _names(metric: str, selector: str, ids: str) -> str:
    # Of a series that is gone the last name; topk takes one where a change made two.
    known = f"{metric}{{{selector}}}"
    return (
        f"({known} @ end() or on ({ids})"
        f" topk by ({ids}) (1, last_over_time({known}[$__range] @ end())))"
    )


def named(expr: str, selector: str = ORG) -> str:
    """Add `workflow_name` and `org_name` to an expression with one series for each workflow."""
    names = _names(NAME, selector, "job, org_id, workflow_id")
    with_org = f"({expr}) * {ON_WORKFLOW} group_left (workflow_name) {names}"
    return org_named(with_org)


def of_team(expr: str) -> str:
    """Leave the workflows of the chosen teams; All takes those of none, too."""
    return f'({expr}) and {ON_WORKFLOW} {NAME}{{{ORG}, team=~"$team"}}'


def org_named(expr: str) -> str:
    """Add `org_name` to an expression whose series belong to orgs."""
    return f"({expr}) * {ON_ORG} group_left (org_name) {_names(ORG_NAME, ORG, 'job, org_id')}"


def increase(metric: str, selector: str, window: str) -> str:
    """Return by how much each series of a counter rose in the window."""
    return f"increase({metric}{{{selector}}}[{window}])"


def rate(metric: str, selector: str, window: str = "$__rate_interval") -> str:
    """Return how fast each series of a counter rises, by the second."""
    return f"rate({metric}{{{selector}}}[{window}])"


def rise(metric: str, selector: str) -> str:
    """Return by how much each series of a counter rose in one step of the panel.

    What `increase` guesses at the edges of each step, this knows: the newest sample less the one
    that was newest a step ago, so the bars add up to what the counter says. A gap of an hour is
    made up for by the bar behind it; a series that just appeared is measured from its first sample.
    """
    series = f"{metric}{{{selector}}}"
    before = (
        f"(last_over_time({series}[1h] offset $__interval) or min_over_time({series}[$__interval]))"
    )
    return f"clamp_min(last_over_time({series}[$__interval]) - {before}, 0)"


def rise_by(label: str, metric: str, selector: str) -> str:
    """Return the rise by a label, for those of its values at which anything rose at all.

    All of them are served from 0 on: a legend of them would be one of zeros.
    """
    risen = f"sum by ({label}) (increase({metric}{{{selector}}}[$__range] @ end())) > 0"
    return f"sum by ({label}) ({rise(metric, selector)}) and on ({label}) {risen}"


def quantile(share: float, metric: str, selector: str, window: str = "1h") -> str:
    """Estimate a quantile of a histogram's buckets over everything that is selected."""
    return f"histogram_quantile({share}, sum by (le) ({increase(metric, selector, window)}))"


def age(metric: str, selector: str, status: str) -> str:
    """Return the seconds since each workflow's newest run with the status; 0 stands for none."""
    return f'time() - max {BY_WORKFLOW} ({metric}{{{selector}, status="{status}"}} > 0)'


def last_of_orgs(metric: str, window: str) -> str:
    """Return the newest sample of each org in the window, also of an exporter that is gone.

    A series of `c` that ended is left out where there is another: `c` became the org's own id,
    under which it goes on.
    """
    real = f'last_over_time({metric}{{{ORG}, org_id!="c"}}[{window}])'
    nameless = f'last_over_time({metric}{{{ORG}, org_id="c"}}[{window}])'
    nameless = f"({nameless} unless on (job) {real})"
    return f"max {BY_ORG} ({real} or {metric}{{{ORG}}} or {nameless})"


def orgs_not_read() -> str:
    """Count the orgs that were served and whose last poll was not complete, or that are gone."""
    known = last_of_orgs("invent_up", THRESHOLDS["org_vanished_window"])
    return f"count({known} unless (max {BY_ORG} (invent_up{{{ORG}}}) == 1)) or 0 * count({known})"


def age_of_the_data() -> str:
    """Return the seconds since the last complete poll of the org that waits longest."""
    return f"time() - min({last_of_orgs('invent_poll_last_success_timestamp_seconds', '1d')})"


def firing(severity: str) -> str:
    """Count alerts; 0 only while the rules are evaluated."""
    found = f'ALERTS{{{ALERT}, alertstate="firing", severity="{severity}"}}'
    return f"count({found}) or 0 * sum({HEARTBEAT})"


def alerts_firing() -> str:
    """Return for how long each alert has been firing, with the names of what it is about.

    Those of severity info would only push others off the screen.

    Where no rule is evaluated a row says so: an empty list would pass for all is well.
    """
    labels = "severity, alertname, job, org_id, workflow_id, workflow_name"
    found = (
        f"max by ({labels}) (time() - ALERTS_FOR_STATE{{{ALERT}}}"
        f' and ignoring (alertstate) ALERTS{{{ALERT}, alertstate="firing", severity!="info"}})'
    )
    org_names = f"{ORG_NAME}{{{ORG}}}"
    with_org = f"{found} * {ON_ORG} group_left (org_name) {org_names}"
    blind = f"absent({HEARTBEAT})"
    for label, value in (("alertname", "No exporter, or no rules"), ("severity", "critical")):
        blind = f'label_replace({blind}, "{label}", "{value}", "", "")'
    return f"{with_org} or ({found} unless {ON_ORG} {org_names}) or 0 * {blind}"


def count_workflows(condition: str) -> str:
    """Count workflows of which something holds; 0 only where the workflows are known."""
    return f"count({condition}) or 0 * count({NAME}{{{ORG}}})"


def failing() -> str:
    """Find the workflows of InventFailureRatioHigh and InventConsecutiveFailures."""
    ratio = f"{FAILED_1H}{{{ORG}}} / {DECIDED_1H}{{{ORG}}} > {limit('failure_ratio_max'):g}"
    enough = f"{DECIDED_1H}{{{ORG}}} > {limit('failure_ratio_min_runs') - 0.5:g}"
    streak = f"max {BY_WORKFLOW} ({STREAK}{{{ORG}}}) >= {limit('consecutive_failures_max'):g}"
    recent = f"{age(LAST, ORG, 'FAILED')} < {limit('consecutive_failures_recent_seconds'):g}"
    return f"({ratio} and {enough}) or {ON_WORKFLOW} ({streak} and {recent})"


def lasts() -> str:
    """Return the seconds for which the credits of each org last, by the limit that is near."""
    return f"min {BY_ORG} ({CREDITS_LAST}{{{ORG}}})"


def overdue() -> str:
    """Find the workflows of InventNoSuccess."""
    forgotten = f"{limit('no_success_forget_seconds'):.0f}"
    return f"{AGE}{{{ORG}}} > {OVERDUE_AFTER}{{{ORG}}} and {AGE}{{{ORG}}} < {forgotten}"


def slow() -> str:
    """Find the workflows of InventRunsSlow."""
    slower = f"{MEAN_1H}{{{ORG}}} > {limit('slow_factor'):g} * {MEAN_7D}{{{ORG}}}"
    return f"{slower} and {COUNT_1H}{{{ORG}}} > {limit('slow_min_runs') - 0.5:g}"


def oldest(status: str, selector: str = ORG) -> str:
    """Return for how long the oldest run of each workflow has had a status."""
    return f'time() - min {BY_WORKFLOW} ({OLDEST}{{{selector}, status="{status}"}})'


def stuck() -> str:
    """Find the workflows of InventRunStuck and InventQueueBackingUp."""
    waiting = f"{oldest('PENDING')} > {limit('queue_wait_max_seconds'):g}"
    found = f"({oldest('RUNNING')} > {STUCK_AFTER}{{{ORG}}}) or {ON_WORKFLOW} ({waiting})"
    # Of an org that is not read the gauges are old: its runs may have ended.
    return f"({found}) unless {ON_ORG} max {BY_ORG} (invent_up{{{ORG}}}) == 0"
