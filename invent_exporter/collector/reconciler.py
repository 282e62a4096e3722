"""Looks back over the kept window in slices, beside the polls, for runs that they missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from invent_exporter.errors import ApiError
from invent_exporter.log import get_logger
from invent_exporter.scan.reconcile import Reconciliation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from invent_exporter.collector.reader import Reader
    from invent_exporter.collector.target import Shared
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.scan.walk import Steps

log = get_logger(__package__)


class Reconciler:
    """The reconciliations of one org; a slice that breaks off leaves its poll complete."""

    def __init__(
        self,
        shared: Shared,
        drive: Callable[[OrgLedger, Steps], Awaitable[Reader]],
        hold: Callable[[ApiError], None],
    ) -> None:
        """Read with `drive`; `hold` is told when the API wants no requests at all for a while."""
        self._shared = shared
        self._drive = drive
        self._hold = hold
        self._no_slice_before = float("-inf")

    async def run(
        self, org: OrgLedger, label: str, *, interval_seconds: float, is_fresh: bool
    ) -> None:
        """Read the next slice when it is time; `is_fresh`: the poll itself has read everything."""
        shared = self._shared
        now = shared.clocks.time()
        if is_fresh:
            # Not committed, to spare a small org a write in each poll: the next one takes it along.
            # After a crash before it the look back begins earlier than it need.
            org.scan = msgspec.structs.replace(org.scan, reconciled=now, reconcile_offset=None)
            shared.telemetry.reconciled(label, now)
            return
        if org.scan.reconciled:
            shared.telemetry.reconciled(label, org.scan.reconciled)
        is_time = (
            org.scan.reconcile_offset is not None
            or org.scan.unmet > 0
            or now - org.scan.reconciled >= interval_seconds
        )
        if not is_time or shared.clocks.monotonic() < self._no_slice_before:
            return
        pages = shared.allowance.take(label)
        if pages == 0:
            return
        reconciliation = Reconciliation(org.scan, now, await shared.ledger.window_from(org, now))
        recovered = org.counts.recovered
        try:
            reader = await self._drive(org, reconciliation.steps(pages))
        except ApiError as error:
            # One deep page that can't be read must not make the org look down: the poll was
            # complete. The same slice is tried again, at the pace of one that was read whole.
            if error.reason == "rate_limited":
                self._hold(error)
            else:  # as with any request: what was asked for is held, and the polls go on
                held_seconds = error.retry_after_seconds or 0.0
                self._no_slice_before = shared.clocks.monotonic() + held_seconds
            shared.telemetry.failed_beside_polls(label, error.reason)
            fields = {"reason": error.reason, "error": error.message}
            log.warning("reconciliation broke off", org_id=label, **fields)
            return
        shared.allowance.give_back(pages - reader.pages)
        await shared.ledger.save_scan(org, reconciliation.state)
        if found := org.counts.recovered - recovered:
            log.warning("runs were found that polls had missed", org_id=label, runs=found)
        if reconciliation.is_done:
            shared.telemetry.reconciled(label, reconciliation.state.reconciled)
