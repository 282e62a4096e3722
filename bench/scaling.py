"""What a fleet takes: requests, addresses, replicas, lag, ledger, series, memory.

python -m bench.scaling                     # 10,000 orgs, 1,000 runs a second
python -m bench.scaling --orgs 300 --runs-per-second 5 --requests-per-minute 300

Orgs meet only in what they share: a replica's request budget, and the ledger's database. So one
replica works for some minutes of virtual time (`scaling_replica`) for each way to divide the fleet,
and the fleet is that many of them.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import mean

from rich import box
from rich.console import Console
from rich.table import Table

from bench.scaling_replica import FleetApi, Seen, run
from bench.table import percentile
from invent_exporter.api.ratelimit import RECONCILE_SHARE
from invent_exporter.collector.demand import ORDINARY_REQUESTS, for_polls_per_minute
from invent_exporter.config.load import ApiConfig, Config, Key, OrgConfig

KEPT_SECONDS = 86_400.0
LOOKBACK_SECONDS = 3_600.0
PAGE_ROWS = 99
"""Each page begins with a row of the one before."""


@dataclass(frozen=True)
class Fleet:
    """What is to be polled, and with how many requests a minute for each replica."""

    orgs: int
    runs_per_second: float
    workflows: int
    requests_per_minute: float


@dataclass(frozen=True)
class Case:
    """One way to divide a fleet: so many orgs to a replica, polled so often."""

    name: str
    poll_interval_seconds: float
    orgs: int
    spread: float = 0.0
    """Sigma of the log-normal distribution of the orgs' rates of runs; 0: all have the same."""
    scrape_seconds: float = math.inf
    state_url: str = "sqlite://"
    reconcile_interval_seconds: float = 1.0
    """One is always under way: of a large fleet, one look back takes longer than 15 minutes."""


def fitting_orgs(fleet: Fleet, poll_interval_seconds: float) -> int:
    """Tell how many busy orgs one replica can poll in time, beside its look back."""
    budget = for_polls_per_minute(fleet.requests_per_minute)
    fits = int(budget * poll_interval_seconds / 60 / ORDINARY_REQUESTS)
    return max(1, min(fits, fleet.orgs))


def cases(fleet: Fleet, *state_urls: str) -> Iterator[Case]:
    """Yield the ways that are looked at."""
    for interval, name in ((30.0, "30s"), (60.0, "1m"), (120.0, "2m"), (300.0, "5m")):
        yield Case(f"polls of {name}", interval, fitting_orgs(fleet, interval))
    fits = fitting_orgs(fleet, 30.0)
    yield Case("30s, uneven orgs", 30.0, fits, spread=2.0)
    yield Case("30s, twice the orgs that fit", 30.0, min(2 * fits, fleet.orgs))
    # Without a look back: the first one stores what first contact left out.
    alone = {"scrape_seconds": 15.0, "reconcile_interval_seconds": math.inf}
    for url in state_urls:
        kind = url.partition(":")[0]
        yield Case(f"30s, scraped, {kind} on disk", 30.0, fits, state_url=url, **alone)


def simulate(fleet: Fleet, case: Case, seconds: float) -> Seen:
    """Let one replica of the fleet work; the numbers of it alone."""
    rate = fleet.runs_per_second / fleet.orgs
    chance = random.Random(1)
    rates = [chance.lognormvariate(0.0, case.spread) for _ in range(case.orgs)]
    rates = [rate * each / mean(rates) for each in rates]
    ends = 3 * seconds + 30 * case.poll_interval_seconds
    api = FleetApi(rates, KEPT_SECONDS + 600, ends, workflows=fleet.workflows, seed=2)
    key = Key.literal("4f1c9a7e2b8d")
    config = Config(
        api=ApiConfig(url="https://api.test", requests_per_minute=fleet.requests_per_minute),
        orgs=tuple(OrgConfig(id=org_id, key=key) for org_id in api.org_ids),
        poll_interval_seconds=case.poll_interval_seconds,
        lookback_seconds=LOOKBACK_SECONDS,
        reconcile_interval_seconds=case.reconcile_interval_seconds,
        state_url=case.state_url,
    )
    warm_up = 2 * case.poll_interval_seconds
    return run(
        config,
        api,
        warm_up_seconds=warm_up,
        seconds=max(seconds, 2 * case.poll_interval_seconds),
        scrape_seconds=case.scrape_seconds,
    )


