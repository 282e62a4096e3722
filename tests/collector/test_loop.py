"""The loop of one org: what it asks for, what it does when the API or the disk is sick.

Promises 4 and 6, beside what test_machine holds. Each of these deliberate bugs turned a test red:
keeping the gauges of open runs for ever; leaving `invent_up` at 1; taking an error for an empty
page; completing a poll whose listing changed too fast; walking at once again where nothing proves
that nothing is new; counting `Retry-After` from a poll's beginning; forgetting it where a
reconciliation met it, or holding the polls for it; no wait after a slow poll that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from invent_exporter.api.transport import Answer
from invent_exporter.errors import ApiError
from invent_exporter.redaction import Redactor
from tests.proof.process import EPOCH, FakeClocks, KilledError, Process, Settings
from tests.proof.reference import Reference
from tests.proof.scraper import Scraper, samples
from tests.proof.service import ORDERS, Run, Service, failing

DAY = 86400.0


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Keep the lines of polls that are made to fail out of the tests' output."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    yield
    structlog.configure(**before)


class Desk:
    """A service, and the exporter on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:  # noqa: ANN401
        self.path = folder / "state.db"
        self.settings = Settings(**{"newborn_hold_seconds": 0.0, **settings})
        self.clocks = FakeClocks()
        self.service = Service()
        self.reference = Reference()
        self.scraper = Scraper()
        self.serial = 0
        self.start()

    def start(self) -> None:
        """Start the exporter."""
        self.process = Process(
            self.path,
            self.service,
            self.clocks,
            self.settings,
            reference=self.reference,
            scraper=self.scraper,
        )

    def restart(self) -> None:
        """Stop it, and start it again on the same state."""
        self.process.stop()
        self.start()

    @property
    def api_now(self) -> float:
        """What the API's clock says."""
        return EPOCH + self.clocks.now - self.service.behind_seconds

    def pending(self, *, created: float | None = None, **fields: Any) -> Run:  # noqa: ANN401
        """Create a run."""
        self.serial += 1
        time = self.api_now if created is None else EPOCH + created
        values = {"workflow_id": "wf", "origin": "TRIGGER", "status": "PENDING", **fields}
        return self.service.add(Run(f"run-{self.serial:05d}", created=time, updated=time, **values))

    def finish(self, run: Run, status: str = "COMPLETED") -> Run:
        """End a run now."""
        now = self.api_now
        run.status, run.started, run.ended, run.updated = status, run.created, now, now
        self.service.changed(run)
        return run

    def finished(self, count: int = 1, status: str = "COMPLETED") -> list[Run]:
        """Create runs, a second apart, that have ended."""
        runs = []
        for _ in range(count):
            self.clocks.now += 1.0
            runs.append(self.finish(self.pending(), status))
        return runs

    async def poll(self, *, after_seconds: float = 30.0) -> float:
        """Poll; what is served afterwards has been scraped."""
        self.clocks.now += after_seconds
        wait_seconds = await self.process.collector.poll()
        for _ in range(2):
            self.process.exposition.acknowledge(await self.process.scrape())
            await self.process.let_go()
        return wait_seconds

    async def requests_of_a_poll(self) -> list[tuple[str, int, int]]:
        """Poll, and list what was asked for."""
        before = len(self.service.requests)
        await self.poll()
        return self.service.requests[before:]

    def served(self, name: str, **labels: str) -> float | None:
        """Add up series of a family; None when there are none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        values = [
            value
            for series, value in self.scraper.last.items()
            if series.startswith(name) and all(label in series for label in wanted)
        ]
        return sum(values) if values else None

    @property
    def count(self) -> float | None:
        """How many runs are served as finished."""
        return self.served("invent_runs_finished_total")

    def own(self, name: str, **labels: str) -> float | None:
        """Read one of the exporter's own series."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for series, value in samples(generate_latest(self.process.registry)):
            if series.startswith(name) and all(label in series for label in wanted):
                return value
        return None


def with_a_desk(
    folder: Path,
    story: Callable[[Desk], Awaitable[None]],
    **settings: Any,  # noqa: ANN401
) -> None:
    """Tell a story on a fresh state."""

    async def tell() -> None:
        desk = Desk(folder, **settings)
        try:
            await story(desk)
        finally:
            desk.process.stop()

    asyncio.run(tell())


def fail_reads(desk: Desk, reason: str = "server_error") -> None:
    """Let every read fail from now on."""

    def before_read(_reads: int) -> None:
        raise failing(reason)

    desk.service.before_read = before_read


def fail_from(reads: int, most: int) -> None:
    """Let so many reads through."""
    if reads >= most:
        raise failing("server_error")


def heal_reads(desk: Desk) -> None:
    """Let reads succeed."""
    desk.service.before_read = lambda _reads: None


# -- what a poll costs


@pytest.mark.parametrize("sends_count", [True, False])
@pytest.mark.parametrize("order", ORDERS[:4])
def test_an_idle_poll_is_one_request(tmp_path: Path, order: str, *, sends_count: bool) -> None:
    """When the order was learned, with and without the count (promise 6)."""

    async def story(desk: Desk) -> None:
        desk.service.order, desk.service.sends_count = order, sends_count
        desk.finished(25)
        await desk.poll()
        await desk.poll()
        for _ in range(3):
            assert len(await desk.requests_of_a_poll()) == 1
        desk.restart()
        await desk.poll()
        assert len(await desk.requests_of_a_poll()) == 1
        desk.finished(1)
        await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story, page_size=10)


