"""A scraper that remembers, and says so when what it is served can't be true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LINE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
COUNTERS = re.compile(
    r"^invent_(runs_(finished|submitted|recovered|vanished|revised|invalid)_total|credits_total"
    r"|credit_corrections_total|step_credits_total|run_[a-z_]+_(bucket|count|sum))(\{|$)"
)
BORN_AT_ZERO = re.compile(
    r"^invent_(runs_(finished|submitted)_total|credits_total|step_credits_total"
    r"|run_[a-z_]+_(count|sum))\{"
)
"""Series of runs and credits, whose first event must be seen. A bucket follows its count."""


def samples(body: bytes) -> Iterator[tuple[str, float]]:
    """Read a text body as (series, value)."""
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            yield series, float(value)


def labels_of(series: str) -> tuple[str, dict[str, str]]:
    """Take a series apart into its name and labels."""
    name, _, labels = series.partition("{")
    return name, dict(LABEL.findall(labels))


@dataclass
class Scraper:
    """Watches every body that could have been served, and those that were."""

    values: dict[str, float] = field(default_factory=dict)
    first_at_zero: dict[str, float] = field(default_factory=dict)
    scraped_at_zero: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    last: dict[str, float] = field(default_factory=dict)

    def watch(self, body: bytes, now: float, hold_seconds: float) -> None:
        """Look at a body that could have been served at `now`."""
        served = dict(samples(body))
        for series, value in served.items():
            if not COUNTERS.match(series):
                continue
            before = self.values.get(series, 0.0)
            assert value >= before, f"{series} went back from {before} to {value}"
            if BORN_AT_ZERO.match(series):
                self._check_birth(series, value, now, hold_seconds)
        # A bound that was taken out of the configuration may come back with less.
        gone = [series for series in self.values if series not in served]
        for series in gone:
            assert "_bucket{" in series or not served, f"{series} is not served any more"
            del self.values[series]
        self.values.update((k, v) for k, v in served.items() if COUNTERS.match(k))
        self.last = served

    def scraped(self, body: bytes) -> None:
        """Note that a body that was watched came through whole."""
        for series, value in samples(body):
            if value == 0 and BORN_AT_ZERO.match(series):
                self.scraped_at_zero.add(series)

    def _check_birth(self, series: str, value: float, now: float, hold_seconds: float) -> None:
        if series in self.shown:
            return
        if value == 0:
            self.first_at_zero.setdefault(series, now)
            return
        assert series in self.scraped_at_zero, f"{series} is {value} and was never scraped at 0"
        held = now - self.first_at_zero[series]
        assert held >= hold_seconds, f"{series} was held at 0 for {held} s, not {hold_seconds} s"
        self.shown.add(series)
