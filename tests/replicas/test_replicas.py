"""Replicas of the running program on one PostgreSQL: who serves what, whatever happens to them."""

from __future__ import annotations

import json
import platform
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from invent_exporter.simulator import Org, Settings, SimulatorServer, World
from tests.postgres import PostgresServer, postgres_server
from tests.process.harness import Exporter, Samples, make_config, run_command, wait_for

pytestmark = pytest.mark.system

ORGS: Final = tuple(f"org-{number}" for number in range(12))
LEASE_SECONDS: Final = 8.0
"""Long enough for a busy machine, on which heartbeats come late."""


class Fleet:
    """Replicas, the API that they read, and what they should have counted."""

    def __init__(
        self, simulator: SimulatorServer, url: str, folder: Path, stack: ExitStack
    ) -> None:
        self.simulator = simulator
        self.expected = dict.fromkeys(ORGS, 0)
        self.orgs: list[Mapping[str, object]] = [{"id": org, "key": f"key-{org}"} for org in ORGS]
        self.replicas: list[Exporter] = []
        self._highest: dict[str, float] = {}
        self._url = url
        self._folder = folder
        self._stack = stack
        self._scrapers = stack.enter_context(ThreadPoolExecutor(8))

    def start(self, **config: Any) -> Exporter:  # noqa: ANN401 - JSON
        """Start one more."""
        folder = self._folder / f"replica-{len(self.replicas)}"
        folder.mkdir()
        state = {"url": self._url, "lease": f"{LEASE_SECONDS:g}s"}
        made = make_config(self.simulator.url, folder, orgs=self.orgs, state=state, **config)
        replica = self._stack.enter_context(Exporter(folder, made))
        self.replicas.append(replica)
        return replica

    def reload(self) -> None:
        """Let all read their configuration again, with the orgs as they are now."""
        for replica in self.replicas:
            config = json.loads(replica.config_file.read_text())
            replica.config_file.write_text(json.dumps({**config, "orgs": self.orgs}))
            replica.signal(signal.SIGHUP)

    def finish(self, *org_ids: str) -> None:
        """Let a run come and end in each of these orgs."""
        for org_id in org_ids or ORGS:
            self.simulator.world.add_run(org_id=org_id, status="FAILED", workflow_id="wf")
            self.expected[org_id] += 1

    def scrape(self) -> list[Samples]:
        """Scrape all at once; none serves what another does, and no counter goes back."""
        answers = [*self._scrapers.map(Exporter.try_to_scrape, self.replicas)]
        if twice := served_twice(answers):
            # They may have been handed over between two answers: then one of two has them by now.
            twice &= served_twice([replica.try_to_scrape() for replica in self.replicas])
            assert not twice, f"{twice}\n{self._logs()}"
        highest = dict(self._highest)
        for answer in answers:
            for org, runs in counted(answer).items():
                assert runs >= highest.get(org, 0), f"{org} went back\n{self._logs()}"
                self._highest[org] = max(runs, self._highest.get(org, 0))
        return answers

    def wait_until_exact(self, *sizes: int) -> list[Samples]:
        """Wait until every org is served, by replicas with so many each, with its true number."""
        answers: list[Samples] = []

        def is_exact() -> bool:
            nonlocal answers
            answers = self.scrape()
            together = {org: runs for answer in answers for org, runs in counted(answer).items()}
            shares = sorted(len(counted(answer)) for answer in answers)
            return together == self.expected and shares == sorted(sizes)

        try:
            wait_for(f"{self.expected} by {sizes}", is_exact)
        except AssertionError as error:
            now = [counted(answer) for answer in answers]
            raise AssertionError(f"{error}\n{now}\n{self._logs()}") from error
        return answers

    def _logs(self) -> str:
        return "\n\n".join(replica.log[-3000:] for replica in self.replicas)


def add_org(world: World, org_id: str, parent: str | None = None) -> None:
    """Let an org appear whose only run is a minute old."""
    world.add_org(Org(id=org_id, name=org_id, key=f"key-{org_id}", parent=parent))
    at = world.clock() - 60
    world.add_run(org_id=org_id, status="COMPLETED", workflow_id="wf", created_at=at, ended_at=at)


