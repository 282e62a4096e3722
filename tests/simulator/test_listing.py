"""The listing over HTTP does what the service documents."""

from __future__ import annotations

import random

import httpx
import msgspec
import pytest

from invent_exporter.simulator import Order, SimulatorServer, StepTotal, Usage, World, add_many
from invent_exporter.simulator.listing import Query, Shelf
from invent_exporter.simulator.runs import Run, Status, make_shape
from tests.simulator.conftest import START, Clock

RUNS = "/orgs/c/workflows/runs"


def ids(response: httpx.Response) -> list[str]:
    """Return the ids on a page."""
    assert response.status_code == 200, response.text
    return [run["id"] for run in response.json()]


def test_a_run_has_every_field_of_the_service(client: httpx.Client, world: World) -> None:
    """A finished run carries times, usage, definition and outputs; an open one nulls."""
    usage = Usage(3.0, 1.0, {"step_1": 2.0, "step_2": StepTotal(1.0)})
    run_id = world.add_run(created_at=START - 10, status="FAILED", error="boom", usage=usage)
    world.add_run(workflow_id=None, origin="WEBHOOK")

    opened, failed = client.get(RUNS).json()

    assert failed.pop("workflow_version")["steps"]
    assert failed == {
        "id": run_id,
        "status": "FAILED",
        "origin": "WORKFLOW",
        "created_at": "2026-09-21T14:13:10.000Z",
        "started_at": "2026-09-21T14:13:10.000Z",
        "ended_at": "2026-09-21T14:13:20.000Z",
        "updated_at": "2026-09-21T14:13:20.000Z",
        "org_id": "org-main",
        "workflow_org_id": "org-main",
        "workflow_id": "wf-manual",
        "workflow_version_draft": None,
        "version": 1,
        "result": None,
        "outputs": {},
        "error": "boom",
        "usage": {
            "total": 3.0,
            "ai_total": 1.0,
            "steps": {"step_1": 2.0, "step_2": {"total": 1.0}},
            "calls": [],
        },
    }
    assert opened["workflow_id"] is None
    assert (opened["started_at"], opened["ended_at"]) == (None, None)
    assert "usage" not in opened
    assert "error" not in opened


@pytest.mark.parametrize("order", ["created", "updated", "oldest", "mixed"])
def test_orders(
    client: httpx.Client, simulator: SimulatorServer, clock: Clock, order: Order
) -> None:
    """Pages of each order join to all runs, sorted as the order says, also after changes."""
    simulator.settings.order = order
    world = simulator.world
    for number in range(7):
        world.add_run(created_at=START - number * 10 % 7)
    clock.now += 5
    world.finish_run(world.truth().runs[3].id)

    listed = [
        run
        for page in range(1, 5)
        for run in client.get(RUNS, params={"page": page, "take": 2}).json()
    ]

    assert len({run["id"] for run in listed}) == 7
    key = "updated_at" if order == "updated" else "created_at"
    times = [run[key] for run in listed]
    if order == "mixed":
        assert times not in (sorted(times), sorted(times, reverse=True))
        assert listed == client.get(RUNS).json()
    else:
        assert times == sorted(times, reverse=order != "oldest")


def test_filters(client: httpx.Client, world: World) -> None:
    """Status and origin choose runs, alone and together; ALL leaves all."""
    pending = world.add_run()
    running = world.add_run(status="RUNNING", origin="WEBHOOK")
    failed = world.add_run(status="FAILED", origin="WEBHOOK")

    def listed(**parameters: str) -> set[str]:
        return set(ids(client.get(RUNS, params=parameters)))

    assert listed(status="PENDING") == {pending}
    assert listed(status="RUNNING") == {running}
    assert listed(origin="WEBHOOK") == {running, failed}
    assert listed(origin="WEBHOOK", status="FAILED", expand="false") == {failed}
    assert listed(origin="TRIGGER") == set()
    assert listed(origin="ALL", status="ALL") == {pending, running, failed}
    world.start_run(pending)
    assert listed(status="PENDING") == set()
    assert listed(status="RUNNING") == {pending, running}


