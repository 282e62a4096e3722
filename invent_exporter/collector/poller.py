"""One poll of one org: what the scan asks for is read, recorded, settled and published.

Each page is one transaction, and what the poll learned is the last one. Whatever breaks a poll
leaves what was committed, and the next one begins from there.

Longer than most modules: what a poll does, and whose runs it reads, share the org's standing.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Protocol

from invent_exporter.clocks import contact_seconds
from invent_exporter.collector.reader import Reader
from invent_exporter.collector.reconciler import Reconciler
from invent_exporter.errors import ApiError, StorageError
from invent_exporter.log import get_logger
from invent_exporter.scan.poll import Poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from invent_exporter.api.listing import Listing
    from invent_exporter.api.models import Run
    from invent_exporter.collector.target import Shared, Target
    from invent_exporter.ledger.ledger import OpenGroup
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.ledger.recorded import Recorded
    from invent_exporter.scan.walk import Steps

_PRUNE_SECONDS = 600.0
_ERROR_LENGTH = 300
_HOUR_SECONDS = 3600.0
_EXAMPLE_CHARACTERS = 80
"""How much is shown of what could not be read."""
_CLOCKS_APART_SECONDS = 60.0
_ROWS_TO_JUDGE = 10
"""So many unreadable runs, and no other, mean that the API is not understood any more."""
_NAMED_INVALID_RUNS = 5
"""After a change in the API all of a page may be unreadable; some of their names are enough."""

log = get_logger(__package__)


class Peers(Protocol):
    """The other orgs that are polled."""

    def others(self, poller: Poller) -> Mapping[str, float]:
        """Name the others' real ids, each with its `OrgLedger.history_until`."""

    def claim(self, poller: Poller, org_id: str) -> bool:
        """Tell whether no target before this one is the same org; a later one gives way."""

    def left(self, org_id: str) -> None:
        """Take note that a target is this org no longer: another one may be."""


class SupersededError(Exception):
    """An earlier target is the same org: this one is not polled."""


class _AnotherOrgError(Exception):
    """The key lists this org, and not the one that is remembered."""