def counted(samples: Samples) -> dict[str, float]:
    """Tell what is served as finished, by org."""
    totals: dict[str, float] = {}
    for (name, labels), value in samples.items():
        if name == "invent_runs_finished_total":
            org_id = dict(labels)["org_id"]
            totals[org_id] = totals.get(org_id, 0) + value
    return totals


def served_twice(answers: Iterable[Samples]) -> set[str]:
    """Tell which orgs are in several of the answers."""
    serving = Counter(org for answer in answers for org in counted(answer))
    return {org for org, replicas in serving.items() if replicas > 1}


@contextmanager
def fleet_on(server: PostgresServer, folder: Path) -> Iterator[Fleet]:
    """Prepare a database and an API with twelve orgs; no replica runs yet."""
    simulator = SimulatorServer(settings=Settings(rate_limit_per_minute=None))
    for org in ORGS:
        add_org(simulator.world, org)
    with server.database() as url, simulator, ExitStack() as stack:
        yield Fleet(simulator, url, folder, stack)


@pytest.fixture
def fleet(postgres: PostgresServer, tmp_path: Path) -> Iterator[Fleet]:
    """Give a fleet without replicas yet."""
    with fleet_on(postgres, tmp_path) as ready:
        yield ready


def test_orgs_are_shared_evenly_as_replicas_join_and_leave(fleet: Fleet) -> None:
    """And each number stays exact, served by one at a time."""
    first = fleet.start()
    fleet.wait_until_exact(12)
    fleet.finish()
    second = fleet.start()
    fleet.wait_until_exact(6, 6)
    fleet.start()
    fleet.finish()
    fleet.wait_until_exact(4, 4, 4)
    for replica in fleet.replicas:  # it is made anew once a second
        replica.wait_for("it says so", lambda samples: samples.find("invent_replica_orgs") == 4)
    fleet.finish()
    assert first.stop() == 0
    fleet.wait_until_exact(0, 6, 6)
    fleet.finish()
    second.kill()
    answers = fleet.wait_until_exact(0, 0, 12)
    assert answers[2].find("invent_leases_lost_total") == 0


def test_each_replica_says_who_serves_what(fleet: Fleet) -> None:
    """On its page, as JSON, and `check` for all of them; replicas here have one host."""
    first = fleet.start()
    second = fleet.start()
    fleet.wait_until_exact(6, 6)
    host = platform.node()

    def owners() -> set[str | None]:
        return {org["owner"] for org in first.get("/api/status").json()["elsewhere"]}

    # What others have is as of the last heartbeat.
    wait_for("all is known", lambda: owners() == {host})
    documents = [replica.get("/api/status").json() for replica in (first, second)]
    here, there = ({org["org_id"] for org in each["orgs"]} for each in documents)
    assert here | there == {*ORGS}
    assert {org["org_id"] for org in documents[0]["elsewhere"]} == there
    page = first.get("/").text
    assert "Other replicas" in page
    assert all(f"<td>{org}</td><td>{host}</td>" in page for org in there)

    def are_ready() -> bool:
        return all(each.get("/-/ready").status_code == 200 for each in (first, second))

    wait_for("what another counted is served before the own first poll", are_ready)
    done = run_command("check", f"--config.file={first.config_file}", "--json")
    found = {line["what"]: line["found"] for line in json.loads(done.stdout)["machine"]}
    assert found[f"served by {host}"] == f"12: {', '.join(sorted(ORGS))}"


