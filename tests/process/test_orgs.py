"""Several orgs, sick APIs, secrets and idle orgs, over a real process and real HTTP."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from invent_exporter.simulator import Fault, Order, Settings, SimulatorServer
from invent_exporter.simulator.service import Request
from tests.process.conftest import Start
from tests.process.harness import (
    DEADLINE_SECONDS,
    Exporter,
    Samples,
    free_port,
    make_config,
    run_command,
    wait_for,
)
from tests.process.traffic import KEY, quiet_api


def _errors(samples: Samples, org_id: str, **reason: str) -> float:
    return samples.total("invent_poll_errors_total", org_id=org_id, **reason)


def _wait_until_down(exporter: Exporter, org_id: str, polls: int = 1) -> Samples:
    """Wait until so many polls have failed: that and `invent_up` are not read in one moment."""

    def is_down(samples: Samples) -> bool:
        return _errors(samples, org_id) >= polls and samples.find("invent_up", org_id=org_id) == 0

    return exporter.wait_for(f"{org_id} is down", is_down)


def _finished(samples: Samples, org_id: str) -> float:
    return samples.total("invent_runs_finished_total", org_id=org_id)


# -- one sick org among others


def test_a_sick_org_leaves_the_others_alone(simulator: SimulatorServer, start: Start) -> None:
    """Promise 4: its counters stay, it is down, its live gauges go; the others go on counting."""
    orgs = [
        {"id": "c", "name": "Main"},
        {"id": "org-sub"},
        {"id": "org-other", "key": "key-other"},
        {"id": "org-unknown"},
        {"id": "org-locked", "key": "key-of-nobody"},
    ]
    world = simulator.world
    for org in ("org-sub", "org-other"):
        world.add_run(org_id=org, status="RUNNING")
    exporter = start(orgs=orgs)
    for org in ("org-main", "org-sub", "org-other"):
        exporter.wait_until_up(org)
    wait_for("ready", lambda: exporter.get("/-/ready").status_code == 200)
    for org, reason in (("org-unknown", "not_found"), ("org-locked", "unauthorized")):
        samples = _wait_until_down(exporter, org)
        assert _errors(samples, org) == _errors(samples, org, reason=reason)
    names = exporter.scrape().among("invent_org_info", org_id="org-main")
    assert [dict(labels)["org_name"] for labels in names] == ["Main"]

    world.add_run(org_id="org-sub", status="FAILED")
    exporter.wait_for_finished(1, org_id="org-sub")
    simulator.add_faults(Fault(kind="html", org="org-sub"))
    for org in ("org-sub", "org-other", "org-main"):
        world.add_run(org_id=org, status="FAILED")
    samples = exporter.wait_for(
        "gauges of the sick org go",
        lambda now: not now.among("invent_runs_open", org_id="org-sub"),
    )
    assert not samples.among("invent_runs_open_oldest_timestamp_seconds", org_id="org-sub")
    samples = _wait_until_down(exporter, "org-sub", polls=3)
    assert _finished(samples, "org-sub") == 1
    samples = exporter.wait_for(
        "the others go on",
        lambda now: (_finished(now, "org-other"), _finished(now, "org-main")) == (1, 1),
    )
    assert samples.total("invent_runs_open", org_id="org-other") == 1
    simulator.faults.clear()
    samples = exporter.wait_for_finished(2, org_id="org-sub")
    samples = exporter.wait_for(
        "its gauges too", lambda now: now.among("invent_runs_open", org_id="org-sub")
    )
    assert samples.total("invent_runs_open", org_id="org-sub") == 1


@pytest.mark.parametrize("ids", [("c", "org-main"), ("org-main", "c")])
def test_one_org_configured_twice_loses_no_run(tmp_path: Path, ids: tuple[str, str]) -> None:
    """Both entries are polled until a run names the org; what came before it counts as well.

    Then the later entry is dropped with a warning, and nothing counts twice.
    """
    orgs = [{"id": org} for org in ids]
    with (
        SimulatorServer(settings=Settings(rate_limit_per_minute=None)) as simulator,
        Exporter(tmp_path, make_config(simulator.url, tmp_path, orgs=orgs)) as exporter,
    ):
        world = simulator.world
        exporter.wait_until_up("c")
        exporter.wait_until_up()
        nameless: dict[str, object] = {"org_id": None}
        open_run = world.add_run(status="RUNNING", fields=nameless)
        for _ in range(2):
            world.add_run(status="FAILED", fields=nameless)
        exporter.wait_for_finished(2, org_id="org-main")
        world.add_run(status="FAILED")
        wait_for("the warning", lambda: "configured twice" in exporter.log)
        world.finish_run(open_run, "COMPLETED")
        exporter.wait_for_finished(4, org_id="org-main")
        samples = exporter.wait_for_polls()
        assert {dict(labels).get("org_id", "org-main") for _, labels in samples} == {"org-main"}
        assert exporter.log.count("configured twice") == 1
        assert f"entry={ids[1]}" in exporter.log
        exporter.kill()
        exporter.start()
        assert _finished(exporter.wait_until_up(), "org-main") == 4


# -- an API that is down


def test_health_does_not_hang_on_the_api(tmp_path: Path) -> None:
    """Alive and, after the first attempt, ready with nobody there; then it finds its way."""
    port = free_port()
    with Exporter(tmp_path, make_config(f"http://127.0.0.1:{port}", tmp_path)) as exporter:
        assert exporter.get("/-/healthy").status_code == 200
        assert exporter.get("/metrics").status_code == 200
        wait_for("ready", lambda: exporter.get("/-/ready").status_code == 200)
        assert exporter.get("/-/healthy").status_code == 200
        samples = _wait_until_down(exporter, "c")
        assert _errors(samples, "c") == _errors(samples, "c", reason="network")
        assert not samples.among("invent_runs_finished_total")
        with quiet_api(port=port):
            exporter.wait_until_up()


def test_not_ready_before_the_first_attempt_has_ended(
    simulator: SimulatorServer, start: Start
) -> None:
    """While the API lets the first request wait, the exporter is alive but not ready."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def wait(_request: Request) -> None:
        is_asked.set()
        may_answer.wait(DEADLINE_SECONDS)

    simulator.service.before_answer = wait
    try:
        exporter = start()
        wait_for("the request", is_asked.is_set)
        assert exporter.get("/-/ready").status_code == 503
        assert exporter.get("/-/healthy").status_code == 200
        assert "invent_up{" not in exporter.get("/metrics").text
    finally:
        may_answer.set()
    wait_for("ready", lambda: exporter.get("/-/ready").status_code == 200)


