"""Measure whether recording 100 new runs costs more with 1,000,000 known ids than with 1,000.

The same pages are recorded into both files in turn. Ids come in no order, which spreads a page's
rows over the whole file.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from bench.stored import SETTINGS, run_id, store
from bench.table import Row, Size, ms, percentile
from invent_exporter.api.models import Run
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.org import OrgLedger

_RUNS = 100


def rows(size: Size) -> list[Row]:
    """Measure."""
    many, few = size.of(1_000_000, 20_000), 1_000
    with tempfile.TemporaryDirectory(prefix="invent-bench-") as directory:
        times, cpus = asyncio.run(_measure(Path(directory), (many, few), size.of(200, 20)))
    # The first pages find nothing cached, after a restart too; they are part of no median.
    ratio = median(times[many]) / median(times[few])
    return [
        Row(
            f"recording {_RUNS} new runs with {many:,} ids known",
            f"{ms(times[many])} (CPU {ms(cpus[many])}, p95 {ms(percentile(times[many], 95))})",
            f"{few:,} ids: {ms(times[few])} (CPU {ms(cpus[few])})",
            f"{ratio:.2f}x",
            "at most 1.5x, under 10 ms",
            ratio <= 1.5 and median(times[many]) < 0.010,
        )
    ]


async def _measure(
    folder: Path, sizes: tuple[int, ...], pages: int
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Record the same pages into a ledger of each size; seconds and CPU seconds of each page."""
    times: dict[int, list[float]] = {ids: [] for ids in sizes}
    cpus: dict[int, list[float]] = {ids: [] for ids in sizes}
    ledgers: dict[int, tuple[Ledger, OrgLedger]] = {}
    for ids in sizes:
        path = folder / f"{ids}.db"
        await asyncio.to_thread(store, path, "org-0", ids)
        ledger = Ledger(open_database(f"sqlite:///{path}"), SETTINGS)
        ledgers[ids] = ledger, await ledger.load("org-0", walk_floor=0.0)
    for number in range(pages):
        page = _page(max(sizes) + number * _RUNS)
        for ids, (ledger, org) in ledgers.items():
            cpu, began = time.process_time(), time.perf_counter()
            await ledger.record(org, page(), [], now=time.time())
            times[ids].append(time.perf_counter() - began)
            cpus[ids].append(time.process_time() - cpu)
    for ledger, _ in ledgers.values():
        ledger.close()
    return times, cpus


class _page:  # noqa: N801 (called like a function: a fresh copy of the same runs each time)
    def __init__(self, first: int) -> None:
        now = time.time()

        def text(seconds: float) -> str:
            return datetime.fromtimestamp(seconds, UTC).isoformat()

        self._json = msgspec.json.encode(
            [
                {
                    "id": run_id(number),
                    "status": "FAILED" if number % 10 == 0 else "COMPLETED",
                    "origin": "WEBHOOK",
                    "created_at": text(now - 5 + number % 100 / 100),
                    "started_at": text(now - 4),
                    "ended_at": text(now - 3 + number % 100 / 200),
                    "updated_at": text(now),
                    "org_id": "org-0",
                    "workflow_id": f"workflow-{number % 50:06d}",
                    "usage": {"total": 2.0, "ai_total": 0.5, "steps": {"a": 2.0}},
                }
                for number in range(first, first + _RUNS)
            ]
        )

    def __call__(self) -> list[Run]:
        return msgspec.json.decode(self._json, type=list[Run], strict=False)
