"""Takes one page into the ledger: what each run is, and what it adds, in one transaction.

Longer than most modules: what a run can be when it is met, and what each case adds, is one
decision, and is read best in one place.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, func, select, tuple_

from invent_exporter.api.models import TIMED_STATUSES, Run, escape
from invent_exporter.config.workflows import Workflows
from invent_exporter.ledger import schema
from invent_exporter.ledger.counts import Bounds, FailedRun, WorkflowCounts, series_key
from invent_exporter.ledger.org import OrgLedger, WorkflowDrafts, to_json, update_org
from invent_exporter.ledger.readings import (
    created_of,
    credits_of,
    more_steps,
    since_of,
    steps_of,
)
from invent_exporter.ledger.recorded import InvalidRow, Recorded
from invent_exporter.ledger.room import TextRoom
from invent_exporter.ledger.schema import RunRow
from invent_exporter.scan.order import RowFact, is_dated, row_signature

KEPT_FAILED_RUNS = 50
_ERROR_LENGTH = 300
_RUN, _INVALID = schema.run.c, schema.invalid.c


class LedgerSettings(msgspec.Struct, frozen=True):
    """What of the configuration decides how runs are counted."""

    bounds: Bounds
    max_workflows: int
    step_credits: bool
    reconcile_window_seconds: float
    workflows: Workflows = Workflows()


class Recorder:
    """One page on its way into the ledger: drafts of all it changes, put in place after the commit.

    On any error they are dropped, and nothing has changed.
    """

    def __init__(
        self,
        settings: LedgerSettings,
        org: OrgLedger,
        now: float,
        others: Mapping[str, float],
        *,
        recovering: bool,
        room: TextRoom,
        left_bytes: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._org = org
        self._now = now
        self._others = others
        self._missed_until = org.missed_until if recovering else -math.inf
        self._way = "reconciliation" if recovering else "poll" if org.contacted else "contact"
        self._walk = org.settled_walk + 1
        self._workflows = WorkflowDrafts(
            org, settings.bounds, settings.max_workflows, room, left_bytes
        )
        self._counts = org.counts.draft()
        self._given_up: list[RunRow] = []
        self._inserted: dict[str, RunRow] = {}
        self._updated: dict[str, RunRow] = {}
        self._left_out: set[str] = set()
        self.recorded = Recorded()

    def record(self, connection: Connection, runs: Sequence[Run]) -> None:
        """Draw up what the page's runs change."""
        if self._org.org_id is None:
            # Also a run that is not kept: it may be all that says which org `c` is.
            self._org.named_by.update((run.id, run.org_id) for run in runs if run.org_id)
            self._counts.named = self._org.likely_org_id()
        known, elsewhere = self._look_up(connection, runs)
        timeless: set[str] = set()
        # In the order in which runs ended, so that streaks need no second look within a page.
        for run in sorted(runs, key=lambda run: (run.concluded, run.id)):
            row = known.get(run.id)
            if row is None and run.told_time is None:
                timeless.add(run.id)
            elif row is None:
                if not self._is_below_floor(run):
                    foreign = self._is_foreign(run) or run.id in elsewhere
                    known[run.id] = self._meet(connection, run, owned=not foreign)
            elif not row.final:
                self._follow(connection, run, row)
            elif run.is_final or row.counted:
                self._meet_again(run, row)
            else:
                self._open_again(connection, run, row)
        # Without any time it can't be told from history, unless it is known.
        self.recorded.timeless = sorted(timeless)
        self.record_invalid(connection, [InvalidRow(run_id, "time") for run_id in sorted(timeless)])
        self.recorded.facts = [
            self._fact(run, known.get(run.id)) for run in runs if run.id not in timeless
        ]
        # Those that only the reconciliation found were in the count before.
        recovered = self._counts.recovered - self._org.counts.recovered
        self._counts.met += len(self._inserted) - recovered

    def _look_up(
        self, connection: Connection, runs: Sequence[Run]
    ) -> tuple[dict[str, RunRow], set[str]]:
        known: dict[str, RunRow] = {}
        elsewhere: set[str] = set()
        found = connection.execute(_LOOK_UP, {"ids": [run.id for run in runs]})
        rows = [RunRow(*columns) for columns in found]
        known.update((row.run_id, row) for row in rows if row.org == self._org.key)
        foreign = [row for row in rows if row.org != self._org.key and row.owned]
        names = _names(connection, {row.org for row in foreign})
        for row in foreign:
            polled_as = names[row.org]
            if polled_as is not None and (row.final or polled_as in self._others):
                # A `c` that is not known yet may turn out to be this org, and is forgotten then.
                elsewhere.add(row.run_id)
            elif polled_as is not None:
                # Nobody polls the org that followed it: from now on this one does.
                row.owned = False
                self._given_up.append(row)
        for row in self._given_up:
            mine = known.get(row.run_id)
            if mine is not None and not mine.owned:
                mine.owned = self.recorded.news = True
                mine.final = False  # its org did not see it end: it counts here
                self._updated[mine.run_id] = mine
                if not self._settings.workflows.leave_out(mine.workflow_id):
                    self._workflows.draft(mine.workflow_id)
        return known, elsewhere

    def _is_below_floor(self, run: Run) -> bool:
        """Tell whether a final run is wholly before the kept window: history, not to be kept."""
        floor, first = self._org.floor_seconds, run.first_time
        if not run.is_final or first is None or first >= floor:
            return False
        return all(time is None or time < floor for time in (run.updated, run.ended))

    def _is_foreign(self, run: Run) -> bool:
        """Tell whether a run that is not known is the one of another polled org, that it names."""
        history_until = self._others.get(run.org_id, math.inf) if run.org_id else math.inf
        time = math.inf if not run.is_final or run.told_time is None else run.told_time
        return history_until < math.inf and time > history_until

    def _is_history(self, run: Run) -> bool:
        """Tell whether a run that is not known ended before first contact, or left the window."""
        first, time = run.first_time, run.told_time
        if not self._org.contacted or first is None or time is None:
            return True
        return first < self._org.floor_seconds or time <= self._org.history_until

    def _fact(self, run: Run, row: RunRow | None) -> RowFact:
        settled = row is None or (row.walk <= self._org.settled_walk and row.updated == run.updated)
        return RowFact(
            run.id,
            run.created,
            run.updated,
            is_open=not run.is_final and (row is None or not row.final),
            owned=row is not None and row.owned,
            settled=settled,
            signature=row_signature(run),
            is_new=run.id in self._inserted,
            is_dated=is_dated(run),
        )

    # -- a run that is not known yet

    def _meet(self, connection: Connection, run: Run, *, owned: bool) -> RunRow:
        created = self._now if run.first_time is None else run.first_time
        is_history = self._is_history(run)
        counts_here = owned and not self._leave_out(run)
        counted = counts_here and run.is_final and not is_history
        row = RunRow(
            run_id=run.id,
            org=self._org.key,
            workflow_id=run.workflow_label,
            origin=run.origin_label,
            status=run.status_label,
            final=run.is_final,
            owned=owned,
            counted=counted,
            walk=self._walk,
            created=created,
            since=since_of(run, self._now),
            updated=run.updated,
            seen=self._now,
            met=self._now,
            met_by=self._way,
        )
        if counts_here:
            counts = self._workflows.draft(run.workflow_label)
            counts.learn(run)
            if not is_history:
                counts.submit(run)
                # One of the very moment of the newest may have come behind it.
                self._counts.recovered += created < self._missed_until
            if counted:
                self._count(connection, run, row, counts)
            elif run.is_final:
                self._conclude(connection, run, counts)
                if run.status_label == "FAILED":
                    self.recorded.history_failed += 1
                    self._keep_failed(run)
        self._inserted[run.id] = row
        self.recorded.news = True
        return row

    def _count(self, connection: Connection, run: Run, row: RunRow, counts: WorkflowCounts) -> None:
        """Count a run with its first final status: the one place where it happens."""
        counts.finish(run)
        self._conclude(connection, run, counts)
        row.counted, row.counted_at = True, self._now
        if run.status_label in TIMED_STATUSES:
            row.duration, row.queue = run.duration_seconds, run.queue_seconds
        self._counts.note_hour(row.since, self._now, row.status, 0.0)
        self._spend(run, row, counts)
        for name in run.unreadable:
            self._counts.unreadable[name] = self._counts.unreadable.get(name, 0) + 1
        if run.unreadable:
            self.recorded.odd.append(run)
        self.recorded.finished.append(run)
        if run.status_label == "FAILED":
            self._keep_failed(run)

    def _conclude(self, connection: Connection, run: Run, counts: WorkflowCounts) -> None:
        moment = counts.conclude(run)
        if moment is None:
            return
        query = select(func.count()).where(
            _RUN.org == self._org.key,
            _RUN.workflow_id == run.workflow_label,
            _RUN.status == "FAILED",
            _RUN.owned,
            tuple_(_RUN.since, _RUN.run_id) > moment,
        )
        counts.consecutive_failures = connection.execute(query).scalar_one()

    def _leave_out(self, run: Run) -> bool:
        """Tell whether nobody wants this workflow's runs counted; what is final now never is."""
        is_left_out = self._settings.workflows.leave_out(run.workflow_label)
        if is_left_out:
            self._left_out.add(run.workflow_label)
        return is_left_out

    # -- a run that is known as open

    def _follow(self, connection: Connection, run: Run, row: RunRow) -> None:
        if run.is_final:
            row.final = True
            row.status = run.status_label
            row.origin = run.origin_label
            row.workflow_id = run.workflow_label
            row.since = since_of(run, self._now)
            if row.owned and not self._leave_out(run):
                counts = self._workflows.draft(run.workflow_label)
                counts.learn(run)
                self._count(connection, run, row, counts)
        else:
            status = run.status_label
            # Without a time of the API's it is in its status since it was first seen there.
            since = since_of(run, row.since if status == row.status else self._now)
            # A start that is told late, or revised, need not come with another time of update.
            now_known = (status, since, run.updated, 0, created_of(run, row))
            if now_known == (row.status, row.since, row.updated, row.absent, row.created):
                return
            row.status, row.since = status, since
        row.absent = 0
        self._touch(run, row)

    # -- a run that is known as final

    def _open_again(self, connection: Connection, run: Run, row: RunRow) -> None:
        """Let history go on: it counts when it ends, and has not failed until then."""
        if row.owned and row.status == "FAILED" and not self._leave_out(run):
            self._workflows.draft(row.workflow_id).take_back_failure((row.since, row.run_id))
            kept = filter(lambda failed: failed.run_id != row.run_id, self._counts.failed)
            self._counts.failed = list(kept)
        row.final = False
        self._follow(connection, run, row)

    def _meet_again(self, run: Run, row: RunRow) -> None:
        """Follow late or revised usage and a revised status; the run is never counted again."""
        changed = run.is_final and (run.updated, created_of(run, row)) != (row.updated, row.created)
        if row.counted and run.is_final and row.revised is None and run.status_label != row.status:
            self._counts.revised += 1
            row.revised = run.status_label
            changed = True
        is_new = (row.credits_ai, row.credits_other) != credits_of(run, row) or (
            self._settings.step_credits and more_steps(run, row)
        )
        if row.counted and run.credits is not None and is_new:
            self._spend(run, row, self._workflows.draft(row.workflow_id))
            changed = True
        if changed:
            self._touch(run, row)

    def _spend(self, run: Run, row: RunRow, counts: WorkflowCounts) -> None:
        """Add what usage grew by; what it shrank by goes to the corrections."""
        spent = credits_of(run, row)
        if spent is None:
            return
        key = series_key(row.origin, row.status)
        if row.credits_ai is None or row.credits_other is None:
            growth = spent
            counts.spend_first(key, run)
        else:
            growth = (spent[0] - row.credits_ai, spent[1] - row.credits_other)
            counts.spend(key, *growth)
            self._counts.credit_corrections += sum(-part for part in growth if part < 0)
        burned = max(0.0, growth[0]) + max(0.0, growth[1])
        self._counts.note_hour(row.since, self._now, None, burned)
        row.credits_ai, row.credits_other = spent
        if self._settings.step_credits:
            before, more = steps_of(row), more_steps(run, row)
            for step, total in more.items():
                counts.spend_step(escape(step), total - before.get(step, 0.0))
            row.steps = to_json(before | more)

    def _keep_failed(self, run: Run) -> None:
        failed = FailedRun(
            run.id,
            run.workflow_label,
            run.ended,
            (run.error or "")[:_ERROR_LENGTH],
            run.origin_label,
            run.duration_seconds,
            run.credits_total,
        )
        insort(self._counts.failed, failed, key=lambda failed: failed.ended_seconds or 0.0)
        del self._counts.failed[:-KEPT_FAILED_RUNS]

    def _touch(self, run: Run, row: RunRow) -> None:
        """Take the row's change into the transaction; it is unsettled until a complete poll."""
        row.updated = run.updated
        row.created = created_of(run, row)
        row.walk = self._walk
        row.seen = self._now
        self.recorded.news = True
        if run.id not in self._inserted:
            self._updated[run.id] = row

    def record_invalid(self, connection: Connection, invalid: Sequence[InvalidRow]) -> None:
        """Count each unreadable run once for each id and reason."""
        fresh_from = self._now - self._settings.reconcile_window_seconds / 2
        for row in dict.fromkeys(invalid):
            key = (self._org.key, row.key, row.reason)
            is_it = tuple_(_INVALID.org, _INVALID.run_key, _INVALID.reason) == key
            seen = connection.execute(select(_INVALID.seen).where(is_it)).scalar()
            if seen is None:
                self._counts.met += 1
                self._counts.invalid[row.reason] = self._counts.invalid.get(row.reason, 0) + 1
                self.recorded.invalid.append(row)
            if seen is None or seen < fresh_from:
                schema.put(connection, schema.invalid, [(*key, self._now)])

    def store(self, connection: Connection) -> None:
        """Write the drafts."""
        rows = [*self._inserted.values(), *self._updated.values(), *self._given_up]
        schema.put(connection, schema.run, [msgspec.structs.astuple(row) for row in rows])
        self._workflows.store(connection)
        if self._counts != self._org.counts:
            update_org(connection, self._org, counts=to_json(self._counts))

    def put_in_place(self) -> Recorded:
        """After the commit: let the drafts be what is published."""
        self.recorded.changed = self._workflows.put_in_place()
        self._org.counts = self._counts
        self._org.left_out |= self._left_out
        return self.recorded


_LOOK_UP = select(schema.run).where(_RUN.run_id.in_(bindparam("ids", expanding=True)))
"""Without the orgs' names, which most pages need not: who reads `org` meets all who write to it."""


def _names(connection: Connection, orgs: set[int]) -> dict[int, str | None]:
    """Look up the ids of orgs by their keys."""
    query = select(schema.org.c.org, schema.org.c.org_id).where(schema.org.c.org.in_(orgs))
    return {row.org: row.org_id for row in connection.execute(query)} if orgs else {}
