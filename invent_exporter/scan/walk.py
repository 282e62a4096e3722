"""Pages of one listing, one after the other, without a gap between them.

Deletions pull rows forward while pages are read, so each page begins with rows of the one before.
Why, and what two pages that can't overlap still tell: docs/how-it-counts.md, "Pages that move".
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from invent_exporter.scan.order import Newest, Order, PageFacts, RowFact, judge, newest_of

ALL = "ALL"
_MAX_STEPS_BACK = 5
_MAX_REPEATS = 3
"""Pages in a row with nothing but the rows of the one before: the server ignores `page`."""


class Read(msgspec.Struct, frozen=True):
    """Read a page that holds the row at `offset`, and as much as fits on the side of `forward`."""

    status: str
    offset: int
    forward: bool = True
    recovering: bool = False
    optional: bool = False
    """The poll goes on where the API refuses it: the answer is then a page that is `refused`.

    Row 0 is never optional: an API that refuses it can't be read. Unless it does not know the
    status or the origin: then all of that list is refused.
    """
    origin: str = ALL


class Missing(msgspec.Struct, frozen=True):
    """Ask for the open runs that were not seen in this poll, with the time of their creation."""


Request: TypeAlias = Read | Missing
Answer: TypeAlias = PageFacts | dict[str, float]
Steps: TypeAlias = Generator[Request, Answer, None]


@dataclass
class Walk:
    """Pages of one listing, one after the other, each begun with rows of the one before."""

    began_at: int
    status: str = ALL
    _: KW_ONLY
    forward: bool = True
    anchor: InitVar[PageFacts | None] = None
    recovering: bool = False
    optional: bool = False
    origin: str = ALL
    at_end: bool = False
    is_whole: bool = True
    saw_open: bool = False
    is_refused: bool = False
    count_is_true: bool | None = None
    is_told: bool = False
    """Two rows side by side had different times, so a contradiction would have been seen."""

    def __post_init__(self, anchor: PageFacts | None) -> None:
        """Begin beside the `anchor`, a page that was read already."""
        self.order, self.newest = Order(), Newest()
        nothing = PageFacts(self.began_at, self.began_at, at_end=False, count=None, rows=())
        self.first = self.last = self.last_filled = anchor or nothing
        self.last_filled_asked = self.began_at
        self._pages = 1 if anchor else 0
        self._repeats = 0

    @property
    def is_through(self) -> bool:
        """Nothing is left in the walk's direction."""
        return self.at_end if self.forward else self._pages > 0 and self.last.start == 0

    def read(self) -> Generator[Request, Answer, PageFacts]:
        """Read the next page; step back when rows between it and the last one may be missing."""
        previous = self.last
        if self._pages == 0:
            page = yield from self._page(self.began_at)
            self.first = page
            return page
        offset = previous.end if self.forward else max(0, previous.start - 1)
        size = max(1, previous.end - previous.start)
        page = previous
        for step in range(_MAX_STEPS_BACK):
            page = yield from self._page(offset)
            if self.is_refused:
                return page
            # A gap that could not be closed breaks the walk: to step back for more of them would
            # keep it from its end for good, where ties are dealt anew at each request.
            if not self.is_whole or not _leaves_gap(previous, page):
                if self.forward and step == 0:
                    self._notice_no_progress(previous, page)
                return page
            back = size * 2**step
            offset = max(0, offset - back) if self.forward else offset + back
        self.is_whole = False
        return page

    def _notice_no_progress(self, previous: PageFacts, page: PageFacts) -> None:
        """End a walk that would never come to an end."""
        if page.end <= previous.end and not page.at_end:
            # Nothing more came: a count that says otherwise is wrong.
            self.at_end = True
            self.count_is_true = False
        before = {row.run_id for row in previous.rows}
        repeats = page.rows and before.issuperset(row.run_id for row in page.rows)
        self._repeats = self._repeats + 1 if repeats else 0
        if self._repeats == _MAX_REPEATS:
            self.at_end = True
            self.is_whole = False

    def _page(self, offset: int) -> Generator[Request, Answer, PageFacts]:
        page = yield Read(
            self.status, offset, self.forward, self.recovering, self.optional, self.origin
        )
        assert isinstance(page, PageFacts)  # noqa: S101 (the protocol of the generator)
        if page.refused:
            self.at_end = self.is_refused = True
            self.count_is_true = False  # nobody can see whether it stopped to grow
            return self.last
        self._pages += 1
        if page.rows or page.unreadable:
            self.last_filled, self.last_filled_asked = page, offset
        # A seam that contradicts an order shows a listing which turned round. It proves none: pages
        # that do not overlap may have lost rows between them.
        seam, rows = judge(self._seam(page)), judge(page.rows)
        self.is_told = self.is_told or any(
            each.created_steps or each.updated_steps for each in (seam, rows)
        )
        seam = replace(seam, created_steps=0, updated_steps=0)
        self.order = self.order.joined(rows).joined(seam)
        self.newest = newest_of([self.newest, *page.rows])
        self.saw_open = self.saw_open or any(row.is_open and row.owned for row in page.rows)
        self.at_end = page.at_end if self.forward else self.at_end
        if page.count is None and (page.rows or not page.unreadable):
            self.count_is_true = False
        elif page.at_end:
            # The one answer by which the count can be checked: it saw the end.
            self.count_is_true = page.count == page.end
        self.last = page
        return page

    def _seam(self, page: PageFacts) -> Sequence[RowFact]:
        """List the two rows between which this page meets the last one, if they stand so."""
        before, after = (self.last, page) if self.forward else (page, self.last)
        if before.end != after.start or not before.rows or not after.rows:
            return ()
        return before.rows[-1], after.rows[0]

    def contradict(self, other: Walk) -> None:
        """Take over what contradicts an order, and no evidence for one."""
        self.order = self.order.joined(replace(other.order, created_steps=0, updated_steps=0))

    def absorb(self, back: Walk) -> None:
        """Take over what a walk in the other direction saw."""
        self.order = self.order.joined(back.order)
        self.newest = newest_of([self.newest, back.newest])
        self.saw_open = self.saw_open or back.saw_open
        self.is_whole = self.is_whole and back.is_whole
        if back.is_through:
            self.began_at = 0


def _leaves_gap(previous: PageFacts, page: PageFacts) -> bool:
    """Tell whether rows between two pages may have slipped by: they overlap, but share no row."""
    # One without an id may be the one that they share.
    if not previous.rows or None in (*previous.unreadable, *page.unreadable):
        return False
    # Pages of one or two rows stand side by side and can't overlap.
    if page.start >= previous.end:
        return page.start > previous.end
    if page.end <= previous.start:
        return page.end < previous.start
    before = {*(row.run_id for row in previous.rows), *previous.unreadable}
    return not before & {*(row.run_id for row in page.rows), *page.unreadable}
