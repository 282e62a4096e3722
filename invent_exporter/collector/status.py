"""How one org is doing: what people want to know of it, from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.ledger.counts import KEPT_HOURS, OrgCounts

if TYPE_CHECKING:
    from invent_exporter.collector.discovery import Discovery
    from invent_exporter.collector.loop import Collector
    from invent_exporter.config.load import Config
    from invent_exporter.ledger.ledger import OpenGroup
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.metrics.publisher import Publisher


@dataclass(frozen=True)
class OpenRow:
    """Open runs of one workflow in one status; since when the oldest is in it."""

    workflow_id: str
    workflow: str
    status: str
    runs: int
    oldest_timestamp_seconds: float


@dataclass(frozen=True)
class FailedRow:
    """One failed run; `link` leads to it where the configuration says how.

    `error` is None where the configuration hides errors.
    """

    run_id: str
    workflow_id: str
    workflow: str
    origin: str
    ended_timestamp_seconds: float | None
    duration_seconds: float | None
    credits: float | None
    error: str | None
    link: str | None


@dataclass(frozen=True)
class Hour:
    """Runs that ended and counted in one hour, by status, and their credits."""

    begin_timestamp_seconds: float
    finished: Mapping[str, int]
    credits: float


@dataclass(frozen=True)
class SubOrgsStatus:
    """What became of the last look for an org's sub-orgs: why it failed, if it did.

    `known` is how many are polled for it; None until a look has succeeded.
    """

    known: int | None
    last_look_timestamp_seconds: float | None
    error: str | None


@dataclass(frozen=True)
class OrgElsewhere:
    """An org that another replica polls; `owner` is its host, None: nobody does at this moment."""

    org_id: str
    owner: str | None


@dataclass(frozen=True)
class OrgStatus:
    """One org: `up` is None until its first poll has ended, `error` says why the last one failed.

    Where the configuration hides errors it is the reason and the HTTP status alone.

    `listing_order` is that in which the API lists runs, as far as it was learned;
    `rate_limit_share` what the org takes of api.requests_per_minute; `owner` who polls it, a host.
    `open_runs` is None while it is not known; failed runs come newest first, hours oldest first.
    `parent` is who lists a sub-org, `finances` are its credits; `sub_orgs` where an org's own are
    looked for.
    """

    org_id: str
    name: str | None
    up: bool | None
    last_poll_timestamp_seconds: float | None
    next_poll_timestamp_seconds: float | None
    last_success_timestamp_seconds: float | None
    lag_seconds: float | None
    poll_interval_seconds: float
    listing_order: str
    rate_limit_share: float | None
    owner: str
    error: str | None
    open_runs: tuple[OpenRow, ...] | None
    failed: tuple[FailedRow, ...]
    hours: tuple[Hour, ...]
    parent: str | None = None
    finances: Finances = NO_FINANCES
    sub_orgs: SubOrgsStatus | None = None


def org_status(
    collector: Collector,
    publisher: Publisher,
    *,
    redact: Callable[[str], str],
    config: Config,
    owner: str,
    now: float,
) -> OrgStatus:
    """Say how the collector's org is at `now`, seconds since the epoch."""
    org, polled = collector.org, collector.last_poll_seconds
    open_runs = None if org is None else publisher.open_runs(org)
    name_of, asked = config.workflows.name_of, collector.requests_per_minute
    counts = OrgCounts() if org is None else org.counts
    # A key may have become known since an error was kept.
    errors = redact if config.show_errors else _hide
    return OrgStatus(
        org_id=collector.label,
        name=collector.target.name,
        up=collector.up,
        last_poll_timestamp_seconds=polled,
        next_poll_timestamp_seconds=None if polled is None else collector.next_poll_seconds,
        last_success_timestamp_seconds=collector.last_success_seconds,
        lag_seconds=_age(collector.last_success_seconds, now),
        poll_interval_seconds=collector.interval_seconds,
        listing_order=_order_of(org),
        rate_limit_share=None if asked is None else asked / config.api.requests_per_minute,
        owner=owner,
        error=_shown(collector, redact, is_brief=not config.show_errors),
        open_runs=None if open_runs is None else tuple(_rows(open_runs, name_of)),
        failed=tuple(
            FailedRow(
                run.run_id,
                run.workflow_id,
                name_of(run.workflow_id),
                run.origin,
                run.ended_seconds,
                run.duration_seconds,
                run.credits,
                errors(run.error),
                _link(config.run_link, collector.label, run.workflow_id, run.run_id),
            )
            for run in reversed(counts.failed)
        ),
        hours=tuple(
            Hour(hour * 3600.0, of.finished, of.credits)
            for hour, of in sorted(counts.hours.items())
            if hour > now // 3600 - KEPT_HOURS
        ),
        parent=collector.target.parent,
        finances=collector.target.finances,
        sub_orgs=_sub_orgs(collector, redact, is_brief=not config.show_errors),
    )


def _sub_orgs(
    collector: Collector, redact: Callable[[str], str], *, is_brief: bool
) -> SubOrgsStatus | None:
    if collector.target.sub_orgs_interval_seconds is None:
        return None
    looks = collector.discovery
    error = _shown(looks, redact, is_brief=is_brief)
    return SubOrgsStatus(looks.found, looks.looked_seconds, error)


def _shown(
    of: Collector | Discovery, redact: Callable[[str], str], *, is_brief: bool
) -> str | None:
    """Say what went wrong last; `is_brief`: nothing that the API said."""
    if is_brief:
        return of.brief_error
    return None if of.error is None else redact(of.error)


def _hide(_error: str) -> None:
    return None


def _age(moment: float | None, now: float) -> float | None:
    return None if moment is None else max(0.0, now - moment)


def _order_of(org: OrgLedger | None) -> str:
    order = None if org is None else org.scan.order
    if order is None or not order.learned:
        return "not learned"
    return "newest first" if order.newest_first else "oldest first"


def _link(template: str | None, *ids: str) -> str | None:
    if template is None:
        return None
    names = ("org_id", "workflow_id", "run_id")
    quoted = (quote(value, safe="") for value in ids)
    return template.format(**dict(zip(names, quoted, strict=True)))


def _rows(
    open_runs: Mapping[str, tuple[OpenGroup, ...]], name_of: Callable[[str], str]
) -> Iterator[OpenRow]:
    """Make one row for each status of a workflow, whatever started its runs."""
    for workflow_id, groups in open_runs.items():
        counted = [group for group in groups if group.runs]
        for status in dict.fromkeys(group.status for group in counted):
            alike = [group for group in counted if group.status == status]
            runs = sum(group.runs for group in alike)
            oldest = min(group.oldest_timestamp_seconds for group in alike)
            yield OpenRow(workflow_id, name_of(workflow_id), status, runs, oldest)