def test_what_one_replica_finds_all_know(fleet: Fleet) -> None:
    """Sub-orgs are shared like all others; one that is found later, or gone, is so for all."""
    world, parent = fleet.simulator.world, ORGS[0]
    lists = {"sub_orgs": True, "sub_orgs_interval": "1s"}
    fleet.orgs = [{"id": parent, "key": f"key-{parent}", **lists}]
    fleet.expected = {parent: 0}

    def appear(org_id: str) -> None:
        add_org(world, org_id, parent)
        fleet.expected[org_id] = 0

    appear("sub-0")
    appear("sub-1")
    fleet.start()
    fleet.start()
    fleet.wait_until_exact(1, 2)
    appear("sub-2")
    fleet.wait_until_exact(2, 2)
    fleet.finish(*fleet.expected)
    fleet.wait_until_exact(2, 2)
    world.remove_org("sub-0")
    del fleet.expected["sub-0"]
    fleet.wait_until_exact(1, 2)


def test_orgs_that_a_reload_drops_or_adds_are_shared_anew(fleet: Fleet) -> None:
    """By all replicas, once each of them was told."""
    dropped = fleet.orgs.pop()
    fleet.start()
    fleet.start()
    del fleet.expected[str(dropped["id"])]
    fleet.wait_until_exact(5, 6)
    fleet.orgs.append(dropped)
    fleet.expected[str(dropped["id"])] = 0
    fleet.reload()
    fleet.wait_until_exact(6, 6)
    for org in fleet.orgs[:4]:
        del fleet.expected[str(org["id"])]
    del fleet.orgs[:4]
    fleet.reload()
    fleet.finish(*fleet.expected)
    fleet.wait_until_exact(4, 4)


def test_a_replica_that_stood_still_has_lost_what_others_took(fleet: Fleet) -> None:
    """When it goes on it serves nothing of that, commits nothing of it, and says so."""
    first = fleet.start()
    fleet.start()
    fleet.wait_until_exact(6, 6)
    fleet.finish()
    first.signal(signal.SIGSTOP)
    others = fleet.replicas[1:]
    wait_for("the other one has all", lambda: len(counted(others[0].try_to_scrape())) == 12)
    fleet.finish()
    first.signal(signal.SIGCONT)
    fleet.wait_until_exact(6, 6)
    fleet.finish()
    answers = fleet.wait_until_exact(6, 6)
    assert answers[0].find("invent_leases_lost_total") == 6
    assert "leases were lost" in first.log


def test_without_the_database_orgs_are_withdrawn_and_come_back(tmp_path: Path) -> None:
    """Longer than a lease: what was committed is served until then, and again afterwards."""
    with postgres_server() as server, fleet_on(server, tmp_path) as fleet:
        replica = fleet.start()
        fleet.start()
        fleet.wait_until_exact(6, 6)
        server.stop(signal.SIGQUIT)
        try:
            fleet.finish()
            replica.wait_for("nothing is served", lambda now: not counted(now))
            # The exporter's own metrics are up to a second old.
            samples = replica.wait_for(
                "nothing is owned", lambda now: now.find("invent_replica_orgs") == 0
            )
            assert not [labels for name, labels in samples if name == "invent_up"]
            wait_for("it is said", lambda: "leases ran out" in replica.log)
            for each in fleet.replicas:
                each.wait_for(
                    "its polls fail",
                    lambda now: now.total("invent_poll_errors_total", reason="storage"),
                )
        finally:
            server.start()
        fleet.wait_until_exact(6, 6)
        fleet.finish()
        fleet.wait_until_exact(6, 6)


def test_a_start_takes_over_at_once_what_was_left(fleet: Fleet) -> None:
    """A replica that ends in order leaves nothing to be waited for; runs meanwhile are counted."""
    fleet.start()
    fleet.wait_until_exact(12)
    fleet.finish()
    fleet.wait_until_exact(12)
    assert fleet.replicas[0].stop() == 0
    fleet.finish()
    again = fleet.start()
    # What is committed is served from its first answer on.
    assert len(counted(again.scrape())) == 12
    fleet.wait_until_exact(0, 12)


def test_two_replicas_find_out_which_org_c_is(fleet: Fleet) -> None:
    """`c` and its real id are one org, whoever of them holds which."""
    fleet.orgs = [{"id": "c", "key": "key-org-0"}, *fleet.orgs]
    fleet.start()
    fleet.start()
    fleet.wait_until_exact(6, 6)
    fleet.finish()
    fleet.wait_until_exact(6, 6)
