"""A state file that 0.1.0 made goes on where it was; what goes wrong leaves it as it is."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from invent_exporter.api.models import FINAL_STATUSES
from invent_exporter.errors import StateError
from invent_exporter.ledger import upgrade
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.ledger.schema import SCHEMA_VERSION
from invent_exporter.simulator import Org, Settings, SimulatorServer, Workflow, World
from invent_exporter.simulator.runs import Status
from tests.ledger.blocking import BlockingLedger
from tests.process.disks import fill, tmpfs
from tests.process.expected import differences
from tests.process.harness import Exporter, Samples, make_config, run_command, wait_for
from tests.proof.runs import BOUNDS, NOW, run

OLD = Path(__file__).parent / "ledger-0.1.0.db"
"""`c` is org-1; four runs were counted, two are history, one is open; two ids are odd."""
FINISHED = "invent_runs_finished_total"
SETTINGS = LedgerSettings(BOUNDS, 1000, step_credits=True, reconcile_window_seconds=86400.0)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give a copy of the old file."""
    return Path(shutil.copy(OLD, tmp_path / "state.db"))


@pytest.fixture
def ledger(old: Path) -> Iterator[BlockingLedger]:
    """Give the ledger, upgraded."""
    ledger = BlockingLedger(Ledger(open_database(f"sqlite:///{old}"), SETTINGS))
    yield ledger
    ledger.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_counters_go_on_and_known_runs_do_not_count_again(ledger: BlockingLedger) -> None:
    """The same page as before adds nothing; what was open then counts when it ends."""
    org = ledger.load("c", walk_floor=NOW)
    assert (org.org_id, org.contacted, org.contact_seconds) == ("org-1", True, None)
    before = dict(org.workflows["wf"].finished)
    assert before == {"TRIGGER/COMPLETED": 2, "TRIGGER/FAILED": 1}
    seen = [run("new-1", ended=10.0), run("new-2", "FAILED", ended=20.0), run(r"odd\x00id")]
    ledger.record(org, [*seen, run("old-1", ended=-3600.0)], [], now=NOW + 90)
    assert org.workflows["wf"].finished == before
    ledger.record(org, [run("open-1", ended=95.0), run("new-3", ended=96.0)], [], now=NOW + 99)
    assert org.workflows["wf"].finished["TRIGGER/COMPLETED"] == 4


def test_an_org_of_an_old_file_keeps_its_bound(ledger: BlockingLedger) -> None:
    """It had no time of contact: what was created before its floor is history, later is not."""
    org = ledger.load("org-1", walk_floor=NOW)
    day = 86400.0
    ledger.record(org, [run("older", created=-day - 9, started=-day, ended=-day)], [], now=NOW)
    ledger.record(org, [run("late", created=-5.0, started=-4.0, ended=-3.0)], [], now=NOW)
    assert org.workflows["wf"].finished["TRIGGER/COMPLETED"] == 3


def test_odd_ids_are_escaped_and_none_merge(ledger: BlockingLedger, old: Path) -> None:
    """One had a NUL, the other its escape; the workflow's counters go on under its new name."""
    org = ledger.load("c", walk_floor=NOW)
    assert set(org.workflows) == {"wf", r"w\\f\x01"}
    ids = {row[0] for row in rows(old, "SELECT run_id FROM run")}
    assert {r"odd\x00id", r"odd\\x00id"} <= ids


def test_a_copy_is_beside_it_and_the_second_start_changes_nothing(old: Path) -> None:
    """The copy is the old file, which an older program can read."""
    open_database(f"sqlite:///{old}").close()
    copy = Path(f"{old}.schema-1")
    assert rows(copy, "SELECT * FROM run") == rows(OLD, "SELECT * FROM run")
    assert rows(copy, "SELECT schema_version FROM meta") == [(1,)]
    assert rows(old, "SELECT schema_version FROM meta") == [(SCHEMA_VERSION,)]
    copy.unlink()
    open_database(f"sqlite:///{old}").close()
    assert not copy.exists()


