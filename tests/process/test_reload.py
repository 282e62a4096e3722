"""The configuration is read again while the exporter runs, and no run is lost or counted twice."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from invent_exporter.simulator import SimulatorServer
from tests.process.conftest import Start
from tests.process.harness import Exporter, make_config, wait_for
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher

LIFECYCLE = "--web.enable-lifecycle"
ORGS = ("org-main", "org-sub", "org-other")
SUCCESSFUL = "invent_config_last_reload_successful"
MOMENT = "invent_config_last_reload_success_timestamp_seconds"


def post(exporter: Exporter) -> httpx.Response:
    """Ask for a reload."""
    return httpx.post(f"{exporter.url}/-/reload", trust_env=False, timeout=60)


def change(exporter: Exporter, **changes: Any) -> None:  # noqa: ANN401 - JSON
    """Write the file anew, in one step, with these keys instead of those that are there."""
    config = json.loads(exporter.config_file.read_text()) | changes
    new = exporter.config_file.with_name("new")
    new.write_text(json.dumps(config))
    new.replace(exporter.config_file)


# -- ways to reload


def hang_up(exporter: Exporter) -> None:
    """Send SIGHUP."""
    exporter.signal(signal.SIGHUP)


def wait_only(_exporter: Exporter) -> None:
    """Do nothing: the file is looked at."""


@pytest.mark.parametrize("way", [hang_up, post, wait_only])
def test_each_way_to_reload_polls_a_new_org(
    start: Start, way: Callable[[Exporter], object]
) -> None:
    """A signal, a request, or the changed file alone."""
    exporter = start(LIFECYCLE)
    exporter.wait_until_up()
    change(exporter, orgs=[{"id": "c"}, {"id": "org-other", "key": "key-other"}])
    way(exporter)
    exporter.wait_until_up("org-other")
    wait_for("its line", lambda: "configuration reloaded" in exporter.log)


def test_a_mounted_file_that_kubernetes_exchanges_is_read_again(
    simulator: SimulatorServer, tmp_path: Path
) -> None:
    """The kubelet writes another folder, and moves the symlink that leads through it."""
    orgs = [[{"id": "c"}], [{"id": "c"}, {"id": "org-other", "key": "key-other"}]]
    for number, some in enumerate(orgs):
        (tmp_path / f"..{number}").mkdir()
        config = json.dumps(make_config(simulator.url, tmp_path, orgs=some))
        (tmp_path / f"..{number}" / "mounted.yaml").write_text(config)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "mounted.yaml").symlink_to("..data/mounted.yaml")
    arguments = [f"--config.file={tmp_path}/mounted.yaml"]
    with Exporter(tmp_path, None, arguments=arguments) as exporter:
        exporter.wait_until_up()
        (tmp_path / "..next").symlink_to("..1")
        (tmp_path / "..next").replace(tmp_path / "..data")
        exporter.wait_until_up("org-other")


# -- numbers


@contextmanager
def traffic(simulator: SimulatorServer) -> Iterator[dict[str, int]]:
    """Let runs of every org end all the time; give how many have."""
    ended, is_over = dict.fromkeys(ORGS, 0), threading.Event()

    def make() -> None:
        while not is_over.wait(0.1):
            for org in ORGS:
                simulator.world.add_run(org_id=org, workflow_id="wf-busy", status="FAILED")
                ended[org] += 1

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield ended
    finally:
        is_over.set()
        thread.join()


def rotate(simulator: SimulatorServer, org_id: str, key: str) -> None:
    """Let another key be the one of an org."""
    org = simulator.world.find_org(org_id)
    assert org is not None
    simulator.world.add_org(msgspec.structs.replace(org, key=key))


@pytest.mark.system
def test_numbers_are_exact_over_reloads_under_traffic(
    simulator: SimulatorServer, tmp_path: Path
) -> None:
    """Orgs come, change and go, keys rotate, files are bad: each run counts once, none is lost."""
    main, sub = {"id": "org-main"}, {"id": "org-sub", "name": "Sub"}

    def other(key: str) -> dict[str, str]:
        return {"id": "org-other", "key": key}

    everyone = [main, sub, other("key-other")]
    watcher = Watcher()
    config = make_config(simulator.url, tmp_path, orgs=everyone)
    with Exporter(tmp_path, config, arguments=[LIFECYCLE], watcher=watcher) as exporter:
        for org in ORGS:
            exporter.wait_until_up(org)
        with traffic(simulator) as ended:
            story: list[dict[str, Any]] = [
                {"orgs": [main, other("key-other")]},
                {"orgs": [other("key-other"), main], "poll_interval": "200ms"},
                {"orgs": everyone, "api": config["api"] | {"page_size": 50}},
                {"orgs": [main, sub, other("key-2")]},
                {"poll_interval": "soon"},
                {"poll_interval": "100ms", "orgs": [sub]},
                {"orgs": [main, sub, other("key-3")], "api": config["api"]},
            ]
            for step in story:
                wait_for("some runs", partial(ended.copy().__ne__, ended))
                for org in step.get("orgs", []):
                    if org["id"] == "org-other":
                        rotate(simulator, "org-other", org["key"])
                change(exporter, **step)
                expected = 500 if step.get("poll_interval") == "soon" else 200
                assert post(exporter).status_code == expected
                shown = {org["id"] for org in step.get("orgs", [])}
                for org in shown:
                    exporter.wait_for_polls(org)
                if shown:
                    now = exporter.scrape().among("invent_runs_finished_total")
                    assert {dict(labels)["org_id"] for labels in now} == shown
        for org in ORGS:
            exporter.wait_for_finished(ended[org], org_id=org)
            exporter.wait_for_polls(org)
        samples = exporter.scrape()
    finished = {org: samples.total("invent_runs_finished_total", org_id=org) for org in ORGS}
    assert finished == ended
    assert watcher.wrong == []


# -- what is refused


@pytest.mark.system
def test_a_reload_that_fails_changes_nothing(start: Start) -> None:
    """It answers 500 with the line and the reason, logs it, and shows; the next good one counts.

    An unchanged file does nothing.
    """
    exporter = start(LIFECYCLE)
    exporter.wait_until_up()
    good = exporter.config_file.read_text()
    samples = exporter.wait_for("it was read", lambda samples: samples.find(MOMENT))
    assert samples.find(SUCCESSFUL) == 1
    place = str(exporter.config_file)
    cases: dict[str, dict[str, Any]] = {
        f"{place}:1: poll_interval: soon is not": {"poll_interval": "soon"},
        f"{place}:1: state.url: can't change while": {"state": {"url": "sqlite://"}},
        f"{place}:1: metrics.duration_buckets: can't": {"metrics": {"duration_buckets": [1, 2]}},
        f"{place}:1: orgs[1].key_file: ": {"orgs": [{"id": "c"}, {"id": "a", "key_file": "no"}]},
    }
    for words, changes in cases.items():
        change(exporter, **changes)
        answer = post(exporter)
        assert answer.status_code == 500
        assert words in answer.text
        assert answer.text.count("\n") == 1
        assert words.partition(": ")[2] in exporter.log
        exporter.wait_for("it shows", lambda samples: samples.find(SUCCESSFUL) == 0)
        exporter.wait_for_polls()
        exporter.config_file.write_text(good)
        assert post(exporter).status_code == 200
        exporter.wait_for("it is mended", lambda samples: samples.find(SUCCESSFUL) == 1)
    before = exporter.scrape().find(MOMENT)
    assert post(exporter).status_code == 200
    assert exporter.scrape().find(MOMENT) == before
    assert "configuration reloaded" not in exporter.log


def test_without_the_flag_no_client_reloads(start: Start) -> None:
    """As in Prometheus' own programs."""
    exporter = start()
    answer = post(exporter)
    assert (answer.status_code, answer.text) == (403, "Lifecycle API is not enabled.\n")


