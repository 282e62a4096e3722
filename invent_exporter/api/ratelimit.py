"""When a request may go out: the own rate limit, and what the API asks for with Retry-After."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from invent_exporter.clocks import Clocks
from invent_exporter.errors import PausedError

MAX_WAIT_SECONDS = 30.0
"""The longest that one request waits for the API's sake; a longer `Retry-After` is the caller's."""
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_PAUSE_OF_ALL_SECONDS = 60.0
RECONCILE_SHARE = 0.2
"""The part of the request budget that reconciliations may take."""
WAITING_SECONDS = 600.0
"""An org that has not asked again for so long is not waited for."""

Heartbeat = Callable[[float], None]
"""Told, before each request and each wait, how many seconds it may take."""


def _at_once(requests_per_minute: float) -> float:
    return max(1.0, requests_per_minute / 10)


def lasting_per_minute(requests_per_minute: float) -> float:
    """Tell how many may go out in each of many minutes, so that none ever has more than allowed."""
    # At 1 a minute nothing would be left to refill with: then one goes out every two minutes.
    return max(requests_per_minute - _at_once(requests_per_minute), requests_per_minute / 2)


class RateLimiter:
    """The pace of all requests of this process, first come first served.

    A token bucket whose capacity and refill together never let more than `requests_per_minute` out
    in any 60 seconds. One org's `pause` holds everybody, because the API's limit is by IP address,
    but not for longer than `MAX_PAUSE_OF_ALL_SECONDS`: then one other org probes. If that is
    answered, the limit was the first one's own, and the others go on while it waits.
    """

    def __init__(self, requests_per_minute: float, clocks: Clocks) -> None:
        self._clocks = clocks
        self._refilled_at = clocks.monotonic()
        self._tokens = math.inf
        self._refill_per_second = 0.0
        self.apply(requests_per_minute)
        self._all_paused_until = float("-inf")
        self._paused_until: dict[str, float] = {}
        self._is_in_doubt = False  # after a pause of all, until a probe is answered
        self._probe: asyncio.Event | None = None  # is set when the probe that is out has ended
        self._limited_alone: set[str] = set()
        self._turn = asyncio.Lock()
        self._waiting = 0

    def apply(self, requests_per_minute: float) -> None:
        """Keep this limit from now on; tokens that the one before had saved beyond it are lost."""
        self._refill()
        self._capacity = _at_once(requests_per_minute)
        self._refill_per_second = lasting_per_minute(requests_per_minute) / 60
        self._tokens = min(self._tokens, self._capacity)

    def pause_seconds(self, org_id: str) -> float:
        """Tell what is left of the pauses that hold an org."""
        own = self._paused_until.get(org_id, float("-inf"))
        return max(0.0, max(own, self._all_paused_until) - self._clocks.monotonic())

    def pause(self, org_id: str, seconds: float) -> None:
        """Let no request of this org out for so long, and for a minute at most none of another.

        The longer of two pauses holds.
        """
        now = self._clocks.monotonic()
        self._paused_until[org_id] = max(self._paused_until.get(org_id, now), now + seconds)
        if org_id in self._limited_alone:
            return
        self._limited_alone.clear()
        until = now + min(seconds, MAX_PAUSE_OF_ALL_SECONDS)
        self._all_paused_until = max(self._all_paused_until, until)
        self._is_in_doubt = True

    def probed(self, org_id: str, *, is_answered: bool) -> None:
        """Take note of what became of the request whose `acquire` returned True."""
        if self._probe is not None:
            self._probe.set()
            self._probe = None
        if is_answered:
            self._is_in_doubt = False
            now = self._clocks.monotonic()
            # While they are still held, another is answered: what they meet is no address's limit.
            held = {org for org, until in self._paused_until.items() if until > now}
            self._limited_alone |= held - {org_id}

    async def acquire(self, org_id: str, heartbeat: Heartbeat) -> bool:
        """Wait for a turn; True where `probed` must be told how the request ended.

        Raises:
            PausedError: a pause holds for longer than a request waits.

        """
        self._waiting += 1
        try:
            if self._waiting > 1:  # the lock is held: this is how long those before may need
                heartbeat(self._waiting / self._refill_per_second + MAX_WAIT_SECONDS)
            while True:
                # Not within the turn, in which others of no such pause may go.
                await self._sleep(self._check(self.pause_seconds(org_id)), heartbeat)
                async with self._turn:
                    if self._check(self.pause_seconds(org_id)) > 0:
                        continue
                    while (missing_seconds := self._refill_seconds()) > 0:
                        await self._sleep(missing_seconds, heartbeat)
                    if self._probe is not None:
                        heartbeat(MAX_WAIT_SECONDS)
                        await self._probe.wait()
                        continue
                    if self.pause_seconds(org_id) > 0:
                        continue
                    self._tokens -= 1
                    if self._is_in_doubt:
                        self._probe = asyncio.Event()
                    return self._is_in_doubt
        finally:
            self._waiting -= 1

    def _check(self, pause_seconds: float) -> float:
        if pause_seconds > MAX_WAIT_SECONDS:
            raise PausedError(pause_seconds)
        return pause_seconds

    async def _sleep(self, seconds: float, heartbeat: Heartbeat) -> None:
        if seconds > 0:
            heartbeat(seconds)
            await self._clocks.sleep(seconds)

    def _refill(self) -> None:
        now = self._clocks.monotonic()
        self._tokens += (now - self._refilled_at) * self._refill_per_second
        self._refilled_at = now

    def _refill_seconds(self) -> float:
        """Refill, and tell how long it takes until there is a token."""
        self._refill()
        self._tokens = min(self._capacity, self._tokens)
        # A rounding error short of a whole token would ask for a wait that no clock can measure.
        missing = 1 - self._tokens if self._tokens < 1 - 1e-9 else 0.0
        return missing / self._refill_per_second


def parse_retry_after(value: str | None, date: str | None, now: float) -> float | None:
    """Read a Retry-After header (RFC 9110, 10.2.3) as seconds to wait, at most an hour.

    A date counts from the answer's own Date, so that clock skew does not matter, else from `now`.
    What is not positive or can't be read is ignored.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,300}(\.[0-9]{1,300})?", value.strip()):
        seconds = float(value)
    elif (until := http_date(value)) is not None:
        sent = http_date(date or "")
        seconds = until - (now if sent is None else sent)
    else:
        return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None


