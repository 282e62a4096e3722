"""Wires the parts of `serve` together, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter import __version__
from invent_exporter.api.listing import RunsApi
from invent_exporter.api.ratelimit import PageAllowance, RateLimiter
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import Clocks, SystemClocks
from invent_exporter.collector.loop import Collector, CollectorSettings
from invent_exporter.collector.status import org_status
from invent_exporter.errors import ConfigError, StateError, StateGoneError
from invent_exporter.ledger.counts import Bounds
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.ledger.sqlite import open_database
from invent_exporter.log import Secrets, get_logger
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.telemetry import Telemetry
from invent_exporter.web.routes import Application
from invent_exporter.web.server import Server, join_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from invent_exporter.config.load import Config, Key
    from invent_exporter.ledger.recorder import OrgLedger

_T = TypeVar("_T")

_STOP_SECONDS = 2.0
_ALIAS_PATIENCE_SECONDS = 30.0
"""How long the first attempt of `c` goes alone: a long one must not hold the others up."""

log = get_logger(__name__)


class Exporter:
    """All of one process: the collectors, the ledger, what is served."""

    def __init__(self, config: Config, secrets: Secrets, *, revision: str = "") -> None:
        """Open the state; raises StateError when it can't be used."""
        self._config = config
        self._secrets = secrets
        self.clocks: Clocks = SystemClocks()
        metrics = config.metrics
        settings = LedgerSettings(
            Bounds(metrics.duration_buckets, metrics.queue_buckets, metrics.credit_buckets),
            metrics.max_workflows,
            metrics.step_credits,
            config.reconcile_window_seconds,
        )
        self.ledger = Ledger(open_database(config.state_url), settings)
        self._ledger_thread = ThreadPoolExecutor(1, "ledger")
        registry = CollectorRegistry()
        self.telemetry = Telemetry(registry)
        python = ".".join(str(part) for part in sys.version_info[:3])
        self.telemetry.set_build(__version__, revision, python)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.exposition = Exposition(registry, self.clocks.monotonic)
        self.publisher = Publisher(
            self.exposition,
            self._release,
            newborn_hold_seconds=metrics.newborn_hold_seconds,
            workflow_names=config.workflow_names,
            clock=self.clocks.monotonic,
        )
        limiter = RateLimiter(
            config.api.requests_per_minute, self.clocks.monotonic, self.clocks.sleep
        )
        self._transport = Transport(
            config.api.url,
            config.api.timeout_seconds,
            config.api.max_response_bytes,
            limiter,
            self.telemetry,
            version=__version__,
        )
        self.api = RunsApi(self._transport, config.api.page_size)
        self.allowance = PageAllowance(config.api.requests_per_minute, self.clocks.monotonic)
        self.collectors = [
            Collector(
                CollectorSettings(
                    org.id,
                    org.name,
                    config.poll_interval_seconds,
                    config.lookback_seconds,
                    config.reconcile_interval_seconds,
                ),
                self,
                self._key_reader(org.key),
            )
            for org in config.orgs
        ]

    # -- what the collectors share

    async def in_ledger(self, call: Callable[[], _T]) -> _T:
        """Run a call in the ledger's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._ledger_thread, self._call_ledger, call)

    def _call_ledger(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except StateGoneError:
            # The call has failed and changed nothing; the next one finds the file in its place.
            self.ledger.database.put_back()
            raise

    def other_org_ids(self, collector: Collector) -> frozenset[str]:
        """List the real ids of the other polled orgs."""
        return frozenset(
            other.label for other in self.collectors if other is not collector and not other.dropped
        )

    def claim(self, collector: Collector, org_id: str) -> bool:
        """Tell whether no earlier entry of the configuration is the same org."""
        mine = self.collectors.index(collector)
        for index, other in enumerate(self.collectors):
            if other is collector or other.dropped or other.label != org_id:
                continue
            if index < mine:
                return False
            other.drop(org_id)
        return True

    def redact(self, text: str) -> str:
        """Take known secrets out of a text."""
        return self._secrets.redact(text)

    async def _release(self, org: OrgLedger, groups: dict[str, list[str]]) -> bool:
        try:
            await self.in_ledger(lambda: self.ledger.release(org, groups))
        except (SQLAlchemyError, OSError) as error:
            self.telemetry.failed_beside_polls(org.org_id or "c", "storage")
            cause = getattr(error, "orig", None) or error
            log.warning("new series can't be released", org_id=org.org_id, error=str(cause))
            return False
        return True

    def _key_reader(self, key: Key) -> Callable[[], str]:
        def read() -> str:
            secret = key.read()
            self._secrets.add(secret)
            return secret

        return read

    # -- health

    def stalled(self) -> tuple[str, ...]:
        """List the orgs whose poll loop stalled."""
        return tuple(
            collector.label
            for collector in self.collectors
            if collector.is_stalled and not collector.dropped
        )

    def ready(self) -> bool:
        """Tell whether each org's first attempt has ended."""
        return all(collector.first_attempt.is_set() for collector in self.collectors)

    # -- life

    async def load(self) -> None:
        """Serve what is known already; before anybody is answered, so that no series is missing.

        Raises:
            StateError: the state can't be read.

        """
        for collector in self.collectors:
            # A key that can't be read now is an error of the poll, which tries again.
            with contextlib.suppress(ConfigError):
                collector.register_key()
        try:
            for collector in self.collectors:
                await collector.start()
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StateError(f"state.url: {self._config.state_url}: {cause}") from error

    async def run(self, stop: asyncio.Event) -> None:
        """Poll every org until `stop` is set."""
        # `c` first: until it is known which org that is, another entry could take its runs.
        aliases = [each for each in self.collectors if each.label == "c"]
        others = [each for each in self.collectors if each not in aliases]
        stopped = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.publisher.run(), name="releases")
        ]
        tasks += [asyncio.create_task(each.run(), name=each.label) for each in aliases]
        try:
            first = [asyncio.create_task(each.first_attempt.wait()) for each in aliases]
            tasks += first
            if first:
                await asyncio.wait(
                    [stopped, *first],
                    timeout=_ALIAS_PATIENCE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            tasks += [asyncio.create_task(each.run(), name=each.label) for each in others]
            await self._supervise(stopped, tasks)
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)

    @staticmethod
    async def _supervise(stopped: asyncio.Task[bool], tasks: list[asyncio.Task[Any]]) -> None:
        """Wait for the end; a loop that died of a bug is the end too, with its error."""
        running = {stopped, *tasks}
        while not stopped.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def close(self) -> None:
        """Let go of the API and the state; what is committed stays."""
        await self._transport.aclose()
        self._ledger_thread.shutdown(wait=True, cancel_futures=True)
        self.exposition.close()
        self.ledger.database.close()


