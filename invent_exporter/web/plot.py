"""Small plots of an org's last hours, as rectangles: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from invent_exporter.ledger.counts import KEPT_HOURS

if TYPE_CHECKING:
    from invent_exporter.collector.status import Hour

HEIGHT, COLUMN_WIDTH = 60.0, 10
WIDTH = KEPT_HOURS * COLUMN_WIDTH
_STATUSES = ("FAILED", "CANCELED", "SKIPPED", "COMPLETED", "UNKNOWN")
"""From the bottom of a column up."""


class Bar(NamedTuple):
    """A part of a column; `x` and `y` are from the left upper corner."""

    x: int
    y: float
    height: float
    kind: str
    meaning: str


def bars(hours: Sequence[Hour], now: float, *, of_credits: bool = False) -> list[Bar]:
    """Draw runs by status, or credits: a column for each hour, the highest as high as the plot."""
    first = int(now // 3600) - KEPT_HOURS + 1
    highest = most(hours, of_credits=of_credits)
    drawn: list[Bar] = []
    for hour in hours:
        x = (int(hour.begin_timestamp_seconds // 3600) - first) * COLUMN_WIDTH
        begin, top = datetime.fromtimestamp(hour.begin_timestamp_seconds, UTC), HEIGHT
        for kind, value in _parts(hour, of_credits=of_credits).items():
            height = HEIGHT * value / highest
            top -= height
            meaning = f"{begin:%H:%M} UTC: {value:g} {kind}"
            drawn.append(Bar(x, round(top, 2), round(height, 2), kind, meaning))
    return drawn


def most(hours: Iterable[Hour], *, of_credits: bool = False) -> float:
    """Tell what the highest column stands for."""
    return max((sum(_parts(hour, of_credits=of_credits).values()) for hour in hours), default=0.0)


def _parts(hour: Hour, *, of_credits: bool) -> dict[str, float]:
    parts = {status: float(hour.finished.get(status, 0)) for status in _STATUSES}
    if of_credits:
        parts = {"credits": hour.credits}
    return {kind: value for kind, value in parts.items() if value > 0}
