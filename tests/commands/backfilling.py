"""Worlds with a past, and the backfill of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Final, get_args

from invent_exporter.simulator import Usage, World
from invent_exporter.simulator.runs import Origin
from tests.process.harness import Labels, make_config, run_command

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
TARGET: Final = {"job": "invent-exporter", "instance": "invent-exporter"}
Past = dict[tuple[str, Labels], list[tuple[float, float]]]
"""The samples (time, value) of each series, in their order."""
WORKFLOWS: Final = ("wf-a", "wf-b", None)


def add_past(world: World, *, runs: int, seconds: float, seed: int = 1) -> None:
    """Add runs of all kinds that ended in the last seconds; some began long before."""
    random, now = Random(seed), world.clock()
    for _ in range(runs):
        ended = now - 5 - random.random() * seconds
        took = random.choice((0.4, 7, 90, 0.3 * seconds, 0.8 * seconds))
        total = random.choice((None, 0.5, 3.25))
        world.add_run(
            workflow_id=random.choice(WORKFLOWS),
            origin=random.choice(get_args(Origin)),
            status=random.choice(("CANCELED", "COMPLETED", "SKIPPED", "FAILED")),
            created_at=ended - took - random.choice((0, 0.7, 20)),
            started_at=None if random.random() < 0.1 else ended - took,
            ended_at=ended,
            usage=None if total is None else Usage(total, total / 2),
            version=random.choice((1, 2)),
        )


def backfill(api_url: str, folder: Path, *flags: str, **config: object) -> str:
    """Run the command to its end; return what it wrote."""
    output = folder / "history.om"
    done = run_command(*arguments(api_url, folder, *flags, **config))
    assert done.returncode == 0, done.stderr
    return output.read_text()


def arguments(api_url: str, folder: Path, *flags: str, **config: object) -> list[str | Path]:
    """Make the command's arguments, and its configuration."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(make_config(api_url, folder) | config))
    labels = [f"--label={name}={value}" for name, value in TARGET.items()]
    output = folder / "history.om"
    return ["backfill", f"--config.file={file}", f"--output={output}", *labels, *flags]


def samples_of(text: str) -> Past:
    """Read what was written.

    prometheus-client's strict parser can't read histograms with several timestamps: it takes what
    follows the first sample of the second one for duplicates. This one only knows what is written.
    """
    found = defaultdict(list)
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        series, value, at = line.rsplit(" ", 2)
        name, _, labels = series.removesuffix("}").partition("{")
        pairs = dict(re.findall(r'([a-z_]+)="([^"]*)"', labels))
        assert TARGET.items() <= pairs.items()
        key = name, frozenset(pairs.items() - TARGET.items())
        found[key].append((float(at), float(value)))
    return dict(found)


def value_at(samples: list[tuple[float, float]], seconds: float) -> float:
    """Return a series' value at a time, 0 before it began."""
    before = [value for at, value in samples if at <= seconds]
    return before[-1] if before else 0.0


def grew(
    series: Past,
    name: str,
    since: float,
    until: float,
) -> dict[Labels, float]:
    """Tell by how much each series of a name grew between two times, but those that did not."""
    differences = {
        labels: value_at(samples, until) - value_at(samples, since)
        for (sample, labels), samples in series.items()
        if sample == name
    }
    return {labels: value for labels, value in differences.items() if value}
