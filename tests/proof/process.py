"""The exporter without a network and without a process: it can be killed between any two writes.

A kill is an exception that nothing catches, raised just before a statement, a commit or a publish;
what was not committed is rolled back, as SQLite would at the next start. Then everything is built
anew on the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from invent_exporter.api.listing import RunsApi
from invent_exporter.api.orgs import SubOrgsApi
from invent_exporter.api.ratelimit import PageAllowance
from invent_exporter.clocks import Clocks
from invent_exporter.collector.demand import Demand
from invent_exporter.collector.loop import Collector
from invent_exporter.collector.poller import Poller
from invent_exporter.collector.target import Shared, Target, WalkBounds
from invent_exporter.config.key import Key
from invent_exporter.config.workflows import Workflows
from invent_exporter.errors import StorageError
from invent_exporter.ledger import sqlite
from invent_exporter.ledger.counts import Bounds
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger, OpenGroup
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry
from tests.proof.reference import Reference
from tests.proof.scraper import Scraper
from tests.proof.service import Service

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from invent_exporter.api.models import Run
    from invent_exporter.api.transport import Transport
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.ledger.recorded import InvalidRow, Recorded
    from invent_exporter.metrics.groups import View
    from invent_exporter.scan.poll import ScanState

EPOCH = 1_800_000_000.0
_P = ParamSpec("_P")
_T = TypeVar("_T")


class KilledError(BaseException):
    """The process ends here; not an Exception, so that nothing of the product catches it."""


@dataclass
class FakeClocks:
    """A clock that the test turns."""

    now: float = 0.0

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.now

    def time(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.now

    def random(self) -> float:
        """Return the middle."""
        return 0.5

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once."""
        self.now += seconds


@dataclass(frozen=True)
class Settings:
    """What of the configuration a test may change between two processes."""

    configured_id: str = "org-1"
    lookback_seconds: float = 86400.0
    reconcile_interval_seconds: float = 900.0
    reconcile_window_seconds: float = 86400.0
    page_size: int = 100
    max_workflows: int = 1000
    step_credits: bool = False
    newborn_hold_seconds: float = 65.0
    is_shared: bool = False
    """As with PostgreSQL: what a commit that failed did nobody knows."""
    walk_bounds: WalkBounds = field(default_factory=WalkBounds)
    redactor: Redactor = field(default_factory=Redactor)
    bounds: Bounds = field(
        default_factory=lambda: Bounds((1.0, 60.0, 3600.0), (1.0, 60.0), (1.0, 10.0))
    )


class Steps:
    """Counts the points at which a process can be killed, or its disk fail."""

    def __init__(self) -> None:
        self.passed = 0
        self.kill_at: int | None = None
        self.disk_fails_at: int | None = None
        self.answer_lost_at: int | None = None
        self.in_doubt = False
        """The transaction that has just failed was committed all the same."""

    def step(self, *, on_disk: bool) -> None:
        """Pass one point."""
        self.passed += 1
        if self.kill_at is not None and self.passed >= self.kill_at:
            raise KilledError
        if on_disk and self.disk_fails_at is not None and self.passed >= self.disk_fails_at:
            raise OperationalError("made to fail", None, OSError("disk is full"))

    def commit(self, connection: Connection) -> None:
        """Pass a commit, of which the exporter may hear no more than that it failed."""
        self.step(on_disk=True)
        if self.answer_lost_at is not None and self.passed >= self.answer_lost_at:
            self.answer_lost_at, self.in_doubt = None, True
            driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            driver.commit()
            raise OperationalError("made to fail", None, OSError("the answer was lost"))