def test_without_room_for_the_copy_nothing_is_touched(old: Path) -> None:
    """One line says what is missing; nothing of a copy is left."""
    Path(f"{old}.schema-1").mkdir()
    before = rows(old, "SELECT * FROM run, org, meta")
    with pytest.raises(StateError, match="room for a copy"):
        open_database(f"sqlite:///{old}")
    assert rows(old, "SELECT * FROM run, org, meta") == before


def test_an_upgrade_that_breaks_off_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction."""

    def fail(text: str) -> str:
        raise ValueError(text)

    with monkeypatch.context() as broken:
        broken.setattr(upgrade, "escape", fail)
        with pytest.raises(StateError):
            open_database(f"sqlite:///{old}")
    assert rows(old, "SELECT schema_version FROM meta") == [(1,)]
    open_database(f"sqlite:///{old}").close()
    assert rows(old, "SELECT schema_version FROM meta") == [(SCHEMA_VERSION,)]


@pytest.mark.system
def test_a_disk_without_room_for_the_copy_ends_the_start(old: Path, tmp_path: Path) -> None:
    """With exit status 1 and a line; the file is as it was, and there is nothing of a copy."""
    with tmpfs(tmp_path / "disk") as disk:
        shutil.copy(old, disk / "state.db")
        fill(disk)
        config = make_config("http://127.0.0.1:9", disk)
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        done = run_command("serve", f"--config.file={tmp_path}/config.yaml")
        assert done.returncode == 1
        said = done.stderr.splitlines()[-1]
        assert "room for a copy of the state file is expected beside it" in said
        assert (disk / "state.db").read_bytes() == OLD.read_bytes()
        names = {"state.db", "state.db-shm", "state.db.lock", "filler"}
        assert {file.name for file in disk.iterdir()} <= names


def test_runs_that_end_while_the_file_is_upgraded_count_once(old: Path, tmp_path: Path) -> None:
    """The API goes on all the while; the process is killed over its copy, and started again."""
    world = World()
    world.add_org(Org(id="org-1", name="old", key="key-main"))
    for run_id, workflow_id, status, created, ended in _bring_to(time.time() - 60, old):
        world.add_run(
            run_id=run_id,
            workflow_id=workflow_id,
            origin="TRIGGER",
            status=status,
            created_at=created,
            started_at=created + 1,
            ended_at=None if status == "RUNNING" else ended,
        )
    fast = Workflow(
        id="wf-fast", name="", org_id="org-1", runs_per_hour=7200, duration_seconds=0.5, failed=0.3
    )
    world.add_workflow(fast)
    since = time.time()

    def is_exact(samples: Samples) -> bool:
        wrong = differences(samples, world.truth(since))
        return not [line for line in wrong if "wf-fast" in line]

    with SimulatorServer(world, settings=Settings(rate_limit_per_minute=None)) as simulator:
        exporter = Exporter(tmp_path, make_config(simulator.url, tmp_path, reconcile_interval="1s"))
        exporter.launch()
        wait_for("the copy", Path(f"{old}.schema-1").exists)
        exporter.kill()
        world.finish_run("open-1")
        with exporter:
            exporter.wait_for("traffic", lambda now: now.total(FINISHED, workflow_id="wf-fast") > 5)
            world.automatic = False
            exporter.wait_for("exact", is_exact)
            samples = exporter.wait_for_reconciliation("org-1")
    assert is_exact(samples)
    known = [samples.total(FINISHED, workflow_id="wf", status=each) for each in FINAL_STATUSES]
    assert dict(zip(FINAL_STATUSES, known, strict=True)) == {
        "CANCELED": 0,
        "COMPLETED": 3,
        "SKIPPED": 0,
        "FAILED": 1,
    }
    assert samples.total(FINISHED) == 5 + samples.total(FINISHED, workflow_id="wf-fast")


def _bring_to(begun: float, old: Path) -> list[tuple[str, str, Status, float, float]]:
    """Let what the old file knows have happened about that time; return its runs."""
    shift = begun - NOW
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE org SET floor = floor + ?", [shift])
        times = ("created", "since", "updated", "seen")
        moved = ", ".join(f"{name} = {name} + {shift!r}" for name in times)
        connection.execute(f"UPDATE run SET {moved}")  # noqa: S608 - a number of this module's
        return connection.execute(
            "SELECT run_id, workflow_id, status, created, since FROM run"
        ).fetchall()