def test_an_idle_poll_of_a_mixed_listing_is_one_request_with_the_count(tmp_path: Path) -> None:
    """The count proves that nothing is new."""

    async def story(desk: Desk) -> None:
        desk.service.order = "mixed"
        desk.finished(35)
        await desk.poll()
        assert len(await desk.requests_of_a_poll()) == 1

    with_a_desk(tmp_path, story, page_size=10)


def test_a_mixed_listing_without_the_count_is_walked_and_the_interval_stretched(
    tmp_path: Path,
) -> None:
    """To 20 times what the walk took."""

    async def story(desk: Desk) -> None:
        desk.service.order, desk.service.sends_count = "mixed", False
        desk.finished(35)
        await desk.poll()

        def before_read(_reads: int) -> None:
            desk.clocks.now += 2.0

        desk.service.before_read = before_read
        before = len(desk.service.requests)
        wait_seconds = await desk.poll()
        pages = len(desk.service.requests) - before
        assert pages >= 4
        assert wait_seconds == 20 * 2.0 * pages
        assert desk.own("invent_poll_interval_seconds") == wait_seconds
        desk.finished(1)
        await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("rows", [9, 10, 11, 20])
@pytest.mark.parametrize("order", ["created_asc", "updated_asc"])
def test_oldest_first_finds_the_next_run_wherever_the_last_page_ends(
    tmp_path: Path, order: str, rows: int
) -> None:
    """A full last page says nothing of what comes behind it."""

    async def story(desk: Desk) -> None:
        desk.service.order, desk.service.sends_count = order, False
        desk.finished(rows)
        await desk.poll()
        for number in range(1, 13):
            desk.finished(1)
            await desk.poll()
            assert desk.count == number

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("order", ORDERS)
def test_runs_that_start_and_end_between_two_polls_count(tmp_path: Path, order: str) -> None:
    """More of them than a page holds (promise 2)."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        desk.finished(15)
        await desk.poll()
        desk.finished(47)
        await desk.poll()
        assert desk.count == 47
        assert desk.served("invent_runs_recovered_total") == 0

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("sends_count", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_a_long_run_is_found_when_it_ends_however_deep_it_lies(
    tmp_path: Path, order: str, *, sends_count: bool
) -> None:
    """Behind hundreds of others, and after a restart."""

    async def story(desk: Desk) -> None:
        desk.service.order, desk.service.sends_count = order, sends_count
        long = desk.pending()
        desk.finished(20)
        await desk.poll()
        assert desk.served("invent_runs_open{", status="PENDING") is not None
        desk.finished(200)
        await desk.poll()
        desk.restart()
        await desk.poll()
        desk.finish(long, "FAILED")
        await desk.poll()
        assert desk.count == 201
        assert desk.served("invent_runs_finished_total", status="FAILED") == 1

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("order", ORDERS)
def test_an_open_run_of_an_unknown_status_is_followed(tmp_path: Path, order: str) -> None:
    """No list can be asked for it."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        queued = desk.pending(status="QUEUED")
        desk.finished(30)
        await desk.poll()
        assert desk.served("invent_runs_open{", status="UNKNOWN") == 1
        await desk.poll()
        assert desk.served("invent_runs_open{", status="UNKNOWN") == 1
        desk.finish(queued)
        await desk.poll()
        assert desk.count == 1
        assert desk.served("invent_runs_open{", status="UNKNOWN") == 0

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("order", ORDERS)
def test_pages_that_shift_while_they_are_walked_lose_nothing(tmp_path: Path, order: str) -> None:
    """Runs come and go between two reads."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        desk.finished(40)
        await desk.poll()
        desk.finished(60)
        victims = list(desk.service.runs.values())[:40]

        def before_read(_reads: int) -> None:
            if victims:
                del desk.service.runs[victims.pop().run_id]
            desk.finished(1)

        desk.service.before_read = before_read
        await desk.poll()
        heal_reads(desk)
        await desk.poll()
        await desk.poll(after_seconds=1000.0)
        await desk.poll()
        new = [run for run in desk.service.runs.values() if run.run_id > "run-00040"]
        assert desk.count == len(new)

    with_a_desk(tmp_path, story, page_size=10)


# -- first contact


def test_history_moves_no_counter_and_a_run_after_it_does(tmp_path: Path) -> None:
    """What was open then counts when it ends."""

    async def story(desk: Desk) -> None:
        open_run = desk.pending()
        desk.finished(12, "FAILED")
        await desk.poll()
        assert desk.count == 0
        assert desk.served("invent_workflow_consecutive_failures") == 12
        desk.finish(open_run)
        desk.finished(1)
        await desk.poll()
        assert desk.count == 2

    with_a_desk(tmp_path, story)


def test_first_contact_reads_back_no_further_than_lookback(tmp_path: Path) -> None:
    """In a learned order; runs from before are history all the same, when they turn up."""

    async def story(desk: Desk) -> None:
        for hours in range(400, 0, -1):
            run = desk.pending(created=-3600.0 * hours)
            run.status, run.started, run.ended = "COMPLETED", run.created, run.created
        await desk.poll()
        # 9 back to lookback, then 4 looks at what is behind, at doubling distances.
        assert len(desk.service.requests) == 9 + 4
        desk.service.order = "created_asc"
        for _ in range(3):
            await desk.poll(after_seconds=1000.0)
        assert desk.count == 0

    with_a_desk(tmp_path, story, page_size=10)


def test_runs_of_a_listing_that_is_ordered_in_its_parts_only_count_soon(tmp_path: Path) -> None:
    """By workflow, then newest first: the count says that runs came where no poll looked."""

    async def story(desk: Desk) -> None:
        desk.service.order = "workflow"
        for number in range(400, 0, -1):
            run = desk.pending(created=-100.0 * number, workflow_id="billing")
            run.status, run.started, run.ended = "COMPLETED", run.created, run.created
        await desk.poll()
        for _ in range(3):
            desk.clocks.now += 1.0
            desk.finish(desk.pending(workflow_id="welcome"), "FAILED")
            await desk.poll()
        await desk.poll()
        assert desk.count == 3

    with_a_desk(tmp_path, story)


def test_a_first_contact_that_broke_off_publishes_nothing(tmp_path: Path) -> None:
    """Neither does the next process before it is complete."""

    async def story(desk: Desk) -> None:
        desk.finished(50)
        began = desk.service.reads

        def before_read(reads: int) -> None:
            if reads - began >= 4:
                raise failing("network")

        desk.service.before_read = before_read
        await desk.poll()
        assert desk.scraper.last == {}
        desk.restart()
        fail_reads(desk)
        await desk.poll()
        assert desk.scraper.last == {}
        heal_reads(desk)
        await desk.poll()
        assert desk.count == 0

    with_a_desk(tmp_path, story, page_size=10)


def test_c_is_named_by_a_run_that_is_known_already(tmp_path: Path) -> None:
    """Also when nothing else of the run changed."""

    async def story(desk: Desk) -> None:
        runs = desk.finished(3)
        for run in runs:
            run.org_id = None
        await desk.poll()
        await desk.poll()
        assert desk.count is None
        runs[1].org_id = "org-7"
        await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-7") == 0

    with_a_desk(tmp_path, story, configured_id="c")


def test_c_is_named_after_a_kill_though_no_run_is_left(tmp_path: Path) -> None:
    """What was committed of them is served."""

    async def story(desk: Desk) -> None:
        for run in desk.finished(3):
            run.org_id = None
        await desk.poll()
        named = desk.finished(1)[0]
        steps = desk.process.steps
        for kill_at in range(1, 100):
            steps.kill_at = steps.passed + kill_at
            with suppress(KilledError):
                await desk.poll()
            desk.restart()
            steps = desk.process.steps
            org = await desk.process.ledger.load("c", walk_floor=0.0)
            if org.likely_org_id is not None:
                break
        assert desk.scraper.last == {}
        desk.service.runs.pop(named.run_id)
        await desk.poll()
        await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story, configured_id="c")


def test_c_becomes_the_org_that_its_runs_name(tmp_path: Path) -> None:
    """Until one does only the poll's own series exist, as `c`."""

    async def story(desk: Desk) -> None:
        await desk.poll()
        assert desk.scraper.last == {}
        assert desk.own("invent_up", org_id="c") == 1
        desk.finished(2)
        await desk.poll()
        assert desk.count == 2
        assert desk.own("invent_up", org_id="org-1") == 1
        assert desk.own("invent_up", org_id="c") is None
        desk.restart()
        fail_reads(desk)
        await desk.poll()
        assert desk.count == 2
        assert desk.own("invent_up", org_id="org-1") == 0

    with_a_desk(tmp_path, story, configured_id="c")


