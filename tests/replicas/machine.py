"""Replicas that share a database, each with a clock of its own, and whatever may befall them.

The product's decisions (`ledger/lease.py`) and their order (`collector/ownership.py`) are the real
ones; the database, the collectors and time are models. Every wait of a replica ends when the
machine says so: a step of the database, its answer, and work of its own are apart, so that a
process may stand still, and others go on, between any two of them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, cast

import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from invent_exporter.collector.ownership import Ownership
from invent_exporter.collector.supervisor import Supervisor
from invent_exporter.collector.target import Target
from invent_exporter.config.key import Key
from invent_exporter.errors import LeaseLostError, StorageError
from invent_exporter.ledger.heartbeat import Leases
from invent_exporter.ledger.lease import Heard, to_take
from invent_exporter.telemetry import Telemetry

LEASE_SECONDS = 15.0
MOST_REPLICAS = 4
RATES = (1.0, 0.99, 1.01)
"""How fast the clocks of replicas go."""


@dataclass
class Row:
    """A row of the table `lease`."""

    owner: str | None = None
    epoch: int | None = None
    until: float = 0.0


class Database:
    """The tables, one transaction after the other, by one clock."""

    checks_leases = True
    """A step under a lease that is not its replica's is refused."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.clocks: dict[str, Callable[[], float]] = {}
        """Those of the replicas, which only a bug would ask."""
        self.rows: dict[str, Row] = {}
        self.alive: dict[str, float] = {}
        self.counters: dict[str, int] = {}
        self.heard: set[str] = set()
        self._epochs = count(1)

    def clock_of(self, _name: str) -> float:
        """Return the time by which a replica's heartbeat is judged."""
        return self.now()

    def beat(self, name: str, ids: Sequence[str], sent: float) -> Heard:
        """Do as `Leases.beat`."""
        now = self.clock_of(name)
        is_late = name in self.heard and self.alive.get(name, 0.0) < now
        self.heard.add(name)
        self.alive[name] = now + LEASE_SECONDS
        for row in self.rows.values():
            if row.owner == name:
                row.until = now + LEASE_SECONDS
        for key in ids:
            self.rows.setdefault(key, Row())
        self.alive = {each: until for each, until in self.alive.items() if until >= now}
        owners = {
            key: row.owner
            for key, row in self.rows.items()
            if row.owner is not None and row.until >= now
        }
        due = 0 if is_late else to_take(name, ids, owners, self.alive)
        for key in [key for key in ids if key not in owners][:due]:
            self.rows[key] = Row(name, next(self._epochs), now + LEASE_SECONDS)
            owners[key] = name
        mine = {
            row.epoch: key
            for key, row in self.rows.items()
            if row.owner == name and row.epoch is not None
        }
        return Heard(sent, {key: key for key in ids}, owners, set(self.alive), mine, {})

    def release(self, name: str, epochs: Iterable[int]) -> None:
        """Do as `Leases.release`."""
        for row in self.rows.values():
            if row.owner == name and row.epoch in {*epochs}:
                row.owner = None

    def leave(self, name: str) -> None:
        """Do as `Leases.leave`."""
        self.release(name, [row.epoch for row in self.rows.values() if row.epoch is not None])
        self.alive.pop(name, None)

    def check(self, name: str, key: str, epoch: int) -> None:
        """Do as `check_lease`."""
        row = self.rows[key]
        if self.checks_leases and (row.owner, row.epoch) != (name, epoch):
            raise LeaseLostError(key)


@dataclass
class Wait:
    """Something that a replica waits for: a step of the database, or work of its own."""

    step: Callable[[], Any]
    future: asyncio.Future[Any]
    outcome: Any = None
    is_done: bool = False


@dataclass
class Org:
    """What a replica's collector has in memory."""

    key: str
    epoch: int
    counter: int


