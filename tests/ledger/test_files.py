"""The state file and all beside it: private, and refused where it can't be trusted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from invent_exporter.errors import StateError
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import KEPT_FAILED_RUNS
from tests.ledger.blocking import BlockingLedger
from tests.ledger.test_ledger import SETTINGS
from tests.ledger.test_upgrade import OLD
from tests.process.harness import Exporter, make_config
from tests.process.traffic import quiet_api
from tests.proof.runs import NOW, run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a state file in which there is a row of each kind."""
    path = tmp_path / "state.db"
    ledger = _open(path)
    org = ledger.load("org-1", walk_floor=NOW)
    ledger.record(org, [run("r1", "FAILED", error="a secret of a customer")], [], now=NOW)
    ledger.close()
    return path


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be open to everybody unless the program says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def _open(path: Path) -> BlockingLedger:
    return BlockingLedger(Ledger(open_database(f"sqlite:///{path}"), SETTINGS))


def _modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


@pytest.mark.usefixtures("open_umask")
def test_what_we_make_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The state, its log, its lock, and the copies that an upgrade and a recovery make."""
    ledger = _open(tmp_path / "state.db")
    ledger.load("org-1", walk_floor=NOW)
    names = {"state.db", "state.db-wal", "state.db-shm", "state.db.lock"}
    assert _modes(tmp_path) == dict.fromkeys(names, 0o600)
    (tmp_path / "state.db").unlink()
    with pytest.raises(Exception, match="removed"):
        ledger.load("org-2", walk_floor=NOW)
    ledger.load("org-2", walk_floor=NOW)
    assert _modes(tmp_path) == dict.fromkeys(names, 0o600)
    ledger.close()
    shutil.copy(OLD, tmp_path / "state.db")
    open_database(f"sqlite:///{tmp_path}/state.db").close()
    assert _modes(tmp_path)["state.db.schema-1"] == 0o600


def test_a_mode_that_the_platform_gave_is_left_as_it_is(state: Path) -> None:
    """Kubernetes lets a group write what is on a volume (fsGroup)."""
    state.chmod(0o660)
    open_database(f"sqlite:///{state}").close()
    assert state.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (
            "UPDATE run SET created = 'soon'",
            "table run, org 1, run_id r1: created has another type",
        ),
        ("UPDATE run SET status = x'FF'", "table run, org 1, run_id r1: status has another type"),
        (
            "UPDATE run SET run_id = CAST(x'72FF' AS TEXT)",
            "table run, org 1, run_id r\N{REPLACEMENT CHARACTER}: run_id has bad UTF-8",
        ),
        ("UPDATE run SET steps = '{'", "table run, org 1, run_id r1: steps has bad JSON: "),
        (
            "UPDATE workflow SET numbers = '[]'",
            "table workflow, org 1, workflow_id wf: numbers has bad JSON: Expected `object`",
        ),
        (
            """UPDATE org SET numbers = '{"met": "many"}'""",
            "table org, org 1: numbers has bad JSON: Expected `int`, got `str` - at `$.met`",
        ),
        ("UPDATE org SET scan = '{}}'", "table org, org 1: scan has bad JSON: "),
        ("ALTER TABLE invalid DROP COLUMN seen", "table invalid lacks seen"),
    ],
)
def test_damage_that_sqlite_does_not_see_is_told_with_its_place(
    state: Path, damage: str, place: str
) -> None:
    """In one line, before anything is written; with a log beside it, too."""
    with closing(sqlite3.connect(state, isolation_level=None)) as connection:
        connection.execute(damage)
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        before = state.read_bytes()
        log = Path(f"{state}-wal").read_bytes()
        with pytest.raises(StateError) as raised:
            open_database(f"sqlite:///{state}")
        assert (state.read_bytes(), Path(f"{state}-wal").read_bytes()) == (before, log)
    assert place in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", None], ids=["empty", "gone"])
def test_a_log_whose_file_is_empty_is_not_thrown_away(state: Path, content: bytes | None) -> None:
    """SQLite would begin anew, and what the log holds would be lost."""
    log = Path(f"{state}-wal")
    log.write_bytes(b"x" * 5000)
    state.write_bytes(b"")
    if content is None:
        state.unlink()
    with pytest.raises(StateError, match=r"its log state\.db-wal is not"):
        open_database(f"sqlite:///{state}")
    assert log.stat().st_size == 5000


def test_an_error_text_is_kept_no_longer_than_it_is_shown(state: Path) -> None:
    """Of an org its newest failed runs are shown, of one that is not polled any more none."""
    assert b"a secret of a customer" in state.read_bytes()
    ledger = _open(state)
    org = ledger.load("org-1", walk_floor=NOW)
    kept = range(KEPT_FAILED_RUNS)
    newer = [run(f"n{number}", "FAILED", ended=9.0, error="newer text") for number in kept]
    ledger.record(org, newer, [], now=NOW)
    ledger.close()
    assert b"a secret of a customer" not in state.read_bytes()
    assert b"newer text" in state.read_bytes()
    with quiet_api() as simulator:
        config = make_config(simulator.url, state.parent, orgs=[{"id": "org-main"}])
        with Exporter(state.parent, config) as exporter:
            assert exporter.stop() == 0
    assert b"newer text" not in state.read_bytes()
