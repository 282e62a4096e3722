"""`explain` and `ledger` on the state of a running `serve`, and on one that nobody holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.process.harness import Exporter, make_config, run_command
from tests.process.test_odd_runs import Api, served

Ask = Callable[..., str]


def _row(run_id: str, status: str, *, ago_seconds: float, **more: object) -> str:
    begin = datetime.now(UTC) - timedelta(seconds=ago_seconds)
    fields: dict[str, object] = {
        "id": run_id,
        "status": status,
        "origin": "WEBHOOK",
        "workflow_id": "wf-1",
        "created_at": begin.isoformat(),
        "started_at": (begin + timedelta(seconds=2)).isoformat(),
    }
    if status == "FAILED":
        fields["ended_at"] = datetime.now(UTC).isoformat()
    return json.dumps({**fields, **more})


def _ask(folder: Path, command: str, *rest: str | Path, status: int = 0) -> str:
    done = run_command(command, *rest, f"--config.file={folder}/config.yaml")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout or done.stderr


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Serve an org with a run of history, one that was counted, an open and an invalid one."""
    api, folder = Api(), tmp_path_factory.mktemp("serving")
    api.rows = [
        _row("o\\pen", "RUNNING", ago_seconds=60),
        _row("old", "FAILED", ago_seconds=600),
    ]
    with served(api) as url:
        config = make_config(url, folder, orgs=[{"id": "org-1"}], reconcile_interval="1h")
        with Exporter(folder, config) as exporter:
            exporter.wait_for("contact", lambda samples: samples.total("invent_up"))
            api.rows[:0] = [
                _row("new", "FAILED", ago_seconds=9, usage={"total": 3, "ai_total": 1}),
                '{"id": "no-time", "status": "FAILED"}',
            ]
            exporter.wait_for_finished(1)
            exporter.wait_for("it", lambda samples: samples.total("invent_runs_invalid_total"))
            yield partial(_ask, folder)


@pytest.fixture
def ask_copy(ask: Ask, tmp_path: Path) -> Ask:
    """Ask about a copy of that state, which nobody holds."""
    copy = tmp_path / "state.db"
    assert ask("ledger", "backup", copy).startswith(f"{copy}: ")
    config = make_config("http://127.0.0.1:1", tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    return partial(_ask, tmp_path)


FINISHED = (
    'invent_runs_finished_total{org_id="org-1",workflow_id="wf-1",origin="WEBHOOK",status="FAILED"}'
)


@pytest.mark.parametrize(
    ("run_id", "status", "said"),
    [
        ("new", 0, ["first seen at 20", "by a poll", "counted at 20", f"{FINISHED} +1"]),
        ("new", 0, ['invent_run_queue_seconds{org_id="org-1",workflow_id="wf-1"} observed 2']),
        ("new", 0, ['kind="ai"} +1', 'kind="other"} +2']),
        ("old", 0, ["not counted: history", "at first contact with the org"]),
        ("o\\pen", 0, ["open since it started", "counts when it ends"]),
        ("o\\\\pen", 0, ["open since it started"]),  # as the log and the page show it
        ("no-time", 0, ["left out", "reason=time", "no time that can be read"]),
        ("elsewhere", 1, ["not known", "org org-1: ids are kept of runs since 20"]),
    ],
)
def test_explain_says_why_a_run_counted_or_not(
    ask: Ask, run_id: str, status: int, said: list[str]
) -> None:
    """While `serve` holds the file."""
    text = ask("explain", run_id, status=status)
    assert [part for part in said if part not in text] == [], text


def test_ledger_is_verified_and_copied_while_it_is_served(ask: Ask, tmp_path: Path) -> None:
    """The copy is private, and no file is written over."""
    copy = tmp_path / "copy.db"
    assert ask("ledger", "verify") == "ok: 1 orgs, 1 workflows, 3 runs\n"
    ask("ledger", "backup", copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "exists" in ask("ledger", "backup", copy, status=1)


def test_an_org_is_forgotten_when_nobody_serves_it(ask: Ask, ask_copy: Ask) -> None:
    """Whole; with `serve` running, or a name that is not known, nothing happens."""
    assert "another process" in ask("ledger", "forget", "org-1", status=1)
    assert "known are: org-1" in ask_copy("ledger", "forget", "org-2", status=2)
    assert r"org \udcff is not known" in ask_copy("ledger", "forget", "\udcff", status=2)
    assert ask_copy("ledger", "forget", "org-1").startswith("forgot org org-1: ")
    assert ask_copy("ledger", "verify") == "ok: 0 orgs, 0 workflows, 0 runs\n"


def test_what_a_forgotten_org_listed_is_forgotten(ask_copy: Ask, tmp_path: Path) -> None:
    """Under its id or `c`; what other orgs list stays."""
    with closing(sqlite3.connect(tmp_path / "state.db")) as state:
        state.execute("UPDATE org SET alias = 'c'")
        rows = [(parent, "sub", 1.0) for parent in ("org-1", "c", "org-2")]
        state.executemany("INSERT INTO sub_org (parent, org_id, seen) VALUES (?, ?, ?)", rows)
        state.commit()
        ask_copy("ledger", "forget", "org-1")
        assert state.execute("SELECT parent FROM sub_org").fetchall() == [("org-2",)]


def test_verify_finds_a_counter_that_its_runs_contradict(ask_copy: Ask, tmp_path: Path) -> None:
    """What no look at single rows can see."""
    with closing(sqlite3.connect(tmp_path / "state.db")) as state:
        state.execute("UPDATE run SET counted = 1, status = 'FAILED', origin = 'WEBHOOK'")
        state.commit()
    text = ask_copy("ledger", "verify", status=1)
    assert "workflow wf-1 counted 1 runs WEBHOOK/FAILED, and 3 rows say" in text


@pytest.mark.parametrize("arguments", [("verify", "x"), ("backup",), ("forget",)])
def test_ledger_says_what_it_expects(ask: Ask, arguments: tuple[str, ...]) -> None:
    """A file or an org where one is needed, and nothing else."""
    assert "expected" in ask("ledger", *arguments, status=2)


def test_without_a_state_there_is_nothing_to_explain(tmp_path: Path) -> None:
    """One line, and nothing is made."""
    config = make_config("http://127.0.0.1:1", tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert "no state; expected that of serve" in _ask(tmp_path, "explain", "run-1", status=1)
    assert not (tmp_path / "state.db").exists()
