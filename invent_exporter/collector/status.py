"""How one org is doing: what people want to know of it, from memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from invent_exporter.collector.loop import Collector
    from invent_exporter.ledger.ledger import OpenGroup
    from invent_exporter.metrics.publisher import Publisher


@dataclass(frozen=True)
class OpenRow:
    """Open runs of one workflow in one status; since when the oldest is in it."""

    workflow: str
    status: str
    runs: int
    oldest_timestamp_seconds: float


@dataclass(frozen=True)
class FailedRow:
    """One failed run; `link` leads to it where the configuration says how."""

    run_id: str
    workflow: str
    ended_timestamp_seconds: float | None
    error: str
    link: str | None


@dataclass(frozen=True)
class OrgStatus:
    """One org: `up` is None until its first poll has ended, `error` says why the last one failed.

    `open_runs` is None while it is not known; failed runs come newest first.
    """

    org_id: str
    name: str | None
    up: bool | None
    last_poll_timestamp_seconds: float | None
    last_success_timestamp_seconds: float | None
    poll_interval_seconds: float
    error: str | None
    open_runs: tuple[OpenRow, ...] | None
    failed: tuple[FailedRow, ...]


def org_status(
    collector: Collector,
    publisher: Publisher,
    *,
    redact: Callable[[str], str],
    workflow_names: Mapping[str, str],
    run_link: str | None,
) -> OrgStatus:
    """Say how the collector's org is; `run_link` is a template for links to runs."""
    org, error = collector.org, collector.error
    open_runs = None if org is None else publisher.open_runs(org)

    def link(workflow_id: str, run_id: str) -> str | None:
        if run_link is None:
            return None
        ids = {"org_id": collector.label, "workflow_id": workflow_id, "run_id": run_id}
        return run_link.format(**{name: quote(value, safe="") for name, value in ids.items()})

    return OrgStatus(
        org_id=collector.label,
        name=collector.target.name,
        up=collector.up,
        last_poll_timestamp_seconds=collector.last_poll_seconds,
        last_success_timestamp_seconds=collector.last_success_seconds,
        poll_interval_seconds=collector.interval_seconds,
        error=None if error is None else redact(error),
        open_runs=None if open_runs is None else tuple(_rows(open_runs, workflow_names)),
        failed=tuple(
            FailedRow(
                run.run_id,
                workflow_names.get(run.workflow_id, run.workflow_id),
                run.ended_seconds,
                redact(run.error),  # a key may have become known since
                link(run.workflow_id, run.run_id),
            )
            for run in reversed([] if org is None else org.counts.failed)
        ),
    )


def _rows(
    open_runs: Mapping[str, tuple[OpenGroup, ...]], workflow_names: Mapping[str, str]
) -> Iterator[OpenRow]:
    """Make one row for each status of a workflow, whatever started its runs."""
    for workflow_id, groups in open_runs.items():
        counted = [group for group in groups if group.runs]
        for status in dict.fromkeys(group.status for group in counted):
            alike = [group for group in counted if group.status == status]
            runs = sum(group.runs for group in alike)
            oldest = min(group.oldest_timestamp_seconds for group in alike)
            yield OpenRow(workflow_names.get(workflow_id, workflow_id), status, runs, oldest)
