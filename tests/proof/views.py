"""What a small org's numbers look like: every family, every kind of exemplar, hostile texts."""

from __future__ import annotations

from invent_exporter.api.orgs import Finances
from invent_exporter.ledger.counts import OrgCounts, WorkflowCounts
from invent_exporter.ledger.ledger import OpenGroup
from invent_exporter.metrics.families import OrgView, WorkflowView
from tests.proof.runs import BOUNDS, NOW, run, usage

HOSTILE = 'a "quoted"\\ name,\n# HELP over {two="lines"} 1 # {run_id="x"} 1\r\u2028\u00fc\U0001f600'


def released(counts: WorkflowCounts) -> WorkflowCounts:
    """Show the numbers at their value."""
    counts.released = counts.groups()
    return counts


def busy_counts() -> WorkflowCounts:
    """Make the numbers of a workflow with some of everything."""
    counts = WorkflowCounts.empty(BOUNDS)
    runs = (
        run("run-1", version=3.0, workflow_org_id="owner", credits_used=usage(5.5, 1.5)),
        run("run-2", "FAILED", origin="WEBHOOK", ended=40.0, credits_used=usage(0.0)),
        run("run-3", "FAILED", origin="WEBHOOK", ended=140.0),
        run("run-4", "SKIPPED", started=None),
        run("run-5", "ARCHIVED", origin="MANUAL"),
        run("x" * 200, "CANCELED", origin="WORKFLOW", ended=None, updated=9.0),
    )
    for each in runs:
        counts.submit(each)
        counts.learn(each)
        counts.finish(each)
        counts.conclude(each)
        counts.spend_first(f"{each.origin_label}/{each.status_label}", each)
    counts.spend_step("collect", 4.0)
    return counts


def golden_views() -> dict[object, OrgView | WorkflowView]:
    """Make what the golden files show."""
    org = OrgCounts(
        invalid={"time": 2}, recovered=1, vanished=2, revised=3, credit_corrections=0.25
    )
    newborn = busy_counts()
    folded = WorkflowCounts.empty(BOUNDS)
    folded.finish(run("run-9"))
    open_runs = (
        OpenGroup("busy", "TRIGGER", "RUNNING", 2, NOW - 60),
        OpenGroup("busy", "WEBHOOK", "RUNNING", 1, NOW - 90),
        OpenGroup("busy", "TRIGGER", "PENDING", 0, 0.0),
        OpenGroup("busy", "TRIGGER", "UNKNOWN", 1, NOW - 5),
    )
    team = (("team", "payments"),)
    busy = WorkflowView("org-1", "busy", "Invoices", released(busy_counts()), open_runs, team)
    return {
        (1,): OrgView("org-1", "Acme", org, 2, 1, Finances(0.0, 200.0, 1000.5, -1.0)),
        (1, "busy"): busy,
        (1, "newborn"): WorkflowView("org-1", "newborn", HOSTILE, newborn, ()),
        (1, "__other__"): WorkflowView("org-1", "__other__", "__other__", released(folded), None),
    }
