"""Hold the rules: generated, accepted, tested, and each alert explained."""

import re
from pathlib import Path
from typing import Any

import pytest

from grafana.rules import MARKER, fill, read_thresholds, render
from tests.grafana.promql import aggregations
from tests.grafana.sources import (
    ALERTS,
    GRAFANA,
    PROMTOOL_TESTS,
    ROOT,
    RULE_FILES,
    RULES,
    THRESHOLDS,
    run,
)
from tests.programs import require

alerts = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def test_committed_rules_are_what_the_templates_and_thresholds_make() -> None:
    """Nobody edits a generated file, and nobody forgets to generate."""
    assert {path.name: path.read_text() for path in RULE_FILES} == render(GRAFANA)


def test_each_threshold_is_used_and_each_marker_has_one() -> None:
    """A knob that turns nothing misleads."""
    texts = [path.read_text() for path in GRAFANA.glob("rule_templates/*.yaml")]
    assert {name for text in texts for name in MARKER.findall(text)} == set(THRESHOLDS)


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
    run(require("promtool"), "check", "rules", *RULE_FILES)


@pytest.mark.system
@pytest.mark.parametrize("name", PROMTOOL_TESTS)
def test_alerts_fire_and_stay_silent_as_promtool_is_told(name: str) -> None:
    """What each alert does to which series is written in promtool/*.yaml."""
    run(require("promtool"), "test", "rules", Path(__file__).parent / f"promtool/{name}.yaml")


@alerts
def test_promtool_tests_see_the_alert_fire_and_see_it_silent(alert: dict[str, Any]) -> None:
    """An alert without both tests may never fire, or always."""
    expectations = [
        bool(case["exp_alerts"])
        for tests in PROMTOOL_TESTS.values()
        for group in tests
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
        whole = " by (job) (" in alert["expr"]
        assert ("$labels.job" if whole else "$labels.org_id") in notes["description"]
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
    for rule in RULES:
        if "record" in rule:
            assert re.fullmatch(r"(job|org|workflow)(_\w+)?:invent_\w+:\w+", rule["record"])


def test_rules_keep_the_job_and_drop_the_instance() -> None:
    """Two installations stay apart; one that moved to another address stays one."""
    for rule in RULES:
        for kept in aggregations(rule["expr"]):
            assert "job" in kept, rule
            assert "instance" not in kept, rule
