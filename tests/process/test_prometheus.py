"""What real Prometheus servers make of the exporter: Debian's, and one of the 3.x."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

from invent_exporter.simulator import SimulatorServer
from tests.deploy.processes import Server, prometheus
from tests.process.conftest import Start
from tests.process.harness import ROOT, wait_for
from tests.process.soak import SCRAPE_SECONDS, scraping, soak
from tests.programs import require, run

pytestmark = pytest.mark.system

RULES: Final = ROOT / "grafana" / "rules"
LONGEST: Final = 128 - len("run_id")
SHOWN: Final = (
    *("plain", "with blank", "# {x=1} 2", "{run_id=1}", ",=}", "# EOF", "ünï", "漢字"),
    *("\U0001f600", "e\u0301", "l" * LONGEST, "\U0001f600" * 64),
)
"""Ids that an exemplar can carry."""
UNSEEN: Final = (
    *(
        0x00,
        0x01,
        0x07,
        0x08,
        0x09,
        0x0A,
        0x0B,
        0x0C,
        0x0D,
        0x1B,
        0x1F,
        0x7F,
        0x80,
        0x85,
        0x9F,
        0xA0,
    ),
    *(0xAD, 0x061C, 0x200B, 0x200D, 0x2028, 0x2029, 0x202E, 0x2066, 0x3000, 0xE000, 0xFDD0, 0xFEFF),
    *(0xFFF9, 0xFFFD, 0xFFFE, 0xFFFF, 0x1FFFE, 0xE0001, 0xF0000, 0x10FFFF),
)
"""Characters of each class that is none to look at."""
OTHER: Final = (
    *(form.format(chr(code)) for code in UNSEEN for form in ("{}", "{}id", "i{}d", "id{}")),
    *(
        'a"quote',
        "\\",
        "back\\slash",
        "\\n",
        "id\\",
        '\\"',
        "l" * (LONGEST + 1),
        "l" * 256,
        "ü" * 128,
    ),
)


@pytest.mark.parametrize("program", ["prometheus", "prometheus3"])
def test_no_run_id_costs_a_scrape(
    program: str, simulator: SimulatorServer, start: Start, tmp_path: Path
) -> None:
    """Each run counts in Prometheus too; ids that its parser refuses go without exemplar."""
    ids = SHOWN + OTHER
    exporter = start()
    exporter.wait_until_up()
    port = int(exporter.url.rpartition(":")[2])
    with prometheus(tmp_path, scraping(port), program) as server:
        wait_for("a first scrape", lambda: _value(server, "invent_up") == 1)
        # A workflow for each: only the newest run of a series is its exemplar.
        for number, run_id in enumerate(ids):
            simulator.world.add_run(
                run_id=run_id, status="COMPLETED", workflow_id=f"wf-{number:03d}"
            )
        counted = "count(sum by (workflow_id) (invent_runs_finished_total) == 1)"
        exporter.wait_for_finished(len(ids))
        try:
            wait_for("all runs", lambda: _value(server, counted) == len(ids))
        except AssertionError as error:
            (target,) = server.data("/api/v1/targets")["activeTargets"]
            raise AssertionError(f"{error}: {target['lastError']}") from error
        assert server.failed_scrapes("10m", SCRAPE_SECONDS) == set()
        stored = server.data(
            "/api/v1/query_exemplars",
            query="invent_runs_finished_total",
            start="0",
            end="9e9",
        )
        carried = {each["labels"]["run_id"] for series in stored for each in series["exemplars"]}
        assert set(SHOWN) <= carried <= set(ids)
        buckets = 'count(invent_run_duration_seconds_bucket{status="COMPLETED",le="60.0"})'
        assert _value(server, buckets) == len(ids) + 1


def _value(server: Server, query: str) -> float:
    """Return the one value of a query; 0 for none."""
    found = server.data("/api/v1/query", query=query)["result"]
    return float(found[0]["value"][1]) if found else 0.0


def test_prometheus_3_accepts_what_is_shipped() -> None:
    """Rules and their unit tests, and the scrape configuration; Debian's promtool is asked too."""
    tests = sorted((ROOT / "tests" / "grafana" / "promtool").glob("*.yaml"))
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    for done in (
        run("promtool3", "check", "rules", *sorted(RULES.glob("*.yaml"))),
        run("promtool3", "test", "rules", *tests),
        run("promtool3", "check", "config", "--syntax-only", config),
    ):
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_3_finds_nothing_to_say_of_the_metrics(
    simulator: SimulatorServer, start: Start
) -> None:
    """Names, types and help are as it likes them."""
    simulator.world.add_run(status="COMPLETED")
    exporter = start()
    exporter.wait_until_up()
    text = exporter.get("/metrics", accept="text/plain").content
    done = subprocess.run(
        [require("promtool3"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_prometheus_stores_the_truth(tmp_path: Path) -> None:
    """Scraping every second for a minute it stores nothing but the truth.

    Raw increments sum up to it exactly, `increase()` within extrapolation. Each series is first
    stored at 0, the first failure of a new workflow's included.
    """
    result = soak(tmp_path, seconds=60, seed=1, is_sick=False)
    assert result.wrong == []
    late = [
        line
        for line in result.lines
        if line.name == "invent_runs_finished_total"
        and {("workflow_id", "wf-late"), ("status", "FAILED")} <= line.labels
        and line.truth
    ]
    assert [line.truth for line in late] == [1]
    assert all(line.raw == 1 and line.increase >= 1 for line in late)
    assert len([line for line in result.lines if line.truth]) > 50
