"""Sub-orgs over a real process: they come, go and come back, and each run counts once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

import httpx
import pytest

from invent_exporter.simulator import Fault, Org, SimulatorServer
from tests.commands.backfilling import arguments, backfill, samples_of
from tests.process.conftest import Start
from tests.process.harness import Exporter, Samples, make_config, run_command, wait_for
from tests.process.traffic import faults
from tests.process.watcher import Watcher

PARENT = {"id": "c", "name": "Main", "sub_orgs": True, "sub_orgs_interval": "200ms"}
GAUGES = ("balance", "promo_balance", "spending_cap", "spending_cap_used")


def finished(samples: Samples) -> dict[str, float]:
    """Count the finished runs of each org that is served."""
    orgs = {dict(labels)["org_id"] for labels in samples.among("invent_org_info")}
    return {org: samples.total("invent_runs_finished_total", org_id=org) for org in orgs}


def credits_of(samples: Samples, org_id: str) -> list[float | None]:
    """Say what is served of an org's credits, in the order of the contract."""
    return [samples.find(f"invent_org_{name}_credits", org_id=org_id) for name in GAUGES]


def add(simulator: SimulatorServer, org_id: str, **fields: object) -> None:
    """Let a sub-org appear, with a bit of history."""
    org = Org(id=org_id, name=org_id.title(), key=f"key-{org_id}", parent="org-main", **fields)  # type: ignore[arg-type]
    is_new = simulator.world.find_org(org_id) is None
    simulator.world.add_org(org)
    if is_new:
        simulator.world.add_run(org_id=org_id, status="COMPLETED", workflow_id="wf-old")


def test_sub_orgs_come_and_go_without_a_restart(simulator: SimulatorServer, start: Start) -> None:
    """With names and credits of the listing; who is gone is out of /metrics, and goes on later."""
    world = simulator.world
    world.add_run(org_id="org-sub", status="COMPLETED")
    exporter = start(orgs=[PARENT])
    for org in ("org-main", "org-sub"):
        exporter.wait_until_up(org)
    cap = {"balance": 0.0, "promo_balance": 20.5, "spending_cap": 99.0, "spending_cap_used": 98.0}
    add(simulator, "org-new", **cap)
    exporter.wait_until_up("org-new")
    # As long as the last look is not too old.
    wanted = {"org-new": [0.0, 20.5, 99.0, 98.0], "org-sub": [1000.0, 0.0, None, 0.0]}
    samples = exporter.wait_for(
        "their credits", lambda now: {org: credits_of(now, org) for org in wanted} == wanted
    )
    assert credits_of(samples, "org-main") == [None] * 4
    names = samples.among("invent_org_info", org_id="org-new")
    assert [dict(labels)["org_name"] for labels in names] == ["Org-New"]
    assert {seen.org for seen in simulator.requests} == {"org-main", "org-sub", "org-new"}

    for org in ("org-main", "org-sub", "org-new", "org-new"):
        world.add_run(org_id=org, status="FAILED")
    expected = {"org-main": 1, "org-sub": 1, "org-new": 2}
    exporter.wait_for("all are counted", lambda now: finished(now) == expected)
    gone = world.find_org("org-new")
    assert gone is not None
    world.remove_org("org-new")
    samples = exporter.wait_for(
        "it is gone", lambda now: finished(now) == {"org-main": 1, "org-sub": 1}
    )
    assert not [labels for _, labels in samples if ("org_id", "org-new") in labels]
    world.add_run(org_id="org-new", status="FAILED")
    world.add_org(gone)
    expected["org-new"] = 3
    exporter.wait_for("it goes on where it was", lambda now: finished(now) == expected)

    add(simulator, "org-new", use_parent_balance=True, balance=7.0)
    samples = exporter.wait_for(
        "the parent's balance is used",
        lambda now: credits_of(now, "org-new") == [None, 0.0, None, 0.0],
    )
    assert samples.total("invent_poll_errors_total") == 0
    exporter.wait_for("nothing counts twice", lambda now: finished(now) == expected)


def test_a_run_that_parent_and_sub_org_list_counts_once(
    simulator: SimulatorServer, start: Start
) -> None:
    """It is its own org's, whenever that became known."""
    world = simulator.world
    both = {"org_id": "org-sub", "also_in": ["org-main"]}
    world.add_run(status="COMPLETED", **both)  # type: ignore[arg-type]
    exporter = start(orgs=[PARENT])
    for org in ("org-main", "org-sub"):
        exporter.wait_until_up(org)
    open_run = world.add_run(status="RUNNING", **both)  # type: ignore[arg-type]
    for _ in range(5):
        world.add_run(status="FAILED", **both)  # type: ignore[arg-type]
    exporter.wait_for_finished(5, org_id="org-sub")
    world.finish_run(open_run, "FAILED")
    exporter.wait_for_finished(6, org_id="org-sub")
    for org in ("org-main", "org-sub"):
        exporter.wait_for_polls(org)
    assert finished(exporter.scrape()) == {"org-main": 0, "org-sub": 6}


