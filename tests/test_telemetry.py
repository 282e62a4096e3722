"""The exporter's own numbers: which series exist, and what a rename does to them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from invent_exporter.metrics.exposition import Exposition
from invent_exporter.telemetry import POLL_ERROR_REASONS, Telemetry


def made() -> tuple[Telemetry, CollectorRegistry]:
    """Make telemetry with a registry of its own."""
    registry = CollectorRegistry()
    return Telemetry(registry), registry


def shown(registry: CollectorRegistry) -> str:
    """Write the registry as OpenMetrics."""
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()


def test_the_series_of_an_org() -> None:
    """Errors exist from zero, so that the first is an increase; what is not known is absent.

    `invent_up` follows the last poll; the last success stays.
    """
    telemetry, registry = made()
    org = {"org_id": "a"}
    value = registry.get_sample_value
    telemetry.declare_org("a")
    errors = [
        value("invent_poll_errors_total", org | {"reason": reason}) for reason in POLL_ERROR_REASONS
    ]
    assert errors == [0] * len(POLL_ERROR_REASONS)
    assert value("invent_up", org) is None
    telemetry.poll_succeeded("a", 1.5, 1000)
    telemetry.poll_failed("a", "timeout", 3)
    assert value("invent_up", org) == 0
    assert value("invent_poll_duration_seconds", org) == 3
    assert value("invent_poll_last_success_timestamp_seconds", org) == 1000
    assert value("invent_poll_errors_total", org | {"reason": "timeout"}) == 1
    telemetry.set_api_runs("a", 7)
    telemetry.set_api_runs("a", None)  # the API stops to say it
    telemetry.set_api_runs("b", None)
    assert value("invent_api_runs", org) is None
    telemetry.forget_org("a")
    assert 'org_id="a"' not in shown(registry)


def test_a_rename_moves_every_series_with_its_value() -> None:
    """The counters of the real id start with what `c` had, and nothing of `c` is left."""
    telemetry, registry = made()
    telemetry.declare_org("c")
    telemetry.poll_failed("c", "network", 1)
    telemetry.request_done("c", "200", 0.2)
    telemetry.request_done("c", "200", 0.2)
    telemetry.set_api_runs("c", 7)
    telemetry.set_poll_interval("c", 30)
    telemetry.reconciled("c", 99)
    telemetry.poll_failed("other", "network", 1)
    telemetry.rename_org("c", "org-1")
    telemetry.rename_org("org-1", "org-1")
    org = {"org_id": "org-1"}
    assert registry.get_sample_value("invent_poll_errors_total", org | {"reason": "network"}) == 1
    assert registry.get_sample_value("invent_poll_errors_total", org | {"reason": "storage"}) == 0
    assert registry.get_sample_value("invent_api_requests_total", org | {"code": "200"}) == 2
    assert registry.get_sample_value("invent_up", org) == 0
    assert registry.get_sample_value("invent_api_runs", org) == 7
    text = shown(registry)
    assert 'org_id="c"' not in text
    assert 'org_id="other"' in text


def test_there_are_no_created_series_and_build_is_an_info() -> None:
    """They would double the series for nothing."""
    telemetry, registry = made()
    telemetry.declare_org("a")
    telemetry.request_done("a", "200", 1)
    telemetry.throttled(2)
    telemetry.set_ledger_size(4096)
    telemetry.config_read(1000.0)
    telemetry.config_read(None)
    telemetry.set_build("1.0", "abc", "3.11")
    text = shown(registry)
    assert "_created" not in text
    assert "# TYPE invent_exporter_build info" in text
    assert 'invent_exporter_build_info{python_version="3.11",revision="abc",version="1.0"}' in text
    assert registry.get_sample_value("invent_api_throttled_seconds_total") == 2
    assert registry.get_sample_value("invent_ledger_size_bytes") == 4096
    assert registry.get_sample_value("invent_config_last_reload_successful") == 0
    moment = registry.get_sample_value("invent_config_last_reload_success_timestamp_seconds")
    assert moment == 1000


CHANGES: dict[str, Callable[[Telemetry], None]] = {
    "declare": lambda telemetry: telemetry.declare_org("b"),
    "fail": lambda telemetry: telemetry.poll_failed("a", "timeout", 3),
    "fail beside": lambda telemetry: telemetry.failed_beside_polls("a", "storage"),
    "succeed": lambda telemetry: telemetry.poll_succeeded("a", 2, 2000),
    "interval": lambda telemetry: telemetry.set_poll_interval("a", 60),
    "API's count": lambda telemetry: telemetry.set_api_runs("a", 8),
    "no count": lambda telemetry: telemetry.set_api_runs("a", None),
    "depth": lambda telemetry: telemetry.set_refused_depth("a", 1000),
    "reconcile": lambda telemetry: telemetry.reconciled("a", 2000),
    "request": lambda telemetry: telemetry.request_done("a", "200", 0.1),
    "rename": lambda telemetry: telemetry.rename_org("a", "c"),
    "forget": lambda telemetry: telemetry.forget_org("a"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_changed_is_served_with_the_next_publish(change: str) -> None:
    """Only families that changed are written anew, so each change must say so."""
    of_orgs = CollectorRegistry()
    telemetry = Telemetry(CollectorRegistry(), of_orgs)
    exposition = Exposition(CollectorRegistry(), time.monotonic, of_orgs=telemetry)

    async def served() -> list[str]:
        answer = await exposition.answer("application/openmetrics-text;version=1.0.0", "")
        return answer.body.decode().splitlines()

    telemetry.declare_org("a")
    telemetry.poll_succeeded("a", 1, 1000)
    telemetry.set_api_runs("a", 7)
    telemetry.request_done("a", "500", 0.1)
    before = await served()
    CHANGES[change](telemetry)
    assert await served() == before
    await exposition.publish({})
    exposition.close()
    expected = [line for line in shown(of_orgs).splitlines() if "{" in line]
    after = [line for line in await served() if "{" in line]
    assert sorted(after) == sorted(expected) != sorted(line for line in before if "{" in line)
