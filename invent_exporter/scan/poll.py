"""Which pages a poll reads, and when it may stop. Pure: it yields what to read, and is sent facts.

What is relied on is only what was seen, and why nothing is missed is argued in
docs/how-it-counts.md, "No run is missed". Longer than most modules: the decisions of a poll depend
on each other, and are read best in one place.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec

from invent_exporter.api.models import FINAL_STATUSES
from invent_exporter.scan.order import (
    Newest,
    Order,
    PageFacts,
    RowFact,
    is_older,
    judge,
    newest_of,
    page_signature,
    reaches_behind,
)
from invent_exporter.scan.walk import ALL, Answer, Missing, Read, Request, Steps, Walk

_MAX_SEEKS = 8
_MAX_PROBES = 64
_CLOCKS_APART_SECONDS = 600.0
"""How far the clocks that stamp one run may be apart: it may end, by its times, before it began."""


class ScanState(msgspec.Struct, omit_defaults=True):
    """What the scan learned of an org's listing; moves only when a poll was complete.

    `newest_closed`: a later poll read past the `newest` times, or the page which the next one
    begins with holds something older. `met` is how many runs the ledger had met when `count` was
    told, `unmet` by how many more the count has grown since.
    """

    order: Order = Order()
    newest: Newest = Newest()
    newest_closed: bool = False
    signature: str = ""
    count: int | None = None
    count_is_true: bool | None = None
    met: int = 0
    unmet: int = 0
    first_offset: int = 0
    reconcile_offset: int | None = None
    reconcile_backward: bool = False
    reconcile_from: float = 0.0
    reconcile_began: float = 0.0
    reconcile_unmet: int = 0
    reconciled: float = 0.0


class Poll:
    """One poll: `steps()` yields what to read; afterwards the attributes say what came of it.

    `state` is what to keep when everything that was asked for was read, `absent` the open runs that
    a complete search did not find, `is_whole` False when a gap could not be closed, `is_walk` True
    when nothing but a walk through all pages could prove that nothing is new.
    """

    def __init__(self, state: ScanState, *, open_known: bool, contact_floor: float | None) -> None:
        """Start from what the last complete poll learned.

        `open_known`: the ledger holds open runs; `contact_floor`: how far back first contact reads
        (seconds since the epoch), None when it was made.
        """
        self.state = self._before = state
        self.absent: set[str] = set()
        self.is_whole = True
        self.is_walk = self.walked_all = False
        self.listing_count: int | None = None
        self._open_known = open_known
        self._contact_floor = contact_floor

    def steps(self) -> Steps:
        """Yield what to read."""
        return self._contact() if self._contact_floor is not None else self._poll()

    def note_unmet(self, met: int) -> None:
        """Compare what the count grew by with the runs that the ledger met; `met` is all of them.

        By more: runs came where nobody looked. Both are the first answer's, as in the last poll.
        """
        unmet = self._before.unmet + self._unmet(self.listing_count, met)
        self.state = msgspec.structs.replace(self.state, unmet=0 if self.walked_all else unmet)

    def _unmet(self, count: int | None, met: int) -> int:
        before = self._before
        if count is None or before.count is None or before.count_is_true is False:
            return 0
        return max(0, (count - before.count) - (met - before.met))

    # -- first contact

    def _contact(self) -> Steps:
        yield from self._open_lists()
        floor = self._contact_floor or 0.0
        walk = Walk(0, optional=True)
        while not walk.at_end:
            page = yield from walk.read()
            if (
                walk.order.newest_first
                and not walk.order.oldest_first
                and is_older(page.rows, floor, walk.order)
                and (yield from self._confirm(walk))
            ):
                break
        # What the API refuses to list is history by its time, whoever reads it later.
        self.is_whole = walk.is_whole
        self._learn(walk, walk.order)
        self.walked_all = walk.at_end and not walk.is_refused

    def _confirm(self, walk: Walk) -> Generator[Request, Answer, bool]:
        """Tell, by pages at doubling distances, whether a walk's order holds to the end."""
        page, step = walk.last, max(1, walk.last.end - walk.last.start)
        while page.rows and not page.at_end:
            before = page
            page = yield from _peek(before.end + step)
            if page.refused:
                break
            walk.order = walk.order.joined(judge([*before.rows[-1:], *page.rows]))
            step *= 2
        return walk.order.newest_first and not walk.order.oldest_first

    # -- a poll

    def _poll(self) -> Steps:
        state = self.state
        backward = state.order.learned and state.order.oldest_first
        walk = Walk(state.first_offset if backward else 0, optional=True)
        first = yield from walk.read()
        if backward and not first.rows and first.start > 0:
            # Runs were deleted, and the page is beyond the end now; or it is refused.
            walk = Walk(max(0, (first.count or 0) - 1), optional=True)
            first = yield from walk.read()
        changed = page_signature(row.signature for row in first.rows) != state.signature
        is_all = first.start == 0 and first.at_end
        same_count = (
            state.count_is_true is True and first.count is not None and first.count == state.count
        )
        is_same = first.count == state.count and self._order_proves(first)
        is_proven = is_all or same_count or is_same
        if is_proven and not (changed or self._open_known or first.unreadable):
            self.listing_count = first.count
            self.walked_all = is_all
            return
        order = state.order.joined(walk.order)
        if backward:
            yield from self._to_the_end_and_back(walk, order)
        elif order.learned and order.newest_first:
            while not walk.at_end and not self._may_stop_at(walk.last.rows, order):
                yield from walk.read()
        elif not is_all and not same_count:
            # Nothing else proves that nothing is new. When the count is the same the new states of
            # runs are found by the lists below, and a new run would have changed the count.
            self.is_walk = first.count is None or not state.count_is_true
            while not walk.at_end:
                yield from walk.read()
        if walk.is_refused:
            yield from self._each_status(order)
        self.walked_all = walk.at_end and walk.began_at == 0 and not walk.is_refused
        self.is_whole = walk.is_whole
        if self._open_known or walk.saw_open or self._unmet(first.count, walk.last.met):
            yield from self._open_lists()
            yield from self._search(walk)
        # Rows that were all seen are judged by themselves, so that an order can be learned anew.
        self._learn(walk, walk.order if self.walked_all else state.order.joined(walk.order))

    def _order_proves(self, first: PageFacts) -> bool:
        """Tell whether the same first answer proves, by its order, that nothing is new."""
        order = self.state.order
        if order.learned and order.newest_first:
            return self._reaches_behind(first.rows, order)
        # Oldest first: the next run comes behind this page only when the page is full.
        return order.learned and first.at_end and bool(first.rows)

    def _to_the_end_and_back(self, walk: Walk, order: Order) -> Steps:
        """Oldest first: what is new stands at the end."""
        began = walk.first
        while not walk.at_end:
            yield from walk.read()
        back = Walk(began.start, forward=False, anchor=began)
        may_stop = order.learned
        while back.last.start > 0 and not (may_stop and self._may_stop_at(back.last.rows, order)):
            yield from back.read()
        walk.absorb(back)

    def _may_stop_at(self, rows: Sequence[RowFact], order: Order) -> bool:
        """Tell whether what is new stands before these rows."""
        settled = bool(rows) and all(row.settled for row in rows)
        return settled and self._reaches_behind(rows, order)

    def _reaches_behind(self, rows: Sequence[RowFact], order: Order) -> bool:
        """Tell whether no run that shares the newest time can stand behind these rows."""
        return self._before.newest_closed or reaches_behind(rows, self._before.newest, order)

    def _each_status(self, order: Order) -> Steps:
        """Read the final runs by status, where more is new than the API lists at once.

        Each status has a depth of its own. What stays beyond is said by the depth that is shown.
        """
        for status in FINAL_STATUSES:
            walk = Walk(0, status, optional=True)
            while not walk.at_end:
                page = yield from walk.read()
                if order.learned and order.newest_first and self._may_stop_at(page.rows, order):
                    break

    def _open_lists(self) -> Steps:
        for status in ("PENDING", "RUNNING"):
            walk = Walk(0, status)
            while not walk.at_end:
                yield from walk.read()

    def _search(self, walk: Walk) -> Steps:
        """Read on in ALL until each open run that is in no list is found."""
        missing = yield Missing()
        assert isinstance(missing, dict)  # noqa: S101 (the protocol of the generator)
        if not missing:
            return
        order = self.state.order.joined(walk.order)
        limit = min(missing.values()) - _CLOCKS_APART_SECONDS
        # From the newest end where one is known, to stop behind the runs that are looked for. The
        # order may have been learned by this very walk, which then has not been to the end.
        from_the_end = order.learned and order.oldest_first and walk.at_end
        if from_the_end:
            search = Walk(walk.last.start, forward=False, anchor=walk.last)
        else:
            search = walk if walk.began_at == 0 else Walk(0, optional=True)
        may_stop = from_the_end or (order.learned and order.newest_first)
        left = set(missing)
        newest_first = order.created_first_is_newest
        if newest_first is not None:
            yield from _seek(left, missing, walk.last.end, newest_first=newest_first)
        while left and not search.is_through:
            page = yield from search.read()
            left.difference_update(_ids(page))
            if may_stop and is_older(page.rows, limit, order):
                break
        self.is_whole = self.is_whole and search.is_whole
        if search.is_whole and not search.is_refused:
            self.absent = left

    # -- what is learned

    def _learn(self, walk: Walk, order: Order) -> None:
        first = walk.first
        if order.learned and order.oldest_first and (walk.is_refused or not walk.at_end):
            # Polls and reconciliations would begin at an end that nobody has seen yet.
            order = self.state.order
        begins_with, first_offset = first, 0
        if order.learned and order.oldest_first:
            # The next poll asks for the same page, at whose end, or right behind it, the next run
            # will stand. An empty page behind it would look as if runs had been deleted.
            begins_with, first_offset = walk.last_filled, walk.last_filled_asked
        newest = newest_of([self.state.newest, walk.newest])
        is_closed = newest == self.state.newest or reaches_behind(begins_with.rows, newest, order)
        is_true = walk.count_is_true
        self.listing_count = first.count
        self.state = msgspec.structs.replace(
            self.state,
            order=order,
            signature=page_signature(row.signature for row in begins_with.rows),
            newest=newest,
            newest_closed=is_closed,
            count=first.count,
            count_is_true=self.state.count_is_true if is_true is None else is_true,
            met=first.met,
            first_offset=first_offset,
        )


