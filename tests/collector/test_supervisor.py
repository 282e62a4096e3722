"""The set of orgs changes while everything runs, and no number is wrong for it."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from invent_exporter.api.listing import RunsApi
from invent_exporter.app import Exporter
from invent_exporter.collector.loop import Collector
from invent_exporter.collector.target import Target
from invent_exporter.config.load import ApiConfig, Config, Key, MetricsConfig, OrgConfig
from invent_exporter.errors import ApiError, StorageError
from invent_exporter.ledger.recorded import Recorded
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Org, Settings, SimulatorServer, World, quiet_world
from tests.process.harness import Samples, parse
from tests.process.traffic import faults

KEYS = {"c": "key-main", "org-main": "key-main", "org-a": "key-a", "org-b": "key-b"}
ORGS = ("org-main", "org-a", "org-b")
DEADLINE_SECONDS = 90.0


def target(target_id: str, *, name: str | None = None, interval_seconds: float = 0.05) -> Target:
    """Make a target that is polled fast."""
    return Target(
        id=target_id,
        name=name,
        key=Key.literal(KEYS[target_id]),
        poll_interval_seconds=interval_seconds,
        lookback_seconds=86400.0,
        reconcile_interval_seconds=900.0,
    )


class Desk:
    """A running exporter, and the API that it reads."""

    def __init__(self, exporter: Exporter, server: SimulatorServer) -> None:
        self.exporter = exporter
        self.server = server
        self.highest: dict[object, float] = {}
        self.expected = dict.fromkeys(ORGS, 0)

    @property
    def world(self) -> World:
        """The truth."""
        return self.server.world

    @property
    def polled(self) -> list[str]:
        """The targets that are polled."""
        return [each.target.id for each in self.exporter.supervisor.collectors]

    async def apply(self, *targets: str | Target) -> None:
        """Poll these from now on."""
        await self.exporter.supervisor.apply(
            [each if isinstance(each, Target) else target(each) for each in targets]
        )

    def finish(self, org_id: str, status: str = "FAILED") -> None:
        """Let a run come and end."""
        self.world.add_run(org_id=org_id, status=status, workflow_id="wf")  # type: ignore[arg-type]
        self.expected[org_id] += 1

    async def scrape(self) -> Samples:
        """Scrape; no counter of runs may ever be lower than before."""
        answer = await self.exporter.exposition.answer("text/plain", "")
        self.exporter.exposition.acknowledge(answer.generation)
        samples = parse(answer.body.decode())
        for key, value in samples.items():
            if key[0] == "invent_runs_finished_total":
                assert value >= self.highest.get(key, 0.0), f"went back: {key}"
                self.highest[key] = value
        return samples

    async def wait_for(self, condition: Callable[[Samples], bool]) -> Samples:
        """Scrape until it holds."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            samples = await self.scrape()
            while not condition(samples):
                samples = await self.scrape()
                await asyncio.sleep(0.02)
        return samples

    async def wait_until_up(self, org_ids: Iterable[str]) -> None:
        """Wait for a complete poll of each."""
        await self.wait_for(
            lambda now: all(now.find("invent_up", org_id=each) == 1 for each in org_ids)
        )

    async def wait_until_exact(self) -> None:
        """Wait until every org's count is the truth, and see that it stays so."""
        await self.wait_for(lambda now: counted(now) == self.expected)
        polls = len(self.server.requests)
        await self.wait_for(lambda _: len(self.server.requests) > polls + 12)
        assert counted(await self.scrape()) == self.expected


def counted(samples: Samples) -> dict[str, int]:
    """Add up what is served as finished."""
    return {org: int(samples.total("invent_runs_finished_total", org_id=org)) for org in ORGS}


def org_ids(samples: Samples) -> set[str]:
    """List the orgs that any series names."""
    return {value for _, labels in samples for name, value in labels if name == "org_id"}


@asynccontextmanager
async def running(folder: Path, *first: str) -> AsyncIterator[Desk]:
    """Run an exporter on three orgs with a bit of history, polling `first`."""
    world = quiet_world()
    for org_id in ORGS[1:]:
        world.add_org(Org(id=org_id, name=org_id, key=KEYS[org_id]))
    for org_id in ORGS:
        world.add_run(org_id=org_id, status="COMPLETED", workflow_id="wf")
    with SimulatorServer(world, settings=Settings(rate_limit_per_minute=None)) as server:
        config = Config(
            api=ApiConfig(url=server.url, requests_per_minute=1e6),
            orgs=tuple(OrgConfig(id=each, key=Key.literal(KEYS[each])) for each in first),
            poll_interval_seconds=0.05,
            state_url=f"sqlite:///{folder / 'state.db'}",
            metrics=MetricsConfig(newborn_hold_seconds=0.0),
        )
        exporter = Exporter(config, Redactor())
        await exporter.load()
        stop = asyncio.Event()
        life = asyncio.create_task(exporter.run(stop))
        try:
            yield Desk(exporter, server)
        finally:
            stop.set()
            await life
            await exporter.close()