def main() -> None:
    """Simulate each case, and print what a replica and what the fleet takes."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling")
    parser.add_argument("--orgs", type=int, default=10_000)
    parser.add_argument("--runs-per-second", type=float, default=1_000.0, help="of all orgs")
    parser.add_argument("--workflows", type=int, default=5, help="of each org")
    parser.add_argument(
        "--requests-per-minute",
        type=float,
        default=400.0,
        help="of each replica, which needs an address of its own",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual, for each case")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database to write to, too")
    flags = parser.parse_args()
    fleet = Fleet(flags.orgs, flags.runs_per_second, flags.workflows, flags.requests_per_minute)
    table = Table(
        box=box.ASCII2,
        show_lines=True,
        title=f"{fleet.orgs:,} orgs, {fleet.runs_per_second:g} runs a second",
    )
    with tempfile.TemporaryDirectory(prefix="invent-bench-") as folder:
        columns: list[dict[str, str]] = []
        urls = [f"sqlite:///{folder}/state.db", *([flags.postgresql] if flags.postgresql else [])]
        for case in cases(fleet, *urls):
            if flags.only not in case.name:
                continue
            # In a process of its own, whose memory is that of this case alone.
            with get_context("spawn").Pool(1) as pool:
                seen = pool.apply(simulate, (fleet, case, flags.minutes * 60))
            columns.append(tell(fleet, case, seen))
            print(
                *(f"{name}: {value}" for name, value in columns[-1].items()),
                sep="\n",
                end="\n\n",
                flush=True,
            )
    for header in ("", *(column["case"] for column in columns)):
        table.add_column(header, overflow="fold")
    for name in columns[0] if columns else ():
        if name != "case":
            table.add_row(name, *(column[name] for column in columns))
    Console(width=160, highlight=False).print(table)


def tell(fleet: Fleet, case: Case, seen: Seen) -> dict[str, str]:
    """Put a replica's numbers, and those of the fleet that follow, into words."""
    replicas = math.ceil(fleet.orgs / seen.orgs)
    per_second = replicas / seen.seconds
    rows = seen.orgs * fleet.runs_per_second / fleet.orgs * KEPT_SECONDS
    look_back_minutes = rows / (PAGE_ROWS * RECONCILE_SHARE * fleet.requests_per_minute)
    text_mb, gzip_mb = seen.text_bytes / 1e6, seen.gzip_bytes / 1e6
    writes = seen.writes
    return {
        "case": case.name,
        "orgs a replica": f"{seen.orgs:,}",
        "replicas, each with an address": f"{replicas:,}",
        "requests a minute, a replica": f"{seen.requests_per_minute:.0f}",
        "requests a minute, all": f"{seen.requests_per_minute * replicas:,.0f}",
        "interval of polls as it was": f"{seen.interval_seconds:.0f} s",
        "end of a run to its count, p50": f"{percentile(seen.lags, 50):.0f} s",
        "p99": f"{percentile(seen.lags, 99):.0f} s",
        "a whole look back takes": f"{look_back_minutes / 60:.1f} h",
        "samples, a replica": f"{seen.samples:,}",
        "/metrics, plain and gzip": f"{text_mb:.1f} and {gzip_mb:.2f} MB",
        "samples, all": f"{seen.samples * replicas / 1e6:.1f} million",
        "memory beside the program's own": f"{seen.grown_bytes / 2**20:.0f} MiB",
        "CPU, a replica": f"{seen.cpu_seconds / seen.seconds:.1%} of a core",
        "ledger: transactions a second, all": f"{writes.transactions * per_second:,.0f}",
        "ledger: rows a second, all": f"{writes.rows * per_second:,.0f}",
        "ledger: bytes written a second, all": f"{writes.log_bytes * per_second / 1e6:.1f} MB",
        "ledger: bytes for each run kept": f"{seen.bytes_a_run:.0f}",
        "failed polls": f"{seen.failed_polls}",
    }


if __name__ == "__main__":
    main()
