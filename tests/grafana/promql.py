"""What a PromQL query selects, and by which labels it groups and joins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selector:
    """A metric with the labels that are matched."""

    metric: str
    labels: frozenset[str]


def nodes(expr: Any) -> Iterator[Any]:  # noqa: ANN401 (each kind of node is a class of its own)
    """Walk a parsed query."""
    for node, _ in parents(expr):
        yield node


def parents(expr: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:  # noqa: ANN401 (see nodes)
    """Walk a parsed query; with each node come those that it is part of, the outermost first."""
    yield expr, above
    children = [getattr(expr, name) for name in ("lhs", "rhs", "expr") if hasattr(expr, name)]
    if hasattr(expr, "vector_selector"):
        children.append(expr.vector_selector)
    for child in (*children, *getattr(expr, "args", ())):
        yield from parents(child, (*above, expr))


def selectors(query: str) -> set[Selector]:
    """Return what the query reads."""
    return {
        Selector(node.name or "", frozenset(matcher.name for matcher in node.matchers.matchers))
        for node in nodes(promql_parser.parse(query))
        if isinstance(node, promql_parser.VectorSelector)
    }


def grouping_labels(query: str) -> set[str]:
    """Return the labels after `by`, `on` and `group_left`."""
    found: set[str] = set()
    for node in nodes(promql_parser.parse(query)):
        modifier = getattr(node, "modifier", None)
        if modifier is None:
            continue
        if isinstance(node, promql_parser.AggregateExpr):
            found.update(modifier.labels)
        else:
            found.update(modifier.matching.labels if modifier.matching else ())
            found.update(modifier.group_labels or ())
    return found


def aggregations(query: str) -> list[set[str]]:
    """Return the labels that each aggregation keeps."""
    return [
        set(node.modifier.labels) if node.modifier else set()
        for node in nodes(promql_parser.parse(query))
        if isinstance(node, promql_parser.AggregateExpr)
    ]


def bare_counters(query: str) -> set[str]:
    """Return counters that are read without rate or increase: their value alone says nothing.

    `group` reads no value, it asks which series there are; what is greater than it was a moment ago
    is asked for its growth, and the newest sample less the one of a step ago is that growth.
    """
    return set(_bare_counters(promql_parser.parse(query)))


def _is_growth(expr: Any) -> bool:  # noqa: ANN401 (see nodes)
    if not isinstance(expr, promql_parser.BinaryExpr):
        return False
    after, before = str(expr.lhs), str(expr.rhs)
    if str(expr.op) == ">" and after == re.sub(r" offset \w+", "", before) != before:
        return True
    functions = set(re.findall(r"(\w+)\(", after + before))
    return (
        str(expr.op) in {"-", ">"}
        and " offset " in before
        and functions <= {"last_over_time", "min_over_time"}
        and bool(functions)
        and selectors(after) == selectors(before)
    )


def _bare_counters(expr: Any) -> Iterator[str]:  # noqa: ANN401 (each kind of node is a class of its own)
    if isinstance(expr, promql_parser.AggregateExpr) and str(expr.op) == "group":
        return
    if _is_growth(expr):
        return
    if isinstance(expr, promql_parser.Call) and expr.func.name.endswith("_over_time"):
        yield from _bare_counters(getattr(expr.args[0], "vector_selector", expr.args[0]))
        return
    if isinstance(expr, promql_parser.VectorSelector):
        suffixes = ("_total", "_bucket", "_count", "_sum")
        name = expr.name or ""
        if name.endswith(suffixes) and ":" not in name:
            yield name
        return
    for name in ("lhs", "rhs", "expr"):
        if hasattr(expr, name):
            yield from _bare_counters(getattr(expr, name))
    for argument in getattr(expr, "args", ()):
        yield from _bare_counters(argument)
