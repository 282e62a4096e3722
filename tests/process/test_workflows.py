"""Workflows that are left out, and the labels that teams give to others, also after a reload."""

from __future__ import annotations

from invent_exporter.simulator import SimulatorServer
from tests.process.conftest import Start
from tests.process.harness import Exporter, Samples
from tests.process.test_reload import LIFECYCLE, change, post

FINISHED = "invent_runs_finished_total"


def _finish(api: SimulatorServer, exporter: Exporter, workflow_id: str, marker: int) -> Samples:
    """Let a run of the workflow fail, then one of another, and wait until that one is counted."""
    api.world.add_run(status="FAILED", workflow_id=workflow_id)
    api.world.add_run(status="COMPLETED", workflow_id="wf-marker")
    return exporter.wait_for_finished(marker, workflow_id="wf-marker")


def test_a_workflow_that_is_left_out_is_read_and_not_counted(
    simulator: SimulatorServer, start: Start
) -> None:
    """Let in, its past stays out; left out again, its series go, and come back where they were."""
    dev, excluded = {"workflow_id": "wf-dev-1"}, {"exclude": ["wf-dev-*"]}
    exporter = start(LIFECYCLE, workflows=excluded)
    exporter.wait_until_up()
    open_run = simulator.world.add_run(status="RUNNING", workflow_id="wf-dev-1")
    samples = _finish(simulator, exporter, "wf-dev-1", 1)
    assert samples.among(FINISHED, **dev) == samples.among("invent_runs_open", **dev) == {}
    assert samples.total("invent_runs_open") == 0, "nor is it in __other__"
    assert samples.total("invent_workflows_excluded") == 1

    change(exporter, workflows={})
    assert post(exporter).status_code == 200
    _finish(simulator, exporter, "wf-dev-1", 2)
    samples = exporter.wait_for_finished(1, **dev)  # the one that ended after it was let in
    assert samples.total("invent_workflows_excluded") == 0

    change(exporter, workflows=excluded)
    assert post(exporter).status_code == 200
    simulator.world.finish_run(open_run, status="COMPLETED")
    samples = _finish(simulator, exporter, "wf-dev-1", 3)
    assert samples.among(FINISHED, **dev) == {}

    change(exporter, workflows={})
    assert post(exporter).status_code == 200
    exporter.stop()
    exporter.start()
    _finish(simulator, exporter, "wf-dev-1", 4)
    exporter.wait_for_finished(2, **dev)  # what ended while it was left out stays out


def test_labels_of_a_workflow_stand_in_its_info(simulator: SimulatorServer, start: Start) -> None:
    """From the first scrape on, and others after a reload."""
    exporter = start(LIFECYCLE, workflow_labels={"wf-1": {"team": "payments"}})
    exporter.wait_until_up()
    samples = _finish(simulator, exporter, "wf-1", 1)
    assert samples.total("invent_workflow_info", workflow_id="wf-1", team="payments") == 1
    change(exporter, workflow_labels={"wf-1": {"team": "logistics", "tier": "1"}})
    assert post(exporter).status_code == 200
    samples = exporter.scrape()
    of_workflow = samples.among("invent_workflow_info", workflow_id="wf-1")
    assert [dict(labels)["team"] for labels in of_workflow] == ["logistics"]