async def serve(
    config: Config,
    secrets: Secrets,
    *,
    addresses: Sequence[tuple[str, int]],
    telemetry_path: str,
    revision: str = "",
    outlives_hangup: bool = True,
    on_listening: Callable[[Sequence[tuple[str, int]]], None] = lambda _addresses: None,
) -> None:
    """Serve until SIGTERM or SIGINT; a hang-up is only noted, unless it shall end the process too.

    `on_listening` gets hosts and ports; a port is the system's choice where 0 was asked for.

    Raises:
        ListenError: an address can't be listened on.
        StateError: the state can't be used.

    """
    exporter = Exporter(config, secrets, revision=revision)
    try:
        application = Application(
            exporter.exposition,
            exporter,
            lambda: [
                org_status(
                    collector,
                    exporter.publisher,
                    redact=secrets.redact,
                    workflow_names=config.workflow_names,
                    run_link=config.run_link,
                )
                for collector in exporter.collectors
                if not collector.dropped
            ],
            telemetry_path=telemetry_path,
            clock=exporter.clocks.time,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if outlives_hangup:
            loop.add_signal_handler(signal.SIGHUP, _refuse_reload)
        await exporter.load()
        async with Server(application, addresses) as server:
            on_listening(server.addresses)
            for host, port in server.addresses:
                log.info("listening", address=join_address(host or "*", port), version=__version__)
            await exporter.run(stop)
            log.info("stopping")
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exporter.close(), _STOP_SECONDS)


def _refuse_reload() -> None:
    """Go on: who sends SIGHUP wants the configuration to be read again, not an end."""
    log.warning("SIGHUP: reloading is not supported yet; restart to read the configuration again")
