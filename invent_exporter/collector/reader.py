"""Does what a scan asks for: pages from the API, recorded by the ledger, sent back as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from invent_exporter.ledger.recorder import InvalidRow
from invent_exporter.scan.order import PageFacts, RowFact, page_signature, row_signature
from invent_exporter.scan.walk import ALL, Missing, Read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from invent_exporter.api.listing import Chunk, Listing
    from invent_exporter.api.models import Run
    from invent_exporter.ledger.ledger import Ledger
    from invent_exporter.ledger.recorder import OrgLedger, Recorded
    from invent_exporter.scan.walk import Answer, Steps

_T = TypeVar("_T")


class InLedger(Protocol):
    """Runs a call in the ledger's thread."""

    async def __call__(self, call: Callable[[], _T]) -> _T:
        """Return what the call returns."""


class Reader:
    """Reads the pages of one poll, or of one slice of a reconciliation."""

    def __init__(
        self,
        org: OrgLedger,
        listing: Callable[[str], Listing],
        ledger: Ledger,
        in_ledger: InLedger,
        recorded: Callable[[OrgLedger, Recorded], Awaitable[None]],
        *,
        clock: Callable[[], float],
        redact: Callable[[str], str],
        other_org_ids: frozenset[str],
        may_skip: bool,
    ) -> None:
        """Prepare to read.

        Args:
            org: whose runs are read.
            listing: makes the listing of a status.
            ledger: where pages are recorded.
            in_ledger: runs a call in the ledger's thread.
            recorded: told of each page that was committed.
            clock: seconds since the epoch.
            redact: takes secrets out of a run's error.
            other_org_ids: the other polled orgs.
            may_skip: nothing is open or unsettled, so a first answer that is the one of the last
                complete poll need not be recorded again.

        """
        self._org = org
        self._make_listing = listing
        self._ledger = ledger
        self._in_ledger = in_ledger
        self._recorded = recorded
        self._clock = clock
        self._redact = redact
        self._other_org_ids = other_org_ids
        self._may_skip = may_skip
        self._listings: dict[str, Listing] = {}
        self._listed_ids: set[str] = set()

    async def drive(self, steps: Steps) -> int:
        """Do what the scan asks for; return how many pages were read."""
        pages = 0
        try:
            request = next(steps)
            while True:
                answer: Answer
                if isinstance(request, Missing):
                    answer = await self._missing()
                else:
                    answer = await self._read(request)
                    pages += 1
                request = steps.send(answer)
        except StopIteration:
            return pages

    async def _missing(self) -> dict[str, float]:
        runs = await self._in_ledger(lambda: self._ledger.open_runs(self._org))
        return {run_id: runs[run_id] for run_id in runs.keys() - self._listed_ids}

    async def _read(self, read: Read) -> PageFacts:
        if read.status not in self._listings:
            self._listings[read.status] = self._make_listing(read.status)
        chunk = await self._listings[read.status].read(read.offset, forward=read.forward)
        rows = self._unchanged_rows(read, chunk)
        if rows is None:
            rows = await self._record(read, chunk)
        self._may_skip = False
        return PageFacts(
            chunk.start,
            chunk.end,
            at_end=chunk.at_end,
            count=chunk.count,
            rows=rows,
            unreadable=[row.run_id for row in chunk.invalid],
            met=self._org.counts.met,
        )

    async def _record(self, read: Read, chunk: Chunk) -> list[RowFact]:
        invalid = [InvalidRow(row.run_id or row.digest, row.reason) for row in chunk.invalid]
        recorded = await self._in_ledger(
            lambda: self._ledger.record(
                self._org,
                [self._without_secrets(run) for run in chunk.runs],
                invalid,
                now=self._clock(),
                other_org_ids=self._other_org_ids,
                recovering=read.recovering,
            )
        )
        self._listed_ids.update(row.run_id for row in recorded.facts if row.is_open)
        # One that can't be read now is there all the same, whatever became of it.
        self._listed_ids.update(row.run_id for row in chunk.invalid if row.run_id is not None)
        await self._recorded(self._org, recorded)
        return recorded.facts

    def _unchanged_rows(self, read: Read, chunk: Chunk) -> list[RowFact] | None:
        """Recognise the first answer of the last complete poll: every row is final and settled."""
        if not self._may_skip or chunk.invalid or read.status != ALL:
            return None
        signatures = [row_signature(run) for run in chunk.runs]
        if page_signature(signatures) != self._org.scan.signature:
            return None
        return [
            RowFact(
                run.id,
                run.created,
                run.updated,
                is_open=False,
                owned=True,
                settled=True,
                signature=signature,
            )
            for run, signature in zip(chunk.runs, signatures, strict=True)
        ]

    def _without_secrets(self, run: Run) -> Run:
        """Redact before anything shortens the error, stores it or shows it."""
        if not run.error:
            return run
        error = self._redact(run.error)
        return run if error == run.error else msgspec.structs.replace(run, error=error)
