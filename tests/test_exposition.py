"""What is served: encoded once, in the form that is asked for, a newborn series at 0 first."""

import asyncio
import gzip
import os
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from invent_exporter.database import open_database
from invent_exporter.exposition import Exposition
from invent_exporter.ledger import Ledger
from invent_exporter.model import Run, Usage
from invent_exporter.numbers import Bounds
from invent_exporter.publisher import Publisher
from invent_exporter.recording import InvalidRow, LedgerSettings, OrgLedger
from tests.programs import require

NOW = 1_800_000_000.0
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
DATA = Path(__file__).parent / "data"
HOSTILE = 'wf "quoted" \\ back\n# HELP fake{x="1"} 1\n💥'


class Stage:
    """A ledger in memory, and what is served of it, on a clock of its own."""

    def __init__(self, hold_seconds: float = 60.0) -> None:
        settings = LedgerSettings(
            Bounds((1.0, 10.0), (1.0,), (1.0, 5.0)),
            max_workflows=10,
            step_credits=True,
            reconcile_window_seconds=86400.0,
        )
        self.now = 0.0
        self.ledger = Ledger(open_database("sqlite://"), settings)
        self.exposition = Exposition(CollectorRegistry(), lambda: self.now)
        self.publisher = Publisher(
            self.exposition,
            self._release,
            newborn_hold_seconds=hold_seconds,
            workflow_names={"wf": "Invoices"},
            clock=lambda: self.now,
        )
        self.org: OrgLedger = self.ledger.load("org", walk_floor=0.0)
        self.ledger.complete(self.org, self.org.scan, absent=(), contact=True)

    async def _release(self, org: OrgLedger, groups: dict[str, list[str]]) -> bool:
        self.ledger.release(org, groups)
        return True

    async def see(self, *runs: Run) -> None:
        """Record runs and publish."""
        recorded = self.ledger.record(self.org, runs, [InvalidRow("x", "time")], now=NOW)
        await self.publisher.publish(self.org, recorded.changed, org_name="Acme")
        await self.publisher.set_open(self.org, self.ledger.open_groups(self.org))

    async def scrape(self, *, acknowledge: bool = True) -> str:
        """Scrape; a scrape that breaks off is not acknowledged."""
        answer = await self.exposition.answer(OPENMETRICS, "")
        if acknowledge:
            self.exposition.acknowledge(answer.generation)
        return answer.body.decode()

    async def value(self, sample: str, *, acknowledge: bool = True, **labels: str) -> float | None:
        """Scrape one sample."""
        for family in parse_openmetrics(await self.scrape(acknowledge=acknowledge)):  # type: ignore[no-untyped-call]
            for found in family.samples:
                if found.name == sample and labels.items() <= found.labels.items():
                    return float(found.value)
        return None

    async def let_go(self) -> None:
        """Release what is due, as the publisher's loop does."""
        due, _ = self.publisher._due()
        if due:
            await self.publisher._let_go(due)


def play(scene: Callable[[Stage], Awaitable[None]], hold_seconds: float = 60.0) -> None:
    """Run a scene in an event loop."""

    async def run() -> None:
        stage = Stage(hold_seconds)
        try:
            await scene(stage)
        finally:
            stage.exposition.close()
            stage.ledger.database.close()

    asyncio.run(run())


def run_of(run_id: str, status: str = "COMPLETED", workflow: str = "wf", **more: object) -> Run:
    """Make a run of 3 s that waited half a second."""
    created = datetime.fromtimestamp(NOW, UTC)
    final = status not in ("PENDING", "RUNNING")
    fields: dict[str, object] = {
        "id": run_id,
        "status": status,
        "origin": "WEBHOOK",
        "workflow_id": workflow,
        "workflow_org_id": "owner",
        "version": 3.0,
        "created_at": created,
        "started_at": datetime.fromtimestamp(NOW + 0.5, UTC),
        "ended_at": datetime.fromtimestamp(NOW + 3.5, UTC) if final else None,
        "updated_at": created,
        "usage": Usage(4.0, 1.5),
    }
    return Run(**(fields | more))  # type: ignore[arg-type]


FINISHED = "invent_runs_finished_total"


def test_new_workflow_is_at_0_until_a_scrape_carried_it_and_the_hold_has_passed() -> None:
    """Neither alone is enough; counters and histograms of the workflow come together."""

    async def scene(stage: Stage) -> None:
        await stage.see(run_of("r1", "FAILED"))
        assert await stage.value(FINISHED, acknowledge=False, status="FAILED") == 0
        stage.now = 100
        await stage.let_go()
        assert await stage.value(FINISHED, status="FAILED") == 0, "no scrape had carried the 0"
        await stage.let_go()
        assert await stage.value(FINISHED, status="FAILED", origin="WEBHOOK") == 1
        assert await stage.value("invent_run_duration_seconds_count", status="FAILED") == 1
        assert await stage.value("invent_credits_total", kind="ai", status="FAILED") == 0
        assert (
            await stage.value("invent_credits_total", kind="ai", status="FAILED", origin="WEBHOOK")
            == 1.5
        )

    play(scene)


