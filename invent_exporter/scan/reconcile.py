"""A deeper look back beside the polls, for runs that they missed: what a slice of it reads."""

from __future__ import annotations

import msgspec

from invent_exporter.scan.order import is_older
from invent_exporter.scan.poll import ScanState
from invent_exporter.scan.walk import Steps, Walk

_OVERLAP_PART = 3
"""The part of a page that two slices have in common."""


class Reconciliation:
    """A deeper look back, in slices of some pages; `state` says where it stands."""

    def __init__(self, state: ScanState, now: float, window_from: float) -> None:
        """Go on with the one under way, or begin one that reads back to `window_from`."""
        self.state = state
        self.is_done = False
        if state.reconcile_offset is None:
            backward = state.order.learned and state.order.oldest_first
            self.state = msgspec.structs.replace(
                state,
                reconcile_offset=state.first_offset if backward else 0,
                reconcile_backward=backward,
                reconcile_from=window_from,
                reconcile_began=now,
                reconcile_unmet=state.unmet,
                unmet=0,
            )

    def steps(self, pages: int) -> Steps:
        """Yield up to `pages` reads."""
        state = self.state
        forward = not state.reconcile_backward
        unmet = state.reconcile_unmet
        walk = Walk(state.reconcile_offset or 0, forward=forward, recovering=True, optional=True)
        order = state.order
        for _ in range(pages):
            page = yield from walk.read()
            order = state.order.with_walk(walk.order)
            unmet -= sum(row.is_new for row in page.rows)
            # The order may have been learned since this look back began, in its other direction.
            is_known = order.learned and order.newest_first == forward and walk.is_told
            may_stop = is_known and unmet <= 0
            is_behind = may_stop and is_older(page.rows, state.reconcile_from, order)
            if walk.is_through or is_behind or walk.is_refused:
                self.is_done = True
                break
        # Some rows again, for those that deletions move to the front until the next slice.
        overlap = (walk.last.end - walk.last.start - 1) // _OVERLAP_PART
        offset = walk.last.end - overlap if forward else walk.last.start
        self.state = msgspec.structs.replace(
            state,
            # What contradicts the order is believed; to learn one takes the walk of a poll.
            order=state.order if order.learned else order,
            reconcile_unmet=max(0, unmet),
            reconcile_offset=None if self.is_done else offset,
            reconciled=state.reconcile_began if self.is_done else state.reconciled,
            # A count that was right once may have stopped to grow (at a limit, say).
            count_is_true=False if walk.count_is_true is False else state.count_is_true,
        )
