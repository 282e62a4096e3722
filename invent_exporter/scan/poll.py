"""Which pages a poll reads, and when it may stop. Pure: it yields what to read, and is sent facts.

What is relied on is only what was seen, and why nothing is missed is argued in
docs/how-it-counts.md, "No run is missed". Longer than most modules: the decisions of a poll depend
on each other, and are read best in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence

import msgspec

from invent_exporter.api.models import FINAL_STATUSES, OPEN_STATUSES, ORIGINS
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
    when nothing but a walk through all pages could prove that nothing is new. `beyond` are the
    lists, by status and origin, that were wanted further back than the API lists them, and the row
    from which on they were not read; `given_up` the open runs that are in none of the lists that
    can be read.
    """

    def __init__(
        self,
        state: ScanState,
        *,
        open_known: bool,
        contact_floor: float | None,
        given_up: Collection[str] = (),
    ) -> None:
        """Start from what the last complete poll learned.

        `open_known`: the ledger holds open runs; `contact_floor`: how far back first contact reads
        (seconds since the epoch), None when it was made; `given_up`: open runs that are not
        searched for.
        """
        self.state = self._before = state
        self.absent: set[str] = set()
        self.beyond: dict[tuple[str, str], int] = {}
        self.given_up = set(given_up)
        self._unlisted: set[str] = set()
        self._newest_listed = Newest()
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

        def may_stop(page: PageFacts, order: Order) -> bool:
            is_newest_first = order.newest_first and not order.oldest_first
            return is_newest_first and is_older(page.rows, floor, order)

        walk = Walk(0, optional=True)
        while not walk.at_end:
            page = yield from walk.read()
            # Open runs of any age are looked for where a list of them can't be had.
            is_enough = may_stop(page, walk.order) and not self._unlisted
            if is_enough and (yield from self._confirm(walk)):
                break
        if walk.is_refused:
            yield from self._each_status(lambda page: may_stop(page, walk.order))
        # What the API refuses even so is history by its time, whoever reads it later.
        self.is_whole = self.is_whole and walk.is_whole
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
        if backward and not first.rows and not first.unreadable and first.start > 0:
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
        order = state.order.with_walk(walk.order)
        # A page that changed and tells no direction may be of a listing that turned round.
        is_told = not changed
        if backward:
            yield from self._to_the_end_and_back(walk, is_told=is_told)
        elif order.learned and order.newest_first:
            while not walk.at_end and not self._may_end(walk, is_told=is_told):
                yield from walk.read()
        elif not is_all and not same_count:
            # Nothing else proves that nothing is new. When the count is the same the new states of
            # runs are found by the lists below, and a new run would have changed the count.
            self.is_walk = first.count is None or not state.count_is_true
            while not walk.at_end:
                yield from walk.read()
        if walk.is_refused:
            is_newest_first = order.learned and order.newest_first
            self.is_walk = self.is_walk or not is_newest_first
            yield from self._each_status(
                lambda page: is_newest_first and self._may_stop_at(page.rows, order)
            )
        self.walked_all = walk.at_end and walk.began_at == 0 and not walk.is_refused
        self.is_whole = self.is_whole and walk.is_whole
        # What is open and new may stand where ALL is refused.
        may_be_open = self._open_known or walk.saw_open or walk.is_refused
        if may_be_open or self._unmet(first.count, walk.last.met):
            yield from self._open_lists()
            yield from self._search(walk)
        # Rows that were all seen are judged by themselves, so that an order can be learned anew.
        self._learn(walk, walk.order if self.walked_all else state.order.with_walk(walk.order))

    def _order_proves(self, first: PageFacts) -> bool:
        """Tell whether the same first answer proves, by its order, that nothing is new."""
        order = self.state.order
        if order.learned and order.newest_first:
            return self._reaches_behind(first.rows, order)
        # Oldest first: the next run comes behind this page only when the page is full.
        return order.learned and first.at_end and bool(first.rows)

    def _to_the_end_and_back(self, walk: Walk, *, is_told: bool) -> Steps:
        """Oldest first: what is new stands at the end."""
        began = walk.first
        while not walk.at_end:
            yield from walk.read()
        back = Walk(began.start, forward=False, anchor=began)
        while back.last.start > 0 and not self._may_end(walk, back, is_told=is_told):
            yield from back.read()
        walk.absorb(back)

    def _may_end(self, *walks: Walk, is_told: bool) -> bool:
        """Tell whether the order, as it looks by now, has what is new before the last page."""
        order = self.state.order
        for walk in walks:
            order, is_told = order.with_walk(walk.order), is_told or walk.is_told
        return order.learned and is_told and self._may_stop_at(walks[-1].last.rows, order)

    def _may_stop_at(self, rows: Sequence[RowFact], order: Order) -> bool:
        """Tell whether what is new stands before these rows."""
        settled = bool(rows) and all(row.settled for row in rows)
        return settled and self._reaches_behind(rows, order)

    def _reaches_behind(self, rows: Sequence[RowFact], order: Order) -> bool:
        """Tell whether no run that shares the newest time can stand behind these rows."""
        return self._before.newest_closed or reaches_behind(rows, self._before.newest, order)

    def _each_status(self, may_stop: Callable[[PageFacts], bool]) -> Steps:
        """Read the final runs by status, where more is wanted than the API lists at once."""
        for status in FINAL_STATUSES:
            yield from self._list(status, may_stop)

    def _open_lists(self) -> Steps:
        for status in OPEN_STATUSES:
            yield from self._list(status)

    def _list(
        self, status: str, may_stop: Callable[[PageFacts], bool] = lambda _page: False
    ) -> Steps:
        """Read the runs with a status; by origin too where they are more than the API lists.

        Each of these lists has a depth of its own.
        """
        walk = yield from self._read_list(status, ALL, may_stop)
        if not walk.is_refused:
            return
        # Open runs are listed in each poll; of so many, more rarely.
        self.is_walk = self.is_walk or status in OPEN_STATUSES
        if not walk.last.end:  # it knows no such status; open runs are then searched in ALL
            self._unlisted.add(status)
            if status in FINAL_STATUSES:
                self.beyond[status, ALL] = 0
            return
        for origin in ORIGINS:
            part = yield from self._read_list(status, origin, may_stop)
            if part.is_refused:
                self.beyond[status, origin] = part.last.end

    def _read_list(
        self, status: str, origin: str, may_stop: Callable[[PageFacts], bool]
    ) -> Generator[Request, Answer, Walk]:
        walk = Walk(0, status, optional=True, origin=origin)
        while not walk.at_end and not may_stop((yield from walk.read())):
            pass
        self._newest_listed = newest_of([self._newest_listed, walk.newest])
        # A list of open runs with a gap costs no run: those that are missing are searched in ALL.
        self.is_whole = self.is_whole and (walk.is_whole or status in OPEN_STATUSES)
        return walk

    def _search(self, walk: Walk) -> Steps:
        """Read on in ALL until each open run that is in no list is found."""
        answer = yield Missing()
        assert isinstance(answer, dict)  # noqa: S101 (the protocol of the generator)
        self.given_up.intersection_update(answer)
        missing = {run: created for run, created in answer.items() if run not in self.given_up}
        if not missing:
            return
        order = self.state.order.with_walk(walk.order)
        limit = min(missing.values()) - _CLOCKS_APART_SECONDS
        # From the newest end where one is known, to stop behind the runs that are looked for. The
        # order may have been learned by this very walk, which then has not been to the end.
        is_through = walk.at_end and not walk.is_refused
        from_the_end = order.learned and order.oldest_first and is_through
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
            order = order.with_walk(search.order)
            if may_stop and order.learned and is_older(page.rows, limit, order):
                break
        if from_the_end:
            walk.contradict(search)
        self.is_whole = self.is_whole and search.is_whole
        if search.is_refused:
            yield from self._search_lists(left, may_stop=may_stop, limit=limit, order=order)
            self.given_up |= left
        elif search.is_whole:
            self.absent = left

    def _search_lists(self, left: set[str], *, may_stop: bool, limit: float, order: Order) -> Steps:
        """Look by status for runs that may stand deeper in ALL than the API lists."""

        def is_enough(page: PageFacts) -> bool:
            left.difference_update(_ids(page))
            return not left or (may_stop and is_older(page.rows, limit, order))

        if left:
            yield from self._each_status(is_enough)

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
        # A list by status showed runs that came behind this walk, perhaps ahead of others.
        is_closed = is_closed and newest == newest_of([newest, self._newest_listed])
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
