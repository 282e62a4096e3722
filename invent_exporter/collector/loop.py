"""The loop of one org: scan, record, publish, wait.

A poll drives the scan's generator: what it asks for is read from the API, recorded by the ledger
(one transaction for each page), and sent back as facts. What the poll learned is committed last.
Whatever breaks a poll ends as a reason of the contract; the next poll begins from what was
committed.

Longer than most modules: the steps of one loop share the org's standing, which is its state.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter.collector.reader import Reader
from invent_exporter.errors import ApiError
from invent_exporter.log import get_logger
from invent_exporter.scan.poll import Poll, Reconciliation

if TYPE_CHECKING:
    from collections.abc import Callable

    from invent_exporter.api.listing import Listing, RunsApi
    from invent_exporter.api.models import Run
    from invent_exporter.api.ratelimit import PageAllowance
    from invent_exporter.clocks import Clocks
    from invent_exporter.ledger.ledger import Ledger
    from invent_exporter.ledger.recorder import OrgLedger, Recorded
    from invent_exporter.metrics.publisher import Publisher
    from invent_exporter.scan.walk import Steps
    from invent_exporter.telemetry import Telemetry

_T = TypeVar("_T")

FAILED_POLLS_TO_DROP_GAUGES = 3
STALL_POLLS = 10
STALL_SECONDS = 300.0
_WALK_STRETCH = 20
_PUBLISH_SECONDS = (1.0, 10.0)
"""While a walk goes on, it publishes no more and no less often than so."""
_PUBLISH_STRETCH = 20
"""Between these: publishing takes at most a twentieth of the time, however many series changed."""
_PRUNE_SECONDS = 60.0
_LONGEST_BACKOFF_SECONDS = 10.0
"""The most that is waited, at random, after a failed poll whose interval is over already."""
_ERROR_LENGTH = 300
_NAMED_INVALID_RUNS = 5
"""After a change in the API all of a page may be unreadable; some of their names are enough."""

log = get_logger(__package__)


@dataclass(frozen=True)
class CollectorSettings:
    """What of the configuration concerns one org's loop. Times in seconds."""

    configured_id: str
    org_name: str | None
    poll_interval_seconds: float
    lookback_seconds: float
    reconcile_interval_seconds: float


class Shared(Protocol):
    """What the collectors of one process have in common."""

    ledger: Ledger
    api: RunsApi
    telemetry: Telemetry
    publisher: Publisher
    clocks: Clocks
    allowance: PageAllowance

    async def in_ledger(self, call: Callable[[], _T]) -> _T:
        """Run a call in the ledger's thread."""

    def redact(self, text: str) -> str:
        """Take known secrets out of a text."""

    def other_org_ids(self, collector: Collector) -> frozenset[str]:
        """List the real ids of the other polled orgs."""

    def claim(self, collector: Collector, org_id: str) -> bool:
        """Tell whether no earlier entry of the configuration is the same org."""


class _DroppedError(Exception):
    """The org turned out to be polled by another entry while this one's poll was under way."""


