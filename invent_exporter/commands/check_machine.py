"""What `check` says of this machine and the configuration: a finding, and what to do if wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import select

from invent_exporter import __version__
from invent_exporter.api.models import Run
from invent_exporter.config.load import Config
from invent_exporter.config.state import POSTGRESQL, shown
from invent_exporter.errors import StateError
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import Bounds, WorkflowCounts
from invent_exporter.ledger.heartbeat import read_owners
from invent_exporter.ledger.place import place_of
from invent_exporter.ledger.reading import reading
from invent_exporter.metrics.exposition import newborn_text
from invent_exporter.metrics.families import WorkflowView

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs")
"""File systems on which SQLite's write-ahead log does not work."""
_NEAR = 0.8
_MANY = 0.05
_NAMED_ORGS = 20
_FEW_RUNS = 20
"""Fewer say nothing of how long runs take."""


class Line(msgspec.Struct, frozen=True):
    """One finding; `advice` is there when something is wrong."""

    what: str
    found: str
    advice: str | None = None


def look_at(config: Config, runs: Sequence[Run]) -> list[Line]:
    """Look at the state, and hold the configuration against the runs that were seen."""
    python = ".".join(map(str, sys.version_info[:3]))
    state, workflows = _state(config.state_url)
    workflows = workflows or {run.workflow_label for run in runs}
    return [
        Line("version", f"{__version__}, Python {python}"),
        *state,
        _scrape(config),
        _requests(config),
        _series(config, len(workflows)),
        *_buckets(config, runs),
    ]


def _state(url: str) -> tuple[list[Line], set[str]]:
    """Tell whether the state can be written, who serves what, and which workflows it knows."""
    shares: list[Line] = []
    place = place_of(url)
    if url == "sqlite://":
        lost = "every start is a first contact: name a file in state.url"
        return [Line("state", "kept nowhere", lost)], set()
    try:
        with reading(url) as state:
            query = select(schema.workflow.c.workflow_id)
            known = set() if state is None else {*state.connection.execute(query).scalars()}
            if state is not None and url.startswith(POSTGRESQL):
                shares = list(_shares(read_owners(state.connection)))
    except StateError as error:
        return [Line("state", "can't be used", str(error))], set()
    if place is None:
        is_new = ", no tables yet" if state is None else ""
        return [Line("state", f"{shown(url)}{is_new}"), *shares], known
    path, real = place.named.absolute(), place.real
    kind = _file_system(real)
    advice = None
    if not os.access(real if real.exists() else real.parent, os.W_OK):
        advice = f"{path} can't be written: give its owner, or the folder, to who runs serve"
    elif kind in _NETWORK:
        advice = "SQLite's log does not work on a network file system: use a local disk"
    is_new = "" if real.exists() else ", not there yet"
    return [Line("state", f"{path}{is_new}, on {kind}", advice)], known


def _shares(owners: Mapping[str, str]) -> Iterator[Line]:
    for replica in sorted({*owners.values()}):
        orgs = sorted(org for org, owner in owners.items() if owner == replica)
        more = f", and {len(orgs) - _NAMED_ORGS} more" if len(orgs) > _NAMED_ORGS else ""
        names = ", ".join(orgs[:_NAMED_ORGS])
        yield Line(f"served by {replica}", f"{len(orgs)}: {names}{more}")


def _file_system(path: Path) -> str:
    """Name the kind of file system that a path is on, as far as /proc tells."""
    kind, longest = "an unknown file system", -1
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return kind
    for mount in mounts:
        _, at, found, *_ = mount.split(" ")
        at = at.encode().decode("unicode_escape")
        if path.is_relative_to(at) and len(at) > longest:
            kind, longest = found, len(at)
    return kind


def _scrape(config: Config) -> Line:
    hold = config.metrics.newborn_hold_seconds
    advice = None
    if hold < _LONGEST_USUAL_SCRAPE:
        advice = "a longer scrape_interval misses the first run of a workflow: raise newborn_hold"
    return Line("scrape_interval", f"at most {hold:g} s (metrics.newborn_hold)", advice)


_LONGEST_USUAL_SCRAPE = 60.0


def _requests(config: Config) -> Line:
    limit = config.api.requests_per_minute
    idle = len(config.orgs) * 60 / config.poll_interval_seconds
    found = f"{idle:g} a minute while nothing happens, of {limit:g}"
    advice = None
    if idle > _NEAR * limit:
        advice = "too little is left for news: raise poll_interval or api.requests_per_minute"
    return Line("requests", found, advice)


def _series(config: Config, workflows: int) -> Line:
    metrics = config.metrics
    bounds = Bounds(metrics.duration_buckets, metrics.queue_buckets, metrics.credit_buckets)
    size, series = newborn_text(WorkflowView("org", "w" * 24, "", WorkflowCounts.empty(bounds), ()))
    total = workflows * size
    found = (
        f"{workflows} workflows: {workflows * series:,} series, {total / 1024**2:.1f} MiB as text"
    )
    advice = None
    if workflows > metrics.max_workflows:
        advice = (
            "later workflows count as __other__: raise metrics.max_workflows, or leave some out"
        )
    elif total > _NEAR * metrics.max_exposition_bytes:
        advice = "new workflows will count as __other__: raise metrics.max_exposition"
    return Line("series", found, advice)


def _buckets(config: Config, runs: Sequence[Run]) -> Iterator[Line]:
    metrics = config.metrics
    for name, bounds, values in (
        ("duration_buckets", metrics.duration_buckets, [run.duration_seconds for run in runs]),
        ("queue_buckets", metrics.queue_buckets, [run.queue_seconds for run in runs]),
        ("credit_buckets", metrics.credit_buckets, [run.credits_total for run in runs]),
    ):
        seen = [value for value in values if value is not None]
        if len(seen) < _FEW_RUNS:
            yield Line(name, f"{len(seen)} runs seen: too few to tell")
            continue
        above = sum(value > bounds[-1] for value in seen) / len(seen)
        below = sum(value <= bounds[0] for value in seen) / len(seen)
        advice = None
        if above > _MANY:
            advice = f"quantiles end at {bounds[-1]:g}: add bounds up to {max(seen):.3g}"
        elif below > 1 - _MANY:
            advice = f"nearly all are below {bounds[0]:g}: add smaller bounds"
        yield Line(name, f"{len(seen)} runs seen: {above:.0%} above {bounds[-1]:g}", advice)
