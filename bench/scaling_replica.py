"""One replica in virtual time: the exporter as `serve` wires it, on an API in memory.

Only its clocks and its connections are others. Scan, rate limit, retries, decoding, ledger,
reconciliation, publishing and the interval's stretching are the product's own, so that what comes
out is what it does, and none of it is waited for.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack
from unittest.mock import patch

import httpx
import psutil
import structlog
from sqlalchemy import event

from bench.client import OPENMETRICS, samples_in
from bench.stored import run_id
from invent_exporter import app
from invent_exporter.api import listing, transport
from invent_exporter.clocks import SystemClocks
from invent_exporter.config.load import Config
from invent_exporter.redaction import Redactor

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sqlalchemy import Engine

    from invent_exporter.ledger.recorded import Recorded

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

EPOCH = 1_800_000_000.0
LATENCY_SECONDS = (0.08, 0.4)
"""Of one answer of the API, evenly between."""
QUEUE_SECONDS, DURATION_SECONDS, DURATION_SPREAD = 1.5, 20.0, 1.2
"""Of a run: mean of an exponential; median and sigma of a log-normal distribution."""


class _JumpingSelector(selectors.DefaultSelector):
    """Does not wait: where nothing is left to do, its time is that of the next timer."""

    now = 0.0
    threads_at_work = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads_at_work:
            return super().select(timeout and None)
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing is left that could happen")
        if timeout and not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nobody has anything to do, threads included."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the start."""
        return self._jumping.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Let no time pass while a thread works."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads_at_work += 1
        future.add_done_callback(self._is_done)
        return future

    def _is_done(self, _future: object) -> None:
        self._jumping.threads_at_work -= 1


class VirtualClocks(SystemClocks):
    """The loop's time, and chance that can be had again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int) -> None:
        self.monotonic = loop.time
        self.time = lambda: EPOCH + loop.time()
        self.random = random.Random(seed).random


class _Runs:
    """The runs of one org, from long ago to the end, in the order of their creation."""

    def __init__(self, rate: float, begin: float, end: float, chance: random.Random) -> None:
        self.created, self.started, self.ended = array("d"), array("d"), array("d")
        at = begin
        while rate and (at := at + chance.expovariate(rate)) < end:
            self.created.append(at)
            self.started.append(at + chance.expovariate(1 / QUEUE_SECONDS))
            duration = chance.lognormvariate(math.log(DURATION_SECONDS), DURATION_SPREAD)
            self.ended.append(self.started[-1] + duration)
        self._open: list[int] = []
        self._met = 0

    def listed(self, status: str, now: float) -> range | list[int]:
        """List the numbers of the runs with a status at this time, newest first."""
        count = bisect_right(self.created, now)
        if status == "ALL":
            return range(count - 1, -1, -1)
        self._open += range(self._met, count)
        self._met = count
        self._open = [number for number in self._open if self.ended[number] > now]
        return [n for n in reversed(self._open) if (self.started[n] > now) == (status == "PENDING")]


class FleetApi:
    """The listings of some orgs, which each have `workflows` workflows."""

    def __init__(
        self,
        rates: list[float],
        history_seconds: float,
        seconds: float,
        *,
        workflows: int,
        seed: int,
    ) -> None:
        """Make the runs of orgs 0, 1, …, of which each has so many a second."""
        self.thread_seconds = 0.0
        self.requests = 0
        self.sent_bytes = 0
        self._chance = random.Random(seed)
        self._workflows = workflows
        self._orgs = {
            f"org-{number:05d}": _Runs(rate, EPOCH - history_seconds, EPOCH + seconds, self._chance)
            for number, rate in enumerate(rates)
        }

    @property
    def org_ids(self) -> Iterator[str]:
        """Name the orgs."""
        return iter(self._orgs)

    def ended(self, begin: float, end: float) -> int:
        """Count the runs that ended between."""
        return sum(begin < at <= end for runs in self._orgs.values() for at in runs.ended)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer as the API does, some time later."""
        await asyncio.sleep(self._chance.uniform(*LATENCY_SECONDS))
        began = time.thread_time()
        now = EPOCH + asyncio.get_running_loop().time()
        org_id, params = request.url.path.split("/")[2], request.url.params
        page, take = int(params["page"]), int(params["take"])
        runs = self._orgs[org_id]
        listed = runs.listed(params["status"], now)
        rows = listed[(page - 1) * take : page * take]
        body = f"[{','.join(self._row(org_id, runs, number, now) for number in rows)}]".encode()
        headers = {
            "pagination-count": str(len(listed)),
            "pagination-page": str(page),
            "pagination-take": str(take),
            "date": formatdate(now, usegmt=True),
        }
        self.requests += 1
        self.sent_bytes += len(body)
        self.thread_seconds += time.thread_time() - began
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))

    def _row(self, org_id: str, runs: _Runs, number: int, now: float) -> str:
        created, started, ended = runs.created[number], runs.started[number], runs.ended[number]
        if ended <= now:
            status = "FAILED" if number % 20 == 0 else "COMPLETED"
        else:
            status = "PENDING" if started > now else "RUNNING"
        usage = ',"usage":{"total":2.5,"ai_total":0.5}' if ended <= now else ""
        return (
            f'{{"id":"{run_id(number + (int(org_id[4:]) << 20))}","status":"{status}",'
            f'"origin":"WEBHOOK","created_at":{_text(created, now)},'
            f'"started_at":{_text(started, now)},"ended_at":{_text(ended, now)},'
            f'"updated_at":{_text(max(at for at in (created, started, ended) if at <= now), now)},'
            f'"org_id":"{org_id}","workflow_id":"{org_id}-wf-{number % self._workflows}"{usage}}}'
        )


