"""Hold the rules of Grafana's dashboard-linter, by the names that it gives them.

The program itself comes from no package registry, so its documented rules are written down here
(https://github.com/grafana/dashboard-linter/tree/main/docs). Exceptions, with their reasons, are in
grafana/dashboard-lint.yaml, in the program's own form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import pytest
import yaml

from grafana.generate import all_panels
from tests.grafana.promql import parents
from tests.grafana.sources import BOARDS, GRAFANA

EXCLUSIONS: dict[str, dict[str, Any]] = yaml.safe_load(
    (GRAFANA / "dashboard-lint.yaml").read_text()
)["exclusions"]
UNITS = {"none", "short", "s", "bytes", "percentunit", "reqpm"}
"""Those of Grafana's units that are used here."""
RATE_INTERVAL = "11m37s"
"""Stands for $__rate_interval: no window that somebody would write."""


@dataclass(frozen=True)
class Violation:
    """A rule that is not kept, and where."""

    rule: str
    dashboard: str
    panel: str | None = None


def _parse(expr: str) -> Any:  # noqa: ANN401 (each kind of node is a class of its own)
    return promql_parser.parse(
        expr.replace("$__rate_interval", RATE_INTERVAL)
        .replace("$__range", "5h13m")
        .replace("$__interval", "7m")
    )


def _template_violations(board: dict[str, Any]) -> Iterator[str]:
    source, *variables = board["templating"]["list"]
    if (source["type"], source["name"], source["label"], source["query"]) != (
        *("datasource", "datasource"),
        *("Data source", "prometheus"),
    ):
        yield "template-datasource-rule"
    by_name = {variable["name"]: variable for variable in variables}
    for name in ("job", "instance"):
        found = by_name.get(name, {})
        if not (
            found.get("type") == "query"
            and found["datasource"]["uid"] == "${datasource}"
            and found["label"] == name.title()
            and found["multi"]
            and found["allValue"] == ".+"
        ):
            yield f"template-{name}-rule"
    for variable in variables:
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(
            r"label_values\((.+), \w+\)|query_result\((.+)\)", variable["query"]["query"]
        )
        if asked is None:
            yield "template-label-promql-rule"
        else:
            _parse(asked[1] or asked[2])
        if variable["refresh"] != 2:
            yield "template-on-time-change-reload-rule"
    if board["editable"]:
        yield "uneditable-dashboard-rule"


def _panel_violations(panel: dict[str, Any]) -> Iterator[str]:
    if panel["datasource"]["uid"] != "${datasource}":
        yield "panel-datasource-rule"
    if not panel["title"] or not panel["description"]:
        yield "panel-title-description-rule"
    if not panel["targets"]:
        yield "panel-no-targets-rule"
    field = panel["fieldConfig"]
    units = {
        setting["value"]
        for override in field["overrides"]
        for setting in override["properties"]
        if setting["id"] == "unit"
    } or {field["defaults"].get("unit")}
    # The linter looks at no other type: a unit of the bar gauge may say «x usual».
    if panel["type"] in {"stat", "table", "timeseries", "gauge"} and not units <= UNITS:
        yield "panel-units-rule"


def _target_violations(target: dict[str, Any]) -> Iterator[str]:
    try:
        expr = _parse(target["expr"])
    except ValueError:
        yield "target-promql-rule"
        return
    magic = _parse(f"a[{RATE_INTERVAL}]").range
    for node, above in parents(expr):
        function = above[-1].func.name if above and hasattr(above[-1], "func") else ""
        if isinstance(node, promql_parser.MatrixSelector):
            if function in {"rate", "irate"} and node.range != magic:
                yield "target-rate-interval-rule"
            continue
        if not isinstance(node, promql_parser.VectorSelector):
            continue
        matched = {(one.name, str(one.op), one.value) for one in node.matchers.matchers}
        for name in ("job", "instance"):
            if not any(one[0] == name and one[2] == f"${name}" for one in matched):
                yield f"target-{name}-rule"
        ranged = bool(above) and isinstance(above[-1], promql_parser.MatrixSelector)
        call = above[-2].func.name if ranged and hasattr(above[-2], "func") else ""
        if (node.name or "").endswith("_total") and call not in {"rate", "irate", "increase"}:
            yield "target-counter-agg-rule"


def _violations() -> set[Violation]:
    found: set[Violation] = set()
    for board in BOARDS.values():
        title = board["title"]
        found.update(Violation(rule, title) for rule in _template_violations(board))
        for panel in all_panels(board):
            if panel["type"] == "row":
                continue
            rules = [*_panel_violations(panel)]
            for target in panel["targets"]:
                rules += _target_violations(target)
            found.update(Violation(rule, title, panel["title"]) for rule in rules)
    return found


VIOLATIONS = _violations()


def _is_excluded(violation: Violation) -> bool:
    if violation.rule not in EXCLUSIONS:
        return False
    entries = EXCLUSIONS[violation.rule].get("entries", [{}])
    return any(_fits(entry, violation) for entry in entries)


def _fits(entry: dict[str, str], violation: Violation) -> bool:
    return entry.get("dashboard", violation.dashboard) == violation.dashboard and (
        entry.get("panel", violation.panel) == violation.panel
    )


def test_dashboards_keep_the_rules_but_for_the_exceptions() -> None:
    """What the linter would name is either mended or has its reason written down."""
    assert {one for one in VIOLATIONS if not _is_excluded(one)} == set()


@pytest.mark.parametrize("rule", sorted(EXCLUSIONS))
def test_each_exception_has_a_reason_and_is_needed(rule: str) -> None:
    """An exception that outlived its cause would hide the next mistake."""
    assert EXCLUSIONS[rule]["reason"].endswith(".")
    broken = [one for one in VIOLATIONS if one.rule == rule]
    for entry in EXCLUSIONS[rule].get("entries", [{}]):
        assert any(_fits(entry, one) for one in broken), entry
