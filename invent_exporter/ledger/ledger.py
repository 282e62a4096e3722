"""Remembers which runs were counted and what the counters say: one transaction a step.

The ledger has a thread of its own, which alone touches the database and changes what is committed
of an org, so that a step that is awaited in vain (its org is withdrawn) still ends whole.
`transaction` is the only way in. Why no run counts twice: docs/how-it-counts.md.

Longer than most: each step is a transaction of its own, with its argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter.api.models import NEVER_SECONDS, Run
from invent_exporter.errors import ConflictError, LeaseLostError, StorageError
from invent_exporter.ledger import org as stored
from invent_exporter.ledger import schema, sub_orgs
from invent_exporter.ledger.database import Database
from invent_exporter.ledger.heartbeat import check_lease, move_lease
from invent_exporter.ledger.org import OrgLedger, put_workflows, to_json, update_org
from invent_exporter.ledger.recorded import InvalidRow, Recorded
from invent_exporter.ledger.recorder import LedgerSettings, Recorder
from invent_exporter.ledger.room import TextRoom
from invent_exporter.ledger.schema import SubOrgRow
from invent_exporter.ledger.steps import in_thread
from invent_exporter.ledger.sub_orgs import SubOrgRows
from invent_exporter.scan.poll import ScanState

VANISHED = 2
"""Complete searches without a run, after which it counts as vanished."""
_PRUNE_ROWS = 500
_NO_OTHERS: Mapping[str, float] = {}
_RUN = schema.run.c


class OpenGroup(msgspec.Struct, frozen=True):
    """Open runs with the same labels, and since when the oldest is in that status."""

    workflow_id: str
    origin: str
    status: str
    runs: int
    oldest_timestamp_seconds: float


class Ledger:
    """The ledgers of all orgs, in one database. Every call may raise StorageError."""

    def __init__(
        self,
        database: Database,
        settings: LedgerSettings,
        room: TextRoom | None = None,
        *,
        replica: str = "",
    ) -> None:
        """Keep to the leases that `replica`, a name of this process alone, has of orgs."""
        self.settings = settings
        self._replica = replica
        self.room = room or TextRoom()
        self._database = database
        self._loaded: dict[int, OrgLedger] = {}
        self.thread = ThreadPoolExecutor(1, "ledger")

    @contextmanager
    def transaction(
        self, org: OrgLedger | None = None, *, is_wide: bool = False
    ) -> Iterator[Connection]:
        """Commit the one transaction of a step when the block ends.

        Unless it is wide, it keeps to the rows of `org`, and of other orgs to runs that it locked.
        On StorageError nothing is, or nobody knows (`OrgLedger.is_stale`); on ConflictError the
        step runs again, so it changes memory only after its last transaction.
        """
        if org is not None and org.is_stale:
            raise StorageError("it is not known what the last transaction did: loaded anew first")
        lease = None if org is None else org.lease
        is_own = lease is not None and not is_wide
        engine = self._database.leased if is_own else self._database.engine
        try:
            with engine.begin() as connection:
                if lease is not None:
                    check_lease(connection, lease, self._replica)
                yield connection
        except (SQLAlchemyError, OSError) as error:
            failure = self._database.failure(error)
            in_doubt = self._database.is_shared and not isinstance(failure, ConflictError)
            if org is not None and in_doubt:
                org.is_stale = True
                self._loaded.pop(org.key, None)
            raise failure from error

    def size_bytes(self) -> int:
        """Size of the database, 0 for one in memory."""
        return self._database.size_bytes()

    def room_bytes(self) -> float:
        """Tell how much the database may grow; `inf` for one in memory."""
        return self._database.room_bytes()

    def close(self) -> None:
        """End the thread, and let the next process have the file; what is committed stays."""
        self.thread.shutdown(wait=not self._database.is_shared, cancel_futures=True)
        self._database.close()  # a shared one breaks off what waits for an answer
        self.thread.shutdown(wait=True)

    @in_thread
    def load(self, configured_id: str, *, walk_floor: float, lease: int | None = None) -> OrgLedger:
        """Load an org by its configured id, or make it, with the floor of a first contact.

        There is one `OrgLedger` of each, also when two entries of the configuration turn out to be
        the same org: with two, what one committed would be taken back by the other. Between
        replicas the `lease` sees to that: only under it anything is read or written.
        """
        return self._load(configured_id, walk_floor, lease)

    def _load(self, configured_id: str, walk_floor: float, lease: int | None) -> OrgLedger:
        column = schema.org.c.alias if configured_id == "c" else schema.org.c.org_id
        query = select(schema.org).where(column == configured_id)
        with self.transaction() as connection:
            # First of all, as in each transaction under a lease.
            leased = None if lease is None else check_lease(connection, lease, self._replica)
            row = connection.execute(query).first()
            if row is None:
                stored.add_org(connection, configured_id, walk_floor)
                row = connection.execute(query).one()
            if leased not in (None, row.org_id or "c"):
                raise LeaseLostError(f"the lease of {leased} is not that of {row.org_id}")
            org = self._loaded.get(row.org)
            if org is None:
                org = stored.load_org(connection, row, self.settings.bounds, self.room)
                if self.settings.workflows.leave_out_any:
                    names = select(_RUN.workflow_id).where(_RUN.org == org.key).distinct()
                    met = connection.execute(names).scalars()
                    org.left_out.update(filter(self.settings.workflows.leave_out, met))
        self._loaded[org.key] = org
        org.lease = lease
        return org

    @in_thread
    def unload(self, org: OrgLedger) -> None:
        """Forget what is in memory of an org that is not polled any more; its rows stay."""
        self._loaded.pop(org.key, None)

    @in_thread
    def sub_orgs(self) -> SubOrgRows:
        """Read the sub-orgs that are known of all orgs."""
        with self.transaction() as connection:
            return sub_orgs.read(connection)

    @in_thread
    def put_sub_orgs(self, parent: str, rows: Sequence[SubOrgRow], *, is_whole: bool) -> None:
        """Commit what an org lists; only when that `is_whole`, what it does not list goes."""
        with self.transaction() as connection:
            sub_orgs.put(connection, parent, rows, is_whole=is_whole)

    @in_thread
    def forget_texts(self) -> None:
        """Drop the error texts of the orgs that are not loaded: nobody polls, or shows, them."""
        if self._database.is_shared:
            return  # another replica may show what is not loaded here
        with self.transaction() as connection:
            stored.forget_texts(connection, but_of=self._loaded)

    @in_thread
    def identify(
        self, org: OrgLedger, org_id: str, *, walk_floor: float, was_foreign: bool = False
    ) -> OrgLedger | None:
        """Give the org of `c` the real id that its runs name; or the ledger that this id has.

        `was_foreign`: another entry had this id, so that these runs passed for that entry's, and
        the ledger of `c` says nothing of them: its id begins with an empty one. None: another
        replica polls the org of that id; all replicas know from now on that `c` is it.
        """
        with self.transaction(org, is_wide=True) as connection:
            is_ours = self._move_lease(connection, org, org_id)
            keeps = is_ours and not (was_foreign or stored.is_known(connection, org_id))
            if keeps:
                update_org(connection, org, org_id=org_id)
            else:
                stored.delete_org(connection, org)
                stored.let_c_be(connection, org_id, walk_floor)
        if not keeps:
            self._loaded.pop(org.key, None)
            return self._load(org_id, walk_floor, org.lease) if is_ours else None
        org.org_id = org_id
        org.named_by.clear()
        return org

    def _move_lease(self, connection: Connection, org: OrgLedger, org_id: str) -> bool:
        return org.lease is None or move_lease(connection, org.lease, org_id, self._replica)

    @in_thread
    def reassign(self, org: OrgLedger, org_id: str, *, walk_floor: float) -> OrgLedger | None:
        """Let `c` stand for another org; the one that it stood for keeps its rows.

        None: another replica polls that org.
        """
        with self.transaction(org, is_wide=True) as connection:
            is_ours = self._move_lease(connection, org, org_id)
            update_org(connection, org, alias=None)
            stored.let_c_be(connection, org_id, walk_floor)
        self._loaded.pop(org.key, None)
        return self._load(org_id, walk_floor, org.lease) if is_ours else None

    @in_thread
    def knows_any(self, org: OrgLedger, run_ids: Sequence[str]) -> bool:
        """Tell whether any of these runs is known in the org."""
        query = select(_RUN.run_id).where(_RUN.org == org.key, _RUN.run_id.in_(run_ids)).limit(1)
        with self.transaction(org) as connection:
            return connection.execute(query).first() is not None

    @in_thread
    def dissolve(self, org: OrgLedger, org_id: str, *, walk_floor: float) -> None:
        """Forget the ledger of `c`, whose org another entry of the configuration polls."""
        with self.transaction(org, is_wide=True) as connection:
            stored.delete_org(connection, org)
            if org.lease is not None:  # so that no other replica takes `c` for a third org
                stored.let_c_be(connection, org_id, walk_floor)
        self._loaded.pop(org.key, None)

    @in_thread
    def record(
        self,
        org: OrgLedger,
        runs: Sequence[Run],
        invalid: Sequence[InvalidRow],
        *,
        now: float,
        others: Mapping[str, float] = _NO_OTHERS,
        recovering: bool = False,
    ) -> Recorded:
        """Record one page in one transaction; afterwards `org` holds what was committed.

        One of `runs` may stand there twice. `others` are the other polled orgs, each with the time
        until which runs that name it are not its own (`OrgLedger.history_until`); `now` is our
        time, seconds since the epoch; `recovering`: only the reconciliation reads this page.
        """
        recorder = Recorder(
            self.settings,
            org,
            now,
            others,
            recovering=recovering,
            room=self.room,
            left_bytes=self._left_bytes,
        )
        with self.transaction(org) as connection:
            self._database.lock_runs(connection, [run.id for run in runs])
            recorder.record(connection, runs)
            recorder.record_invalid(connection, invalid)
            recorder.store(connection)
        return recorder.put_in_place()

    def _left_bytes(self) -> float:
        return self.room.left_bytes(sum(each.text_bytes for each in self._loaded.values()))

    @in_thread
    def complete(
        self,
        org: OrgLedger,
        scan: ScanState,
        *,
        absent: Iterable[str],
        contact_seconds: float | None = None,
    ) -> tuple[OpenGroup, ...]:
        """Settle a complete poll: the last transaction of it. Return what is open, as then.

        `absent` are open runs that a complete search did not find; `contact_seconds` is set when it
        was the first contact: when that was, by the API's clock.
        """
        walk = org.settled_walk + 1
        contact, floor = org.contact_seconds, org.floor_seconds
        contacted = org.contacted or contact_seconds is not None
        if contact_seconds is not None:
            contact = contact_seconds
            # By the API's clock, which may be far behind the one that the first walk went by.
            floor = min(floor, contact - self.settings.reconcile_window_seconds)
        counts = org.counts.draft()
        with self.transaction(org) as connection:
            for run_id in absent:
                where = and_(_RUN.org == org.key, _RUN.run_id == run_id)
                row = connection.execute(select(_RUN.absent, _RUN.workflow_id).where(where)).one()
                misses = row.absent + 1
                connection.execute(update(schema.run).where(where).values(absent=misses))
                is_counted = not self.settings.workflows.leave_out(row.workflow_id)
                counts.vanished += misses == VANISHED and is_counted
            update_org(
                connection,
                org,
                settled_walk=walk,
                scan=to_json(scan),
                contacted=int(contacted),
                contact=contact,
                floor=floor,
                counts=to_json(counts),
            )
            groups = _open_groups(connection, org)
        org.settled_walk, org.scan, org.counts = walk, scan, counts
        org.contacted, org.contact_seconds, org.floor_seconds = contacted, contact, floor
        return groups

    @in_thread
    def save_scan(self, org: OrgLedger, scan: ScanState) -> None:
        """Store where the reconciliation stands; settles nothing."""
        with self.transaction(org) as connection:
            update_org(connection, org, scan=to_json(scan))
        org.scan = scan

    @in_thread
    def open_runs(self, org: OrgLedger) -> dict[str, float]:
        """List the runs that were open when last seen, but vanished ones: id to creation time."""
        query = select(_RUN.run_id, _RUN.created).where(*_open(org))
        with self.transaction(org) as connection:
            return {row.run_id: row.created for row in connection.execute(query)}

    @in_thread
    def open_groups(self, org: OrgLedger) -> tuple[OpenGroup, ...]:
        """Count the open runs by their labels."""
        with self.transaction(org) as connection:
            return _open_groups(connection, org)

    @in_thread
    def window_from(self, org: OrgLedger, now: float) -> float:
        """Tell where the kept window begins: what is older is not looked for, and may be forgotten.

        It is behind the newest run, so an API whose clock is behind, or an org that sleeps, loses
        nothing.
        """
        with self.transaction(org) as connection:
            newest = stored.newest_created(connection, org)
        # A run that is newer may have come after the poll: it was not missed.
        org.missed_until = newest if newest < math.inf else -math.inf
        return min(now, newest) - self.settings.reconcile_window_seconds

    @in_thread
    def release(self, org: OrgLedger, groups: dict[str, list[str]]) -> None:
        """Commit that groups of series (by workflow) are shown at their value from now on."""
        drafts = {name: org.workflows[name].draft() for name in groups}
        for name, draft in drafts.items():
            draft.released += [group for group in groups[name] if group not in draft.released]
        with self.transaction(org) as connection:
            put_workflows(connection, org, drafts)
        org.workflows.update(drafts)

    @in_thread
    def prune(self, org: OrgLedger, now: float) -> bool:
        """Move the kept window, and delete a few rows that fell out; True when more are left.

        The floor moves first: a row is deleted only when an unknown run created then is history.
        """
        window = self.settings.reconcile_window_seconds
        with self.transaction(org) as connection:
            floor = max(
                org.floor_seconds, min(now, stored.newest_created(connection, org)) - window
            )
            fallen = (
                _RUN.org == org.key,
                # By each of its times: another may be all that can be read of it later.
                _RUN.created < floor,
                _RUN.since < floor,
                or_(_RUN.updated.is_(None), _RUN.updated < floor),
                _RUN.seen < now - window,
                or_(_RUN.final, ~_RUN.owned),
                # Without any time of the API's it would pass for a new run whenever it is listed.
                _RUN.since != NEVER_SECONDS,
            )
            ids = select(_RUN.run_id).where(*fallen).limit(_PRUNE_ROWS)
            doomed = [{"doomed": run_id} for run_id in connection.execute(ids).scalars()]
            if doomed:
                update_org(connection, org, floor=floor)
                where = and_(_RUN.org == org.key, _RUN.run_id == bindparam("doomed"))
                connection.execute(delete(schema.run).where(where), doomed)
            table = schema.invalid
            is_old = and_(table.c.org == org.key, table.c.seen < now - 2 * window)
            connection.execute(delete(table).where(is_old))
        if doomed:
            org.floor_seconds = floor
        return len(doomed) == _PRUNE_ROWS


def _open(org: OrgLedger) -> tuple[Any, ...]:
    return _RUN.org == org.key, ~_RUN.final, _RUN.owned, _RUN.absent < VANISHED


def _open_groups(connection: Connection, org: OrgLedger) -> tuple[OpenGroup, ...]:
    labels = (_RUN.workflow_id, _RUN.origin, _RUN.status)
    query = select(*labels, func.count(), func.min(_RUN.since)).where(*_open(org))
    return tuple(OpenGroup(*row) for row in connection.execute(query.group_by(*labels)))
