"""The ledger is read beside `serve`, as whoever runs the command, and nothing is left behind."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from invent_exporter.commands.backfill_ledger import KnownOrg, read_ledger
from invent_exporter.errors import StateError
from invent_exporter.ledger import schema
from invent_exporter.ledger.database import Database, open_database

CONTACT = 1_800_000_000.0


@contextmanager
def ledger(path: Path) -> Iterator[Database]:
    """Hold the state file as `serve` does."""
    database = open_database(f"sqlite:///{path}")
    try:
        yield database
    finally:
        database.close()


def write(database: Database, statement: str, *rows: tuple[Any, ...]) -> None:
    """Commit rows."""
    with database.engine.begin() as connection:
        for row in rows:
            connection.exec_driver_sql(statement, row)


def put_org(database: Database, *, contacted: int = 1, contact: float | None = CONTACT) -> None:
    """Commit an org that `c` stands for."""
    row = (1, "org-main", "c", 1, contacted, 0.0, "{}", "{}", contact)
    write(database, "INSERT INTO org VALUES (?,?,?,?,?,?,?,?,?)", row)


def put_run(
    database: Database,
    run_id: str,
    *,
    counted: int,
    final: int,
    created: float,
    since: float,
    met_by: str = "poll",
) -> None:
    """Commit a run, with times relative to contact."""
    values = {"run_id": run_id, "org": 1, "workflow_id": "wf", "origin": "TRIGGER", "walk": 1}
    values |= {"status": "FAILED", "final": final, "owned": 1, "counted": counted, "absent": 0}
    values["met_by"] = met_by
    times = {"created": CONTACT + created, "since": CONTACT + since, "seen": CONTACT}
    with database.engine.begin() as connection:
        connection.execute(insert(schema.run).values(**values, **times))


def look_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Tell what would show that somebody wrote here."""
    found = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (it.st_ino, it.st_size, it.st_mtime_ns) for name, it in found.items()}


def test_it_tells_the_runs_that_time_alone_does_not_place(tmp_path: Path) -> None:
    """Also what `serve` has committed a moment ago, and while it holds the file."""
    path = tmp_path / "state.db"
    with ledger(path) as database:
        put_org(database)
        put_run(database, "counted-later", counted=1, final=1, created=5, since=9)
        put_run(database, "counted-ended-before", counted=1, final=1, created=-9, since=-5)
        put_run(database, "counted-began-before", counted=1, final=1, created=-9, since=5)
        put_run(database, "open", counted=0, final=0, created=-9, since=-5)
        put_run(database, "history", counted=0, final=1, created=-9, since=-5)
        put_run(database, "history-ended-after", counted=0, final=1, created=-9, since=1)
        put_open = partial(put_run, database, counted=0, final=0, created=0.5, since=0.5)
        put_open("met-open", met_by="contact")
        put_open("open-later")
        write(database, "INSERT INTO workflow VALUES (1, ?, ?)", ("wf", "{}"), ("folded", None))
        before = look_of(tmp_path)
        assert read_ledger(f"sqlite:///{path}") == [
            KnownOrg(
                "org-main",
                "c",
                CONTACT,
                live=frozenset({"counted-ended-before", "counted-began-before", "open"}),
                history=frozenset({"history-ended-after"}),
                met=frozenset({"met-open"}),
                workflows=frozenset({"wf"}),
                folded=frozenset({"folded"}),
            )
        ]
        assert look_of(tmp_path) == before


def test_a_file_that_nobody_holds_is_left_as_it_is(tmp_path: Path) -> None:
    """No log and no index appear beside it, not even for a moment in which `serve` might start."""
    path = tmp_path / "state.db"
    with ledger(path) as database:
        put_org(database)
    before = look_of(tmp_path)
    assert "state.db-wal" not in before
    assert [org.org_id for org in read_ledger(f"sqlite:///{path}")] == ["org-main"]
    assert look_of(tmp_path) == before


def test_the_log_of_a_killed_process_is_read(tmp_path: Path) -> None:
    """What it committed stands there, with an index beside it or without."""
    path, copies = tmp_path / "state.db", tmp_path / "copies"
    copies.mkdir()
    with ledger(path) as database:
        put_org(database)
        for suffix in ("", "-wal"):
            (copies / f"state.db{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    before = look_of(copies)
    assert [org.org_id for org in read_ledger(f"sqlite:///{copies}/state.db")] == ["org-main"]
    assert look_of(copies) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_read_it(tmp_path: Path) -> None:
    """One who may read the file and its folder, and write neither."""
    path = tmp_path / "state.db"
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with ledger(path) as database:
        put_org(database)
        for file in tmp_path.iterdir():
            file.chmod(0o644)
        before = look_of(tmp_path)
        os.seteuid(65534)
        try:
            assert [org.org_id for org in read_ledger(f"sqlite:///{path}")] == ["org-main"]
        finally:
            os.seteuid(0)
        assert look_of(tmp_path) == before


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///missing.db"])
def test_no_state_is_no_org(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """And none is made."""
    monkeypatch.chdir(tmp_path)
    assert read_ledger(url) == []
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_told_is_refused(tmp_path: Path) -> None:
    """First contact under way, a ledger of 0.1.0, another schema, another program's file."""
    path = tmp_path / "state.db"
    with ledger(path) as database:
        put_org(database, contacted=0, contact=None)
        with pytest.raises(StateError, match="first contact with org-main is not complete"):
            read_ledger(f"sqlite:///{path}")
        write(database, "UPDATE org SET contacted = ?", (1,))
        with pytest.raises(StateError, match="begun by version 0"):
            read_ledger(f"sqlite:///{path}")
        write(database, "UPDATE meta SET schema_version = ?", (99,))
        with pytest.raises(StateError, match="schema version 99, expected 2"):
            read_ledger(f"sqlite:///{path}")
    with pytest.raises(StateError, match=r"host\.invalid"):
        read_ledger("postgresql://host.invalid/db")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (it)")
    with pytest.raises(StateError, match="another program's"):
        read_ledger(f"sqlite:///{other}")
    other.write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StateError, match="can't be read"):
        read_ledger(f"sqlite:///{other}")
