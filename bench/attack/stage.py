"""One attack: the exporter as users run it, an honest org in it, what is hostile, and a scraper.

An attack is an `Attack`: what the other orgs' API answers, or what clients do (`besiege` gets the
exporter's port and is entered while scrapes are measured). Its bounds stand beside it.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from bench.attack.hostile_api import HONEST_ORG, HostileApi
from bench.client import Client, request
from bench.exporter import Exporter
from bench.table import percentile

_SCRAPE_EVERY_SECONDS = 0.05
_RUNS_A_SECOND = 5
_CATCH_UP_SECONDS = 30.0


@dataclass(frozen=True)
class Bounds:
    """The most that each figure may be, on a quiet machine."""

    p50_ms: float = 10.0
    p99_ms: float = 100.0
    max_ms: float = 100.0
    memory_mib: float = 200.0
    stop_seconds: float = 5.0


@dataclass(frozen=True)
class Attack:
    """Who attacks how; `answer` names a hostile answer of `hostile_api`, for all orgs but one."""

    name: str
    what: str
    answer: str = "honest"
    orgs: int = 2
    besiege: Callable[[int], AbstractContextManager[object]] = field(default=nullcontext)
    bounds: Bounds = Bounds()


@dataclass(frozen=True)
class Figure:
    """What was measured, beside its bound."""

    shown: str
    is_met: bool

    @classmethod
    def of(cls, value: float, most: float, unit: str) -> Figure:
        """Compare."""
        mark = "" if value <= most else "  OVER"
        return cls(f"{value:.3g} of {most:g} {unit}{mark}", value <= most)


@dataclass(frozen=True)
class Outcome:
    """The figures of one attack, in the order of the table."""

    attack: Attack
    figures: tuple[Figure, ...]


def run(attack: Attack, seconds: float) -> Outcome:
    """Attack for so long, and measure."""
    bounds = attack.bounds
    with (
        HostileApi(attack.answer) as api,
        Exporter(api.url, orgs=attack.orgs, poll_interval="1s") as exporter,
    ):
        with exporter.client() as client:
            _wait_until(lambda: _of_honest_org(client, "invent_up") == 1, "the honest org is up")
            sockets_before = _socket_bytes()
            with attack.besiege(exporter.port):
                scrapes, added = _scrape(client, api, seconds)
                sockets = _socket_bytes() - sockets_before
                honest = _judge_honest_org(client, added)
            memory = exporter.peak_rss_bytes() + max(0, sockets)
        stop_seconds = exporter.stop()
    ms = [took * 1000 for took in scrapes]
    figures = (
        Figure.of(percentile(ms, 50), bounds.p50_ms, "ms"),
        Figure.of(percentile(ms, 99), bounds.p99_ms, "ms"),
        Figure.of(max(ms), bounds.max_ms, "ms"),
        Figure.of(memory / 2**20, bounds.memory_mib, "MiB"),
        Figure.of(stop_seconds, bounds.stop_seconds, "s"),
        honest,
    )
    return Outcome(attack, figures)


def _scrape(client: Client, api: HostileApi, seconds: float) -> tuple[list[float], int]:
    """Scrape all the time, while the honest org's runs end; also tell how many did."""
    took: list[float] = []
    began, added = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if (due := int(passed * _RUNS_A_SECOND) - added) > 0:
            api.add(due)
            added += due
        took.append(client.get(request())[0])
        time.sleep(_SCRAPE_EVERY_SECONDS)
    return took, added


def _judge_honest_org(client: Client, added: int) -> Figure:
    """Wait until it has counted what ended, no more and no less, and is up."""

    def counted() -> float:
        return _of_honest_org(client, "invent_runs_finished_total")

    try:
        _wait_until(lambda: counted() >= added, "all runs are counted")
    except TimeoutError:
        return Figure(f"{counted():g} of {added} runs", is_met=False)
    is_up = _of_honest_org(client, "invent_up") == 1
    is_exact = counted() == added
    shown = f"{counted():g} of {added} runs, {'up' if is_up else 'DOWN'}"
    return Figure(shown, is_up and is_exact)


def _socket_bytes() -> int:
    """Tell what the kernel keeps of all TCP connections of this machine, at both of their ends."""
    match = re.search(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert match is not None  # noqa: S101 (Linux)
    return int(match[1]) * resource.getpagesize()


def _of_honest_org(client: Client, name: str) -> float:
    samples = rf'^{name}\{{[^\n]*org_id="{HONEST_ORG}"[^\n]*?\}} ([^ \n]+)'
    return sum(map(float, re.findall(samples, client.text(), re.MULTILINE)))


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _CATCH_UP_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(_SCRAPE_EVERY_SECONDS)