def _seek(left: set[str], created: dict[str, float], offset: int, *, newest_first: bool) -> Steps:
    """Look for buried runs by halving, and take those found out of `left`; a walk finds the rest.

    It only saves requests, where the listing follows the times of creation.
    """
    for run_id in sorted(left, key=lambda run_id: created[run_id])[:_MAX_SEEKS]:
        low, high = (offset if newest_first else 0), None
        at = low
        for _ in range(_MAX_PROBES):
            if run_id not in left or (high is not None and low >= high):
                break
            page = yield from _peek(at)
            if page.refused:
                return
            left.difference_update(_ids(page))
            times = [row.created for row in page.rows if row.created is not None]
            if not times:
                high = min(at, page.start)
            elif min(times) <= created[run_id] <= max(times):
                break
            elif (min(times) > created[run_id]) == newest_first:
                low = page.end
            else:
                high = page.start
            at = low + max(low, page.end - page.start) if high is None else (low + high) // 2


def _peek(offset: int) -> Generator[Request, Answer, PageFacts]:
    page = yield Read(ALL, offset, optional=True)
    assert isinstance(page, PageFacts)  # noqa: S101 (the protocol of the generator)
    return page


def _ids(page: PageFacts) -> set[str | None]:
    return {*(row.run_id for row in page.rows), *page.unreadable}
