"""The simulated orgs and their runs. No HTTP.

A world moves only in `advance`: what happens, and when, depends on the seed alone and not on how
often it is advanced. Tests can stop its own traffic (`automatic`) and make runs by hand. Every
public method holds one lock, so that a test and a server's thread can share a world.

It is longer than other modules because each thing that a test may do to a run is a method here.
"""

from __future__ import annotations

import threading
import time
from random import Random
from typing import TYPE_CHECKING

from invent_exporter.simulator.listing import Shelf
from invent_exporter.simulator.orgs import Org, Orgs
from invent_exporter.simulator.runs import (
    FINAL,
    Origin,
    Run,
    Shape,
    Status,
    Usage,
    make_shape,
)
from invent_exporter.simulator.spoil import ODD_KINDS
from invent_exporter.simulator.traffic import Happening, Traffic
from invent_exporter.simulator.truth import Truth, tell_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from invent_exporter.simulator.listing import Order, Query
    from invent_exporter.simulator.spoil import SpoilKind
    from invent_exporter.simulator.workflows import Workflow

_MILLISECOND = 0.001


class World:
    """Orgs, workflows and runs that come, start and end."""

    def __init__(
        self,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        *,
        history_seconds: float = 0.0,
        pace: float = 1.0,
        resolution_seconds: float = _MILLISECOND,
        odd_every: int | None = None,
    ) -> None:
        """Begin `history_seconds` before now; `pace` multiplies how often runs arrive.

        Times are whole multiples of `resolution_seconds`. Each so-manyth run that arrives has one
        odd field, of each kind in turn.
        """
        self.seed = seed
        self.clock = clock
        self.lock = threading.RLock()
        self.opened_at = clock()
        self.resolution_seconds = resolution_seconds
        self._odd_every = odd_every
        self._arrived = 0
        self._random = Random(f"{seed}:by hand")
        self._orgs = Orgs()
        self._shelves: dict[str, Shelf] = {}
        self._shapes: dict[tuple[str | None, int], Shape] = {}
        self._runs: dict[str, Run] = {}
        self._sequence = 0
        self._traffic = Traffic(
            seed, begun_at=self.opened_at - history_seconds, opened_at=self.opened_at, pace=pace
        )

    # Orgs and workflows

    def add_org(self, org: Org) -> None:
        """Add an org, or change the one with its id; one that comes back has its runs."""
        with self.lock:
            self._orgs.put(org)
            self._shelves.setdefault(org.id, Shelf())

    def remove_org(self, org_id: str) -> None:
        """Let nobody read an org any more; its runs go on."""
        with self.lock:
            self._orgs.remove(org_id)

    @property
    def orgs(self) -> tuple[Org, ...]:
        """All orgs, in the order in which they were added."""
        with self.lock:
            return self._orgs.all()

    def find_org(self, org_id: str) -> Org | None:
        """Find an org by its id."""
        return self._orgs.get(org_id)

    def org_of_key(self, key: str) -> Org | None:
        """Find the org that a key was made in."""
        return self._orgs.of_key(key)

    def add_workflow(self, workflow: Workflow) -> None:
        """Add a workflow whose runs the world makes by itself."""
        with self.lock:
            self._shapes[workflow.id, 1] = make_shape(
                workflow.id, steps=workflow.steps, output_bytes=workflow.output_bytes, version=1
            )
            self._traffic.add(workflow)

    @property
    def pace(self) -> float:
        """How much more often than their own rate workflows run."""
        return self._traffic.pace

    @pace.setter
    def pace(self, pace: float) -> None:
        with self.lock:
            self.advance()
            self._traffic.change_pace(pace, self.clock())

    @property
    def automatic(self) -> bool:
        """Whether the world makes traffic by itself; while it does not, its plans stand still."""
        return not self._traffic.is_paused

    @automatic.setter
    def automatic(self, wanted: bool) -> None:
        with self.lock:
            if wanted:
                self._traffic.resume(self.clock())
            else:
                self.advance()
                self._traffic.pause(self.clock())

    def advance(self, now: float | None = None) -> None:
        """Let everything happen that is planned up to `now` (seconds since the epoch)."""
        with self.lock:
            for happening in self._traffic.due(self.clock() if now is None else now):
                self._happen(happening)

    def _happen(self, happening: Happening) -> None:
        workflow, plan, at = happening.workflow, happening.plan, happening.at
        if happening.kind == "arrive":
            self.add_run(
                run_id=plan.run_id,
                org_id=workflow.org_id,
                workflow_id=workflow.id,
                origin=plan.origin,
                created_at=at,
                spoiled=self._oddness(),
            )
            return
        run = self._find(plan.run_id)
        if run.removed_at is not None:
            return
        # A test may have moved one of the world's own runs by hand meanwhile.
        if happening.kind == "start" and run.status == "PENDING":
            self.start_run(run.id, at=at)
        elif happening.kind == "end" and not run.is_final:
            usage = None if plan.usage_after else plan.usage
            self.finish_run(run.id, plan.status, usage=usage, error=plan.error, at=at)
        elif happening.kind == "usage" and plan.usage is not None:
            self.revise_usage(run.id, plan.usage, at=at)

    def _oddness(self) -> SpoilKind | None:
        self._arrived += 1
        if self._odd_every is None or self._arrived % self._odd_every:
            return None
        return ODD_KINDS[self._arrived // self._odd_every % len(ODD_KINDS)]

    # Runs by hand

    def add_run(
        self,
        *,
        org_id: str | None = None,
        workflow_id: str | None = "wf-manual",
        origin: Origin = "WORKFLOW",
        status: Status = "PENDING",
        created_at: float | None = None,
        started_at: float | None = None,
        ended_at: float | None = None,
        updated_at: float | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        version: int = 1,
        also_in: Sequence[str] = (),
        hidden: bool = False,
        fields: dict[str, object] | None = None,
        spoiled: SpoilKind | None = None,
        run_id: str | None = None,
    ) -> str:
        """Make a run in any state and return its id; the first org unless another is named.

        Times default to what fits the status, around now. `fields` overrides what the listing
        says of any field: null, nonsense, or `msgspec.UNSET` for a missing one; the truth keeps
        the sane values.
        """
        with self.lock:
            now = self.clock()
            created = self._told(now if created_at is None else created_at)
            is_final = status in FINAL
            if started_at is None and status not in ("PENDING", "SKIPPED"):
                started_at = created
            if ended_at is None and is_final:
                ended_at = max(now, started_at or created)
            latest = max(t for t in (created, started_at, ended_at) if t is not None)
            self._sequence += 1
            org = self._orgs.all()[0].id if org_id is None else org_id
            run = Run(
                id=f"run_{self._random.getrandbits(96):024x}" if run_id is None else run_id,
                status=status,
                origin=origin,
                created_at=created,
                started_at=None if started_at is None else self._told(started_at),
                ended_at=None if ended_at is None else self._told(ended_at),
                updated_at=self._told(latest if updated_at is None else updated_at),
                org_id=org,
                workflow_id=workflow_id,
                version=version,
                error=error,
                usages=() if usage is None else (usage,),
                listed_in=(org, *also_in),
                hidden=hidden,
                fields=fields or {},
                spoiled=spoiled,
                shape=self._shape(workflow_id, version),
                sequence=self._sequence,
                first_final=status if is_final else None,
                final_at=max(created, now) if is_final else None,
            )
            if run.id in self._runs:
                message = f"there is a run with the id {run.id!r} already"
                raise ValueError(message)
            self._runs[run.id] = run
            self._list(run)
            return run.id

    def add_finished(self, runs: Sequence[Run]) -> None:
        """Add many ready-made runs of one org at once; for benchmarks (`add_many`)."""
        with self.lock:
            self._runs.update((run.id, run) for run in runs)
            for org_id in runs[0].listed_in:
                self._shelves[org_id].put_many(runs)

    def start_run(self, run_id: str, *, at: float | None = None) -> None:
        """Let a run go from PENDING to RUNNING."""
        with self.lock:
            moment = self._moment(at)
            self._change(run_id, status="RUNNING", started_at=moment, updated_at=moment)

    def finish_run(
        self,
        run_id: str,
        status: Status = "COMPLETED",
        *,
        usage: Usage | None = None,
        error: str | None = None,
        at: float | None = None,
    ) -> None:
        """Give a run a final status; on a finished run this revises its status."""
        if status not in FINAL:
            message = f"{status} is not a final status"
            raise ValueError(message)
        with self.lock:
            run, moment = self._find(run_id), self._moment(at)
            if run.first_final is None:
                # By the world's clock, not by `at`: this is when the listing began to say so.
                self._change(
                    run_id,
                    first_final=status,
                    final_at=moment if self._traffic.has_planned(run_id) else self.clock(),
                    ended_at=moment,
                )
            if usage is not None:
                self._use(run, usage, moment)
            self._change(run_id, status=status, error=error, updated_at=moment)

    def revise_usage(self, run_id: str, usage: Usage, *, at: float | None = None) -> None:
        """Let a run's usage appear or change."""
        with self.lock:
            moment = self._moment(at)
            self._use(self._find(run_id), usage, moment)
            self._change(run_id, updated_at=moment)

    def remove_run(self, run_id: str) -> None:
        """Let a run vanish from the listing for good; the truth remembers it."""
        with self.lock:
            self._change(run_id, removed_at=self.clock())

    def hide_run(self, run_id: str) -> None:
        """Leave a run out of the listing for now."""
        with self.lock:
            self._change(run_id, hidden=True)

    def show_run(self, run_id: str) -> None:
        """List a hidden run, with the times it always had."""
        with self.lock:
            self._change(run_id, hidden=False)

    def spoil_run(self, run_id: str, kind: SpoilKind | None, *, mebibytes: float = 32.0) -> None:
        """Make a run's JSON unreadable, or readable again with None."""
        with self.lock:
            self._change(run_id, spoiled=kind, spoiled_mebibytes=mebibytes)

    def set_fields(self, run_id: str, fields: dict[str, object]) -> None:
        """Replace what the listing says instead of the run's own fields."""
        with self.lock:
            self._change(run_id, fields=fields)

    def get_run(self, run_id: str) -> Run:
        """Return a run to look at; change it only by the methods of the world.

        Raises:
            KeyError: there never was such a run.

        """
        with self.lock:
            return self._find(run_id)

    # What can be seen

    def page(
        self, org_id: str, query: Query, order: Order, deal: Random | None = None
    ) -> tuple[list[Run], int]:
        """Return the runs of one page, and how many the filters leave in all; see `Shelf`."""
        with self.lock:
            return self._shelves[org_id].select(query, order, deal)

    def truth(self, since: float | None = None) -> Truth:
        """Tell what happened; with `since`, only of runs created after it or open at it."""
        with self.lock:
            return tell_truth(self._runs.values(), at=self.clock(), since=since)

    # Inside

    def _use(self, run: Run, usage: Usage, moment: float) -> None:
        """Let a run have used credits, and its org pay for them, but for those of the past."""
        if moment >= self.opened_at and run.org_id is not None:
            before = run.usages[-1].total if run.usages else 0.0
            self._orgs.charge(run.org_id, usage.total - before)
        self._change(run.id, usages=(*run.usages, usage))

    def _find(self, run_id: str) -> Run:
        return self._runs[run_id]

    def _moment(self, at: float | None) -> float:
        return self._told(self.clock() if at is None else at)

    def _told(self, seconds: float) -> float:
        """Return a time as the API tells it."""
        if self.resolution_seconds == _MILLISECOND:
            return round(seconds, 3)
        return seconds // self.resolution_seconds * self.resolution_seconds

    def _change(self, run_id: str, **changes: object) -> None:
        run = self._find(run_id)
        self._unlist(run)
        for name, value in changes.items():
            setattr(run, name, value)
        run.encoded = None
        self._list(run)

    def _list(self, run: Run) -> None:
        if not run.hidden and run.removed_at is None:
            for org_id in run.listed_in:
                self._shelves[org_id].put(run)

    def _unlist(self, run: Run) -> None:
        if not run.hidden and run.removed_at is None:
            for org_id in run.listed_in:
                self._shelves[org_id].take_out(run)

    def _shape(self, workflow_id: str | None, version: int) -> Shape:
        key = (workflow_id, version)
        if key not in self._shapes:
            self._shapes[key] = make_shape(workflow_id, steps=2, output_bytes=50, version=version)
        return self._shapes[key]
