"""The alerts that Grafana evaluates itself fire when those of Prometheus do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import managed, rules
from tests.grafana.sources import ALERTS, GRAFANA
from tests.programs import require

FILE = GRAFANA / "managed-alerts.yaml"
GROUPS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"]
MANAGED = [rule for group in GROUPS for rule in group["rules"]]


def test_the_committed_file_is_what_the_rules_make() -> None:
    """Nobody edits a generated file, and nobody forgets to generate."""
    assert FILE.read_text() == managed.render(rules.render(GRAFANA).values())


def test_every_alert_is_there_under_an_id_of_its_own() -> None:
    """Grafana refuses a file with two rules of one uid, or one longer than 40 characters."""
    assert [rule["title"] for rule in MANAGED] == [rule["alert"] for rule in ALERTS]
    assert len({rule["uid"] for rule in MANAGED}) == len(MANAGED)
    assert all(len(rule["uid"]) <= 40 for rule in MANAGED)


def test_a_recorded_series_is_replaced_however_deep() -> None:
    """Over a range it is a subquery, and its matchers narrow what it is made of."""
    recorded = {"a:b:sum": 'sum by (x) (invent_b{y="1"})', "c:d:max": "max_over_time(a:b:sum[2d])"}
    assert (
        managed.inlined('c:d:max + a:b:sum{x="2"}', recorded)
        == '(max_over_time((sum by (x) (invent_b{y="1"}))[2d:10m]))'
        ' + (sum by (x) (invent_b{y="1", x="2"}))'
    )


@pytest.mark.system
@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.glob("promtool/*.yaml")), ids=lambda path: path.stem
)
def test_they_fire_and_stay_silent_as_those_of_prometheus(path: Path, tmp_path: Path) -> None:
    """Read as rules of Prometheus, without any recorded series, they pass the same tests."""
    groups = [
        {"name": group["name"], "rules": [_as_prometheus_rule(rule) for rule in group["rules"]]}
        for group in GROUPS
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    suite = yaml.safe_load(path.read_text())
    suite["rule_files"] = ["rules.yaml"]
    suite["group_eval_order"] = [group["name"] for group in groups]
    for case in suite["tests"]:
        case.pop("promql_expr_test", None)  # of recorded series
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    command = [str(require("promtool")), "test", "rules", str(tmp_path / "suite.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _as_prometheus_rule(rule: dict[str, Any]) -> dict[str, Any]:
    made = {
        "alert": rule["title"],
        "expr": rule["data"][0]["model"]["expr"],
        "for": rule["for"],
        "labels": rule["labels"],
        "annotations": {
            key: text.replace("$values.query.Value", "$value")
            for key, text in rule["annotations"].items()
        },
    }
    if "keepFiringFor" in rule:
        made["keep_firing_for"] = rule["keepFiringFor"]
    return made
