"""Facts about the rows of a listing, and the order that they stand in.

The API promises no order, so what is believed is only what was seen: each walk is judged anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from invent_exporter.api.models import Run

_EVIDENCE = 8
"""Steps in one direction before an order is believed: by chance, 1 in 40320 mixed listings."""


class RowFact(msgspec.Struct, frozen=True, gc=False):
    """What the ledger says about one row of a page; `is_new`: it did not know the run before."""

    run_id: str
    created: float | None
    updated: float | None
    is_open: bool
    owned: bool
    settled: bool
    signature: tuple[object, ...]
    is_new: bool = False
    is_dated: bool = True


def is_dated(run: Run) -> bool:
    """Tell whether the times that may order a listing can be read, or are not there."""
    return "created_at" not in run.unreadable and "updated_at" not in run.unreadable


def unknown_rows(runs: Sequence[Run]) -> list[RowFact]:
    """Tell of runs what can be told without a ledger."""
    return [
        RowFact(
            run.id,
            run.created,
            run.updated,
            is_open=not run.is_final,
            owned=True,
            settled=False,
            signature=(),
            is_dated=is_dated(run),
        )
        for run in runs
    ]


def row_signature(run: Run) -> tuple[object, ...]:
    """Tell all of a run that may change while it is listed."""
    return (run.id, run.status, run.updated, *(run.credits or (None, None)))


class PageFacts(msgspec.Struct, frozen=True):
    """One answer: where in the listing it stands, and its readable rows.

    `unreadable` names the others, as far as they have an id; `met`: all runs the ledger ever knew;
    `refused`: the API would not list so far back.
    """

    start: int
    end: int
    at_end: bool
    count: int | None
    rows: Sequence[RowFact]
    unreadable: Sequence[str | None] = ()
    met: int = 0
    refused: bool = False


class Newest(msgspec.Struct, frozen=True):
    """The newest times that rows told; None where none did."""

    created: float | None = None
    updated: float | None = None


def newest_of(rows: Sequence[RowFact | Newest]) -> Newest:
    """Find the newest of these times."""
    return Newest(_latest([row.created for row in rows]), _latest([row.updated for row in rows]))


class Order(msgspec.Struct, frozen=True):
    """Which orders the rows seen so far allow; at least `_EVIDENCE` steps make one learned."""

    created_descending: bool = True
    created_ascending: bool = True
    updated_descending: bool = True
    updated_ascending: bool = True
    created_steps: int = 0
    updated_steps: int = 0

    @property
    def newest_first(self) -> bool:
        """New or changed runs stand at the front."""
        return bool(self.created_first_is_newest or self._updated_first_is_newest)

    @property
    def oldest_first(self) -> bool:
        """New or changed runs stand at the end."""
        return self.created_first_is_newest is False or self._updated_first_is_newest is False

    @property
    def learned(self) -> bool:
        """One direction is known."""
        return self.newest_first != self.oldest_first

    @property
    def created_first_is_newest(self) -> bool | None:
        """Whether created times fall along the listing; None when they follow no direction."""
        is_known = self.created_descending != self.created_ascending
        return self.created_descending if is_known and self.created_steps >= _EVIDENCE else None

    @property
    def _updated_first_is_newest(self) -> bool | None:
        is_known = self.updated_descending != self.updated_ascending
        return self.updated_descending if is_known and self.updated_steps >= _EVIDENCE else None

    @property
    def may_order(self) -> tuple[bool, bool]:
        """Whether the listing may follow the times of creation, and those of the last change."""
        return (
            self.created_descending or self.created_ascending,
            self.updated_descending or self.updated_ascending,
        )

    def with_walk(self, walked: Order) -> Order:
        """Allow only what both allow; what one walk saw after another may be the same evidence."""
        return msgspec.structs.replace(
            self.joined(walked),
            created_steps=max(self.created_steps, walked.created_steps),
            updated_steps=max(self.updated_steps, walked.updated_steps),
        )

    def joined(self, other: Order) -> Order:
        """Allow only what both allow, with the evidence of both."""
        return Order(
            self.created_descending and other.created_descending,
            self.created_ascending and other.created_ascending,
            self.updated_descending and other.updated_descending,
            self.updated_ascending and other.updated_ascending,
            min(self.created_steps + other.created_steps, _EVIDENCE),
            min(self.updated_steps + other.updated_steps, _EVIDENCE),
        )


def _latest(times: Sequence[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)


def judge(rows: Sequence[RowFact]) -> Order:
    """Judge rows that stand one after the other; a row without a time fits no order."""
    dated = [row for row in rows if row.is_dated]
    created = _directions([row.created for row in dated])
    updated = _directions([row.updated for row in dated])
    return Order(created[0], created[1], updated[0], updated[1], created[2], updated[2])


def _directions(times: Sequence[float | None]) -> tuple[bool, bool, int]:
    descending = ascending = None not in times
    steps = 0
    for first, second in pairwise(times):
        if first is None or second is None:
            continue
        if second != first:
            steps += 1
            descending = descending and second < first
            ascending = ascending and second > first
    return descending, ascending, steps


def reaches_behind(rows: Sequence[RowFact], newest: Newest, order: Order) -> bool:
    """Tell whether some row is older than what was the newest, by each time that may order.

    Else a new run may stand behind these rows: those that share a time stand in any order.
    """
    by_created, by_updated = order.may_order
    return (not by_created or _has_older([row.created for row in rows], newest.created)) and (
        not by_updated or _has_older([row.updated for row in rows], newest.updated)
    )


def _has_older(times: Sequence[float | None], newest: float | None) -> bool:
    return newest is None or any(time is not None and time < newest for time in times)


def is_older(rows: Sequence[RowFact], limit: float, order: Order) -> bool:
    """All rows, and so all behind them, are from before the limit by each time that may order."""
    by_created, by_updated = order.may_order
    times = [row.created for row in rows if by_created and row.is_dated]
    times += [row.updated for row in rows if by_updated and row.is_dated]
    return bool(times) and all(time is not None and time < limit for time in times)


def page_signature(rows: Iterable[tuple[object, ...]]) -> str:
    """Digest the signatures of a page's rows: the same when nothing on it changed."""
    text = repr(list(rows)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
