"""Hold the rules of pint, a linter of Prometheus rules, by the names that it gives its checks.

The program itself comes from no package registry, so its checks are written down here
(https://cloudflare.github.io/pint/checks/). Some of them are held elsewhere: a real Prometheus runs
every query (promql/syntax, promql/vector_matching), promtool sees every alert fire
(promql/impossible), and names are compared with what the code declares (promql/series).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import promql_parser
import pytest

from tests.grafana.promql import nodes, parents, selectors
from tests.grafana.sources import (
    ALERTS,
    BOARDS,
    PROMTOOL_TESTS,
    RECORDED,
    RULES,
    family_name,
    family_types,
    name_of,
)

RETENTION = timedelta(days=15)
"""What Prometheus keeps when nobody says otherwise."""
FIVE_SCRAPES = timedelta(minutes=5)
OF_COUNTERS = {"rate", "irate", "increase"}
OF_GAUGES = {"delta", "idelta", "deriv", "predict_linear"}
COMPARISONS = {">", "<", ">=", "<=", "==", "!="}


rules = pytest.mark.parametrize("rule", RULES, ids=name_of)
alerts = pytest.mark.parametrize("rule", ALERTS, ids=name_of)


def _parsed(rule: dict[str, Any]) -> Any:  # noqa: ANN401 (each kind of node is a class of its own)
    return promql_parser.parse(rule["expr"])


def test_no_rule_is_there_twice() -> None:
    """rule/duplicate: two rules of one name overwrite or contradict each other."""
    assert [name for name, count in Counter(map(name_of, RULES)).items() if count > 1] == []


def test_each_recorded_series_is_read() -> None:
    """rule/dependency: what nobody reads costs all the same."""
    read = {found.metric for rule in RULES for found in selectors(rule["expr"])}
    assert {name for name in RECORDED if f"{name}{{" not in str(BOARDS)} <= read


@alerts
def test_an_alert_compares_or_asks_what_is_missing(rule: dict[str, Any]) -> None:
    """alerts/comparison: without a condition it fires as soon as the series exists."""
    found = {str(node.op) for node in nodes(_parsed(rule)) if hasattr(node, "op")}
    absent = "absent(" in rule["expr"] or " unless " in rule["expr"].replace("\n", " ")
    assert found & COMPARISONS or absent
    assert " bool " not in rule["expr"]


@alerts
def test_an_alert_does_not_sample(rule: dict[str, Any]) -> None:
    """promql/fragile: what topk picks changes from one evaluation to the next.

    Its other half is about sums over targets that are not scraped at once. All that is said of an
    org comes from one exporter, in one scrape.
    """
    found = {str(node.op) for node in nodes(_parsed(rule)) if hasattr(node, "op")}
    assert not found & {"topk", "bottomk", "limitk", "limit_ratio"}


@rules
def test_rates_are_of_counters_and_slopes_of_gauges(rule: dict[str, Any]) -> None:
    """promql/rate and promql/counter: a rate takes the fall of a gauge for a reset."""
    types = family_types()
    for node, above in parents(_parsed(rule)):
        if not isinstance(node, promql_parser.MatrixSelector):
            continue
        name, function = node.vector_selector.name or "", above[-1].func.name
        if ":" in name:
            # But for sums of counters that fall together or not at all.
            is_sum = re.search(r"(_total|_bucket):sum$", name)
            assert is_sum or function not in OF_COUNTERS, "what was recorded is a gauge"
            continue
        kind = types[family_name(name)]
        if function in OF_COUNTERS:
            assert kind in {"counter", "histogram"}, name
            assert node.range >= FIVE_SCRAPES, "shorter than five scrapes a minute apart"
        elif function in OF_GAUGES:
            assert kind == "gauge", name


@rules
def test_no_query_looks_back_beyond_the_usual_retention(rule: dict[str, Any]) -> None:
    """promql/range_query: what is gone can't be asked."""
    for node in nodes(_parsed(rule)):
        if isinstance(node, promql_parser.MatrixSelector):
            assert node.range + _offset(node.vector_selector) <= RETENTION


def _offset(selector: Any) -> timedelta:  # noqa: ANN401 (the parser's)
    return selector.offset or timedelta()


@rules
def test_regular_expressions_are_needed(rule: dict[str, Any]) -> None:
    """promql/regexp: `=~` with a plain text is `=`, and it is anchored by itself."""
    for node in nodes(_parsed(rule)):
        for matcher in getattr(getattr(node, "matchers", None), "matchers", ()):
            if str(matcher.op) in {"MatchOp.Re", "MatchOp.NotRe", "=~", "!~"}:
                assert re.search(r"[.|*+?\[({\\]", matcher.value), matcher.value
                assert not re.search(r"^\^|\$$", matcher.value), matcher.value


@rules
def test_what_is_recorded_is_not_computed_again(rule: dict[str, Any]) -> None:
    """promql/performance: the recorded series is there, and says the same everywhere."""
    mine = list(map(str, nodes(_parsed(rule))))
    for name, expr in RECORDED.items():
        if name != rule.get("record"):
            assert str(promql_parser.parse(expr)) not in mine, name


def _fired(alert: str) -> Iterator[dict[str, Any]]:
    for test in (test for tests in PROMTOOL_TESTS.values() for test in tests):
        for case in test["alert_rule_test"]:
            if case["alertname"] == alert:
                yield from case["exp_alerts"]


@alerts
def test_texts_name_labels_that_the_alert_has(rule: dict[str, Any]) -> None:
    """alerts/template: a label that the query drops is an empty word at night."""
    named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    for fired in _fired(rule["alert"]):
        assert named <= set(fired["exp_labels"])
    # The number would make another alert of each evaluation.
    assert "$value" not in str(rule["labels"])
