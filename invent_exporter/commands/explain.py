"""The `explain` command: why a run counted, where and when, or why it did not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from invent_exporter.api.models import OTHER_WORKFLOW, TIMED_STATUSES, escape
from invent_exporter.config.state import shown
from invent_exporter.config.workflows import Workflows
from invent_exporter.errors import StateError
from invent_exporter.ledger import schema
from invent_exporter.ledger.ledger import VANISHED
from invent_exporter.ledger.reading import reading
from invent_exporter.ledger.schema import RunRow

_REASONS = {
    "id": "its id can't be read",
    "status": "its status can't be read",
    "time": "it has no time that can be read, so it can't be told from history",
    "row": "it is no JSON object",
    "undecodable": "its bytes can't be decoded",
    "too_large": "it is larger than api.max_response",
    "server_error": "the API fails whenever its row is asked for",
}
_WAYS = {
    "contact": "at first contact with the org",
    "poll": "by a poll",
    "reconciliation": "by a look back: the polls had missed it",
    None: "by version 0.1.0, which did not note when",
}


class _Org(NamedTuple):
    org: int
    org_id: str
    contact: float | None
    floor: float


def explain(state_url: str, run_id: str, workflows: Workflows) -> tuple[list[str], bool]:
    """Say what the ledger knows of a run, in lines; and whether it knows anything.

    `workflows` says which are left out.

    Raises:
        StateError: there is no state file, or it can't be read.

    """
    with reading(state_url) as state:
        if state is None:
            raise StateError(f"state.url: {shown(state_url)}: no state; expected that of serve")
        orgs = [_Org(*row) for row in state.connection.execute(_ORGS)]
        # As the API writes it, or escaped already, as the log and the page show it.
        for key in (escape(run_id), run_id.encode(errors="replace").decode()):
            of_orgs = (_of_org(state.connection, org, key, workflows) for org in orgs)
            if lines := [line for lines in of_orgs for line in lines]:
                return lines, True
        return [f"run {escape(run_id)}: not known", *_unknown(state.connection, orgs)], False


def _of_org(connection: Connection, org: _Org, key: str, workflows: Workflows) -> Iterator[str]:
    run, invalid, workflow = schema.run.c, schema.invalid.c, schema.workflow.c
    of_run = select(schema.run).where(run.org == org.org, run.run_id == key)
    found = connection.execute(of_run).first()
    noted_as = select(invalid.reason, invalid.seen).order_by(invalid.seen)
    noted = connection.execute(noted_as.where(invalid.org == org.org, invalid.run_key == key)).all()
    if found is None and not noted:
        return
    yield f"run {key} in org {org.org_id}"
    for reason, seen in noted:
        yield f"  left out when it was listed at {_utc(seen)}: {_REASONS.get(reason, reason)};"
        yield f"  it is in invent_runs_invalid_total, reason={reason}, and tried at later polls"
    if found is not None:
        row = RunRow(*found)
        is_it = (workflow.org == org.org) & (workflow.workflow_id == row.workflow_id)
        where = connection.execute(select(workflow.counts).where(is_it)).first()
        is_folded = where is not None and where[0] is None
        yield f"  status {row.status}, workflow {row.workflow_id}, origin {row.origin}"
        when = "" if row.met is None else f" at {_utc(row.met)}"
        yield f"  first seen{when} {_WAYS.get(row.met_by, row.met_by)}"
        if workflows.leave_out(row.workflow_id):
            yield "  its workflow is left out by `workflows` of the configuration"
        yield from _counting(row, org, is_folded=is_folded)


def _counting(row: RunRow, org: _Org, *, is_folded: bool) -> Iterator[str]:
    if not row.owned:
        yield "  not counted here: it belongs to another org that is polled"
    elif not row.final:
        yield from _open(row)
    elif row.counted:
        yield from _counted(row, org, is_folded=is_folded)
    else:
        yield f"  not counted: {_why_not(row, org)}"


def _open(row: RunRow) -> Iterator[str]:
    since = "since it was created" if row.status == "PENDING" else "since it started"
    if row.absent >= VANISHED:
        yield "  not counted: it left the API without a final status (invent_runs_vanished_total);"
        yield "  should it be listed as final later, it still counts"
    else:
        yield f"  open {since}, {_utc(row.since)}; it counts when it ends"


def _counted(row: RunRow, org: _Org, *, is_folded: bool) -> Iterator[str]:
    workflow = OTHER_WORKFLOW if is_folded else row.workflow_id
    base = f'org_id="{org.org_id}",workflow_id="{workflow}"'
    of_run = f'{base},origin="{row.origin}",status="{row.status}"'
    when = "" if row.counted_at is None else f" at {_utc(row.counted_at)}"
    yield f"  counted{when}; it ended at {_utc(row.since)}"
    if is_folded:
        yield "  its workflow is folded into __other__ (metrics.max_workflows, max_exposition)"
    yield f"  invent_runs_finished_total{{{of_run}}} +1"
    if row.status in TIMED_STATUSES and row.counted_at is not None:
        of_duration = f'{base},status="{row.status}"'
        for name, labels, seconds in (
            ("invent_run_duration_seconds", of_duration, row.duration),
            ("invent_run_queue_seconds", base, row.queue),
        ):
            said = "not observed: a time is missing" if seconds is None else f"observed {seconds:g}"
            yield f"  {name}{{{labels}}} {said}"
    if row.credits_ai is None or row.credits_other is None:
        yield "  its credits are not known yet; they count when the API tells them"
    else:
        for kind, credits_spent in (("ai", row.credits_ai), ("other", row.credits_other)):
            yield f'  invent_credits_total{{{of_run},kind="{kind}"}} +{credits_spent:g}'
    if row.revised is not None:
        yield f"  revised to {row.revised} afterwards: a run keeps its first final status"


def _why_not(row: RunRow, org: _Org) -> str:
    if row.met_by == "contact":
        return "history. First contact with its org met it as final already."
    if org.contact is not None and row.since <= org.contact:
        ended, contact = _utc(row.since), _utc(org.contact)
        return f"history. It ended at {ended}, and first contact with its org was at {contact}."
    return (
        "when it was first seen its first time was before the window of ids that are kept, or\n"
        "  its workflow was left out by `workflows` when it ended"
    )


def _unknown(connection: Connection, orgs: list[_Org]) -> Iterator[str]:
    for org in orgs:
        of_runs = select(func.max(schema.run.c.created)).where(schema.run.c.org == org.org)
        newest = connection.execute(of_runs).scalar()
        of_org = f"  org {org.org_id}: ids are kept of runs since {_utc(org.floor)}"
        yield of_org + ("" if newest is None else f", the newest is of {_utc(newest)}")
    yield "  an older run is history or was counted and forgotten; a newer one was not listed yet,"
    yield "  or belongs to an org that is not polled"


def _utc(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "a time that no calendar has"


_ORGS = select(
    schema.org.c.org,
    func.coalesce(schema.org.c.org_id, schema.org.c.alias, ""),
    schema.org.c.contact,
    schema.org.c.floor,
).order_by(schema.org.c.org)
