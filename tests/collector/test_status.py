"""What an org's status says of its collector, for the overview."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from invent_exporter.collector.loop import Collector
from invent_exporter.collector.status import FailedRow, OpenRow, OrgStatus, org_status
from invent_exporter.ledger.counts import FailedRun
from invent_exporter.ledger.ledger import OpenGroup
from invent_exporter.metrics.publisher import Publisher


@dataclass
class Polled:
    """A collector and the publisher, as far as a status reads them."""

    label: str = "org/1"
    target: Any = field(default_factory=lambda: SimpleNamespace(name="Acme"))
    up: bool | None = None
    last_poll_seconds: float | None = None
    last_success_seconds: float | None = None
    interval_seconds: float = 30.0
    error: str | None = None
    org: Any = None
    open: dict[str, tuple[OpenGroup, ...]] | None = None

    def open_runs(self, _org: object) -> dict[str, tuple[OpenGroup, ...]] | None:
        """Say what the test set."""
        return self.open

    def status(self, run_link: str | None = None) -> OrgStatus:
        """Read it."""
        return org_status(
            cast("Collector", self),
            cast("Publisher", self),
            redact=lambda text: text.replace("secret", "[redacted]"),
            workflow_names={"wf-1": "Order sync"},
            run_link=run_link,
        )


def test_org_that_was_not_polled_yet_claims_nothing() -> None:
    """What is not known is None, or empty."""
    assert Polled().status() == OrgStatus(
        "org/1", "Acme", None, None, None, 30.0, None, open_runs=None, failed=()
    )


def test_error_of_the_last_poll_is_redacted() -> None:
    """It may hold what an API said; so may a run's, and a key may have become known since."""
    runs = [FailedRun("run-1", "wf-1", 1.0, "a secret")]
    polled = Polled(
        up=False,
        error="no secret",
        org=SimpleNamespace(counts=SimpleNamespace(failed=runs)),
    )
    assert polled.status().error == "no [redacted]"
    assert polled.status().failed[0].error == "a [redacted]"


def test_open_runs_are_summed_over_what_started_them() -> None:
    """One row for a workflow and status, with the oldest of all; none for a status without runs."""
    groups = (
        OpenGroup("wf-1", "WEBHOOK", "RUNNING", 2, 200.0),
        OpenGroup("wf-1", "TRIGGER", "RUNNING", 1, 100.0),
        OpenGroup("wf-1", "TRIGGER", "PENDING", 0, 0.0),
    )
    polled = Polled(org=SimpleNamespace(counts=SimpleNamespace(failed=[])), open={"wf-1": groups})
    assert polled.status().open_runs == (OpenRow("Order sync", "RUNNING", 3, 100.0),)


def test_failed_runs_come_newest_first_with_links() -> None:
    """A link has the ids in a form that no id can break out of."""
    runs = [FailedRun("run-1", "wf-1", 1.0, "old"), FailedRun("run/2", "wf 2", None, "new")]
    polled = Polled(org=SimpleNamespace(counts=SimpleNamespace(failed=runs)))
    assert polled.status("https://x/{org_id}/{workflow_id}/{run_id}").failed == (
        FailedRow("run/2", "wf 2", None, "new", "https://x/org%2F1/wf%202/run%2F2"),
        FailedRow("run-1", "Order sync", 1.0, "old", "https://x/org%2F1/wf-1/run-1"),
    )
    assert polled.status().failed[0].link is None
