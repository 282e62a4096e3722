"""The loop of one org: poll, take note of the outcome, wait.

It alone owns timing and success; what a poll does is the poller's. Whatever breaks a poll ends as
a reason of the contract, and the next poll begins from what was committed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from invent_exporter.collector.discovery import Discovery
from invent_exporter.collector.poller import Peers, Poller, SupersededError
from invent_exporter.errors import ApiError, StorageError, brief
from invent_exporter.log import get_logger

if TYPE_CHECKING:
    from invent_exporter.collector.target import Shared, Target
    from invent_exporter.ledger.org import OrgLedger

FAILED_POLLS_TO_DROP_GAUGES = 3
STALL_POLLS = 10
STALL_SECONDS = 300.0
_WALK_STRETCH = 20
_LONGEST_BACKOFF_SECONDS = 10.0
"""The most that is waited, at random, after a failed poll whose interval is over already."""
_FIRST_LOOK_SECONDS = 30.0
"""How long the first poll of `c` waits for the first look for its sub-orgs."""

log = get_logger(__package__)


class Collector:
    """Polls one org."""

    def __init__(self, target: Target, shared: Shared, peers: Peers) -> None:
        self.first_attempt = asyncio.Event()
        self.up: bool | None = None
        self.error: str | None = None
        self.brief_error: str | None = None
        """The same without what the API said."""
        self.last_poll_seconds: float | None = None
        self.next_poll_seconds: float | None = None
        self.last_success_seconds: float | None = None
        self.interval_seconds = target.poll_interval_seconds
        self.requests_per_minute: float | None = None
        """Since the poll before the last."""
        self._shared = shared
        self._clocks = shared.clocks
        self._poller = Poller(target, shared, peers, beat=self._beat, hold=self._hold)
        self.discovery = Discovery(shared, lambda: self.target, lambda: self.label)
        self._changed = asyncio.Event()
        self._failures = 0
        self._alive_until = shared.clocks.monotonic()
        self._not_before = float("-inf")
        self._asked = (0, shared.clocks.monotonic())
        self._held_seconds = 0.0

    # -- for others to see

    @property
    def target(self) -> Target:
        """What is polled, as it was told last."""
        return self._poller.target

    @property
    def label(self) -> str:
        """The org's real id; `c` until it is known."""
        return self._poller.label

    @property
    def org(self) -> OrgLedger | None:
        """What is committed of the org; None until it was loaded."""
        return self._poller.org

    @property
    def is_stalled(self) -> bool:
        """No request, planned wait or commit for too long."""
        patience = max(STALL_SECONDS, STALL_POLLS * self.target.poll_interval_seconds)
        return self._clocks.monotonic() > self._alive_until + patience

    # -- the loop

    async def start(self) -> None:
        """Do as `Poller.start`; on StorageError the first poll tries again."""
        await self._poller.start()
        self._shared.telemetry.set_poll_interval(self.label, self.interval_seconds)

    async def change(self, target: Target) -> None:
        """Go on with another name, key or interval, at once where the API may be asked."""
        before = self.target
        if target == before:
            return
        self._poller.target = target
        self._poller.note()
        if not target.is_polled_as(before):
            self._changed.set()
            self.discovery.change()

    def let_go(self) -> None:
        """Keep nothing of the ledger: what is withdrawn may be long in memory, as garbage."""
        self._poller.org = None

    async def run(self) -> None:
        """Poll until cancelled, or until an earlier target turns out to be this org: Superseded."""
        looks: asyncio.Task[None] | None = None
        self._shared.demand.note(self.target.id, 1, self.target.poll_interval_seconds)
        # Orgs that begin together spread over the interval.
        share = self._clocks.random()
        try:
            while True:
                if looks is None and self.target.sub_orgs_interval_seconds is not None:
                    looks = asyncio.create_task(self.discovery.run())
                    await self._await_first_look()
                began = self._clocks.monotonic()
                until = max(began + share * await self.poll(), self._not_before)
                share = 1.0
                left = until - self._clocks.monotonic()
                if left > 0:
                    self._beat(left)
                    await self._wait(left)
                    self._shared.telemetry.throttled(min(left, self._held_seconds))
        finally:
            self._shared.demand.forget(self.target.id)
            if looks is not None:
                looks.cancel()
                await asyncio.gather(looks, return_exceptions=True)

    async def _await_first_look(self) -> None:
        """Wait for it as long as it is not known which org `c` is: none of its sub-orgs."""
        if self.label == "c":
            self._beat(_FIRST_LOOK_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.discovery.first_look.wait(), _FIRST_LOOK_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Wait, or until the target changes; but never less than the API asked for."""
        sleep, change = self._clocks.sleep(seconds), self._changed.wait()
        waits = [asyncio.ensure_future(sleep), asyncio.ensure_future(change)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._changed.is_set():
            self._changed.clear()
            await self._clocks.sleep(max(0.0, self._not_before - self._clocks.monotonic()))

    async def poll(self) -> float:
        """Poll once; return the seconds from its beginning to the next one's."""
        began = self._clocks.monotonic()
        reason, is_walk, status = None, False, None
        self._beat()
        try:
            is_walk = await self._poller.poll()
        except SupersededError:
            raise
        except ApiError as error:
            reason, self.error, status = error.reason, error.message, error.status
            self._hold(error)
        except StorageError as error:
            reason, self.error = "storage", f"the state can't be written: {error}"
        except Exception as error:
            # A poll must outlive its bugs: the next one may go another way, and says so if not.
            reason, self.error = "invalid_response", f"unexpected: {type(error).__name__}: {error}"
            log.exception("a poll met a bug", org_id=self.label)
        duration = self._clocks.monotonic() - began
        wait_seconds = self._wait_seconds(reason, duration, is_walk=is_walk)
        stretch = self._shared.demand.note(self.target.id, self._requests(), wait_seconds)
        if stretch > 1:
            # From its end on: what queued for its turn is to spread, not to come again at once.
            wait_seconds = duration + stretch * wait_seconds
        self._held_seconds = max(0.0, self._not_before - began - wait_seconds)
        wait_seconds += self._held_seconds
        self.last_poll_seconds = self._clocks.time()
        self.next_poll_seconds = self.last_poll_seconds - duration + wait_seconds
        if reason is None:
            self._succeeded(duration)
        else:
            self.brief_error = brief(reason, status)
            self._failed(reason, duration)
        self.interval_seconds = wait_seconds
        self._shared.telemetry.set_poll_interval(self.label, wait_seconds)
        self._shared.telemetry.set_ledger_size(self._shared.ledger.size_bytes())
        await self._shared.publisher.flush()
        self.first_attempt.set()
        return wait_seconds

    def _requests(self) -> int:
        """Tell how many requests there were since the last poll's end."""
        asked, now = self._shared.telemetry.requests.get(self.label, 0), self._clocks.monotonic()
        before, since = self._asked
        self._asked = asked, now
        requests = max(0, asked - before)
        if now > since:
            self.requests_per_minute = requests * 60 / (now - since)
        return requests

    def _wait_seconds(self, reason: str | None, duration: float, *, is_walk: bool) -> float:
        """Tell how long after a poll's beginning the next one begins, for our own sake."""
        interval = self.target.poll_interval_seconds
        if reason is None:
            return max(interval, _WALK_STRETCH * duration) if is_walk else interval
        if reason == "storage":
            return interval
        chance = self._clocks.random()
        # A slow poll may have failed after its interval: the next waits nevertheless.
        backoff_seconds = min(interval, _LONGEST_BACKOFF_SECONDS) * self._clocks.random()
        return max(interval * (0.9 + 0.1 * chance), duration + backoff_seconds)

    def _hold(self, error: ApiError) -> None:
        """Begin no poll before the API may be asked again."""
        if error.retry_after_seconds is not None:
            self._not_before = self._clocks.monotonic() + error.retry_after_seconds

    def _succeeded(self, duration_seconds: float) -> None:
        if self._failures:
            log.info("polls succeed again", org_id=self.label, failed_polls=self._failures)
        self._failures, self.error, self.brief_error, self.up = 0, None, None, True
        now = self.last_success_seconds = self._clocks.time()
        self._shared.telemetry.poll_succeeded(self.label, duration_seconds, now)

    def _failed(self, reason: str, duration_seconds: float) -> None:
        self._failures += 1
        self.up = False
        self._shared.telemetry.poll_failed(self.label, reason, duration_seconds)
        fields = {"reason": reason, "error": self.error, "failed_polls": self._failures}
        log.error("poll failed", org_id=self.label, **fields)
        self._poller.note()
        if self.org is not None and self._failures >= FAILED_POLLS_TO_DROP_GAUGES:
            self._shared.publisher.set_open(self.org, None)

    def _beat(self, seconds: float = 0.0) -> None:
        """Note a sign of life, and for how long none is to be expected."""
        self._alive_until = self._clocks.monotonic() + seconds