# -- a sick API, a sick disk


@pytest.mark.parametrize(
    "reason", ["unauthorized", "not_found", "server_error", "network", "timeout", "bad_request"]
)
def test_a_failed_poll_moves_no_number(tmp_path: Path, reason: str) -> None:
    """`invent_up` is 0 and the reason is counted; the gauges go after three in a row."""

    async def story(desk: Desk) -> None:
        desk.pending()
        await desk.poll()
        desk.finished(3)
        await desk.poll()
        fail_reads(desk, reason)
        for failures in range(1, 5):
            await desk.poll()
            assert desk.own("invent_up") == 0
            assert desk.own("invent_poll_errors_total", reason=reason) == failures
            assert desk.count == 3
            assert (desk.served("invent_runs_open{") is None) == (failures >= 3)
        heal_reads(desk)
        await desk.poll()
        assert desk.own("invent_up") == 1
        assert desk.served("invent_runs_open{") == 1

    with_a_desk(tmp_path, story)


def test_runs_that_finished_while_the_api_was_away_count_when_it_is_back(tmp_path: Path) -> None:
    """However many, however long."""

    async def story(desk: Desk) -> None:
        desk.finished(5)
        await desk.poll()
        fail_reads(desk)
        for _ in range(3):
            desk.finished(20)
            await desk.poll(after_seconds=DAY)
        heal_reads(desk)
        await desk.poll()
        assert desk.count == 60

    with_a_desk(tmp_path, story, page_size=10)


