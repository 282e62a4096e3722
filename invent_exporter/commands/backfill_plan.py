"""What `backfill` is to read and to write, and how large that may become. Pure."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import yaml

from invent_exporter.config import values
from invent_exporter.config.yaml_nodes import Value
from invent_exporter.errors import UsageError, excerpt
from invent_exporter.metrics.families import FAMILIES

KEEP_MS = 240_000
"""A series has a sample at least so often: Prometheus takes it for ended after 5 minutes."""
LOOKBACK_MS = 300_000
HEAD_SECONDS = 3 * 3600
"""About so much Prometheus is still writing; its documentation wants no blocks made of it."""

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OWN_LABELS = {"le", "__name__", *(label for family in FAMILIES for label in family.labels)}


class Plan(msgspec.Struct, frozen=True):
    """What the flags ask for; times are Unix times in milliseconds, `since` is as it was given."""

    output: Path
    since: str
    start_ms: int
    step_ms: int
    labels: Mapping[str, str]

    def moment_of(self, seconds: float, end_ms: int) -> int:
        """Tell when a sample shows what happened then: none is later than `end_ms`."""
        return min(math.ceil(round(seconds * 1000) / self.step_ms) * self.step_ms, end_ms)


def make_plan(output: Path, since: str, step: str, labels: Sequence[str], now: float) -> Plan:
    """Read the flags.

    Raises:
        UsageError: one of them is wrong.

    """
    since_seconds, step_seconds = _duration("--since", since), _duration("--step", step)
    if step_seconds * 1000 > KEEP_MS:
        raise UsageError(f"--step: {excerpt(step)} is too long: expected at most 4m")
    if output.exists():
        raise UsageError(f"--output: {output} is there already: expected a name that is free")
    if not output.parent.is_dir():
        raise UsageError(f"--output: {output.parent} is no folder: expected one that is there")
    return Plan(
        output,
        since,
        round((now - since_seconds) * 1000),
        round(step_seconds * 1000),
        dict(_label(text) for text in labels),
    )


def _duration(flag: str, text: str) -> float:
    return values.duration(Value(yaml.ScalarNode("", text, style='"'), flag))


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _LABEL_NAME.fullmatch(name) or name.startswith("__") or not value:
        such = "expected NAME=VALUE such as job=invent-exporter"
        raise UsageError(f"--label: {excerpt(text)} is no label: {such}")
    if name in _OWN_LABELS:
        raise UsageError(f"--label: {name} is a label of the metrics: expected another name")
    return name, value


class TaskOrg(msgspec.Struct):
    """An org of the task: what bounds it. `end` is unknown until its first answer came."""

    configured_id: str
    org_id: str | None
    end: float | None
    live: frozenset[str] = frozenset()
    history: frozenset[str] = frozenset()
    met: frozenset[str] = frozenset()
    workflows: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()


class Task(msgspec.Struct):
    """What is to be read: settled when it begins, and the same after a break.

    `others` are orgs of the ledger that are not read, with their contacts: what is listed may be
    theirs.
    """

    api_url: str
    since: str
    start_ms: int
    orgs: list[TaskOrg]
    others: dict[str, float]


class Forecast(msgspec.Struct, frozen=True):
    """How many bytes the samples of one workflow take: of all its series, and of one run's."""

    all_series: int
    series_of_a_run: int

    def size_bytes(self, workflows: int, runs: int, window_ms: int, step_ms: int) -> int:
        """Tell how large a file becomes at most."""
        kept = workflows * math.ceil(window_ms / KEEP_MS) * self.all_series
        most = workflows * math.ceil(window_ms / step_ms) * self.all_series
        return kept + min(runs * self.series_of_a_run, most)


def size(number: float) -> str:
    """Write a size for people."""
    for unit in ("bytes", "KB", "MB"):
        if number < 1000:  # noqa: PLR2004
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def utc(seconds: float) -> str:
    """Write a time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def notes(plan: Plan, ends: Mapping[str, float], now: float) -> list[str]:
    """Say what to know before the file goes into a Prometheus; `ends` by org, in seconds."""
    days = math.ceil((now - plan.start_ms / 1000) / 86400)
    told = [
        f"{org_id}: from {utc(plan.start_ms / 1000)} to {utc(end)}" for org_id, end in ends.items()
    ]
    told.append(
        f"Prometheus deletes blocks that are older than --storage.tsdb.retention.time (15d unless "
        f"set): give it more than {days}d"
    )
    ready = max(ends.values()) + HEAD_SECONDS
    if ready > now:
        told.append(
            "Prometheus wants no blocks of its last three hours, which it is still writing: give "
            f"it these after {utc(ready)}"
        )
    if missing := {"job", "instance"} - plan.labels.keys():
        told.append(
            f"no --label {' and no --label '.join(sorted(missing))}: without those of the scrape "
            "these are other series than the live ones"
        )
    return told
