"""Measure the memory and the time of a backfill of 1,000,000 runs of 30 days."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.exporter import ROOT
from bench.table import Row, Size, mib
from invent_exporter.simulator import Settings, SimulatorServer, add_many

_DAYS = 30
_WORKFLOWS = 8


def rows(size: Size) -> list[Row]:
    """Measure."""
    runs = size.of(1_000_000, 10_000)
    with (
        tempfile.TemporaryDirectory(prefix="invent-bench-") as name,
        SimulatorServer(settings=Settings(rate_limit_per_minute=None)) as simulator,
    ):
        folder = Path(name)
        add_many(simulator.world, runs, workflows=_WORKFLOWS, seconds=_DAYS * 86_400)
        (folder / "config.yaml").write_text(
            f"api: {{url: {simulator.url}, key: key-main, requests_per_minute: 1000000}}\n"
            'state: {url: "sqlite://"}\n'
        )
        command = [sys.executable, str(ROOT / "exporter.py"), "backfill"]
        command += [f"--config.file={folder}/config.yaml", f"--output={folder}/history.om"]
        began, peak, cpu_seconds = time.perf_counter(), 0, 0.0
        with (folder / "log").open("wb") as log:
            process = psutil.Popen(command, stdout=log, stderr=log)
            while process.poll() is None:
                # What the kernel tells of a child that has ended may be this process's own peak.
                peak, cpu_seconds = _look_at(process) or (peak, cpu_seconds)
                time.sleep(0.1)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError((folder / "log").read_text())
        written = (folder / "history.om").stat().st_size
    return [
        Row(
            f"backfill of {runs:,} runs, {_DAYS} days, {_WORKFLOWS} workflows: peak memory",
            f"{mib(peak)} ({seconds:.0f} s, CPU {cpu_seconds:.0f} s, {written / 1e9:.2f} GB)",
            "",
            "",
            "at most 300 MiB",
            peak <= 300 * 2**20,
        )
    ]


def _look_at(process: psutil.Popen) -> tuple[int, float] | None:
    """Return the peak of the resident memory and the CPU time until now; None at its end."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        times = process.cpu_times()
    except (OSError, psutil.Error):
        return None
    return None if match is None else (int(match[1]) * 1024, times.user + times.system)