def test_a_walk_that_broke_off_settles_nothing(tmp_path: Path) -> None:
    """What was read counts at once; the rest when the next walk reads it."""

    async def story(desk: Desk) -> None:
        desk.finished(20)
        await desk.poll()
        desk.finished(40)
        began = desk.service.reads

        def before_read(reads: int) -> None:
            if reads - began == 2:
                raise failing("server_error")

        desk.service.before_read = before_read
        await desk.poll()
        heal_reads(desk)
        await desk.poll()
        assert desk.count == 40
        assert desk.served("invent_runs_recovered_total") == 0, "the walk itself found them"

    with_a_desk(tmp_path, story, page_size=10)


def test_retry_after_is_kept(tmp_path: Path) -> None:
    """The next poll begins no earlier."""

    async def story(desk: Desk) -> None:
        def before_read(_reads: int) -> None:
            raise ApiError("rate_limited", "slow down", retry_after_seconds=120.0)

        desk.service.before_read = before_read
        assert await desk.poll() == 120.0

    with_a_desk(tmp_path, story)


def fail_slowly(desk: Desk, seconds: float, retry_after_seconds: float | None) -> None:
    """Let every read take so long and then fail."""

    def before_read(_reads: int) -> None:
        desk.clocks.now += seconds
        raise ApiError("server_error", "busy", retry_after_seconds=retry_after_seconds)

    desk.service.before_read = before_read


@pytest.mark.parametrize("took_seconds", [0.0, 25.0, 100.0])
def test_retry_after_counts_from_the_answer_however_slow_the_poll_was(
    tmp_path: Path, took_seconds: float
) -> None:
    """It is what the API asked for when it answered, not when the poll began."""

    async def story(desk: Desk) -> None:
        fail_slowly(desk, took_seconds, 40.0)
        assert await desk.poll() == took_seconds + 40.0

    with_a_desk(tmp_path, story)


def test_a_slow_poll_that_fails_is_followed_by_a_wait(tmp_path: Path) -> None:
    """A sick API must not be asked again the moment it gave up, though the interval is over."""

    async def story(desk: Desk) -> None:
        fail_slowly(desk, 100.0, None)
        assert 101.0 < await desk.poll() <= 110.0
        fail_slowly(desk, 1.0, None)
        assert 27.0 <= await desk.poll() <= 30.0

    with_a_desk(tmp_path, story)


@pytest.mark.parametrize("reason", ["server_error", "rate_limited"])
def test_retry_after_of_a_reconciliation_is_kept(tmp_path: Path, reason: str) -> None:
    """It holds the next slice; the polls go on, unless all requests are limited."""

    async def story(desk: Desk) -> None:
        desk.finished(60)
        await desk.poll()
        front = desk.service.reads + 1

        def before_read(reads: int) -> None:
            if reads >= front:
                raise ApiError(reason, "busy", retry_after_seconds=100.0)

        desk.service.before_read = before_read
        wait_seconds = await desk.poll(after_seconds=1000.0)
        assert wait_seconds == (100.0 if reason == "rate_limited" else 30.0)
        assert desk.own("invent_up") == 1
        heal_reads(desk)
        waited = wait_seconds
        while waited < 100.0:
            assert len(await desk.requests_of_a_poll()) == 1
            waited += 30.0
        assert len(await desk.requests_of_a_poll()) > 1

    with_a_desk(tmp_path, story, page_size=10)


def test_the_time_between_polls_that_retry_after_takes_counts_as_throttled(tmp_path: Path) -> None:
    """Only what the poll comes later for; it would have waited its interval anyway."""

    async def story(desk: Desk) -> None:
        began = desk.clocks.now

        def before_read(_reads: int) -> None:
            if desk.clocks.now > began:
                raise KilledError
            raise ApiError("server_error", "busy", retry_after_seconds=120.0)

        desk.service.before_read = before_read
        with pytest.raises(KilledError):
            await desk.process.collector.run()
        assert desk.clocks.now == began + 120.0
        assert 90.0 <= (desk.own("invent_api_throttled_seconds_total") or 0.0) <= 93.0

    with_a_desk(tmp_path, story)


@pytest.mark.parametrize("fails_at", range(1, 25, 2))
def test_a_full_disk_is_a_failed_poll_and_loses_nothing(tmp_path: Path, fails_at: int) -> None:
    """Whatever the write that fails first; it recovers by itself."""

    async def story(desk: Desk) -> None:
        desk.finished(5)
        await desk.poll()
        desk.finished(12, "FAILED")
        steps = desk.process.steps
        steps.disk_fails_at = steps.passed + fails_at
        await desk.poll()
        did_fail = steps.passed >= steps.disk_fails_at
        steps.disk_fails_at = None
        if did_fail and desk.own("invent_up") == 0:
            assert desk.own("invent_poll_errors_total", reason="storage") == 1
        await desk.poll()
        assert desk.own("invent_up") == 1
        assert desk.count == 12

    with_a_desk(tmp_path, story, page_size=5)


