"""Does what a scan asks for: pages from the API, recorded by the ledger, sent back as facts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from invent_exporter.ledger.recorder import InvalidRow
from invent_exporter.scan.order import PageFacts, RowFact, page_signature, row_signature
from invent_exporter.scan.walk import ALL, Missing, Read

if TYPE_CHECKING:
    from invent_exporter.api.listing import Chunk, Listing
    from invent_exporter.api.models import Run
    from invent_exporter.collector.target import Shared
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.ledger.recorder import Recorded
    from invent_exporter.scan.walk import Answer, Steps


@dataclass
class Reader:
    """Reads the pages of one poll, or of one slice of a reconciliation.

    `listing` makes the listing of a status, `recorded` is told of each page that was committed.
    `may_skip`: nothing is open or unsettled, so the last poll's first answer need not be recorded.
    """

    org: OrgLedger
    shared: Shared
    listing: Callable[[str], Listing]
    recorded: Callable[[OrgLedger, Recorded], Awaitable[None]]
    other_org_ids: frozenset[str]
    may_skip: bool = False
    _listings: dict[str, Listing] = field(default_factory=dict)
    _listed_ids: set[str] = field(default_factory=set)

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
        runs = await self.shared.ledger.open_runs(self.org)
        return {run_id: runs[run_id] for run_id in runs.keys() - self._listed_ids}

    async def _read(self, read: Read) -> PageFacts:
        if read.status not in self._listings:
            self._listings[read.status] = self.listing(read.status)
        chunk = await self._listings[read.status].read(read.offset, forward=read.forward)
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
            unreadable=[row.run_id for row in chunk.invalid],
            met=self.org.counts.met,
        )

    async def _record(self, read: Read, chunk: Chunk) -> list[RowFact]:
        recorded = await self.shared.ledger.record(
            self.org,
            [self._without_secrets(run) for run in chunk.runs],
            [InvalidRow(row.run_id or row.digest, row.reason) for row in chunk.invalid],
            now=self.shared.clocks.time(),
            other_org_ids=self.other_org_ids,
            recovering=read.recovering,
        )
        self._listed_ids.update(row.run_id for row in recorded.facts if row.is_open)
        # One that can't be read now is there all the same, whatever became of it.
        self._listed_ids.update(row.run_id for row in chunk.invalid if row.run_id is not None)
        await self.recorded(self.org, recorded)
        return recorded.facts

    def _unchanged_rows(self, read: Read, chunk: Chunk) -> list[RowFact] | None:
        """Recognise the first answer of the last complete poll: every row is final and settled."""
        if not self.may_skip or chunk.invalid or read.status != ALL:
            return None
        signatures = [row_signature(run) for run in chunk.runs]
        if page_signature(signatures) != self.org.scan.signature:
            return None
        same = {"is_open": False, "owned": True, "settled": True}
        return [
            RowFact(run.id, run.created, run.updated, signature=signature, **same)
            for run, signature in zip(chunk.runs, signatures, strict=True)
        ]

    def _without_secrets(self, run: Run) -> Run:
        """Redact before anything shortens the error, stores it or shows it."""
        if not run.error:
            return run
        error = self.shared.redact(run.error)
        return run if error == run.error else msgspec.structs.replace(run, error=error)
