"""What the page for people shows, put together from what is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from invent_exporter import __version__
from invent_exporter.web import page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from invent_exporter.collector.loop import Collector
    from invent_exporter.collector.supervisor import Supervisor
    from invent_exporter.metrics.publisher import Publisher


class Overview:
    """Builds the page's view at each look."""

    def __init__(
        self,
        supervisor: Supervisor,
        publisher: Publisher,
        redact: Callable[[str], str],
        *,
        workflow_names: Mapping[str, str],
        run_link: str | None,
    ) -> None:
        """Look at this supervisor's collectors; `run_link` is a template for links to runs."""
        self._supervisor = supervisor
        self._publisher = publisher
        self._redact = redact
        self._names = workflow_names
        self._run_link = run_link

    def view(self, telemetry_path: str, now: float) -> page.PageView:
        """Show what is known, from memory."""
        orgs = tuple(self._org_view(collector) for collector in self._supervisor.collectors)
        return page.PageView(__version__, orgs, telemetry_path, now)

    def _org_view(self, collector: Collector) -> page.OrgView:
        org = collector.org
        names = self._names
        failed = [] if org is None else reversed(org.counts.failed)
        open_runs = None if org is None else self._publisher.open_runs(org)
        error = collector.error
        return page.OrgView(
            org_id=collector.label,
            name=collector.target.name,
            up=collector.up,
            last_poll_timestamp_seconds=collector.last_poll_seconds,
            last_success_timestamp_seconds=collector.last_success_seconds,
            poll_interval_seconds=collector.interval_seconds,
            error=None if error is None else self._redact(error),
            open_runs=None
            if open_runs is None
            else tuple(
                row
                for workflow_id, groups in open_runs.items()
                for row in _of_all_origins(
                    page.OpenRuns(
                        names.get(workflow_id, workflow_id),
                        group.status,
                        group.runs,
                        group.oldest_timestamp_seconds,
                    )
                    for group in groups
                    if group.runs
                )
            ),
            failed=tuple(
                page.FailedRun(
                    run.run_id,
                    run.workflow_id,
                    names.get(run.workflow_id),
                    run.ended_seconds,
                    run.error,
                    self._link(collector.label, run.workflow_id, run.run_id),
                )
                for run in failed
            ),
        )

    def _link(self, org_id: str, workflow_id: str, run_id: str) -> str | None:
        if self._run_link is None:
            return None
        return self._run_link.format(
            org_id=quote(org_id, safe=""),
            workflow_id=quote(workflow_id, safe=""),
            run_id=quote(run_id, safe=""),
        )


def _of_all_origins(rows: Iterable[page.OpenRuns]) -> Iterable[page.OpenRuns]:
    """Make one row for each status of a workflow: the page does not show what started its runs."""
    by_status: dict[str, page.OpenRuns] = {}
    for row in rows:
        other = by_status.get(row.status)
        if other is None:
            by_status[row.status] = row
        else:
            since = (row.oldest_timestamp_seconds, other.oldest_timestamp_seconds)
            oldest = min((each for each in since if each is not None), default=None)
            count = row.count + other.count
            by_status[row.status] = page.OpenRuns(row.workflow, row.status, count, oldest)
    return by_status.values()