def test_a_bug_ends_a_poll_and_not_the_loop(tmp_path: Path) -> None:
    """It shows as an error, and the next poll is made."""

    async def story(desk: Desk) -> None:
        def before_read(_reads: int) -> None:
            raise ZeroDivisionError

        desk.service.before_read = before_read
        await desk.poll()
        assert desk.own("invent_up") == 0
        assert "ZeroDivisionError" in (desk.process.collector.error or "")
        heal_reads(desk)
        await desk.poll()
        assert desk.own("invent_up") == 1

    with_a_desk(tmp_path, story)


@pytest.mark.parametrize("order", ORDERS)
def test_a_kill_between_any_two_writes_changes_nothing(tmp_path: Path, order: str) -> None:
    """At each statement, commit and publish of a poll and of a release (promise 1).

    The scraper of the desk sees every body, across the kills, and says so when a counter falls.
    """

    async def story(desk: Desk) -> None:
        desk.service.order = order
        desk.finished(6)
        open_run = desk.pending()
        await desk.poll()
        expected = 0
        for kill_at in range(1, 200):
            desk.finished(4, "FAILED")
            desk.finish(open_run)
            open_run = desk.pending(workflow_id=f"wf-{kill_at % 3}")
            expected += 5
            steps = desk.process.steps
            steps.kill_at = steps.passed + kill_at
            try:
                await desk.poll()
            except KilledError:
                desk.restart()
            else:
                break
            await desk.poll()
            await desk.poll()
            assert desk.count == expected
        assert kill_at > 10
        assert desk.process.collector.up
        assert desk.count == expected

    # A mixed listing is walked whole each time: with small pages the end would run away.
    with_a_desk(tmp_path, story, page_size=100 if order == "mixed" else 5)


def test_a_listing_that_changes_too_fast_to_be_read_whole_fails_the_poll(tmp_path: Path) -> None:
    """Rows slipped by between its pages, so it must not settle what it saw."""

    async def story(desk: Desk) -> None:
        desk.finished(20)
        await desk.poll()
        new = desk.finished(300)
        first = desk.service.reads

        def before_read(reads: int) -> None:
            if reads < first + 10:
                for run in desk.service.listed()[:12]:
                    del desk.service.runs[run.run_id]

        desk.service.before_read = before_read
        await desk.poll()
        assert desk.own("invent_up") == 0
        assert "changed too fast" in (desk.process.collector.error or "")
        heal_reads(desk)
        left = {run.run_id for run in new} & desk.service.runs.keys()
        assert left
        await desk.poll()
        assert desk.own("invent_up") == 1
        assert (desk.count or 0) >= len(left)

    with_a_desk(tmp_path, story, page_size=5)


# -- looking back, vanishing


@pytest.mark.parametrize("api_behind_seconds", [0.0, 3 * 86400.0])
@pytest.mark.parametrize("order", ORDERS)
def test_runs_that_the_front_pages_hid_are_found_by_the_reconciliation(
    tmp_path: Path, order: str, api_behind_seconds: float
) -> None:
    """And show as recovered; the window is the API's, also where its clock is days behind."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        desk.service.behind_seconds = api_behind_seconds
        desk.finished(30)
        await desk.poll()
        hidden = desk.finished(3, "FAILED")
        for run in hidden:
            run.hidden = True
        desk.finished(40)
        await desk.poll()
        assert desk.count == 40
        for run in hidden:
            run.hidden = False
        for _ in range(3):
            await desk.poll(after_seconds=1000.0)
        assert desk.count == 43
        if desk.service.order.startswith("created_desc"):
            assert desk.served("invent_runs_recovered_total") == 3

    with_a_desk(tmp_path, story, page_size=10)


def test_a_deep_page_that_can_not_be_read_leaves_the_polls_alone(tmp_path: Path) -> None:
    """The reconciliation goes on from there once it can; its age and an error say so until then."""

    async def story(desk: Desk) -> None:
        desk.finished(60)
        await desk.poll()
        done = desk.own("invent_reconcile_last_success_timestamp_seconds")
        late = desk.finished(1, "FAILED")[0]
        late.hidden = True
        desk.finished(40)
        await desk.poll()
        late.hidden = False

        for _ in range(5):
            readable = desk.service.reads + 1  # the front page, which is all that a poll needs
            desk.service.before_read = lambda reads, most=readable: fail_from(reads, most)  # type: ignore[misc]
            await desk.poll(after_seconds=1000.0)
            assert desk.own("invent_up") == 1
            assert desk.served("invent_runs_open") == 0
        assert desk.own("invent_poll_errors_total", reason="server_error") == 5
        assert desk.own("invent_reconcile_last_success_timestamp_seconds") == done
        assert desk.count == 40
        heal_reads(desk)
        for _ in range(2):
            await desk.poll(after_seconds=1000.0)
        assert desk.count == 41
        assert desk.served("invent_runs_recovered_total") == 1
        assert (desk.own("invent_reconcile_last_success_timestamp_seconds") or 0) > (done or 0)

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("order", ["created", "updated"])
def test_no_open_run_vanishes_where_the_listing_turns_round_in_pages_of_one_row(
    tmp_path: Path, order: str
) -> None:
    """It is looked for from the end where the newest stood, and is at the other one now."""

    async def story(desk: Desk) -> None:
        desk.service.order = f"{order}_asc"
        desk.service.sends_count = False
        desk.finished(20)
        await desk.poll(after_seconds=1000.0)
        run = desk.pending()
        await desk.poll()
        desk.settings = replace(desk.settings, page_size=1)
        desk.restart()
        desk.service.order = f"{order}_desc"
        for _ in range(2):
            desk.clocks.now += 1.0
            desk.pending()
        desk.finish(run)
        for _ in range(4):
            await desk.poll()
        assert desk.count == 1
        assert desk.served("invent_runs_vanished_total") == 0

    with_a_desk(tmp_path, story, page_size=3)


@pytest.mark.parametrize("order", ORDERS)
def test_an_open_run_that_left_the_api_vanished_after_two_complete_searches(
    tmp_path: Path, order: str
) -> None:
    """It is no longer counted as open; when it comes back final, it counts."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        run = desk.pending()
        desk.finished(25)
        await desk.poll()
        assert desk.served("invent_runs_open{") == 1
        run.hidden = True
        await desk.poll()
        assert desk.served("invent_runs_vanished_total") == 0
        await desk.poll()
        assert desk.served("invent_runs_vanished_total") == 1
        assert desk.served("invent_runs_open{") == 0
        for _ in range(3):
            await desk.poll()
        assert desk.served("invent_runs_vanished_total") == 1
        run.hidden = False
        desk.finish(run)
        for _ in range(3):
            await desk.poll(after_seconds=1000.0)
        assert desk.count == 1

    with_a_desk(tmp_path, story, page_size=10)