def _text(at: float, now: float) -> str:
    return "null" if at > now else f'"{datetime.fromtimestamp(at, UTC).isoformat()}"'


@dataclass
class Writes:
    """What was written to the ledger."""

    transactions: int = 0
    rows: int = 0
    log_bytes: int = 0
    """Of SQLite all that went to disk, of PostgreSQL its write-ahead log."""


@dataclass
class Seen:
    """What one replica did; `lags` are the seconds from a run's end until it was counted."""

    orgs: int
    seconds: float
    contact_seconds: float = 0.0
    requests: int = 0
    received_bytes: int = 0
    polls: int = 0
    failed_polls: int = 0
    lags: list[float] = field(default_factory=list)
    ended: int = 0
    cpu_seconds: float = 0.0
    reconciled_ages: list[float] = field(default_factory=list)
    samples: int = 0
    text_bytes: int = 0
    gzip_bytes: int = 0
    writes: Writes = field(default_factory=Writes)
    bytes_a_run: float = 0.0
    """Of a row of `run` with its indexes and its share of all else."""
    grown_bytes: int = 0
    """Of the resident memory."""

    @property
    def requests_per_minute(self) -> float:
        """Of the whole replica."""
        return self.requests * 60 / self.seconds

    @property
    def interval_seconds(self) -> float:
        """From one poll of an org to the next."""
        return self.orgs * self.seconds / max(1, self.polls)


