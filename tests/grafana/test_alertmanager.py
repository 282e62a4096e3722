"""Hold the example of an Alertmanager: accepted, and it sends alerts where it should."""

import re

import pytest
import yaml

from tests.grafana.sources import ALERTS, GRAFANA, run
from tests.programs import require

CONFIG = GRAFANA / "alertmanager.yaml"


def _amtool(*arguments: str) -> str:
    return run(require("amtool"), *arguments)


@pytest.mark.system
def test_amtool_accepts_the_example() -> None:
    """Alertmanager loads it."""
    assert "SUCCESS" in _amtool("check-config", str(CONFIG))


@pytest.mark.system
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["severity=critical", "component=runs"], "pager"),
        (["severity=critical", "component=exporter"], "pager"),
        (["severity=warning", "component=runs"], "chat"),
        (["severity=warning", "component=credits"], "chat"),
        (["severity=info", "component=exporter"], "chat"),
        (["severity=warning", "component=runs", "team=payments"], "payments"),
        (["severity=critical", "component=runs", "team=payments"], "payments,pager"),
    ],
)
def test_only_critical_alerts_wake_somebody_up(labels: list[str], receiver: str) -> None:
    """Routes go by severity, and by team where a workflow has one."""
    routed = _amtool("config", "routes", "test", f"--config.file={CONFIG}", *labels)
    assert routed.strip() == receiver


def test_inhibition_names_alerts_that_exist() -> None:
    """A rule that was renamed would inhibit nothing, silently."""
    known = {rule["alert"] for rule in ALERTS}
    text = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    assert set(re.findall(r"Invent[A-Z]\w+", str(text))) <= known


def test_the_exporter_being_down_silences_the_rest_of_its_job_alone() -> None:
    """Another exporter's alerts still arrive."""
    rule = yaml.safe_load(CONFIG.read_text())["inhibit_rules"][0]
    assert rule["source_matchers"] == ['alertname="InventExporterDown"']
    assert rule["equal"] == ["job"]
