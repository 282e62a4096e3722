"""Make time run faster: the shipped rules with every duration divided by the same number.

A minute of the drill lasts a second. The expressions stay as they are shipped, so what fires
here after 5 minutes fires there after 5 minutes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from grafana.rules import fill, read_thresholds

SPEED = 60
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_IN_QUERY = re.compile(r"(\[|(?<=\d[smhdw]):|offset )(\d+)([smhdw])")


def shorten(duration: str) -> str:
    """Divide a duration as Prometheus writes it, such as 15m, by SPEED."""
    number, unit = int(duration[:-1]), duration[-1]
    return f"{number * _UNIT_SECONDS[unit] * 1000 // SPEED}ms"


def shorten_query(expr: str) -> str:
    """Divide every range, step and offset of a query."""
    return _IN_QUERY.sub(lambda found: found[1] + shorten(found[2] + found[3]), expr)


def fast_rules(grafana: Path) -> dict[str, Any]:
    """Return all shipped rules in one file, at speed, with the shipped thresholds."""
    thresholds = {
        name: str(float(value) / SPEED) if name.endswith("_seconds") else value
        for name, value in read_thresholds(grafana / "thresholds.yaml").items()
    }
    groups = []
    for template in sorted((grafana / "rule_templates").glob("*.yaml")):
        for group in yaml.safe_load(fill(template.read_text(), thresholds))["groups"]:
            if "interval" in group:
                group["interval"] = shorten(group["interval"])
            for rule in group["rules"]:
                rule["expr"] = shorten_query(rule["expr"])
                for wait in ("for", "keep_firing_for"):
                    if wait in rule:
                        rule[wait] = shorten(rule[wait])
            groups.append(group)
    return {"groups": groups}
