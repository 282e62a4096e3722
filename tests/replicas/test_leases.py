"""The statements of leases, on a real PostgreSQL and several connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import OperationalError

from invent_exporter.api.models import Run
from invent_exporter.errors import LeaseLostError
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import Bounds
from invent_exporter.ledger.heartbeat import (
    Leases,
    check_lease,
    move_lease,
    new_name,
    read_owners,
    shown_name,
)
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.postgres import Database, open_database
from invent_exporter.ledger.recorder import LedgerSettings
from tests.process.harness import wait_for

pytestmark = pytest.mark.system

IDS = ("org-0", "org-1", "org-2", "org-3")
LEASE_SECONDS = 600.0
"""No test waits for it: `run_out` lets it pass."""
SETTINGS = LedgerSettings(Bounds((1.0,), (1.0,), (1.0,)), 1000, False, 86400.0)  # noqa: FBT003


class Replica:
    """A replica's leases, on connections of its own."""

    def __init__(self, url: str, host: str) -> None:
        self.database: Database = open_database(url)
        self.name = new_name(host)
        self.leases = Leases(self.database, self.name, LEASE_SECONDS, time.monotonic)
        self.ledger = Ledger(self.database, SETTINGS, replica=self.name)

    def beat(self, *ids: str) -> dict[str, int]:
        """Do a heartbeat; return the epochs of what is held, by key."""
        return {key: epoch for epoch, key in self.leases.beat(ids or IDS).mine.items()}

    def run_out(self) -> None:
        """Let it be as if it had not been heard of for a lease."""
        with self.database.engine.begin() as connection:
            for table, name in ((schema.lease, "owner"), (schema.replica, "name")):
                mine = table.c[name] == self.name
                connection.execute(update(table).where(mine).values(until=0.0))

    @contextmanager
    def step(self) -> Iterator[Connection]:
        """Begin a step; of this one the server does not mind how long it pauses."""
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    def check(self, connection: Connection, epoch: int) -> str:
        """Look at a lease, as each step does first."""
        return check_lease(connection, epoch, self.name)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what a test opens."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def one(postgres_url: str, stack: ExitStack) -> Replica:
    """Make a replica."""
    return _replica(postgres_url, stack, "one")


@pytest.fixture
def other(postgres_url: str, stack: ExitStack) -> Replica:
    """Make another."""
    return _replica(postgres_url, stack, "other")


def _replica(url: str, stack: ExitStack, host: str) -> Replica:
    replica = Replica(url, host)
    stack.callback(replica.ledger.close)
    return replica


def test_a_restarted_process_is_not_taken_for_the_one_before() -> None:
    """Names are each start's own; people see the host."""
    first, second = new_name("pod-a"), new_name("pod-a")
    assert first != second
    assert shown_name(first) == shown_name(second) == "pod-a"


def test_a_lease_that_ran_out_is_taken_by_another_under_a_new_number(
    one: Replica, other: Replica
) -> None:
    """Until somebody takes it, it is still its owner's; afterwards it never is."""
    before = one.beat()
    assert before.keys() == {*IDS}
    assert other.beat() == {}
    assert one.beat() == before
    one.run_out()
    after = other.beat()
    assert after.keys() == {*IDS}
    assert not {*before.values()} & {*after.values()}
    assert one.beat() == {}
    with one.database.engine.begin() as connection, pytest.raises(LeaseLostError):
        one.check(connection, before["org-0"])
    with other.database.engine.connect() as connection:
        assert read_owners(connection) == dict.fromkeys(IDS, "other")


def test_after_the_database_was_away_each_finds_what_it_had(one: Replica, other: Replica) -> None:
    """Whoever comes back first takes nothing that another may come back for."""
    mine = one.beat()
    one.leases.release([mine["org-2"], mine["org-3"]])
    assert other.beat().keys() == {"org-2", "org-3"}
    one.run_out()
    other.run_out()
    assert one.beat().keys() == {"org-0", "org-1"}
    assert other.beat().keys() == {"org-2", "org-3"}


def test_a_heartbeat_may_take_longer_than_a_lease(one: Replica) -> None:
    """By a database so slow that what was just written has run out nothing is broken."""
    one.leases = Leases(one.database, one.name, -1.0, time.monotonic)
    assert one.beat().keys() == {*IDS}
    assert one.leases.beat(IDS).replicas == {one.name}


def test_a_step_holds_its_lease_and_no_renewal_waits_for_it(one: Replica, other: Replica) -> None:
    """Nobody takes what a step under way goes by, also when it has run out meanwhile."""
    mine = one.beat()
    with one.step() as step:
        assert one.check(step, mine["org-0"]) == "org-0"
        assert one.beat() == mine  # in another session, which would wait for ever
        one.run_out()
        assert other.beat().keys() == {*IDS} - {"org-0"}
    assert other.beat().keys() == {*IDS}


