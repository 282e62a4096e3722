"""Blocks that promtool makes of the past, in a real Prometheus that scrapes the present."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from invent_exporter.simulator import SimulatorServer, Usage
from tests.commands.backfilling import DAY, TARGET, add_past, arguments
from tests.deploy.processes import Server
from tests.deploy.processes import prometheus as run_prometheus
from tests.process.harness import Exporter, Labels, free_port, make_config, run_command, wait_for
from tests.process.test_backfill import OF_ENDED, SUBMITTED, expected
from tests.process.traffic import quiet_api
from tests.programs import require

METRICS = {"queue_buckets": [10], "credit_buckets": [1]}
ENDED = [name for name in OF_ENDED if not name.endswith("_bucket")]


@pytest.mark.system
def test_prometheus_has_the_past_and_the_present_without_a_seam(tmp_path: Path) -> None:
    """On each past day, and over the seam to the live counters: nothing is lost, nothing added."""
    port = free_port()
    with quiet_api() as simulator:
        add_past(simulator.world, runs=300, seconds=2.5 * DAY)
        open_run = simulator.world.add_run(status="RUNNING", workflow_id="wf-a")
        address = f"--web.listen-address=127.0.0.1:{port}"
        config = make_config(simulator.url, tmp_path, metrics=METRICS)
        with Exporter(tmp_path, config, arguments=(address,)) as exporter:
            exporter.wait_until_up()
            write_blocks(simulator, tmp_path)
            with run_prometheus(tmp_path, scraping(port)) as server:
                wait_for("a first scrape", lambda: values(server, "invent_up"))
                world = simulator.world
                world.finish_run(open_run, "FAILED", usage=Usage(2.0, 1.0))
                for workflow in ("wf-a", "wf-new"):
                    world.add_run(workflow_id=workflow, status="COMPLETED")
                total = f"sum(invent_runs_finished_total{{job='{TARGET['job']}'}})"
                wait_for("the present is stored", lambda: values(server, total) == {frozenset(): 3})
                runs = list(world.truth().runs)
                begin = world.clock() // DAY * DAY - 2 * DAY
                for day in (begin, begin + DAY):
                    ended = [run for run in runs if day < (run.ended_at or 0) <= day + DAY]
                    came = [run for run in runs if day < run.created_at <= day + DAY]
                    for name, chosen in (*((name, ended) for name in ENDED), (SUBMITTED, came)):
                        query = f"{name} - ({name} offset 1d or {name} * 0)"
                        grown = values(server, query, time=f"{day + DAY:.0f}")
                        assert grown == expected(chosen, name), name
                finished = [run for run in runs if run.finished]
                for name in OF_ENDED:
                    assert increments(server, name) == expected(finished, name), name
                assert increments(server, SUBMITTED) == expected(runs, SUBMITTED)
                # As people ask it; what it adds is extrapolation alone.
                increase = values(server, "sum(increase(invent_runs_finished_total[6d]))")
                assert increase[frozenset()] == pytest.approx(len(finished), rel=0.02)


def write_blocks(simulator: SimulatorServer, folder: Path) -> None:
    """Backfill, and let promtool make blocks of it where Prometheus will look."""
    command = arguments(simulator.url, folder, "--since=6d", metrics=METRICS)
    done = run_command(*command, seconds=300)
    assert done.returncode == 0, done.stderr
    made = subprocess.run(
        [
            *(require("promtool"), "tsdb", "create-blocks-from", "openmetrics"),
            *("--max-block-duration=24h", folder / "history.om", folder / "tsdb"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def scraping(port: int) -> dict[str, Any]:
    """Scrape every second, with the labels of the past."""
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": TARGET["instance"]}}
    job = {"job_name": TARGET["job"], "static_configs": [target]}
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}


def values(server: Server, query: str, **parameters: str) -> dict[Labels, float]:
    """Ask for an instant vector; series at 0 are left out."""
    found = server.data("/api/v1/query", query=query, **parameters)["result"]
    return {labels_of(each): float(each["value"][1]) for each in found if float(each["value"][1])}


def increments(server: Server, name: str) -> dict[Labels, float]:
    """Sum up what each series grew by, as Prometheus takes it: what falls begins anew from 0."""
    found = {}
    for each in server.data("/api/v1/query", query=f"{name}[{6 * DAY:.0f}s]")["result"]:
        points = [float(value) for _, value in each["values"]]
        grown = sum(
            after - before if after >= before else after for before, after in pairwise(points)
        )
        if grown:
            found[labels_of(each)] = grown
    return found


def labels_of(series: dict[str, Any]) -> Labels:
    """Name a series by the labels that /metrics has."""
    others = {"__name__", *TARGET}
    return frozenset(
        (name, value) for name, value in series["metric"].items() if name not in others
    )
