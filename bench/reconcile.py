"""Measure how much of the request budget the reconciliation of a busy org takes.

An org with 200,000 runs in the window, looked back on without end: the next reconciliation is due
when one is done. The budget is made ten times the default so that a minute is enough to measure.
"""

from __future__ import annotations

import time

from bench.exporter import Exporter
from bench.pages import PageServer
from bench.table import Row, Size

_REQUESTS_PER_MINUTE = 3000
_SHARE = 0.2


def rows(size: Size) -> list[Row]:
    """Measure."""
    runs = size.of(200_000, 20_000)
    seconds = size.of(60, 10)
    with (
        PageServer(run_bytes=20, workflows=50, runs=runs) as pages,
        Exporter(
            pages.url,
            poll_interval="1s",
            requests_per_minute=_REQUESTS_PER_MINUTE,
            reconcile_interval="1s",
        ) as exporter,
    ):
        exporter.wait_for("invent_up", 1, every_seconds=2)
        # A first contact is a complete look back; the allowance that was saved up goes first.
        time.sleep(size.of(70, 15))
        deep, began = int(pages.ask("served")), time.monotonic()
        time.sleep(seconds)
        taken = time.monotonic() - began
        deep = int(pages.ask("served")) - deep
        polls = round(taken)
        with exporter.client() as client:
            last = client.sum_of("invent_reconcile_last_success_timestamp_seconds")
    share = (deep - polls) / (_REQUESTS_PER_MINUTE * taken / 60)
    lag = None if last is None else time.time() - last
    return [
        Row(
            f"reconciling {runs:,} runs without end: share of the request budget",
            f"{share:.1%} ({deep} requests, {polls} of them polls)",
            f"budget: {_REQUESTS_PER_MINUTE} a minute",
            "",
            "at most 20%, lag in a metric",
            share <= _SHARE * 1.02 and lag is not None,
        ),
        Row(
            "the same: age of the last whole look back, as the metric says",
            "no metric" if lag is None else f"{lag:.0f} s",
            f"{runs // 100:,} pages at 20% of the budget: "
            f"{runs / 100 / (_REQUESTS_PER_MINUTE * _SHARE) * 60:.0f} s",
            "",
            "shown",
            lag is not None,
        ),
    ]