class _AtOnce(ThreadPoolExecutor):
    """Does what it is given at once: in threads the order of steps, and so of kills, is by luck."""

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Do it."""
        done: Future[_T] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            done.set_exception(error)
        return done


class _WatchedLedger(Ledger):
    """Tells the reference what was committed."""

    service: Service
    reference: Reference
    steps: Steps

    async def record(
        self,
        org: OrgLedger,
        runs: Sequence[Run],
        invalid: Sequence[InvalidRow],
        *,
        now: float,
        others: Mapping[str, float] = {},
        recovering: bool = False,
    ) -> Recorded:
        """Record, and tell what was committed, as the service has it."""
        self.steps.in_doubt = False
        try:
            recorded = await super().record(
                org, runs, invalid, now=now, others=others, recovering=recovering
            )
        except StorageError:
            if self.steps.in_doubt:
                self._tell(org, runs, invalid)
            raise
        self._tell(org, runs, invalid)
        return recorded

    def _tell(self, org: OrgLedger, runs: Sequence[Run], invalid: Sequence[InvalidRow]) -> None:
        self.reference.floor = org.floor_seconds
        # Nothing changes at the service between an answer and its record.
        rows = [self.service.runs[run.id] for run in runs if run.id in self.service.runs]
        self.reference.see(rows, [row.key for row in invalid])

    async def complete(
        self,
        org: OrgLedger,
        scan: ScanState,
        *,
        absent: Iterable[str],
        contact_seconds: float | None = None,
    ) -> tuple[OpenGroup, ...]:
        """Complete, and tell that first contact was made."""
        self.steps.in_doubt = False
        try:
            groups = await super().complete(
                org, scan, absent=absent, contact_seconds=contact_seconds
            )
        except StorageError:
            if self.steps.in_doubt and contact_seconds is not None:
                self.reference.contacted, self.reference.contact = True, contact_seconds
            raise
        self.reference.contacted = org.contacted
        self.reference.contact = org.contact_seconds or 0.0
        return groups


class _WatchedExposition(Exposition):
    """Lets the scraper look at every body that could be served."""

    steps: Steps
    watch: Callable[[bytes], None]

    async def publish(self, changes: Mapping[Hashable, View | None]) -> int:
        """Publish, and look."""
        self.steps.step(on_disk=False)
        generation = await super().publish(changes)
        self.watch((await self.answer("text/plain", "")).body)
        self.steps.step(on_disk=False)
        return generation


class _NoPeers:
    """There is one org."""

    def others(self, _poller: Poller) -> Mapping[str, float]:
        """Name none."""
        return {}

    def claim(self, _poller: Poller, _org_id: str) -> bool:
        """Nobody else could be it."""
        return True

    def left(self, _org_id: str) -> None:
        """Nobody else waits for it."""


class Process:
    """One life of the exporter with one org."""

    def __init__(
        self,
        url: str,
        service: Service,
        clocks: FakeClocks,
        settings: Settings,
        *,
        reference: Reference,
        scraper: Scraper,
        hold_seconds: float | None = None,
    ) -> None:
        """Start on the state at `url`; `hold_seconds` is what the scraper must see held."""
        self.clocks: Clocks = clocks
        service.clock = clocks.time
        self.settings = settings
        self.steps = Steps()
        self.scraper = scraper
        hold = settings.newborn_hold_seconds if hold_seconds is None else hold_seconds
        database = open_database(url)
        if isinstance(database, sqlite.Database):
            database.is_shared = settings.is_shared
            with database.engine.connect() as connection:
                # A power failure is not tested here, and syncing takes most of the time.
                connection.commit()
                connection.connection.driver_connection.execute("PRAGMA synchronous=OFF")  # type: ignore[union-attr]
        event.listen(database.engine, "before_cursor_execute", self._before_statement)
        event.listen(database.engine, "commit", self._before_commit)
        ledger = _WatchedLedger(
            database,
            LedgerSettings(
                settings.bounds,
                settings.max_workflows,
                settings.step_credits,
                settings.reconcile_window_seconds,
            ),
        )
        ledger.service, ledger.reference, ledger.steps = service, reference, self.steps
        ledger.thread = _AtOnce()
        self.ledger: Ledger = ledger
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(self.registry)
        exposition = _WatchedExposition(CollectorRegistry(), clocks.monotonic)
        exposition.steps = self.steps
        exposition._encoder = _AtOnce()
        exposition.watch = lambda body: scraper.watch(body, clocks.now, hold)
        self.exposition: Exposition = exposition
        self.publisher = Publisher(
            exposition,
            self.ledger,
            self.telemetry,
            newborn_hold_seconds=settings.newborn_hold_seconds,
            workflows=Workflows(),
            clock=clocks.monotonic,
        )
        self.collector = Collector(
            Target(
                id=settings.configured_id,
                key=Key.literal("key"),
                poll_interval_seconds=30.0,
                lookback_seconds=settings.lookback_seconds,
                reconcile_interval_seconds=settings.reconcile_interval_seconds,
            ),
            Shared(
                ledger=self.ledger,
                api=RunsApi(cast("Transport", service), settings.page_size),
                sub_orgs=SubOrgsApi(cast("Transport", service)),
                telemetry=self.telemetry,
                publisher=self.publisher,
                clocks=clocks,
                allowance=PageAllowance(3000, clocks.monotonic),
                demand=Demand(3000),
                read_key=Key.read,
                redactor=settings.redactor,
                walk_bounds=settings.walk_bounds,
            ),
            _NoPeers(),
        )

    def _before_statement(self, *_arguments: object) -> None:
        self.steps.step(on_disk=True)

    def _before_commit(self, connection: Connection) -> None:
        self.steps.commit(connection)

    # -- what a test does

    async def scrape(self) -> int:
        """Scrape, without the acknowledgement; return the generation that was served."""
        answer = await self.exposition.answer("text/plain", "")
        self.scraper.scraped(answer.body)
        return answer.generation

    async def let_go(self) -> None:
        """Do what the publisher's own loop does when its time has come."""
        while True:
            due, _ = self.publisher._due()
            if not due or not await self.publisher._let_go(due):
                return

    def stop(self) -> None:
        """End, in order or after a kill: in both cases nothing more is written."""
        self.publisher.close()
        self.exposition.close()
        self.ledger.close()
