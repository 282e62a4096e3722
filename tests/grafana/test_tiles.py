"""What single numbers of the dashboards say of series that are missing, by a real promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.grafana.test_queries import DASHBOARDS
from tests.programs import require

pytestmark = pytest.mark.system

ASKED_AT = "2h"
STREAK = 'invent_workflow_consecutive_failures{job="j", org_id="acme", workflow_id="%s"}'
OPEN = (
    'invent_runs_open{job="j", org_id="acme", workflow_id="a", origin="TRIGGER", status="RUNNING"}'
)
OLDEST = (
    'invent_runs_open_oldest_timestamp_seconds{job="j", org_id="acme", workflow_id="a",'
    ' status="RUNNING"}'
)
READ = 'invent_poll_last_success_timestamp_seconds{job="j", org_id="%s"}'
UP = 'invent_up{job="j", instance="%s", org_id="%s"}'


def _shows(folder: Path, place: str, series: dict[str, str], shown: float | None) -> str:
    """Ask the tile after two hours of these series; return what promtool does not like."""
    (query,) = [query for query in DASHBOARDS if query.place == f"{place}/A" and query.instant]
    expected = [] if shown is None else [{"labels": "{}", "value": shown}]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query.expr, "eval_time": ASKED_AT, "exp_samples": expected}],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    command = [str(require("promtool")), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("place", "series", "shown"),
    [
        ("overview/Workflows failing", {}, None),
        ("overview/Workflows failing", {STREAK % "a": "0x120", STREAK % "b": "0x120"}, 0),
        ("overview/Workflows failing", {STREAK % "a": "3x120", STREAK % "b": "0x120"}, 1),
        ("overview/Oldest open run", {}, None),
        ("overview/Oldest open run", {UP % ("a", "acme"): "0x120"}, None),
        ("overview/Oldest open run", {OPEN: "0x120"}, 0),
        ("overview/Oldest open run", {OPEN: "1x120", OLDEST: "6000x120"}, 1200),
        ("exporter/Orgs not read", {}, None),
        ("exporter/Orgs not read", {UP % ("a", "acme"): "1x120"}, 0),
        (
            "exporter/Orgs not read",
            {UP % ("a", "acme"): "1x120", UP % ("a", "umbrella"): "0x120"},
            1,
        ),
        ("exporter/Orgs not read", {UP % ("a", "acme"): "1x120", UP % ("b", "acme"): "0x120"}, 0),
    ],
)
def test_a_zero_is_shown_only_where_it_is_known(
    tmp_path: Path, place: str, series: dict[str, str], shown: float | None
) -> None:
    """A green 0 of an exporter that says nothing would pass for all is well."""
    assert _shows(tmp_path, place, series, shown) == ""


@pytest.mark.parametrize("board", ["overview", "exporter"])
@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ({}, None),
        ({READ % "c": "0+60x30 stale", READ % "acme": "_x30 1800+60x120"}, 0),
        ({READ % "c": "0+60x120"}, 0),
        ({READ % "c": "600x120"}, 6600),
        ({READ % "acme": "0+60x110 stale", READ % "umbrella": "0+60x120"}, 600),
        ({READ % "c": "0+60x110 stale"}, 600),
    ],
    ids=["nothing", "c became acme", "c", "c is not read", "acme is gone", "c is gone"],
)
def test_the_age_of_the_data_is_that_of_orgs_that_are_or_were_served(
    tmp_path: Path, board: str, series: dict[str, str], shown: float | None
) -> None:
    """It rises when an exporter is gone, and not when `c` became the id that it stands for."""
    assert _shows(tmp_path, f"{board}/Age of the data", series, shown) == ""
