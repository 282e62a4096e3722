"""What a real Prometheus stored, series by series beside the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.process.expected import DURABLE, expected_of
from tests.process.harness import Labels, Samples

if TYPE_CHECKING:
    from invent_exporter.simulator import Truth
    from tests.deploy.processes import Server

_TARGET_LABELS: Final = ("__name__", "instance", "job")


@dataclass(frozen=True)
class Line:
    """What Prometheus says of one series beside the truth."""

    name: str
    labels: Labels
    truth: float
    raw: float
    increase: float
    first: float
    samples: int
    stretch: float
    """How much extrapolation may add at most, as a share."""

    @property
    def is_exact(self) -> bool:
        """The raw increments sum up to the truth, from a 0 on."""
        return self.first == 0 and math.isclose(self.raw, self.truth, rel_tol=1e-9, abs_tol=1e-6)

    @property
    def is_explained(self) -> bool:
        """`increase()` is the truth, or more by what extrapolation adds."""
        slack = 1e-6 + self.truth * 1e-9
        return self.truth - slack <= self.increase <= self.truth * (1 + self.stretch) + slack


def compare(
    prometheus: Stored, truth: Truth, window: int, names: Sequence[str] = DURABLE
) -> Iterator[Line]:
    """Yield a line for each series of these names that is stored in a window, or should be."""
    expected = expected_of(truth)
    for name in names:
        increases = prometheus.samples(f"increase({name}[{window}s])", name)
        stored = prometheus.points(name, window)
        for labels, points in stored.items():
            values = [value for _, value in points]
            steps = pairwise(values)
            # As Prometheus takes it: a value that falls begins anew from 0.
            raw = sum(after - before if after >= before else after for before, after in steps)
            covered = points[-1][0] - points[0][0]
            # It extends to each side by no more than 1.1 mean intervals.
            stretch = 2.2 * (covered / (len(points) - 1)) / covered if covered else math.inf
            yield Line(
                name,
                labels,
                expected.get((name, labels), 0.0),
                raw,
                increases.get((name, labels), 0.0),
                values[0] if (name, labels) in expected else 0.0,
                len(points),
                stretch,
            )
        for missing, labels in expected:
            if missing == name and labels not in stored:
                yield Line(name, labels, expected[name, labels], 0.0, 0.0, 0.0, 0, 0.0)


class Stored:
    """The queries that are asked."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.at: float | None = None
        """The moment that is asked for; None: now."""

    def query(self, query: str) -> list[dict[str, object]]:
        """Ask for an instant vector, or a range of raw samples."""
        moment = {} if self.at is None else {"time": f"{self.at:.3f}"}
        found: list[dict[str, object]] = self._server.data("/api/v1/query", query=query, **moment)[
            "result"
        ]
        return found

    def samples(self, query: str, name: str) -> Samples:
        """Return an instant vector as samples."""
        samples = Samples()
        for series in self.query(query):
            value = series["value"]
            assert isinstance(value, list)
            samples[name, _labels(series)] = float(value[1])
        return samples

    def points(self, name: str, window: int) -> dict[Labels, list[tuple[float, float]]]:
        """Return all raw samples of a metric."""
        points = {}
        for series in self.query(f"{name}[{window}s]"):
            values = series["values"]
            assert isinstance(values, list)
            points[_labels(series)] = [(float(at), float(value)) for at, value in values]
        return points

    def holds(self, expected: dict[tuple[str, Labels], float]) -> bool:
        """Tell whether the newest stored values are the expected ones."""
        return not self.missing(expected)

    def missing(self, expected: dict[tuple[str, Labels], float]) -> list[str]:
        """List the series whose newest stored values are not the expected ones."""
        stored = Samples()
        for name in DURABLE:
            stored |= self.samples(name, name)
        return [
            f"{name}{sorted(labels)}: stored {stored.get((name, labels))}, true {value}"
            for (name, labels), value in expected.items()
            if name in DURABLE
            and not math.isclose(
                stored.get((name, labels), -1.0), value, rel_tol=1e-9, abs_tol=1e-6
            )
        ]


def _labels(series: dict[str, object]) -> Labels:
    metric = series["metric"]
    assert isinstance(metric, dict)
    return frozenset((key, value) for key, value in metric.items() if key not in _TARGET_LABELS)