class Trouble:
    """Sub-orgs that come and go, and runs of them, some of which their parent lists as well."""

    def __init__(self, simulator: SimulatorServer, seed: int) -> None:
        """Begin with three sub-orgs."""
        self.world, self.random = simulator.world, Random(seed)
        for name in ("org-sub", "org-a", "org-b"):
            add(simulator, name)
        self.world.add_run(org_id="org-sub", status="COMPLETED", workflow_id="wf-old")
        self.subs = {org.id: org for org in self.world.orgs if org.parent == "org-main"}
        self.own = dict.fromkeys(["org-main", *self.subs], 0)
        self.shared = 0
        self._open: list[str] = []

    def make(self) -> None:
        """Let something happen."""
        name = self.random.choice([*self.subs])
        if self.world.find_org(name) is None:
            self.world.add_org(self.subs[name])
        elif self.random.random() < 0.5:
            self.world.remove_org(name)
        for _ in range(self.random.randrange(3)):
            name = self.random.choice([*self.own])
            self.world.add_run(org_id=name, status="FAILED", workflow_id="wf-own")
            self.own[name] += 1
        if self.random.random() < 0.5:
            name, workflow = self.random.choice([*self.subs]), "wf-shared"
            both = {"org_id": name, "also_in": ["org-main"], "workflow_id": workflow}
            self._open.append(self.world.add_run(status="RUNNING", **both))  # type: ignore[arg-type]
            self.shared += 1
        if self._open and self.random.random() < 0.5:
            self.world.finish_run(self._open.pop(), "FAILED")

    def end(self) -> None:
        """Let all runs be over, and all orgs be there."""
        for run_id in self._open:
            self.world.finish_run(run_id, "FAILED")
        for org in self.subs.values():
            self.world.add_org(org)

    def is_exact(self, samples: Samples) -> bool:
        """Tell whether each org has its own, and whoever counted them those of two lists."""
        name = "invent_runs_finished_total"
        own = {org: samples.total(name, org_id=org, workflow_id="wf-own") for org in self.own}
        return own == self.own and samples.total(name, workflow_id="wf-shared") == self.shared


LONGER = [pytest.param(seed, marks=pytest.mark.system) for seed in (2, 3, 4)]


@pytest.mark.parametrize("seed", [1, *LONGER])
def test_each_run_counts_once_while_sub_orgs_come_and_go(
    simulator: SimulatorServer, tmp_path: Path, seed: int
) -> None:
    """Under faults of any kind; of an org that is away, what its parent lists counts there."""
    trouble, watcher = Trouble(simulator, seed), Watcher()
    config = make_config(simulator.url, tmp_path, orgs=[PARENT], reconcile_interval="1s")
    with Exporter(tmp_path, config, watcher=watcher) as exporter:
        for name in trouble.own:
            exporter.wait_until_up(name)
        simulator.add_faults(*faults())
        for _ in range(60):
            trouble.make()
            exporter.try_to_scrape()
        simulator.faults.clear()
        trouble.end()
        exporter.wait_for("all is exact", trouble.is_exact)
        for name in trouble.own:
            exporter.wait_for_reconciliation(name)
        assert trouble.is_exact(exporter.scrape())
    assert not watcher.wrong


def test_a_sick_listing_withdraws_nobody_over_a_restart_either(
    simulator: SimulatorServer, tmp_path: Path
) -> None:
    """The polls go on, the parent is up; what fails is counted, and said in log, page and JSON."""
    config = make_config(simulator.url, tmp_path, orgs=[PARENT])
    simulator.world.add_run(org_id="org-sub", status="COMPLETED")
    with Exporter(tmp_path, config) as exporter:
        exporter.wait_until_up("org-sub")
        simulator.add_faults(Fault(kind="status", status=403, path="/orgs"))
        forbidden = {"org_id": "org-main", "reason": "forbidden"}
        exporter.wait_for(
            "it is counted",
            lambda now: (now.find("invent_poll_errors_total", **forbidden) or 0) >= 2,
        )
        assert exporter.stop() == 0
        exporter.start()
        simulator.world.add_run(org_id="org-sub", status="FAILED")
        exporter.wait_for_finished(1, org_id="org-sub")
        exporter.wait_until_up("org-main")
        # Credits that nobody could read for three intervals are not known any more.
        exporter.wait_for(
            "its credits are gone", lambda now: credits_of(now, "org-sub") == [None] * 4
        )
        line = 'msg="sub-orgs can\'t be listed"'
        wait_for("the look fails after the restart too", lambda: line in exporter.log)
        assert "The last look for sub-orgs failed: HTTP 403" in exporter.get("/").text
        status = json.loads(exporter.get("/api/status").content)["orgs"]
        assert status[0]["sub_orgs"]["error"].startswith("HTTP 403")
        assert status[1]["parent"] == "org-main"
        simulator.faults.clear()
        exporter.wait_for(
            "its credits are back",
            lambda now: credits_of(now, "org-sub") == [1000.0, 0.0, None, 0.0],
        )
        assert finished(exporter.scrape()) == {"org-main": 0, "org-sub": 1}


