"""Measure what an exporter costs that has nothing to do.

Memory with 10,000 samples served; CPU with 50 orgs that are polled every 30 s, where nothing
happens and each poll is one page of 200 KB. Prometheus' scrapes are not part of it: they are the
question of `scrape`.
"""

from __future__ import annotations

import time

from bench.client import request, samples_in
from bench.exporter import Exporter
from bench.pages import PageServer
from bench.scrape import filled_exporter
from bench.table import Row, Size, mib

_ORGS = 50


def rows(size: Size) -> list[Row]:
    """Measure."""
    return [_memory(size), _cpu(size)]


def _memory(size: Size) -> Row:
    with filled_exporter(84, size.of(5_000, 500)) as (exporter, _):
        with exporter.client() as client:
            samples = samples_in(client.text())
            for _ in range(20):
                client.get(request())
        time.sleep(2)
        rss = exporter.rss_bytes()
    return Row(
        f"resident memory, idle, {samples:,} samples served",
        mib(rss),
        "",
        "",
        "at most 75 MiB",
        rss <= 75 * 2**20,
    )


def _cpu(size: Size) -> Row:
    seconds = size.of(120, 10)
    with (
        PageServer(run_bytes=1_500, workflows=20, runs=500) as pages,
        Exporter(pages.url, orgs=_ORGS, poll_interval="30s" if seconds > 30 else "2s") as exporter,
    ):
        exporter.wait_for("invent_up", _ORGS)
        time.sleep(seconds / 4)
        served = int(pages.ask("served"))
        cpu, began = exporter.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        share = (exporter.cpu_seconds() - cpu) / (time.monotonic() - began)
        served = int(pages.ask("served")) - served
    return Row(
        f"CPU, idle, {_ORGS} orgs, a poll of 200 KB each 30 s ({served} polls)",
        f"{share:.2%} of a core",
        f"{share * seconds / served * 1000:.1f} ms a poll",
        "",
        "under 1.5%",
        share < 0.015,
    )