class Collectors:
    """Stands for `Supervisor`: loads, serves and withdraws, in its order."""

    def __init__(self, replica: Replica) -> None:
        self.elsewhere: Mapping[str, float] = {}
        self.orgs: dict[str, Org] = {}
        """What is served."""
        self.wanted: dict[str, int] = {}
        """What is polled: the epochs of leases."""
        self._replica = replica
        self._lock = asyncio.Lock()

    async def apply(self, targets: Iterable[Target]) -> None:
        """End what is not wanted, begin what is new, and then withdraw what ended."""
        async with self._lock:
            self.wanted = {target.id: cast("int", target.lease) for target in targets}
            gone = self.orgs.keys() - self.wanted.keys()
            for key in self.orgs.keys() & self.wanted.keys():
                self.orgs[key].epoch = self.wanted[key]  # one that goes on is not loaded anew
            await self._load_missing()
            for key in sorted(gone):
                with suppress(StorageError):  # its own work, whatever became of the network
                    await self._replica.asks(lambda: None)
                del self.orgs[key]

    async def load_missing(self) -> None:
        """Try again to load what could not be loaded, as a poll does."""
        async with self._lock:
            await self._load_missing()

    async def _load_missing(self) -> None:
        for key, epoch in sorted(self.wanted.items()):  # as they are now: an end forgets them all
            if key not in self.orgs:
                with suppress(StorageError):
                    await self._load(key, epoch)

    async def _load(self, key: str, epoch: int) -> None:
        database = self._replica.database

        def load() -> int:
            database.check(self._replica.name, key, epoch)
            return database.counters.get(key, 0)

        self.orgs[key] = Org(key, epoch, await self._replica.asks(load))


class WatchedOwnership(Ownership):
    """Waits where the machine can hold it."""

    replica: Replica

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        replica, database = self.replica, self.replica.database
        if call.__name__ == "beat":
            sent = replica.clock()
            return await replica.asks(lambda: self.told(replica, arguments[0], sent))
        return await replica.asks(
            lambda: getattr(database, call.__name__)(replica.name, *arguments)
        )

    def told(self, replica: Replica, ids: Sequence[str], sent: float) -> Heard:
        """Let the database do a heartbeat."""
        return replica.database.beat(replica.name, ids, sent)


@dataclass
class Replica:
    """One process."""

    name: str
    database: Database
    offset: float
    rate: float
    keys: Sequence[str]
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    kind: type[WatchedOwnership] = WatchedOwnership
    serving_until: float = -math.inf
    is_stopped: bool = False
    is_cut: bool = False
    is_leaving: bool = False
    waiting: deque[Wait] = field(default_factory=deque)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    beating: asyncio.Task[Any] | None = None
    leaving: asyncio.Task[Any] | None = None
    loading: asyncio.Task[Any] | None = None

    def __post_init__(self) -> None:
        self.collectors = Collectors(self)
        self.ownership = self.kind(
            cast("Leases", _NamedLeases(self.name)),
            cast("Supervisor", self.collectors),
            cast("Telemetry", _NoTelemetry()),
            lease_seconds=LEASE_SECONDS,
            clock=self.clock,
            serve_until=partial(setattr, self, "serving_until"),
            on_listed=lambda: None,
        )
        self.ownership.replica = self
        self.database.clocks[self.name] = self.clock
        self.changing = self.spawn(self.ownership.settle_changes())
        self.beating = self.spawn(self._start())

    async def _start(self) -> None:
        try:
            await self.ownership.apply([_target(key) for key in self.keys])
        except StorageError:
            self.is_leaving = True  # a start that fails ends the process

    def clock(self) -> float:
        """Return its own time."""
        return self.offset + self.now() * self.rate

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let something go on beside."""
        task = self.loop.create_task(coroutine)
        self.tasks.append(task)
        return task

    async def asks(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Ask the database, and wait for its answer."""
        wait = Wait(step, self.loop.create_future())
        self.waiting.append(wait)
        return await wait.future

    def serves(self) -> dict[str, int]:
        """Answer a scrape."""
        if self.clock() >= self.serving_until:
            return {}
        return {org.key: org.counter for org in self.collectors.orgs.values()}


