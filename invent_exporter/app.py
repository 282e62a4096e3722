"""Wires the parts of `serve` together, starts them, and stops them in order.

Longer than most modules: each part is made here, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from invent_exporter import __version__
from invent_exporter.api.listing import RunsApi
from invent_exporter.api.orgs import SubOrgsApi
from invent_exporter.api.ratelimit import PageAllowance
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import SystemClocks, boot_seconds
from invent_exporter.collector.demand import Demand
from invent_exporter.collector.ownership import Ownership
from invent_exporter.collector.status import OrgElsewhere, OrgStatus, org_status
from invent_exporter.collector.supervisor import Supervisor
from invent_exporter.collector.target import Shared, Target
from invent_exporter.collector.targets import Targets
from invent_exporter.config.key import read_secret
from invent_exporter.config.load import Config
from invent_exporter.config.reload import Reloader
from invent_exporter.config.state import shown
from invent_exporter.errors import ConfigError, StateError, StorageError
from invent_exporter.ledger.counts import Bounds, WorkflowCounts
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.heartbeat import Leases, new_name
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.ledger.room import TextRoom
from invent_exporter.log import get_logger
from invent_exporter.metrics.exposition import Exposition, newborn_text
from invent_exporter.metrics.families import WorkflowView
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry
from invent_exporter.web.listening import HealthPlace, join_address
from invent_exporter.web.routes import Application
from invent_exporter.web.server import Server

if TYPE_CHECKING:
    from invent_exporter.web.guard import WebFile

_STOP_SECONDS = 2.0
_SWITCH_SECONDS = 0.001
_GARBAGE_THRESHOLDS = (2_000, 10, 100)
"""Full collections seldom; young garbage often: what failed may hold a body of megabytes."""

log = get_logger(__name__)


class Exporter:
    """All of one process: what polls, the ledger, what is served."""

    def __init__(self, config: Config, redactor: Redactor, *, revision: str = "") -> None:
        """Open the state; raises StateError when it can't be used."""
        self.config = config
        self._redactor = redactor
        self.clocks = clocks = SystemClocks()
        settings = _ledger_settings(config)
        newborn = WorkflowView("", "", "", WorkflowCounts.empty(settings.bounds), ())
        room = TextRoom(config.metrics.max_exposition_bytes, *newborn_text(newborn))
        database = open_database(config.state_url)
        replica = new_name(platform.node())
        self.ledger = Ledger(database, settings, room, replica=replica)
        registry = CollectorRegistry()
        self.telemetry = telemetry = Telemetry(registry, CollectorRegistry())
        telemetry.set_build(__version__, revision, platform.python_version())
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=registry)
        self.exposition = Exposition(registry, boot_seconds, of_orgs=telemetry)
        telemetry.watch_exposition(lambda: self.exposition.text_bytes + self.exposition.own_bytes)
        self.publisher = Publisher(
            self.exposition,
            self.ledger,
            telemetry,
            newborn_hold_seconds=config.metrics.newborn_hold_seconds,
            workflows=config.workflows,
            clock=clocks.monotonic,
        )
        self._transport = Transport(config.api, telemetry, clocks, redactor, __version__)
        self._shared = Shared(
            ledger=self.ledger,
            api=RunsApi(self._transport, config.api.page_size),
            sub_orgs=SubOrgsApi(self._transport),
            telemetry=telemetry,
            publisher=self.publisher,
            clocks=clocks,
            allowance=PageAllowance(config.api.requests_per_minute, clocks.monotonic),
            demand=Demand(config.api.requests_per_minute),
            read_key=partial(read_secret, redactor=redactor),
            redactor=redactor,
            may_poll=lambda: self.ownership is None or self.ownership.may_serve,
        )
        self.supervisor = Supervisor(self._shared)
        self.ownership: Ownership | None = None
        apply: Callable[[Sequence[Target]], Awaitable[None]] = self.supervisor.apply
        if database.is_shared:
            self.ownership = Ownership(
                Leases(database, replica, config.lease_seconds, boot_seconds),
                self.supervisor,
                telemetry,
                lease_seconds=config.lease_seconds,
                clock=boot_seconds,
                serve_until=partial(setattr, self.exposition, "serving_until"),
                on_listed=self._shared.retarget.set,
            )
            apply = self.ownership.apply
        telemetry.watch_orgs(self._serving)
        self._targets = Targets(config, self._shared, apply)

    def _serving(self) -> int:
        own = self.ownership
        return len(self.supervisor.collectors) if own is None else own.serving

    async def load(self) -> None:
        """Serve what is known already; before anybody is answered, so that no series is missing.

        Raises:
            StateError: the state can't be read.

        """
        for org in self.config.orgs:
            # So that it is known as a secret before anything is logged. A key that can't be read
            # now is an error of the poll, which tries again.
            with contextlib.suppress(ConfigError):
                read_secret(org.key, self._redactor)
        try:
            await self._targets.refresh()
        except StorageError as error:
            raise StateError(f"state.url: {shown(self.config.state_url)}: {error}") from error

    async def apply(self, config: Config) -> None:
        """Go on with another configuration; raises ConfigError before anything has changed."""
        shared, metrics = self._shared, config.metrics
        async with self._transport.changing(config.api):
            self.config = config
            shared.api.apply(config.api.page_size)
            shared.allowance.apply(config.api.requests_per_minute)
            shared.demand.apply(config.api.requests_per_minute)
            self.ledger.settings = _ledger_settings(config)
            self.ledger.room.most_bytes = metrics.max_exposition_bytes
            await self.publisher.apply(metrics.newborn_hold_seconds, config.workflows)
            await self._targets.refresh(config)

    def statuses(self) -> Iterable[OrgStatus]:
        """Say how each org is."""
        status = partial(
            org_status,
            publisher=self.publisher,
            redact=self._redactor.redact,
            config=self.config,
            owner=platform.node(),
            now=self.clocks.time(),
        )
        return map(status, self.supervisor.collectors)

    def elsewhere(self) -> Sequence[OrgElsewhere]:
        """Say who polls the orgs that this process does not."""
        return () if self.ownership is None else self.ownership.elsewhere

    async def run(
        self, stop: asyncio.Event, *beside: Callable[[], Coroutine[None, None, NoReturn]]
    ) -> None:
        """Poll every org until `stop` is set; a loop that died of a bug is the end too."""
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(self.publisher.run(), name="releases"),
            asyncio.create_task(self.supervisor.run(), name="polls"),
            asyncio.create_task(self._targets.run(), name="targets"),
            *(asyncio.create_task(life()) for life in beside),
        ]
        if self.ownership is not None:
            tasks.append(asyncio.create_task(self.ownership.run(), name="leases"))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.ownership is not None:
                await self.ownership.leave()

    async def close(self) -> None:
        """Let go of the API and the state; what is committed stays."""
        await self._transport.aclose()
        self.publisher.close()
        self.exposition.close()
        self.ledger.close()