class Collector:
    """Polls one org."""

    def __init__(
        self, settings: CollectorSettings, shared: Shared, read_key: Callable[[], str]
    ) -> None:
        """Prepare; nothing is read until `start`."""
        self.settings = settings
        self.label = settings.configured_id
        self.first_attempt = asyncio.Event()
        self.up: bool | None = None
        self.last_poll_seconds: float | None = None
        self.last_success_seconds: float | None = None
        self.error: str | None = None
        self.interval_seconds = settings.poll_interval_seconds
        self.org: OrgLedger | None = None
        self.dropped = False
        self._shared = shared
        self._read_key = read_key
        self._failures = 0
        self._unsettled = True
        self._news = True
        self._open_known = True
        self._alive_until = shared.clocks.monotonic()
        self._not_before = float("-inf")
        self._no_slice_before = float("-inf")
        self._held_seconds = 0.0
        self._published_at = 0.0
        self._publish_took_seconds = 0.0
        self._pending: set[str] = set()
        self._pruned_at = 0.0
        self._history_failed = 0

    # -- for others to see

    @property
    def is_stalled(self) -> bool:
        """No request, planned wait or commit for too long."""
        patience = max(STALL_SECONDS, STALL_POLLS * self.settings.poll_interval_seconds)
        return self._shared.clocks.monotonic() > self._alive_until + patience

    @property
    def org_name(self) -> str:
        """The configured name, else the id."""
        return self.settings.org_name or self.label

    @property
    def _walk_floor(self) -> float:
        """How far back a first contact reads, seconds since the epoch."""
        return self._shared.clocks.time() - self.settings.lookback_seconds

    def register_key(self) -> None:
        """Read the key once, so that it is known as a secret before anything is logged."""
        self._read_key()

    # -- the loop

    async def start(self) -> None:
        """Load what is known of the org, and serve it."""
        if self.dropped:
            return
        configured = self.settings.configured_id
        self.org = await self._in_ledger(
            lambda: self._shared.ledger.load(configured, walk_floor=self._walk_floor)
        )
        if self.org.org_id is not None:
            self._take_label(self.org.org_id)
        self._shared.telemetry.declare_org(self.label)
        self._shared.telemetry.set_poll_interval(self.label, self.interval_seconds)
        if not self.dropped:
            await self._publish(self.org)

    async def run(self) -> None:
        """Poll until cancelled, or until the org turns out to be polled already."""
        clocks = self._shared.clocks
        while not self.dropped:
            began = clocks.monotonic()
            wait_seconds = await self.poll()
            left = began + wait_seconds - clocks.monotonic()
            if left > 0:
                self._beat(left)
                await clocks.sleep(left)
                self._shared.telemetry.throttled(min(left, self._held_seconds))

    async def poll(self) -> float:
        """Poll once; return the seconds from its beginning to the next one's."""
        shared, clocks = self._shared, self._shared.clocks
        began = clocks.monotonic()
        interval = self.settings.poll_interval_seconds
        reason = None
        wait_seconds = interval
        self._beat()
        try:
            scan = await self._scan()
            if scan is not None and scan.is_walk:
                wait_seconds = max(interval, _WALK_STRETCH * (clocks.monotonic() - began))
        except _DroppedError:
            return wait_seconds
        except ApiError as error:
            reason, self.error = error.reason, error.message
            wait_seconds = interval * (0.9 + 0.1 * clocks.random())
            # A slow poll may have failed after its interval: the next waits nevertheless.
            backoff_seconds = min(interval, _LONGEST_BACKOFF_SECONDS) * clocks.random()
            wait_seconds = max(wait_seconds, clocks.monotonic() + backoff_seconds - began)
            self._hold(error)
        except (SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            reason, self.error = "storage", f"the state can't be written: {cause}"
        except Exception as error:
            reason, self.error = "invalid_response", f"unexpected: {type(error).__name__}: {error}"
            log.exception("a poll met a bug", org_id=self.label)
        self._held_seconds = max(0.0, self._not_before - began - wait_seconds)
        wait_seconds += self._held_seconds
        duration = clocks.monotonic() - began
        self.last_poll_seconds = clocks.time()
        if reason is None:
            self._succeeded(duration)
        else:
            await self._failed(reason, duration)
        self.first_attempt.set()
        self.interval_seconds = wait_seconds
        if not self.dropped:
            shared.telemetry.set_poll_interval(self.label, wait_seconds)
        shared.telemetry.set_ledger_size(shared.ledger.database.size_bytes())
        return wait_seconds

    def _hold(self, error: ApiError) -> None:
        """Begin no poll before the API may be asked again."""
        if error.retry_after_seconds is not None:
            self._not_before = self._shared.clocks.monotonic() + error.retry_after_seconds

    def _succeeded(self, duration_seconds: float) -> None:
        if self.dropped:
            return
        if self._failures:
            log.info("polls succeed again", org_id=self.label, failed_polls=self._failures)
        self._failures = 0
        self.error = None
        self.up = True
        self.last_success_seconds = self._shared.clocks.time()
        self._shared.telemetry.poll_succeeded(
            self.label, duration_seconds, self.last_success_seconds
        )

    async def _failed(self, reason: str, duration_seconds: float) -> None:
        self._failures += 1
        self.up = False
        self._shared.telemetry.poll_failed(self.label, reason, duration_seconds)
        log.error(
            "poll failed",
            org_id=self.label,
            reason=reason,
            error=self.error,
            failed_polls=self._failures,
        )
        if self.org is None:
            return
        await self._publish(self.org)
        if self._failures >= FAILED_POLLS_TO_DROP_GAUGES:
            await self._shared.publisher.set_open(self.org, None)

    # -- one poll

    async def _scan(self) -> Poll | None:
        if self.org is None:
            await self.start()
        org = self.org
        if org is None or self.dropped:
            return None
        contact = not org.contacted
        poll = Poll(
            org.scan,
            open_known=self._open_known,
            contact_floor=org.floor_seconds if contact else None,
        )
        # While nobody has named the org of `c`, a known run may do it, though nothing else changed.
        may_skip = not (self._unsettled or self._open_known or org.org_id is None)
        await self._drive(org, poll.steps(), may_skip=may_skip)
        if not poll.is_whole and not contact:
            raise ApiError("invalid_response", "the listing changed too fast to be read whole")
        poll.note_unmet(org.counts.met)
        if poll.state.unmet > org.scan.unmet:
            log.warning(
                "the API's count grew by more runs than the poll met; they are looked for",
                org_id=self.label,
                runs=poll.state.unmet,
            )
        if self._unsettled or contact or poll.absent or poll.state != org.scan:
            await self._in_ledger(
                lambda: self._shared.ledger.complete(
                    org, poll.state, absent=poll.absent, contact=contact
                )
            )
            self._unsettled = False
            self._beat()
        named = await self._identify(org)
        if named is None:
            return None
        if named is not org:
            # What was read went into the ledger of `c`; it must be told to the one of its id, and
            # at once: a run that was open now may have ended by the next poll.
            self._unsettled = True
            return await self._scan()
        self._shared.telemetry.set_api_runs(self.label, poll.listing_count)
        if contact:
            log.info(
                "first contact",
                org_id=self.label,
                workflows=len(named.workflows),
                failed_runs_in_history=self._history_failed,
            )
        await self._publish(named)
        if self._open_known or self._news or self._shared.publisher.open_runs(named) is None:
            groups = await self._in_ledger(lambda: self._shared.ledger.open_groups(named))
            self._open_known = bool(groups)
            await self._shared.publisher.set_open(named, groups)
            self._news = False
        await self._reconcile(named, is_fresh=contact or poll.walked_all)
        await self._prune(named)
        return poll

    async def _drive(self, org: OrgLedger, steps: Steps, *, may_skip: bool = False) -> int:
        """Do what the scan asks for; return how many pages were read."""
        shared = self._shared
        reader = Reader(
            org,
            self._listing,
            shared.ledger,
            self._in_ledger,
            self._recorded,
            clock=shared.clocks.time,
            redact=shared.redact,
            other_org_ids=shared.other_org_ids(self),
            may_skip=may_skip,
        )
        return await reader.drive(steps)

    def _listing(self, status: str) -> Listing:
        return self._shared.api.listing(
            self.settings.configured_id,
            self._read_key,
            status,
            label=self.label,
            heartbeat=self._beat,
        )

    async def _recorded(self, org: OrgLedger, recorded: Recorded) -> None:
        """Take note of a page that was committed."""
        self._beat()
        self._news = self._news or recorded.news
        # Also when this poll breaks off: the next one must settle, and look for what is open.
        self._unsettled = self._unsettled or recorded.news
        self._open_known = self._open_known or any(row.is_open for row in recorded.facts)
        self._history_failed += recorded.history_failed
        for run in recorded.failed:
            log.warning("run failed", **failed_run_fields(self.label, run))
        if recorded.invalid:
            named = [f"{row.key} ({row.reason})" for row in recorded.invalid[:_NAMED_INVALID_RUNS]]
            log.warning(
                "runs can't be read and are left out",
                org_id=self.label,
                runs=len(recorded.invalid),
                run_ids=", ".join(named),
            )
        self._pending |= recorded.changed
        since = self._shared.clocks.monotonic() - self._published_at
        shortest, longest = _PUBLISH_SECONDS
        wait_seconds = min(longest, max(shortest, _PUBLISH_STRETCH * self._publish_took_seconds))
        if self._pending and since >= wait_seconds:
            await self._publish(org)

    async def _publish(self, org: OrgLedger) -> None:
        changed, self._pending = self._pending, set()
        began = self._shared.clocks.monotonic()
        await self._shared.publisher.publish(org, changed, org_name=self.org_name)
        self._published_at = self._shared.clocks.monotonic()
        self._publish_took_seconds = self._published_at - began

    # -- who the org is

    async def _identify(self, org: OrgLedger) -> OrgLedger | None:
        """Learn which org `c` is: the one that most of its runs name; None: polled already."""
        org_id = org.likely_org_id
        if org.org_id is not None or org_id is None:
            return org
        was_foreign = org_id in self._shared.other_org_ids(self)
        if not self._shared.claim(self, org_id):
            await self._in_ledger(lambda: self._shared.ledger.dissolve(org))
            self.drop(org_id)
            return None
        named = await self._in_ledger(
            lambda: self._shared.ledger.identify(
                org, org_id, walk_floor=self._walk_floor, was_foreign=was_foreign
            )
        )
        self.org = named
        self._take_label(org_id)
        return named

    def _take_label(self, org_id: str) -> None:
        if not self._shared.claim(self, org_id):
            self.drop(org_id)
            return
        if org_id != self.label:
            self._shared.telemetry.rename_org(self.label, org_id)
            self.label = org_id

    def drop(self, org_id: str) -> None:
        """Poll no more: another entry is the same org."""
        self.dropped = True
        self.first_attempt.set()
        self._shared.telemetry.forget_org(self.settings.configured_id)
        log.warning(
            "an org is configured twice; the later entry is dropped",
            org_id=org_id,
            entry=self.settings.configured_id,
        )

    # -- looking back

    async def _reconcile(self, org: OrgLedger, *, is_fresh: bool) -> None:
        shared = self._shared
        now = shared.clocks.time()
        if is_fresh:
            org.scan = msgspec.structs.replace(org.scan, reconciled=now, reconcile_offset=None)
            shared.telemetry.reconciled(self.label, now)
            return
        if org.scan.reconciled:
            shared.telemetry.reconciled(self.label, org.scan.reconciled)
        if not self._wants_a_slice(org, now):
            return
        pages = shared.allowance.take(self.label)
        if pages == 0:
            return
        window_from = await self._in_ledger(lambda: shared.ledger.window_from(org, now))
        reconciliation = Reconciliation(org.scan, now, window_from)
        recovered = org.counts.recovered
        try:
            read = await self._drive(org, reconciliation.steps(pages))
        except ApiError as error:
            await self._slice_broke_off(org, error)
            return
        shared.allowance.give_back(pages - read)
        await self._in_ledger(lambda: shared.ledger.save_scan(org, reconciliation.state))
        if org.counts.recovered > recovered:
            log.warning(
                "runs were found that polls had missed",
                org_id=self.label,
                runs=org.counts.recovered - recovered,
            )
        if self._pending:
            await self._publish(org)
        if reconciliation.is_done:
            shared.telemetry.reconciled(self.label, reconciliation.state.reconciled)

    def _wants_a_slice(self, org: OrgLedger, now: float) -> bool:
        if self._shared.clocks.monotonic() < self._no_slice_before:
            return False
        interval = self.settings.reconcile_interval_seconds
        is_under_way = org.scan.reconcile_offset is not None
        return is_under_way or org.scan.unmet > 0 or now - org.scan.reconciled >= interval

    async def _slice_broke_off(self, org: OrgLedger, error: ApiError) -> None:
        """Take note, and leave `invent_up` at 1: the poll was complete.

        One deep page that can't be read must not make the org look down. What was read is
        committed; the same slice is tried again, at the pace of one that was read whole.
        """
        if error.reason == "rate_limited":
            self._hold(error)
        else:  # as with any request: what was asked for is held, and the polls go on
            held_seconds = error.retry_after_seconds or 0.0
            self._no_slice_before = self._shared.clocks.monotonic() + held_seconds
        self._shared.telemetry.failed_beside_polls(self.label, error.reason)
        log.warning(
            "reconciliation broke off",
            org_id=self.label,
            reason=error.reason,
            error=error.message,
        )
        if self._pending:
            await self._publish(org)

    async def _prune(self, org: OrgLedger) -> None:
        clocks = self._shared.clocks
        if clocks.monotonic() - self._pruned_at < _PRUNE_SECONDS:
            return
        more = await self._in_ledger(lambda: self._shared.ledger.prune(org, clocks.time()))
        if not more:
            self._pruned_at = clocks.monotonic()

    async def _in_ledger(self, call: Callable[[], _T]) -> _T:
        """Run a call in the ledger's thread, unless the ledger is another entry's by now."""
        if self.dropped:
            raise _DroppedError
        return await self._shared.in_ledger(call)

    def _beat(self, seconds: float = 0.0) -> None:
        """Note a sign of life, and for how long none is to be expected."""
        self._alive_until = self._shared.clocks.monotonic() + seconds


def failed_run_fields(org_id: str, run: Run) -> dict[str, object]:
    """List what a log line says of a failed run: what a metric must not carry."""
    duration = run.duration_seconds
    return {
        "org_id": org_id,
        "workflow_id": run.workflow_label,
        "run_id": run.id,
        "origin": run.origin_label,
        "duration_seconds": None if duration is None else round(duration, 3),
        "credits": run.credits_total,
        "error": (run.error or "")[:_ERROR_LENGTH],
    }
