"""Measure the memory and the time of a backfill of 1,000,000 runs of 30 days."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
        began = time.perf_counter()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError((folder / "log").read_text())
        print((folder / "log").read_text(), file=sys.stderr)
        written = (folder / "history.om").stat().st_size
    cpu_seconds = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss * 1024
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
