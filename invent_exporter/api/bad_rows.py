"""Rows that their page fails for, remembered from one walk to the next: where each stands now.

Nothing tells what such a row is, so it is known by the runs beside it. Those ahead of it say how
far it has moved when runs came or went; the one right behind it proves that it still stands there.
Nothing is passed over without that proof. Why no run is lost: docs/how-it-counts.md, "A row that
its page fails for".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from invent_exporter.api.decoding import InvalidRun

RETRY_SECONDS = 3600.0
"""How long a row is taken for bad before it is asked for again."""
_MOST_ASKED = 3
"""So many of them: each that still fails costs four requests."""
_MOST_SPANS = 32
_KEPT_PAGES = 16
_KEPT_NEAR = 10
_MOST_AHEAD = 100
_MOST_PUSHES = 3
"""Pages in a row that have nothing of what stood ahead of a bad row, before it is given up."""
NOTHING = ""
"""What stands behind the last row; no run has it for its id."""


@dataclass
class Span:
    """Bad rows side by side.

    `ahead` are runs before them, nearest first, each with its distance to `start`; `behind` is the
    run right behind, None while that is not known.
    """

    start: int
    invalid: list[InvalidRun]
    retry_at: float
    ahead: dict[str, int] = field(default_factory=dict)
    behind: str | None = None
    is_sure: bool = True
    """It was met in this walk, or proved by what stands behind; else `start` is a guess,"""
    is_placed: bool = True
    """though perhaps a good one: by what stands ahead."""
    pushes: int = 0
    asked: int = 0

    @property
    def stop(self) -> int:
        """The row right behind."""
        return self.start + len(self.invalid)

    def is_apart_from(self, rows: range) -> bool:
        """Tell whether none of these rows is among them."""
        return not rows or self.stop <= rows.start or rows.stop <= self.start

    def some_rows(self) -> list[int]:
        """Choose a few rows, in turn."""
        count = len(self.invalid)
        chosen = [(self.asked + number) % count for number in range(min(count, _MOST_ASKED))]
        self.asked += len(chosen)
        return [self.start + number for number in chosen]

    @property
    def before(self) -> str | None:
        """The run right before it, where that is known."""
        return next((run_id for run_id, distance in self.ahead.items() if distance == 1), None)


class BadRows:
    """The bad rows of one listing, in their order."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._pages: deque[tuple[int, Sequence[str]]] = deque(maxlen=_KEPT_PAGES)

    def begin(self) -> None:
        """Take note that a walk begins: everything may have moved."""
        self._pages.clear()
        for span in self.spans:
            span.is_sure = span.is_placed = False
            span.pushes = 0

    def holding(self, row: int) -> Span | None:
        """Find the bad rows among which this one is."""
        return next((span for span in self.spans if span.start <= row < span.stop), None)

    def are_apart_from(self, rows: range) -> bool:
        """Tell whether none of these rows is bad."""
        return all(span.is_apart_from(rows) for span in self.spans)

    def run_at(self, row: int) -> str | None:
        """Name the run that this walk has seen in a row."""
        rows = (ids[row - at] for at, ids in self._pages if at <= row < at + len(ids))
        return next(rows, None)

    def forget(self, span: Span) -> None:
        """Take the rows for good ones from now on; a page may have said so already."""
        self.spans = [each for each in self.spans if each is not span]

    def met(self, row: int, invalid: InvalidRun, now: float) -> None:
        """Remember a row that was just found to be bad."""
        # What is only a guess was wrong: a page failed that it should have kept good.
        self.spans = [span for span in self.spans if span.is_sure]
        if self.holding(row) is not None:
            return
        for span in self.spans:
            if span.stop == row:
                span.invalid.append(invalid)
                span.behind = None
                return
            if span.start == row + 1:
                span.invalid.insert(0, invalid)
                span.start, span.ahead = row, self._ahead_of(row)
                return
        span = Span(row, [invalid], now + RETRY_SECONDS, self._ahead_of(row))
        self.spans = sorted([*self.spans[-_MOST_SPANS + 1 :], span], key=lambda each: each.start)

    def _ahead_of(self, row: int) -> dict[str, int]:
        places = {run_id: at for start, ids in self._pages for at, run_id in enumerate(ids, start)}
        ahead = [(row - at, run_id) for run_id, at in places.items() if at < row]
        return {run_id: distance for distance, run_id in sorted(ahead)[:_MOST_AHEAD]}

    def saw(self, start: int, ids: Sequence[str]) -> None:
        """Take note of a page all of whose rows are good and have these ids."""
        self._pages.append((start, ids))
        if not self.spans:
            return
        end = start + len(ids)
        places = {run_id: place for place, run_id in enumerate(ids, start)}
        page, moved = range(start, end), 0
        for span in tuple(self.spans):
            if not span.is_sure:
                moved += self._place(span, moved, page, places)
            if span.pushes > _MOST_PUSHES or not span.is_apart_from(page):
                self.forget(span)  # it is lost, or these rows are good, whichever they are
                continue
            if span.is_placed and end <= span.start:
                near = {} if end == span.start else dict(islice(span.ahead.items(), _KEPT_NEAR))
                span.ahead = near | self._ahead_of(span.start)
            if span.is_placed and span.behind is None and start <= span.stop <= end:
                span.behind = ids[span.stop - start] if span.stop < end else None
                if not ids:
                    span.behind = NOTHING

    def _place(self, span: Span, moved: int, page: range, places: Mapping[str, int]) -> int:
        """Say how many rows further the bad rows stand, by those that stood ahead of them."""
        before, near = span.start, next((each for each in span.ahead if each in places), None)
        span.start += moved
        if near is not None:
            span.start, span.is_placed = places[near] + span.ahead[near], True
        elif span.ahead and page.start < span.start == page.stop:
            # All of this page is new, so what stood ahead of the bad rows comes first.
            span.start += max(span.ahead.values())
            span.pushes += 1
        return span.start - before - moved

    def due(self, now: float) -> list[tuple[Span, list[int]]]:
        """List what should be asked for again: some of the bad rows, others the next time."""
        due = [span for span in self.spans if span.is_placed and span.retry_at <= now]
        for span in due:
            span.retry_at = now + RETRY_SECONDS
        return [(span, span.some_rows()) for span in due]
