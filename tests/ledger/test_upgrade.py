"""A state file that 0.1.0 made goes on where it was; what goes wrong leaves it as it is."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from invent_exporter.errors import StateError
from invent_exporter.ledger import upgrade
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.ledger.schema import SCHEMA_VERSION
from invent_exporter.ledger.sqlite import open_database
from tests.ledger.blocking import BlockingLedger
from tests.proof.runs import BOUNDS, NOW, run

OLD = Path(__file__).parent / "ledger-0.1.0.db"
"""`c` is org-1; four runs were counted, two are history, one is open; two ids are odd."""
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
