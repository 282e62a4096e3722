"""Hold the rules: generated, accepted, tested, and each alert explained."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.rules import MARKER, fill, read_thresholds, render
from tests.grafana.promql import aggregations
from tests.programs import require

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "grafana/rules").glob("*.yaml"))
PROMTOOL_TESTS = sorted((Path(__file__).parent / "promtool").glob("*.yaml"))


RULES_LIST: list[dict[str, Any]] = [
    rule
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES_LIST if "alert" in rule]
alerts = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def test_committed_rules_are_what_the_templates_and_thresholds_make() -> None:
    """Nobody edits a generated file, and nobody forgets to generate."""
    assert {path.name: path.read_text() for path in RULES} == render(ROOT / "grafana")


def test_each_threshold_is_used_and_each_marker_has_one() -> None:
    """A knob that turns nothing misleads."""
    texts = [path.read_text() for path in (ROOT / "grafana/rule_templates").glob("*.yaml")]
    used = {name for text in texts for name in MARKER.findall(text)}
    assert used == set(read_thresholds(ROOT / "grafana/thresholds.yaml"))


def test_a_marker_without_a_threshold_is_named() -> None:
    """A misspelt marker does not reach Prometheus."""
    with pytest.raises(ValueError, match="no threshold is named misspelt"):
        fill("expr: a > @misspelt@", {})


def test_thresholds_must_be_flat(tmp_path: Path) -> None:
    """A nested value would be put into a query as Python writes it."""
    path = tmp_path / "thresholds.yaml"
    path.write_text("a: {b: 1}\n")
    with pytest.raises(ValueError, match="expected lines of"):
        read_thresholds(path)


@pytest.mark.system
def test_promtool_accepts_the_rules() -> None:
    """Prometheus loads each file."""
    _run(str(require("promtool")), "check", "rules", *map(str, RULES))


@pytest.mark.system
@pytest.mark.parametrize("path", PROMTOOL_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_promtool_is_told(path: Path) -> None:
    """What each alert does to which series is written in promtool/*.yaml."""
    _run(str(require("promtool")), "test", "rules", str(path))


@alerts
def test_promtool_tests_see_the_alert_fire_and_see_it_silent(alert: dict[str, Any]) -> None:
    """An alert without both tests may never fire, or always."""
    expectations = [
        bool(case["exp_alerts"])
        for path in PROMTOOL_TESTS
        for group in yaml.safe_load(path.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["alertname"] == alert["alert"]
    ]
    assert set(expectations) == {True, False}


@alerts
def test_each_alert_names_severity_texts_runbook_and_dashboard(alert: dict[str, Any]) -> None:
    """Whoever is woken up knows what, where, how much, and what to do."""
    name, notes = alert["alert"], alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["labels"]["component"] in {"runs", "credits", "exporter"}
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert notes["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    assert re.search(r"/d/invent-(overview|workflow|exporter)", notes["dashboard_url"])
    if "$labels.org_id" in notes["description"]:
        assert "var-org_id={{ $labels.org_id }}" in notes["dashboard_url"]
    if alert["labels"]["component"] != "exporter":
        assert "$labels.org_id" in notes["description"]
        assert "$value" in notes["description"]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    """One page an alert, with the same four questions answered."""
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/runbooks").glob("Invent*.md")}
    assert set(pages) == {alert["alert"] for alert in ALERTS}
    for name, page in pages.items():
        headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
        expected = [name, "What it means", "Look first", "What to do", "Usual causes"]
        assert headings == expected, name


def test_recorded_series_are_named_level_metric_operations() -> None:
    """Prometheus' convention: https://prometheus.io/docs/practices/rules/."""
    for rule in RULES_LIST:
        if "record" in rule:
            assert re.fullmatch(r"(job|org|workflow)(_\w+)?:invent_\w+:\w+", rule["record"])


def test_rules_keep_the_job_and_drop_the_instance() -> None:
    """Two installations stay apart; one that moved to another address stays one."""
    for rule in RULES_LIST:
        for kept in aggregations(rule["expr"]):
            assert "job" in kept, rule
            assert "instance" not in kept, rule


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