def test_pagination_headers_count_what_the_filter_leaves(
    client: httpx.Client, simulator: SimulatorServer
) -> None:
    """The headers tell count, page and take, and are gone when they are switched off."""
    for status in ("PENDING", "FAILED", "FAILED", "FAILED"):
        simulator.world.add_run(status=status)
    answer = client.get(RUNS, params={"status": "FAILED", "page": 2, "take": 2})
    assert [answer.headers[f"pagination-{name}"] for name in ("count", "page", "take")] == [
        "3",
        "2",
        "2",
    ]
    assert len(answer.json()) == 1
    assert client.get(RUNS, params={"page": 9}).json() == []
    simulator.settings.count = False
    assert not [name for name in client.get(RUNS).headers if name.startswith("pagination")]


@pytest.mark.parametrize(
    "query",
    [
        *("page=0", "page=-1", "page=x", "page=1.5", "take=0", "take=101", "take="),
        *("status=DONE", "origin=workflow", "expand=maybe"),
    ],
)
def test_a_bad_parameter_is_400(client: httpx.Client, query: str) -> None:
    """Each parameter is checked."""
    assert client.get(f"{RUNS}?{query}").status_code == 400


def test_ties_are_dealt_anew(client: httpx.Client, simulator: SimulatorServer) -> None:
    """Runs of one time stand in another order at each request, and none leaves its time."""
    simulator.settings.deals_ties = True
    created = [START - number // 20 for number in range(60)]
    for moment in created:
        simulator.world.add_run(created_at=moment)
    pages = [ids(client.get(RUNS, params={"take": 25, "page": 2})) for _ in range(9)]
    assert len(set(map(tuple, pages))) == 9
    assert any(set(page) != set(pages[0]) for page in pages)
    times = [run["created_at"] for run in client.get(RUNS).json()]
    assert times == sorted(times, reverse=True)
    assert len(set(ids(client.get(RUNS)))) == 60


def test_pages_far_back_can_be_refused(client: httpx.Client, simulator: SimulatorServer) -> None:
    """By the row that they begin with, whatever their size."""
    simulator.settings.rows_listed = 4
    simulator.world.add_run()
    asked = [(2, 2), (3, 2), (1, 100), (2, 100), (4, 1), (5, 1)]
    answers = [client.get(RUNS, params={"page": page, "take": take}) for page, take in asked]
    assert [answer.status_code for answer in answers] == [200, 400, 200, 400, 200, 400]


def test_keys_open_their_org_and_its_sub_orgs(client: httpx.Client, world: World) -> None:
    """`c` is the key's org; a parent reads its sub-orgs, nobody reads upward or across."""
    sub = world.add_run(org_id="org-sub")
    main = world.add_run(org_id="org-main")

    def get(org: str, authorization: str) -> httpx.Response:
        return client.get(f"/orgs/{org}/workflows/runs", headers={"authorization": authorization})

    assert ids(get("c", "Bearer key-main")) == ids(get("org-main", "Bearer key-main")) == [main]
    assert ids(get("org-sub", "Bearer key-main")) == ids(get("c", "Bearer key-sub")) == [sub]
    assert get("org-main", "Bearer key-sub").status_code == 404
    assert get("org-other", "Bearer key-main").status_code == 404
    assert get("nowhere", "Bearer key-main").status_code == 404
    assert get("c", "Bearer wrong").status_code == 401
    assert get("c", "Basic key-main").status_code == 401
    assert httpx.get(client.base_url.join(RUNS)).status_code == 401
    assert client.get("/orgs/c/other").status_code == 404
    assert client.post(RUNS).status_code == 405


def test_a_run_can_be_listed_under_several_orgs(client: httpx.Client, world: World) -> None:
    """A run that another org lists as well names its own org."""
    run_id = world.add_run(org_id="org-sub", also_in=["org-main"])
    (run,) = client.get(RUNS).json()
    assert (run["id"], run["org_id"]) == (run_id, "org-sub")


def test_sub_orgs_are_listed_in_pages(client: httpx.Client) -> None:
    """A parent lists its sub-orgs with balance and cap; a child has none."""
    (sub,) = client.get("/orgs/c/orgs").json()
    assert (sub["id"], sub["balance"]) == ("org-sub", 1000.0)
    assert sub["billing"]["spending_cap"] == {"enabled": False, "amount": 0.0}
    assert client.get("/orgs/c/orgs", params={"page": 2}).json() == []
    assert client.get("/orgs/org-sub/orgs").json() == []


def test_the_rate_limit_holds_for_a_minute(
    client: httpx.Client, simulator: SimulatorServer, clock: Clock
) -> None:
    """Requests above the limit are 429, with Retry-After when wanted, until a minute is over."""
    simulator.settings.rate_limit_per_minute = 3
    assert [client.get(RUNS).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert "retry-after" not in client.get(RUNS).headers
    simulator.settings.rate_limit_retry_after = "seconds"
    clock.now += 20
    assert client.get(RUNS).headers["retry-after"] == "41"
    clock.now += 41
    assert client.get(RUNS).status_code == 200
    simulator.settings.rate_limit_per_minute = None
    assert {client.get(RUNS).status_code for _ in range(9)} == {200}


def test_fields_override_what_is_listed(client: httpx.Client, world: World) -> None:
    """A test can list null, nonsense or nothing in any field; the truth stays sane."""
    run_id = world.add_run(
        status="FAILED",
        fields={"status": "ARCHIVED", "workflow_id": None, "version": msgspec.UNSET},
    )
    (run,) = client.get(RUNS).json()
    assert (run["status"], run["workflow_id"], "version" in run) == ("ARCHIVED", None, False)
    assert world.truth().runs[0].status == "FAILED"
    world.set_fields(run_id, {})
    assert client.get(RUNS).json()[0]["status"] == "FAILED"


def test_bulk_runs_fill_pages_of_the_wanted_size(client: httpx.Client, world: World) -> None:
    """Benchmarks get many finished runs of a known size."""
    add_many(world, 1_000, output_bytes=20_000)
    page = client.get(RUNS, params={"take": 50})
    assert page.headers["pagination-count"] == "1000"
    assert len(page.content) > 45 * 20_000
    assert {run["status"] for run in page.json()} == {"COMPLETED", "FAILED"}
    assert sum(world.truth().finished_counts.values()) == 1_000


def test_a_shelf_agrees_with_sorting() -> None:
    """However runs are put in and taken out, a page is what filtering and sorting would give."""
    chance = random.Random(5)
    shape = make_shape("w", steps=1, output_bytes=1, version=1)
    statuses: tuple[Status, ...] = ("PENDING", "RUNNING", "FAILED")
    runs = [
        Run(
            id=f"r{number}",
            status=chance.choice(statuses),
            origin=chance.choice(("WORKFLOW", "WEBHOOK")),
            created_at=float(chance.randrange(20)),
            updated_at=float(chance.randrange(20)),
            org_id="o",
            workflow_id="w",
            listed_in=("o",),
            shape=shape,
            sequence=number,
        )
        for number in range(200)
    ]
    shelf = Shelf()
    shelf.put_many(runs[:50])
    for run in runs[50:]:
        shelf.put(run)
    for run in runs[::3]:
        shelf.take_out(run)
    left = [run for run in runs if run not in runs[::3]]
    keys = {
        "created": lambda run: (-run.created_at, -run.sequence),
        "updated": lambda run: (-run.updated_at, -run.sequence),
        "oldest": lambda run: (run.created_at, run.sequence),
    }
    for order in ("created", "updated", "oldest"):
        for status in ("ALL", *statuses):
            for origin in ("ALL", "WEBHOOK"):
                fit = [
                    run
                    for run in sorted(left, key=keys[order])
                    if status in ("ALL", run.status) and origin in ("ALL", run.origin)
                ]
                query = Query(origin=origin, status=status, page=2, take=7)
                page, total = shelf.select(query, order)
                assert [run.id for run in page] == [run.id for run in fit[7:14]]
                assert total == len(fit)
