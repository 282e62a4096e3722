"""Measure scrapes while polls are committed and encoded as often as the exporter lets them.

Each poll finds 100 new runs of 20 KB, spread over all workflows, and the next poll begins when the
news of the last are published, whose rest keeps scrapes quick. The scrapes of one connection come
one after the other meanwhile.
"""

from __future__ import annotations

import time
from statistics import median

from bench.client import request, samples_in
from bench.exporter import Exporter
from bench.pages import PageServer
from bench.scrape import WORKFLOWS
from bench.table import Row, Size, ms, percentile

_PAUSE_SECONDS = 0.02
"""Between two scrapes: without, the scraper itself would hold one of two cores."""


def rows(size: Size) -> list[Row]:
    """Measure."""
    workflows = size.of(WORKFLOWS, 50)
    with (
        PageServer(run_bytes=20_000, workflows=workflows, runs=workflows) as pages,
        Exporter(pages.url, poll_interval="100ms") as exporter,
    ):
        exporter.wait_for("invent_up", 1)
        pages.ask(f"add/{size.of(5000, 500)}")
        exporter.wait_for("invent_runs_finished_total", size.of(5000, 500))
        with exporter.client() as client:
            samples = samples_in(client.text())
            quiet = [client.get(request())[0] for _ in range(200)]
            before = client.sum_of("invent_runs_finished_total") or 0
            pages.ask("each-poll/100")
            began = time.monotonic()
            times = []
            for _ in range(size.of(1000, 100)):
                times.append(client.get(request())[0])
                time.sleep(_PAUSE_SECONDS)
            seconds = time.monotonic() - began
            pages.ask("each-poll/0")
            polled = (client.sum_of("invent_runs_finished_total") or 0) - before
    p99, worst = percentile(times, 99), max(times)
    return [
        Row(
            f"scrapes of {samples:,} samples while {polled / seconds:.0f} runs a second are "
            f"committed and encoded ({len(times):,} scrapes)",
            f"p99 {ms(p99)}, worst {ms(worst)}, median {ms(times)}",
            f"nothing happens: {ms(quiet)}",
            f"{median(times) / median(quiet):.1f}x (medians)",
            "p99 under 50 ms, worst under 150 ms",
            p99 < 0.050 and worst < 0.150,
        )
    ]
