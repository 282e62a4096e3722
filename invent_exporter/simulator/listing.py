"""What the listing of runs does with its parameters: filters, orders and pages. No HTTP."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right, insort
from operator import itemgetter
from random import Random
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from invent_exporter.simulator.runs import Origin, Run, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Order = Literal["created", "updated", "oldest", "mixed"]
"""Newest first by created_at or by updated_at, oldest first by created_at, or by a hash of the id.

The service promises none of them.
"""

MAX_TAKE = 100


class BadParameterError(ValueError):
    """A query parameter that the service answers with 400."""


class Query(msgspec.Struct, frozen=True):
    """The parameters of one listing."""

    origin: str = "ALL"
    status: str = "ALL"
    page: int = 1
    take: int = MAX_TAKE


def read_query(parameters: Mapping[str, str]) -> Query:
    """Check the parameters of a listing; unknown ones are ignored.

    Raises:
        BadParameterError: for a value that the service refuses.

    """
    if parameters.get("expand", "false") not in ("true", "false"):
        message = "expand must be true or false"
        raise BadParameterError(message)
    return Query(
        origin=_choice(parameters, "origin", get_args(Origin)),
        status=_choice(parameters, "status", get_args(Status)),
        page=_whole(parameters, "page", 1, 2**53),
        take=_whole(parameters, "take", MAX_TAKE, MAX_TAKE),
    )


def _choice(parameters: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    value = parameters.get(name, "ALL")
    if value not in ("ALL", *known):
        message = f"{name} must be one of ALL, {', '.join(known)}"
        raise BadParameterError(message)
    return value


def _whole(parameters: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= largest):
        message = f"{name} must be a whole number from 1 to {largest}"
        raise BadParameterError(message)
    return int(text)


class Shelf:
    """The listed runs of one org, kept in every order, so that a page costs what is on it."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_created: list[tuple[float, int, Run]] = []
        self._by_updated: list[tuple[float, int, Run]] = []
        self._by_hash: list[tuple[float, int, Run]] = []
        self._by_status: dict[str, dict[str, Run]] = {status: {} for status in get_args(Status)}

    def put(self, run: Run) -> None:
        """Add a run."""
        for entries, key in self._places(run):
            insort(entries, (*key, run), key=_key)
        self._by_status[run.status][run.id] = run

    def put_many(self, runs: Iterable[Run]) -> None:
        """Add many runs at once."""
        for run in runs:
            for entries, key in self._places(run):
                entries.append((*key, run))
            self._by_status[run.status][run.id] = run
        for entries in (self._by_created, self._by_updated, self._by_hash):
            entries.sort(key=_key)

    def take_out(self, run: Run) -> None:
        """Remove a run, which must not have been changed since it was put in."""
        for entries, key in self._places(run):
            del entries[bisect_left(entries, key, key=_key)]
        del self._by_status[run.status][run.id]

    def select(
        self, query: Query, order: Order, deal: Random | None = None
    ) -> tuple[list[Run], int]:
        """Return the runs of one page, and how many the filters leave in all.

        With `deal`, runs whose sort keys are equal stand in another order at each call.
        """
        first = (query.page - 1) * query.take
        entries, backwards = {
            "created": (self._by_created, True),
            "updated": (self._by_updated, True),
            "oldest": (self._by_created, False),
            "mixed": (self._by_hash, False),
        }[order]
        if query.status != "ALL":
            place = {"updated": 1, "mixed": 2}.get(order, 0)
            some = self._by_status[query.status].values()
            entries = sorted(((*self._places(run)[place][1], run) for run in some), key=_key)
        if query.origin != "ALL":
            entries = [entry for entry in entries if entry[2].origin == query.origin]
        total = len(entries)
        begin, end = first, min(total, first + query.take)
        if backwards:
            begin, end = max(0, total - first - query.take), max(0, total - first)
        page = entries[begin:end] if deal is None else _dealt(entries, begin, end, deal)
        return [run for _, _, run in (page[::-1] if backwards else page)], total

    def _places(
        self, run: Run
    ) -> tuple[tuple[list[tuple[float, int, Run]], tuple[float, int]], ...]:
        return (
            (self._by_created, (run.created_at, run.sequence)),
            (self._by_updated, (run.updated_at, run.sequence)),
            (self._by_hash, (zlib.crc32(run.id.encode()), run.sequence)),
        )


def _dealt(
    entries: list[tuple[float, int, Run]], begin: int, end: int, deal: Random
) -> list[tuple[float, int, Run]]:
    """Cut a part out, after dealing anew those of all ties that reach into it."""
    if begin >= end:
        return []
    low = bisect_left(entries, entries[begin][0], key=itemgetter(0))
    high = bisect_right(entries, entries[end - 1][0], key=itemgetter(0))
    dealt = sorted(entries[low:high], key=lambda entry: (entry[0], deal.random()))
    return dealt[begin - low : end - low]


def _key(entry: tuple[float, int, Run]) -> tuple[float, int]:
    return entry[0], entry[1]
