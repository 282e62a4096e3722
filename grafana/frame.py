"""What the three dashboards have in common: variables, links, annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from grafana.panels import BLUE, PURPLE, RED, YELLOW, annotation, critical, variable
from grafana.queries import (
    ALERT,
    BY_WORKFLOW,
    FINISHED,
    JOB,
    NAME,
    ON_WORKFLOW,
    ORG,
    RUNS,
    THRESHOLDS,
    WORKFLOW,
    increase,
    limit,
    named,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder

TAG = "invent"
OVERVIEW, WORKFLOWS, EXPORTERS = "invent-overview", "invent-workflow", "invent-exporter"
"""Uids: part of the addresses that people keep and alerts link to."""

AGE_LIMITS = critical(limit("poll_stale_seconds"))
_KEEP = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
_ORG_OF_ROW = "var-org_id=${__data.fields.org_id}"
WORKFLOW_LINK = (
    "Look at this workflow",
    f"/d/{WORKFLOWS}?{_ORG_OF_ROW}&var-workflow_id=${{__data.fields.workflow_id}}&{_KEEP}",
)
"""From a row of a table with the fields org_id and workflow_id; what else was chosen is kept."""
ORG_LINK = ("Only this org", f"/d/{OVERVIEW}?{_ORG_OF_ROW}&{_KEEP}")
EXPORTER_LINK = ("How this org is read", f"/d/{EXPORTERS}?{_ORG_OF_ROW}&{_KEEP}")
ERRORS_LINK = (
    "Newest errors of this org",
    "${exporter_url}/#org-${__data.fields.org_id:percentencode}",
)
"""To the org's place on the exporter's own page."""
RUNBOOK_LINK = ("What to do", f"{THRESHOLDS['runbook_base_url']}/${{__value.raw}}.md")


def job() -> Builder[Any]:
    """Choose the scrape jobs."""
    return variable("job", "Job", "label_values(invent_exporter_build_info, job)")


def instance() -> Builder[Any]:
    """Choose the processes."""
    asked = f"label_values(invent_exporter_build_info{{{JOB}}}, instance)"
    return variable("instance", "Instance", asked)


def org() -> Builder[Any]:
    """Choose the orgs, also those of which no run is known yet."""
    return variable("org_id", "Org", f"label_values(invent_up{{{JOB}}}, org_id)")


def team() -> Builder[Any]:
    """Choose the teams that `workflow_labels` names; All takes the workflows of none, too."""
    return variable("team", "Team", f"label_values({NAME}{{{ORG}}}, team)", all_value=".*")


def workflow() -> Builder[Any]:
    """Choose workflows by name, the first of all where nothing was chosen."""
    names = f'{NAME}{{{ORG}, team=~"$team"}}'
    asked = (
        f"query_result(group by (workflow_id, workflow_name) (last_over_time({names}[$__range])))"
    )
    regex = r'/workflow_id="(?<value>[^"]+)".*workflow_name="(?<text>[^"]+)"/'
    return variable("workflow_id", "Workflow", asked, regex, all_at_first=False)


def origin() -> Builder[Any]:
    """Choose by what started the runs."""
    asked = f"label_values(invent_runs_finished_total{{{WORKFLOW}}}, origin)"
    return variable("origin", "Origin", asked)


def start(
    uid: str, title: str, text: str, variables: Sequence[Builder[Any]]
) -> dashboard.Dashboard:
    """Begin a dashboard: everything but its panels."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .readonly()
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Invent")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(keep_time=True)
            .include_vars(include_vars=True)
        )
        .link(
            dashboard.DashboardLink("Newest errors")
            .type(models.DashboardLinkType.LINK)
            .url("${exporter_url}/#org-${org_id:percentencode}")
            .icon("external link")
            .tooltip("The exporter's own page: the newest failed runs of the org, with their error")
            .target_blank(target_blank=True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for chosen in variables:
        board.with_variable(chosen)
    page = dashboard.TextBoxVariable("exporter_url").label("Exporter's page")
    mark_alerts(board.with_variable(page.default_value("http://localhost:10480")))
    return board


def mark_alerts(board: dashboard.Dashboard) -> None:
    """Mark the moments at which a critical alert began to fire."""
    critical_ones = f'ALERTS{{{ALERT}, alertstate="firing", severity="critical"}}'
    board.annotation(
        annotation(
            "Critical alerts",
            f"{critical_ones} unless {critical_ones} offset $__interval",
            "{{alertname}} {{org_id}} {{workflow_name}}",
            RED,
            on=True,
        )
    )


def mark_runs(board: dashboard.Dashboard) -> None:
    """Mark failed runs, when asked to, and new versions of workflows."""
    failed = increase(FINISHED, f'{RUNS}, status="FAILED"', "$__rate_interval")
    board.annotation(
        annotation(
            "Failures",
            named(f"sum {BY_WORKFLOW} ({failed}) > 0", WORKFLOW),
            "{{workflow_name}} failed",
            YELLOW,
            on=False,
        )
    )
    versions = "group by (job, org_id, workflow_id, workflow_name, version)"
    info = f"invent_workflow_info{{{WORKFLOW}}}"
    before = f"{info} offset $__rate_interval"
    board.annotation(
        annotation(
            "Versions",
            # A version that was not there before, of a workflow that was.
            f"({versions} ({info}) unless {versions} ({before}))"
            f" and {ON_WORKFLOW} group {BY_WORKFLOW} ({before})",
            "{{workflow_name}}: version {{version}}",
            BLUE,
            on=True,
        )
    )


def mark_restarts(board: dashboard.Dashboard) -> None:
    """Mark restarts of exporters."""
    board.annotation(
        annotation(
            "Restarts",
            f"changes(process_start_time_seconds{{{JOB}}}[$__rate_interval]) > 0"
            f" and on (job, instance) invent_exporter_build_info{{{JOB}}}",
            "Exporter {{instance}} restarted",
            PURPLE,
            on=True,
        )
    )
