"""The first event is seen: newborn series stand at 0 until a scrape has carried it (promise 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import event

from invent_exporter.api.models import Run
from invent_exporter.config.workflows import Workflows
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger, OpenGroup
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.metrics import publisher
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.groups import View
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.scan.poll import ScanState
from invent_exporter.telemetry import Telemetry
from tests.proof.process import FakeClocks
from tests.proof.runs import BOUNDS, NOW, run, usage
from tests.proof.scraper import samples

HOLD = 65.0


class Desk:
    """A publisher on a real ledger and a real exposition, under a clock that the test turns."""

    def __init__(self, path: Path, *, hold_seconds: float = HOLD) -> None:
        self.clocks = FakeClocks()
        settings = LedgerSettings(BOUNDS, 1000, step_credits=True, reconcile_window_seconds=86400.0)
        self.ledger = Ledger(open_database(f"sqlite:///{path}"), settings)
        self.exposition = Exposition(CollectorRegistry(), self.clocks.monotonic)
        self.publisher = Publisher(
            self.exposition,
            self.ledger,
            Telemetry(CollectorRegistry()),
            newborn_hold_seconds=hold_seconds,
            workflows=Workflows(names={"wf": "Invoices"}),
            clock=self.clocks.monotonic,
        )
        self.disk_is_full = False
        event.listen(self.ledger._database.engine, "commit", self._before_commit)

    def _before_commit(self, _connection: object) -> None:
        if self.disk_is_full:
            raise OSError("disk is full")

    async def load(self) -> None:
        """Load the org."""
        self.org = await self.ledger.load("org-1", walk_floor=NOW - 86400.0)

    async def contact(self) -> None:
        """Make the first contact."""
        await self.ledger.complete(self.org, ScanState(), absent=(), contact_seconds=NOW - 1)

    async def record(self, *runs: Run) -> None:
        """Record a page and publish what changed."""
        recorded = await self.ledger.record(self.org, runs, [], now=NOW)
        await self.publish(*recorded.changed)

    async def publish(self, *names: str) -> None:
        """Publish these workflows."""
        self.publisher.note(self.org, names, org_name="Acme")
        await self.publisher.flush()

    async def set_open(self, groups: tuple[OpenGroup, ...] | None) -> None:
        """Serve these open runs."""
        self.publisher.set_open(self.org, groups)
        await self.publisher.flush()

    async def served(self) -> dict[str, float]:
        """Look at what is served, without telling that it arrived."""
        return dict(samples((await self.exposition.answer("text/plain", "")).body))

    async def count(self, name: str = "invent_runs_finished_total") -> float:
        """Add up what is served of a family."""
        return sum(value for key, value in (await self.served()).items() if key.startswith(name))

    async def scrape(self) -> float:
        """Scrape, and count finished runs."""
        answer = await self.exposition.answer("text/plain", "")
        self.exposition.acknowledge(answer.generation)
        return await self.count()

    async def let_go(self, after_seconds: float = 0.0) -> None:
        """Do what the publisher's loop does when it wakes up."""
        self.clocks.now += after_seconds
        due, _ = self.publisher._due()
        if due:
            await self.publisher._let_go(due)

    def close(self) -> None:
        """Let go of the file and the thread."""
        self.exposition.close()
        self.ledger.close()


@asynccontextmanager
async def opened(path: Path, *, hold_seconds: float = HOLD) -> AsyncIterator[Desk]:
    """Open a desk, past its first contact."""
    desk = Desk(path, hold_seconds=hold_seconds)
    try:
        await desk.load()
        if not desk.org.contacted:
            await desk.contact()
        yield desk
    finally:
        desk.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a desk on a fresh file."""
    async with opened(tmp_path / "state.db") as fresh:
        yield fresh


async def test_nothing_is_served_before_first_contact_is_complete(tmp_path: Path) -> None:
    """Restarts included: half a history would be a burst."""
    desk = Desk(tmp_path / "state.db")
    await desk.load()
    await desk.record(run())
    assert await desk.served() == {}
    await desk.contact()
    await desk.publish("wf")
    assert any("invent_org_info" in series for series in await desk.served())
    desk.close()


async def test_nothing_is_served_of_c_before_a_run_names_the_org(desk: Desk) -> None:
    """Only the poll's own series exist, as `c`."""
    desk.org.org_id = None
    await desk.record(run())
    assert await desk.served() == {}


