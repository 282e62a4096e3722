"""What the three dashboards have in common: variables, links, annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from grafana.panels import BLUE, GREEN, ORANGE, RED, annotation, variable
from grafana.queries import BY_WORKFLOW, JOB, ON_WORKFLOW, ORG, RUNS, WORKFLOW, increase, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder

TAG = "invent"
OVERVIEW, WORKFLOWS, EXPORTERS = "invent-overview", "invent-workflow", "invent-exporter"
"""Uids: part of the addresses that people keep and alerts link to."""

AGE_LIMITS = ((None, GREEN), (120, ORANGE), (600, RED))
"""Of the age of the data: red where InventPollStale fires."""
_KEEP = "${datasource:queryparam}&${job:queryparam}&${__url_time_range}"
WORKFLOW_LINK = (
    f"/d/{WORKFLOWS}?var-org_id=${{__data.fields.Org}}"
    f"&var-workflow_id=${{__data.fields.workflow_id}}&${{origin:queryparam}}&{_KEEP}"
)
"""From a row of a table with the columns Org and workflow_id; what else was chosen is kept."""


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


def workflow() -> Builder[Any]:
    """Choose the workflows by name; one without a name is called by its id."""
    infos = f"group by (workflow_id, workflow_name) (invent_workflow_info{{{ORG}}})"
    folded = (
        f"label_replace(group by (workflow_id) (invent_runs_finished_total{{{ORG}}}),"
        ' "workflow_name", "$1", "workflow_id", "(.*)")'
    )
    regex = r'/workflow_id="(?<value>[^"]+)".*workflow_name="(?<text>[^"]+)"/'
    asked = f"query_result({infos} or on (workflow_id) {folded})"
    return variable("workflow_id", "Workflow", asked, regex)


def origin() -> Builder[Any]:
    """Choose by what started the runs."""
    asked = f"label_values(invent_runs_finished_total{{{ORG}}}, origin)"
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
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for chosen in variables:
        board.with_variable(chosen)
    return board


def mark_runs(board: dashboard.Dashboard, *, failures: bool) -> None:
    """Mark failed runs and new versions of workflows."""
    failed = increase("invent_runs_finished_total", f'{RUNS}, status="FAILED"')
    board.annotation(
        annotation(
            "Failures",
            named(f"sum {BY_WORKFLOW} ({failed}) > 0"),
            "{{workflow_name}} failed",
            RED,
            on=failures,
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
            ORANGE,
            on=True,
        )
    )