class Poller:
    """The polls of one org, and what the next one must know of the last."""

    def __init__(
        self,
        target: Target,
        shared: Shared,
        peers: Peers,
        *,
        beat: Callable[[float], None],
        hold: Callable[[ApiError], None],
    ) -> None:
        """Read nothing until `start`; `target` may be replaced between two requests.

        `beat` is told of each sign of life, and for how many seconds none is to be expected, `hold`
        when the API wants no requests for a while.
        """
        self.target = target
        self.label = target.id
        self.org: OrgLedger | None = None
        self._shared = shared
        self._peers = peers
        self._beat = beat
        self._reconciler = Reconciler(shared, self._drive, hold)
        self._unsettled = self._news = self._open_known = True
        self._pruned_at = 0.0
        self._history_failed = 0
        self._sick_from: int | None = None
        self._not_before: dict[str, float] = {}
        self._given_up: set[str] = set()
        self._sure_of_key: str | None = None
        self._asked_with: str | None = None

    @property
    def _walk_floor(self) -> float:
        """How far back a first contact reads, seconds since the epoch."""
        return self._shared.clocks.time() - self.target.lookback_seconds

    async def start(self) -> OrgLedger:
        """Load what is known of the org, to be served with the next publish.

        Raises:
            StorageError: it can't be loaded.
            SupersededError: an earlier target is the same org.

        """
        if self.org is not None and not self.org.is_stale:
            return self.org
        org = await self._load()
        if org.org_id is not None:
            if not self._peers.claim(self, org.org_id):
                raise SupersededError(org.org_id)
            self._rename(org.org_id)
            # Behind the step of a target that has just given way, which ends whole.
            org = await self._load()
        self._shared.telemetry.declare_org(self.label)
        self._take(org)
        return org

    async def _load(self) -> OrgLedger:
        target, floor = self.target, self._walk_floor
        return await self._shared.ledger.load(target.id, walk_floor=floor, lease=target.lease)

    def _take(self, org: OrgLedger) -> None:
        """Go on with this ledger; the target that had it may not have served it to the end."""
        self.org = org
        self._unsettled = self._news = self._open_known = True
        self.note(org.workflows)

    def note(self, changed: Iterable[str] = ()) -> None:
        """Serve what is committed of these workflows and of the org with the next publish."""
        if self.org is not None:
            name, finances = self.target.name or self.label, self.target.finances
            self._shared.publisher.note(self.org, changed, org_name=name, finances=finances)

    async def poll(self) -> bool:
        """Poll once; True when nothing but a walk through all pages could prove that it was whole.

        Raises:
            ApiError: the API could not be read.
            StorageError: the ledger could not be written.
            SupersededError: an earlier target is the same org.

        """
        if not self._shared.may_poll():
            raise StorageError("its lease ran out, and the database does not renew it")
        org = await self.start()
        try:
            return await self._poll(org)
        except _AnotherOrgError as error:
            await self._change_org(org, str(error))
            return await self.poll()

    async def _poll(self, org: OrgLedger) -> bool:
        contact, began = not org.contacted, self._shared.clocks.time()
        floor = org.floor_seconds if contact else None
        if self._is_time_for("given up"):
            self._given_up = set()  # perhaps the API lists more by now
        given_up, open_known = self._given_up, self._open_known
        poll = Poll(org.scan, open_known=open_known, contact_floor=floor, given_up=given_up)
        # While nobody has named the org of `c`, a known run may do it, though nothing else changed.
        may_skip = not (self._unsettled or self._open_known or org.org_id is None)
        reader = await self._drive(org, poll.steps(), may_skip=may_skip)
        if not poll.is_whole and not contact:
            raise ApiError("invalid_response", "the listing changed too fast to be read whole")
        if poll.walked_all and not reader.readable_rows and reader.rows >= _ROWS_TO_JUDGE:
            raise ApiError("invalid_response", f"none of {reader.rows} runs can be read")
        self._given_up = poll.given_up
        self._say_beyond(poll.beyond)
        poll.note_unmet(org.counts.met)
        if poll.state.unmet > org.scan.unmet:
            line = "the API's count grew by more runs than the poll met; they are looked for"
            log.warning(line, org_id=self.label, runs=poll.state.unmet)
        told, newest = reader.contact_seconds, poll.state.newest
        contact_at = None
        if contact:
            contact_at = contact_seconds(told, began, newest.created, newest.updated)
        groups: tuple[OpenGroup, ...] | None = None
        if self._unsettled or contact or poll.absent or poll.state != org.scan:
            groups = await self._shared.ledger.complete(
                org,
                poll.state,
                absent=poll.absent,
                contact_seconds=contact_at,
            )
            self._unsettled = False
            self._beat(0.0)
        named = await self._identify(org)
        if named is not org:
            # What was read went into the ledger of `c`; it must be told to the one of its id, and
            # at once: a run that was open now may have ended by the next poll.
            return await self.poll()
        self._shared.telemetry.set_api_runs(self.label, poll.listing_count)
        if contact:
            if abs(reader.clocks_apart_seconds) > _CLOCKS_APART_SECONDS:
                apart = {"ahead_seconds": round(reader.clocks_apart_seconds)}
                apart |= {} if contact_at == told else {"believed": False}
                log.warning("the API's clock is not ours", org_id=self.label, **apart)
            workflows, failed = len(org.workflows), self._history_failed
            known = {"workflows": workflows, "failed_runs_in_history": failed}
            log.info("first contact", org_id=self.label, **known)
        self.note()
        await self._note_open(org, groups)
        seconds, is_fresh = self.target.reconcile_interval_seconds, contact or poll.walked_all
        await self._reconciler.run(org, self.label, interval_seconds=seconds, is_fresh=is_fresh)
        self.note()
        await self._prune(org)
        return poll.is_walk

    async def _note_open(self, org: OrgLedger, groups: tuple[OpenGroup, ...] | None) -> None:
        publisher = self._shared.publisher
        if groups is None and (self._open_known or self._news or publisher.open_runs(org) is None):
            groups = await self._shared.ledger.open_groups(org)
        if groups is not None:
            self._open_known = bool(groups)
            publisher.set_open(org, groups)
            self._news = False

    async def _prune(self, org: OrgLedger) -> None:
        clocks = self._shared.clocks
        if clocks.monotonic() - self._pruned_at < _PRUNE_SECONDS:
            return
        if not await self._shared.ledger.prune(org, clocks.time()):
            self._pruned_at = clocks.monotonic()

    # -- reading

    async def _drive(self, org: OrgLedger, steps: Steps, *, may_skip: bool = False) -> Reader:
        """Do what the scan asks for; return what was read."""
        others = partial(self._peers.others, self)
        reader = Reader(org, self._shared, self._listing, self._recorded, others, may_skip)
        if self.target.id == "c" and org.contacted and org.org_id is not None:
            reader.look_at = self._look_whose_they_are
        reader.sick_from = self._sick_from
        try:
            await reader.drive(steps)
        except ApiError:
            self._sick_from = reader.sick_from
            raise
        # A poll that did not read so far says nothing of what lies there.
        is_well = reader.refused_rows is None and reader.deepest_row >= (reader.sick_from or 0)
        self._sick_from = None if is_well else reader.sick_from
        if reader.refused_rows is not None:
            self._shared.telemetry.set_refused_depth(self.label, reader.refused_rows)
            if self._is_time_for("depth"):
                line = "the API refuses to list so far back"
                log.warning(line, org_id=self.label, from_row=reader.refused_rows)
        return reader

    def _listing(self, status: str, origin: str) -> Listing:
        return self._shared.api.listing(
            self.target.id, self._key, status, origin, label=self.label, heartbeat=self._beat
        )

    def _key(self) -> str:
        self._asked_with = self._shared.read_key(self.target.key)
        return self._asked_with

    async def _recorded(self, recorded: Recorded) -> None:
        """Take note of a page that was committed."""
        self._beat(0.0)
        self._news = self._news or recorded.news
        # Also when this poll breaks off: the next one must settle, and look for what is open.
        self._unsettled = self._unsettled or recorded.news
        self._open_known = self._open_known or any(row.is_open for row in recorded.facts)
        self._history_failed += recorded.history_failed
        for run in recorded.finished:
            self._say_finished(run)
        for run in recorded.odd:
            self._say_odd(run)
        if recorded.invalid:
            named = [f"{row.key} ({row.reason})" for row in recorded.invalid[:_NAMED_INVALID_RUNS]]
            runs = {"runs": len(recorded.invalid), "run_ids": ", ".join(named)}
            log.warning("runs can't be read and are left out", org_id=self.label, **runs)
        self.note(recorded.changed)

    def _say_finished(self, run: Run) -> None:
        """Say of a run that was counted what a metric must not carry, where that is wanted."""
        has_failed, wanted = run.status_label == "FAILED", self.target.logged_runs
        if wanted == "none" or (wanted == "failed" and not has_failed):
            return
        duration = run.duration_seconds
        fields = {
            "org_id": self.label,
            "workflow_id": run.workflow_label,
            "run_id": run.id,
            "origin": run.origin_label,
            "duration_seconds": None if duration is None else round(duration, 3),
            "credits": run.credits_total,
        }
        if has_failed:
            log.warning("run failed", **fields, error=(run.error or "")[:_ERROR_LENGTH])
        else:
            log.info("run finished", status=run.status_label, **fields)

    def _say_odd(self, run: Run) -> None:
        for name, example in run.unreadable.items():
            if self._is_time_for(name):
                # Redacted first: a secret that was cut would not be found.
                shown = self._shared.redactor.redact(example)[:_EXAMPLE_CHARACTERS]
                odd = {"field": name, "example": shown, "run_id": run.id}
                log.warning("a field of a run can't be read", org_id=self.label, **odd)

    def _say_beyond(self, beyond: Mapping[tuple[str, str], int]) -> None:
        new = [name for name in beyond if self._is_time_for("/".join(name))]
        if new:
            lists = ", ".join(f"{'/'.join(name)} from row {beyond[name]}" for name in new)
            line = (
                "the API refuses to list all runs, by status and origin too; the rest is not read"
            )
            log.warning(line, org_id=self.label, lists=lists)

    def _is_time_for(self, what: str) -> bool:
        """Tell whether this was not said, or done, within the last hour."""
        now = self._shared.clocks.monotonic()
        if now < self._not_before.get(what, now):
            return False
        self._not_before[what] = now + _HOUR_SECONDS
        return True

    # -- who the org is

    async def _look_whose_they_are(self, runs: Sequence[Run]) -> None:
        """Notice that another key than before lists another org as `c`.

        No run names the org that is remembered, and the ledger knows none of them.
        """
        org, names = self.org, Counter(run.org_id for run in runs)
        if org is None or not runs or self._asked_with == self._sure_of_key:
            return
        is_another = not names.keys() & {None, org.org_id, *await self._sub_orgs(org)}
        if is_another and not await self._shared.ledger.knows_any(org, [run.id for run in runs]):
            raise _AnotherOrgError(str(names.most_common(1)[0][0]))
        self._sure_of_key = self._asked_with

    async def _sub_orgs(self, org: OrgLedger) -> set[str]:
        """Name the sub-orgs that are known: `c` may list their runs, and is none of them."""
        if self.target.sub_orgs_interval_seconds is None:
            return set()
        parents, known = (self.target.id, org.org_id), await self._shared.ledger.sub_orgs()
        return {row.org_id for row in known.rows if row.parent in parents} - {org.org_id or ""}

    async def _change_org(self, org: OrgLedger, org_id: str) -> None:
        """Let `c` be another org from now on, with a first contact of its own."""
        if not self._peers.claim(self, org_id):
            raise SupersededError(org_id)
        log.warning("the key lists another org than before", org_id=org_id, before=self.label)
        self._shared.telemetry.forget_org(self.label)
        await self._shared.publisher.withdraw(org)
        self.label = org_id
        self._shared.telemetry.declare_org(org_id)
        other = await self._shared.ledger.reassign(org, org_id, walk_floor=self._walk_floor)
        if other is None:
            self.org = None
            raise SupersededError(org_id)
        self._take(other)
        # Only now: what broke off before is looked at again. And once a key: it may not wander.
        self._sure_of_key = self._asked_with
        if org.org_id is not None:
            self._peers.left(org.org_id)

    async def _identify(self, org: OrgLedger) -> OrgLedger:
        """Learn which org `c` is: the one that most of its runs name, but for its sub-orgs."""
        if org.org_id is not None or not org.named_by:
            return org
        org_id = org.likely_org_id(await self._sub_orgs(org))
        if org_id is None:
            return org
        was_foreign = org_id in self._peers.others(self)
        if not self._peers.claim(self, org_id):
            await self._shared.ledger.dissolve(org, org_id, walk_floor=self._walk_floor)
            self.org = None
            raise SupersededError(org_id)
        # The name first: from now on nobody else may take this org over, or forget it.
        self._rename(org_id)
        named = await self._shared.ledger.identify(
            org, org_id, walk_floor=self._walk_floor, was_foreign=was_foreign
        )
        if named is None:
            self.org = None
            raise SupersededError(org_id)
        if named is not org:
            self._take(named)
        return named

    def _rename(self, org_id: str) -> None:
        if org_id != self.label:
            self._shared.telemetry.rename_org(self.label, org_id)
            self.label = org_id
