"""How large /metrics is as text is known in every form; near a limit new workflows are folded."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from signal import SIGHUP

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from invent_exporter.ledger.counts import OrgCounts, WorkflowCounts
from invent_exporter.ledger.room import TextRoom
from invent_exporter.metrics.exposition import Exposition, newborn_text
from invent_exporter.metrics.families import OrgView, WorkflowView
from invent_exporter.metrics.groups import View
from tests.process.harness import Exporter, make_config, wait_for
from tests.process.traffic import quiet_api
from tests.proof.process import FakeClocks
from tests.proof.runs import BOUNDS, run, usage
from tests.proof.views import released


def _full() -> WorkflowCounts:
    """Make numbers with exemplars, which stand in OpenMetrics alone."""
    counts = WorkflowCounts.empty(BOUNDS)
    for each in (run('odd"id', credits_used=usage(3.0, 1.0)), run("r2", "FAILED", origin=None)):
        counts.submit(each)
        counts.finish(each)
        counts.spend_first(f"{each.origin_label}/{each.status_label}", each)
    return released(counts)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
async def test_the_size_is_that_of_the_text_whatever_was_asked_for(accept: str) -> None:
    """Prometheus asks for OpenMetrics; nothing is encoded twice to know the other's size."""
    exposition = Exposition(CollectorRegistry(), FakeClocks().monotonic)
    names = ("wf", 'a " # {run_id="b"} 1')
    views: dict[Hashable, View | None] = {
        name: WorkflowView("org-1", name, name, _full(), ()) for name in names
    }
    await exposition.publish({**views, "org": OrgView("org-1", "acme", OrgCounts(), 0)})
    await exposition.answer(accept, "")
    told = exposition.text_bytes
    assert told == len((await exposition.answer("text/plain", "")).body)
    exposition.close()


async def test_no_label_passes_for_an_exemplar_that_a_format_does_not_have() -> None:
    """What stands in two of them may look like one; a line cut there would break every scrape."""
    exposition = Exposition(CollectorRegistry(), FakeClocks().monotonic)
    counts = WorkflowCounts.empty(BOUNDS)
    counts.version = " # {run_id="
    name, title = "} 5", "title"
    await exposition.publish({"wf": WorkflowView("org-1", name, title, counts, ())})
    text = (await exposition.answer("text/plain", "")).body.decode()
    info = {"org_id": "org-1", "version": counts.version}
    info |= {"workflow_id": name, "workflow_name": title, "workflow_org_id": ""}
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [each.labels for each in families["invent_workflow_info"].samples] == [info]
    exposition.close()


def test_a_newborn_workflow_is_as_large_as_its_labels_make_it() -> None:
    """So that it is known before it is there."""
    room = TextRoom(0, *newborn_text(WorkflowView("", "", "", WorkflowCounts.empty(BOUNDS), ())))
    view = WorkflowView("org-1", "a-workflow", "", WorkflowCounts.empty(BOUNDS), ())
    assert room.newborn_bytes("org-1", "a-workflow") == newborn_text(view)[0]


def test_no_scrape_is_larger_than_the_limit_and_none_is_refused(tmp_path: Path) -> None:
    """Workflows beyond it are folded, and each run counts all the same."""
    with quiet_api() as simulator:
        metrics = {"newborn_hold": "0ms", "max_exposition": "512KiB"}
        config = make_config(simulator.url, tmp_path, metrics=metrics)
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            for number in range(100):
                simulator.world.add_run(status="COMPLETED", workflow_id=f"wf-{number}")
            samples = exporter.wait_for(
                "all runs", lambda now: now.total("invent_runs_finished_total") == 100
            )
            body = exporter.get("/metrics", accept="text/plain").content
            assert 256 * 1024 < len(body) < 512 * 1024
            folded = samples.find("invent_workflows_folded", org_id="org-main")
            own = samples.among("invent_workflow_info")
            assert folded == 101 - len(own)  # one is there from the start
            assert 10 < len(own) < 50
            size = pytest.approx(len(body), rel=0.01)
            exporter.wait_for(  # own metrics are made anew once a second
                "its size", lambda now: now.find("invent_exposition_size_bytes") == size
            )
            # A larger limit holds from the next reading of the configuration on.
            config["metrics"] = {"newborn_hold": "0ms", "max_exposition": "1MiB"}
            exporter.config_file.write_text(json.dumps(config))
            exporter.signal(SIGHUP)
            wait_for("another reading", lambda: "configuration reloaded" in exporter.log)
            simulator.world.add_run(status="COMPLETED", workflow_id="wf-late")
            exporter.wait_for(
                "a workflow of its own",
                lambda now: now.total("invent_runs_finished_total", workflow_id="wf-late"),
            )