# -- what applies


def test_names_links_and_limits_apply(simulator: SimulatorServer, start: Start) -> None:
    """Without a restart, in the metrics, on the page, and in what is asked for."""
    exporter = start(LIFECYCLE)
    exporter.wait_until_up()
    simulator.world.add_run(status="FAILED", workflow_id="wf-1")
    exporter.wait_for_finished(1)
    config = json.loads(exporter.config_file.read_text())
    change(
        exporter,
        orgs=[{"id": "c", "name": "Acme"}],
        workflow_names={"wf-1": "nightly import"},
        links={"run": "https://app.example.com/{run_id}"},
        log={"runs": "all"},
        api=config["api"] | {"page_size": 5},
    )
    assert post(exporter).text == "Reloaded.\n"
    samples = exporter.wait_for_polls()
    (info,) = samples.among("invent_workflow_info", workflow_id="wf-1")
    assert dict(info)["workflow_name"] == "nightly import"
    (org,) = samples.among("invent_org_info")
    assert dict(org)["org_name"] == "Acme"
    page = exporter.get("/").text
    assert "nightly import" in page
    assert "https://app.example.com/run_" in page
    simulator.forget_requests()
    exporter.wait_for_polls()
    assert {request.query["take"] for request in simulator.requests} == {"5"}
    done = simulator.world.add_run(status="COMPLETED", workflow_id="wf-1")
    exporter.wait_for_finished(2)
    wait_for("its line", lambda: f"run_id={done}" in exporter.log)
    assert 'msg="run finished"' in exporter.log
    change(exporter, log={"runs": "none"})
    assert post(exporter).status_code == 200
    quiet = simulator.world.add_run(status="FAILED", workflow_id="wf-1")
    exporter.wait_for_finished(3)
    exporter.wait_for_polls()
    assert quiet not in exporter.log


@pytest.mark.system
def test_another_api_gets_its_own_key_alone(simulator: SimulatorServer, start: Start) -> None:
    """No key is sent to a host that it was not given for, also in the moment of the change."""
    exporter = start(LIFECYCLE)
    exporter.wait_until_up()
    with quiet_api() as second:
        for number in range(6):
            api, key = ((second, "key-2"), (simulator, "key-main"))[number % 2]
            rotate(api, "org-main", key)
            url = {"url": api.url, "key": key, "requests_per_minute": 60_000}
            change(exporter, api=url)
            assert post(exporter).status_code == 200
            exporter.wait_for_polls()
            assert all(request.authorized for request in (*simulator.requests, *second.requests))
        assert second.requests
    assert exporter.scrape().total("invent_poll_errors_total", reason="unauthorized") == 0
