"""The rows that benchmarks print, and the statistics in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Row:
    """One answer: what was measured, against what, and whether the target is met."""

    question: str
    measured: str
    against: str
    ratio: str
    target: str
    is_met: bool


@dataclass(frozen=True)
class Size:
    """How much is measured: `small` sizes only show that the benchmark works."""

    is_small: bool

    def of(self, full: int, small: int) -> int:
        """Choose."""
        return small if self.is_small else full


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many percent of the values are not above."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def ms(seconds: float | Sequence[float]) -> str:
    """Show milliseconds; of several values the median."""
    value = seconds if isinstance(seconds, (int, float)) else median(seconds)
    return f"{value * 1000:.3g} ms"


def mib(size_bytes: float) -> str:
    """Show a size."""
    return f"{size_bytes / 2**20:.1f} MiB"


def show(rows: Iterable[Row]) -> None:
    """Print the table."""
    table = Table(box=box.ASCII2, show_lines=True)
    for header in ("question", "measured", "against", "ratio", "target", "met"):
        table.add_column(header, overflow="fold")
    for row in rows:
        met = "yes" if row.is_met else "NO"
        table.add_row(row.question, row.measured, row.against, row.ratio, row.target, met)
    Console(width=160, highlight=False, soft_wrap=False).print(table)