def _ledger_settings(config: Config) -> LedgerSettings:
    metrics = config.metrics
    return LedgerSettings(
        Bounds(metrics.duration_buckets, metrics.queue_buckets, metrics.credit_buckets),
        metrics.max_workflows,
        metrics.step_credits,
        config.reconcile_window_seconds,
        config.workflows,
    )


async def serve(
    config: Config,
    redactor: Redactor,
    *,
    addresses: Sequence[tuple[str, int]],
    telemetry_path: str,
    config_file: Path | None = None,
    may_reload: bool = False,
    revision: str = "",
    web_file: WebFile | None = None,
    health: HealthPlace | None = None,
    outlives_hangup: bool = True,
    on_listening: Callable[[Sequence[tuple[str, int]]], None] = lambda _addresses: None,
) -> None:
    """Serve until SIGTERM or SIGINT; a hang-up reloads, unless it shall end the process too.

    `config_file` is where `config` comes from; `may_reload` lets clients reload it. `web_file` asks
    for TLS, logins and the like; `health` is told apart from that at a local place. `on_listening`
    gets hosts and ports; a port is the system's choice where 0 was asked for.

    Raises:
        ListenError: an address can't be listened on.
        StateError: the state can't be used.

    """
    # A scrape waits so long, and not 5 ms, each time that a thread decodes or encodes meanwhile.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # And a quarter of a second for each full collection of what 1,000 orgs are made of; modules are
    # left out of them.
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    exporter = Exporter(config, redactor, revision=revision)
    try:
        reloader = Reloader(
            config_file,
            environ=os.environ,
            redactor=redactor,
            config=config,
            apply=exporter.apply,
            telemetry=exporter.telemetry,
            clocks=exporter.clocks,
        )
        application = Application(
            exporter.exposition,
            exporter.supervisor,
            exporter.statuses,
            elsewhere=exporter.elsewhere,
            telemetry_path=telemetry_path,
            clock=exporter.clocks.time,
            reload=reloader.reload if may_reload else None,
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if outlives_hangup:
            loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        await exporter.load()
        server = Server(
            application if web_file is None else web_file.guard(application),
            addresses,
            tls=None if web_file is None else web_file.tls,
            health=None if health is None else (application.health, health),
        )
        async with server:
            on_listening(server.addresses)
            for host, port in server.addresses:
                log.info("listening", address=join_address(host or "*", port), version=__version__)
            await exporter.run(stop, reloader.run)
            log.info("stopping")
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exporter.close(), _STOP_SECONDS)
