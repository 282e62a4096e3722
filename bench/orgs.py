"""Measure what each org costs, from 1 to 1,000 of them in one process.

Each org has 5 workflows and pages of its own. 1,000 orgs are polled every 30 s, fewer more often,
so that there are enough polls to measure. First nothing happens; then each poll of each org finds a
run that ended; then the same while /metrics is scraped, in turn with a server that answers the same
bytes as a constant. CPU is the exporter's process alone; its floor is a process that makes the same
requests with httpx, decodes them with msgspec, and does nothing else. It makes them as often: a
request each 30 ms costs twice of what one costs among others without a pause.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.client import Client, request, samples_in
from bench.constant import ConstantServer
from bench.exporter import ROOT, Exporter
from bench.pages import PageServer
from bench.table import Row, Size, mib, ms, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKFLOWS = 5
_RUNS, _RUN_BYTES = 30, 1_000
_INTERVAL_SECONDS = 30
_REQUESTS_PER_MINUTE = 4000
"""Enough for 1,000 polls in 30 s and the reconciliations."""
_FLOOR_REQUESTS = 600


@dataclass(frozen=True)
class _Cost:
    """What was seen of so many orgs."""

    orgs: int
    polls_per_second: float
    idle_share: float
    busy_share: float
    floor_share: float
    rss_bytes: float
    samples: int
    body_bytes: int
    scrape_seconds: list[float]
    constant_seconds: list[float]
    start_seconds: float


def rows(size: Size) -> list[Row]:
    """Measure."""
    costs = [_measure(orgs, size) for orgs in ((1, 10) if size.is_small else (1, 10, 100, 1000))]
    return [row for cost in costs for row in _rows(cost, size)]


def _measure(orgs: int, size: Size) -> _Cost:
    interval = max(1.0, _INTERVAL_SECONDS * orgs / 1000)
    seconds = size.of(60, 5)
    with (
        PageServer(run_bytes=_RUN_BYTES, workflows=WORKFLOWS, runs=_RUNS, orgs=orgs) as pages,
        Exporter(
            pages.url,
            orgs=orgs,
            poll_interval=f"{interval:.0f}s",
            requests_per_minute=_REQUESTS_PER_MINUTE,
            reconcile_interval="15m",
        ) as exporter,
    ):
        exporter.wait_for("invent_up", orgs, every_seconds=max(1.0, orgs / 200))
        started = time.perf_counter() - exporter.began
        time.sleep(2 * interval)
        idle, polls = _share(exporter, pages, seconds)
        pages.ask("each-poll/1")
        time.sleep(2 * interval)
        busy, _ = _share(exporter, pages, seconds)
        rss = exporter.rss_bytes()
        with exporter.client() as client:
            samples = samples_in(client.text())
            _, body = client.body(request())
            scrapes, constant = [], []
            with ConstantServer(body) as server, Client(server.port) as floor_client:
                for _ in _every(0.25, seconds):
                    scrapes.append(client.get(request())[0])
                    constant.append(floor_client.get(request())[0])
        floor = _floor(pages.url, orgs, polls) * polls
    return _Cost(
        orgs, polls, idle, busy, floor, rss, samples, len(body), scrapes, constant, started
    )


def _share(exporter: Exporter, pages: PageServer, seconds: float) -> tuple[float, float]:
    """Return the share of a core, and polls a second."""
    served, cpu, began = int(pages.ask("served")), exporter.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    share = (exporter.cpu_seconds() - cpu) / took
    return share, (int(pages.ask("served")) - served) / took


def _every(pause_seconds: float, seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(pause_seconds)
        yield


def _rows(cost: _Cost, size: Size) -> list[Row]:
    of = f"{cost.orgs:,} orgs of {WORKFLOWS} workflows, {cost.polls_per_second:.1f} polls a second"
    beside = cost.busy_share - cost.floor_share
    p99 = percentile(cost.scrape_seconds, 99)
    constant = percentile(cost.constant_seconds, 99)
    per_poll = 1000 / cost.polls_per_second
    return [
        Row(
            f"{of}: CPU, nothing happens",
            f"{cost.idle_share:.1%} of a core",
            f"requests alone: {cost.floor_share:.1%}",
            f"{cost.idle_share * per_poll:.1f} ms a poll",
            "",
            is_met=True,
        ),
        Row(
            f"{of}: CPU, each poll finds a run that ended",
            f"{cost.busy_share:.1%} of a core",
            f"requests alone: {cost.floor_share:.1%}",
            f"{cost.busy_share * per_poll:.1f} ms a poll",
            "at most 25% beside the requests",
            beside <= 0.25 or size.is_small,
        ),
        Row(
            f"{of}: resident memory",
            mib(cost.rss_bytes),
            "",
            f"{cost.rss_bytes / 2**10 / cost.orgs:,.0f} KiB an org",
            "at most 300 MiB",
            cost.rss_bytes <= 300 * 2**20,
        ),
        Row(
            f"{of}: scrapes meanwhile, {cost.samples:,} samples, {cost.body_bytes:,} bytes",
            f"p99 {ms(p99)}, median {ms(cost.scrape_seconds)}",
            f"ASGI constant: p99 {ms(constant)}, median {ms(cost.constant_seconds)}",
            f"{cost.body_bytes / cost.orgs:,.0f} bytes an org",
            "p99 within 50 ms over the constant's",
            p99 <= constant + 0.050 or size.is_small,
        ),
        Row(
            f"{of}: from the start to the last org's first contact",
            f"{cost.start_seconds:.1f} s",
            "",
            f"{cost.start_seconds * 1000 / cost.orgs:,.0f} ms an org",
            "",
            is_met=True,
        ),
    ]


def _floor(url: str, orgs: int, per_second: float) -> float:
    """Ask and decode in a fresh process; return its CPU seconds for each request."""
    command = [sys.executable, "-m", "bench.orgs", url, str(orgs), str(per_second)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output)


async def _ask(url: str, orgs: int, per_second: float) -> None:
    import httpx  # noqa: PLC0415 (the process that measures does not need it)
    import msgspec  # noqa: PLC0415

    from invent_exporter.api.models import Run  # noqa: PLC0415

    decoder = msgspec.json.Decoder(list[Run], strict=False)
    params = {"expand": "false", "origin": "ALL", "status": "ALL", "page": "1", "take": "100"}
    async with httpx.AsyncClient(trust_env=False) as client:
        cpu, began = time.process_time(), time.monotonic()
        for number in range(_FLOOR_REQUESTS):
            await asyncio.sleep(began + number / per_second - time.monotonic())
            path = f"/orgs/org-{number % orgs}/workflows/runs"
            decoder.decode((await client.get(url + path, params=params)).content)
        print((time.process_time() - cpu) / _FLOOR_REQUESTS)


if __name__ == "__main__":
    asyncio.run(_ask(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