def test_an_unreadable_run_is_left_out_and_tried_again(tmp_path: Path) -> None:
    """The others of its page count, it does when it can be read."""

    async def story(desk: Desk) -> None:
        desk.finished(15)
        await desk.poll()
        bad, _ = desk.finished(2)
        bad.unreadable = True
        await desk.poll()
        await desk.poll()
        assert desk.count == 1
        assert desk.served("invent_runs_invalid_total", reason="status") == 1
        bad.unreadable = False
        await desk.poll()
        assert desk.count == 2

    with_a_desk(tmp_path, story, page_size=10)


def test_an_open_run_that_can_not_be_read_any_more_has_not_vanished(tmp_path: Path) -> None:
    """It is listed; when it can be read again it is followed as before."""

    async def story(desk: Desk) -> None:
        await desk.poll()
        run = desk.pending()
        await desk.poll()
        run.unreadable = True
        for _ in range(4):
            await desk.poll()
        assert desk.served("invent_runs_vanished_total") == 0
        assert desk.served("invent_runs_open{") == 1
        run.unreadable = False
        desk.finish(run)
        await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story)


def test_an_unreadable_run_is_named_in_the_log_once(tmp_path: Path) -> None:
    """A metric can't say which run it was."""

    async def story(desk: Desk) -> None:
        desk.finished(3)
        await desk.poll()
        for run in desk.finished(2):
            run.unreadable = True
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
        with structlog.testing.capture_logs() as lines:
            await desk.poll()
            await desk.poll()
        assert [(line["runs"], line["run_ids"]) for line in lines] == [
            (2, "run-00005 (status), run-00004 (status)")
        ]

    with_a_desk(tmp_path, story)


@pytest.mark.parametrize("new", ORDERS)
@pytest.mark.parametrize("old", ORDERS)
def test_another_order_of_the_listing_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    """Nothing is counted twice, and nothing is missed for longer than a reconciliation."""

    async def story(desk: Desk) -> None:
        desk.service.order = old
        desk.finished(30)
        await desk.poll()
        desk.service.order = new
        desk.finished(15)
        await desk.poll()
        for _ in range(3):
            await desk.poll(after_seconds=1000.0)
        assert desk.count == 15
        desk.finished(15)
        await desk.poll()
        assert desk.count == 30

    with_a_desk(tmp_path, story, page_size=10)


# -- health


def test_a_loop_without_a_sign_of_life_has_stalled(tmp_path: Path) -> None:
    """After the longer of 5 minutes and 10 intervals."""

    async def story(desk: Desk) -> None:
        collector = desk.process.collector
        signs = []
        await desk.poll()
        for seconds in (299.0, 10.0):
            desk.clocks.now += seconds
            signs.append(collector.is_stalled)
        await desk.poll()
        signs.append(collector.is_stalled)
        assert signs == [False, True, False]

    with_a_desk(tmp_path, story)


def test_the_first_attempt_ends_whatever_comes_of_it(tmp_path: Path) -> None:
    """Readiness does not depend on the API."""

    async def story(desk: Desk) -> None:
        fail_reads(desk)
        assert not desk.process.collector.first_attempt.is_set()
        await desk.poll()
        assert desk.process.collector.first_attempt.is_set()

    with_a_desk(tmp_path, story)


# -- odd runs, another org's key


def test_ties_that_are_dealt_anew_add_nothing_and_a_failure_after_them_counts(
    tmp_path: Path,
) -> None:
    """History is told by its time, however much of it first contact could see."""

    async def story(desk: Desk) -> None:
        for _ in range(250):
            desk.finish(desk.pending(created=0.0))
        desk.clocks.now += 5.0
        deal = Random(1)
        listed = desk.service.listed

        def dealt(status: str = "ALL") -> list[Run]:
            rows = listed(status)
            deal.shuffle(rows)
            return rows

        desk.service.listed = dealt  # type: ignore[method-assign]
        for _ in range(4):
            await desk.poll()
        assert desk.count == 0
        desk.finished(1, "FAILED")
        for _ in range(20):
            await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story)


