"""The real programs of a drill: exporter, Prometheus, Alertmanager, and a receiver of webhooks."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from drill.speed import SPEED, fast_rules, shorten

ROOT = Path(__file__).parents[1]
POLL_INTERVAL = shorten("30s")
SCRAPE_INTERVAL = shorten("60s")
BUCKETS_SECONDS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


@dataclass(frozen=True)
class Notice:
    """One alert as the receiver got it, with the moment."""

    at: float
    alert: str
    labels: dict[str, str]
    is_firing: bool


@dataclass
class Receiver:
    """Takes Alertmanager's webhooks on a loopback port."""

    notices: list[Notice] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Serve while entered; gives the port."""
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in body["alerts"]:
                    labels = alert["labels"]
                    is_firing = alert["status"] == "firing"
                    notices.append(Notice(time.time(), labels["alertname"], labels, is_firing))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing of each request."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield server.server_port
            finally:
                server.shutdown()


@dataclass
class Stage:
    """Starts the programs in a folder of their own, and ends them by their own ids."""

    folder: Path
    orgs: dict[str, str]
    """Keys by org."""
    receiver: Receiver = field(default_factory=Receiver)
    exporter: subprocess.Popen[bytes] | None = None
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def prometheus_url(self) -> str:
        """Where Prometheus answers."""
        return f"http://127.0.0.1:{self._ports['prometheus']}"

    @contextmanager
    def running(self, api_url: str, webhook_port: int) -> Iterator[None]:
        """Run everything while entered."""
        names = ("exporter", "prometheus", "alertmanager", "cluster")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._write(api_url, webhook_port)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            processes.append(self._start_alertmanager())
            processes.append(self._start_prometheus())
            self.start_exporter()
            yield
        finally:
            if self.exporter is not None:
                processes.append(self.exporter)
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=60)

    def start_exporter(self) -> None:
        """Start the exporter, again after it was killed."""
        self.exporter = self._start(
            "exporter",
            [
                *(sys.executable, str(ROOT / "exporter.py"), "serve"),
                *("--config.file", str(self.folder / "exporter.yml")),
                *("--web.listen-address", f"127.0.0.1:{self._ports['exporter']}"),
            ],
        )

    def expect_exporter(self) -> None:
        """End the drill when the exporter does not run, with what it said."""
        if self.exporter is None or self.exporter.poll() is not None:
            said = (self.folder / "exporter.log").read_text()
            raise SystemExit(f"the exporter ended by itself: {said}")

    def kill_exporter(self) -> None:
        """End the exporter in the middle of whatever it does."""
        if self.exporter is not None:
            self.exporter.kill()
            self.exporter.wait()

    def _start_prometheus(self) -> subprocess.Popen[bytes]:
        return self._start(
            "prometheus",
            [
                _program("prometheus"),
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._ports['prometheus']}",
                f"--query.lookback-delta={shorten('5m')}",
                f"--rules.alert.resend-delay={shorten('1m')}",
                "--log.level=warn",
            ],
        )

    def _start_alertmanager(self) -> subprocess.Popen[bytes]:
        return self._start(
            "alertmanager",
            [
                shutil.which("alertmanager") or _program("prometheus-alertmanager"),
                f"--config.file={self.folder / 'alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self._ports['alertmanager']}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
        )

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            # Programs of this machine, with arguments written here.
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)  # noqa: S603

    def _write(self, api_url: str, webhook_port: int) -> None:
        buckets = [round(seconds / SPEED, 6) for seconds in BUCKETS_SECONDS]
        self._put(
            "exporter.yml",
            {
                "api": {"url": api_url, "timeout": "5s", "requests_per_minute": 100_000},
                "orgs": [
                    {"id": org, "name": org, "key_file": str(self._key_file(org, key))}
                    for org, key in self.orgs.items()
                ],
                "poll_interval": POLL_INTERVAL,
                "reconcile_interval": shorten("15m"),
                "state": {"url": f"sqlite:///{self.folder / 'ledger.db'}"},
                "metrics": {
                    "newborn_hold": shorten("66s"),
                    "duration_buckets": buckets,
                    "queue_buckets": list(buckets),
                },
            },
        )
        # The shipped files, with other addresses and a faster clock.
        shipped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        shipped["global"] = {
            "scrape_interval": SCRAPE_INTERVAL,
            "scrape_timeout": SCRAPE_INTERVAL,
            "evaluation_interval": SCRAPE_INTERVAL,
        }
        shipped["rule_files"] = [str(self.folder / "rules.yml")]
        target = {"targets": [f"127.0.0.1:{self._ports['alertmanager']}"]}
        shipped["alerting"] = {"alertmanagers": [{"static_configs": [target]}]}
        [job] = shipped["scrape_configs"][:1]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{self._ports['exporter']}"]}]
        shipped["scrape_configs"] = [job]
        self._put("prometheus.yml", shipped)
        self._put("rules.yml", fast_rules(ROOT / "grafana"))
        alertmanager = yaml.safe_load((ROOT / "grafana/alertmanager.yaml").read_text())
        webhook = {"url": f"http://127.0.0.1:{webhook_port}/", "send_resolved": True}
        alertmanager["receivers"] = [{"name": "drill", "webhook_configs": [webhook]}]
        alertmanager["route"] = {
            "receiver": "drill",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "4h",
        }
        self._put("alertmanager.yml", alertmanager)

    def _key_file(self, org: str, key: str) -> Path:
        path = self.folder / f"{org}.key"
        path.write_text(key)
        path.chmod(0o600)
        return path

    def _put(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / name).write_text(yaml.safe_dump(document, sort_keys=False))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not on PATH: .ci/install-tools installs it on Debian")
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