def test_a_step_that_goes_on_for_longer_than_a_lease_is_broken_off(
    one: Replica, other: Replica, postgres_url: str
) -> None:
    """Of a process that is frozen: no timeout of it or of the server may be running then."""
    one.beat()
    with psycopg.connect(postgres_url) as frozen:
        frozen.execute("SELECT org_id FROM lease WHERE org_id = 'org-0' FOR KEY SHARE")
        one.run_out()
        assert other.beat().keys() == {*IDS} - {"org-0"}
        frozen.execute("SELECT 1")

        def has_all() -> bool:
            briefly = Leases(other.database, other.name, 0.001, time.monotonic)
            return {*briefly.beat(IDS).mine.values()} == {*IDS}

        wait_for("all are taken", has_all)
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("SELECT 1")


def test_a_renewal_since_a_step_began_is_no_conflict(other: Replica) -> None:
    """Heartbeats come at any moment: no step may fail for one."""
    mine = other.beat()
    with other.step() as step:
        step.execute(select(schema.meta)).all()  # from here on it sees the past
        assert other.beat() == mine
        assert other.check(step, mine["org-0"]) == "org-0"
        step.execute(update(schema.meta).values(schema_version=schema.SCHEMA_VERSION))


def test_a_take_since_a_step_began_is_a_conflict(one: Replica, other: Replica) -> None:
    """The step runs again, and sees that it lost its lease."""
    mine = one.beat()
    with one.step() as step:
        step.execute(select(schema.meta)).all()
        one.run_out()
        assert other.beat().keys() == {*IDS}
        with pytest.raises(OperationalError) as failed:
            one.check(step, mine["org-0"])
    assert failed.value.orig is not None
    assert getattr(failed.value.orig, "sqlstate", None) == "40001"


def test_what_is_released_is_free_at_once(one: Replica, other: Replica) -> None:
    """And who leaves frees all, and counts no more."""
    mine = other.beat()
    other.leases.release([mine["org-0"], mine["org-1"]])
    assert one.beat().keys() == {"org-0", "org-1"}
    other.leases.leave()
    assert one.beat().keys() == {*IDS}
    assert one.leases.beat(IDS).replicas == {one.name}


def test_many_that_start_at_once_share_what_is_there(postgres_url: str, stack: ExitStack) -> None:
    """Each lease has one owner, whoever comes first, and nobody waits for another."""
    ids = tuple(f"org-{number}" for number in range(40))
    hosts = [_replica(postgres_url, stack, f"host-{number}") for number in range(4)]
    with ThreadPoolExecutor(len(hosts)) as pool:
        for _ in range(4):
            list(pool.map(lambda replica: replica.beat(*ids), hosts))
        held = list(pool.map(lambda replica: replica.beat(*ids), hosts))
    keys = [key for each in held for key in each]
    assert len(keys) == len({*keys})
    assert {*keys} == {*ids}


async def test_a_step_of_who_lost_the_lease_commits_nothing(one: Replica, other: Replica) -> None:
    """Not even when its heartbeat has not told it yet."""
    options: dict[str, Any] = {"walk_floor": 0.0}
    org = await one.ledger.load("org-0", lease=one.beat()["org-0"], **options)
    one.run_out()
    assert other.beat().keys() == {*IDS}
    run = Run(id="run-1", status="FAILED", created_at=datetime(2026, 11, 27, tzinfo=UTC))
    with pytest.raises(LeaseLostError):
        await one.ledger.record(org, [run], [], now=1.8e9)
    with pytest.raises(LeaseLostError):
        await one.ledger.load("org-0", lease=org.lease, **options)
    theirs = await other.ledger.load("org-0", lease=other.beat()["org-0"], **options)
    assert not await other.ledger.knows_any(theirs, ["run-1"])


async def test_a_lease_is_good_for_its_org_alone(other: Replica) -> None:
    """That of `c` opens no org whose id is known."""
    epochs = other.beat("c", "org-1")
    with pytest.raises(LeaseLostError):
        await other.ledger.load("org-1", walk_floor=0.0, lease=epochs["c"])


async def test_c_takes_its_lease_along_when_it_is_known(other: Replica, one: Replica) -> None:
    """Under the same number; and all replicas know from then on which org it is."""
    epochs = other.beat("c", "org-1")
    org = await other.ledger.load("c", walk_floor=0.0, lease=epochs["c"])
    named = await other.ledger.identify(org, "org-7", walk_floor=0.0)
    assert named is org
    assert other.beat("c", "org-1") == {"org-7": epochs["c"], "org-1": epochs["org-1"]}
    heard = one.leases.beat(("c", "org-7"))
    assert heard.keys == {"c": "org-7", "org-7": "org-7"}
    assert heard.owners["org-7"] == other.name


async def test_c_gives_way_to_the_replica_that_has_its_org(other: Replica, one: Replica) -> None:
    """What it noted without a name is forgotten, and nobody polls the org twice."""
    elsewhere = other.beat("org-7")
    mine = one.beat("c", "org-7")
    assert mine.keys() == {"c"}
    org = await one.ledger.load("c", walk_floor=0.0, lease=mine["c"])
    assert await one.ledger.identify(org, "org-7", walk_floor=0.0) is None
    assert one.leases.beat(("c", "org-7")).keys == {"c": "org-7", "org-7": "org-7"}
    assert other.beat("org-7") == elsewhere
    with other.database.engine.begin() as connection:
        assert not move_lease(connection, mine["c"], "org-7", one.name)
