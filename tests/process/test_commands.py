"""What the commands do, and what stops them, as a shell sees it; bad flags are in `test_cli`."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from invent_exporter.commands.check import schema
from invent_exporter.simulator import Fault, SimulatorServer
from tests.process.conftest import Start
from tests.process.harness import (
    DEADLINE_SECONDS,
    ROOT,
    Exporter,
    clean_environment,
    make_config,
    run_command,
    wait_for,
)
from tests.process.traffic import KEY


def _one_line(text: str) -> str:
    """Take the one line that an error is."""
    assert text.count("\n") == 1, text
    assert text.startswith("invent-exporter: "), text
    return text


# -- check


Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def check(simulator: SimulatorServer, tmp_path: Path) -> Check:
    """Return what runs `check` on the simulated API; what it has of config is for `make_config`."""

    def run(status: int = 0, **config: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(make_config(simulator.url, tmp_path, **config)))
        done = run_command("check", f"--config.file={file}")
        assert (done.returncode, done.stderr) == (status, "")
        return done

    return run


def test_check_prints_what_each_org_answered(check: Check, tmp_path: Path) -> None:
    """Exit 0 when every org answered, 1 when one did not, with the problem in the table."""
    done = check()
    assert "1 on the first page" in done.stdout
    assert "org-main" in done.stdout
    orgs = [{"id": org} for org in ("c", "org-sub", "org-unknown")]
    done = check(1, orgs=[*orgs, {"id": "org-other", "key": "key-of-nobody"}])
    answers = {
        cells[1].strip(): (cells[2].strip(), cells[-2].strip())
        for cells in (line.split("│") for line in done.stdout.splitlines())
        if len(cells) > 8
    }
    assert answers["c"] == answers["org-sub"] == ("ok", "")
    assert answers["org-unknown"][0] == "failed"
    assert answers["org-unknown"][1].startswith("not_found: HTTP 404")
    assert answers["org-other"][0] == "failed"
    assert answers["org-other"][1].startswith("unauthorized: HTTP 401")
    assert KEY not in done.stdout
    assert "key-of-nobody" not in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"], "check needs no state"


def test_check_on_a_narrow_terminal_is_a_line_for_each_cell(check: Check, tmp_path: Path) -> None:
    """A table of so many columns would be cut to crumbs."""
    check()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "exporter.py", "check", f"--config.file={tmp_path}/config.yaml"]
    subprocess.run(command, cwd=ROOT, stdout=theirs, env=clean_environment(), check=True)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "org           c\r\nanswer        ok\r\n" in shown
    assert "runs name org org-main" in shown


def test_check_for_programs(simulator: SimulatorServer, check: Check, tmp_path: Path) -> None:
    """The same as JSON, which fits its schema; docs has that as the code makes it."""
    now = simulator.world.clock()
    for age in range(150):
        simulator.world.add_run(status="COMPLETED", created_at=now - age * 60)
    check()
    done = run_command("check", "--json", f"--config.file={tmp_path}/config.yaml")
    report = json.loads(done.stdout)
    described = schema()
    assert (ROOT / "docs" / "check.schema.json").read_bytes() == described
    jsonschema.validate(report, json.loads(described))
    (org,) = report["orgs"]
    assert (org["runs"], org["first_page_runs"], org["deepest_row"]) == (151, 100, 151)
    assert (org["order"], org["names_orgs"]) == ("newest first", ["org-main"])
    assert abs(org["clock_ahead_seconds"]) < 10
    of_machine = {line["what"]: line for line in report["machine"]}
    assert "not there yet, on " in of_machine["state"]["found"]
    assert "2 workflows: 252 series" in of_machine["series"]["found"]
    assert of_machine["scrape_interval"]["advice"] is not None, "the hold of the tests is 0"


def test_check_says_that_a_deep_page_is_refused(simulator: SimulatorServer, check: Check) -> None:
    """Which does not fail the org."""
    for _ in range(150):
        simulator.world.add_run(status="COMPLETED")
    simulator.faults.add(Fault(kind="status", status=400, query={"page": "2"}))
    done = check()
    assert "refused from row 100" in done.stdout
    assert "what lies deeper is read by status and origin" in done.stdout


def test_check_shows_no_control_characters_and_no_key(
    simulator: SimulatorServer, check: Check
) -> None:
    """Whatever the API answers, the terminal is not told what to do, nor is the key shown."""
    run_id = simulator.world.add_run(status="COMPLETED")
    simulator.world.set_fields(run_id, {"org_id": f"\x1b]0;title\x07{KEY}"})
    done = check()
    assert "]0;title" in done.stdout
    assert not {"\x1b", "\x07"} & set(done.stdout)
    assert KEY not in done.stdout


def test_check_finds_the_newest_run_whatever_the_times_offsets(
    simulator: SimulatorServer, check: Check
) -> None:
    """Also among times without one, which are taken as UTC."""
    hour = f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H}"
    times = (f"{hour}:30:00", f"{hour}:59:00+01:30", f"{hour}:00:00Z")
    for time in times:
        simulator.world.add_run(status="COMPLETED", fields={"created_at": time})
    assert times[0] in check().stdout


def test_check_of_an_api_that_is_down(tmp_path: Path) -> None:
    """Nobody listens: the table says so, and the exit status is 1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        "INVENT_API_KEY": KEY,
        "INVENT_API_URL": f"http://127.0.0.1:{port}",
        "INVENT_STATE_URL": "sqlite://",
    }
    done = run_command("check", environment=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "network: " in done.stdout


# -- environment


def test_environment_is_enough(simulator: SimulatorServer, tmp_path: Path) -> None:
    """The five variables configure one org, without a file; `INVENT_API_KEY` is test_load's."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    simulator.world.add_run(status="RUNNING", org_id="org-sub")
    environment = {
        "INVENT_ORG_ID": "org-sub",
        "INVENT_API_KEY_FILE": str(tmp_path / "key"),
        "INVENT_API_URL": simulator.url,
        "INVENT_STATE_URL": f"sqlite:///{tmp_path}/of-environment.db",
    }
    with Exporter(tmp_path, None, environment=environment) as exporter:
        is_open = {"org_id": "org-sub", "status": "RUNNING"}
        exporter.wait_for("it is open", lambda now: now.total("invent_runs_open", **is_open) == 1)
    assert (tmp_path / "of-environment.db").exists()


# -- what stops a start


def _refused(tmp_path: Path, state: Path | str, *arguments: str) -> str:
    """Start on a state that can't be used; return the one line."""
    file = tmp_path / "refused.yaml"
    config = make_config("http://127.0.0.1:9", tmp_path)
    config["state"] = {"url": f"sqlite:///{state}"}
    file.write_text(json.dumps(config))
    address = "--web.listen-address=127.0.0.1:0"
    done = run_command(f"--config.file={file}", address, *arguments)
    assert (done.returncode, done.stdout) == (1, ""), done
    return _one_line(done.stderr)


def test_busy_port_is_named(tmp_path: Path) -> None:
    """A port that another process listens on ends the start, with the address; exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        line = _refused(tmp_path, tmp_path / "state.db", f"--web.listen-address=127.0.0.1:{port}")
    assert str(port) in line
    assert "in use" in line


def test_unwritable_state_is_named(tmp_path: Path) -> None:
    """A folder that is missing or can't be written, and a folder in place of the file."""
    assert "state.url" in _refused(tmp_path, tmp_path / "missing" / "state.db")
    assert "state.url" in _refused(tmp_path, Path("/proc/state.db"))
    (tmp_path / "folder.db").mkdir()
    assert "state.url" in _refused(tmp_path, tmp_path / "folder.db")
    (tmp_path / "dangling.db").symlink_to(tmp_path / "missing" / "state.db")
    line = _refused(tmp_path, tmp_path / "dangling.db")
    assert "dangling.db" in line
    assert "a file in a writable directory is expected" in line
    # The lock beside the file can be had, the file can't.
    os.mkfifo(tmp_path / "pipe.db")
    line = _refused(tmp_path, tmp_path / "pipe.db")
    assert "pipe.db" in line
    assert "a writable file is expected" in line


def _contents(folder: Path, name: str) -> dict[str, bytes]:
    """Read all files that begin with this name, but the lock."""
    files = sorted(folder.glob(f"{name}*"))
    return {file.name: file.read_bytes() for file in files if not file.name.endswith(".lock")}


def test_damaged_newer_and_foreign_states_are_left_as_they_are(
    simulator: SimulatorServer, start: Start, tmp_path: Path
) -> None:
    """Each is refused with what to do, and not one byte of it changes."""
    for _ in range(200):
        simulator.world.add_run(status="COMPLETED")
    exporter = start()
    exporter.wait_until_up()
    assert exporter.stop() == 0
    good = (tmp_path / "state.db").read_bytes()

    text = tmp_path / "text.db"
    text.write_text("this was never a database\n" * 100)
    short = tmp_path / "short.db"
    short.write_bytes(good[: len(good) // 2])
    holed = tmp_path / "holed.db"
    # Behind all that a start reads: only a look at the whole file finds it.
    holed.write_bytes(good[:24576] + b"\xa5" * (len(good) - 24576))
    newer, foreign = tmp_path / "newer.db", tmp_path / "foreign.db"
    newer.write_bytes(good)
    for file, statement in (
        (newer, "UPDATE meta SET schema_version = 999"),
        (foreign, "CREATE TABLE theirs (something)"),
    ):
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(statement)

    for file, said in (
        (text, "damaged"),
        (short, "damaged"),
        (holed, "damaged"),
        (newer, "999"),
        (foreign, "another program"),
    ):
        before = _contents(tmp_path, file.name)
        line = _refused(tmp_path, file)
        assert said in line
        assert str(file) in line
        assert _contents(tmp_path, file.name) == before


def test_state_of_another_process_is_left_to_it(
    simulator: SimulatorServer, start: Start, tmp_path: Path
) -> None:
    """A second exporter on the same file is refused, and the first goes on."""
    exporter = start()
    exporter.wait_until_up()
    assert "held by another process" in _refused(tmp_path, tmp_path / "state.db")
    simulator.world.add_run(status="FAILED")
    exporter.wait_for_finished(1)
    # A killed one lets go of it.
    exporter.kill()
    exporter.start()
    assert exporter.wait_until_up().total("invent_runs_finished_total") == 1


# -- the end


STOP_SECONDS = 20.0
"""A stop takes 5 s at most where the machine has nothing else to do; the API takes a minute."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_a_poll_in_flight(
    simulator: SimulatorServer, start: Start, number: int
) -> None:
    """Status 0 long before the API answers, after a minute; what was counted is kept."""
    world = simulator.world
    exporter = start()
    exporter.wait_until_up()
    world.add_run(status="FAILED")
    exporter.wait_for_finished(1)
    simulator.add_faults(Fault(kind="slow", seconds=60))
    simulator.forget_requests()
    wait_for("a slow request", lambda: simulator.requests)
    assert exporter.stop(number, STOP_SECONDS) == 0
    assert "msg=stopping" in exporter.log
    assert "Traceback" not in exporter.log
    simulator.faults.clear()
    world.add_run(status="FAILED")
    exporter.start()
    exporter.wait_for_finished(2)


def test_signal_ends_it_before_the_first_answer(simulator: SimulatorServer, start: Start) -> None:
    """Also while first contact waits for an API that does not answer."""
    simulator.add_faults(Fault(kind="slow", seconds=60))
    exporter = start()
    wait_for("a slow request", lambda: simulator.requests)
    assert exporter.stop(signal.SIGTERM, STOP_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("command", "status"), [("serve", 0), ("check", 1)])
def test_signal_ends_it_before_it_has_begun(
    tmp_path: Path, number: int, command: str, status: int
) -> None:
    """While it still reads its configuration: `serve` stops cleanly, `check` has asked nobody.

    As process 1 of a container it would not even be ended by a SIGTERM that it does not expect, and
    a script's background process begins with a SIGINT that is ignored.
    """
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    program = [sys.executable, str(ROOT / "exporter.py"), command, f"--config.file={pipe}"]
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT TERM; exec "$@"', "sh", *program],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:
        try:
            with pipe.open("wb"):  # it has opened the other end, and reads until this one is closed
                process.send_signal(number)
                _, said = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == status
    assert b"Traceback" not in said


def test_simulate_and_demo_end_by_signal(tmp_path: Path) -> None:
    """`demo` prints the addresses and serves both; `simulate` the API alone; SIGTERM ends them."""
    exporter = Exporter(
        tmp_path, None, command="demo", arguments=("--simulator.listen-address=127.0.0.1:0",)
    )
    with exporter:
        exporter.wait_for(
            "the org and its three sub-orgs are up",
            lambda samples: samples.total("invent_up") == 4,
        )
        exporter.wait_for(
            "its workflows",
            lambda samples: samples.among("invent_workflow_info", org_id="org-aurora"),
        )
        assert f"{exporter.url}/metrics\n" in exporter.log, "the port that the system chose"
        found = [word for word in exporter.log.split() if word.startswith("http://127.0.0.1:")]
        assert len(found) == 3
        assert exporter.stop() == 0


# -- logs


def test_logs_are_one_object_a_line(simulator: SimulatorServer, start: Start) -> None:
    """`--log.format=json`: every line is an object; each failed run is one warning."""
    for _ in range(3):
        simulator.world.add_run(status="FAILED", error="old")
    exporter = start("--log.format=json", "--log.level=debug")
    exporter.wait_until_up()
    error = "step 2\nbroke " + "x" * 1000
    run_id = simulator.world.add_run(status="FAILED", workflow_id="wf-x", error=error)
    exporter.wait_for_finished(1)
    whole, _, _ = exporter.log.rpartition("\n")  # it may be writing the next one
    lines = [json.loads(line) for line in whole.splitlines()]
    failed = [line for line in lines if line["msg"] == "run failed"]
    assert len(failed) == 1, "those of the history are one line together"
    (line,) = failed
    assert line["level"] == "warning" or line["level"] == "warn"
    assert (line["org_id"], line["workflow_id"]) == ("org-main", "wf-x")
    assert (line["run_id"], line["origin"]) == (run_id, "WORKFLOW")
    assert line["error"].startswith("step 2\nbroke xxx")
    assert len(line["error"]) < 500
    assert {"duration_seconds", "credits"} <= line.keys()
    contact = [line for line in lines if line["msg"] == "first contact"]
    assert [line["failed_runs_in_history"] for line in contact] == [3]


def test_it_listens_on_every_address_that_it_is_given(start: Start) -> None:
    """`--web.listen-address` may stand there several times, also the same; each is logged once."""
    both = start(*("--web.listen-address=localhost:0",) * 2)
    wait_for("both are named", lambda: both.log.count("msg=listening") == 2)
    urls = re.findall(r"msg=listening .*address=(\S+)", both.log)
    assert [url.rpartition(":")[0] for url in urls] == ["127.0.0.1", "localhost"]
    for url in urls:
        assert httpx.get(f"http://{url}/-/healthy", trust_env=False).status_code == 200


def test_telemetry_path_moves(start: Start) -> None:
    """`--web.telemetry-path` is where the metrics are, and nothing else is."""
    exporter = start("--web.telemetry-path=/m")
    assert exporter.get("/m").status_code == 200
    assert exporter.get("/metrics").status_code == 404
    assert '"/m"' in exporter.get("/").text


def test_page_shows_open_runs_of_all_origins_together(
    simulator: SimulatorServer, start: Start
) -> None:
    """One row for each workflow and status, with all its runs: none looks like a double."""
    for origin in ("WORKFLOW", "TRIGGER", "WEBHOOK"):
        simulator.world.add_run(status="RUNNING", workflow_id="wf-x", origin=origin)
    exporter = start()
    exporter.wait_for("all are open", lambda samples: samples.total("invent_runs_open") == 3)
    row = 'wf-x</a></td><td>RUNNING</td><td class="n">'
    assert exporter.get("/").text.count(row) == 1
    assert f"{row}3</td>" in exporter.get("/").text
