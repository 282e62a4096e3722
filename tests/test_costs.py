"""What a poll costs, counted instead of timed: requests, SQL statements, encoded chunks.

The whole exporter runs, on a simulated API. A number that grows here is a cost that grew; `bench/`
says what it means in seconds.

Promises 5 and 6. tests/deliberate_bugs.yaml lists bugs that turn these tests red.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from invent_exporter.app import Exporter
from invent_exporter.config.load import ApiConfig, Config, Key, OrgConfig
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Settings, SimulatorServer, World, add_many, quiet_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
TEXT = "text/plain;version=0.0.4"
ORG = "org-main"
HISTORY = 250
WORKFLOWS = 5
RECORDED_PAGE = ["BEGIN", "SELECT", "INSERT", "INSERT", "UPDATE"]
"""Look all ids up; the rows, the changed workflows, the org: one statement each."""
KNOWN_PAGE = ["BEGIN", "SELECT"]
SETTLED = ["BEGIN", "UPDATE", "SELECT"]
"""With the open runs, which are shown."""


@dataclass
class Costs:
    """What was spent between two looks."""

    requests: int
    statements: list[str]
    chunks: int


class Meter:
    """An exporter whose expenses are noted."""

    def __init__(self, exporter: Exporter, server: SimulatorServer, world: World) -> None:
        self.exporter = exporter
        self.world = world
        self._server = server
        self._statements: list[str] = []
        self._chunks = 0
        event.listen(exporter.ledger._database.engine, "before_cursor_execute", self._note)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401
        self._statements.append(statement.split(maxsplit=1)[0])

    async def poll(self, times: int = 1) -> Costs:
        """Poll the one org."""
        self.spent()
        for _ in range(times):
            await self.exporter.supervisor.collectors[0].poll()
            assert self.exporter.supervisor.collectors[0].error is None
        return self.spent()

    def stand_still(self) -> None:
        """Let no time pass for what is published: a poll that takes a second would show a part."""
        now = time.monotonic()
        self.exporter.publisher._clock = lambda: now

    async def scrape(self, accept: str = OPENMETRICS) -> None:
        """Ask as a scraper does."""
        await self.exporter.exposition.answer(accept, "gzip")

    def spent(self) -> Costs:
        """Return what was spent since the last look."""
        chunks = self.exporter.exposition.encoded_chunks
        costs = Costs(len(self._server.requests), self._statements, chunks - self._chunks)
        self._server.forget_requests()
        self._statements, self._chunks = [], chunks
        return costs


@asynccontextmanager
async def metered(tmp_path: Path) -> AsyncIterator[Meter]:
    """Run an exporter that has met an org with some history, and has been scraped and polled."""
    world = quiet_world()
    add_many(world, HISTORY, org_id=ORG, workflows=WORKFLOWS, prefix="old")
    with SimulatorServer(world, settings=Settings(rate_limit_per_minute=None)) as server:
        config = Config(
            api=ApiConfig(url=server.url, requests_per_minute=1e6),
            orgs=(OrgConfig(id=ORG, key=Key.literal("key-main")),),
            state_url=f"sqlite:///{tmp_path / 'state.db'}",
        )
        exporter = Exporter(config, Redactor())
        try:
            meter = Meter(exporter, server, world)
            await exporter.load()
            await meter.poll()
            await meter.scrape()
            await meter.poll()
            yield meter
        finally:
            await exporter.close()


def finish(world: World, prefix: str, count: int, workflows: int = 1) -> None:
    """Let new runs have come and gone, newer than all before."""
    add_many(world, count, org_id=ORG, workflows=workflows, seconds=0.5, prefix=prefix)


async def test_poll_without_news_costs_one_request_and_nothing_else(tmp_path: Path) -> None:
    """Promise 6, and no statement, no transaction, no encoding with it; nor do scrapes cost one."""
    async with metered(tmp_path) as meter:
        costs = await meter.poll(times=5)
        assert costs == Costs(requests=5, statements=[], chunks=0)
        for _ in range(10):
            await meter.scrape()
        assert meter.spent() == Costs(requests=0, statements=[], chunks=0)


async def test_poll_with_news_encodes_only_what_changed(tmp_path: Path) -> None:
    """One workflow of five changed: its chunk, and no other."""
    async with metered(tmp_path) as meter:
        meter.stand_still()
        finish(meter.world, "new", 3)
        costs = await meter.poll()
        # The org's chunk is small, and replaced with any workflow's.
        assert costs.chunks == 2


@pytest.mark.parametrize(("count", "pages"), [(10, 1), (99, 1), (150, 2)])
async def test_statements_grow_with_pages_and_not_with_runs(
    tmp_path: Path, count: int, pages: int
) -> None:
    """A page is five statements, however many runs on it are new and whatever was known before."""
    async with metered(tmp_path) as meter:
        finish(meter.world, "new", count, WORKFLOWS)
        costs = await meter.poll()
        assert costs.requests == pages + 1
        assert costs.statements == [*RECORDED_PAGE * pages, *KNOWN_PAGE, *SETTLED]


async def test_open_runs_that_stay_open_cost_two_lists_and_no_write(tmp_path: Path) -> None:
    """While runs are open the lists of PENDING and RUNNING are read, and nothing is written."""
    async with metered(tmp_path) as meter:
        for number in range(5):
            meter.world.add_run(org_id=ORG, workflow_id=f"wf-{number}", status="RUNNING")
        await meter.poll()
        costs = await meter.poll()
        assert costs.requests <= 4
        assert set(costs.statements) == {"BEGIN", "SELECT"}
        assert costs.chunks == 0


async def test_the_second_format_is_made_of_what_was_encoded_for_the_first(tmp_path: Path) -> None:
    """It is compressed when it is asked for, and encoded once for both."""
    async with metered(tmp_path) as meter:
        meter.stand_still()
        await meter.scrape(TEXT)
        assert meter.spent().chunks == 0
        finish(meter.world, "new", 1)
        assert (await meter.poll()).chunks == 2


async def test_walk_publishes_seldom(tmp_path: Path) -> None:
    """Catching up with many pages does not encode every workflow after every page."""
    async with metered(tmp_path) as meter:
        finish(meter.world, "new", 2000, WORKFLOWS)
        began = time.monotonic()
        costs = await meter.poll()
        seconds = time.monotonic() - began
        assert costs.requests > 20
        # At most once a second while it reads, however fast the machine is, and at the end.
        assert costs.chunks <= (int(seconds) + 2) * (WORKFLOWS + 1)
