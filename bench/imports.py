"""Measure how long `--version` and `--help` take, against an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from bench.exporter import ROOT
from bench.table import Row, Size, ms


def rows(size: Size) -> list[Row]:
    """Measure."""
    flags: dict[str, list[float]] = {"--version": [], "--help": []}
    bare: list[float] = []
    for _ in range(size.of(30, 5)):
        bare.append(_run("-c", "pass"))
        for flag, times in flags.items():
            times.append(_run("exporter.py", flag))
    return [
        Row(
            f"{flag}, from exec to exit",
            ms(times),
            f"python -c pass: {ms(bare)}",
            f"{median(times) / median(bare):.1f}x",
            "under 120 ms",
            median(times) < 0.120,
        )
        for flag, times in flags.items()
    ]


def _run(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