@pytest.fixture
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """Return a running exporter; see `polling`."""
    async with running(tmp_path, *getattr(request, "param", ())) as desk:
        yield desk


def polling(*org_ids: str) -> pytest.MarkDecorator:
    """Let the desk of a test begin with these orgs; without it, with none."""
    return pytest.mark.parametrize("desk", [org_ids], indirect=True)


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return what is logged, which is shown nowhere."""
    with capture_logs() as lines:
        yield lines


@polling("c", "org-a", "org-b")
@pytest.mark.parametrize("seed", range(3))
async def test_numbers_are_exact_while_orgs_come_change_go_and_return(
    desk: Desk, seed: int
) -> None:
    """Any set, in any order, under traffic and faults; what happened meanwhile is counted."""
    random = Random(seed)
    await desk.wait_until_up(ORGS)
    desk.server.add_faults(*faults())
    open_runs: list[tuple[str, str]] = []
    for _ in range(25):
        chosen = random.sample(sorted(KEYS), random.randint(0, len(KEYS)))
        pick = random.choice
        names, seconds = (None, "A name"), (0.03, 0.1)
        await desk.apply(
            *(target(each, name=pick(names), interval_seconds=pick(seconds)) for each in chosen)
        )
        served = org_ids(await desk.scrape())
        gone = set(ORGS) - {"org-main" if each == "c" else each for each in chosen}
        assert not served & gone, "a withdrawn org is served"
        for _ in range(random.randrange(4)):
            org_id = random.choice(ORGS)
            if random.random() < 0.5:
                desk.finish(org_id, random.choice(("FAILED", "COMPLETED")))
            else:
                run_id = desk.world.add_run(org_id=org_id, status="RUNNING", workflow_id="wf")
                open_runs.append((org_id, run_id))
        if open_runs and random.random() < 0.5:
            org_id, run_id = open_runs.pop()
            desk.world.finish_run(run_id, "COMPLETED")
            desk.expected[org_id] += 1
        await asyncio.sleep(random.choice((0.0, 0.0, 0.05, 0.3)))
    desk.server.faults.clear()
    await desk.apply("c", "org-a", "org-b")
    await desk.wait_until_exact()


@polling("org-a", "org-b")
async def test_without_replicas_all_that_is_polled_is_served_here(desk: Desk) -> None:
    """`invent_replica_orgs` says how many orgs that are."""
    await desk.wait_for(lambda now: now.find("invent_replica_orgs") == 2)
    await desk.apply("org-a")
    # The exporter's own metrics are up to a second old.
    await desk.wait_for(lambda now: now.find("invent_replica_orgs") == 1)


@polling("org-a", "org-b")
async def test_an_org_leaves_metrics_whole_and_comes_back_where_it_was(desk: Desk) -> None:
    """Its counters go on, with what happened meanwhile; another org notices nothing."""
    await desk.wait_until_up(["org-a", "org-b"])
    for org_id in ("org-a", "org-b"):
        desk.finish(org_id)
    await desk.wait_for(lambda now: counted(now) == desk.expected)
    await desk.apply("org-b")
    samples = await desk.scrape()
    assert org_ids(samples) == {"org-b"}
    assert counted(samples)["org-b"] == 1
    for _ in range(3):
        desk.finish("org-a")
    asked = len(desk.server.requests)
    # One that was under way may still arrive; none is asked for any more.
    await desk.wait_for(lambda _: len(desk.server.requests) > asked + 6)
    assert all("org-b" in each.path for each in desk.server.requests[asked + 2 :])
    await desk.apply("org-a", "org-b")
    # What was served before is served at once; the rest follows with the first poll.
    assert counted(await desk.scrape())["org-a"] >= 1
    await desk.wait_until_exact()


@polling("org-a")
async def test_a_series_that_was_held_when_its_org_left_is_held_again(desk: Desk) -> None:
    """Newborn series are released after their org came back, not stuck at 0 and not shown early."""
    await desk.wait_until_up(["org-a"])
    desk.world.add_run(org_id="org-a", status="FAILED", workflow_id="wf-new")

    async def look() -> Samples:
        answer = await desk.exporter.exposition.answer("text/plain", "")
        return parse(answer.body.decode())

    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (await look()).among("invent_runs_finished_total", workflow_id="wf-new"):
            await desk.exporter.clocks.sleep(0.02)
    assert (await look()).total("invent_runs_finished_total") == 0
    await desk.apply()
    await desk.apply("org-a")
    assert (await look()).total("invent_runs_finished_total") == 0
    await desk.wait_for(lambda now: now.total("invent_runs_finished_total") == 1)


@polling("org-a")
@pytest.mark.parametrize("steps", list(permutations((("c",), ("org-main",), ("c", "org-main")))))
async def test_c_and_its_real_id_take_over_from_each_other(
    desk: Desk, steps: tuple[tuple[str, ...], ...]
) -> None:
    """In whatever order they come and go, the org is polled once, and each run counts once."""
    for step in steps:
        await desk.apply(*step)
        await desk.wait_until_up(["org-main"])
        desk.finish("org-main")
        await desk.wait_for(lambda now: counted(now) == desk.expected)
        await desk.wait_for(lambda _: len(desk.polled) == 1)
    await desk.wait_until_exact()


@polling("c", "org-main")
async def test_of_two_targets_that_are_one_org_the_earlier_one_polls(
    desk: Desk, lines: list[MutableMapping[str, Any]]
) -> None:
    """The later one is said once to be dropped, not at every change, and waits for its turn."""
    await desk.wait_for(lambda _: len(desk.polled) == 1)
    await desk.apply("c", "org-main", "org-a")
    await desk.apply("c", "org-main")
    assert desk.polled == ["c"]
    await desk.apply("org-main", "c")
    assert desk.polled == ["org-main"]
    await desk.apply("c")
    await desk.wait_until_up(["org-main"])
    dropped = [line["entry"] for line in lines if "configured twice" in line["event"]]
    assert dropped == ["org-main", "c"]


@polling("org-main", "c")
async def test_c_gives_way_when_it_turns_out_to_be_an_earlier_target(desk: Desk) -> None:
    """Its own runs say so, while the other one is there already."""
    await desk.wait_for(lambda _: desk.polled == ["org-main"])
    await desk.wait_until_up(["org-main"])
    desk.finish("org-main")
    await desk.wait_until_exact()


@polling("org-main")
async def test_an_org_that_is_withdrawn_while_c_turns_out_to_be_it_leaves_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target that gave way had served it; `c` has not taken its ledger over yet."""
    ledger, is_named = desk.exporter.ledger, asyncio.Event()
    identify = ledger.identify

    async def hold(*args: Any, **more: Any) -> None:  # noqa: ANN401
        await identify(*args, **more)
        is_named.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ledger, "identify", hold)
    await desk.wait_until_up(["org-main"])
    await desk.apply("c", "org-main")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await is_named.wait()
    assert desk.polled == ["c"]
    await desk.apply("org-b")
    assert org_ids(await desk.scrape()) <= {"org-b"}
    monkeypatch.setattr(ledger, "identify", identify)
    desk.finish("org-main")
    await desk.apply("c")
    await desk.wait_until_exact()


