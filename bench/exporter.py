"""The exporter as users run it, in a process of its own, and what that process costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil

from bench.client import Client

ROOT = Path(__file__).parent.parent
_DEADLINE_SECONDS = 600.0


class Exporter:
    """`exporter.py serve` with a configuration for benchmarks."""

    def __init__(
        self,
        api_url: str,
        *,
        orgs: int = 1,
        poll_interval: str = "200ms",
        requests_per_minute: int = 1_000_000,
        reconcile_interval: str = "1h",
        newborn_hold: str = "100ms",
        state: Path | None = None,
    ) -> None:
        """Start; returns when the socket listens."""
        self._directory = tempfile.TemporaryDirectory(prefix="invent-bench-")
        self.directory = Path(self._directory.name)
        state = state or self.directory / "state.db"
        listed = "".join(f"  - id: org-{number}\n" for number in range(orgs))
        (self.directory / "config.yaml").write_text(
            f"api:\n  url: {api_url}\n  key: 4f1c9a7e2b8d\n"
            f"  requests_per_minute: {requests_per_minute}\n"
            f"orgs:\n{listed}poll_interval: {poll_interval}\n"
            f"reconcile_interval: {reconcile_interval}\n"
            f"state:\n  url: sqlite:///{state}\n"
            f"metrics:\n  newborn_hold: {newborn_hold}\n"
            "  max_workflows: 5000\n  max_exposition: 1GiB\n"
        )
        command = [sys.executable, str(ROOT / "exporter.py"), "serve", "--log.level", "info"]
        command += ["--config.file", str(self.directory / "config.yaml")]
        command += ["--web.listen-address", "127.0.0.1:0"]
        self._log = self.directory / "log"
        self.began = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log)
        self._measured = psutil.Process(self._process.pid)
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        while True:
            match = re.search(r"address=\"?127\.0\.0\.1:(\d+)", self._log.read_text())
            if match:
                return int(match[1])
            if self._process.poll() is not None:
                raise RuntimeError(f"the exporter did not start: {self._log.read_text()}")
            time.sleep(0.002)

    def client(self) -> Client:
        """Connect."""
        return Client(self.port)

    def cpu_seconds(self) -> float:
        """CPU time until now, all threads."""
        times = self._measured.cpu_times()
        return times.user + times.system

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._measured.memory_info().rss

    def peak_rss_bytes(self) -> int:
        """Peak of the resident memory, children included, since the start or `forget_peak`."""
        peak_bytes = 0
        for process in (self._measured, *self._measured.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            match = re.search(r"VmHWM:\s+(\d+) kB", status)
            assert match is not None  # noqa: S101 (Linux)
            peak_bytes += int(match[1]) * 1024
        return peak_bytes

    def forget_peak(self) -> None:
        """Begin a new peak (proc(5), clear_refs)."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def wait_for(self, name: str, least: float, *, every_seconds: float = 0.5) -> None:
        """Scrape until the sum of a metric's samples is there."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        with self.client() as client:
            while (found := client.sum_of(name)) is None or found < least:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"{name} is {found}: {self._log.read_text()[-2000:]}")
                time.sleep(every_seconds)

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the process has ended."""
        began = time.perf_counter()
        self._process.terminate()
        self._process.wait(60)
        return time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._directory.cleanup()
