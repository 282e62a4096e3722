"""An exporter that counts while something is done to its state, and a scraper that looks on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invent_exporter.simulator import SimulatorServer
from tests.process.expected import differences
from tests.process.harness import Exporter, Samples, make_config
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher

FINISHED = "invent_runs_finished_total"


@dataclass
class Case:
    """An exporter that has counted some runs, and a scraper that looks on."""

    simulator: SimulatorServer
    exporter: Exporter
    since: float
    watcher: Watcher
    finished: int = 0
    is_shared: bool = False
    """Its state is in a database where leases end."""

    def happen(self, runs: int = 20) -> None:
        """Let runs finish, of a workflow that is known and of one that is new."""
        self.finished += runs
        for number in range(runs):
            new = f"wf-{self.finished}"
            self.simulator.world.add_run(
                status="FAILED", workflow_id=new if number % 2 else "wf-old", error="x" * 250
            )

    def wait_for_storage_errors(self, more: int = 2) -> None:
        """Wait for so many polls that fail, and one more: old numbers are served while they may be.

        That is all the while with SQLite, and until the lease ends in a shared database.
        """
        first = self.errors(self.exporter.scrape())
        # What was committed before the trouble began may be served after it.
        before = self.exporter.wait_for("errors", lambda now: self.errors(now) >= first + more)
        served, errors = {before.total(FINISHED)}, self.errors(before)
        samples = self.exporter.wait_for("another one", lambda now: self.errors(now) > errors)
        if not self.is_shared:
            assert samples.find("invent_up", org_id="org-main") == 0
        elif not samples.find("invent_replica_orgs"):
            served |= {0.0}
        assert samples.total(FINISHED) in served

    def wait_until_exact(self) -> None:
        """Wait until all is counted, each once."""

        def is_exact(samples: Samples) -> bool:
            return not differences(samples, self.simulator.world.truth(self.since))

        self.exporter.wait_for("exact", is_exact)
        self.exporter.wait_for_reconciliation()
        assert is_exact(self.exporter.wait_until_up())
        assert self.watcher.wrong == []

    def die_and_go_on(self) -> None:
        """Kill it and start it again: what was served is what it finds."""
        self.exporter.kill()
        self.happen()
        self.exporter.start()
        self.wait_until_exact()

    @staticmethod
    def errors(samples: Samples) -> float:
        """Count the polls that failed because of the storage."""
        return samples.total("invent_poll_errors_total", org_id="org-main", reason="storage")


def config_of(simulator: SimulatorServer, folder: Path, url: str) -> dict[str, Any]:
    """Make a configuration that looks back often and keeps its state there."""
    return make_config(
        simulator.url,
        folder,
        reconcile_interval="300ms",
        metrics={"newborn_hold": "300ms"},
        state={"url": url},
    )


@contextmanager
def counting(folder: Path, url: str, environment: dict[str, str] | None = None) -> Iterator[Case]:
    """Start an exporter whose state is at this URL, and let it count."""
    with quiet_api() as simulator:
        config, watcher = config_of(simulator, folder, url), Watcher()
        with Exporter(folder, config, environment=environment, watcher=watcher) as exporter:
            exporter.wait_until_up()
            since, is_shared = time.time() - 0.002, not url.startswith("sqlite")
            case = Case(simulator, exporter, since, watcher, is_shared=is_shared)
            case.happen()
            case.wait_until_exact()
            yield case
