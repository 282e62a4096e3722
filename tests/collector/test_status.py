"""What an org's status says of its collector, for the overview."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

from invent_exporter.api.orgs import Finances
from invent_exporter.collector.loop import Collector
from invent_exporter.collector.status import (
    FailedRow,
    Hour,
    OpenRow,
    OrgStatus,
    SubOrgsStatus,
    org_status,
)
from invent_exporter.collector.target import Target
from invent_exporter.config.load import Config, Key
from invent_exporter.ledger.counts import FailedRun, HourCounts, OrgCounts
from invent_exporter.ledger.ledger import OpenGroup
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.scan.order import Order

TARGET = Target(
    id="org/1",
    name="Acme",
    key=Key.literal("key"),
    poll_interval_seconds=30.0,
    lookback_seconds=1.0,
    reconcile_interval_seconds=1.0,
)
FAILED = FailedRun("run-1", "wf-1", 1.0, "old", "WEBHOOK", 2.0, 3.0)


def org_of(counts: OrgCounts, order: Order = Order()) -> Any:  # noqa: ANN401, B008 - a stand-in
    """Make what of an org's ledger a status reads."""
    return SimpleNamespace(counts=counts, scan=SimpleNamespace(order=order))


@dataclass
class Polled:
    """A collector and the publisher, as far as a status reads them."""

    label: str = "org/1"
    target: Target = TARGET
    discovery: Any = None
    up: bool | None = None
    last_poll_seconds: float | None = None
    next_poll_seconds: float | None = None
    last_success_seconds: float | None = None
    requests_per_minute: float | None = None
    interval_seconds: float = 30.0
    error: str | None = None
    brief_error: str | None = None
    org: Any = None
    open: dict[str, tuple[OpenGroup, ...]] | None = None

    def open_runs(self, _org: object) -> dict[str, tuple[OpenGroup, ...]] | None:
        """Say what the test set."""
        return self.open

    def status(self, **config: Any) -> OrgStatus:  # noqa: ANN401 - what it is about
        """Read it."""
        return org_status(
            cast("Collector", self),
            cast("Publisher", self),
            redact=lambda text: text.replace("secret", "[redacted]"),
            config=Config(orgs=(), workflow_names={"wf-1": "Order sync"}, **config),
            owner="host-1",
            now=7200.0,
        )


def test_org_that_was_not_polled_yet_claims_nothing() -> None:
    """What is not known is None, or empty."""
    assert Polled().status() == OrgStatus(
        org_id="org/1",
        name="Acme",
        up=None,
        last_poll_timestamp_seconds=None,
        next_poll_timestamp_seconds=None,
        last_success_timestamp_seconds=None,
        lag_seconds=None,
        poll_interval_seconds=30.0,
        listing_order="not learned",
        rate_limit_share=None,
        owner="host-1",
        error=None,
        open_runs=None,
        failed=(),
        hours=(),
    )


def test_what_a_poll_tells() -> None:
    """Age of the numbers, order of the listing, share of the limit, and no hour that is too old."""
    counts = OrgCounts(hours={-30: HourCounts({"FAILED": 1}), 1: HourCounts({"FAILED": 2}, 0.5)})
    order = Order(created_ascending=False, created_steps=9)
    status = Polled(
        up=True,
        last_poll_seconds=7190.0,
        next_poll_seconds=7220.0,
        last_success_seconds=7190.0,
        requests_per_minute=3.0,
        org=org_of(counts, order),
    ).status()
    assert (status.lag_seconds, status.next_poll_timestamp_seconds) == (10.0, 7220.0)
    assert (status.listing_order, status.rate_limit_share) == ("newest first", 0.01)
    assert status.hours == (Hour(3600.0, {"FAILED": 2}, 0.5),)


def test_errors_are_hidden_where_the_configuration_says_so() -> None:
    """Of runs, and what the API says beside the reason and the status: it may hold users' data."""
    looks = SimpleNamespace(
        found=3, looked_seconds=7.0, error="HTTP 403: Ann may not", brief_error="forbidden"
    )
    polled = Polled(
        target=replace(TARGET, sub_orgs_interval_seconds=600.0),
        discovery=looks,
        error="HTTP 500: no such thing: Ann",
        brief_error="server_error (HTTP 500)",
        org=org_of(OrgCounts(failed=[FAILED])),
    )
    status = polled.status(show_errors=False)
    assert (status.failed[0].error, status.error) == (None, "server_error (HTTP 500)")
    assert status.sub_orgs == SubOrgsStatus(3, 7.0, "forbidden")


def test_error_of_the_last_poll_is_redacted() -> None:
    """It may hold what an API said; so may a run's, and a key may have become known since."""
    runs = [FailedRun("run-1", "wf-1", 1.0, "a secret")]
    polled = Polled(
        up=False,
        error="no secret",
        org=org_of(OrgCounts(failed=runs)),
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
    polled = Polled(org=org_of(OrgCounts()), open={"wf-1": groups})
    assert polled.status().open_runs == (OpenRow("wf-1", "Order sync", "RUNNING", 3, 100.0),)


def test_failed_runs_come_newest_first_with_links() -> None:
    """A link has the ids in a form that no id can break out of."""
    runs = [FAILED, FailedRun("run/2", "wf 2", None, "new")]
    polled = Polled(org=org_of(OrgCounts(failed=runs)))
    link = "https://x/{org_id}/{workflow_id}/{run_id}"
    assert [run.link for run in polled.status(run_link=link).failed] == [
        "https://x/org%2F1/wf%202/run%2F2",
        "https://x/org%2F1/wf-1/run-1",
    ]
    assert polled.status().failed[1] == FailedRow(
        "run-1", "wf-1", "Order sync", "WEBHOOK", 1.0, 2.0, 3.0, "old", None
    )
    assert polled.status().failed[0].link is None


def test_a_sub_org_tells_its_parent_and_its_credits() -> None:
    """As its target has them from the listing; of its own sub-orgs nothing is said."""
    finances = Finances(balance_credits=0.0, spending_cap_credits=10.0)
    status = Polled(target=replace(TARGET, parent="org-p", finances=finances)).status()
    assert (status.parent, status.finances, status.sub_orgs) == ("org-p", finances, None)


def test_a_parent_tells_of_the_last_look_for_its_sub_orgs() -> None:
    """Without a key in the error, which the API may have said."""
    target = replace(TARGET, sub_orgs_interval_seconds=600.0)
    looks = SimpleNamespace(found=3, looked_seconds=7000.0, error="HTTP 403: secret")
    status = Polled(target=target, discovery=looks).status()
    assert status.sub_orgs == SubOrgsStatus(3, 7000.0, "HTTP 403: [redacted]")
