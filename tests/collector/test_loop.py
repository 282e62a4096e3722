"""The loop of one org: what it asks for, what it does when the API or the disk is sick.

Promises 4 and 6, beside what test_machine holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from dataclasses import replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from invent_exporter.api.models import ORIGINS
from invent_exporter.collector.target import WalkBounds
from invent_exporter.errors import ApiError
from invent_exporter.redaction import Redactor
from tests.effort import cases
from tests.proof.process import EPOCH, FakeClocks, KilledError, Process, Settings
from tests.proof.reference import Reference
from tests.proof.scraper import Scraper, samples
from tests.proof.service import ORDERS, Run, Service, failing

DAY = 86400.0
Lines: TypeAlias = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def lines() -> Iterator[Lines]:
    """Return what is logged, which is shown nowhere."""
    with capture_logs() as lines:
        yield lines


class Desk:
    """A service, and the exporter on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:  # noqa: ANN401
        self.url = f"sqlite:///{folder}/state.db"
        self.settings = Settings(**{"page_size": 10, "newborn_hold_seconds": 0.0, **settings})
        self.clocks = FakeClocks()
        self.service = Service()
        self.reference = Reference()
        self.scraper = Scraper()
        self.serial = 0
        self.start()

    def start(self) -> None:
        """Start the exporter."""
        self.process = Process(
            self.url,
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

    def finished(self, count: int = 1, status: str = "COMPLETED", **fields: Any) -> list[Run]:  # noqa: ANN401
        """Create runs, a second apart, that have ended."""
        runs = []
        for _ in range(count):
            self.clocks.now += 1.0
            runs.append(self.finish(self.pending(**fields), status))
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

    def fail(
        self, error: BaseException | str = "server_error", *, after: int = 0, seconds: float = 0.0
    ) -> None:
        """Let every read, or each after so many, fail from now on and take so long."""
        most = self.service.reads + after

        def before_read(reads: int) -> None:
            if reads >= most:
                self.clocks.now += seconds
                raise failing(error) if isinstance(error, str) else error

        self.service.before_read = before_read

    def heal(self) -> None:
        """Let reads succeed."""
        self.service.before_read = lambda _reads: None

    def own(self, name: str, **labels: str) -> float | None:
        """Read one of the exporter's own series."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for series, value in samples(generate_latest(self.process.registry)):
            if series.startswith(name) and all(label in series for label in wanted):
                return value
        return None


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """Return a desk on a fresh state; see `with_settings`."""
    desk = Desk(tmp_path, **getattr(request, "param", {}))
    yield desk
    desk.process.stop()


def with_settings(**settings: Any) -> pytest.MarkDecorator:  # noqa: ANN401
    """Let the desk of a test have other settings."""
    return pytest.mark.parametrize("desk", [settings], indirect=True)


def said(lines: Lines, event: str, *names: str) -> list[Any]:
    """List these fields of the lines about an event."""
    return [itemgetter(*names)(line) for line in lines if line["event"].startswith(event)]


# -- what a poll costs


@pytest.mark.parametrize(
    ("order", "sends_count"), [*product(ORDERS[:4], (True, False)), ("mixed", True)]
)
async def test_an_idle_poll_is_one_request(desk: Desk, order: str, *, sends_count: bool) -> None:
    """When the order was learned, or the count proves that nothing is new (promise 6)."""
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


async def test_the_interval_stretches_where_the_limit_is_too_low_and_comes_back(desk: Desk) -> None:
    """What is shown is what is kept: from the poll's end, for its requests may have queued."""
    desk.service.before_read = lambda _reads: setattr(desk.clocks, "now", desk.clocks.now + 2.0)
    await desk.poll()
    demand = desk.process.collector._shared.demand
    demand.apply(2)  # a minute, of which 0.6 are for polls, which want 2
    assert await desk.poll() == pytest.approx(2.0 + 100.0)
    assert desk.own("invent_poll_interval_seconds") == pytest.approx(102.0)
    demand.apply(300)
    assert await desk.poll() == 30.0
    assert desk.own("invent_poll_interval_seconds") == 30.0


async def test_orgs_that_begin_together_spread_over_the_interval(desk: Desk) -> None:
    """The second poll comes at a random moment within it, the others then keep theirs."""
    polled: list[float] = []

    def before_read(_reads: int) -> None:
        if desk.clocks.now not in polled:
            polled.append(desk.clocks.now)
        if len(polled) == 4:
            raise KilledError

    desk.service.before_read = before_read
    with suppress(KilledError):
        await desk.process.collector.run()
    assert polled == [0.0, 15.0, 45.0, 75.0]


async def test_a_mixed_listing_without_the_count_is_walked_and_the_interval_stretched(
    desk: Desk,
) -> None:
    """To 20 times what the walk took."""
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


@pytest.mark.parametrize("rows", [9, 10, 11, 20])
@pytest.mark.parametrize("order", ["created_asc", "updated_asc"])
async def test_oldest_first_finds_the_next_run_wherever_the_last_page_ends(
    desk: Desk, order: str, rows: int
) -> None:
    """A full last page says nothing of what comes behind it."""
    desk.service.order, desk.service.sends_count = order, False
    desk.finished(rows)
    await desk.poll()
    for number in range(1, 13):
        desk.finished(1)
        await desk.poll()
        assert desk.count == number


@pytest.mark.parametrize("order", ORDERS)
async def test_runs_that_start_and_end_between_two_polls_count(desk: Desk, order: str) -> None:
    """More of them than a page holds (promise 2)."""
    desk.service.order = order
    desk.finished(15)
    await desk.poll()
    desk.finished(47)
    await desk.poll()
    assert desk.count == 47
    assert desk.served("invent_runs_recovered_total") == 0


@pytest.mark.parametrize("sends_count", [True, False])
@pytest.mark.parametrize("order", ORDERS)
async def test_a_long_run_is_found_when_it_ends_however_deep_it_lies(
    desk: Desk, order: str, *, sends_count: bool
) -> None:
    """Behind hundreds of others, and after a restart."""
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


@pytest.mark.parametrize("order", ORDERS)
async def test_an_open_run_of_an_unknown_status_is_followed(desk: Desk, order: str) -> None:
    """No list can be asked for it."""
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


@pytest.mark.parametrize("order", cases(ORDERS, quick=["created_desc", "mixed"]))
async def test_pages_that_shift_while_they_are_walked_lose_nothing(desk: Desk, order: str) -> None:
    """Runs come and go between two reads."""
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
    desk.heal()
    await desk.poll()
    await desk.poll(after_seconds=1000.0)
    await desk.poll()
    new = [run for run in desk.service.runs.values() if run.run_id > "run-00040"]
    assert desk.count == len(new)


# -- first contact


async def test_history_moves_no_counter_and_a_run_after_it_does(desk: Desk) -> None:
    """What was open then counts when it ends."""
    open_run = desk.pending()
    desk.finished(12, "FAILED")
    await desk.poll()
    assert desk.count == 0
    assert desk.served("invent_workflow_consecutive_failures") == 12
    desk.finish(open_run)
    desk.finished(1)
    await desk.poll()
    assert desk.count == 2


async def test_first_contact_reads_back_no_further_than_lookback(desk: Desk) -> None:
    """In a learned order; runs from before are history all the same, when they turn up."""
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


async def test_runs_of_a_listing_that_is_ordered_in_its_parts_only_count_soon(desk: Desk) -> None:
    """By workflow, then newest first: the count says that runs came where no poll looked."""
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


async def test_a_first_contact_that_broke_off_publishes_nothing(desk: Desk) -> None:
    """Neither does the next process before it is complete."""
    desk.finished(50)
    desk.fail("network", after=4)
    await desk.poll()
    assert desk.scraper.last == {}
    desk.restart()
    desk.fail()
    await desk.poll()
    assert desk.scraper.last == {}
    desk.heal()
    await desk.poll()
    assert desk.count == 0


@with_settings(configured_id="c")
async def test_c_is_named_by_a_run_that_is_known_already(desk: Desk) -> None:
    """Also when nothing else of the run changed."""
    runs = desk.finished(3)
    for run in runs:
        run.org_id = None
    await desk.poll()
    await desk.poll()
    assert desk.count is None
    runs[1].org_id = "org-7"
    await desk.poll()
    assert desk.served("invent_runs_finished_total", org_id="org-7") == 0


@with_settings(configured_id="c")
async def test_c_is_named_after_a_kill_though_no_run_is_left(desk: Desk) -> None:
    """What was committed of them is served."""
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
        if org.likely_org_id() is not None:
            break
    assert desk.scraper.last == {}
    desk.service.runs.pop(named.run_id)
    await desk.poll()
    await desk.poll()
    assert desk.count == 1


@with_settings(configured_id="c")
async def test_c_becomes_the_org_that_its_runs_name(desk: Desk) -> None:
    """Until one does only the poll's own series exist, as `c`."""
    await desk.poll()
    assert desk.scraper.last == {}
    assert desk.own("invent_up", org_id="c") == 1
    desk.finished(2)
    await desk.poll()
    assert desk.count == 2
    assert desk.own("invent_up", org_id="org-1") == 1
    assert desk.own("invent_up", org_id="c") is None
    desk.restart()
    desk.fail()
    await desk.poll()
    assert desk.count == 2
    assert desk.own("invent_up", org_id="org-1") == 0


# -- a sick API, a sick disk


@pytest.mark.parametrize(
    "reason", ["unauthorized", "not_found", "server_error", "network", "timeout", "bad_request"]
)
async def test_a_failed_poll_moves_no_number(desk: Desk, reason: str) -> None:
    """`invent_up` is 0 and the reason is counted; the gauges go after three in a row."""
    desk.pending()
    await desk.poll()
    desk.finished(3)
    await desk.poll()
    desk.fail(reason)
    for failures in range(1, 5):
        await desk.poll()
        assert desk.own("invent_up") == 0
        assert desk.own("invent_poll_errors_total", reason=reason) == failures
        assert desk.count == 3
        assert (desk.served("invent_runs_open{") is None) == (failures >= 3)
    desk.heal()
    await desk.poll()
    assert desk.own("invent_up") == 1
    assert desk.served("invent_runs_open{") == 1


async def test_runs_that_finished_while_the_api_was_away_count_when_it_is_back(desk: Desk) -> None:
    """However many, however long."""
    desk.finished(5)
    await desk.poll()
    desk.fail()
    for _ in range(3):
        desk.finished(20)
        await desk.poll(after_seconds=DAY)
    desk.heal()
    await desk.poll()
    assert desk.count == 60


async def test_a_walk_that_broke_off_settles_nothing(desk: Desk) -> None:
    """What was read counts at once; the rest when the next walk reads it."""
    desk.finished(20)
    await desk.poll()
    desk.finished(40)
    desk.fail(after=2)
    await desk.poll()
    desk.heal()
    await desk.poll()
    assert desk.count == 40
    assert desk.served("invent_runs_recovered_total") == 0, "the walk itself found them"


@pytest.mark.parametrize("took_seconds", [0.0, 25.0, 100.0])
async def test_retry_after_counts_from_the_answer_however_slow_the_poll_was(
    desk: Desk, took_seconds: float
) -> None:
    """It is what the API asked for when it answered, not when the poll began."""
    desk.fail(ApiError("server_error", "busy", retry_after_seconds=40.0), seconds=took_seconds)
    assert await desk.poll() == took_seconds + 40.0


async def test_a_slow_poll_that_fails_is_followed_by_a_wait(desk: Desk) -> None:
    """A sick API must not be asked again the moment it gave up, though the interval is over."""
    desk.fail(seconds=100.0)
    assert 101.0 < await desk.poll() <= 110.0
    desk.fail(seconds=1.0)
    assert 27.0 <= await desk.poll() <= 30.0


@pytest.mark.parametrize("reason", ["server_error", "rate_limited"])
async def test_retry_after_of_a_reconciliation_is_kept(desk: Desk, reason: str) -> None:
    """It holds the next slice; the polls go on, unless all requests are limited."""
    desk.finished(60)
    await desk.poll()
    desk.fail(ApiError(reason, "busy", retry_after_seconds=100.0), after=1)
    wait_seconds = await desk.poll(after_seconds=1000.0)
    assert wait_seconds == (100.0 if reason == "rate_limited" else 30.0)
    assert desk.own("invent_up") == 1
    desk.heal()
    waited = wait_seconds
    while waited < 100.0:
        assert len(await desk.requests_of_a_poll()) == 1
        waited += 30.0
    assert len(await desk.requests_of_a_poll()) > 1


async def test_time_between_polls_that_retry_after_takes_counts_as_throttled(
    desk: Desk,
) -> None:
    """Only what the poll comes later for; it would have waited its interval anyway."""
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


@with_settings(page_size=5)
@pytest.mark.parametrize("fails_at", range(1, 25, 2))
async def test_a_full_disk_is_a_failed_poll_and_loses_nothing(desk: Desk, fails_at: int) -> None:
    """Whatever the write that fails first; it recovers by itself."""
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


@pytest.mark.parametrize(
    ("error", "brief"),
    [
        (ApiError("server_error", "HTTP 500: Ann", status=500), "server_error (HTTP 500)"),
        (ApiError("network", "ConnectError: no way"), "network"),
        (ZeroDivisionError("Ann"), "invalid_response"),
    ],
)
async def test_an_error_can_be_said_without_what_the_api_said(
    desk: Desk, error: Exception, brief: str
) -> None:
    """By its reason and the HTTP status alone, until a poll succeeds."""
    desk.fail(error)
    await desk.poll()
    assert desk.process.collector.brief_error == brief
    desk.heal()
    await desk.poll()
    assert desk.process.collector.brief_error is None


async def test_a_bug_ends_a_poll_and_neither_the_loop_nor_readiness(desk: Desk) -> None:
    """It shows as an error, and the next poll is made."""
    desk.fail(ZeroDivisionError())
    assert not desk.process.collector.first_attempt.is_set()
    await desk.poll()
    assert desk.process.collector.first_attempt.is_set()
    assert desk.own("invent_up") == 0
    assert "ZeroDivisionError" in (desk.process.collector.error or "")
    desk.heal()
    await desk.poll()
    assert desk.own("invent_up") == 1


@pytest.mark.parametrize("order", cases(ORDERS, quick=["created_desc", "mixed"]))
async def test_a_kill_between_any_two_writes_changes_nothing(desk: Desk, order: str) -> None:
    """At each statement, commit and publish of a poll and of a release (promise 1).

    The scraper of the desk sees every body, across the kills, and says so when a counter falls.
    """
    # A mixed listing is walked whole each time: with small pages the end would run away.
    desk.settings = replace(desk.settings, page_size=100 if order == "mixed" else 5)
    desk.restart()
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


@with_settings(page_size=5)
async def test_a_listing_that_changes_too_fast_to_be_read_whole_fails_the_poll(desk: Desk) -> None:
    """Rows slipped by between its pages, so it must not settle what it saw."""
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
    desk.heal()
    left = {run.run_id for run in new} & desk.service.runs.keys()
    assert left
    await desk.poll()
    assert desk.own("invent_up") == 1
    assert (desk.count or 0) >= len(left)


# -- looking back, vanishing


@pytest.mark.parametrize("api_behind_seconds", [0.0, 3 * 86400.0])
@pytest.mark.parametrize("order", ORDERS)
async def test_runs_that_the_front_pages_hid_are_found_by_the_reconciliation(
    desk: Desk, order: str, api_behind_seconds: float
) -> None:
    """And show as recovered; the window is the API's, also where its clock is days behind."""
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


async def test_a_deep_page_that_can_not_be_read_leaves_the_polls_alone(desk: Desk) -> None:
    """The reconciliation goes on from there once it can; its age and an error say so until then."""
    desk.finished(60)
    await desk.poll()
    done = desk.own("invent_reconcile_last_success_timestamp_seconds")
    late = desk.finished(1, "FAILED")[0]
    late.hidden = True
    desk.finished(40)
    await desk.poll()
    late.hidden = False

    for _ in range(5):
        desk.fail(after=1)  # not the front page, which is all that a poll needs
        await desk.poll(after_seconds=1000.0)
        assert desk.own("invent_up") == 1
        assert desk.served("invent_runs_open") == 0
    assert desk.own("invent_poll_errors_total", reason="server_error") == 5
    assert desk.own("invent_reconcile_last_success_timestamp_seconds") == done
    assert desk.count == 40
    desk.heal()
    for _ in range(2):
        await desk.poll(after_seconds=1000.0)
    assert desk.count == 41
    assert desk.served("invent_runs_recovered_total") == 1
    assert (desk.own("invent_reconcile_last_success_timestamp_seconds") or 0) > (done or 0)


@with_settings(page_size=3)
@pytest.mark.parametrize("order", ["created", "updated"])
async def test_no_open_run_vanishes_where_the_listing_turns_round_in_pages_of_one_row(
    desk: Desk, order: str
) -> None:
    """It is looked for from the end where the newest stood, and is at the other one now."""
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


@pytest.mark.parametrize("order", ORDERS)
async def test_an_open_run_that_left_the_api_vanished_after_two_complete_searches(
    desk: Desk, order: str
) -> None:
    """It is no longer counted as open; when it comes back final, it counts."""
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


async def test_an_unreadable_run_is_left_out_and_tried_again(desk: Desk) -> None:
    """The others of its page count, it does when it can be read."""
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


async def test_an_open_run_that_can_not_be_read_any_more_has_not_vanished(desk: Desk) -> None:
    """It is listed; when it can be read again it is followed as before."""
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


async def test_an_unreadable_run_is_named_in_the_log_once(desk: Desk, lines: Lines) -> None:
    """A metric can't say which run it was."""
    desk.finished(3)
    await desk.poll()
    for run in desk.finished(2):
        run.unreadable = True
    await desk.poll()
    await desk.poll()
    names = ["run-00005 (status), run-00004 (status)"]
    assert said(lines, "runs can't be read", "run_ids") == names


@pytest.mark.parametrize("new", ORDERS)
@pytest.mark.parametrize("old", ORDERS)
async def test_another_order_of_the_listing_is_noticed(desk: Desk, old: str, new: str) -> None:
    """Nothing is counted twice, and nothing is missed for longer than a reconciliation."""
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


# -- health


async def test_a_loop_without_a_sign_of_life_has_stalled(desk: Desk) -> None:
    """After the longer of 5 minutes and 10 intervals."""
    collector = desk.process.collector
    signs = []
    await desk.poll()
    for seconds in (299.0, 10.0):
        desk.clocks.now += seconds
        signs.append(collector.is_stalled)
    await desk.poll()
    signs.append(collector.is_stalled)
    assert signs == [False, True, False]


# -- odd runs, another org's key


@with_settings(page_size=100)
async def test_ties_that_are_dealt_anew_add_nothing_and_a_failure_after_them_counts(
    desk: Desk,
) -> None:
    """History is told by its time, however much of it first contact could see."""
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


async def test_an_empty_list_at_first_contact_makes_no_burst_later(desk: Desk) -> None:
    """What is listed afterwards had ended before."""
    runs, desk.service.runs = {run.run_id: run for run in desk.finished(60)}, {}
    await desk.poll()
    desk.service.runs = runs
    await desk.poll()
    desk.finished(1, "FAILED")
    await desk.poll()
    assert desk.count == 1


@with_settings(configured_id="c")
async def test_a_key_of_another_org_makes_a_first_contact_of_its_own(desk: Desk) -> None:
    """What `c` was keeps its counters, and goes on with them when its key is back."""
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


async def test_a_walk_of_which_nothing_can_be_read_is_no_success(desk: Desk) -> None:
    """From ten runs on; one that can be read makes the rest its own trouble."""
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


async def test_an_odd_field_is_said_once_an_hour_with_an_example(desk: Desk, lines: Lines) -> None:
    """The counter has the number; the line says what the API writes, and in which run."""
    await desk.poll()
    for seconds in (30.0, 30.0, 3600.0):
        desk.finished(1)[0].version = []  # type: ignore[assignment]
        await desk.poll(after_seconds=seconds)
    assert desk.served("invent_run_fields_unreadable_total", field="version") == 3
    assert said(lines, "a field of a run", "field", "example") == [("version", "[]")] * 2


REDACTOR = Redactor()
REDACTOR.add("secret-0123456789")


@with_settings(redactor=REDACTOR)
async def test_no_part_of_a_secret_is_left_where_an_example_is_cut(
    desk: Desk, lines: Lines
) -> None:
    """What was cut would not be found any more."""
    await desk.poll()
    desk.finished(1)[0].version = ["x" * 70 + "secret-0123456789"]  # type: ignore[assignment]
    await desk.poll()
    assert said(lines, "a field of a run", "example") == ['["' + "x" * 70 + "[redacte"]


async def test_clocks_that_are_apart_are_said_at_first_contact(desk: Desk, lines: Lines) -> None:
    """More than a minute: times of runs are compared with the API's clock from then on."""
    desk.service.behind_seconds = 90.0
    await desk.poll()
    (ahead_seconds,) = said(lines, "the API's clock is not ours", "ahead_seconds")
    assert -92 <= ahead_seconds <= -89


@pytest.mark.parametrize("days", [0.9, 1.1, 3.0, 20_000.0])
async def test_an_api_whose_clock_is_far_ahead_of_ours_is_counted_by_its_own(
    desk: Desk, lines: Lines, days: float
) -> None:
    """As where it is behind: its times are times, and its `Date` is contact."""
    desk.service.behind_seconds = -days * DAY
    desk.finished(3, "FAILED")
    late = desk.finished(1, "FAILED")[0]
    late.hidden = True
    await desk.poll()
    (ahead_seconds,) = said(lines, "the API's clock is not ours", "ahead_seconds")
    assert abs(ahead_seconds - days * DAY) < 3
    late.hidden = False
    desk.finished(2, "FAILED")
    desk.pending()
    await desk.poll()
    assert (desk.count, desk.served("invent_runs_open", origin="TRIGGER")) == (2, 1)
    assert desk.served("invent_runs_invalid_total") in (None, 0)


async def test_a_clock_of_ours_that_is_mended_later_makes_no_burst(desk: Desk) -> None:
    """It was three days behind at first contact; all that the API had listed was history."""
    desk.service.behind_seconds = -3 * DAY
    desk.finished(20, "FAILED")
    await desk.poll()
    desk.clocks.now += 3 * DAY
    desk.service.behind_seconds = 0.0
    for _ in range(3):
        await desk.poll()
    assert desk.count == 0
    desk.finished(1, "FAILED")
    await desk.poll()
    assert desk.count == 1


@pytest.mark.parametrize("runs", [0, 3])
async def test_a_date_that_neither_our_clock_nor_a_run_is_near_is_not_contact(
    desk: Desk, lines: Lines, runs: int
) -> None:
    """A broken proxy's, say: everything would be history for years."""
    desk.finished(runs, "FAILED")
    desk.service.behind_seconds = -3650 * DAY
    await desk.poll()
    assert said(lines, "the API's clock is not ours", "believed") == [False]
    desk.service.behind_seconds = 0.0
    desk.finished(2, "FAILED")
    await desk.poll()
    assert desk.count == 2


async def test_where_a_date_is_not_believed_the_newest_run_may_tell_what_is_history(
    desk: Desk,
) -> None:
    """Our clock is days behind, and the org was quiet since."""
    desk.service.behind_seconds = -3 * DAY
    late = desk.finished(1, "FAILED")[0]
    late.hidden = True
    desk.finished(3, "FAILED")
    desk.clocks.now += 1.5 * DAY
    await desk.poll()
    late.hidden = False
    desk.finished(2, "FAILED")
    await desk.poll()
    assert desk.count == 2


# -- an API that refuses to list far back


@pytest.mark.parametrize("refusal", ["bad_request", "not_found", "server_error"])
@pytest.mark.parametrize("order", ["created_desc", "updated_desc", "mixed"])
async def test_a_refused_depth_ends_what_is_optional_and_not_the_poll(
    desk: Desk, order: str, refusal: str
) -> None:
    """First contact, the search for buried runs and the look back end there; the org stays up."""
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


async def test_more_new_runs_than_the_api_lists_are_read_by_status(desk: Desk) -> None:
    """Each status has a depth of its own."""
    desk.finished(15)
    await desk.poll()
    desk.service.refuses_from = 20
    for status in ("FAILED", "COMPLETED", "CANCELED"):
        desk.finished(15, status)
    await desk.poll()
    assert desk.process.collector.up, desk.process.collector.error
    assert desk.count == 45


async def test_more_new_runs_than_a_status_lists_are_read_by_origin(
    desk: Desk, lines: Lines
) -> None:
    """Each origin has a depth of its own; what stays beyond is said, once an hour."""
    desk.finished(15)
    await desk.poll()
    desk.service.refuses_from = 20
    for origin in ORIGINS:
        desk.finished(15, "FAILED", origin=origin)
    await desk.poll()
    assert desk.count == 45
    beyond = "the API refuses to list all runs, by status"
    assert said(lines, beyond, "lists") == []
    for _ in range(2):
        desk.finished(60, "CANCELED", origin="WEBHOOK")
        await desk.poll()
    assert desk.process.collector.up, desk.process.collector.error
    assert 45 + 2 * 20 <= (desk.count or 0) < 45 + 2 * 60
    (lists,) = said(lines, beyond, "lists")
    assert re.fullmatch(r"CANCELED/WEBHOOK from row 2\d", lists)


@pytest.mark.parametrize("order", ["created_desc", "mixed"])
async def test_a_run_that_ended_deeper_than_the_api_lists_is_looked_for_by_status(
    desk: Desk, order: str
) -> None:
    """Once: one that is in no list that can be read costs no search in later polls, for an hour."""
    desk.service.order, desk.service.refuses_from = order, 20
    buried, lost = desk.pending(), desk.pending(origin="WEBHOOK")
    desk.finished(60)
    for _ in range(2):
        await desk.poll()
    desk.finish(buried, "FAILED")
    lost.hidden = True
    await desk.poll()
    assert desk.count == 1
    assert desk.served("invent_runs_open{") == 1
    if order == "created_desc":
        assert len(await desk.requests_of_a_poll()) == 3, "the first page, and both lists"
    lost.hidden = False
    desk.finish(lost, "FAILED")
    await desk.poll(after_seconds=3700.0)
    assert desk.count == 2


async def test_first_contact_reads_by_status_what_stands_deeper_than_the_api_lists(
    desk: Desk,
) -> None:
    """Back to `lookback`, so that its workflows and streaks are known."""
    desk.finished(15, "FAILED", workflow_id="rare")
    desk.finished(30)
    desk.service.refuses_from = 20
    await desk.poll()
    assert desk.served("invent_workflow_consecutive_failures", workflow_id="rare") == 15
    assert desk.count == 0


async def test_more_open_runs_than_the_api_lists_are_read_by_origin_and_leave_the_org_up(
    desk: Desk, lines: Lines
) -> None:
    """Those beyond are said, and followed as soon as the API lists them."""
    desk.service.refuses_from = 20
    runs = [desk.pending(origin=origin) for origin in ORIGINS for _ in range(15)]
    desk.clocks.now += 1.0
    await desk.poll()
    assert desk.served("invent_runs_open{", status="PENDING") == 45
    assert said(lines, "the API refuses to list all runs, by status", "lists") == []
    more = []
    for _ in range(10):
        desk.clocks.now += 1.0
        more += [desk.pending(), desk.pending()]
        await desk.poll()
    assert desk.process.collector.up, desk.process.collector.error
    (lists,) = said(lines, "the API refuses to list all runs, by status", "lists")
    assert re.fullmatch(r"PENDING/TRIGGER from row 2\d", lists)
    assert desk.served("invent_runs_open{", status="PENDING") == 65
    assert desk.served("invent_runs_vanished_total") == 0

    def before_read(_reads: int) -> None:
        desk.clocks.now += 1.0

    desk.service.before_read = before_read
    assert await desk.poll() > 20 * 10.0, "so many lists are read more rarely"
    desk.heal()
    desk.service.refuses_from = None
    await desk.poll()
    for run in (runs[20], more[0]):
        desk.finish(run)
    desk.finished(10)
    await desk.poll()
    assert desk.count == 12


@pytest.mark.parametrize("order", ORDERS)
async def test_a_status_that_the_api_no_longer_knows_is_looked_for_among_all(
    desk: Desk, order: str
) -> None:
    """Also at first contact, which then reads on behind `lookback`."""
    desk.service.order, desk.service.unknown_filters = order, frozenset({"PENDING"})
    buried = desk.pending(created=-2 * DAY)
    for hours in range(47, 0, -1):
        run = desk.pending(created=-3600.0 * hours)
        run.status, run.started, run.ended = "COMPLETED", run.created, run.created
    for _ in range(3):
        await desk.poll()
        assert desk.process.collector.up, desk.process.collector.error
        assert desk.served("invent_runs_open{", status="PENDING") == 1
    desk.finish(buried)
    await desk.poll()
    assert desk.count == 1


@with_settings(walk_bounds=WalkBounds(rows=60))
async def test_a_walk_without_an_end_breaks_off(desk: Desk) -> None:
    """After so many rows; the poll fails, and says so."""
    await desk.poll()

    def before_read(reads: int) -> None:
        if reads < 30:
            desk.finished(12)

    desk.service.order = "created_asc"
    desk.service.before_read = before_read
    await desk.poll()
    assert "has no end: a walk read more than 60 rows" in (desk.process.collector.error or "")
    assert desk.own("invent_poll_errors_total", reason="invalid_response") == 1
    assert 30 <= (desk.count or 0) <= 60


@with_settings(walk_bounds=WalkBounds(share_of_room=0.0, spare_bytes=100_000))
async def test_a_walk_that_fills_the_disk_breaks_off(desk: Desk) -> None:
    """Before others want for room: it may take a share of what is left."""
    await desk.poll()
    desk.finished(300)
    await desk.poll()
    assert re.search("a walk filled [0-9]+ bytes of the state", desk.process.collector.error or "")
    assert 0 < (desk.count or 0) < 300


async def test_a_page_that_was_read_before_and_is_refused_now_does_not_end_the_polls(
    desk: Desk,
) -> None:
    """With the oldest first a poll, and a look back, begin far back: at a depth that may shrink."""
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


@pytest.mark.parametrize("sends_count", [True, False])
async def test_runs_that_no_list_reached_are_found_when_the_api_lists_them_again(
    desk: Desk, *, sends_count: bool
) -> None:
    """With the oldest first, too, where the count has not changed since they were out of reach."""
    desk.service.order, desk.service.sends_count = "created_asc", sends_count
    desk.finished(45)
    await desk.poll()
    await desk.poll()
    desk.service.refuses_from = 20
    desk.finished(35, "FAILED")
    for _ in range(3):
        await desk.poll()
    assert (desk.count or 0) < 35
    desk.service.refuses_from = None
    for _ in range(3):
        await desk.poll(after_seconds=1000.0)
    assert desk.count == 35


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("depth", [0, 15, 27])
@pytest.mark.parametrize("order", ["created_desc", "created_asc", "mixed"])
async def test_a_row_that_its_page_fails_for_costs_only_itself(
    desk: Desk, order: str, depth: int, rows: int
) -> None:
    """Neither is the org down for more than a poll, nor does the listing end there."""
    desk.service.order = order
    desk.finished(60)
    await desk.poll()
    await desk.poll()
    last = 30 - depth
    for run in desk.finished(30, "FAILED")[last - rows : last]:
        run.stumbles = True
    await desk.poll()  # which may have met an outage
    for _ in range(3):
        await desk.poll(after_seconds=1000.0)
        assert desk.process.collector.up, desk.process.collector.error
    assert desk.count == 30 - rows
    assert desk.own("invent_listing_refused_depth_rows") is None
    assert desk.served("invent_runs_invalid_total", reason="server_error") == 1


@pytest.mark.parametrize("depth", [0, 4, 15])
@pytest.mark.parametrize("order", [*ORDERS[:4], "mixed"])
async def test_a_row_that_was_met_costs_no_more_searches_and_is_asked_for_again_rarely(
    desk: Desk, order: str, depth: int
) -> None:
    """An idle poll is one request again, and one with news meets no page that fails."""
    desk.service.order = order
    desk.finished(60)
    await desk.poll()
    bad = desk.finished(30, "FAILED")[29 - depth]
    bad.stumbles = True
    for _ in range(4):
        await desk.poll()
    assert desk.count == 29
    is_last = order.endswith("asc") and depth == 0  # then a page must show that nothing follows
    for _ in range(3):
        assert len(await desk.requests_of_a_poll()) <= (3 if is_last else 1)
    if order != "mixed":
        desk.finished(3)
        await desk.poll()  # which looks for one that was the first: nothing stood ahead of it
        found = desk.service.failed
        for _ in range(3):
            desk.finished(3)
            assert len(await desk.requests_of_a_poll()) <= 5
        assert desk.service.failed == found
    found = desk.service.failed
    for _ in range(8):
        await desk.poll(after_seconds=1000.0)
    assert found < desk.service.failed <= found + (4 if order != "mixed" else 40)
    bad.stumbles = False
    for _ in range(2):
        await desk.poll(after_seconds=3700.0)
    assert desk.count == (42 if order != "mixed" else 30)


async def test_one_outage_behind_page_one_is_no_refusal(desk: Desk) -> None:
    """The poll fails, and the next one misses nothing."""
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


@with_settings(configured_id="c")
@pytest.mark.parametrize("fails_at", range(1, 13))
async def test_a_change_of_the_key_that_the_disk_breaks_off_is_made_by_the_next_poll(
    desk: Desk, fails_at: int
) -> None:
    """Nothing of the other org gets into what `c` was."""
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


async def test_a_look_back_ends_at_a_server_error_that_comes_again_between_idle_polls(
    desk: Desk,
) -> None:
    """Polls that read page 1 alone do not make each time the first."""
    desk.finished(60)
    await desk.poll()
    desk.service.refuses_from, desk.service.refusal = 20, "server_error"
    for _ in range(6):
        await desk.poll(after_seconds=500.0)
    assert desk.own("invent_poll_errors_total", reason="server_error") == 1
    assert desk.own("invent_listing_refused_depth_rows") is not None