def http_date(value: str) -> float | None:
    """Read a date of HTTP (RFC 9110, 5.6.7) as seconds since the epoch; None for anything else."""
    try:
        parsed = parsedate_to_datetime(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class PageAllowance:
    """The pages that reconciliations may read: a share of the budget, saved up for a minute.

    Orgs that ask while others wait leave a part to each of them: one that always has more to read
    must not keep the others from ever looking back.
    """

    def __init__(self, requests_per_minute: float, clock: Callable[[], float]) -> None:
        self.apply(requests_per_minute)
        self._clock = clock
        self._saved = self._share_per_minute
        self._at = clock()
        self._waiting: dict[str, float] = {}

    def apply(self, requests_per_minute: float) -> None:
        """Share this budget from now on."""
        self._share_per_minute = max(1.0, requests_per_minute * RECONCILE_SHARE)

    def take(self, org_id: str) -> int:
        """Take as many pages as the org may read now; 0 when it has to ask again."""
        now = self._clock()
        earned = (now - self._at) * self._share_per_minute / 60
        self._saved = min(self._share_per_minute, self._saved + earned)
        self._at = now
        self._waiting.pop(org_id, None)
        # Who has not asked for long does not wait any more: its polls fail, say.
        since = now - WAITING_SECONDS
        self._waiting = {org: asked for org, asked in self._waiting.items() if asked > since}
        pages = int(self._saved / (1 + len(self._waiting))) or int(min(self._saved, 1))
        if pages == 0:
            self._waiting[org_id] = now
        self._saved -= pages
        return pages

    def give_back(self, pages: int) -> None:
        """Return what was taken and not read."""
        self._saved += pages
