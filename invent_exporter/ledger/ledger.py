"""Counts each run once: what is new on a page, what it adds, in one transaction.

The argument. A run is counted in the transaction that inserts its row as final, or turns its open
row into a final one. The row is kept while the run can still be met as unknown: as long as it was
created after the org's *floor*, below which an unknown final run is history. So no page, however
often it is read, in whatever order, after whatever crash, counts a run twice. The numbers that
are published are those that a transaction committed; `record` works on copies and puts them in
place only after the commit.

A row is *settled* when a complete poll came after its last change. Only settled rows may stop a
scan, so a walk that broke off hides nothing: its rows are committed, and counted, but not settled.
`complete` settles, by moving one number; it is the last transaction of a poll.

All methods block on the disk and belong to one thread. Longer than most modules: every transaction
but a page's own drafts is here, each with its argument.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update

from invent_exporter.api.models import NEVER_SECONDS
from invent_exporter.ledger import sqlite as db
from invent_exporter.ledger.counts import OrgCounts, WorkflowCounts
from invent_exporter.ledger.recorder import (
    InvalidRow,
    LedgerSettings,
    OrgLedger,
    Page,
    Recorded,
    store_workflows,
    to_json,
)
from invent_exporter.scan.poll import ScanState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from invent_exporter.api.models import Run

VANISHED = 2
"""Complete searches without a run, after which it counts as vanished."""
_PRUNE_ROWS = 500


class OpenGroup(msgspec.Struct, frozen=True):
    """Open runs with the same labels, and since when the oldest is in that status."""

    workflow_id: str
    origin: str
    status: str
    runs: int
    oldest_timestamp_seconds: float


class Ledger:
    """The ledgers of all orgs, in one database."""

    def __init__(self, database: db.Database, settings: LedgerSettings) -> None:
        """Take an open database; `settings` hold from now on."""
        self.database = database
        self.settings = settings
        self._loaded: dict[int, OrgLedger] = {}

    # -- orgs

    def load(self, configured_id: str, *, walk_floor: float) -> OrgLedger:
        """Load an org by its configured id, or make it, with the floor of a first contact.

        There is one `OrgLedger` of each, also when two entries of the configuration turn out to be
        the same org: with two, what one committed would be taken back by the other.
        """
        with self.database.engine.begin() as connection:
            column = db.org.c.alias if configured_id == "c" else db.org.c.org_id
            query = select(db.org).where(column == configured_id)
            row = connection.execute(query).first()
            if row is None:
                _insert_org(connection, configured_id, walk_floor)
                row = connection.execute(query).one()
            if row.org in self._loaded:
                return self._loaded[row.org]
            org = OrgLedger(row)
            self._load_workflows(connection, org)
        self._loaded[org.key] = org
        return org

    def _load_workflows(self, connection: Connection, org: OrgLedger) -> None:
        rows = connection.execute(select(db.workflow).where(db.workflow.c.org == org.key))
        changed = []
        for row in rows:
            if row.counts is None:
                org.folded.add(row.workflow_id)
                continue
            counts = msgspec.json.decode(row.counts, type=WorkflowCounts)
            if counts.rebucket(self.settings.bounds):
                changed.append(row.workflow_id)
            org.workflows[row.workflow_id] = counts
        store_workflows(
            connection, org, {name: org.workflows[name] for name in changed}, set(), set()
        )

    def identify(
        self, org: OrgLedger, org_id: str, *, walk_floor: float, was_foreign: bool = False
    ) -> OrgLedger:
        """Give the org of `c` its real id; or the ledger that this id already has.

        Args:
            org: the ledger of `c`.
            org_id: the id that its runs name.
            walk_floor: the floor of a first contact.
            was_foreign: another entry had this id, so that these runs passed for that entry's, and
                the ledger of `c` says nothing of them: its id begins with an empty one.

        """
        with self.database.engine.begin() as connection:
            by_id = db.org.c.org_id == org_id
            is_known = connection.execute(select(db.org).where(by_id)).first() is not None
            keeps = not (is_known or was_foreign)
            if keeps:
                connection.execute(
                    update(db.org).where(db.org.c.org == org.key).values(org_id=org_id)
                )
            else:
                _delete(connection, org)
                if not is_known:
                    _insert_org(connection, org_id, walk_floor)
                connection.execute(update(db.org).where(by_id).values(alias="c"))
        if keeps:
            org.org_id = org_id
            org.named_by.clear()
            return org
        del self._loaded[org.key]
        return self.load(org_id, walk_floor=walk_floor)

    def dissolve(self, org: OrgLedger) -> None:
        """Forget the ledger of `c`, whose org another entry of the configuration polls."""
        with self.database.engine.begin() as connection:
            _delete(connection, org)
        del self._loaded[org.key]

    # -- pages

    def record(
        self,
        org: OrgLedger,
        runs: Sequence[Run],
        invalid: Sequence[InvalidRow],
        *,
        now: float,
        other_org_ids: frozenset[str] = frozenset(),
        recovering: bool = False,
    ) -> Recorded:
        """Record one page in one transaction; afterwards `org` holds what was committed.

        Args:
            org: whose listing the page is of.
            runs: the page's readable runs; one may stand there twice.
            invalid: the runs that could not be read.
            now: our time, seconds since the epoch.
            other_org_ids: the other polled orgs, whose runs are theirs.
            recovering: the page is one that only the reconciliation reads.

        """
        page = Page(self.settings, org, now, other_org_ids, recovering=recovering)
        with self.database.engine.begin() as connection:
            page.record(connection, runs)
            page.record_invalid(connection, invalid)
            page.store(connection)
        page.put_in_place()
        return page.recorded

    def complete(
        self, org: OrgLedger, scan: ScanState, *, absent: Iterable[str], contact: bool
    ) -> int:
        """Settle a complete poll: the last transaction of it. Return how many runs vanished.

        Args:
            org: the org that was polled.
            scan: what the scan learned.
            absent: open runs that a complete search did not find.
            contact: the poll was the first contact.

        """
        walk = org.settled_walk + 1
        counts = org.counts.draft()
        floor = org.floor_seconds
        if contact and org.newest_seconds is not None and org.newest_seconds < floor:
            # The API's clock is behind ours, or the org sleeps: what comes next may be as old.
            floor = math.nextafter(org.newest_seconds, math.inf)
        vanished = 0
        with self.database.engine.begin() as connection:
            for run_id in absent:
                where = and_(db.run.c.org == org.key, db.run.c.run_id == run_id)
                misses = connection.execute(select(db.run.c.absent).where(where)).scalar_one() + 1
                connection.execute(update(db.run).where(where).values(absent=misses))
                vanished += misses == VANISHED
            counts.vanished += vanished
            connection.execute(
                update(db.org)
                .where(db.org.c.org == org.key)
                .values(
                    settled_walk=walk,
                    scan=to_json(scan),
                    contacted=1 if contact else db.org.c.contacted,
                    floor=floor,
                    counts=to_json(counts),
                )
            )
        org.settled_walk, org.scan, org.counts = walk, scan, counts
        org.contacted = org.contacted or contact
        org.floor_seconds = floor
        return vanished

    def save_scan(self, org: OrgLedger, scan: ScanState) -> None:
        """Store where the reconciliation stands; settles nothing."""
        with self.database.engine.begin() as connection:
            connection.execute(
                update(db.org).where(db.org.c.org == org.key).values(scan=to_json(scan))
            )
        org.scan = scan

    def open_runs(self, org: OrgLedger) -> dict[str, float]:
        """List the runs that were open when last seen, but vanished ones: id to creation time."""
        query = select(db.run.c.run_id, db.run.c.created).where(
            *_open(org), db.run.c.absent < VANISHED
        )
        with self.database.engine.connect() as connection:
            return {row.run_id: row.created for row in connection.execute(query)}

    def open_groups(self, org: OrgLedger) -> tuple[OpenGroup, ...]:
        """Count the open runs by their labels."""
        labels = (db.run.c.workflow_id, db.run.c.origin, db.run.c.status)
        query = (
            select(*labels, func.count(), func.min(db.run.c.since))
            .where(*_open(org), db.run.c.absent < VANISHED)
            .group_by(*labels)
        )
        with self.database.engine.connect() as connection:
            rows = connection.execute(query).all()
        return tuple(OpenGroup(*row) for row in rows)

    # -- releases, the kept window

    def window_from(self, org: OrgLedger, now: float) -> float:
        """Tell where the kept window begins: what is older is not looked for, and may be forgotten.

        The whole window behind the newest run, so that an API whose clock is behind, or an org that
        sleeps, loses nothing.
        """
        query = select(func.max(db.run.c.created)).where(db.run.c.org == org.key)
        with self.database.engine.connect() as connection:
            newest = connection.execute(query).scalar()
        latest = now if newest is None else min(now, newest)
        return latest - self.settings.reconcile_window_seconds

    def release(self, org: OrgLedger, groups: dict[str, list[str]]) -> None:
        """Commit that groups of series (by workflow) are shown at their value from now on."""
        drafts = {}
        for name, names in groups.items():
            draft = org.workflows[name].draft()
            draft.released = [*draft.released, *names]
            drafts[name] = draft
        with self.database.engine.begin() as connection:
            store_workflows(connection, org, drafts, set(), set())
        org.workflows.update(drafts)

    def prune(self, org: OrgLedger, now: float) -> bool:
        """Move the kept window, and delete a few rows that fell out; True when more are left.

        The floor moves first: a row is deleted only when an unknown run created then is history.
        """
        window = self.settings.reconcile_window_seconds
        floor = max(org.floor_seconds, self.window_from(org, now))
        with self.database.engine.begin() as connection:
            fallen = (
                db.run.c.org == org.key,
                db.run.c.created < floor,
                db.run.c.seen < now - window,
                or_(db.run.c.final == 1, db.run.c.owned == 0),
                # Without any time of the API's it would pass for a new run whenever it is listed.
                db.run.c.since != NEVER_SECONDS,
            )
            doomed = (
                connection.execute(select(db.run.c.run_id).where(*fallen).limit(_PRUNE_ROWS))
                .scalars()
                .all()
            )
            if floor > org.floor_seconds and doomed:
                connection.execute(
                    update(db.org).where(db.org.c.org == org.key).values(floor=floor)
                )
            if doomed:
                connection.execute(
                    delete(db.run).where(
                        db.run.c.org == org.key, db.run.c.run_id == bindparam("doomed")
                    ),
                    [{"doomed": run_id} for run_id in doomed],
                )
            connection.execute(
                delete(db.invalid).where(
                    db.invalid.c.org == org.key, db.invalid.c.seen < now - 2 * window
                )
            )
        if doomed:
            org.floor_seconds = floor
            self.database.give_back_pages()
        return len(doomed) == _PRUNE_ROWS


def _insert_org(connection: Connection, configured_id: str, walk_floor: float) -> None:
    connection.execute(
        insert(db.org).values(
            org_id=None if configured_id == "c" else configured_id,
            alias="c" if configured_id == "c" else None,
            settled_walk=0,
            contacted=0,
            floor=walk_floor,
            scan=to_json(ScanState()),
            counts=to_json(OrgCounts()),
        )
    )


def _delete(connection: Connection, org: OrgLedger) -> None:
    for table in (db.run, db.workflow, db.invalid, db.org):
        connection.execute(delete(table).where(table.c.org == org.key))


def _open(org: OrgLedger) -> tuple[Any, ...]:
    return (db.run.c.org == org.key, db.run.c.final == 0, db.run.c.owned == 1)
