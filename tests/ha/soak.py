"""The long form of the proof: all scenarios in ever other orders, and a report of each.

`python -m tests.ha.soak --rounds 10 --report docs/soak-ha-report.md`; with `--only kill` one of
them alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from tests.ha.scenarios import SCENARIOS
from tests.ha.stage import LEASE_SECONDS, ORGS, SCRAPE_SECONDS, Stage, new_folder

_LIVE_SECONDS: Final = (5.0, 15.0)
_TEXT: Final = """\
# Soak of replicas that share a PostgreSQL database

`{command}`, {date}, {cores} cores, {system}, Python {python}.

{orgs} orgs with about 25 runs a second in all, three replicas (up to five) with a lease of
{lease:g} s, a real PostgreSQL behind a proxy for each, and a real Prometheus that scrapes all of
them every {scrape:g} s with `deploy/prometheus/prometheus.ha.yml`. After each scenario the API
stands still. Then every number of every org is compared with the truth: in the replicas, and in
Prometheus as sum of raw increments and as `increase()` over the whole round. A second scraper
looks all the time whether an org is at two replicas under one lease, or a number goes back.

{meanings}

{scenes} scenarios, {wrong} of them with something wrong. *Gap*: the longest time in seconds in
which no scrape had some org, looked at every half second or so; time without a database included.

| round | scenario | gap | runs | series | scrapes | `increase()` above | exact |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}
"""


@dataclass(frozen=True)
class Scene:
    """What came of one scenario; runs, series and scrapes are those of the round so far."""

    round: int
    name: str
    error: str = ""
    seconds: float = 0.0
    gap_seconds: float = 0.0
    """The longest time for which no scrape had some org."""
    runs: int = 0
    series: int = 0
    scrapes: int = 0
    worst: float = 0.0
    """By which share `increase()` was above the truth at most, as extrapolation makes it."""


def play(number: int, seed: int, names: Sequence[str]) -> list[Scene]:
    """Play the scenarios on one stage in a random order; end with the first that goes wrong."""
    random = Random(f"{seed}:{number}")
    scenes = []
    with new_folder() as folder, Stage(Path(folder), seed=seed + number) as stage:
        for name in random.sample(names, len(names)):
            begun = time.monotonic()
            try:
                scene = _play(stage, number, name, random)
            except AssertionError as error:
                seconds = time.monotonic() - begun
                scenes.append(Scene(number, name, error=str(error), seconds=seconds))
                return scenes
            print(scene, flush=True)  # noqa: T201 - it takes long
            scenes.append(scene)
    return scenes


def _play(stage: Stage, number: int, name: str, random: Random) -> Scene:
    begun = time.monotonic()
    stage.restore()
    stage.live(random.uniform(*_LIVE_SECONDS))
    stage.rounds.forget_gaps()
    SCENARIOS[name](stage)
    gap = max(stage.rounds.gaps.values())
    stage.live(random.uniform(*_LIVE_SECONDS))
    stage.settle()
    lines = stage.check_stored()
    return Scene(
        number,
        name,
        seconds=time.monotonic() - begun,
        gap_seconds=gap,
        runs=round(sum(line.truth for line in lines if line.name == "invent_runs_finished_total")),
        series=len(lines),
        scrapes=stage.rounds.watcher.scrapes,
        worst=max(line.increase / line.truth - 1 for line in lines if line.truth),
    )


def report(scenes: Sequence[Scene], command: str) -> str:
    """Write the result down as Markdown."""
    return _TEXT.format(
        command=command,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        cores=os.cpu_count(),
        system=platform.freedesktop_os_release()["PRETTY_NAME"],
        python=platform.python_version(),
        orgs=ORGS,
        lease=LEASE_SECONDS,
        scrape=SCRAPE_SECONDS,
        meanings="\n".join(f"- *{name.replace('_', ' ')}*: {_told(name)}" for name in SCENARIOS),
        scenes=len(scenes),
        wrong=sum(bool(scene.error) for scene in scenes),
        rows="\n".join(map(_row, scenes)),
    )


def _row(scene: Scene) -> str:
    cells = (
        scene.round,
        scene.name.replace("_", " "),
        f"{scene.gap_seconds:.1f}",
        scene.runs,
        scene.series,
        scene.scrapes,
        f"{scene.worst:.2%}",
        f"**{scene.error.splitlines()[0]}**" if scene.error else "yes",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _told(name: str) -> str:
    text = " ".join((SCENARIOS[name].__doc__ or "").split())
    return text[:1].lower() + text[1:]


def main() -> int:
    """Run the long form; return 1 when something does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--report", type=Path)
    flags = parser.parse_args()
    scenes = []
    for number in range(1, flags.rounds + 1):
        scenes += play(number, flags.seed, flags.only)
        if scenes[-1].error:
            print(scenes[-1].error)  # noqa: T201 - as above
    command = f'make soak-ha ARGS="--rounds {flags.rounds} --seed {flags.seed}"'
    text = report(scenes, command)
    if flags.report:
        flags.report.write_text(text)
    print(text)  # noqa: T201 - what it was asked for
    return 1 if any(scene.error for scene in scenes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
