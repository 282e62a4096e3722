"""A ledger moves between SQLite and PostgreSQL: counters go on, and nobody uses it meanwhile."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import psycopg
import pytest

from invent_exporter.commands.backfill_ledger import read_ledger
from invent_exporter.ledger.database import open_database
from tests.process.counting import Case, config_of
from tests.process.harness import Exporter, make_config, run_command
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher

pytestmark = pytest.mark.system


def migrate(source: str, target: str, *, status: int = 0) -> str:
    """Run the command; return what it says."""
    done = run_command("migrate", f"--from={source}", f"--to={target}")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def ask(url: str, *command: str, status: int = 0) -> str:
    """Run a command on this state; return what it says, without where that is."""
    done = run_command(*command, environment={"INVENT_API_KEY": "k", "INVENT_STATE_URL": url})
    assert done.returncode == status, done.stdout + done.stderr
    return (done.stdout + done.stderr).replace(url, "STATE")


def test_a_scraper_sees_nothing_of_the_move(tmp_path: Path, postgres_url: str) -> None:
    """There and back: no number falls, none is missing, also of what ended meanwhile."""
    urls = [f"sqlite:///{tmp_path}/state.db", postgres_url, f"sqlite:///{tmp_path}/back.db"]
    watcher = Watcher()
    case = None
    with quiet_api() as simulator:
        for number, url in enumerate(urls):
            config = config_of(simulator, tmp_path, url)
            if number:
                assert migrate(urls[number - 1], url).startswith("ok: 1 rows of org, ")
            with Exporter(tmp_path, config, watcher=watcher) as exporter:
                exporter.wait_until_up()
                since = time.time() - 0.002
                case = Case(simulator, exporter, case.since if case else since, watcher)
                case.happen()
                case.wait_until_exact()
                case.happen()  # part of it may be counted before the stop
                assert exporter.stop() == 0
            case.happen()


def test_the_commands_say_the_same_of_both(tmp_path: Path, postgres_url: str) -> None:
    """`explain`, `ledger verify`, `check` and what backfill goes by; nothing is changed."""
    file = f"sqlite:///{tmp_path}/state.db"
    with quiet_api() as simulator:
        config = make_config(simulator.url, tmp_path)
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            add = partial(simulator.world.add_run, workflow_id="wf-new", error="x")
            ids = [add(status="FAILED"), add(status="RUNNING")]
            exporter.wait_for_finished(1, workflow_id="wf-new")
            exporter.wait_for_polls()
            assert exporter.stop() == 0
    migrate(file, postgres_url)
    known = read_ledger(file)
    assert [org.org_id for org in known] == ["org-main"]
    assert read_ledger(postgres_url) == known
    for run_id in ids:
        said = ask(file, "explain", run_id)
        assert f"run {run_id} in org org-main" in said
        assert ask(postgres_url, "explain", run_id) == said
    assert ask(file, "explain", "nobody", status=1) == ask(
        postgres_url, "explain", "nobody", status=1
    )
    assert ask(postgres_url, "ledger", "verify") == ask(file, "ledger", "verify")
    assert "expected pg_dump" in ask(postgres_url, "ledger", "backup", "copy.db", status=2)
    looked = ask(postgres_url, "check", "--json", status=1)  # nobody answers at its API
    assert '"found": "STATE"' in looked
    assert '"found": "2 workflows' in looked
    assert "known are: org-main" in ask(postgres_url, "ledger", "forget", "org-2", status=2)
    assert ask(postgres_url, "ledger", "forget", "org-main").startswith("forgot org org-main")
    assert read_ledger(postgres_url) == []


def test_what_is_wrong_in_postgresql_is_told_with_its_place(
    tmp_path: Path, postgres_url: str
) -> None:
    """As of a file; and where nothing is, nothing is made."""
    assert "no state" in ask(postgres_url, "ledger", "verify", status=1)
    file = f"sqlite:///{tmp_path}/state.db"
    with quiet_api() as simulator, Exporter(tmp_path, make_config(simulator.url, tmp_path)) as one:
        one.wait_until_up()
        assert one.stop() == 0
    migrate(file, postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE workflow SET numbers = '[]'")
    said = ask(postgres_url, "ledger", "verify", status=1)
    assert "table workflow, org 1, workflow_id wf-old: numbers has bad JSON: Expected `ob" in said


def test_what_is_in_use_or_knows_orgs_is_refused(tmp_path: Path, postgres_url: str) -> None:
    """On both sides, in both kinds; and nothing is written then."""
    file, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("state", "other"))
    with quiet_api() as simulator:
        with Exporter(tmp_path, make_config(simulator.url, tmp_path)) as exporter:
            exporter.wait_until_up()
            assert "held by another process" in migrate(file, postgres_url, status=1)
            assert "held by another process" in migrate(file, other, status=1)
            assert exporter.stop() == 0
        assert "no state" in migrate(other, postgres_url, status=1)
        migrate(file, postgres_url)
        for target, source in ((postgres_url, file), (file, postgres_url)):
            assert "knows orgs: org-main" in migrate(source, target, status=1)
        # Leases that no process misses, and that do not run out before anybody looks.
        state = {"url": postgres_url, "lease": "10m"}
        config = make_config(simulator.url, tmp_path, state=state)
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            assert "in use by replica" in migrate(postgres_url, other, status=1)
            exporter.kill()
        assert "for its leases to end" in migrate(postgres_url, other, status=1)
        with psycopg.connect(postgres_url) as connection:
            connection.execute("UPDATE replica SET until = 0")
        assert migrate(postgres_url, other).startswith("ok: 1 rows of org")


def test_a_move_that_breaks_off_leaves_nothing_behind(tmp_path: Path, postgres_url: str) -> None:
    """The target is as it was, the source goes on, and the next try succeeds."""
    file = f"sqlite:///{tmp_path}/state.db"
    with quiet_api() as simulator, Exporter(tmp_path, make_config(simulator.url, tmp_path)) as one:
        one.wait_until_up()
        assert one.stop() == 0
    open_database(postgres_url).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("ALTER TABLE run ADD CHECK (run_id = 'none of ours')")
    before = Path(tmp_path / "state.db").read_bytes()
    assert "violates check constraint" in migrate(file, postgres_url, status=1)
    assert Path(tmp_path / "state.db").read_bytes() == before
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM org").fetchone() == (0,)
        connection.execute("ALTER TABLE run DROP CONSTRAINT run_run_id_check")
    migrate(file, postgres_url)
