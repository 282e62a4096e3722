"""What single numbers of the dashboards say of series that are missing, by a real promtool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.grafana.sources import run
from tests.grafana.test_queries import DASHBOARDS
from tests.programs import require

pytestmark = pytest.mark.system

ASKED_AT = "2h"
WORKFLOW = 'job="j", org_id="acme", workflow_id="%s"'
NAME = f"workflow:invent_workflow_info:name{{{WORKFLOW}}}"
STREAK = f"invent_workflow_consecutive_failures{{{WORKFLOW}}}"
FAILED_AT = f'invent_workflow_last_finished_timestamp_seconds{{{WORKFLOW}, status="FAILED"}}'
FAILED = f"workflow:invent_runs_failed:increase1h{{{WORKFLOW}}}"
DECIDED = f"workflow:invent_runs_decided:increase1h{{{WORKFLOW}}}"
AGE = f"workflow:invent_workflow_success:age_seconds{{{WORKFLOW}}}"
OVERDUE_AFTER = f"workflow:invent_workflow_success:overdue_after{{{WORKFLOW}}}"
STUCK_AFTER = f"workflow:invent_run_duration_seconds:stuck_after{{{WORKFLOW}}}"
OLDEST = f'invent_runs_open_oldest_timestamp_seconds{{{WORKFLOW}, status="%s"}}'
READ = 'invent_poll_last_success_timestamp_seconds{job="j", org_id="%s"}'
UP = 'invent_up{job="j", instance="%s", org_id="%s"}'
LASTS = 'org_limit:invent_credits_left:seconds{job="j", org_id="acme", limit="%s"}'
ORGS = 'invent_replica_orgs{job="%s", instance="%s"}'
HEARTBEAT = 'job:invent_exporter_up:max{job="j"}'
ALERT = 'ALERTS{alertname="InventRunStuck", alertstate="firing", severity="%s", job="j"%s}'


def _promtool(folder: Path, series: dict[str, str], asked: list[dict[str, object]]) -> None:
    """Let promtool ask for what is expected of series that have a sample each minute."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": asked,
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    run(require("promtool"), "test", "rules", file)


def _assert_shows(folder: Path, place: str, series: dict[str, str], shown: float | None) -> None:
    """Ask a tile after two hours of these series."""
    (query,) = [query for query in DASHBOARDS if query.place == place and query.instant]
    expected = [] if shown is None else [{"labels": "{}", "value": shown}]
    asked: dict[str, object] = {"expr": query.expr, "eval_time": ASKED_AT, "exp_samples": expected}
    _promtool(folder, series, [asked])


KNOWN = {NAME % "a": "1x120", NAME % "b": "1x120"}


@pytest.mark.parametrize(
    ("tile", "series", "shown"),
    [
        ("Failing", {}, None),
        ("Failing", {**KNOWN, STREAK % "a": "0x120"}, 0),
        ("Failing", {**KNOWN, STREAK % "a": "3x120", FAILED_AT % "a": "7000x120"}, 1),
        # Old failures of a workflow that is not used any more are nobody's emergency.
        ("Failing", {**KNOWN, STREAK % "a": "3x120", FAILED_AT % "a": "-90000x120"}, 0),
        ("Failing", {**KNOWN, FAILED % "b": "2x120", DECIDED % "b": "5x120"}, 1),
        ("Failing", {**KNOWN, FAILED % "b": "1x120", DECIDED % "b": "5x120"}, 0),
        ("Failing", {**KNOWN, FAILED % "b": "2x120", DECIDED % "b": "2x120"}, 0),
        ("Overdue", {}, None),
        ("Overdue", {**KNOWN, AGE % "a": "90x120", OVERDUE_AFTER % "a": "100x120"}, 0),
        ("Overdue", {**KNOWN, AGE % "a": "110x120", OVERDUE_AFTER % "a": "100x120"}, 1),
        ("Low credits", {}, None),
        ("Low credits", KNOWN, 0),
        ("Low credits", {**KNOWN, LASTS % "balance": "260000x120"}, 0),
        ("Low credits", {**KNOWN, LASTS % "balance": "0x120", LASTS % "spending cap": "1x120"}, 1),
        ("Stuck or waiting", {}, None),
        ("Stuck or waiting", KNOWN, 0),
        (
            "Stuck or waiting",
            {**KNOWN, OLDEST % ("a", "RUNNING"): "6000x120", STUCK_AFTER % "a": "1100x120"},
            1,
        ),
        (
            "Stuck or waiting",
            {**KNOWN, OLDEST % ("a", "RUNNING"): "6000x120", STUCK_AFTER % "a": "1300x120"},
            0,
        ),
        ("Stuck or waiting", {**KNOWN, OLDEST % ("b", "PENDING"): "6000x120"}, 1),
        (
            "Stuck or waiting",
            {**KNOWN, OLDEST % ("b", "PENDING"): "6000x120", UP % ("a", "acme"): "0x120"},
            0,
        ),
    ],
)
def test_workflows_are_counted_where_the_alert_begins_and_0_only_where_they_are_known(
    tmp_path: Path, tile: str, series: dict[str, str], shown: float | None
) -> None:
    """A calm 0 of an exporter that says nothing would pass for all is well."""
    _assert_shows(tmp_path, f"overview/{tile}/A", series, shown)


