"""The ledger in PostgreSQL: what `serve` counts is exact, whatever becomes of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from invent_exporter.simulator import SimulatorServer
from tests.process.expected import differences
from tests.process.harness import Exporter, Samples, make_config, run_command
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher

pytestmark = pytest.mark.system

PASSWORD = "p%40ss-w0rd-of-nobody"


@dataclass
class Case:
    """An exporter that counts into PostgreSQL, and a scraper that looks on."""

    simulator: SimulatorServer
    exporter: Exporter
    since: float
    watcher: Watcher
    finished: int = 0

    def happen(self, runs: int = 20) -> None:
        """Let runs finish, of a workflow that is known and of one that is new."""
        self.finished += runs
        for number in range(runs):
            new = f"wf-{self.finished}"
            self.simulator.world.add_run(
                status="FAILED", workflow_id=new if number % 2 else "wf-old", error="x" * 250
            )

    def wait_for_storage_errors(self, more: int = 2) -> None:
        """Wait for so many polls that fail, with the old numbers served all the while."""
        before = self.exporter.scrape()
        samples = self.exporter.wait_for(
            "storage errors", lambda now: self.errors(now) >= self.errors(before) + more
        )
        finished = "invent_runs_finished_total"
        assert samples.total(finished) == before.total(finished)

    def wait_until_exact(self) -> None:
        """Wait until all is counted, each once."""

        def is_exact(samples: Samples) -> bool:
            return not differences(samples, self.simulator.world.truth(self.since))

        self.exporter.wait_for("exact", is_exact)
        self.exporter.wait_for_reconciliation()
        assert is_exact(self.exporter.wait_until_up())
        assert self.watcher.wrong == []

    @staticmethod
    def errors(samples: Samples) -> float:
        """Count the polls that failed because of the storage."""
        return samples.total("invent_poll_errors_total", org_id="org-main", reason="storage")


@contextmanager
def counting(folder: Path, url: str) -> Iterator[Case]:
    """Start an exporter whose state is at this URL, and let it count."""
    with quiet_api() as simulator:
        config = make_config(
            simulator.url,
            folder,
            reconcile_interval="300ms",
            metrics={"newborn_hold": "300ms"},
            state={"url": url},
        )
        watcher = Watcher()
        with Exporter(folder, config, watcher=watcher) as exporter:
            exporter.wait_until_up()
            case = Case(simulator, exporter, time.time() - 0.002, watcher)
            case.happen()
            case.wait_until_exact()
            yield case


def with_password(url: str, password: str = PASSWORD) -> str:
    """Put a password into a URL; a server that trusts everybody does not ask for it."""
    return url.replace("postgres@", f"postgres:{password}@")


def test_a_start_goes_on_where_the_last_one_was(tmp_path: Path, postgres_url: str) -> None:
    """After a kill, and after a stop: what was served is what it finds."""
    with counting(tmp_path, postgres_url) as case:
        for end in (case.exporter.kill, case.exporter.stop):
            end()
            case.happen()
            case.exporter.start()
            case.wait_until_exact()
        assert case.exporter.scrape().find("invent_ledger_size_bytes") > 1e6  # type: ignore[operator]
        began = time.monotonic()
        assert case.exporter.stop() == 0
        assert time.monotonic() - began < 5


def test_a_password_is_shown_nowhere(tmp_path: Path, postgres_url: str) -> None:
    """Neither as it stands in the URL nor as it is meant; not while it works, not when it fails."""
    url = with_password(postgres_url)
    with counting(tmp_path, url) as case:
        process = case.exporter.process
        assert process is not None
        pages = [case.exporter.get(path).text for path in ("/", "/api/status", "/metrics")]
        title = Path(f"/proc/{process.pid}/cmdline").read_text()
        said = "\n".join([*pages, title, case.exporter.log])
        assert case.exporter.stop() == 0
    failed = run_command(
        environment={
            "INVENT_API_KEY": "k",
            "INVENT_STATE_URL": url.replace("@127.0.0.1", "@127.0.0.2"),
        }
    )
    assert failed.returncode == 1
    assert "postgresql://postgres:***@127.0.0.2:" in failed.stderr
    assert failed.stderr.count("\n") == 1
    said += failed.stdout + failed.stderr
    for secret in (PASSWORD, "p@ss-w0rd", "ss-w0rd-"):
        assert secret not in said
