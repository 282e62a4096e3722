"""Measure how long a run that has ended takes to show in /metrics, at 100 runs a second.

Runs are put into the listing at an even pace while a scraper looks on. Runs are committed and
published in the order of the listing, so the nth to show is the nth that was added.
"""

from __future__ import annotations

import threading
import time
from statistics import median

from bench.exporter import Exporter
from bench.pages import PageServer
from bench.table import Row, Size, percentile

_RUNS_PER_SECOND = 100
_RUNS_AT_ONCE = 10
_POLL_INTERVAL_SECONDS = 5.0
_LOOK_SECONDS = 0.1
"""Between two scrapes; a run shows up to so long later than it could have."""


def rows(size: Size) -> list[Row]:
    """Measure."""
    seconds = size.of(60, 10)
    added: list[float] = []
    with (
        PageServer(run_bytes=20_000, workflows=50, runs=200) as pages,
        Exporter(pages.url, poll_interval=f"{_POLL_INTERVAL_SECONDS:.0f}s") as exporter,
        exporter.client() as client,
    ):
        exporter.wait_for("invent_up", 1)

        def add() -> None:
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                pages.ask(f"add/{_RUNS_AT_ONCE}")
                added.extend([now] * _RUNS_AT_ONCE)
                due = began + len(added) / _RUNS_PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))

        adding = threading.Thread(target=add)
        adding.start()
        delays: list[float] = []
        poll_seconds = 0.0
        deadline = time.monotonic() + seconds + 60
        while adding.is_alive() or len(delays) < len(added):
            shown = int(client.sum_of("invent_runs_finished_total") or 0)
            now = time.monotonic()
            delays += [now - moment for moment in added[len(delays) : shown]]
            poll_seconds = max(poll_seconds, client.sum_of("invent_poll_duration_seconds") or 0)
            if now > deadline:
                raise RuntimeError(f"{len(added) - len(delays)} runs did not show")
            time.sleep(_LOOK_SECONDS)
    worst = max(delays)
    # Each scrape of this bench comes after the one before, so it adds its own duration too.
    allowed = _POLL_INTERVAL_SECONDS + poll_seconds + 3 * _LOOK_SECONDS
    return [
        Row(
            f"from the end of a run to /metrics, {_RUNS_PER_SECOND} runs a second, "
            f"{len(delays):,} runs",
            f"p50 {median(delays):.2f} s, p95 {percentile(delays, 95):.2f} s, "
            f"p99 {percentile(delays, 99):.2f} s, worst {worst:.2f} s",
            f"poll interval {_POLL_INTERVAL_SECONDS:.0f} s, longest poll {poll_seconds:.2f} s",
            f"{worst / _POLL_INTERVAL_SECONDS:.2f} intervals",
            "one interval and the fetching",
            worst <= allowed,
        )
    ]
