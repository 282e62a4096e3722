"""All that the proof needs: a database, an agency's API, replicas, a scraper and a Prometheus."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

import yaml

from invent_exporter.simulator import Settings, SimulatorServer, Truth
from tests.deploy.chart import ROOT
from tests.deploy.processes import Server
from tests.deploy.processes import prometheus as run_prometheus
from tests.ha.fleet import Fleet, Replica
from tests.ha.rounds import Rounds
from tests.ha.world import KEY, agency, org_ids
from tests.postgres import PostgresServer, postgres_server
from tests.process.expected import DURABLE, differences_from, expected_of
from tests.process.harness import DEADLINE_SECONDS, make_config, wait_for
from tests.process.stored import Line, Stored, compare

ORGS: Final = 60
LEASE_SECONDS: Final = 5.0
MOST_REPLICAS: Final = 5
SCRAPE_SECONDS: Final = 2.0
_HOLD_SECONDS: Final = 10.0
"""Some scrapes of Prometheus may fail meanwhile: the rounds see a new series at 0 as well."""
_COMPARED: Final = tuple(name for name in DURABLE if not name.endswith("_bucket"))
"""Buckets are most of the series, and count the same runs."""
_SHIPPED: Final = ROOT / "deploy" / "prometheus" / "prometheus.ha.yml"


class Stage:
    """Three replicas of five that read 60 orgs; scenarios move them, and the numbers stay exact."""

    def __init__(self, folder: Path, *, seed: int = 1, orgs: int = ORGS) -> None:
        """Prepare, with the logs and what Prometheus stores in the folder."""
        self.org_ids = set(org_ids(orgs))
        self._folder, self._seed = folder, seed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start all of it, wait until each org is known; the world stands still."""
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End all of it."""
        self._stack.close()

    def _build(self, stack: ExitStack) -> None:
        self.database: PostgresServer = stack.enter_context(postgres_server())
        url = stack.enter_context(self.database.database())
        world = agency(self._seed, len(self.org_ids), late_seconds=5.0)
        settings = Settings(rate_limit_per_minute=None)
        self.simulator = stack.enter_context(SimulatorServer(world, settings=settings))
        self.fleet = stack.enter_context(
            Fleet(self._folder, self._config(url), self.database.port, MOST_REPLICAS)
        )
        self.rounds = Rounds(self.fleet, url)
        self.fleet.start(self.fleet.replicas[:3])
        stack.enter_context(self.rounds)
        self.wait_until_shared(self.fleet.replicas[:3])
        prometheus = run_prometheus(self._folder, self._scraping())
        self._server: Server = stack.enter_context(prometheus)
        self._stored = Stored(self._server)
        wait_for(
            "a first scrape",
            lambda: len(self._stored.query("invent_org_info")) == len(self.org_ids),
        )
        begun = time.time()
        # No run that comes may be told to have come before first contact.
        wait_for("first contact is past", lambda: time.time() > begun + 2)
        self._begun = time.time()
        self._since = self._begun - 0.002  # the world rounds to milliseconds

    def _config(self, url: str) -> dict[str, Any]:
        return make_config(
            self.simulator.url,
            self._folder,
            orgs=[{"id": org_id} for org_id in sorted(self.org_ids)],
            api={"key": KEY},
            metrics={"newborn_hold": f"{_HOLD_SECONDS:g}s"},
            poll_interval="3s",
            reconcile_interval="10s",
            state={
                "url": url.replace(f":{self.database.port}/", ":PORT/"),
                "lease": f"{LEASE_SECONDS:g}s",
            },
        )

    def _scraping(self) -> dict[str, Any]:
        """Return the configuration that is shipped, for the ports of these replicas."""
        config: dict[str, Any] = yaml.safe_load(_SHIPPED.read_text())
        (job,) = config["scrape_configs"]
        targets = [f"127.0.0.1:{replica.port}" for replica in self.fleet.replicas]
        job["static_configs"] = [{"targets": targets}]
        return {"global": {"scrape_interval": f"{SCRAPE_SECONDS:g}s"}, "scrape_configs": [job]}

    def live(self, seconds: float) -> None:
        """Let the traffic go on for so long."""
        self.simulator.world.automatic = True
        time.sleep(seconds)

    def restore(self) -> None:
        """Let three replicas run and be well, whatever became of them."""
        for replica in self.fleet.running:
            replica.network.heal()
            replica.thaw()
        down = [replica for replica in self.fleet.replicas if not replica.is_running]
        self.fleet.start(down[: max(0, 3 - len(self.fleet.running))])
        self.wait_until_shared(self.fleet.running)

    def wait_until_shared(self, replicas: list[Replica]) -> None:
        """Wait until these replicas serve all orgs, and each of them its share, give or take."""
        least = len(self.org_ids) // len(replicas) // 2

        def is_shared(serving: dict[str, set[str]]) -> bool:
            served = [serving.get(replica.name, set()) for replica in replicas]
            return set().union(*served) == self.org_ids and min(map(len, served)) >= least

        names = "".join(replica.name for replica in replicas)
        self.rounds.wait_for(f"replicas {names} share the orgs", is_shared)

    def settle(self) -> None:
        """Let the world stand still; wait until each number is exact, and see that all was well."""
        self.simulator.world.automatic = False
        expected = expected_of(self.truth)
        wrong = ["nothing was compared"]

        def is_exact() -> bool:
            nonlocal wrong
            wrong = differences_from(self.rounds.samples(), expected)
            return not wrong

        try:
            wait_for("the numbers are exact", is_exact, 2 * DEADLINE_SECONDS)
        except AssertionError as error:
            lines = "\n".join([*wrong[:20], *self.rounds.wrong[:20], self.fleet.said()])
            raise AssertionError(f"{error}: {len(wrong)}\n{lines}") from error
        assert not self.rounds.wrong, "\n".join([*self.rounds.wrong[:20], self.fleet.said()])

    @property
    def truth(self) -> Truth:
        """What happened since the traffic began."""
        return self.simulator.world.truth(self._since)

    def stored(self) -> list[Line]:
        """Return what Prometheus has of each series, beside the truth; the world stands still."""
        truth = self.truth
        expected = expected_of(truth)
        try:
            wait_for("the last values are stored", lambda: self._stored.holds(expected))
        except AssertionError as error:
            up = [series["value"] for series in self._stored.query("up")]
            missing = "\n".join(self._stored.missing(expected)[:10])
            raise AssertionError(f"{error}\nup: {up}\n{missing}\n{self.fleet.said()}") from error
        self._stored.at = time.time()
        window = math.ceil(self._stored.at - self._begun) + 30
        try:
            return list(compare(self._stored, truth, window, _COMPARED))
        finally:
            self._stored.at = None

    def check_stored(self) -> list[Line]:
        """See that Prometheus has the right increase of each series, whoever served it."""
        lines = self.stored()
        wrong = [line for line in lines if not (line.is_exact and line.is_explained)]
        assert not wrong, "\n".join(map(str, wrong[:20]))
        assert sum(line.truth for line in lines if line.name == "invent_runs_finished_total")
        return lines


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for one stage, outside of pytest's own."""
    return tempfile.TemporaryDirectory(prefix="ha-", ignore_cleanup_errors=True)