class _NamedLeases:
    """The names of calls that `WatchedOwnership` answers itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def beat(self) -> None: ...

    def release(self) -> None: ...

    def leave(self) -> None: ...


class _NoTelemetry:
    def leases_lost(self, leases: int) -> None: ...


def _target(key: str) -> Target:
    return Target(
        id=key,
        key=Key.literal("key"),
        poll_interval_seconds=30.0,
        lookback_seconds=1.0,
        reconcile_interval_seconds=900.0,
    )


numbers = st.integers(0, 100)
spans = st.sampled_from((0.1, 1.0, 3.0, 3.0, 3.0, 6.0, 11.9, 12.0, 12.5, 15.0, 16.0, 40.0))


class Machine(RuleBasedStateMachine):
    """Some replicas, one database, any interleaving."""

    database_kind = Database
    ownership_kind = WatchedOwnership

    def __init__(self) -> None:
        super().__init__()
        self.logging = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
        self.loop = asyncio.new_event_loop()
        self.time = 0.0
        self.loop.time = lambda: self.time  # type: ignore[method-assign]
        self.database = self.database_kind(lambda: self.time + 1e9)
        self.replicas: list[Replica] = []
        self.keys: Sequence[str] = ()
        self.truth: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.serial = 0

    def teardown(self) -> None:
        """Heal everything, see that all are served evenly, and clear up."""
        try:
            if self.keys:
                self._heal()
        finally:
            for replica in self.replicas:
                self._end(replica)
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            structlog.configure(**self.logging)

    # -- what may happen

    @initialize(orgs=st.integers(1, 9), offset=st.floats(-1e6, 1e6), rate=st.sampled_from(RATES))
    def begin(self, orgs: int, offset: float, rate: float) -> None:
        """Let the first replica start."""
        self.keys = [f"org-{number}" for number in range(orgs)]
        self.truth = dict.fromkeys(self.keys, 0)
        self.start(offset, rate)

    @precondition(lambda self: len(self.replicas) < MOST_REPLICAS)
    @rule(offset=st.floats(-1e6, 1e6), rate=st.sampled_from(RATES))
    def start(self, offset: float, rate: float) -> None:
        """Another one starts."""
        self.serial += 1
        self.replicas.append(
            Replica(
                f"replica-{self.serial}",
                self.database,
                offset,
                rate,
                self.keys,
                self.loop,
                lambda: self.time,
                self.ownership_kind,
            )
        )
        self._drain()

    @rule(seconds=spans, beats=st.booleans())
    def wait(self, seconds: float, beats: bool) -> None:  # noqa: FBT001
        """Time passes, in which all that can go on mostly does."""
        if not beats:
            self.time += seconds
            return
        end = self.time + seconds
        while self.time < end:
            self.time = min(end, self.time + LEASE_SECONDS / 5)
            for number in range(len(self.replicas)):
                self.beat(number)
                self.go_on(number, 6)

    @precondition(lambda self: self.replicas)
    @rule(which=numbers)
    def beat(self, which: int) -> None:
        """Let a heartbeat be due."""
        replica = self._replica(which)
        is_due = replica.beating is None or replica.beating.done()
        if is_due and not replica.is_stopped and not replica.is_leaving:
            replica.beating = replica.spawn(replica.ownership.beat())
            self._drain()

    @precondition(lambda self: self.replicas)
    @rule(which=numbers, steps=st.integers(1, 6))
    def go_on(self, which: int, steps: int) -> None:
        """Let what a replica waits for come, so many times."""
        replica = self._replica(which)
        for _ in range(steps):
            if replica.waiting and not replica.is_stopped:
                self._step(replica, replica.waiting[0])
                self._answer(replica)

    @precondition(lambda self: self.replicas)
    @rule(
        which=numbers,
        before=st.integers(0, 3),
        seconds=spans,
        stops=st.booleans(),
        after=st.integers(0, 3),
    )
    def fall_behind(
        self,
        which: int,
        before: int,
        seconds: float,
        stops: bool,  # noqa: FBT001
        after: int,
    ) -> None:
        """Let a heartbeat of one come so far, all others go on meanwhile, and then its next."""
        one = self._replica(which)
        others = [number for number, each in enumerate(self.replicas) if each is not one]
        for number in others:
            self.go_on(number, 12)
        self.beat(which)
        self.go_on(which, before)
        was_stopped, one.is_stopped = one.is_stopped, one.is_stopped or stops
        end = self.time + seconds
        while self.time < end:
            self.time = min(end, self.time + LEASE_SECONDS / 5)
            for number in others:
                self.beat(number)
                self.go_on(number, 12)
                self.each_org_is_served_once()
        one.is_stopped = was_stopped
        self.beat(which)
        self.go_on(which, after)

    @precondition(lambda self: self.replicas)
    @rule(which=numbers)
    def only_do(self, which: int) -> None:
        """Let the database do what a replica asked for, and its answer be on its way."""
        replica = self._replica(which)
        if replica.waiting:
            self._step(replica, replica.waiting[0])

    @precondition(lambda self: self.replicas)
    @rule(which=numbers)
    def only_answer(self, which: int) -> None:
        """Let an answer arrive."""
        replica = self._replica(which)
        if replica.waiting and replica.waiting[0].is_done and not replica.is_stopped:
            self._answer(replica)

    @precondition(lambda self: self.replicas)
    @rule(which=numbers, what=st.sampled_from(("cut", "mend", "stop", "go on")))
    def trouble(self, which: int, what: str) -> None:
        """Break or mend a replica's network, or let it stand still or go on."""
        replica = self._replica(which)
        if what in ("cut", "mend"):
            replica.is_cut = what == "cut"
        else:
            replica.is_stopped = what == "stop"

    @precondition(lambda self: self.replicas)
    @rule(which=numbers, politely=st.booleans())
    def end(self, which: int, politely: bool) -> None:  # noqa: FBT001
        """Kill a process, or tell it to end: then it polls no more, and leaves."""
        replica = self._replica(which)
        if not politely:
            self.replicas.remove(replica)
            self._end(replica)
        elif not replica.is_leaving and not replica.is_stopped:
            replica.is_leaving = True
            replica.collectors.wanted.clear()
            if replica.beating is not None:
                replica.beating.cancel()
            replica.changing.cancel()
            replica.leaving = replica.spawn(replica.ownership.leave())
            self._drain()

    @precondition(lambda self: self.replicas)
    @rule(which=numbers, org=numbers)
    def poll(self, which: int, org: int) -> None:
        """Count a run: from what is in memory, in one transaction."""
        replica = self._replica(which)
        polled = sorted(replica.collectors.wanted.keys() & replica.collectors.orgs.keys())
        if replica.is_stopped or replica.is_leaving:
            return
        if replica.collectors.wanted.keys() - replica.collectors.orgs.keys():
            replica.loading = replica.spawn(replica.collectors.load_missing())
            self._drain()
        if not polled or replica.is_cut:
            return
        known = replica.collectors.orgs[polled[org % len(polled)]]
        try:
            self.database.check(replica.name, known.key, known.epoch)
        except LeaseLostError:
            return
        self.truth[known.key] += 1
        known.counter += 1
        self.database.counters[known.key] = known.counter

    # -- what must hold at any moment

    @invariant()
    def nothing_is_lost(self) -> None:
        """See that all that happened is counted: nobody wrote over another's numbers."""
        assert {key: self.database.counters.get(key, 0) for key in self.keys} == self.truth

    @invariant()
    def each_org_is_served_once(self) -> None:
        """At no moment by two, and no counter ever goes back."""
        served: set[str] = set()
        for replica in self.replicas:
            answer = {} if replica.is_stopped else replica.serves()
            assert not served & answer.keys(), f"served twice: {served & answer.keys()}"
            served |= answer.keys()
            for key, counter in answer.items():
                assert counter >= self.seen.get(key, 0), f"went back: {key}"
                self.seen[key] = counter

    def _heal(self) -> None:
        """When all works again, each org is served, and nobody has two more than another."""
        for replica in self.replicas:
            replica.is_cut = replica.is_stopped = False
        for _ in range(60):
            self.time += LEASE_SECONDS / 5
            for replica in [each for each in self.replicas if each.is_leaving]:
                self.end(self.replicas.index(replica), politely=False)
            if not self.replicas:
                self.start(0.0, 1.0)
            for number in range(len(self.replicas)):
                self.beat(number)
                self.poll(number, 0)
                self.go_on(number, 30)
                self.each_org_is_served_once()
        self.nothing_is_lost()
        answers = [replica.serves() for replica in self.replicas]
        assert sorted(key for answer in answers for key in answer) == sorted(self.keys), answers
        sizes = [len(answer) for answer in answers]
        assert max(sizes) - min(sizes) <= 1, sizes
        assert {key: value for answer in answers for key, value in answer.items()} == self.truth

    # -- how it happens

    def _replica(self, which: int) -> Replica:
        return self.replicas[which % len(self.replicas)]

    def _step(self, replica: Replica, wait: Wait) -> None:
        if wait.is_done:
            return
        wait.is_done = True
        if replica.is_cut:
            wait.outcome = StorageError("cut")
            return
        try:
            wait.outcome = wait.step()
        except StorageError as error:
            wait.outcome = error

    def _answer(self, replica: Replica) -> None:
        wait = replica.waiting.popleft()
        if not wait.future.done():
            outcome = StorageError("cut") if replica.is_cut else wait.outcome
            if isinstance(outcome, StorageError):
                wait.future.set_exception(outcome)
            else:
                wait.future.set_result(outcome)
        self._drain()

    def _drain(self) -> None:
        """Let all go on until it waits for the machine."""

        async def yielded() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(yielded())
        for replica in self.replicas:
            for task in replica.tasks:
                if task.done() and not task.cancelled():
                    task.result()

    def _end(self, replica: Replica) -> None:
        for task in replica.tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*replica.tasks, return_exceptions=True))
