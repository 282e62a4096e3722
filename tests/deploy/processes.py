"""Start the exporter, Prometheus and Alertmanager as processes, and wait for what they do."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from tests.deploy.chart import ROOT
from tests.process.harness import DEADLINE_SECONDS, free_port, wait_for
from tests.programs import require

END_SECONDS: Final = 30.0


class Server:
    """A process that serves HTTP on the loopback while it is entered."""

    def __init__(self, command: Sequence[str | Path], port: int, ready: str, log: Path) -> None:
        """Prepare; `ready` is the path that answers 200 when it is."""
        self.port = port
        self._command = command
        self._ready = ready
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT
            )
        try:
            wait_for(f"{self._command[0]} is ready", self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ask it to end, and end it when it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.get(self._ready).is_success
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """Ask it."""
        return httpx.get(
            f"http://127.0.0.1:{self.port}{path}",
            params=parameters,
            timeout=DEADLINE_SECONDS,
            trust_env=False,
        )

    def data(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON of another's API
        """Return `data` of an answer of Prometheus' API."""
        answer = self.get(path, **parameters)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def failed_scrapes(self, window: str, timeout_seconds: float) -> set[str]:
        """Name the jobs of which a scrape failed, and not because the machine took too long."""
        query = f'{{__name__=~"up|scrape_duration_seconds"}}[{window}]'
        failed, in_time = set(), set()
        for series in self.data("/api/v1/query", query=query)["result"]:
            name, job = series["metric"]["__name__"], series["metric"]["job"]
            for at, value in series["values"]:
                if name == "up" and float(value) == 0:
                    failed.add((job, at))
                elif name != "up" and float(value) < timeout_seconds:
                    in_time.add((job, at))
        return {job for job, _ in failed & in_time}


def exporter(folder: Path, config: dict[str, Any]) -> Server:
    """Return the exporter on a free port, with this configuration."""
    port = free_port()
    (folder / f"exporter-{port}.yaml").write_text(json.dumps(config))
    command = (
        *(sys.executable, ROOT / "exporter.py", "serve"),
        f"--config.file={folder}/exporter-{port}.yaml",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    return Server(command, port, "/-/ready", folder / f"exporter-{port}.log")


def prometheus(folder: Path, config: dict[str, Any], program: str = "prometheus") -> Server:
    """Return a real Prometheus on a free port, with this configuration."""
    port = free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = (
        require(program),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    )
    return Server(command, port, "/-/ready", folder / "prometheus.log")