def test_the_switch_can_be_turned_while_it_runs(simulator: SimulatorServer, tmp_path: Path) -> None:
    """A reload takes sub-orgs away and brings them back; one that is configured keeps its entry."""
    off = {**PARENT, "sub_orgs": False}
    sub = {"id": "org-sub", "name": "Mine", "key": "key-sub"}
    simulator.world.add_run(org_id="org-sub", status="COMPLETED")
    add(simulator, "org-new")

    def configure(*orgs: Mapping[str, object]) -> None:
        config = make_config(simulator.url, tmp_path, orgs=orgs)
        exporter.config_file.write_text(json.dumps(config))
        done = httpx.post(f"{exporter.url}/-/reload", trust_env=False, timeout=60)
        assert done.status_code == 200

    config = make_config(simulator.url, tmp_path, orgs=[off])
    with Exporter(tmp_path, config, arguments=("--web.enable-lifecycle",)) as exporter:
        exporter.wait_until_up()
        configure(PARENT)
        exporter.wait_until_up("org-new")
        exporter.wait_until_up("org-sub")
        configure(PARENT, sub)
        exporter.wait_for(
            "its own name, and its credits",
            lambda now: (
                now.find("invent_org_info", org_id="org-sub", org_name="Mine")
                and credits_of(now, "org-sub") == [1000.0, 0.0, None, 0.0]
            ),
        )
        configure(off, sub)
        samples = exporter.scrape()
        assert set(finished(samples)) == {"org-main", "org-sub"}
        assert credits_of(samples, "org-sub") == [None] * 4
        configure(PARENT)
        exporter.wait_until_up("org-new")
        assert "configured twice" not in exporter.log


def test_check_asks_the_sub_orgs_too(simulator: SimulatorServer, tmp_path: Path) -> None:
    """A row for each, with its credits; a listing that fails fails its parent."""
    add(simulator, "org-new", balance=1234.5, spending_cap=50.0, spending_cap_used=1.0)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(make_config(simulator.url, tmp_path, orgs=[PARENT])))

    def check(status: int, *flags: str) -> str:
        done = run_command("check", f"--config.file={file}", *flags)
        assert (done.returncode, done.stderr) == (status, "")
        return done.stdout

    table = check(0)
    assert "balance 1,234.5, promotional 0, spent 1 of at most 50" in table
    report = json.loads(check(0, "--json"))
    assert [org["org"] for org in report["orgs"]] == ["c", "org-sub", "org-new"]
    assert report["orgs"][2]["finances"]["balance_credits"] == 1234.5
    (requests,) = (line for line in report["machine"] if line["what"] == "requests")
    assert requests["found"].startswith("1800 a minute"), "of three orgs at 100 ms"
    simulator.add_faults(Fault(kind="status", status=403, path="/orgs"))
    assert "sub-orgs: forbidden: HTTP 403" in check(1)


@pytest.mark.parametrize("org", ["c", "org-main"])
def test_a_parent_in_its_own_list_counts_once(
    simulator: SimulatorServer, start: Start, org: str
) -> None:
    """Its credits are known, then. `c` can't be told from its sub-orgs, and gets no name."""
    itself = Org(id="org-main", name="Main", key="key-main", parent="org-main", balance=5.0)
    simulator.world.add_org(itself)
    add(simulator, "org-new")
    exporter = start(orgs=[{**PARENT, "id": org}])
    for sub_org in ("org-new", "org-sub"):
        exporter.wait_until_up(sub_org)
    samples = exporter.wait_for(
        "its credits", lambda now: credits_of(now, "org-main") == [5.0, 0.0, None, 0.0]
    )
    simulator.world.add_run(org_id="org-main", status="FAILED")
    exporter.wait_for_finished(1, org_id="org-main")
    assert set(finished(samples)) == {"org-main", "org-sub", "org-new"}
    assert "configured twice" not in exporter.log


def test_backfill_writes_the_past_of_sub_orgs_too(
    simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Each under its own id and name; without their list nothing is written."""
    add(simulator, "org-new")
    # Not of this second: the API's `Date`, where the past ends, is cut to seconds.
    began = simulator.world.clock() - 3600
    simulator.world.add_run(
        org_id="org-new", status="COMPLETED", created_at=began, started_at=began, ended_at=began + 1
    )
    past = backfill(simulator.url, tmp_path, "--since=1d", orgs=[PARENT])
    assert 'org_id="org-new",org_name="Org-New"} 1.0' in past
    runs = [labels for name, labels in samples_of(past) if name == "invent_runs_finished_total"]
    assert {dict(labels)["org_id"] for labels in runs} == {"org-main", "org-new"}
    (tmp_path / "history.om").unlink()
    simulator.add_faults(Fault(kind="status", status=403, path="/orgs"))
    done = run_command(*arguments(simulator.url, tmp_path, "--since=1d", orgs=[PARENT]))
    assert (done.returncode, done.stdout) == (1, "")
    assert "c: sub-orgs: forbidden: HTTP 403" in done.stderr