# -- secrets


def test_a_redirect_is_not_followed(simulator: SimulatorServer, start: Start) -> None:
    """No key, and no request at all, goes where a redirect points."""
    with quiet_api() as elsewhere:
        url = f"{elsewhere.url}/orgs/c/workflows/runs?key={KEY}"
        simulator.add_faults(Fault(kind="redirect", location=url))
        exporter = start()
        exporter.wait_for(
            "polls fail",
            lambda now: now.total("invent_poll_errors_total", reason="invalid_response") > 2,
        )
        assert KEY not in exporter.log
        simulator.faults.clear()
        exporter.wait_until_up()
        assert elsewhere.requests == ()


def test_secrets_stay_secret(simulator: SimulatorServer, start: Start, tmp_path: Path) -> None:
    """Promise 7: no key in logs, metrics, the page, errors, the process title or the state.

    The API gives the keys back wherever it can: in a run's error, its workflow and its origin.
    """
    keys = ("key-main", "key-other")
    (tmp_path / "key").write_text(f"{keys[1]}\n")
    orgs = [{"id": "c"}, {"id": "org-other", "key_file": str(tmp_path / "key")}]
    world = simulator.world
    exporter = start("--log.level=debug", orgs=orgs)
    exporter.wait_until_up()
    world.add_run(org_id="org-other")
    exporter.wait_until_up("org-other")
    for org, key in (("org-main", keys[0]), ("org-other", keys[1])):
        world.add_run(org_id=org, status="FAILED", error=f"sent Bearer {key} to x")
        exporter.wait_for_finished(1, org_id=org)
    simulator.add_faults(
        Fault(kind="redirect", location=f"http://x.invalid/{keys[0]}", count=5),
        Fault(kind="status", status=401, count=5),
    )
    exporter.wait_for(
        "errors", lambda now: now.total("invent_poll_errors_total", reason="unauthorized")
    )
    page = exporter.get("/").text
    assert "sent Bearer" in page
    assert exporter.process is not None
    process = Path(f"/proc/{exporter.process.pid}")
    shown = [
        exporter.log,
        page,
        exporter.get("/metrics").text,
        exporter.get("/metrics", accept="application/openmetrics-text").text,
        exporter.get("/-/healthy").text,
        exporter.get("/nowhere").text,
        (process / "cmdline").read_text(),
        (process / "comm").read_text(),
        *(file.read_bytes().decode("latin-1") for file in tmp_path.glob("state.db*")),
    ]
    assert exporter.stop() == 0
    config_file = f"--config.file={exporter.config_file}"
    shown.append(run_command("check", config_file, "--log.level=debug").stdout)
    exporter.config_file.write_text(f"api: {{key: {keys[0]}, kye_file: x}}\n")
    shown.append(run_command("--config.check", config_file).stderr)
    assert "kye_file" in shown[-1]
    for text in shown:
        assert not any(key in text for key in keys), text[-500:]


