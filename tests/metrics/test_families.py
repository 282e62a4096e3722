"""Each family as the contract names it; two golden files hold the whole answer.

To write the golden files anew after an intended change: `WRITE_GOLDEN=1 make test ARGS="-k golden"`
and read their diff.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from invent_exporter.config.schema import MetricsConfig
from invent_exporter.ledger.counts import Bounds, OrgCounts, WorkflowCounts
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.families import FAMILIES, FINISHED, OrgView, WorkflowView
from invent_exporter.metrics.lines import lines_of
from invent_exporter.telemetry import Telemetry
from tests.programs import require
from tests.proof.runs import BOUNDS, NOW, run
from tests.proof.views import HOSTILE, busy_counts, golden_views, released


@dataclass(frozen=True)
class _One:
    """A registry of one metric."""

    metric: Metric

    def collect(self) -> list[Metric]:
        """Return it."""
        return [self.metric]


DATA = Path(__file__).parent
ACCEPT = {"txt": "text/plain", "om": "application/openmetrics-text"}


def encoded(views: dict[object, OrgView | WorkflowView], form: str, own: object = None) -> str:
    """Encode views as one answer."""

    async def answer() -> str:
        registry = own if isinstance(own, CollectorRegistry) else CollectorRegistry()
        exposition = Exposition(registry, lambda: 0.0)
        try:
            await exposition.publish(views)
            return (await exposition.answer(ACCEPT[form], "")).body.decode()
        finally:
            exposition.close()

    return asyncio.run(answer())


def parsed(body: str, form: str) -> list[Metric]:
    """Parse an answer, as strictly as the form asks for."""
    if form == "om":
        return list(parse_openmetrics(body))  # type: ignore[no-untyped-call]
    return list(parse_text(body))


def values(metrics: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Index samples by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


@pytest.mark.parametrize("form", ["om", "txt"])
def test_the_answer_is_the_golden_one(form: str) -> None:
    """Names, types, help, labels, exemplars and their order, byte by byte."""
    golden = DATA / f"golden.{form}"
    body = encoded(golden_views(), form)
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(body, newline="")
    assert body == golden.read_bytes().decode()


@pytest.mark.parametrize("form", ["om", "txt"])
def test_each_family_stands_once_with_its_samples_together(form: str) -> None:
    """However many workflows and orgs have a part in it; the parser also adds up the buckets."""
    body = encoded(golden_views(), form)
    helps = [line.split(" ")[2] for line in body.splitlines() if line.startswith("# HELP ")]
    assert len(helps) == len(set(helps)) == len(FAMILIES)
    metrics = parsed(body, form)
    assert len(metrics) == len(FAMILIES)
    assert all(metric.documentation for metric in metrics)


def test_lines_are_what_prometheus_client_writes() -> None:
    """Byte for byte, exemplars and odd labels with it, of views and of its own metrics."""
    odd = WorkflowView(
        HOSTILE, HOSTILE, HOSTILE, released(busy_counts()), None, (("team", HOSTILE),)
    )
    for view in (*golden_views().values(), odd):
        expected = {}
        for metric in view.metrics():
            latest = generate_latest(_One(metric))  # type: ignore[no-untyped-call]
            body = latest.removesuffix(b"# EOF\n")
            expected[metric.name] = body.split(b"\n", 2)[2]
        assert lines_of(view.metrics()).by_family == expected


def test_both_forms_say_the_same() -> None:
    """A scraper's choice changes no number."""
    views = golden_views()
    assert values(parsed(encoded(views, "om"), "om")) == values(
        parsed(encoded(views, "txt"), "txt")
    )