def run(
    config: Config,
    api: FleetApi,
    *,
    warm_up_seconds: float,
    seconds: float,
    scrape_seconds: float = math.inf,
) -> Seen:
    """Let a replica work on its orgs; what is told is of the `seconds` behind the warm-up.

    What nobody scrapes is not encoded, so without scrapes the CPU's time is that of the rest.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    loop = VirtualLoop()

    def client(_url: str, **_options: object) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(api.answer))

    with (
        asyncio.Runner(loop_factory=lambda: loop) as runner,
        patch.object(app, "SystemClocks", lambda: VirtualClocks(loop, 1)),
        patch.object(transport, "make_client", client),
        # In a thread of its own a body would be decoded while the time goes on.
        patch.object(listing, "DECODE_IN_THREAD_BYTES", math.inf),
    ):
        return runner.run(_run(config, api, warm_up_seconds, seconds, scrape_seconds))


async def _run(
    config: Config, api: FleetApi, warm_up_seconds: float, seconds: float, scrape_seconds: float
) -> Seen:
    rss = psutil.Process().memory_info().rss
    exporter, stop = app.Exporter(config, Redactor()), asyncio.Event()
    seen = Seen(len(config.orgs), seconds)
    engine = exporter.ledger._database.engine  # noqa: SLF001 (a benchmark may look inside)
    writes = _watched(engine)
    _watch(exporter, seen)
    await exporter.load()
    life = asyncio.create_task(exporter.run(stop))
    scrapes = asyncio.create_task(_scrape(exporter, scrape_seconds))
    for collector in exporter.supervisor.collectors:
        await collector.first_attempt.wait()
    seen.contact_seconds = asyncio.get_running_loop().time()
    await asyncio.sleep(warm_up_seconds)
    began, cpu, made = exporter.clocks.time(), time.process_time(), api.thread_seconds
    seen.lags.clear()
    seen.polls = seen.failed_polls = 0
    requests, received, log = api.requests, api.sent_bytes, _log_bytes(engine)
    writes.transactions = writes.rows = 0
    await asyncio.sleep(seconds)
    now = exporter.clocks.time()
    seen.cpu_seconds = time.process_time() - cpu - (api.thread_seconds - made)
    seen.requests, seen.received_bytes = api.requests - requests, api.sent_bytes - received
    seen.lags, seen.ended = [*seen.lags], api.ended(began, now)
    seen.writes = Writes(writes.transactions, writes.rows, _log_bytes(engine) - log)
    seen.reconciled_ages = [
        now - each.org.scan.reconciled
        for each in exporter.supervisor.collectors
        if each.org is not None and each.org.scan.reconciled
    ]
    text = (await exporter.exposition.answer(OPENMETRICS, "")).body
    seen.samples, seen.text_bytes = samples_in(text.decode()), len(text)
    seen.gzip_bytes = len((await exporter.exposition.answer(OPENMETRICS, "gzip")).body)
    seen.grown_bytes = psutil.Process().memory_info().rss - rss
    seen.bytes_a_run = _bytes_a_run(engine)
    scrapes.cancel()
    stop.set()
    await life
    await exporter.close()
    return seen


def _watch(exporter: app.Exporter, seen: Seen) -> None:
    """Note polls, and when each run was counted."""
    record, telemetry = exporter.ledger.record, exporter.telemetry
    succeeded, failed = telemetry.poll_succeeded, telemetry.poll_failed

    async def watched_record(*args: Any, **options: Any) -> Recorded:  # noqa: ANN401
        recorded = await record(*args, **options)
        now = exporter.clocks.time()
        seen.lags += [now - run.ended for run in recorded.finished if run.ended is not None]
        return recorded

    def watched_success(org_id: str, duration_seconds: float, ended: float) -> None:
        seen.polls += 1
        succeeded(org_id, duration_seconds, ended)

    def watched_failure(org_id: str, reason: str, duration_seconds: float) -> None:
        seen.failed_polls += 1
        failed(org_id, reason, duration_seconds)

    exporter.ledger.record = watched_record  # type: ignore[method-assign]
    telemetry.poll_succeeded = watched_success  # type: ignore[method-assign]
    telemetry.poll_failed = watched_failure  # type: ignore[method-assign]


def _watched(engine: Engine) -> Writes:
    """Count the transactions that write, and their rows."""
    writes, pending = Writes(), Writes()

    def statement(
        _connection: object,
        cursor: Any,  # noqa: ANN401
        text: str,
        _parameters: object,
        *_: object,
    ) -> None:
        if text.lstrip()[:6] in {"INSERT", "UPDATE", "DELETE"}:
            pending.rows += max(0, cursor.rowcount)

    def commit(_connection: object) -> None:
        writes.transactions += bool(pending.rows)
        writes.rows += pending.rows
        pending.rows = 0

    event.listen(engine, "after_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    return writes


def _ask(engine: Engine, question: str) -> float:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return float(connection.exec_driver_sql(question).scalar() or 0.0)


def _log_bytes(engine: Engine) -> int:
    """Tell what was written until now: by the server, else by this process (proc(5), io)."""
    if engine.dialect.name == "postgresql":
        return int(_ask(engine, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["write_bytes"])


def _bytes_a_run(engine: Engine) -> float:
    size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    if engine.dialect.name == "postgresql":
        size = "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
    return _ask(engine, size) / max(1.0, _ask(engine, "SELECT count(*) FROM run"))


async def _scrape(exporter: app.Exporter, every_seconds: float) -> None:
    while every_seconds < math.inf:
        answer = await exporter.exposition.answer(OPENMETRICS, "gzip")
        exporter.exposition.acknowledge(answer.generation)
        await asyncio.sleep(every_seconds)