def test_an_empty_list_at_first_contact_makes_no_burst_later(tmp_path: Path) -> None:
    """What is listed afterwards had ended before."""

    async def story(desk: Desk) -> None:
        runs, desk.service.runs = {run.run_id: run for run in desk.finished(60)}, {}
        await desk.poll()
        desk.service.runs = runs
        await desk.poll()
        desk.finished(1, "FAILED")
        await desk.poll()
        assert desk.count == 1

    with_a_desk(tmp_path, story)


def test_a_key_of_another_org_makes_a_first_contact_of_its_own(tmp_path: Path) -> None:
    """What `c` was keeps its counters, and goes on with them when its key is back."""

    async def story(desk: Desk) -> None:
        desk.finished(3)
        await desk.poll()
        desk.finished(2)
        await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-1") == 2
        mine, desk.service.runs = desk.service.runs, {}
        for run in desk.finished(4):
            run.org_id = "org-2"
        desk.clocks.now += 1.0
        desk.restart()
        await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-2") == 0
        assert desk.served("invent_runs_finished_total", org_id="org-1") is None
        desk.finished(1, "FAILED")[0].org_id = "org-2"
        await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-2") == 1
        desk.service.runs = mine
        desk.restart()
        await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-1") == 2
        assert desk.own("invent_up", org_id="org-2") is None

    with_a_desk(tmp_path, story, configured_id="c")


def test_a_walk_of_which_nothing_can_be_read_is_no_success(tmp_path: Path) -> None:
    """From ten runs on; one that can be read makes the rest its own trouble."""

    async def story(desk: Desk) -> None:
        await desk.poll()
        for run in desk.finished(9):
            run.unreadable = True
        await desk.poll()
        assert desk.process.collector.up
        last = desk.finished(1)[0]
        last.unreadable = True
        await desk.poll()
        assert desk.own("invent_poll_errors_total", reason="invalid_response") == 1
        last.unreadable = False
        await desk.poll()
        assert (desk.process.collector.up, desk.count) == (True, 1)

    with_a_desk(tmp_path, story)


def test_an_odd_field_is_said_once_an_hour_with_an_example(tmp_path: Path) -> None:
    """The counter has the number; the line says what the API writes, and in which run."""

    async def story(desk: Desk) -> None:
        await desk.poll()
        for seconds in (30.0, 30.0, 3600.0):
            desk.finished(1)[0].version = []  # type: ignore[assignment]
            await desk.poll(after_seconds=seconds)
        assert desk.served("invent_run_fields_unreadable_total", field="version") == 3

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with capture_logs() as lines:
        with_a_desk(tmp_path, story)
    said = [line for line in lines if line["event"] == "a field of a run can't be read"]
    assert [(line["field"], line["example"]) for line in said] == [("version", "[]")] * 2


def test_no_part_of_a_secret_is_left_where_an_example_is_cut(tmp_path: Path) -> None:
    """What was cut would not be found any more."""
    redactor = Redactor()
    redactor.add("secret-0123456789")

    async def story(desk: Desk) -> None:
        await desk.poll()
        desk.finished(1)[0].version = ["x" * 70 + "secret-0123456789"]  # type: ignore[assignment]
        await desk.poll()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with capture_logs() as lines:
        with_a_desk(tmp_path, story, redactor=redactor)
    said = [line for line in lines if line["event"] == "a field of a run can't be read"]
    assert [line["example"] for line in said] == ['["' + "x" * 70 + "[redacte"]


def test_clocks_that_are_apart_are_said_at_first_contact(tmp_path: Path) -> None:
    """More than a minute: times of runs are compared with the API's clock from then on."""

    async def story(desk: Desk) -> None:
        desk.service.behind_seconds = 90.0
        await desk.poll()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with capture_logs() as lines:
        with_a_desk(tmp_path, story)
    said = [line for line in lines if line["event"] == "the API's clock is not ours"]
    assert [-92 <= line["ahead_seconds"] <= -89 for line in said] == [True]


# -- an API that refuses to list far back


@pytest.mark.parametrize("refusal", ["bad_request", "not_found", "server_error"])
@pytest.mark.parametrize("order", ["created_desc", "updated_desc", "mixed"])
def test_a_refused_depth_ends_what_is_optional_and_not_the_poll(
    tmp_path: Path, order: str, refusal: str
) -> None:
    """First contact, the search for buried runs and the look back end there; the org stays up."""

    async def story(desk: Desk) -> None:
        desk.service.order, desk.service.refuses_from = order, 20
        desk.service.refusal = refusal
        buried = desk.pending(created=-100.0)
        desk.finished(60)
        desk.clocks.now += 1.0
        for _ in range(3):
            await desk.poll()
        assert desk.process.collector.up
        # Pages overlap: the first row that no page held lies in the first one that is refused.
        assert 20 <= (desk.own("invent_listing_refused_depth_rows") or 0) < 30
        assert desk.count == 0
        for status in ("FAILED", "COMPLETED", "FAILED"):
            desk.finished(1, status)
            await desk.poll(after_seconds=400.0)
        assert desk.process.collector.up, desk.process.collector.error
        if order != "mixed":
            assert desk.count == 3
        desk.finish(buried)
        if order == "updated_desc":
            await desk.poll()
            assert desk.count == 4

    with_a_desk(tmp_path, story, page_size=10)


