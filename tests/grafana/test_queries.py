"""Run every query of the dashboards and rules on a real Prometheus with the demo's metrics."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from grafana.generate import all_panels
from grafana.pictures import past
from invent_exporter.metrics.families import FAMILIES
from tests.grafana.families import NOT_IN_THE_DEMO
from tests.grafana.history import (
    DAY,
    DENSE_SECONDS,
    DENSE_STEP,
    SPARSE_STEP,
    write_history,
)
from tests.grafana.promql import bare_counters, grouping_labels, selectors
from tests.programs import require

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 120.0
FINISHED_RUNS = "invent_runs_finished_total"
TARGET_LABELS = {"job", "instance"}
OF_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped"}
ALERTS = {"ALERTS", "ALERTS_FOR_STATE"}
OF_ALERTS = {"severity", "alertname", "alertstate"}
EMPTY_IN_THE_DEMO = {
    "exporter/Requests a minute/A",  # its API answers 200 to everything
    "overview/Credits an hour/C",  # the history keeps few workflows,
    "overview/Overdue for a success/A",  # of which it may know too few successes
    "workflow/Last success/B",
}


@dataclass(frozen=True)
class Query:
    """A query, where it stands, and whether it asks for the newest value alone."""

    place: str
    expr: str
    instant: bool = False


def _interpolate(expr: str) -> str:
    for name, value in (("$__rate_interval", "5m"), ("$__range", "2h"), ("$__interval", "5m")):
        expr = expr.replace(name, value)
    return re.sub(r"\$(job|instance|org_id|workflow_id|origin)\b", ".+", expr)


def _dashboard_queries() -> Iterator[Query]:
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in all_panels(board):
            for target in panel.get("targets", ()):
                place = f"{path.stem}/{panel['title']}/{target['refId']}"
                yield Query(place, _interpolate(target["expr"]), target.get("instant", False))
        for annotation in board["annotations"]["list"]:
            expr = annotation["target"]["expr"]
            yield Query(f"{path.stem}/annotation {annotation['name']}", _interpolate(expr))
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            place, asked = f"{path.stem}/variable {variable['name']}", variable["query"]["query"]
            if match := re.fullmatch(r"query_result\((.*)\)", asked):
                yield Query(place, _interpolate(match[1]), instant=True)
            elif match := re.fullmatch(r"label_values\((.*), (\w+)\)", asked):
                expr = f"group by ({match[2]}) ({match[1]})"
                yield Query(place, _interpolate(expr), instant=True)
            else:
                pytest.fail(f"{place}: {asked}: neither query_result nor label_values")


def _rules() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((ROOT / "grafana/rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path.stem, rule


DASHBOARDS = list(_dashboard_queries())
RECORDED = {rule["record"]: rule["expr"] for _, rule in _rules() if "record" in rule}
RULES = [
    Query(f"{stem}/{rule.get('record') or rule['alert']}", rule["expr"]) for stem, rule in _rules()
]
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
    "query", [*DASHBOARDS, *COOKBOOK, *RULES], ids=lambda query: query.place
)


@pytest.fixture(scope="module")
def scrape() -> Iterator[tuple[str, float]]:
    """Start the demo and return what it serves once runs have finished, and when it did."""
    port, simulator = _free_ports(2)
    command = [
        *(sys.executable, "exporter.py", "demo"),
        *("--web.listen-address", f"127.0.0.1:{port}"),
        *("--simulator.listen-address", f"127.0.0.1:{simulator}"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as demo:
        try:
            yield _wait_for_runs(demo, f"http://127.0.0.1:{port}/metrics")
        finally:
            demo.terminate()


def _wait_for_runs(demo: subprocess.Popen[bytes], url: str) -> tuple[str, float]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        assert demo.poll() is None, "the demo ended by itself"
        try:
            text = httpx.get(url, headers={"Accept": "text/plain"}).text
        except httpx.TransportError:
            text = ""
        statuses = {
            sample.labels["status"]
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == FINISHED_RUNS and sample.value > 0
        }
        steps = re.search(r"^invent_step_credits_total\{.*\} [1-9]", text, re.MULTILINE)
        has_open = "invent_runs_open_oldest_timestamp_seconds{" in text
        if steps and has_open and {"COMPLETED", "FAILED"} <= statuses:
            return text, time.time()
        time.sleep(0.5)
    pytest.fail("the demo finished no run in time")


@pytest.fixture(scope="module")
def prometheus(
    scrape: tuple[str, float], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, int]]:
    """Start Prometheus on a history of the demo; with the time at which the history ends."""
    require("prometheus"), require("promtool")
    folder = tmp_path_factory.mktemp("prometheus")
    text, taken = scrape
    # On a full half hour, so that the steps of subqueries meet samples.
    end = int(taken) // 1800 * 1800
    past.import_samples(folder, write_history(text, taken, end))
    past.record(folder, end - DAY, end - DENSE_SECONDS, SPARSE_STEP)
    past.record(folder, end - DENSE_SECONDS, end, DENSE_STEP)
    with (
        past.prometheus(folder) as url,
        httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as client,
    ):
        yield client, end


def _ask(prometheus: tuple[httpx.Client, int], query: Query) -> list[dict[str, Any]]:
    client, end = prometheus
    if query.instant:
        path, data = "/api/v1/query", {"query": query.expr, "time": str(end)}
    else:
        path = "/api/v1/query_range"
        times = {"start": str(end - 3600), "end": str(end), "step": "60"}
        data = {"query": query.expr, **times}
    answer = client.post(path, data=data).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@pytest.mark.system
@pytest.mark.parametrize("query", DASHBOARDS, ids=lambda query: query.place)
def test_queries_of_dashboards_return_data_in_the_demo(
    prometheus: tuple[httpx.Client, int], query: Query
) -> None:
    """A panel that stays empty hides whether it works."""
    found = _ask(prometheus, query)
    values = [
        float(value)
        for series in found
        for _, value in series.get("values") or [series.get("value")]
    ]
    if query.place not in EMPTY_IN_THE_DEMO:
        assert any(not math.isnan(value) for value in values)
    assert all(math.isnan(value) or value >= 0 for value in values), "nothing shown is below 0"


@pytest.mark.system
@pytest.mark.parametrize("query", COOKBOOK, ids=lambda query: query.place)
def test_queries_of_the_cookbook_have_an_answer(
    prometheus: tuple[httpx.Client, int], query: Query
) -> None:
    """As they stand there, with nothing filled in."""
    found = [float(series["value"][1]) for series in _ask(prometheus, query)]
    assert any(not math.isnan(value) for value in found), query.expr


@pytest.mark.system
@pytest.mark.parametrize("query", RULES, ids=lambda query: query.place)
def test_rules_run(prometheus: tuple[httpx.Client, int], query: Query) -> None:
    """Joins find one partner each."""
    _ask(prometheus, replace(query, instant=True))


@pytest.mark.system
@queries
def test_names_are_declared(scrape: tuple[str, float], query: Query) -> None:
    """Every metric and label that a query names is one that the exporter serves."""
    declared = _declared(scrape[0])
    labels = set().union(*declared.values()) | TARGET_LABELS | OF_ALERTS | {"le"}
    for selector in selectors(query.expr):
        if ":" in selector.metric:
            assert selector.metric in RECORDED
            continue
        if selector.metric in ALERTS:
            continue
        assert selector.metric in declared, selector.metric
        assert selector.labels <= declared[selector.metric] | TARGET_LABELS, selector
    assert grouping_labels(query.expr) <= labels


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


def _declared(scrape: str) -> dict[str, set[str]]:
    declared = {name: set(labels) for name, labels in NOT_IN_THE_DEMO.items()}
    declared |= {name: set() for name in OF_PROMETHEUS}
    for family in FAMILIES:
        for suffix in ("_total", "_info", "_bucket", "_sum", "_count", ""):
            declared.setdefault(family.name + suffix, set()).update(family.labels)
    for found in text_string_to_metric_families(scrape):
        for sample in found.samples:
            declared.setdefault(sample.name, set()).update(sample.labels)
    return declared


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
