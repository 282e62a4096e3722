"""A test in another process moves the world by HTTP, and asks it for the truth."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import msgspec
import pytest

from invent_exporter.simulator import Request, SimulatorServer, Truth, World
from tests.simulator.conftest import START, Clock

RUNS = "/orgs/c/workflows/runs"


def post(client: httpx.Client, path: str, body: object = None) -> httpx.Response:
    """Send JSON that must be accepted."""
    return client.post(path, json={} if body is None else body).raise_for_status()


def test_runs_by_hand(client: httpx.Client, clock: Clock) -> None:
    """Add, start, finish, revise, hide, show, spoil and remove, as in process."""
    (run_id,) = post(client, "/_sim/runs", {"workflow_id": "w", "origin": "WEBHOOK"}).json()["ids"]
    run = f"/_sim/runs/{run_id}"

    def status() -> str | None:
        runs = client.get(RUNS).json()
        return runs[0]["status"] if runs else None

    assert status() == "PENDING"
    post(client, f"{run}/start")
    assert status() == "RUNNING"
    clock.now += 4
    post(client, f"{run}/finish", {"status": "FAILED", "usage": {"total": 4, "ai_total": 1}})
    assert status() == "FAILED"
    post(client, f"{run}/revise", {"usage": {"total": 5, "ai_total": 1}})
    assert client.get(RUNS).json()[0]["usage"]["total"] == 5
    post(client, f"{run}/fields", {"status": "ODD"})
    assert status() == "ODD"
    post(client, f"{run}/fields")
    post(client, f"{run}/hide")
    assert status() is None
    post(client, f"{run}/show")
    post(client, f"{run}/spoil", {"kind": "null_id"})
    assert client.get(RUNS).json()[0]["id"] is None
    post(client, f"{run}/spoil")
    post(client, f"{run}/remove")
    assert status() is None

    truth = msgspec.json.decode(client.get("/_sim/truth").content, type=Truth)
    assert truth.finished_counts == {("org-main", "w", "WEBHOOK", "FAILED"): 1}
    assert truth.finished[0].durations == (4.0,)
    assert truth.finished[0].credits_other == 4.0
    assert truth.runs[0].state == "removed"


def test_many_runs_the_truth_since_and_traffic(client: httpx.Client, clock: Clock) -> None:
    """Many runs in one request; `since` leaves history out; traffic stops, and changes its pace."""
    assert len(post(client, "/_sim/runs", {"count": 30, "status": "COMPLETED"}).json()["ids"]) == 30
    assert len(client.get("/_sim/truth").json()["runs"]) == 30
    clock.now += 1
    assert client.get("/_sim/truth", params={"since": clock.now}).json()["runs"] == []
    for change in ({"automatic": False}, {"automatic": True, "pace": 50.0}):
        assert post(client, "/_sim/traffic", change).json() == {"pace": 1.0} | change
    assert "key-main" in {org["key"] for org in client.get("/_sim/orgs").json()}


def test_faults_settings_and_requests(client: httpx.Client) -> None:
    """Faults and settings change by HTTP; each request to the API is remembered, no other."""
    post(client, "/_sim/faults", {"kind": "status", "count": 1})
    post(client, "/_sim/faults", [{"kind": "html", "org": "org-main"}])
    assert client.get(RUNS).status_code == 500
    assert client.get(RUNS).headers["content-type"] == "text/html"
    assert [fault["hits"] for fault in client.get("/_sim/faults").json()] == [1, 1]
    client.delete("/_sim/faults").raise_for_status()
    post(client, "/_sim/settings", {"order": "mixed", "count": False})
    assert client.get("/_sim/settings").json()["rate_limit_per_minute"] == 500
    answer = client.get(RUNS, params={"take": 5}, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401
    assert "pagination-count" not in client.get(RUNS).headers

    seen = client.get("/_sim/requests").json()

    assert seen["total"] == 4
    assert [(r["status"], r["authorized"], r["fault"]) for r in seen["requests"]] == [
        (500, True, "status"),
        (200, True, "html"),
        (401, False, None),
        (200, True, None),
    ]
    assert seen["requests"][2]["query"] == {"take": "5"}
    assert seen["requests"][3]["org"] == "org-main"
    assert seen["requests"][3]["at"] == START
    client.delete("/_sim/requests").raise_for_status()
    assert client.get("/_sim/requests").json() == {"total": 0, "requests": []}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/_sim/faults", {"kind": "gremlins"}, 400),
        ("/_sim/faults", {"kind": "html", "colour": "red"}, 400),
        ("/_sim/settings", {"order": "random"}, 400),
        ("/_sim/runs", {"status": "DONE"}, 400),
        ("/_sim/runs/nobody/start", {}, 404),
        ("/_sim/nothing", {}, 404),
        ("/_sim/truth?since=soon", None, 400),
    ],
)
def test_a_wrong_order_is_refused(
    client: httpx.Client, path: str, body: object, status: int
) -> None:
    """A mistake in a test is told, not swallowed."""
    answer = client.get(path) if body is None else client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["message"]


def test_the_world_can_change_between_two_pages(
    client: httpx.Client, simulator: SimulatorServer, world: World
) -> None:
    """A hook sees each request before its answer is made."""
    world.add_run(run_id="old", created_at=START - 1)

    def arrive(request: Request) -> None:
        if request.query.get("page") == "2":
            world.add_run(run_id="new")

    simulator.service.before_answer = arrive
    pages = [client.get(RUNS, params={"page": page, "take": 1}).json() for page in (1, 2)]
    assert [page[0]["id"] for page in pages] == ["old", "old"]


def test_orgs_come_change_and_go(client: httpx.Client, world: World) -> None:
    """What is not said of an org stays; one that comes back has its runs."""
    run_id = world.add_run(org_id="org-sub")
    new = {"id": "org-new", "name": "New", "key": "key-new", "parent": "org-main"}
    assert client.post("/_sim/orgs", json=new).json()["balance"] == 1000.0
    changed = client.post("/_sim/orgs", json={"id": "org-sub", "balance": 2.5}).json()
    assert (changed["name"], changed["balance"]) == ("Sub", 2.5)
    assert [org["id"] for org in client.get("/orgs/c/orgs").json()] == ["org-sub", "org-new"]
    assert client.delete("/_sim/orgs/org-sub").status_code == 200
    assert client.delete("/_sim/orgs/org-sub").status_code == 404
    assert [org["id"] for org in client.get("/orgs/c/orgs").json()] == ["org-new"]
    assert client.get("/orgs/org-sub/workflows/runs").status_code == 404
    assert client.post("/_sim/orgs", json={"id": "org-sub", "name": "Sub"}).status_code == 400
    client.post("/_sim/orgs", json=changed)
    assert [run["id"] for run in client.get("/orgs/org-sub/workflows/runs").json()] == [run_id]


def test_it_serves_on_ipv6_too() -> None:
    """The other loopback address works, and its URL is one."""
    try:
        with SimulatorServer(host="::1") as server:
            assert httpx.get(server.url + RUNS).status_code == 401
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_the_demo_until_a_signal(number: signal.Signals) -> None:
    """It prints address and key, serves the past, and ends with 0."""
    flags = ("--listen-address=127.0.0.1:0", "--order=oldest")
    program = (sys.executable, "-m", "invent_exporter", "simulate", *flags)
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            words = run.stdout.readline().split()
            url, key = words[3], words[5]
            answer = httpx.get(url + RUNS, headers={"authorization": f"Bearer {key}"}, timeout=60)
            created = [listed["created_at"] for listed in answer.json()]
            assert len(created) > 20
            assert created == sorted(created)
            run.send_signal(number)
            assert run.wait(60) == 0
        finally:
            run.kill()
