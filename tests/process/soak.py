"""A real Prometheus scrapes the exporter for a while; then what it stored is held to the truth.

`python -m tests.process.soak --seconds 1800 --report docs/soak-report.md` is the long form, with
faults, kills, odd fields, ties without an order and deep pages that are refused; `test_prometheus`
is the short one, of an API that is well.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import BAD_REQUEST
from pathlib import Path
from random import Random
from typing import Any

from invent_exporter.simulator import Settings, SimulatorServer
from tests.deploy.processes import prometheus as run_prometheus
from tests.process.expected import differences, expected_of
from tests.process.harness import Exporter, Labels, free_port, make_config, wait_for
from tests.process.stored import Line, Stored, compare
from tests.process.traffic import Trouble, faults, lively_world
from tests.programs import require

SCRAPE_SECONDS = 1.0
ODD_EVERY = 10
ROWS_LISTED = 1000
"""Ten pages; the eleventh is refused."""
ROWS_IN_REACH = 600
"""What changes there is read before so many new runs came that it is out of reach."""


@dataclass
class Result:
    """The outcome of one soak."""

    seconds: float
    seed: int
    lines: list[Line] = field(default_factory=list)
    kills: int = 0
    requests: int = 0
    faulty: int = 0
    vanished: int = 0
    revised: int = 0
    unreadable: int = 0
    runs: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    """How many runs had an odd field, by its kind."""
    refused: int = 0

    @property
    def wrong(self) -> list[Line]:
        """The series for which something does not add up."""
        return [line for line in self.lines if not (line.is_exact and line.is_explained)]


def soak(folder: Path, *, seconds: float, seed: int, is_sick: bool) -> Result:
    """Run it: traffic for so long, with faults and kills when `is_sick`."""
    result = Result(seconds, seed)
    world = lively_world(seed)
    settings = Settings(rate_limit_per_minute=None)
    if is_sick:
        world = lively_world(seed, resolution_seconds=1.0, odd_every=ODD_EVERY)
        settings.deals_ties = True
        settings.rows_listed = ROWS_LISTED
    port = free_port()
    with SimulatorServer(world, settings=settings) as simulator:
        config = make_config(
            simulator.url,
            folder,
            api={"timeout": "2s"},
            metrics={"newborn_hold": "3s"},
            poll_interval="500ms",
            reconcile_interval="5s" if is_sick else "15m",
        )
        address = f"--web.listen-address=127.0.0.1:{port}"
        trouble = Trouble(simulator, seed)
        if is_sick:
            trouble.rows_in_reach = ROWS_IN_REACH
        with Exporter(folder, config, arguments=(address,)) as exporter:
            exporter.wait_until_up()
            with run_prometheus(folder, scraping(port)) as server:
                prometheus = Stored(server)
                wait_for("a first scrape", lambda: prometheus.query("invent_up"))
                begun = time.time()
                # No run that comes may be told to have come before first contact.
                wait_for("first contact is past", lambda: time.time() > begun + 2)
                begun = time.time()
                since = begun - world.resolution_seconds - 0.002
                world.automatic = True
                if is_sick:
                    simulator.add_faults(*faults())
                _live(result, exporter, trouble, Random(seed), is_sick=is_sick)
                trouble.end()
                simulator.faults.clear()
                truth = world.truth(since)
                expected = expected_of(truth)
                # Asked by nobody else meanwhile: a new series is served at 0 until it was seen.
                wait_for("the last values are stored", lambda: prometheus.holds(expected))
                _settle(exporter, simulator, since)
                # All is asked as of one moment: on a busy machine the questions take a while.
                prometheus.at = time.time()
                window = math.ceil(prometheus.at - begun) + 30
                result.lines = list(compare(prometheus, truth, window))
        requests = simulator.requests
        result.requests = len(requests)
        result.faulty = sum(request.fault is not None for request in requests)
        result.refused = sum(request.status == BAD_REQUEST for request in requests)
        result.odd = Counter(run.spoiled for run in truth.runs if run.spoiled)
        result.vanished, result.revised = trouble.removed, trouble.revised
        result.unreadable = trouble.spoiled
        result.runs = sum(group.submitted for group in truth.submitted)
    return result


def scraping(port: int) -> dict[str, Any]:
    """Return a configuration of Prometheus that scrapes this port."""
    target = {"targets": [f"127.0.0.1:{port}"]}
    job = {"job_name": "invent-exporter", "static_configs": [target]}
    return {"global": {"scrape_interval": f"{SCRAPE_SECONDS:g}s"}, "scrape_configs": [job]}


def _live(
    result: Result, exporter: Exporter, trouble: Trouble, random: Random, *, is_sick: bool
) -> None:
    ends = time.monotonic() + result.seconds
    next_kill = time.monotonic() + random.uniform(10, 40)
    while time.monotonic() < ends:
        time.sleep(0.5)
        if not is_sick:
            continue
        trouble.polled(exporter.try_to_scrape())
        trouble.make()
        if time.monotonic() > next_kill:
            exporter.kill()
            exporter.start()
            result.kills += 1
            next_kill = time.monotonic() + random.uniform(10, 40)


def _settle(exporter: Exporter, simulator: SimulatorServer, since: float) -> None:
    exporter.wait_for(
        "the exporter is exact",
        lambda samples: not differences(samples, simulator.world.truth(since)),
    )


def report(result: Result) -> str:
    """Write the result down as Markdown."""
    exact = sum(line.is_exact for line in result.lines)
    explained = sum(line.is_explained for line in result.lines)
    moved = [line for line in result.lines if line.truth]
    worst = max((line.increase / line.truth - 1 for line in moved), default=0.0)
    rows = [
        f"| `{line.name}` | {_shown(line.labels)} | {line.truth:.6g} | {line.raw:.6g} "
        f"| {line.increase:.6g} | {'yes' if line.is_exact else '**no**'} "
        f"| {'yes' if line.is_explained else '**no**'} |"
        for line in moved
        if not line.name.endswith("_bucket")
    ]
    version = subprocess.run(
        [require("prometheus"), "--version"], capture_output=True, check=True, text=True
    )
    name = (version.stdout or version.stderr).splitlines()[0].split(" (")[0]
    return "\n".join(
        [
            "# Soak with a real Prometheus",
            "",
            (
                f'`make soak-prometheus ARGS="--seconds {result.seconds:g} --seed {result.seed}"`, '
                f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, "
                f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Python "
                f"{platform.python_version()}, {name}, scraping every {SCRAPE_SECONDS:g} s."
            ),
            "",
            (
                f"{result.runs} runs in {result.seconds:g} s of traffic; the exporter was killed "
                f"{result.kills} times (SIGKILL); {result.faulty} of {result.requests} requests "
                f"met a fault; {result.vanished} runs vanished, {result.revised} revisions of "
                f"usage, {result.unreadable} runs unreadable for a while."
            ),
            "",
            (
                f"The API tells times in whole seconds, and deals runs of one second anew at each "
                f"request; every {ODD_EVERY}th run has an odd field ({result.odd.total()} runs, "
                f"{len(result.odd)} kinds); rows from {ROWS_LISTED} on (page 11) are refused, "
                f"with 400, whenever they are asked for ({result.refused} times)."
            ),
            "",
            (
                f"{len(result.lines)} series compared. Sum of raw increments equal to the truth: "
                f"{exact}. `increase()` over the whole time within what extrapolation explains: "
                f"{explained}. It was above the truth by at most {worst:.4%}."
            ),
            "",
            "The series that moved, without histogram buckets (they are compared too):",
            "",
            "| series | labels | truth | raw increments | `increase()` | exact | explained |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _shown(labels: Labels) -> str:
    return ", ".join(value for name, value in sorted(labels) if name != "org_id")


def main() -> int:
    """Run the long form; return 1 when something does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), seconds=flags.seconds, seed=flags.seed, is_sick=True)
    text = report(result)
    if flags.report:
        flags.report.write_text(text)
    print(text)  # noqa: T201 - what it was asked for
    return 1 if result.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
