"""Any interleaving of what may happen, and after it the truth."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import structlog
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from invent_exporter.api.bad_rows import RETRY_SECONDS
from invent_exporter.api.models import FINAL_STATUSES, OPEN_STATUSES, ORIGINS
from invent_exporter.ledger.counts import Bounds
from tests.proof.process import EPOCH, FakeClocks, KilledError, Process, Settings
from tests.proof.reference import Reference
from tests.proof.scraper import Scraper, labels_of
from tests.proof.service import ORDERS, Run, Service, failing

_T = TypeVar("_T")

WORKFLOWS = ("wf-a", "wf-b", "wf-c", None)
BOUNDS = (
    Bounds((1.0, 60.0), (1.0,), (1.0, 10.0)),
    Bounds((5.0,), (0.5, 60.0), (2.0,)),
    Bounds((1.0, 30.0, 600.0), (1.0, 2.0), (1.0, 5.0, 20.0)),
)
FAULTS = ("server_error", "timeout", "rate_limited", "network", "invalid_response")
HOUR = 3600.0
LABELS = ("workflow_id", "origin", "status", "kind", "step", "le", "reason")
"""In the order in which this file compares them."""

indices = st.integers(0, 1000)
workflows = st.sampled_from(WORKFLOWS)
origins = st.sampled_from((*ORIGINS, *ORIGINS, "MANUAL"))
final_statuses = st.sampled_from((*FINAL_STATUSES, "FAILED", "COMPLETED", "ARCHIVED"))
open_statuses = st.sampled_from((*OPEN_STATUSES, "PENDING", "RUNNING", "QUEUED"))
skews = st.sampled_from((0.0, 0.0, 0.0, 0.0, -1.0, -90.0, 45.0))
usages = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 80), st.integers(0, 80)).map(
        lambda parts: {
            "total": (parts[0] + parts[1]) / 4,
            "ai_total": parts[0] / 4,
            "steps": {"one": parts[0] / 4, "two": parts[1] / 4},
        }
    ),
    st.integers(0, 160).map(lambda total: {"total": total / 4}),
)
changeable: dict[str, st.SearchStrategy[Any]] = {
    "page_size": st.sampled_from((1, 2, 3, 5, 10, 100)),
    "max_workflows": st.sampled_from((1, 2, 1000)),
    "newborn_hold_seconds": st.sampled_from((0.0, 65.0, 300.0)),
    "lookback_seconds": st.sampled_from((HOUR, 24 * HOUR)),
    "is_shared": st.booleans(),
}
"""What of the configuration may be another one after a restart."""
changes = st.tuples(
    st.sampled_from(("arrive", "finish", "start", "remove", "brief")),
    indices,
    workflows,
    final_statuses,
)
"""What happens to a run: its kind, which run, and what it becomes."""


class Machine(RuleBasedStateMachine):
    """The service, the exporter and a scraper, each doing what they do at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.logging = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
        self.folder = Path(tempfile.mkdtemp(prefix="proof-", dir=_fast_folder()))
        self.loop = asyncio.new_event_loop()
        self.clocks = FakeClocks()
        self.service = Service()
        self.reference = Reference()
        self.scraper = Scraper()
        self.settings = Settings()
        self.process: Process | None = None
        self.holds: list[float] = []
        self.waiting_scrape: int | None = None
        self.serial = 0
        self.buckets_changed = False
        self.removed_ever = False
        self.order_changed = False
        self.hidden_ever = False
        self.gone_open_upper = 0
        self.refused_at = 0.0
        self.own: set[str] = set()
        self.most_workflows = 0

    @property
    def state_url(self) -> str:
        """Where the ledger is."""
        return f"sqlite:///{self.folder}/state.db"

    def lose_state(self) -> None:
        """Make the state as empty as it was."""
        for file in self.folder.iterdir():
            file.unlink()

    # -- the beginning

    @initialize(
        service=st.builds(
            Service,
            order=st.sampled_from(ORDERS),
            sends_count=st.booleans(),
            sends_take=st.booleans(),
            sends_date=st.booleans(),
        ),
        settings=st.builds(
            Settings,
            configured_id=st.sampled_from(("org-1", "c")),
            reconcile_window_seconds=st.sampled_from((2 * HOUR, 24 * HOUR)),
            step_credits=st.booleans(),
            bounds=st.just(BOUNDS[0]),
            **changeable,
        ),
        history=st.lists(st.tuples(workflows, final_statuses, st.integers(1, 6000)), max_size=25),
    )
    def begin(
        self, service: Service, settings: Settings, history: list[tuple[str | None, str, int]]
    ) -> None:
        """Choose a service and a configuration; history has happened already."""
        self.service, self.settings = service, settings
        for workflow, status, age in sorted(history, key=lambda each: -each[2]):
            run = self._arrive(workflow, ORIGINS[age % 3], 0.0, age=float(age))
            self._finish(run, status, min(age, 50), None, 0.0, at=run.created)

    def teardown(self) -> None:
        """Settle, compare, and clear up."""
        try:
            # Not behind a failure (or the end of the data), which it would only hide.
            if sys.exc_info()[0] is None:
                self._settle()
        finally:
            structlog.configure(**self.logging)
            if self.process is not None:
                self.process.stop()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)

    # -- the service

    @property
    def now(self) -> float:
        """The service's time."""
        return EPOCH + self.clocks.now

    def _arrive(self, workflow: str | None, origin: str, skew: float, *, age: float = 0.0) -> Run:
        self.serial += 1
        created = self.now + skew - age
        run = Run(f"run-{self.serial:04d}", workflow, origin, "PENDING", created, updated=created)
        run.version = float(self.serial % 3)
        return self.service.add(run)

    def _finish(
        self,
        run: Run,
        status: str,
        seconds: float,
        usage: dict[str, object] | None,
        skew: float,
        *,
        at: float | None = None,
    ) -> None:
        """End a run now, or `seconds` after `at`."""
        ended = (self.now if at is None else at + seconds) + skew
        if run.started is None and status != "SKIPPED":
            run.started = (run.created or ended) + min(seconds, 2.0)
        run.status, run.ended, run.updated, run.usage = status, ended, ended, usage
        if seconds == 7:
            run.ended = None if status in FINAL_STATUSES else ended
        self.service.changed(run)

    def _pick(self, index: int, *, final: bool | None = None) -> Run | None:
        runs = [run for run in self.service.runs.values() if final is None or run.is_final == final]
        return runs[index % len(runs)] if runs else None

    def _remove(self, run: Run) -> None:
        self.removed_ever = True
        del self.service.runs[run.run_id]

    @rule(workflow=workflows, origin=origins, skew=skews, count=st.sampled_from((1, 1, 2, 3, 12)))
    def runs_arrive(self, workflow: str | None, origin: str, skew: float, count: int) -> None:
        """Create runs, several at the same time."""
        for _ in range(count):
            self._arrive(workflow, origin, skew)

    @rule(
        workflow=workflows,
        origin=origins,
        count=st.sampled_from((1, 3, 30, 130)),
        status=final_statuses,
        seconds=st.integers(0, 100),
        usage=usages,
    )
    def burst(
        self,
        *,
        workflow: str | None,
        origin: str,
        count: int,
        status: str,
        seconds: int,
        usage: dict[str, object] | None,
    ) -> None:
        """Create runs that start and end between two polls."""
        if self.settings.page_size < 10:
            count = min(count, 12)
        for _ in range(count):
            self._finish(self._arrive(workflow, origin, 0.0), status, seconds, usage, 0.0)

    @rule(index=indices, status=open_statuses, skew=skews)
    def run_starts(self, index: int, status: str, skew: float) -> None:
        """Let an open run go on, to RUNNING or what else there may be."""
        run = self._pick(index, final=False)
        if run is not None:
            self._start(run, status, skew)

    def _start(self, run: Run, status: str, skew: float) -> None:
        run.status, run.started, run.updated = status, self.now + skew, self.now
        self.service.changed(run)

    @rule(
        index=indices, status=final_statuses, usage=usages, skew=skews, seconds=st.integers(0, 20)
    )
    def run_ends(
        self, index: int, status: str, usage: dict[str, object] | None, skew: float, seconds: int
    ) -> None:
        """End one of the open runs, whichever came first."""
        run = self._pick(index, final=False)
        if run is not None:
            self._finish(run, status, float(seconds), usage, skew)

    @rule(index=indices, usage=usages, moves=st.booleans())
    def usage_comes(self, index: int, usage: dict[str, object] | None, moves: bool) -> None:  # noqa: FBT001
        """Let usage come late, or be revised, up or down."""
        run = self._pick(index, final=True)
        if run is not None and usage is not None:
            run.usage = usage
            if moves:
                run.updated = self.now
            self.service.changed(run)

    @rule(index=indices, status=st.sampled_from(FINAL_STATUSES))
    def status_is_revised(self, index: int, status: str) -> None:
        """Change the final status of a run."""
        run = self._pick(index, final=True)
        if run is not None:
            run.status, run.updated = status, self.now
            self.service.changed(run)

    @rule(index=indices)
    def run_vanishes(self, index: int) -> None:
        """Remove a run of any status."""
        run = self._pick(index)
        if run is not None:
            self._remove(run)

    @rule(index=indices)
    def run_hides(self, index: int) -> None:
        """Take a run from all pages, for a while."""
        run = self._pick(index)
        if run is not None and not run.hidden and self.reference.contacted:
            self._hide(run)

    def _hide(self, run: Run) -> None:
        self.hidden_ever = True
        run.hidden, run.hidden_at = True, self.clocks.now
        self.gone_open_upper += 1

    def _show(self, run: Run) -> None:
        run.hidden, run.late = False, True
        self.service.changed(run)

    @rule(workflow=workflows, status=final_statuses, usage=usages)
    def run_arrives_hidden(
        self, workflow: str | None, status: str, usage: dict[str, object] | None
    ) -> None:
        """Create and end a run that shows on the pages only later."""
        if not self.reference.contacted:
            return
        run = self._arrive(workflow, "TRIGGER", 0.0)
        self._finish(run, status, 1.0, usage, 0.0)
        self._hide(run)

    @rule()
    def hidden_runs_show(self) -> None:
        """Show what was hidden, wherever it belongs."""
        for run in self.service.runs.values():
            if run.hidden:
                self._show(run)

    @rule(workflow=workflows, status=final_statuses)
    def run_is_unreadable(self, workflow: str | None, status: str) -> None:
        """Create a run one of whose fields can't be read."""
        if self.reference.contacted:
            run = self._arrive(workflow, "WEBHOOK", 0.0)
            self._finish(run, status, 1.0, None, 0.0)
            run.unreadable = run.late = True

    @rule()
    def unreadable_runs_heal(self) -> None:
        """Make everything readable."""
        for run in self.service.runs.values():
            run.unreadable = run.stumbles = False

    @rule(index=indices)
    def page_fails_for_a_run(self, index: int) -> None:
        """Let the service fail for each page that a run is on, for a while."""
        run = self._pick(index)
        if run is not None and not run.stumbles and self.reference.contacted:
            run.stumbles = run.late = True
            run.hidden_at = self.clocks.now
            self.gone_open_upper += 1
            for _ in range(3):  # the first may take it for an outage
                self._poll()

    @rule(
        rows=st.sampled_from((1, 3, 10, 30)),
        refusal=st.sampled_from(("bad_request", "not_found", "server_error")),
        origin=origins,
        status=final_statuses,
    )
    def service_refuses(self, rows: int, refusal: str, origin: str, status: str) -> None:
        """Refuse to list so far back, for a while, when more is new than that."""
        if self.service.refuses_from is None:
            self.refused_at = self.clocks.now
        self.service.refuses_from, self.service.refusal = rows, refusal
        for _ in range(min(rows + 2, 12)):
            self._finish(self._arrive("wf-a", origin, 0.0), status, 1.0, None, 0.0)
        for _ in range(2):  # as above
            self._poll()

    @rule()
    def service_lists_all(self) -> None:
        """List everything again."""
        if self.service.refuses_from is not None:
            self.service.refuses_from = None
            for run in self.service.runs.values():
                run.late = True

    @rule(order=st.sampled_from(ORDERS), sends_count=st.booleans())
    @precondition(lambda self: self.service.reads > 5)
    def service_changes(self, order: str, sends_count: bool) -> None:  # noqa: FBT001
        """List in another order from now on."""
        if self.serial % 3:
            return
        self.service.order, self.service.sends_count = order, sends_count
        self.order_changed = True

    # -- time

    @rule(seconds=st.sampled_from((0.5, 1.0, 15.0, 30.0, 70.0, 310.0)))
    def time_passes(self, seconds: float) -> None:
        """Turn the clock; nothing hides for longer than half of the kept window."""
        self.clocks.now += seconds
        self._show_in_time()

    def _show_in_time(self) -> None:
        limit = min(self.settings.reconcile_window_seconds, self.settings.lookback_seconds) / 2
        for run in self.service.runs.values():
            if run.hidden and self.clocks.now - run.hidden_at > limit:
                self._show(run)
            if self.clocks.now - run.hidden_at > limit:
                run.stumbles = False
        if self.clocks.now - self.refused_at > limit:
            self.service_lists_all()

    @rule()
    def much_time_passes(self) -> None:
        """Turn the clock by a reconciliation interval."""
        self.clocks.now += 1000.0
        self._show_in_time()

    # -- the exporter

    def _alive(self) -> Process:
        if self.process is None:
            self.holds.append(self.settings.newborn_hold_seconds)
            self.most_workflows = max(self.most_workflows, self.settings.max_workflows)
            self.process = Process(
                self.state_url,
                self.service,
                self.clocks,
                self.settings,
                reference=self.reference,
                scraper=self.scraper,
                hold_seconds=min(self.holds),
            )
            self.waiting_scrape = None
        return self.process

    def _do(self, awaitable: Awaitable[_T]) -> _T | None:
        """Let the exporter do something; None when it was killed meanwhile."""

        async def main() -> _T:
            return await awaitable

        try:
            return self.loop.run_until_complete(main())
        except KilledError:
            self._kill()
            return None

    def _kill(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def _poll(self, before_read: Callable[[int], None] = lambda _reads: None) -> bool | None:
        """Poll once; return whether it succeeded, None when the process was killed."""
        process = self._alive()
        self.service.before_read = before_read
        began = self.service.reads
        known = set(self.service.runs)
        learned = process.collector.org is not None and process.collector.org.scan.order.learned
        contacted = self.reference.contacted
        if self._do(process.collector.poll()) is None:
            return None
        collector = process.collector
        assert not (collector.error or "").startswith("unexpected"), collector.error
        is_listed = self.service.refuses_from is None
        if collector.up and contacted and is_listed and not self.order_changed:
            # In an order that can't be learned a run may come as another goes: the count stays.
            can_hide = (self.removed_ever or self.hidden_ever) and not learned
            for run in self.service.runs.values():
                # Nothing that stood in its place when the poll began may be missed.
                is_in_place = run.run_id in known and run.changed_at_read <= began
                if is_in_place and not (can_hide or run.hidden or run.unreadable or run.late):
                    self._expect_seen(run)
        return collector.up

    def _expect_seen(self, run: Run) -> None:
        seen = self.reference.runs.get(run.run_id)
        is_followed = seen is not None and seen.seen_open
        if is_followed or not run.is_final or not self.reference.is_history(run):
            assert seen is not None, f"{run} was missed"
            assert seen.is_final == run.is_final, f"the end of {run} was missed"

    @rule()
    def poll(self) -> None:
        """Poll, with nothing in the way."""
        self._poll()
        self.clocks.now += 1.0

    @rule(
        script=st.lists(st.tuples(st.integers(0, 6), changes), min_size=1, max_size=4),
        fault_at=st.one_of(st.none(), st.integers(0, 8)),
        fault=st.sampled_from(FAULTS),
    )
    def poll_while_things_happen(
        self,
        script: list[tuple[int, tuple[str, int, str | None, str]]],
        fault_at: int | None,
        fault: str,
    ) -> None:
        """Poll while runs come, change and go between two pages, and a page can't be read."""
        began = self.service.reads
        todo: defaultdict[int, list[tuple[str, int, str | None, str]]] = defaultdict(list)
        for at, change in script:
            todo[at].append(change)

        def before_read(reads: int) -> None:
            for change in todo.pop(reads - began, ()):
                self._change(*change)
            if fault_at is not None and reads - began == fault_at:
                raise failing(fault)

        self._poll(before_read)
        self.clocks.now += 1.0

    def _change(self, kind: str, index: int, workflow: str | None, status: str) -> None:
        if kind == "arrive":
            self._arrive(workflow, "WORKFLOW", 0.0)
        elif kind == "brief":
            self._finish(self._arrive(workflow, "WORKFLOW", 0.0), status, 1.0, None, 0.0)
        elif kind == "start":
            run = self._pick(index, final=False)
            if run is not None and run.status == "PENDING":
                self._start(run, "RUNNING", 0.0)
        elif kind == "finish":
            run = self._pick(index, final=False)
            if run is not None:
                self._finish(run, status, 1.0, None, 0.0)
        else:
            run = self._pick(index)
            if run is not None and self.reference.contacted:
                self._remove(run)

    @rule(at=st.integers(1, 60))
    def poll_is_killed(self, at: int) -> None:
        """Kill the process at a statement, commit or publish of a poll."""
        process = self._alive()
        process.steps.kill_at = process.steps.passed + at
        self._poll()
        self._kill()

    @rule(at=st.integers(1, 30))
    def poll_meets_a_full_disk(self, at: int) -> None:
        """Let every write fail from some point of a poll on; the process goes on."""
        steps = self._alive().steps
        steps.disk_fails_at = steps.passed + at
        self._poll()
        steps.disk_fails_at = None

    @rule(at=st.integers(1, 30))
    def poll_hears_nothing_of_a_commit(self, at: int) -> None:
        """Commit, and lose the answer: the exporter can't know, and goes on from what is there."""
        process = self._alive()
        if process.ledger._database.is_shared:
            process.steps.answer_lost_at = process.steps.passed + at
            self._poll()
            process.steps.answer_lost_at = None

    @rule()
    def read_fails(self) -> None:
        """Let the API be away for a poll."""

        def before_read(_reads: int) -> None:
            raise failing("network")

        self._poll(before_read)

    @rule(changed=st.fixed_dictionaries({"bounds": st.sampled_from(BOUNDS), **changeable}))
    def restart_with_changes(self, changed: dict[str, Any]) -> None:
        """Stop, and start with another configuration."""
        self._kill()
        self.buckets_changed = self.buckets_changed or changed["bounds"] != self.settings.bounds
        self.settings = replace(self.settings, **changed)

    @rule(is_lost=st.sampled_from((True, False, False, False)))
    def state_is_lost(self, *, is_lost: bool) -> None:
        """Lose the ledger: a new first contact, a clean reset to 0, no burst."""
        if not is_lost:
            return
        self._kill()
        self.lose_state()
        self.reference, self.scraper = Reference(), Scraper()
        self.holds, self.most_workflows = [], 0
        self.buckets_changed = False

    # -- the scraper

    @rule(kill_at=st.sampled_from((None, None, None, 1, 2, 3, 4, 5)))
    def scrape(self, kill_at: int | None) -> None:
        """Scrape; releases may follow, and a kill in the middle of one."""
        process = self._scraped()
        if kill_at is not None:
            process.steps.kill_at = process.steps.passed + kill_at
        self._do(process.let_go())
        if self.process is not None:
            process.steps.kill_at = None

    def _scraped(self) -> Process:
        process = self._alive()
        generation = self._do(process.scrape())
        assert generation is not None
        process.exposition.acknowledge(generation)
        return process

    @rule()
    def slow_scrape_begins(self) -> None:
        """Let an answer go out, whose end comes later or never."""
        process = self._alive()
        if self.waiting_scrape is None:
            self.waiting_scrape = self._do(process.scrape())

    @rule()
    @precondition(lambda self: self.waiting_scrape is not None and self.process is not None)
    def slow_scrape_ends(self) -> None:
        """End it."""
        process = self._alive()
        assert self.waiting_scrape is not None
        process.exposition.acknowledge(self.waiting_scrape)
        self.waiting_scrape = None
        self._do(process.let_go())

    # -- the end

    def _settle(self) -> None:
        """Let everything come to rest, and compare."""
        self.hidden_runs_show()
        self.unreadable_runs_heal()
        self.service_lists_all()
        for _ in range(3):
            self._quiet_poll()
        self.clocks.now += RETRY_SECONDS  # then rows that were bad are asked for again
        self._reconcile()
        for _ in range(3):
            self._quiet_poll()
        for _ in range(2):
            process = self._scraped()
            self.clocks.now += self.settings.newborn_hold_seconds + 1
            self._do(process.let_go())
        for run in self.service.runs.values():
            self._expect_seen(run)
        self._compare()
        self._expect_idle()

    def _quiet_poll(self) -> None:
        self.clocks.now += 30.0
        assert self._poll(), self._alive().collector.error

    def _reconcile(self) -> None:
        self.clocks.now += self.settings.reconcile_interval_seconds
        began = self.now
        for _ in range(50):
            self._quiet_poll()
            org = self._alive().collector.org
            assert org is not None
            if org.scan.reconciled >= began and org.scan.reconcile_offset is None:
                return
        raise AssertionError("the reconciliation did not come to its end")

    def _expect_idle(self) -> None:
        """Where nothing is open and nothing happens, a poll is one request."""
        if any(not run.is_final for run in self.service.runs.values()):
            return
        org = self._alive().collector.org
        assert org is not None
        rows, take = len(self.service.runs), self.settings.page_size
        is_learned = org.scan.order.learned
        if is_learned and org.scan.order.oldest_first and rows % take == 0:
            is_learned = False
        if not (is_learned or self.service.sends_count):
            return
        before = len(self.service.requests)
        self._quiet_poll()
        asked = self.service.requests[before:]
        assert len(asked) == 1, asked

    # -- the comparison

    def _compare(self) -> None:
        served = self.scraper.last
        reference = self.reference
        if not any("invent_org_info" in series for series in served):
            assert self.settings.configured_id == "c", "nothing is served"
            assert not reference.named
            return
        families: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for series, value in served.items():
            name, labels = labels_of(series)
            assert labels.pop("org_id") == "org-1"
            families[name][tuple(labels[key] for key in LABELS if key in labels)] = value
        self._own_workflows(families["invent_runs_finished_total"])
        self._equal(families["invent_runs_finished_total"], reference.finished())
        self._equal(families["invent_runs_submitted_total"], reference.submitted())
        self._equal(families["invent_credits_total"], reference.credits)
        if self.settings.step_credits:
            self._equal(families["invent_step_credits_total"], reference.steps)
        bounds = self.settings.bounds
        for name, finite, field, *more in (
            ("run_duration_seconds", bounds.duration_seconds, "duration", "status"),
            ("run_queue_seconds", bounds.queue_seconds, "queue"),
            ("run_credits", bounds.credits, "first_credits"),
        ):
            values = reference.values(field, "workflow_id", *more)
            self._compare_histogram(families, name, values, finite)
        self._compare_gauges(families)
        org = {name: values.get(()) for name, values in families.items()}
        assert org["invent_runs_revised_total"] == reference.revised
        assert org["invent_credit_corrections_total"] == reference.corrections
        invalid = families["invent_runs_invalid_total"]
        assert sum(invalid.values()) == len(reference.unreadable)
        still_open = {run_id for run_id, seen in reference.runs.items() if not seen.is_final}
        gone = len(still_open - self.service.runs.keys())
        vanished = org["invent_runs_vanished_total"]
        assert vanished is not None
        assert gone <= vanished <= gone + self.gone_open_upper

    def _own_workflows(self, finished: dict[tuple[str, ...], float]) -> None:
        own = {labels[0] for labels in finished} - {"__other__"}
        assert len(own) <= self.most_workflows
        self.own = own

    def _name(self, workflow_id: str) -> str:
        return workflow_id if workflow_id in self.own else "__other__"

    def _equal(self, served: dict[tuple[str, ...], float], expected: Mapping[Any, float]) -> None:
        folded: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for (workflow_id, *rest), value in expected.items():
            folded[self._name(workflow_id), *rest] += value
        assert _filled(served) == _filled(folded)

    def _compare_histogram(
        self,
        families: dict[str, dict[tuple[str, ...], float]],
        name: str,
        expected: Mapping[Any, list[float]],
        finite: tuple[float, ...],
    ) -> None:
        bounds = [*finite, float("inf")]
        folded: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        for (workflow_id, *rest), values in expected.items():
            folded[self._name(workflow_id), *rest] += values
        counts = {key: len(values) for key, values in folded.items() if values}
        sums = {key: sum(values) for key, values in folded.items()}
        full = f"invent_{name}"
        assert _filled(families[f"{full}_count"]) == counts
        assert _filled(families[f"{full}_sum"]) == _filled(sums)
        for key, count in families[f"{full}_count"].items():
            buckets = {
                float(labels[-1]): value
                for labels, value in families[f"{full}_bucket"].items()
                if labels[:-1] == key
            }
            assert list(buckets) == bounds
            assert list(buckets.values()) == list(accumulate(buckets.values(), max))
            assert buckets[float("inf")] == count
            if not self.buckets_changed:
                values = folded.get(key, [])
                assert buckets == {b: sum(1 for v in values if v <= b) for b in bounds}

    def _compare_gauges(self, families: dict[str, dict[tuple[str, ...], float]]) -> None:
        open_runs: Counter[tuple[str, ...]] = Counter()
        oldest: dict[tuple[str, ...], float] = {}
        for run in self.service.runs.values():
            seen = self.reference.runs.get(run.run_id)
            if run.is_final or seen is None or seen.is_final:
                continue
            name = self._name(run.workflow_id or "__none__")
            status = run.status if run.status in OPEN_STATUSES else "UNKNOWN"
            origin = run.origin if run.origin in ORIGINS else "UNKNOWN"
            open_runs[name, origin, status] += 1
            since = run.created if run.status == "PENDING" else run.started or run.created
            assert since is not None
            oldest[name, status] = min(oldest.get((name, status), since), since)
        assert _filled(families["invent_runs_open"]) == open_runs
        assert families["invent_runs_open_oldest_timestamp_seconds"] == oldest
        streaks = self.reference.streaks()
        for (name,), value in families["invent_workflow_consecutive_failures"].items():
            assert value == streaks.get(name, 0), f"{name} failed {streaks[name]} times in a row"
        last = self.reference.last_finished()
        for (name, status), value in families[
            "invent_workflow_last_finished_timestamp_seconds"
        ].items():
            if name != "__other__":
                assert value == last.get((name, status), 0)


def _filled(values: Mapping[_T, float]) -> dict[_T, float]:
    return {key: value for key, value in values.items() if value}


def _fast_folder() -> str | None:
    """Prefer a file system in memory: the sequences are about order, not about disks."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
