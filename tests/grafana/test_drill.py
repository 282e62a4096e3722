"""Hold that a drill changes the pace of the rules and nothing else."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from drill.incidents import ACME, EXPORTER, RUNS, Incident, quiet_habits
from drill.report import Played, Result, write_report
from drill.speed import SPEED, fast_rules, shorten, shorten_query
from drill.stage import Notice
from tests.grafana.sources import ALERTS, BOARDS, GRAFANA, THRESHOLDS, run
from tests.programs import require


def test_durations_are_divided() -> None:
    """Five minutes become five seconds."""
    assert SPEED == 60
    assert shorten("5m") == "5000ms"
    assert shorten_query("increase(a:b5m[1h]) > x offset 30s") == (
        "increase(a:b5m[60000ms]) > x offset 500ms"
    )
    assert shorten_query("max_over_time(a:1m:b[10m:15s])") == "max_over_time(a:1m:b[10000ms:250ms])"


def test_no_duration_is_left_as_it_was() -> None:
    """A range that was missed would see sixty times too much."""
    for group in fast_rules(GRAFANA)["groups"]:
        for rule in group["rules"]:
            assert not re.search(r"(\[|offset )\d+[smhdw]\b|:\d+[smhdw]\]", rule["expr"])
            assert rule.get("for", "0ms").endswith("ms")
            assert rule.get("keep_firing_for", "0ms").endswith("ms")


@pytest.mark.system
def test_prometheus_accepts_the_fast_rules(tmp_path: Path) -> None:
    """What the drill loads is valid."""
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(fast_rules(GRAFANA)))
    run(require("promtool"), "check", "rules", path)


def test_twelve_incidents_expect_alerts_that_exist() -> None:
    """A renamed alert would never arrive."""
    incidents = [*RUNS, *EXPORTER]
    assert len(incidents) == 12
    for incident in incidents:
        assert {incident.expected, *incident.allowed} <= {rule["alert"] for rule in ALERTS}
        assert incident.seen_at


def _result(incident: Incident, *alerts: str) -> Result:
    return Result(incident, 0.0, [Notice(5.0, alert, {}, is_firing=True) for alert in alerts])


@pytest.mark.parametrize(
    ("alerts", "is_right"),
    [
        (["InventRunStuck"], True),
        (["InventRunStuck", "InventErrorBudgetBurnSlow"], True),
        ([], False),
        (["InventRunStuck", "InventRunsSlow"], False),
    ],
)
def test_a_missing_and_a_false_alert_are_wrong(alerts: list[str], *, is_right: bool) -> None:
    """The drill fails on either."""
    hang = next(incident for incident in RUNS if incident.expected == "InventRunStuck")
    assert _result(hang, *alerts).is_right == is_right


def test_the_report_names_what_arrived_when_and_what_should_not_have() -> None:
    """It can be read without the drill's log."""
    hang = next(incident for incident in RUNS if incident.expected == "InventRunStuck")
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    stray = Notice(5.0, "InventRunsSlow", {"workflow_id": "wf-other"}, is_firing=True)
    played = Played([], [stray], [_result(hang, "InventRunStuck", "InventRunsSlow")])
    text = write_report(24, played, moment, "2 cores")
    assert "no alert" in text
    assert "| A run hangs | InventRunStuck | 5 min | none | InventRunsSlow |" in text
    assert "nothing was played: InventRunsSlow (wf-other)." in text


def test_a_stray_or_an_alert_on_the_quiet_day_makes_the_drill_fail() -> None:
    """A false alarm is as wrong as a missing alert."""
    notice = Notice(5.0, "InventRunsSlow", {"workflow_id": "wf-other"}, is_firing=True)
    assert Played([], [], []).is_right
    assert not Played([notice], [], []).is_right
    assert not Played([], [notice], []).is_right


def test_each_incident_is_seen_on_the_first_screen_of_overview() -> None:
    """The panels that the report points at are there, above the fold."""
    panels = BOARDS["overview"]["panels"]
    above = {panel["title"] for panel in panels if panel["gridPos"]["y"] < 20}
    for incident in (*RUNS, *EXPORTER):
        named = set(re.findall("«([^»]+)»", incident.seen_at))
        assert named <= above
        assert named or "table" in incident.seen_at


def test_the_quiet_day_burns_less_than_the_budget() -> None:
    """Else the alert on the budget is right, and comes when the day is long enough."""
    habits = [habit for habit in quiet_habits() if habit.org_id == ACME]
    month = sum(habit.credits * 30 * 24 * 60 / habit.every_minutes for habit in habits)
    assert month < 0.9 * float(THRESHOLDS["credits_monthly_budget"])