async def test_all_series_of_a_workflow_are_born_together_at_zero(desk: Desk) -> None:
    """Three origins by four statuses, histograms and credits, whatever came first."""
    await desk.record(run(status="FAILED", credits_used=usage(5.0, 1.0)))
    served = await desk.served()
    of_runs = {
        series: value
        for series, value in served.items()
        if series.startswith(("invent_runs_finished", "invent_credits", "invent_run_"))
    }
    finished = [series for series in of_runs if series.startswith("invent_runs_finished")]
    assert len(finished) == 12
    assert set(of_runs.values()) == {0.0}


@pytest.mark.parametrize("is_scraped", [False, True])
@pytest.mark.parametrize("seconds", [HOLD - 0.1, HOLD])
async def test_the_value_shows_after_a_scrape_of_the_zero_and_the_hold(
    desk: Desk, seconds: float, *, is_scraped: bool
) -> None:
    """Neither of the two is enough alone."""
    await desk.record(run())
    if is_scraped:
        assert await desk.scrape() == 0
    await desk.let_go(after_seconds=seconds)
    assert await desk.count() == (1 if is_scraped and seconds >= HOLD else 0)


async def test_an_acknowledgement_is_of_the_answer_that_was_sent(desk: Desk) -> None:
    """An answer that began before the workflow was there did not carry its 0."""
    await desk.publish()
    early = await desk.exposition.answer("text/plain", "")
    await desk.record(run())
    desk.exposition.acknowledge(early.generation)
    await desk.let_go(after_seconds=HOLD)
    assert await desk.count() == 0
    await desk.scrape()
    await desk.let_go()
    assert await desk.count() == 1


async def test_the_hold_counts_from_the_first_publish_of_the_group(desk: Desk) -> None:
    """More runs do not begin it anew."""
    await desk.record(run())
    await desk.scrape()
    desk.clocks.now += HOLD - 1
    await desk.record(run("r2"))
    await desk.let_go(after_seconds=1)
    assert await desk.count() == 2


async def test_a_late_series_is_held_by_itself(desk: Desk) -> None:
    """UNKNOWN comes when the workflow's other series are long released."""
    await desk.record(run())
    await desk.scrape()
    await desk.let_go(after_seconds=HOLD)
    await desk.record(run("r2", "ARCHIVED", credits_used=usage(5.0, a=5.0)))
    assert await desk.count() == 1
    assert await desk.count("invent_step_credits_total") == 0
    await desk.scrape()
    await desk.let_go(after_seconds=HOLD)
    assert await desk.count() == 2
    assert await desk.count("invent_step_credits_total") == 5


async def test_a_release_is_committed_before_it_is_served(desk: Desk) -> None:
    """When the commit fails the 0 stays, and it is tried again."""
    await desk.record(run())
    await desk.scrape()
    desk.clocks.now += HOLD
    desk.disk_is_full = True
    await desk.let_go()
    assert await desk.count() == 0
    desk.disk_is_full = False
    await desk.let_go()
    assert await desk.count() == 1


async def test_after_a_restart_released_series_show_and_others_are_held_anew(
    tmp_path: Path,
) -> None:
    """So nothing falls, and nothing is let go without a 0 of this process."""
    path = tmp_path / "state.db"
    async with opened(path) as desk:
        await desk.record(run(workflow_id="old"))
        await desk.scrape()
        await desk.let_go(after_seconds=HOLD)
        await desk.record(run("r2", workflow_id="new"))
    async with opened(path) as desk:
        await desk.publish()
        assert await desk.scrape() == 1
        await desk.let_go(after_seconds=HOLD - 1)
        assert await desk.count() == 1
        await desk.let_go(after_seconds=1)
        assert await desk.count() == 2


async def test_series_of_an_org_that_was_away_are_held_anew(desk: Desk) -> None:
    """While it was away they were not there: the 0 that a scrape saw before is over."""
    await desk.record(run())
    await desk.scrape()
    desk.clocks.now += HOLD
    await desk.publisher.withdraw(desk.org)
    await desk.publish()
    await desk.let_go()
    assert await desk.count() == 0
    await desk.scrape()
    await desk.let_go(after_seconds=HOLD)
    assert await desk.count() == 1


