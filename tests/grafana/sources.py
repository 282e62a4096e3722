"""The dashboards and rules as they are committed, and what the code declares."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from grafana.rules import read_thresholds
from invent_exporter.metrics.families import FAMILIES
from invent_exporter.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("dashboards/*.json"))
}
RULE_FILES = sorted(GRAFANA.glob("rules/*.yaml"))
RULES: list[dict[str, Any]] = [
    rule
    for path in RULE_FILES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
THRESHOLDS = read_thresholds(GRAFANA / "thresholds.yaml")
PROMTOOL_TESTS = {
    path.stem: yaml.safe_load(path.read_text())["tests"]
    for path in sorted(Path(__file__).parent.glob("promtool/*.yaml"))
}


def name_of(rule: dict[str, Any]) -> str:
    """Return the name of an alert or of a recorded series."""
    return str(rule.get("alert") or rule["record"])


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Telemetry(registry)
    ProcessCollector(registry=registry)
    return registry


@cache
def family_types() -> dict[str, str]:
    """Return the type of each family by its name, which is without the suffix of its samples."""
    families = [*_registry().collect(), *(family.metric() for family in FAMILIES)]
    return {family.name: family.type for family in families}


@cache
def family_labels() -> dict[str, set[str]]:
    """Return the labels of each family by its name."""
    own = {name: set[str]() for name in family_types()}
    for collector in _registry()._collector_to_names:
        if name := getattr(collector, "_name", None):
            own[name] = set(getattr(collector, "_labelnames", ()))
    return own | {family.name: set(family.labels) for family in FAMILIES}


def family_name(sample: str) -> str:
    """Return the family that a sample's name belongs to."""
    return re.sub(r"_(total|bucket|count|sum|info)$", "", sample)


def run(*command: object) -> str:
    """Run a program that must succeed, and return what it said."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
