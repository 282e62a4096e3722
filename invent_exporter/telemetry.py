"""The exporter's own numbers: polls, API requests, waiting (contract, section 5).

They are the process's own, start with it, and use prometheus-client's direct instrumentation. What
is read from the API goes another way, through the ledger.

Longer than most modules: each family with its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.metrics import Counter, Gauge, Histogram, Info

POLL_ERROR_REASONS = (
    *("unauthorized", "forbidden", "not_found", "rate_limited", "bad_request", "server_error"),
    *("timeout", "network", "invalid_response", "storage"),
)
"""Why a poll failed: what the API or the way to it did, or the ledger (`storage`)."""

REQUEST_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_OF_A_POLL = "Set by a poll, not by the scrape."
_BY_POLLS = "by polls, not by the scrape."


class Telemetry:
    """Own metric families on one registry, moved through methods with the meaning's name."""

    def __init__(
        self, registry: CollectorRegistry, of_orgs: CollectorRegistry | None = None
    ) -> None:
        """Register every family, those with a series for each org in a registry of their own.

        Turns off prometheus-client's `_created` series, process-wide.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        of_orgs = of_orgs or registry

        def org_gauge(name: str, text: str) -> Gauge:
            return Gauge(name, f"{text} {_OF_A_POLL}", ["org_id"], registry=of_orgs)

        self._poll_errors = Counter(
            "invent_poll_errors",
            f"Polls that failed, and what failed beside them, by reason. Counted {_BY_POLLS}",
            ["org_id", "reason"],
            registry=of_orgs,
        )
        self._requests = Counter(
            "invent_api_requests",
            "Tries of API requests, by HTTP status; `error` when there was none. "
            f"Counted {_BY_POLLS}",
            ["org_id", "code"],
            registry=of_orgs,
        )
        self._request_duration = Histogram(
            "invent_api_request_duration_seconds",
            f"Seconds that one try of an API request took, body included. Observed {_BY_POLLS}",
            buckets=REQUEST_BUCKETS_SECONDS,
            registry=registry,
        )
        self._throttled = Counter(
            "invent_api_throttled_seconds",
            "Seconds that requests waited for the own rate limit or for Retry-After. "
            f"Counted {_BY_POLLS}",
            registry=registry,
        )
        self._up = org_gauge("invent_up", "1 when the last poll of the org was complete, else 0.")
        self._poll_last_success = org_gauge(
            "invent_poll_last_success_timestamp_seconds",
            "Unix time in seconds at which the last complete poll ended.",
        )
        self._poll_duration = org_gauge(
            "invent_poll_duration_seconds", "Seconds that the last poll took."
        )
        self._poll_interval = org_gauge(
            "invent_poll_interval_seconds",
            "Seconds between polls as they are now, stretched or not.",
        )
        self._api_runs = org_gauge(
            "invent_api_runs",
            "Runs that the API said it has (pagination-count of the last listing of all runs); "
            "absent when it did not say.",
        )
        self._refused_depth = org_gauge(
            "invent_listing_refused_depth_rows",
            "The row from which on the API refuses to list; absent when it never has.",
        )
        self._reconcile_last_success = org_gauge(
            "invent_reconcile_last_success_timestamp_seconds",
            "Unix time in seconds at which the last reconciliation ended.",
        )
        self._ledger_size = Gauge(
            "invent_ledger_size_bytes",
            f"Bytes of the state file, its write-ahead log included. {_OF_A_POLL}",
            registry=registry,
        )
        self._replica_orgs = Gauge(
            "invent_replica_orgs",
            "Orgs that this process serves now; where replicas share a database, those whose lease "
            "it holds.",
            registry=registry,
        )
        self._leases_lost = Counter(
            "invent_leases_lost",
            "Leases that another replica took over because this one did not renew them in time.",
            registry=registry,
        )
        self._reload_successful = Gauge(
            "invent_config_last_reload_successful",
            "1 when the configuration was read the last time that it was tried, else 0.",
            registry=registry,
        )
        self._reload_success = Gauge(
            "invent_config_last_reload_success_timestamp_seconds",
            "Unix time in seconds at which the configuration was last read and applied.",
            registry=registry,
        )
        self._exposition_size = Gauge(
            "invent_exposition_size_bytes",
            "Bytes of /metrics as text, as it was last published; near metrics.max_exposition new "
            "workflows are folded.",
            registry=registry,
        )
        self.requests: dict[str, int] = {}
        """How often the API was asked, by org; for the page for people."""
        self._build = Info("invent_exporter_build", "The version that runs.", registry=registry)
        self._of_orgs: dict[Counter | Gauge, int] = dict.fromkeys(
            (
                *(self._poll_errors, self._requests, self._up, self._poll_last_success),
                *(self._poll_duration, self._poll_interval, self._api_runs, self._refused_depth),
                self._reconcile_last_success,
            ),
            1,
        )
        """With how often each changed."""
        self._listed: dict[Counter | Gauge, int] = {}

    def changed(self) -> Iterator[Counter | Gauge]:
        """List the families of orgs that changed since they were last listed."""
        for family, changes in self._of_orgs.items():
            if self._listed.get(family) != changes:
                yield family
                self._listed[family] = changes

    def _mark(self, *families: Counter | Gauge) -> None:
        """Note that they changed, once they have: what is read meanwhile may lack it."""
        for family in families or self._of_orgs:
            self._of_orgs[family] += 1

    def _set(self, gauge: Gauge, org_id: str, value: float) -> None:
        gauge.labels(org_id=org_id).set(value)
        self._mark(gauge)

    def _count(self, counter: Counter, **labels: str) -> None:
        counter.labels(**labels).inc()
        self._mark(counter)

    def declare_org(self, org_id: str) -> None:
        """Make the org's error series exist at 0, so that `increase()` sees the first error."""
        for reason in POLL_ERROR_REASONS:
            self._poll_errors.labels(org_id=org_id, reason=reason)
        self._mark(self._poll_errors)

    def rename_org(self, old: str, new: str) -> None:
        """Move an org's series to its real id. A counter goes on from the old label's value."""
        if old == new:
            return
        for family in self._of_orgs:
            for sample in [sample for metric in family.collect() for sample in metric.samples]:
                if sample.labels["org_id"] == old:
                    series = family.labels(**{**sample.labels, "org_id": new})
                    move = series.inc if isinstance(series, Counter) else series.set
                    move(sample.value)
        self.forget_org(old)

    def forget_org(self, org_id: str) -> None:
        """Remove every series of an org that is not polled any more."""
        self.requests.pop(org_id, None)
        for family in self._of_orgs:
            family.remove_by_labels({"org_id": org_id})
        self._mark()

    def poll_failed(self, org_id: str, reason: str, duration_seconds: float) -> None:
        """Record a poll that broke off; `reason` is one of `POLL_ERROR_REASONS`."""
        self._count(self._poll_errors, org_id=org_id, reason=reason)
        self._set(self._poll_duration, org_id, duration_seconds)
        self._set(self._up, org_id, 0)

    def failed_beside_polls(self, org_id: str, reason: str) -> None:
        """Count what failed while the polls go on: a look back, or a release of new series."""
        self._count(self._poll_errors, org_id=org_id, reason=reason)

    def poll_succeeded(self, org_id: str, duration_seconds: float, ended: float) -> None:
        """Record a complete poll that ended at the unix time `ended`."""
        self._set(self._poll_duration, org_id, duration_seconds)
        self._set(self._poll_last_success, org_id, ended)
        self._set(self._up, org_id, 1)

    def set_poll_interval(self, org_id: str, seconds: float) -> None:
        """Show the interval as it is now."""
        self._set(self._poll_interval, org_id, seconds)

    def set_api_runs(self, org_id: str, count: int | None) -> None:
        """Show how many runs the API said it has; None removes the series."""
        if count is None:
            with suppress(KeyError):
                self._api_runs.remove(org_id)
                self._mark(self._api_runs)
        else:
            self._set(self._api_runs, org_id, count)

    def set_refused_depth(self, org_id: str, rows: int) -> None:
        """Show from which row on the API refuses to list."""
        self._set(self._refused_depth, org_id, rows)

    def reconciled(self, org_id: str, ended: float) -> None:
        """Record a complete reconciliation that ended at the unix time `ended`."""
        self._set(self._reconcile_last_success, org_id, ended)

    def request_done(self, org_id: str, code: str, duration_seconds: float) -> None:
        """Record one try; `code` is the HTTP status, or `error` when none came."""
        self._count(self._requests, org_id=org_id, code=code)
        self.requests[org_id] = self.requests.get(org_id, 0) + 1
        self._request_duration.observe(duration_seconds)

    def throttled(self, seconds: float) -> None:
        """Record a wait for the own rate limit or for Retry-After."""
        self._throttled.inc(max(0.0, seconds))

    def set_ledger_size(self, size_bytes: int) -> None:
        """Show the size of the state."""
        self._ledger_size.set(size_bytes)

    def config_read(self, moment: float | None) -> None:
        """Record when the configuration was read and applied; None: it was tried in vain."""
        self._reload_successful.set(moment is not None)
        if moment is not None:
            self._reload_success.set(moment)

    def watch_exposition(self, size_bytes: Callable[[], float]) -> None:
        """Show at each scrape how large it is."""
        self._exposition_size.set_function(size_bytes)

    def watch_orgs(self, orgs: Callable[[], float]) -> None:
        """Show at each scrape how many orgs are served."""
        self._replica_orgs.set_function(orgs)

    def leases_lost(self, leases: int) -> None:
        """Record leases that other replicas took over."""
        self._leases_lost.inc(leases)

    def set_build(self, version: str, revision: str, python_version: str) -> None:
        """Show which program runs."""
        self._build.info(
            {"version": version, "revision": revision, "python_version": python_version}
        )
