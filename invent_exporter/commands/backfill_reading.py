"""Reads the listing of each org into the spool, and goes on there after a break.

All of it is read: a run may have ended yesterday that was created a year ago. Only a listing that
has what changed last in front is left at the window's beginning.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from invent_exporter.api.listing import Chunk, Listing, RunsApi
from invent_exporter.api.models import FINAL_STATUSES, OPEN_STATUSES
from invent_exporter.api.transport import ReadKey
from invent_exporter.clocks import Clocks
from invent_exporter.collector.cleaning import without_labels_that_hold_keys
from invent_exporter.commands.backfill_placing import Window, place
from invent_exporter.commands.backfill_spool import Spool, WalkState
from invent_exporter.errors import ApiError, BackfillError
from invent_exporter.redaction import Redactor
from invent_exporter.scan.order import PageFacts, is_older, unknown_rows
from invent_exporter.scan.walk import ALL, Answer, Read, Request, Walk

_WALKS = 3
"""So often a listing is read that changes while it is read."""
_WAITS_SECONDS = (10.0, 30.0, 60.0, 120.0)
"""Beside the tries of each request: an outage of some minutes does not end the command."""
_PAUSE_SECONDS = 60.0
_MOST_PAUSES = 20
_REFUSED = ("bad_request", "not_found")


class Watcher(Protocol):
    """Is told how far the reading is."""

    def passed(self, part: int, count: int) -> None:
        """So many rows of an org's listing are done."""

    def waits(self, seconds: float, error: ApiError) -> None:
        """Nothing is asked for so long, because of this."""


@dataclass(frozen=True)
class Source:
    """Where an org's runs come from: `number` is its place in the task."""

    number: int
    asked_id: str
    key: ReadKey
    redactor: Redactor


class PastReader:
    """Reads one org's listing."""

    def __init__(
        self, source: Source, api: RunsApi, spool: Spool, clocks: Clocks, watcher: Watcher
    ) -> None:
        """Read with `api` into `spool`; nothing is asked for until a method is called."""
        self._source = source
        self._api = api
        self._spool = spool
        self._clocks = clocks
        self._watcher = watcher

    async def first_page(self) -> Chunk:
        """Read the first page, which says how much there is, and what time the API has.

        Raises:
            BackfillError: the API can't be read.

        """
        chunk = await self._chunk(self._listing(ALL), Read(ALL, 0))
        assert chunk is not None  # noqa: S101 (row 0 is never refused)
        return chunk

    async def read(self, window: Window) -> int | None:
        """Read what is not in the spool yet; return the row from which on the API refuses to list.

        Raises:
            BackfillError: the API can't be read, or changes too fast.

        """
        refused_rows = await self._walk(ALL, window)
        if refused_rows is not None:  # each status has a depth of its own
            for status in (*OPEN_STATUSES, *FINAL_STATUSES):
                await self._walk(status, window)
        return refused_rows

    async def _walk(self, status: str, window: Window) -> int | None:
        number = self._source.number
        for _ in range(_WALKS):
            state = self._spool.walk(number, status)
            if state.at_end:
                return state.refused_rows
            offset = 0 if state.last is None else state.last.end
            walk = Walk(offset, status, anchor=state.last, optional=True)
            listing = self._listing(status)
            while walk.is_whole and not (walk.at_end or _is_behind(walk, window.start)):
                await self._drive(walk.read(), walk, listing, window)
            end = WalkState()
            if walk.is_whole:
                refused_rows = walk.last.end if walk.is_refused else None
                end = WalkState(at_end=True, refused_rows=refused_rows)
            self._spool.record(number, status, end, (), ())
        raise BackfillError(
            f"{self._source.asked_id}: the listing changes too fast to be read whole"
        )

    async def _drive(
        self,
        steps: Generator[Request, Answer, PageFacts],
        walk: Walk,
        listing: Listing,
        window: Window,
    ) -> None:
        """Do what the walk asks for, and take in what comes."""
        request = next(steps)
        while True:
            assert isinstance(request, Read)  # noqa: S101 (a walk asks for nothing else)
            chunk = await self._chunk(listing, request)
            if chunk is None:
                page = PageFacts(
                    request.offset, request.offset, at_end=True, count=None, rows=(), refused=True
                )
            else:
                page = _facts(chunk)
                self._record(walk, chunk, window)
            try:
                request = steps.send(page)
            except StopIteration:
                return

    def _record(self, walk: Walk, chunk: Chunk, window: Window) -> None:
        # After a break the walk goes on behind the page that is known to have no gap before it.
        last = walk.last if walk.last.rows else None
        placed = [(run, it) for run in chunk.runs if (it := place(run, window)) is not None]
        if not window.others:  # nobody asks for the runs that are left out
            placed = [(run, it) for run, it in placed if (it.submitted or it.finished) is not None]
        invalid = [row.run_id or row.digest for row in chunk.invalid]
        invalid += [run.id for run in chunk.runs if run.told_time is None]
        self._spool.record(self._source.number, walk.status, WalkState(last), placed, invalid)
        if walk.status == ALL:
            self._watcher.passed(self._source.number, chunk.end)

    # -- one page

    async def _chunk(self, listing: Listing, read: Read) -> Chunk | None:
        """Read a page; None where the API refuses to list so far back."""
        failures = pauses = 0
        was_sick = False
        while True:
            try:
                page = await listing.read(read.offset, forward=read.forward)
                return without_labels_that_hold_keys(page, self._source.redactor)
            except ApiError as error:
                if read.offset and error.reason in _REFUSED:
                    return None
                if read.offset and error.reason == "server_error":
                    if was_sick:
                        return None
                    was_sick = await self._answers_in_front()
                    if was_sick:
                        continue
                if error.reason == "rate_limited":
                    pauses += 1
                    wait_seconds = error.retry_after_seconds or _PAUSE_SECONDS
                else:
                    failures += 1
                    wait_seconds = _WAITS_SECONDS[min(failures, len(_WAITS_SECONDS)) - 1]
                is_outage = error.reason in ("server_error", "network", "timeout", "rate_limited")
                if not is_outage or failures > len(_WAITS_SECONDS) or pauses > _MOST_PAUSES:
                    raise BackfillError(
                        f"{self._source.asked_id}: {error.reason}: {error.message}"
                    ) from error
                self._watcher.waits(wait_seconds, error)
                await self._clocks.sleep(wait_seconds)

    async def _answers_in_front(self) -> bool:
        """Tell a depth that the API refuses from an outage: then page 1 fails too."""
        try:
            await self._listing(ALL).read(0)
        except ApiError:
            return False
        return True

    def _listing(self, status: str) -> Listing:
        return self._api.listing(self._source.asked_id, self._source.key, status)


def _is_behind(walk: Walk, start: float) -> bool:
    """Tell whether all that follows was last changed before the window."""
    order = walk.order
    by_created, by_updated = order.may_order
    is_by_change = by_updated and not by_created and order.newest_first
    return is_by_change and is_older(walk.last.rows, start, order)


def _facts(chunk: Chunk) -> PageFacts:
    return PageFacts(
        chunk.start,
        chunk.end,
        at_end=chunk.at_end,
        count=chunk.count,
        rows=unknown_rows(chunk.runs),
        unreadable=[row.run_id for row in chunk.invalid],
    )