def test_scraped_zero_is_held_for_the_whole_hold() -> None:
    """Other Prometheus servers scrape less often."""

    async def scene(stage: Stage) -> None:
        await stage.see(run_of("r1"))
        await stage.scrape()
        stage.now = 59.9
        await stage.let_go()
        assert await stage.value(FINISHED, origin="WEBHOOK", status="COMPLETED") == 0
        stage.now = 60.1
        await stage.let_go()
        assert await stage.value(FINISHED, origin="WEBHOOK", status="COMPLETED") == 1

    play(scene)


def test_late_series_of_a_known_workflow_is_held_like_a_new_one() -> None:
    """An UNKNOWN status and a step; what is released goes on unheld."""

    async def scene(stage: Stage) -> None:
        await stage.see(run_of("r1"))
        await stage.scrape()
        await stage.let_go()
        usage = Usage(1.0, 0.0, steps=msgspec.Raw(b'{"send": 1}'))
        await stage.see(run_of("r2", "ARCHIVED"), run_of("r3", usage=usage))
        assert await stage.value(FINISHED, status="UNKNOWN") == 0
        assert await stage.value("invent_step_credits_total", step="send") == 0
        assert await stage.value(FINISHED, status="COMPLETED", origin="WEBHOOK") == 2
        await stage.let_go()
        assert await stage.value(FINISHED, status="UNKNOWN") == 1
        assert await stage.value("invent_step_credits_total", step="send") == 1

    play(scene, hold_seconds=0.0)


def test_open_gauges_fall_to_0_and_go_away_when_not_known() -> None:
    """Dropped by `set_open(None)`: after three failed polls they would lie."""

    async def scene(stage: Stage) -> None:
        await stage.see(run_of("r1", "RUNNING"))
        oldest = "invent_runs_open_oldest_timestamp_seconds"
        assert await stage.value("invent_runs_open", status="RUNNING", origin="WEBHOOK") == 1
        assert await stage.value(oldest, status="RUNNING") == NOW + 0.5
        await stage.see(run_of("r1"))
        assert await stage.value("invent_runs_open", status="RUNNING", origin="WEBHOOK") == 0
        assert await stage.value(oldest) is None
        await stage.publisher.set_open(stage.org, None)
        assert await stage.value("invent_runs_open") is None
        assert await stage.value(FINISHED) is not None

    play(scene)


def test_only_what_changed_is_encoded_again() -> None:
    """One workflow of twenty, and the org."""

    async def scene(stage: Stage) -> None:
        await stage.see(*(run_of(f"r{n}", workflow=f"wf{n}") for n in range(9)))
        await stage.scrape()
        before = stage.exposition.encoded_chunks
        await stage.see(run_of("again", workflow="wf3"))
        await stage.scrape()
        assert stage.exposition.encoded_chunks - before <= 2
        as_before = (stage.exposition.encoded_chunks, stage.exposition.generation)
        await stage.see()
        assert (stage.exposition.encoded_chunks, stage.exposition.generation) == as_before

    play(scene)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "application/openmetrics-text;q=0.3, text/plain;q=0.5",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        ("application/openmetrics-text;q=junk", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("encoding", ["", "gzip", "gzip;q=0", "br, gzip;q=0.5"])
def test_form_is_the_one_that_is_asked_for(accept: str, kind: str, encoding: str) -> None:
    """By quality; gzip is one member that any client reads."""

    async def scene(stage: Stage) -> None:
        await stage.see(run_of("r1", workflow=HOSTILE))
        answer = await stage.exposition.answer(accept, encoding)
        assert answer.content_type == kind
        is_gzip = encoding in ("gzip", "br, gzip;q=0.5")
        assert answer.content_encoding == ("gzip" if is_gzip else None)
        body = gzip.decompress(answer.body) if is_gzip else answer.body
        parse = parse_openmetrics if "openmetrics" in kind else parse_text
        names = {
            sample.labels["workflow_id"]
            for family in parse(body.decode())
            for sample in family.samples
            if "workflow_id" in sample.labels
        }
        assert names == {HOSTILE}

    play(scene)


async def _golden(stage: Stage) -> None:
    await stage.see(
        run_of("run-1", "FAILED"),
        run_of("run-2"),
        run_of("run-3", "RUNNING", "other"),
        run_of("run-4", "SKIPPED", "other", usage=None),
    )
    await stage.scrape()
    await stage.let_go()


@pytest.mark.parametrize(("accept", "name"), [(OPENMETRICS, "golden.om"), ("", "golden.txt")])
def test_exposition_is_the_golden_one(accept: str, name: str) -> None:
    """Every family, its help, its labels; GOLDEN=write makes the files anew."""

    async def scene(stage: Stage) -> None:
        await _golden(stage)
        body = (await stage.exposition.answer(accept, "")).body
        path = DATA / name
        if os.environ.get("GOLDEN") == "write":
            path.write_bytes(body)
        assert body.decode() == path.read_text("utf-8")

    play(scene, hold_seconds=0.0)


def test_promtool_finds_nothing_to_say() -> None:
    """`promtool check metrics` lints names, help and types."""
    promtool = require("promtool")
    body = (DATA / "golden.txt").read_bytes()
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=body, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