def test_a_key_file_is_read_again(start: Start, tmp_path: Path) -> None:
    """A key that changes on disk is used from the next poll on, without a restart."""
    key = tmp_path / "key"
    key.write_text("key-of-nobody")
    exporter = start(orgs=[{"id": "c", "key_file": str(key)}])
    exporter.wait_for(
        "it is refused",
        lambda now: now.total("invent_poll_errors_total", reason="unauthorized"),
    )
    key.write_text(KEY)
    exporter.wait_until_up()
    key.unlink()
    exporter.wait_for("it is missed", lambda now: now.find("invent_up", org_id="org-main") == 0)
    key.write_text(KEY)
    exporter.wait_until_up()


# -- what the API is asked


def _add_history(simulator: SimulatorServer, runs: int) -> None:
    """Add finished runs, one each second of an hour ago."""
    begun = simulator.world.clock() - 3600
    for moment in range(runs):
        at = begun + moment
        simulator.world.add_run(
            status="COMPLETED", created_at=at, started_at=at, ended_at=at, workflow_id="wf-manual"
        )


@pytest.mark.parametrize("count", [True, False], ids=["count", "no_count"])
def test_an_idle_org_costs_one_request_a_poll(tmp_path: Path, count: bool) -> None:  # noqa: FBT001
    """Promise 6: nothing is open, nothing happened: one request, where it can be known.

    Without the count it can't be for runs in no order, nor for oldest first with a full last page.
    """
    orders: tuple[Order, ...] = ("created", "updated", "oldest", "mixed")
    with ThreadPoolExecutor(4) as pool:
        results = [
            pool.submit(_watch_an_idle_org, tmp_path / order, order, count=count)
            for order in (orders if count else orders[:3])
        ]
        for result in results:
            result.result()


def _watch_an_idle_org(folder: Path, order: Order, *, count: bool) -> None:
    folder.mkdir()
    with quiet_api(order, count=count) as simulator:
        _add_history(simulator, 250)
        with Exporter(folder, make_config(simulator.url, folder)) as exporter:
            exporter.wait_until_up()
            exporter.wait_for_polls()
            simulator.forget_requests()
            wait_for("some polls", lambda: len(simulator.requests) > 20)
            requests = simulator.requests
            asked = {(request.query["status"], request.query["page"]) for request in requests}
            assert len(asked) == 1, (order, asked)
            # A poll with two requests would not let its interval of 100 ms pass between them.
            times = [request.at for request in requests]
            assert times[-1] - times[0] > 0.09 * (len(times) - 1), (order, times)


# -- looking back


OTHER_ORDERS = [
    pytest.param(order, marks=pytest.mark.system) for order in ("updated", "oldest", "mixed")
]


@pytest.mark.parametrize("order", ["created", *OTHER_ORDERS])
def test_hidden_runs_are_recovered(tmp_path: Path, order: Order) -> None:
    """Runs that are listed late, behind what is settled, are counted by the reconciliation."""
    with quiet_api(order) as simulator:
        world = simulator.world
        _add_history(simulator, 250)
        config = make_config(simulator.url, tmp_path, reconcile_interval="1s")
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            hidden = [world.add_run(status="FAILED", hidden=True) for _ in range(5)]
            for _ in range(150):
                world.add_run(status="COMPLETED")
            exporter.wait_for_finished(150, org_id="org-main")
            exporter.wait_for_polls()
            assert exporter.scrape().total("invent_runs_recovered_total") == 0
            # One is shown while another vanishes: a count of all runs would not tell.
            with world.lock:
                gone = [run for run in world.truth().runs if run.workflow_id == "wf-manual"][:5]
                for run_id, run in zip(hidden, gone, strict=True):
                    world.show_run(run_id)
                    world.remove_run(run.id)
            samples = exporter.wait_for_finished(155, org_id="org-main")
            failed = samples.total("invent_runs_finished_total", status="FAILED")
            assert failed == 5
            recovered = samples.total("invent_runs_recovered_total", org_id="org-main")
            if order in ("created", "oldest"):
                assert recovered == 5
            samples = exporter.wait_for_reconciliation()
            assert _finished(samples, "org-main") == 155
            assert samples.total("invent_runs_recovered_total", org_id="org-main") == recovered
