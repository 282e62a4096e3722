"""Kill the exporter again and again while the API is sick: the numbers stay exact."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import pytest

from invent_exporter.simulator import Order, Settings, SimulatorServer, Usage
from tests.effort import Effort
from tests.process.expected import differences
from tests.process.harness import DEADLINE_SECONDS, Exporter, make_config, wait_for
from tests.process.traffic import ORG, Trouble, faults, lively_world
from tests.process.watcher import Watcher

ORDERS: tuple[Order, ...] = ("created", "updated", "oldest", "mixed")
"""The quick form takes the first two without, the last two with the count header."""


@pytest.mark.parametrize("count", [True, False], ids=["count", "no_count"])
def test_counts_stay_exact_when_killed(
    tmp_path: Path,
    count: bool,  # noqa: FBT001 - a parameter of the test
    effort: Effort,
) -> None:
    """Killed at random moments, each order of the listing, every fault: exact in the end.

    No scrape ever sees a number go back, or one that is born above 0. The orders run side by side.
    """
    orders = effort.choose(ORDERS[2:] if count else ORDERS[:2], ORDERS)
    kills = effort.choose(1, 10 if count else 5)
    with ThreadPoolExecutor(len(orders)) as pool:
        results = [
            pool.submit(_live_and_die, tmp_path, order, count=count, kills=kills)
            for order in orders
        ]
        for result in results:
            result.result()


def _live_and_die(tmp_path: Path, order: Order, *, count: bool, kills: int) -> None:
    folder = tmp_path / order
    folder.mkdir()
    seed = f"{order}:{count}"
    random = Random(seed)
    world = lively_world(sum(seed.encode()))
    settings = Settings(order=order, count=count, rate_limit_per_minute=None)
    with SimulatorServer(world, settings=settings) as simulator:
        config = make_config(
            simulator.url,
            folder,
            api={"timeout": "2s"},
            metrics={"newborn_hold": "300ms"},
            reconcile_interval="1s",
        )
        trouble = Trouble(simulator, sum(seed.encode()))
        is_unlearned = order == "mixed" and not count
        trouble.polls_to_know = 3 if is_unlearned else 2
        watcher = Watcher()
        with Exporter(folder, config, watcher=watcher) as exporter:
            exporter.wait_until_up()
            # First contact is complete: what comes now must be counted.
            since = time.time() - 0.002  # the world rounds to milliseconds
            world.automatic = True
            simulator.add_faults(*faults())
            for number in range(kills):
                # Some die before they have read anything, some have some polls behind them.
                seconds = random.choice((0.0, random.uniform(0.0, 1.0), random.uniform(0.0, 3.0)))
                _let_it_live(seconds, number % 2, exporter, trouble)
                if number == kills - 1:  # the test is only worth something when the trouble came
                    exporter.wait_until_listening()
                    come = partial(_has_trouble_come, exporter, trouble)
                    wait_for("trouble of each kind", come, 5 * DEADLINE_SECONDS)
                exporter.kill()
                exporter.launch()
                if random.random() < 0.8:
                    exporter.wait_until_listening()
            trouble.end()
            simulator.faults.clear()
            exporter.wait_until_listening()
            _settle(exporter, simulator, since)
            _revise_downward(exporter, simulator, since)
            assert watcher.wrong == []
            assert watcher.scrapes > kills


def _let_it_live(seconds: float, polls: int, exporter: Exporter, trouble: Trouble) -> None:
    """Pass the time until the kill, and some complete polls, with trouble now and then."""
    until = time.monotonic() + seconds
    enough = trouble.polls + polls
    limit = until + 10
    while time.monotonic() < until or (trouble.polls < enough and time.monotonic() < limit):
        trouble.polled(exporter.try_to_scrape())
        trouble.make()
        time.sleep(0.3)


def _has_trouble_come(exporter: Exporter, trouble: Trouble) -> bool:
    """Make more trouble; tell whether each kind came, faults of the service among it."""
    trouble.polled(exporter.try_to_scrape())
    trouble.make()
    time.sleep(0.2)  # the pace of the trouble
    return trouble.has_come


def _settle(exporter: Exporter, simulator: SimulatorServer, since: float) -> None:
    """Wait until all is exact; then let polls and a reconciliation pass, and see that it stays."""
    wrong = ["nothing was compared"]

    def is_exact() -> bool:
        nonlocal wrong
        wrong = differences(exporter.scrape(), simulator.world.truth(since))
        return not wrong

    try:
        wait_for("the numbers are exact", is_exact)
    except AssertionError as error:
        lines = "\n".join([*_uncounted(exporter, simulator, since), *wrong[:20]])
        raise AssertionError(f"{error}\n{lines}\n{exporter.log[-2000:]}") from error
    exporter.wait_for_reconciliation()
    assert differences(exporter.scrape(), simulator.world.truth(since)) == []


def _uncounted(exporter: Exporter, simulator: SimulatorServer, since: float) -> list[str]:
    """Say which runs the ledger has not counted, to tell why."""
    with closing(sqlite3.connect(exporter.folder / "state.db")) as connection:
        rows = connection.execute("SELECT run_id FROM run WHERE counted = 1").fetchall()
    counted = {run_id for (run_id,) in rows}
    runs = simulator.world.truth(since).runs
    return [str(run) for run in runs if run.finished and run.id not in counted]


def _revise_downward(exporter: Exporter, simulator: SimulatorServer, since: float) -> None:
    """Usage that shrinks after it was counted is told apart, and no counter follows it down."""
    world = simulator.world
    before = exporter.scrape()
    truth = world.truth(since)
    costly = [
        run
        for run in truth.runs
        if run.finished and run.state == "listed" and run.usages and run.created_at > since
    ]
    taken = 0.0
    for run in costly[-3:]:
        usage = run.usages[-1]
        world.revise_usage(run.id, Usage((usage.ai + usage.other) / 2, usage.ai / 2))
        taken += (usage.ai + usage.other) / 2
    name = "invent_credit_corrections_total"
    corrections = before.find(name, org_id=ORG) or 0.0
    after = exporter.wait_for(
        "the corrections are counted",
        lambda now: abs((now.find(name, org_id=ORG) or 0.0) - corrections - taken) < 1e-6,
    )
    assert after.among("invent_credits_total") == before.among("invent_credits_total")
