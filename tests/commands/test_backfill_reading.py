"""How much of the listing is read, what ends the reading, and how far it says it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from invent_exporter.api.listing import RunsApi
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import SystemClocks
from invent_exporter.commands.backfill_placing import Window
from invent_exporter.commands.backfill_progress import Bar
from invent_exporter.commands.backfill_reading import PastReader, Source
from invent_exporter.commands.backfill_spool import Spool
from invent_exporter.config.schema import ApiConfig
from invent_exporter.errors import BackfillError
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Fault, Order, SimulatorServer
from invent_exporter.telemetry import Telemetry
from tests.commands.backfilling import DAY, HOUR
from tests.process.traffic import quiet_api


class Hurried(SystemClocks):
    """Time that passes without waiting for it."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Take note."""
        self.slept.append(seconds)


@pytest.fixture(name="spool")
def _spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as spool:
        yield spool


def api_with(order: Order) -> SimulatorServer:
    """Serve two runs of this hour, and a hundred that ended days ago."""
    simulator = quiet_api(order)
    now = simulator.world.clock()
    for number in range(100):
        at = now - 9 * DAY + number * 60
        ended_at = now - HOUR if number == 3 else at
        simulator.world.add_run(
            status="FAILED", created_at=at, ended_at=ended_at, updated_at=ended_at
        )
    return simulator


async def read(simulator: SimulatorServer, spool: Spool, clocks: Hurried) -> int:
    """Read the last two hours in pages of ten; return how many runs ended in them."""
    config = ApiConfig(url=simulator.url, page_size=10, requests_per_minute=60_000)
    transport = Transport(config, Telemetry(CollectorRegistry()), clocks, Redactor())
    source = Source(0, "org-main", lambda: "key-main", Redactor())
    try:
        with Bar("runs") as bar:
            reader = PastReader(source, RunsApi(transport, 10), spool, clocks, bar)
            now = simulator.world.clock()
            await reader.read(Window(now - 2 * HOUR, now, {}))
    finally:
        await transport.aclose()
    return spool.finished()


@pytest.mark.parametrize("order", ["created", "oldest", "mixed", "updated"])
async def test_a_run_of_long_ago_that_ended_within_the_window_is_found(
    spool: Spool, order: Order
) -> None:
    """However deep it stands; only where the last change comes first the rest need not be read."""
    with api_with(order) as simulator:
        assert await read(simulator, spool, Hurried()) == 2
        is_all_read = len(simulator.requests) > 10
    assert is_all_read == (order != "updated")


@pytest.mark.parametrize(
    "odd",
    [
        {"origin": "MANUAL"},
        {"origin": "x\\y"},
        {"workflow_id": "w" * 200},
        {"org_id": "o" * 200, "workflow_org_id": "o" * 200},
        {"version": "v[1]\\\u2028" + "1" * 100},
        {"version": None, "workflow_version": {"version": "v" * 100}},
    ],
)
async def test_a_run_is_replayed_as_it_was_read(spool: Spool, odd: dict[str, object]) -> None:
    """Whatever a field says that the documentation does not know."""
    simulator = quiet_api("created")
    now = simulator.world.clock()
    run = simulator.world.add_run(status="FAILED", created_at=now - HOUR, ended_at=now - HOUR)
    simulator.world.set_fields(run, odd)
    with simulator:
        await read(simulator, spool, Hurried())
    events = [e for workflow in spool.workflows(0) for e in spool.finished_runs(0, workflow)]
    (kept,) = [event[2] for event in events if event[2].id == run]
    if "workflow_id" in odd:
        assert kept.workflow_id == odd["workflow_id"]
    if "origin" in odd:
        assert kept.origin_label == "UNKNOWN"
    if "version" in odd or "workflow_version" in odd:
        assert len(kept.version_label) >= 100


async def test_an_outage_of_minutes_is_waited_for(spool: Spool) -> None:
    """Beside the tries of each request."""
    clocks = Hurried()
    with api_with("created") as simulator:
        simulator.add_faults(Fault(kind="status", status=503, skip=3, count=80))
        assert await read(simulator, spool, clocks) == 2
        assert [seconds for seconds in clocks.slept if seconds >= 10][:2] == [10, 30]


async def test_a_longer_outage_ends_the_command(spool: Spool) -> None:
    """What is wrong is said; what was read is kept."""
    with api_with("created") as simulator:
        simulator.add_faults(Fault(kind="status", status=503, skip=3))
        with pytest.raises(BackfillError, match="org-main: server_error"):
            await read(simulator, spool, Hurried())
    assert spool.runs() > 0


async def test_rows_that_are_deleted_meanwhile_hide_no_others(spool: Spool) -> None:
    """In a list with the oldest first they pull all others forward."""
    with api_with("oldest") as simulator:
        world = simulator.world
        oldest = [run.id for run in sorted(world.truth().runs, key=lambda run: run.created_at)]
        doomed = iter([run_id for run_id in oldest[:40] if run_id != oldest[3]])

        def forget(_request: object) -> None:
            if len(simulator.requests) > 3:
                for _ in range(3):
                    if (run_id := next(doomed, None)) is not None:
                        world.remove_run(run_id)

        simulator.service.before_answer = forget
        assert await read(simulator, spool, Hurried()) == 2


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_lines_tell_rate_and_time_left_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One every ten seconds, and one at the end; what was done before a break has no part in it."""
    clock = Clock()
    with Bar("runs read", 10_000, clock=clock) as bar:
        bar.passed(0, 1000)
        for _ in range(20):
            clock.now += 1
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "2,000 of 10,000 runs read, 100/s, 1 min left",
        "3,000 of 10,000 runs read, 100/s, 1 min left",
        "3,000 of 10,000 runs read, 100/s, 1 min left",
    ]
    with Bar("runs read", clock=clock) as bar:
        clock.now += 1
        bar.passed(0, 5)
    assert capsys.readouterr().err == "5 runs read, 0/s\n"


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the count, the rate and the time left."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    with Bar("runs read", 10_000, clock=clock) as bar:
        bar.passed(0, 0)
        clock.now += 10
        bar.passed(0, 5000)
    said = capsys.readouterr().err
    assert "━" in said
    assert "5,000, 500/s" in said
    assert "left" in said
