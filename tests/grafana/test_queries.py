"""Run every query of the dashboards and rules on a real Prometheus with the demo's metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from grafana.generate import all_panels
from grafana.pictures import past, scenes
from tests.grafana.promql import bare_counters, grouping_labels, selectors
from tests.grafana.sources import (
    BOARDS,
    RECORDED,
    ROOT,
    RULES,
    family_labels,
    family_name,
    name_of,
)
from tests.programs import require

OF_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}
ALERTS = {"ALERTS", "ALERTS_FOR_STATE"}
LABELS = {"job", "instance", "severity", "alertname", "alertstate", "le", "team", "limit"}
"""Those that Prometheus and its rules add, and the one of `workflow_labels` that alerts carry."""
EMPTY: set[str] = set()
"""Queries that find nothing in the scene, and why."""


@dataclass(frozen=True)
class Query:
    """A query, where it stands, and whether it asks for the newest value alone."""

    place: str
    expr: str
    instant: bool = False


def _interpolate(expr: str) -> str:
    for name, value in (("$__rate_interval", "5m"), ("$__range", "2h"), ("$__interval", "5m")):
        expr = expr.replace(name, value)
    expr = expr.replace("$team", ".*")
    return re.sub(r"\$(job|instance|org_id|workflow_id|origin)\b", ".+", expr)


def _dashboard_queries() -> Iterator[Query]:
    for name, board in BOARDS.items():
        for panel in all_panels(board):
            for target in panel.get("targets", ()):
                place = f"{name}/{panel['title']}/{target['refId']}"
                yield Query(place, _interpolate(target["expr"]), target.get("instant", False))
        for annotation in board["annotations"]["list"]:
            expr = annotation["target"]["expr"]
            yield Query(f"{name}/annotation {annotation['name']}", _interpolate(expr))
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            place, asked = f"{name}/variable {variable['name']}", variable["query"]["query"]
            if match := re.fullmatch(r"query_result\((.*)\)", asked):
                yield Query(place, _interpolate(match[1]), instant=True)
            elif match := re.fullmatch(r"label_values\((.*), (\w+)\)", asked):
                expr = f"group by ({match[2]}) ({match[1]})"
                yield Query(place, _interpolate(expr), instant=True)
            else:
                pytest.fail(f"{place}: {asked}: neither query_result nor label_values")


DASHBOARDS = list(_dashboard_queries())
OF_RULES = [Query(name_of(rule), rule["expr"]) for rule in RULES]
COOKBOOK = [
    Query(f"cookbook/{title}/{number}", expr, instant=True)
    for title, text in re.findall(
        r"(?ms)^### (.+?)$(.+?)(?=^### |\Z)", (ROOT / "docs/cookbook.md").read_text()
    )
    for number, expr in enumerate(
        re.findall(r"^```promql\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    )
]
queries = pytest.mark.parametrize(
    "query", [*DASHBOARDS, *COOKBOOK, *OF_RULES], ids=lambda query: query.place
)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Prometheus on an incident; gives its address."""
    require("prometheus"), require("promtool")
    folder = tmp_path_factory.mktemp("prometheus") / "past"
    past.build(scenes.SIZES["an incident"], folder)
    with past.prometheus(folder) as url:
        yield url


def _ask(url: str, query: Query) -> list[dict[str, Any]]:
    if query.instant:
        return past.ask(url, query.expr, scenes.END)
    return past.ask_range(url, query.expr, scenes.END - 2 * scenes.HOUR, scenes.END)


@pytest.mark.system
@pytest.mark.parametrize("query", DASHBOARDS, ids=lambda query: query.place)
def test_queries_of_dashboards_return_data_in_an_incident(prometheus: str, query: Query) -> None:
    """A panel that stays empty hides whether it works."""
    found = _ask(prometheus, query)
    values = [
        float(value)
        for series in found
        for _, value in series.get("values") or [series.get("value")]
    ]
    if query.place not in EMPTY:
        assert any(not math.isnan(value) for value in values)
    assert all(math.isnan(value) or value >= 0 for value in values), "nothing shown is below 0"


@pytest.mark.system
@pytest.mark.parametrize("query", COOKBOOK, ids=lambda query: query.place)
def test_queries_of_the_cookbook_have_an_answer(prometheus: str, query: Query) -> None:
    """As they stand there, with nothing filled in, but for last week: the past is too short."""
    asked = replace(query, expr=query.expr.replace("offset 7d", "offset 3h"))
    found = [float(series["value"][1]) for series in _ask(prometheus, asked)]
    assert any(not math.isnan(value) for value in found), query.expr


@pytest.mark.system
@pytest.mark.parametrize("query", OF_RULES, ids=lambda query: query.place)
def test_rules_run(prometheus: str, query: Query) -> None:
    """Joins find one partner each."""
    _ask(prometheus, replace(query, instant=True))


@queries
def test_names_are_declared(query: Query) -> None:
    """Every metric and label that a query names is one that the exporter serves."""
    served = family_labels() | {name: set() for name in OF_PROMETHEUS}
    for selector in selectors(query.expr):
        if ":" in selector.metric:
            assert selector.metric in RECORDED
        elif selector.metric not in ALERTS:
            assert selector.labels <= served[family_name(selector.metric)] | LABELS, selector
    assert grouping_labels(query.expr) <= set().union(*served.values()) | LABELS


@queries
def test_counters_are_read_as_rates(query: Query) -> None:
    """The value of a counter says when it began, not what happens."""
    if query.place.endswith(":sum"):
        return  # it becomes a counter itself
    assert bare_counters(query.expr) == set()


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("sum(a_total) > sum(a_total offset 1m)", set()),
        ("sum(a_total) > 5", {"a_total"}),
        ("sum(a_total) > sum(a_total)", {"a_total"}),
        ("sum(a_total) > sum(b_total offset 1m)", {"a_total", "b_total"}),
        ("sum(a_total) - sum(a_total offset 1m)", {"a_total"}),
        ("last_over_time(a_total[1m]) > last_over_time(a_total[1h] offset 5m)", set()),
        ("last_over_time(a_total[1m]) > last_over_time(a_total[1h])", {"a_total"}),
        ("last_over_time(a_total[1m]) - last_over_time(a_total[1m] offset 1m)", set()),
        ("last_over_time(a_total[1m]) - last_over_time(a_total[1m])", {"a_total"}),
        (
            "last_over_time(a_total[1m]) - last_over_time(b_total[1m] offset 1m)",
            {"a_total", "b_total"},
        ),
    ],
)
def test_a_counter_may_be_asked_whether_it_grew(expr: str, found: set[str]) -> None:
    """Greater than a moment ago, which a reset is not; nothing else of its value is used."""
    assert bare_counters(expr) == found


@pytest.mark.parametrize("query", DASHBOARDS, ids=lambda query: query.place)
def test_queries_follow_the_choice_of_job(query: Query) -> None:
    """Two installations on one Prometheus stay apart."""
    for selector in selectors(query.expr):
        assert "job" in selector.labels or query.place.endswith("variable job"), selector
