"""What happens to replicas, their networks and their database while the traffic goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.ha.fleet import Replica
from tests.ha.stage import LEASE_SECONDS, Stage
from tests.process.harness import wait_for


def kill(stage: Stage) -> None:
    """One is killed: others take over its orgs, and it gets a share again when it is back."""
    first, *others = stage.fleet.running
    first.kill()
    stage.wait_until_shared(others)
    stage.fleet.start([first])
    stage.wait_until_shared([first, *others])


def freeze(stage: Stage) -> None:
    """One stands still for longer than its leases, then goes on in the middle of a scrape."""
    first, *others = stage.fleet.running
    first.freeze()
    stage.wait_until_shared(others)
    wait_for("it alone is asked", lambda: stage.rounds.pending == {first.name})
    first.thaw()
    stage.wait_until_shared([first, *others])


def cut(stage: Stage) -> None:
    """Between one and the database everything is dropped, and no connection ends."""
    first, *others = stage.fleet.running
    first.network.is_dropping = True
    stage.wait_until_shared(others)
    first.network.heal()
    stage.wait_until_shared([first, *others])


def cut_all(stage: Stage) -> None:
    """None reaches the database: all orgs are withdrawn, and come back with it."""
    replicas = stage.fleet.running
    for replica in replicas:
        replica.network.is_dropping = True
    stage.rounds.wait_for("no org is served", lambda serving: not any(serving.values()))
    for replica in replicas:
        replica.network.heal()
    stage.wait_until_shared(replicas)


def delay(stage: Stage) -> None:
    """Between one and the database each answer takes long, sometimes too long for its leases."""
    first, *others = stage.fleet.running
    for seconds in (LEASE_SECONDS / 10, LEASE_SECONDS / 2):
        first.network.delay_seconds = seconds
        stage.live(2 * LEASE_SECONDS)
    first.network.heal()
    stage.wait_until_shared([first, *others])


def crash_database(stage: Stage) -> None:
    """Let the database end in the middle of everything, briefly and for longer than a lease."""
    replicas = stage.fleet.running
    for seconds in (0.0, 1.5 * LEASE_SECONDS):
        stage.database.stop(signal.SIGQUIT)
        stage.live(seconds)
        stage.database.start()
        stage.wait_until_shared(replicas)


def roll(stage: Stage) -> None:
    """Each is replaced as by a rolling update: another one is there before it is told to end."""
    old = stage.fleet.running
    spare = next(replica for replica in stage.fleet.replicas if not replica.is_running)
    for replica in old:
        stage.fleet.start([spare])
        wait_for("it is ready", partial(_is_ready, spare))
        assert replica.stop() == 0, replica.log
        spare = replica
    stage.wait_until_shared(stage.fleet.running)


def _is_ready(replica: Replica) -> bool:
    return replica.get("/-/ready").is_success


def scale(stage: Stage) -> None:
    """Three become one, one becomes five, five become two; and three again."""
    one, *rest = stage.fleet.replicas
    if not one.is_running:
        stage.fleet.start([one])
    for replica in rest:
        if replica.is_running:
            replica.signal(signal.SIGTERM)
    stage.wait_until_shared([one])
    for replica in rest:
        assert replica.process is None or replica.process.wait(60) == 0, replica.log
    stage.fleet.start(rest)
    stage.wait_until_shared([one, *rest])
    for replica in (one, *rest[2:]):
        replica.signal(signal.SIGTERM)
    stage.wait_until_shared(rest[:2])
    for replica in (one, *rest[2:]):
        assert replica.process is not None
        assert replica.process.wait(60) == 0, replica.log
    stage.fleet.start([one])
    stage.wait_until_shared([one, *rest[:2]])


SCENARIOS: Final[Mapping[str, Callable[[Stage], None]]] = {
    scenario.__name__: scenario
    for scenario in (kill, freeze, cut, cut_all, delay, crash_database, roll, scale)
}
