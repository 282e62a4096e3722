"""Does what a scan asks for: pages from the API, recorded by the ledger, sent back as facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from invent_exporter.collector.cleaning import (
    without_keys_in_error,
    without_labels_that_hold_keys,
)
from invent_exporter.errors import ApiError
from invent_exporter.ledger.recorded import InvalidRow
from invent_exporter.scan.order import PageFacts, RowFact, is_dated, page_signature, row_signature
from invent_exporter.scan.walk import ALL, Missing, Read

if TYPE_CHECKING:
    from invent_exporter.api.listing import Chunk, Listing
    from invent_exporter.api.models import Run
    from invent_exporter.collector.target import Shared
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.ledger.recorded import Recorded
    from invent_exporter.scan.walk import Answer, Steps


_REFUSALS = ("bad_request", "not_found", "server_error")
"""How an API answers for a page that is too far back for it."""


@dataclass
class Reader:
    """Reads the pages of one poll, or of one slice of a reconciliation.

    `listing` makes the listing of a status and an origin, `recorded` is told of each page that was
    committed. `may_skip`: nothing is open or unsettled, so the last poll's first answer need not be
    recorded.
    """

    org: OrgLedger
    shared: Shared
    listing: Callable[[str, str], Listing]
    recorded: Callable[[Recorded], Awaitable[None]]
    others: Callable[[], Mapping[str, float]]
    may_skip: bool = False
    look_at: Callable[[Sequence[Run]], Awaitable[None]] | None = None
    """Is shown the runs of the first answer of all runs, before anything is recorded."""
    _listings: dict[tuple[str, str], Listing] = field(default_factory=dict)
    _walked_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    _timeless: Sequence[str] = ()
    _listed_ids: set[str] = field(default_factory=set)
    refused_rows: int | None = None
    """From which row on the API refused to list, where it did."""
    sick_from: int | None = None
    """The row behind page 1 for which a server error came, if none so far behind was read since."""
    deepest_row: int = 0
    pages: int = 0
    rows: int = 0
    readable_rows: int = 0
    contact_seconds: float | None = None
    """By the API's clock, or ours where it tells none: when the first answer was made."""
    clocks_apart_seconds: float = 0.0
    _state_before: tuple[int, float] | None = None
    """What the state took, and the room that was left, at the second page."""

    async def drive(self, steps: Steps) -> None:
        """Do what the scan asks for."""
        answer: Answer | None = None  # with which a generator is started
        with suppress(StopIteration):
            while True:
                request = steps.send(answer)  # type: ignore[arg-type]
                if isinstance(request, Missing):
                    answer = await self._missing()
                else:
                    answer = await self._read(request)
                    self.pages += 1

    async def _missing(self) -> dict[str, float]:
        runs = await self.shared.ledger.open_runs(self.org)
        return {run_id: runs[run_id] for run_id in runs.keys() - self._listed_ids}

    async def _read(self, read: Read) -> PageFacts:
        name = read.status, read.origin
        if name not in self._listings:
            self._listings[name] = self.listing(*name)
        try:
            page = await self._listings[name].read(read.offset, forward=read.forward)
        except ApiError as error:
            at = read.offset
            if read.optional and not at and name != (ALL, ALL) and error.reason == "bad_request":
                return PageFacts(0, 0, at_end=True, count=None, rows=(), refused=True)
            if not (read.optional and at and error.reason in _REFUSALS):
                raise
            if error.reason == "server_error" and self.sick_from is None:
                # Once may be an outage: only what fails again, while page 1 answers, is refused.
                self.sick_from = at
                raise
            self.sick_from = max(at, self.sick_from or 0)
            self.refused_rows = min(at, self.refused_rows or at)
            return PageFacts(at, at, at_end=True, count=None, rows=(), refused=True)
        chunk = without_labels_that_hold_keys(page, self.shared.redactor)
        if read.status == ALL:
            self.deepest_row = max(self.deepest_row, read.offset)
        self._note_time(chunk)
        self.rows += chunk.end - chunk.start
        self._walked_rows[name] += chunk.end - chunk.start
        if self.pages:
            self._check_bounds(self._walked_rows[name])
        self.readable_rows += len(chunk.runs)
        if self.look_at is not None and read.status == ALL:
            look_at, self.look_at = self.look_at, None
            await look_at(chunk.runs)
        rows = self._unchanged_rows(read, chunk)
        if rows is None:
            rows = await self._record(read, chunk)
        self.may_skip = False
        return PageFacts(
            chunk.start,
            chunk.end,
            at_end=chunk.at_end,
            count=chunk.count,
            rows=rows,
            unreadable=[*(row.run_id for row in chunk.invalid), *self._timeless],
            met=self.org.counts.met,
        )

    def _check_bounds(self, rows: int) -> None:
        """Break off a walk that does not come to its end."""
        bounds = self.shared.walk_bounds
        if rows > bounds.rows:
            message = f"the listing has no end: a walk read more than {bounds.rows} rows"
            raise ApiError("invalid_response", message)
        size_bytes = self.shared.ledger.size_bytes()
        if self._state_before is None:
            self._state_before = size_bytes, self.shared.ledger.room_bytes()
        size_before, room_before = self._state_before
        grown_bytes = size_bytes - size_before
        if grown_bytes > bounds.growth_bytes(room_before):
            message = (
                f"the listing has no end: a walk filled {grown_bytes} bytes of the state's disk"
            )
            raise ApiError("invalid_response", message)

    async def _record(self, read: Read, chunk: Chunk) -> list[RowFact]:
        recorded = await self.shared.ledger.record(
            self.org,
            [without_keys_in_error(run, self.shared.redactor) for run in chunk.runs],
            [InvalidRow(row.run_id or row.digest, row.reason) for row in chunk.invalid],
            now=self.shared.clocks.time(),
            others=self.others(),
            recovering=read.recovering,
        )
        self._listed_ids.update(row.run_id for row in recorded.facts if row.is_open)
        # One that can't be read now is there all the same, whatever became of it.
        self._listed_ids.update(row.run_id for row in chunk.invalid if row.run_id is not None)
        self._listed_ids.update(recorded.timeless)
        self._timeless = recorded.timeless
        await self.recorded(recorded)
        return recorded.facts

    def _note_time(self, chunk: Chunk) -> None:
        told = chunk.date_seconds
        if self.contact_seconds is None:
            self.contact_seconds = chunk.asked_seconds if told is None else told
            self.clocks_apart_seconds = self.contact_seconds - chunk.asked_seconds
        elif told is not None:
            self.contact_seconds = min(self.contact_seconds, told)

    def _unchanged_rows(self, read: Read, chunk: Chunk) -> list[RowFact] | None:
        """Recognise the first answer of the last complete poll: every row is final and settled."""
        if not self.may_skip or chunk.invalid or read.status != ALL:
            return None
        rows = [
            RowFact(
                run.id,
                run.created,
                run.updated,
                is_open=False,
                owned=True,
                settled=True,
                signature=row_signature(run),
                is_dated=is_dated(run),
            )
            for run in chunk.runs
        ]
        is_same = page_signature(row.signature for row in rows) == self.org.scan.signature
        return rows if is_same else None