@pytest.mark.system
def test_promtool_finds_nothing_to_say() -> None:
    """Neither of the API's numbers nor of the exporter's own."""
    promtool = require("promtool")
    own = CollectorRegistry()
    telemetry = Telemetry(own)
    telemetry.set_build("1.0", "abc", "3.11")
    telemetry.declare_org("org-1")
    telemetry.poll_succeeded("org-1", 0.5, NOW)
    telemetry.poll_failed("org-1", "timeout", 0.5)
    telemetry.request_done("org-1", "200", 0.1)
    telemetry.set_api_runs("org-1", 5)
    telemetry.reconciled("org-1", NOW)
    body = encoded(golden_views(), "txt", own)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=body.encode(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_workflow_has_126_series_from_the_beginning() -> None:
    """All of them at 0, with the default buckets; README and dashboards say that number."""
    default = MetricsConfig()
    counts = WorkflowCounts.empty(
        Bounds(default.duration_buckets, default.queue_buckets, default.credit_buckets)
    )
    view = WorkflowView("org-1", "wf", "wf", counts, ())
    by_family = {metric.name: metric.samples for metric in view.metrics()}
    names = ("runs_finished", "credits", "runs_submitted", "runs_open")
    assert [len(by_family[f"invent_{name}"]) for name in names] == [12, 24, 3, 6]
    assert {sample.labels["status"] for sample in by_family["invent_run_duration_seconds"]} == {
        "COMPLETED",
        "FAILED",
        "CANCELED",
    }
    assert "invent_runs_open_oldest_timestamp_seconds" not in by_family
    counted = [sample.value for samples in by_family.values() for sample in samples]
    assert sum(counted) == 1  # the info
    assert len(counted) == 126


def test_a_newborn_shows_its_gauges_and_hides_its_counters_and_exemplars() -> None:
    """Promise 3 is about counters; a gauge has no first event."""
    view = WorkflowView("org-1", "wf", "wf", busy_counts(), ())
    samples = [sample for metric in view.metrics() for sample in metric.samples]
    counters = [s for s in samples if s.name.endswith(("_total", "_count", "_sum", "_bucket"))]
    assert counters
    assert all(sample.value == 0 for sample in counters)
    assert all(sample.exemplar is None for sample in samples)
    streak = [s.value for s in samples if s.name == "invent_workflow_consecutive_failures"]
    assert streak == [2.0]


def test_exemplars_carry_the_run_and_fit_openmetrics() -> None:
    """`run_id` alone; one that is too long is left out."""
    view = WorkflowView("org-1", "wf", "wf", released(busy_counts()), ())
    metrics = parsed(encoded({1: view}, "om"), "om")
    exemplars = [s.exemplar for m in metrics for s in m.samples if s.exemplar is not None]
    assert {tuple(exemplar.labels) for exemplar in exemplars} == {("run_id",)}
    ids = {exemplar.labels["run_id"] for exemplar in exemplars}
    assert {"run-1", "run-2"} <= ids
    assert "x" * 200 not in ids


@pytest.mark.parametrize(
    ("run_id", "is_carried"),
    [
        ("y" * 122, True),
        ("y" * 123, False),
        ("\0", False),
        ("\n", False),
        ("\\", False),
        ('"', False),
    ],
)
def test_ids_that_an_exemplar_can_carry(run_id: str, is_carried: bool) -> None:  # noqa: FBT001
    """128 characters with the name, and none that parsers refuse or keep in escapes.

    Which those are was tried with real ones: `process/test_prometheus`.
    """
    counts = WorkflowCounts.empty(BOUNDS)
    counts.finish(run(run_id))
    body = encoded({1: WorkflowView("o", "wf", "wf", released(counts), ())}, "om")
    assert ("# {run_id=" in body) is is_carried


def test_labels_must_be_those_of_the_family() -> None:
    """prometheus_client zips positions, and would drop what does not fit."""
    with pytest.raises(ValueError, match="invent_runs_finished has the labels"):
        FINISHED.values({"org_id": "o", "workflow_id": "wf"})


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["om", "txt"]))
def test_any_label_value_comes_back_as_it_was(text: str, form: str) -> None:
    """Quotes, backslashes, line ends, and what looks like another line."""
    for value in (text, HOSTILE + text):
        counts = released(WorkflowCounts.empty(BOUNDS))
        counts.steps = {value: 1.5}
        counts.version = counts.workflow_org_id = value
        view = WorkflowView(value, value, value, released(counts), ())
        metrics = parsed(encoded({1: view, 2: OrgView(value, value, OrgCounts(), 0)}, form), form)
        labels = [sample.labels for metric in metrics for sample in metric.samples]
        assert {each["org_id"] for each in labels} == {value}
        steps = [s for m in metrics for s in m.samples if s.name == "invent_step_credits_total"]
        assert [(sample.labels["step"], sample.value) for sample in steps] == [(value, 1.5)]
        assert not any(math.isnan(s.value) for m in metrics for s in m.samples)
