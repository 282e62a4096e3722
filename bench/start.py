"""Measure from the start of the process to the first /metrics, with 500,000 known ids."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.client import request
from bench.exporter import Exporter
from bench.pages import PageServer
from bench.stored import store
from bench.table import Row, Size, mib, ms

_LIBRARIES = "import h11, httpx, msgspec, prometheus_client, sqlalchemy, structlog, uvicorn, yaml"


def rows(size: Size) -> list[Row]:
    """Measure."""
    runs = size.of(500_000, 5_000)
    with_ids: list[float] = []
    empty: list[float] = []
    libraries: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="invent-bench-") as directory,
        PageServer(run_bytes=100, workflows=5, runs=5) as pages,
    ):
        state = Path(directory) / "state.db"
        store(state, "org-0", runs)
        file_bytes = state.stat().st_size
        for _ in range(size.of(9, 3)):
            with_ids.append(_start(pages.url, state))
            empty.append(_start(pages.url, None))
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", _LIBRARIES], check=True)
            libraries.append(time.perf_counter() - began)
    return [
        Row(
            f"start to first answer, {runs:,} ids in the ledger ({mib(file_bytes)})",
            ms(with_ids),
            f"without ids: {ms(empty)}; importing the libraries: {ms(libraries)}",
            f"{median(with_ids) / median(empty):.2f}x",
            "under 1.2 s",
            median(with_ids) < 1.2,
        )
    ]


def _start(url: str, state: Path | None) -> float:
    with Exporter(url, poll_interval="30s", state=state) as exporter, exporter.client() as client:
        client.get(request())
        return time.perf_counter() - exporter.began
