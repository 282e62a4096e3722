"""Leases: whatever befalls replicas, no run is lost and no org is served twice."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from invent_exporter.ledger import lease
from invent_exporter.ledger.lease import RENEWALS, Heard, Share
from tests.effort import Effort
from tests.replicas.machine import LEASE_SECONDS, Database, Machine, WatchedOwnership


def check(machine: type[Machine], sequences: int, steps: int, *, anew: bool = False) -> None:
    """Run so many sequences, the same ones each time unless they are to be chosen `anew`."""
    size = settings(
        max_examples=sequences,
        stateful_step_count=steps,
        derandomize=not anew,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(machine, settings=size)


def test_no_org_is_served_or_counted_by_two(effort: Effort) -> None:
    """However replicas stop, lose the network, come and go; afterwards all are served evenly."""
    check(Machine, effort.choose(100, 1500), effort.choose(40, 60), anew=effort is Effort.LONG)


# -- bugs that it must find


class _Trusting(Database):
    checks_leases = False


class _EachItsOwnTime(Database):
    def clock_of(self, name: str) -> float:
        return self.clocks[name]()


class _FromTheReceipt(WatchedOwnership):
    async def _learn(self, heard: Heard) -> None:
        await super()._learn(msgspec.structs.replace(heard, sent_seconds=self._clock()))


class _ExtendedFirst(WatchedOwnership):
    async def _learn(self, heard: Heard) -> None:
        self._serve_until(heard.sent_seconds + LEASE_SECONDS * (1 - 1 / RENEWALS))
        await super()._learn(heard)


class _ReleasedFirst(WatchedOwnership):
    async def _settle(self) -> None:
        await self._in_thread(self._leases.release, tuple(self._standing.given_up))
        await super()._settle()


class _RegainedUnseen(WatchedOwnership):
    async def _learn(self, heard: Heard) -> None:
        held, kept = self._standing.held, {*heard.mine.values()}
        gone = {epoch: key for epoch, key in held.items() if key not in kept}
        self._standing.known = {**heard.mine, **gone}
        await super()._learn(heard)


def _rounded_down(orgs: int, replicas: int) -> Share:
    return Share(orgs // replicas, orgs // replicas)


def _of(
    *, ownership: type[WatchedOwnership] = WatchedOwnership, database: type[Database] = Database
) -> type[Machine]:
    kinds = {"ownership_kind": ownership, "database_kind": database}
    return type("Buggy", (Machine,), kinds)


@pytest.mark.system
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: _of(database=_Trusting), id="a step does not look at its lease"),
        pytest.param(lambda: _of(database=_EachItsOwnTime), id="times are a replica's own"),
        pytest.param(lambda: _of(ownership=_FromTheReceipt), id="served from the answer on"),
        pytest.param(lambda: _of(ownership=_ExtendedFirst), id="served on before it withdraws"),
        pytest.param(lambda: _of(ownership=_ReleasedFirst), id="released before it withdraws"),
        pytest.param(lambda: _of(ownership=_RegainedUnseen), id="regained, and not loaded anew"),
    ],
)
def test_the_sequences_find_a_bug_in_the_protocol(make: Callable[[], type[Machine]]) -> None:
    """Each of these breaks what the documentation argues with."""
    with pytest.raises(AssertionError):
        check(make(), 2000, 50)


def test_the_sequences_find_orgs_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that is rounded down leaves some over."""
    monkeypatch.setattr(lease, "share", _rounded_down)
    with pytest.raises(AssertionError):
        check(Machine, 50, 20)
