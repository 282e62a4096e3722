"""Run the exporter as a process of its own, look at what it serves, and wait for what it does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, Self

import httpx
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.process.watcher import Watcher

ROOT: Final = Path(__file__).parents[2]
DEADLINE_SECONDS: Final = 300.0
"""Long: it says that something will never happen, not how fast it should."""
_LAST_SUCCESS: Final = "invent_poll_last_success_timestamp_seconds"
_RECONCILED: Final = "invent_reconcile_last_success_timestamp_seconds"
_LISTENING: Final = re.compile(r'"?\bmsg"?[=:] ?"?listening.*?"?address"?[=:] ?"?[^:]*:(\d+)')
"""The line of either log format that names the port."""

Labels = frozenset[tuple[str, str]]


def wait_for(what: str, condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Return when the condition holds; fail when it still does not at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


class Samples(dict[tuple[str, Labels], float]):
    """The samples of one scrape."""

    def find(self, name: str, **labels: str) -> float | None:
        """Return the sample with exactly these labels; None when there is none."""
        return self.get((name, frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float:
        """Sum the samples that have these labels, and others perhaps."""
        return sum(self.among(name, **labels).values())

    def among(self, name: str, **labels: str) -> dict[Labels, float]:
        """Choose the samples that have these labels, and others perhaps."""
        wanted = labels.items()
        return {
            have: value
            for (sample, have), value in self.items()
            if sample == name and wanted <= set(have)
        }


def parse(text: str, *, openmetrics: bool = False) -> Samples:
    """Parse an exposition with prometheus-client's own parsers."""
    families = (
        parse_openmetrics(text)  # type: ignore[no-untyped-call]
        if openmetrics
        else parse_text(text)
    )
    samples = Samples()
    for family in families:
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def make_config(
    api_url: str,
    folder: Path,
    *,
    orgs: Sequence[Mapping[str, Any]] = ({"id": "c"},),
    api: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    **more: object,
) -> dict[str, Any]:
    """Make a configuration that polls fast and keeps its state in the folder."""
    return {
        "api": {"url": api_url, "key": "key-main", "requests_per_minute": 60_000, **(api or {})},
        "orgs": [dict(org) for org in orgs],
        "poll_interval": "100ms",
        "metrics": {"newborn_hold": "0ms", **(metrics or {})},
        "state": {"url": f"sqlite:///{folder}/state.db"},
        **more,
    }


class Exporter:
    """One exporter: its configuration, its process when it runs, and its log."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None,
        *,
        command: str = "serve",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str | Path] = (ROOT / "exporter.py",),
        watcher: Watcher | None = None,
    ) -> None:
        """Prepare; `start` starts it, as often as it is asked to; `watcher` sees every scrape."""
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self._file = []
        if config is not None:
            self.config_file.write_text(json.dumps(config))
            self._file = [f"--config.file={self.config_file}"]
        self._command = command
        self.log_file = folder / "exporter.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._arguments = arguments
        self._environment = environment or {}
        self._program = program
        self._watcher = watcher
        self._client = httpx.Client(trust_env=False, timeout=60)

    def __enter__(self) -> Self:
        """Start it and wait until it listens."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End it, whatever it does."""
        self.kill()
        self._client.close()

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for nothing."""
        assert self.process is None or self.process.poll() is not None
        self.url = ""
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    *self._program,
                    self._command,
                    *self._file,
                    "--web.listen-address=127.0.0.1:0",
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**clean_environment(), **self._environment},
            )
        return self.process

    def start(self) -> Self:
        """Start it and wait until it listens."""
        self.launch()
        return self.wait_until_listening()

    def wait_until_listening(self) -> Self:
        """Wait until the process that was launched listens."""
        process = self.process
        assert process is not None

        def does_listen() -> bool:
            assert process.poll() is None, self.log
            found = _LISTENING.search(self.log)
            if found is not None:
                self.url = f"http://127.0.0.1:{found[1]}"
            return found is not None

        try:
            wait_for("the exporter listens", does_listen)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = 15, seconds: float = DEADLINE_SECONDS) -> int:
        """Send a signal that ends it in so many seconds; return its exit status."""
        self.signal(number)
        assert self.process is not None
        return self.process.wait(seconds)

    @property
    def log(self) -> str:
        """What it has said since it was last started."""
        return self.log_file.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask it for a path."""
        return self._client.get(self.url + path, headers=headers)

    def scrape(self, *, openmetrics: bool = False) -> Samples:
        """Scrape it."""
        accept = "application/openmetrics-text" if openmetrics else "text/plain"
        answer = self.get("/metrics", accept=accept)
        assert answer.status_code == 200, answer
        if self._watcher is not None:
            self._watcher.take(answer.text)
        return parse(answer.text, openmetrics=openmetrics)

    def wait_for(self, what: str, condition: Callable[[Samples], object]) -> Samples:
        """Scrape until the condition holds; return the scrape in which it did."""
        samples = Samples()

        def holds() -> object:
            nonlocal samples
            samples = self.scrape()
            return condition(samples)

        try:
            wait_for(what, holds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}") from error
        return samples

    def wait_until_up(self, org_id: str = "org-main") -> Samples:
        """Wait until an org's last poll was complete, and what first contact read is served.

        `invent_up` alone may be served a publish before that. While `c` has no name there is none.
        """
        return self.wait_for(
            f"{org_id} is up",
            lambda samples: (
                samples.find("invent_up", org_id=org_id) == 1
                and (org_id == "c" or samples.among("invent_org_info", org_id=org_id))
            ),
        )

    def wait_for_finished(self, runs: int, **labels: str) -> Samples:
        """Wait until so many runs have counted among the series with these labels."""
        return self.wait_for(
            f"{runs} runs of {labels} have counted",
            lambda samples: samples.total("invent_runs_finished_total", **labels) == runs,
        )

    def try_to_scrape(self) -> Samples:
        """Scrape it; nothing when it does not answer."""
        try:
            return self.scrape()
        except (httpx.TransportError, httpx.UnsupportedProtocol):
            return Samples()

    def wait_for_reconciliation(self, org_id: str = "org-main") -> Samples:
        """Wait until a reconciliation that begins from now on was complete."""
        now = time.time()
        # It stands for when the reconciliation began.
        return self.wait_for(
            "a reconciliation",
            lambda samples: (samples.find(_RECONCILED, org_id=org_id) or 0) > now,
        )

    def wait_for_polls(self, org_id: str = "org-main", polls: int = 2) -> Samples:
        """Wait until polls that begin from now on were complete."""
        samples = self.scrape()
        # The poll under way began before now: it doesn't count.
        for _ in range(polls + 1):
            before = samples.find(_LAST_SUCCESS, org_id=org_id)
            samples = self.wait_for(
                "another complete poll",
                partial(_has_moved, _LAST_SUCCESS, org_id, before),
            )
        return samples


def _has_moved(name: str, org_id: str, before: float | None, samples: Samples) -> bool:
    return samples.find(name, org_id=org_id) not in (None, before)


def free_port() -> int:
    """Return a port of the loopback address that nobody has, and no client is given meanwhile."""
    while True:  # below those of /proc/sys/net/ipv4/ip_local_port_range, as it mostly is
        port = SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def clean_environment() -> dict[str, str]:
    """Copy the environment without a developer's own INVENT_* variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INVENT_")}


def run_command(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    seconds: float = DEADLINE_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run the program with these arguments to its end."""
    return subprocess.run(
        [sys.executable, ROOT / "exporter.py", *arguments],
        capture_output=True,
        check=False,
        text=True,
        cwd=cwd,
        env={**clean_environment(), **(environment or {})},
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