@polling("c", "org-main")
async def test_who_stood_back_for_c_polls_the_org_that_c_is_no_longer(desk: Desk) -> None:
    """The key of `c` may be replaced by another org's; nobody else would read what it was."""
    await desk.wait_until_up(["org-main"])
    await desk.wait_for(lambda _: len(desk.polled) == 1)
    desk.finish("org-main")
    await desk.wait_for(lambda now: counted(now) == desk.expected)
    await desk.apply(replace(target("c"), key=Key.literal("key-a")), "org-main")
    await desk.wait_for(lambda _: len(desk.polled) == 2)
    await desk.wait_until_up(["org-main", "org-a"])
    for org_id in ("org-main", "org-a"):
        desk.finish(org_id)
    await desk.wait_until_exact()


async def test_a_changed_name_shows_and_a_changed_interval_begins_at_once(desk: Desk) -> None:
    """Nobody waits for the end of an interval that was too long; an equal target asks nothing."""
    await desk.apply(target("org-a", interval_seconds=3600.0))
    await desk.wait_until_up(["org-a"])
    asked = len(desk.server.requests)
    for _ in range(5):
        await desk.apply(target("org-a", interval_seconds=3600.0))
        await asyncio.sleep(0)
    assert len(desk.server.requests) == asked
    await desk.apply(target("org-a", name="Acme", interval_seconds=0.05))
    assert (await desk.scrape()).find("invent_org_info", org_id="org-a", org_name="Acme") == 1
    desk.finish("org-a")
    await desk.wait_for(lambda now: counted(now) == desk.expected)


