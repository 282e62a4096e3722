"""Selectors and joins that the dashboards' queries are made of.

A query selects by the variables at the top of the dashboard and never by `instance`: each org is
served by one exporter at a time, and its numbers are the ledger's, not the address's.
"""

from __future__ import annotations

JOB = 'job=~"$job"'
ORG = f'{JOB}, org_id=~"$org_id"'
WORKFLOW = f'{ORG}, workflow_id=~"$workflow_id"'
RUNS = f'{WORKFLOW}, origin=~"$origin"'
EXPORTER = f'{JOB}, instance=~"$instance"'

BY_WORKFLOW = "by (job, org_id, workflow_id)"
ON_WORKFLOW = "on (job, org_id, workflow_id)"


def workflow_names() -> str:
    """Name each workflow once: the folded ones, which have no info, by their id.

    `topk` takes one series where a change of version makes two for a moment.
    """
    return (
        f"topk {BY_WORKFLOW} (1, group by (job, org_id, workflow_id, workflow_name)"
        f" (invent_workflow_info{{{WORKFLOW}}}))"
        f" or {ON_WORKFLOW} label_replace(group {BY_WORKFLOW}"
        f" (invent_runs_finished_total{{{WORKFLOW}}}),"
        ' "workflow_name", "$1", "workflow_id", "(.*)")'
    )


def named(expr: str) -> str:
    """Add `workflow_name` to an expression that has one series for each workflow."""
    return f"({expr}) * {ON_WORKFLOW} group_left (workflow_name) ({workflow_names()})"


def increase(metric: str, selector: str, window: str = "$__rate_interval") -> str:
    """Return by how much each series of a counter rose in the window."""
    return f"increase({metric}{{{selector}}}[{window}])"


def rate(metric: str, selector: str, window: str = "$__rate_interval") -> str:
    """Return how fast each series of a counter rises, by the second."""
    return f"rate({metric}{{{selector}}}[{window}])"


def quantile(share: float, metric: str, selector: str, window: str = "$__rate_interval") -> str:
    """Estimate a quantile of a histogram over everything that is selected."""
    buckets = increase(f"{metric}_bucket", selector, window)
    return f"histogram_quantile({share}, sum by (le) ({buckets}))"


def age(metric: str, selector: str, status: str) -> str:
    """Return the seconds since each workflow's newest run with the status; 0 stands for none."""
    return f'time() - max {BY_WORKFLOW} ({metric}{{{selector}, status="{status}"}} > 0)'


def last_success() -> str:
    """Return when each org's last complete poll ended, also of an exporter that is gone.

    A series of `c` that ended is left out where there is another: `c` became the org's own id,
    under which it goes on.
    """
    metric = "invent_poll_last_success_timestamp_seconds"
    named = f'last_over_time({metric}{{{ORG}, org_id!="c"}}[$__range])'
    nameless = f'last_over_time({metric}{{{ORG}, org_id="c"}}[$__range])'
    nameless = f"({nameless} unless on (job) {named})"
    return f"max by (job, org_id) ({named} or {metric}{{{ORG}}} or {nameless})"
