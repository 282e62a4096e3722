"""How often replicas that share a PostgreSQL database get in each other's way.

python -m bench.scaling_writers postgresql://…/an_empty_database

Each writer is a process with a ledger and an org of its own, and records one page after the other:
100 rows, of which a few are new. Transactions are serializable: those that meet run again.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import TYPE_CHECKING

import msgspec
import psycopg

from bench.stored import SETTINGS, run_id
from bench.table import ms, percentile
from invent_exporter.api.models import Run
from invent_exporter.errors import ConflictError, StorageError
from invent_exporter.ledger.database import Database, open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.scan.poll import ScanState

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

NEW_RUNS, ROWS = 3, 100


_FILL = """
INSERT INTO org (org_id, settled_walk, contacted, floor, scan, numbers)
SELECT 'filled-' || number, 1, 1, 0, '{{}}', '{{}}' FROM generate_series(1, {orgs}) AS number;
INSERT INTO run (run_id, org, workflow_id, origin, status, final, owned, counted, walk,
                 created, since, updated, seen, absent, credits_ai, credits_other)
SELECT substr(md5(number::text), 1, 24), 1 + number % {orgs}, 'workflow-' || number % 5,
       'WEBHOOK', 'COMPLETED', true, true, true, 1, now, now, now, now, 0, 0.5, 1.5
FROM generate_series(1, {runs}) AS number,
     LATERAL (SELECT extract(epoch FROM now()) - {runs} + number AS now) AS times;
ANALYZE
"""


def fill(url: str, orgs: int, runs: int) -> None:
    """Let the database know other orgs and their runs, as one does that is in use."""
    open_database(url).close()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _FILL.split(";"):
            connection.execute(statement.format(orgs=orgs, runs=runs).encode())


class Work(msgspec.Struct):
    """What one writer did: seconds of each page, runs of a step that met another, lost pages."""

    took_seconds: list[float] = []
    conflicts: int = 0
    failed: int = 0


class _Watched:
    """Counts the conflicts of a database."""

    def __init__(self, database: Database, work: Work) -> None:
        self._database, self._work = database, work

    def failure(self, error: Exception) -> StorageError:
        failure = self._database.failure(error)
        self._work.conflicts += isinstance(failure, ConflictError)
        return failure

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


def write(url: str, number: int, seconds: float, start: Barrier) -> Work:
    """Record pages of an org as long as told."""
    work = Work()
    ledger = Ledger(_Watched(open_database(url), work), SETTINGS)  # type: ignore[arg-type]
    asyncio.run(_write(ledger, work, number, seconds, start))
    ledger.close()
    return work


async def _write(ledger: Ledger, work: Work, number: int, seconds: float, start: Barrier) -> None:
    org = await ledger.load(f"org-{number}-{time.time()}", walk_floor=time.time() - 86_400)
    await ledger.complete(org, ScanState(), absent=(), contact_seconds=time.time() - 3_600)
    pages = _pages(number)
    await ledger.record(org, next(pages), [], now=time.time())
    start.wait()
    work.conflicts = 0
    ends = time.monotonic() + seconds
    while (began := time.monotonic()) < ends:
        try:
            await ledger.record(org, next(pages), [], now=time.time())
            work.took_seconds.append(time.monotonic() - began)
        except StorageError:
            work.failed += 1
            return


def _pages(number: int) -> Iterator[list[Run]]:
    """Yield listings of 100 rows, newest first, each with a few more runs than the one before."""
    first = (number << 40) + (int(time.time()) << 16)
    while True:
        ids = [run_id(each) for each in range(first + ROWS, first, -1)]
        now = time.time()
        rows = [
            {"id": each, "status": "COMPLETED", "created_at": now - 9, "ended_at": now - 1}
            | {"workflow_id": f"workflow-{place % 5}", "updated_at": now}
            for place, each in enumerate(ids)
        ]
        yield msgspec.convert(rows, list[Run], strict=False)
        first += NEW_RUNS


def main() -> None:
    """Let 1, 2, 4 … writers work side by side, and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling_writers")
    parser.add_argument("url", help="of an empty database")
    parser.add_argument("--orgs", type=int, default=1_000, help="that the database knows before")
    parser.add_argument("--runs", type=int, default=200_000, help="that it knows of them")
    parser.add_argument("--most", type=int, default=8, help="writers")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number of writers")
    flags = parser.parse_args()
    fill(flags.url, flags.orgs, flags.runs)
    context = get_context("spawn")
    writers = 1
    while writers <= flags.most:
        with context.Manager() as manager, context.Pool(writers) as pool:
            start = manager.Barrier(writers)
            jobs = [(flags.url, number, flags.seconds, start) for number in range(writers)]
            done: list[Work] = pool.starmap(write, jobs, 1)
        took = [each for work in done for each in work.took_seconds]
        again = sum(work.conflicts for work in done)
        print(
            f"{writers} writers: {len(took) / flags.seconds:.0f} pages a second, "
            f"p50 {ms(percentile(took, 50))}, p99 {ms(percentile(took, 99))}, "
            f"{again / len(took):.1%} run again, {sum(work.failed for work in done)} failed",
            flush=True,
        )
        writers *= 2


if __name__ == "__main__":
    main()