@pytest.mark.parametrize("board", ["overview", "exporter"])
@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ({}, None),
        ({UP % ("a", "acme"): "1x120"}, 0),
        ({UP % ("a", "acme"): "1x120", UP % ("a", "umbrella"): "0x120"}, 1),
        ({UP % ("a", "acme"): "1x120", UP % ("b", "acme"): "0x120"}, 0),
        ({UP % ("a", "acme"): "1x110 stale", UP % ("a", "umbrella"): "1x110 stale"}, 2),
        ({UP % ("a", "c"): "0x30 stale", UP % ("a", "acme"): "_x30 1x120"}, 0),
        ({UP % ("a", "c"): "0x120"}, 1),
    ],
    ids=["nothing", "read", "one is not", "replicas", "exporter is dead", "c became acme", "c"],
)
def test_an_org_that_is_not_read_is_counted_also_when_its_exporter_is_gone(
    tmp_path: Path, board: str, series: dict[str, str], shown: float | None
) -> None:
    """It would else be left out of every sum in silence."""
    _assert_shows(tmp_path, f"{board}/Orgs not read/A", series, shown)


@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ({}, None),
        ({ORGS % ("j", "a"): "9x120"}, 0),
        ({ORGS % ("j", "a"): "0x120", ORGS % ("j", "b"): "4x120"}, 0),
        ({ORGS % ("j", "a"): "0x120", ORGS % ("j", "b"): "5x120", ORGS % ("k", "a"): "0x120"}, 1),
    ],
    ids=["nothing", "alone", "few orgs", "idle"],
)
def test_a_replica_is_idle_where_the_alert_begins(
    tmp_path: Path, series: dict[str, str], shown: float | None
) -> None:
    """One of three with two orgs between them is not broken."""
    _assert_shows(tmp_path, "exporter/Idle replicas/A", series, shown)


@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ({}, None),
        ({HEARTBEAT: "1x120"}, 0),
        ({HEARTBEAT: "0x120"}, 0),
        ({HEARTBEAT: "1x120", ALERT % ("critical", ', org_id="acme"'): "1x120"}, 1),
        ({HEARTBEAT: "1x120", ALERT % ("critical", ""): "1x120"}, 1),
        ({HEARTBEAT: "1x120", ALERT % ("warning", ""): "1x120"}, 0),
    ],
    ids=["no rules", "none", "exporter is dead", "of an org", "of no org", "another severity"],
)
def test_no_alert_is_said_only_while_the_rules_are_evaluated(
    tmp_path: Path, series: dict[str, str], shown: float | None
) -> None:
    """A 0 of a Prometheus without the rules would be the greatest lie of all."""
    _assert_shows(tmp_path, "overview/Alerts/A", series, shown)


def test_alerts_of_severity_info_are_not_listed(tmp_path: Path) -> None:
    """One for each org of many would push off the screen what somebody must see."""
    firing = ALERT % ("info", ', org_id="acme"')
    since = firing.replace("ALERTS", "ALERTS_FOR_STATE").replace('alertstate="firing", ', "")
    series = {HEARTBEAT: "1x120", firing: "1x120", since: "0x120"}
    _assert_shows(tmp_path, "overview/Alerts firing/A", series, None)


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
    _assert_shows(tmp_path, f"{board}/Age of the data/A", series, shown)


RUNS = (
    'invent_runs_finished_total{job="j", org_id="acme", workflow_id="a", origin="WEBHOOK",'
    ' status="FAILED"}'
)


@pytest.mark.parametrize(
    ("samples", "bars"),
    [
        ("0x4 1x4 3x20", [1, 2]),
        ("_x6 0x1 1x20", [1, 0]),  # a new workflow: its zeros are served first
        ("_x6 500x1 501x20", [1, 0]),  # an old one, and a new Prometheus
        ("7x4 _x10 9x20", [0, 0, 2]),  # the exporter was gone for ten minutes
        ("9x4 1x20", [0, 0]),  # its ledger was lost
    ],
)
def test_bars_add_up_to_what_the_counter_says(
    tmp_path: Path, samples: str, bars: list[float]
) -> None:
    """Each run is in one bar, whenever it ended; steps of five minutes, scrapes of one."""
    (query,) = [one for one in DASHBOARDS if one.place == "workflow/Runs finished/A"]
    asked: list[dict[str, object]] = [
        {
            "expr": f"sum({query.expr}) or vector(0)",
            "eval_time": f"{5 * (step + 1)}m",
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for step, value in enumerate(bars, start=0 if samples[0] != "_" else 1)
    ]
    _promtool(tmp_path, {RUNS: samples}, asked)