def test_more_new_runs_than_the_api_lists_are_read_by_status(tmp_path: Path) -> None:
    """Each status has a depth of its own."""

    async def story(desk: Desk) -> None:
        desk.finished(15)
        await desk.poll()
        desk.service.refuses_from = 20
        for status in ("FAILED", "COMPLETED", "CANCELED"):
            desk.finished(15, status)
        await desk.poll()
        assert desk.process.collector.up, desk.process.collector.error
        assert desk.count == 45

    with_a_desk(tmp_path, story, page_size=10)


def test_a_page_that_was_read_before_and_is_refused_now_does_not_end_the_polls(
    tmp_path: Path,
) -> None:
    """With the oldest first a poll, and a look back, begin far back: at a depth that may shrink."""

    async def story(desk: Desk) -> None:
        desk.service.order = "created_asc"
        desk.finished(45)
        await desk.poll()
        await desk.poll()
        desk.service.refuses_from = 20
        for _ in range(3):
            desk.finished(1, "FAILED")
            await desk.poll(after_seconds=1000.0)
            assert desk.process.collector.up, desk.process.collector.error
        assert desk.own("invent_listing_refused_depth_rows") is not None
        assert not desk.own("invent_poll_errors_total", reason="bad_request")
        assert desk.count == 3

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("depth", [0, 15, 27])
@pytest.mark.parametrize("order", ["created_desc", "created_asc", "mixed"])
def test_a_row_that_its_page_fails_for_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, depth: int, rows: int
) -> None:
    """Neither is the org down for more than a poll, nor does the listing end there."""

    async def story(desk: Desk) -> None:
        desk.service.order = order
        desk.finished(60)
        await desk.poll()
        await desk.poll()
        last = 30 - depth
        bad = desk.finished(30, "FAILED")[last - rows : last]
        get = desk.service.get

        async def stumbling(path: str, params: Mapping[str, str], *arguments: Any) -> Answer:  # noqa: ANN401
            page, take = int(params["page"]), int(params["take"])
            listed = desk.service.listed(params["status"])[(page - 1) * take : page * take]
            if any(run in bad for run in listed):
                raise failing("server_error")
            return await get(path, params, *arguments)

        monkeypatch.setattr(desk.service, "get", stumbling)
        await desk.poll()  # which may have met an outage
        for _ in range(3):
            await desk.poll(after_seconds=1000.0)
            assert desk.process.collector.up, desk.process.collector.error
        assert desk.count == 30 - rows
        assert desk.own("invent_listing_refused_depth_rows") is None
        assert desk.served("invent_runs_invalid_total", reason="server_error") == 1

    with_a_desk(tmp_path, story, page_size=10)


def test_one_outage_behind_page_one_is_no_refusal(tmp_path: Path) -> None:
    """The poll fails, and the next one misses nothing."""

    async def story(desk: Desk) -> None:
        desk.finished(15)
        await desk.poll()
        desk.finished(30)
        desk.service.refuses_from, desk.service.refusal = 10, "server_error"
        await desk.poll()
        assert not desk.process.collector.up
        desk.service.refuses_from = None
        await desk.poll()
        assert desk.count == 30
        assert desk.own("invent_listing_refused_depth_rows") is None

    with_a_desk(tmp_path, story, page_size=10)


@pytest.mark.parametrize("fails_at", range(1, 13))
def test_a_change_of_the_key_that_the_disk_breaks_off_is_made_by_the_next_poll(
    tmp_path: Path, fails_at: int
) -> None:
    """Nothing of the other org gets into what `c` was."""

    async def story(desk: Desk) -> None:
        desk.finished(3)
        await desk.poll()
        desk.service.runs = {}
        for run in desk.finished(4):
            run.org_id = "org-2"
        desk.clocks.now += 1.0
        desk.restart()
        steps = desk.process.steps
        steps.disk_fails_at = steps.passed + fails_at
        await desk.poll()
        steps.disk_fails_at = None
        for _ in range(2):
            await desk.poll()
        assert desk.served("invent_runs_finished_total", org_id="org-2") == 0
        org = await desk.process.ledger.load("org-1", walk_floor=0.0)
        assert sum(org.workflows["wf"].finished.values()) == 0

    with_a_desk(tmp_path, story, configured_id="c")


def test_a_look_back_ends_at_a_server_error_that_comes_again_between_idle_polls(
    tmp_path: Path,
) -> None:
    """Polls that read page 1 alone do not make each time the first."""

    async def story(desk: Desk) -> None:
        desk.finished(60)
        await desk.poll()
        desk.service.refuses_from, desk.service.refusal = 20, "server_error"
        for _ in range(6):
            await desk.poll(after_seconds=500.0)
        assert desk.own("invent_poll_errors_total", reason="server_error") == 1
        assert desk.own("invent_listing_refused_depth_rows") is not None

    with_a_desk(tmp_path, story, page_size=10)
