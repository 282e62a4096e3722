"""Measure how much memory a first contact with 50,000 runs of 20 KB takes.

The idle process that it is compared with is an exporter that has met a few runs of the same
workflows.
"""

from __future__ import annotations

import time

from bench.catch_up import RUN_BYTES
from bench.exporter import Exporter
from bench.pages import PageServer
from bench.table import Row, Size, mib

_WORKFLOWS = 50


def rows(size: Size) -> list[Row]:
    """Measure."""
    runs = size.of(50_000, 2_000)
    idle = _met(100, seconds=5)[0]
    after, peak, seconds = _met(runs, seconds=0)
    return [
        Row(
            f"first contact with {runs:,} runs of 20 KB: peak of the resident memory",
            f"+{mib(peak - idle)} ({mib(after - idle)} stay; {seconds:.1f} s)",
            f"idle after a contact with 100 runs: {mib(idle)}",
            "",
            "at most +20 MiB",
            peak - idle <= 20 * 2**20,
        )
    ]


def _met(runs: int, *, seconds: float) -> tuple[int, int, float]:
    """Return the memory after a first contact with so many runs, its peak, and how long it took."""
    with (
        PageServer(run_bytes=RUN_BYTES - 500, workflows=_WORKFLOWS, runs=runs) as pages,
        Exporter(pages.url, poll_interval="2s") as exporter,
    ):
        exporter.wait_for("invent_up", 1)
        taken = time.perf_counter() - exporter.began
        time.sleep(seconds)
        return exporter.rss_bytes(), exporter.peak_rss_bytes(), taken