@polling("org-a")
async def test_an_org_that_comes_later_does_not_take_readiness_away(desk: Desk) -> None:
    """Kubernetes would take the metrics of all orgs away."""
    await desk.wait_for(lambda _: desk.exporter.supervisor.ready())
    await desk.apply("org-a", "org-b")
    assert desk.exporter.supervisor.ready()


@polling("org-b")
async def test_an_org_that_can_not_be_loaded_while_running_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that, at the start, it ends the start."""
    await desk.wait_until_up(["org-b"])
    ledger = desk.exporter.ledger
    load, left = ledger.load, [2]

    async def fail_twice(org_id: str, **options: Any) -> object:  # noqa: ANN401
        if left[0]:
            left[0] -= 1
            raise StorageError("disk is full")
        return await load(org_id, **options)

    monkeypatch.setattr(ledger, "load", fail_twice)
    await desk.apply("org-a")
    await desk.wait_until_up(["org-a"])
    assert left == [0]


async def test_what_a_superseded_target_had_not_served_yet_is_served_by_the_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was committed, but not published when its target gave way, shows all the same."""
    exporter, is_down, is_held = desk.exporter, [True], asyncio.Event()
    listing, record = RunsApi.listing, exporter.ledger.record

    def listing_unless_down(api: RunsApi, org_id: str, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        if org_id == "c" and is_down[0]:
            raise ApiError("server_error", "down")
        return listing(api, org_id, *args, **more)

    async def hold(*args: Any, **more: Any) -> Recorded:  # noqa: ANN401
        recorded = await record(*args, **more)
        task = asyncio.current_task()
        if task is None or task.get_name() != "org-main" or not recorded.changed:
            return recorded
        monkeypatch.setattr(exporter.ledger, "record", record)
        is_held.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(RunsApi, "listing", listing_unless_down)
    await desk.apply("c", target("org-main", interval_seconds=0.03))
    await desk.wait_until_up(["org-main"])
    monkeypatch.setattr(exporter.ledger, "record", hold)
    desk.finish("org-main")
    async with asyncio.timeout(DEADLINE_SECONDS):
        await is_held.wait()
    is_down[0] = False
    await desk.wait_for(lambda now: counted(now) == desk.expected)
    assert desk.polled == ["c"]


async def test_an_org_is_polled_by_another_also_while_c_turns_out_to_be_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that asks meanwhile, in the ledger's thread, must not take that org's runs."""
    supervisor, is_down, seen = desk.exporter.supervisor, [True], list[bool]()
    listing, forget_org = RunsApi.listing, desk.exporter.telemetry.forget_org

    def listing_unless_down(api: RunsApi, org_id: str, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        if org_id == "c" and is_down[0]:
            raise ApiError("server_error", "down")
        return listing(api, org_id, *args, **more)

    def look(org_id: str) -> None:
        seen.append("org-main" in others)
        forget_org(org_id)

    monkeypatch.setattr(RunsApi, "listing", listing_unless_down)
    await desk.apply("c", "org-main", "org-a")
    await desk.wait_until_up(["org-main", "org-a"])
    others = supervisor.others(supervisor.collectors[-1]._poller)
    monkeypatch.setattr(desk.exporter.telemetry, "forget_org", look)
    is_down[0] = False
    await desk.wait_for(lambda _: desk.polled == ["c", "org-a"])
    assert all(seen)
    assert seen


@polling("org-a", "org-b")
async def test_what_is_asked_of_another_org_may_be_lost_to_it_at_any_moment(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's thread asks; the loop's may let another replica have the org between two looks.

    Then nobody knows any more until when its runs are not its own.
    """
    supervisor = desk.exporter.supervisor
    await desk.wait_until_up(["org-a", "org-b"])
    poller, looks = supervisor.collectors[0]._poller, [supervisor.collectors[1].org]
    monkeypatch.setattr(Collector, "org", property(lambda _: looks.pop() if looks else None))
    assert supervisor.others(poller)["org-b"] > -math.inf


async def test_of_an_org_that_is_withdrawn_nothing_stays_in_memory_until_it_is_collected(
    desk: Desk,
) -> None:
    """Garbage is collected seldom, and orgs may come and go between replicas."""
    await desk.apply(target("org-a", interval_seconds=3600.0))
    await desk.wait_for(lambda _: desk.exporter.supervisor.ready())
    (collector,) = desk.exporter.supervisor.collectors
    assert collector.org is not None
    is_there = weakref.ref(collector.org)
    del collector
    gc.collect()  # the failures of before, if there were any, held it
    gc.disable()
    try:
        await desk.apply()
        await desk.wait_for(lambda _: is_there() is None)
    finally:
        gc.enable()