async def test_the_loop_releases_by_itself(tmp_path: Path) -> None:
    """An acknowledgement wakes it up; no poll is needed."""
    async with opened(tmp_path / "state.db", hold_seconds=0.0) as desk:
        loop = asyncio.create_task(desk.publisher.run())
        await desk.record(run())
        await desk.scrape()
        async with asyncio.timeout(60):
            while await desk.count() == 0:  # noqa: ASYNC110 (what is served has no event)
                await asyncio.sleep(0)
        loop.cancel()


def group(workflow_id: str, status: str, runs: int, since: float = NOW) -> OpenGroup:
    """Make a group of open runs."""
    return OpenGroup(workflow_id, "TRIGGER", status, runs, since)


async def test_open_runs_fall_to_zero_and_go_away_when_they_are_not_known(desk: Desk) -> None:
    """At 0 the time of the oldest goes away; promise 4: unknown gauges go, the counters stay."""
    await desk.record(run())
    assert await desk.count("invent_runs_open{") == 0
    assert not any("invent_runs_open" in series for series in await desk.served())
    await desk.set_open((group("wf", "QUEUED", 2), group("wf", "X", 1)))
    await desk.set_open((group("wf", "RUNNING", 2, NOW - 9),))
    assert await desk.count("invent_runs_open{") == 2
    oldest = "invent_runs_open_oldest_timestamp_seconds"
    assert await desk.count(oldest) == NOW - 9
    await desk.set_open(())
    served = await desk.served()
    assert not any(series.startswith(oldest) for series in served)
    gauges = {s: value for s, value in served.items() if s.startswith("invent_runs_open{")}
    assert len(gauges) >= 6
    assert set(gauges.values()) == {0.0}
    await desk.set_open(None)
    served = await desk.served()
    assert not any("invent_runs_open" in series for series in served)
    assert any("invent_runs_finished" in series for series in served)


async def test_an_open_run_of_a_workflow_that_no_poll_has_met_yet_waits_for_it(desk: Desk) -> None:
    """It was let in a moment ago, by a reload in the middle of a poll."""
    await desk.record(run())
    await desk.set_open(())
    await desk.set_open((group("wf", "RUNNING", 2), group("let-in", "RUNNING", 1)))
    assert await desk.count("invent_runs_open{") == 2


async def test_open_runs_of_folded_workflows_are_added_up(desk: Desk) -> None:
    """Behind `__other__`, with the oldest of all."""
    desk.ledger.settings = LedgerSettings(
        BOUNDS, 0, step_credits=False, reconcile_window_seconds=86400.0
    )
    await desk.record(run("a", workflow_id="a"), run("b", workflow_id="b"))
    groups = (group("a", "RUNNING", 2, NOW - 5), group("b", "RUNNING", 1, NOW - 9))
    await desk.set_open(groups)
    assert await desk.count("invent_runs_open{") == 3
    assert await desk.count("invent_runs_open_oldest_timestamp_seconds") == NOW - 9


async def test_nothing_new_is_not_encoded(desk: Desk) -> None:
    """An idle poll changes nothing but the poll's own series."""
    await desk.record(run())
    await desk.served()
    chunks = desk.exposition.encoded_chunks
    await desk.publish()
    await desk.set_open(None)
    assert desk.exposition.encoded_chunks == chunks


async def test_a_workflow_that_the_state_does_not_know_ends_no_publish(desk: Desk) -> None:
    """A standby that took over may have lost its commit."""
    await desk.record(run())
    await desk.publish("wf", "wf-lost")
    assert "wf-lost" not in str(await desk.served())


async def test_what_is_noted_meanwhile_is_published_together(desk: Desk) -> None:
    """However many orgs have news: one publish at a time, and one that takes the rest along."""
    await desk.record(run())
    before = desk.exposition.generation
    await asyncio.gather(*(desk.publish("wf") for _ in range(50)))
    assert desk.exposition.generation - before <= 2


async def test_a_withdrawal_waits_for_no_rest(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest after a publish is for news; who is to leave must not be served for it."""
    monkeypatch.setattr(publisher, "_LONGEST_REST_SECONDS", 1e9)
    publish = desk.exposition.publish

    async def publish_slowly(changes: Mapping[Hashable, View | None]) -> int:
        desk.clocks.now += 1e6
        return await publish(changes)

    monkeypatch.setattr(desk.exposition, "publish", publish_slowly)
    await desk.record(run())
    news = asyncio.create_task(desk.publish("wf"))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await desk.publisher.withdraw(desk.org)
        await news
    assert await desk.served() == {}
