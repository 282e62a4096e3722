"""Measure what it costs to catch up with 50,000 runs of 20 KB that ended meanwhile.

The floor is a process that fetches the same pages with httpx and decodes them with msgspec into
the exporter's own type, and does nothing else. CPU is compared: the page server works beside both.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from bench.exporter import ROOT, Exporter
from bench.pages import PageServer
from bench.table import Row, Size, mib

RUN_BYTES = 20_000
_WORKFLOWS = 50


def rows(size: Size) -> list[Row]:
    """Measure."""
    runs = size.of(50_000, 2_000)
    with (
        PageServer(run_bytes=RUN_BYTES - 500, workflows=_WORKFLOWS, runs=200) as pages,
        Exporter(pages.url, poll_interval="1s") as exporter,
    ):
        exporter.wait_for("invent_up", 1)
        # The second poll has been idle; the scrapes have left the form that is asked for.
        time.sleep(5)
        idle = exporter.rss_bytes()
        exporter.forget_peak()
        cpu = exporter.cpu_seconds()
        served = int(pages.ask("served"))
        pages.ask(f"add/{runs}")
        began = time.monotonic()
        exporter.wait_for("invent_runs_finished_total", runs, every_seconds=1.0)
        seconds = time.monotonic() - began
        cpu = exporter.cpu_seconds() - cpu
        served = int(pages.ask("served")) - served
        peak = exporter.peak_rss_bytes()
        floor_cpu, floor_seconds = _floor(pages.url, runs)
    return [
        Row(
            f"catching up with {runs:,} runs of 20 KB ({served} pages): CPU",
            f"{cpu:.2f} s ({seconds:.1f} s on the clock)",
            f"httpx + msgspec alone: {floor_cpu:.2f} s ({floor_seconds:.1f} s)",
            f"{cpu / floor_cpu:.2f}x",
            "at most 1.5x",
            cpu <= 1.5 * floor_cpu,
        ),
        Row(
            "the same: runs a second",
            f"{runs / seconds:,.0f}",
            f"httpx + msgspec alone: {runs / floor_seconds:,.0f}",
            f"1/{seconds / floor_seconds:.1f}",
            "at least 3,000",
            runs / seconds >= 3000,
        ),
        Row(
            "the same: peak of the resident memory",
            f"+{mib(peak - idle)}",
            f"idle: {mib(idle)}",
            "",
            "at most +20 MiB",
            peak - idle <= 20 * 2**20,
        ),
    ]


def _floor(url: str, runs: int) -> tuple[float, float]:
    """Fetch and decode in a fresh process; return its seconds of CPU and on the clock."""
    command = [sys.executable, "-m", "bench.catch_up", url, str(runs)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu, seconds = map(float, output.split())
    return cpu, seconds


async def _fetch(url: str, runs: int) -> None:
    import httpx  # noqa: PLC0415 (the process that measures does not need it)
    import msgspec  # noqa: PLC0415

    from invent_exporter.api.models import Run  # noqa: PLC0415

    decoder = msgspec.json.Decoder(list[Run], strict=False)
    async with httpx.AsyncClient(trust_env=False) as client:
        cpu, began = time.process_time(), time.monotonic()
        found = 0
        for page in range(1, runs // 100 + 1):
            params = {"expand": "false", "origin": "ALL", "status": "ALL"}
            answer = await client.get(
                f"{url}/orgs/org-0/workflows/runs", params={**params, "page": page, "take": 100}
            )
            found += len(decoder.decode(answer.content))
        assert found == runs  # noqa: S101
        print(time.process_time() - cpu, time.monotonic() - began)


if __name__ == "__main__":
    asyncio.run(_fetch(sys.argv[1], int(sys.argv[2])))
