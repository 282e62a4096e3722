"""Each fault does over HTTP what it says, to the requests it is meant for."""

from __future__ import annotations

import json
import re
from email.utils import formatdate

import httpx
import pytest

from invent_exporter.simulator import Fault, SimulatorServer, Usage, World
from invent_exporter.simulator.spoil import ODD_KINDS, OddKind
from tests.simulator.conftest import START, Clock

RUNS = "/orgs/c/workflows/runs"


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault(kind="status", status=503), 503, rb"<!doctype.*"),
        (Fault(kind="status", status=503, body="json"), 503, rb"\{.*"),
        (Fault(kind="status", status=503, body="empty"), 503, rb""),
        (Fault(kind="rate_limited", body="json"), 429, rb"\{.*"),
        (Fault(kind="redirect", location="https://thief.invalid/"), 307, rb""),
        (Fault(kind="html"), 200, rb"<!doctype.*"),
        (Fault(kind="empty_body"), 200, rb""),
        (Fault(kind="empty_page"), 200, rb"\[\]"),
        (Fault(kind="not_a_list"), 200, rb'\{"data":\[\{.*\}\]\}'),
        (Fault(kind="half_json"), 200, rb"\[\{.*[^\]]"),
        (Fault(kind="no_pagination"), 200, rb"\[\{.*\}\]"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_what_an_answer_becomes(
    client: httpx.Client, simulator: SimulatorServer, fault: Fault, status: int, body: bytes
) -> None:
    """Errors with each kind of body, redirects, and what comes with 200 and is no page."""
    simulator.world.add_run()
    simulator.add_faults(fault)
    answer = client.get(RUNS)
    assert answer.status_code == status
    assert re.fullmatch(body, answer.content, re.DOTALL)
    assert answer.headers.get("location") == (fault.location if status == 307 else None)
    is_page = answer.headers.get("content-type", "").startswith("application/json; charset")
    assert ("pagination-count" in answer.headers) is (is_page and fault.kind != "no_pagination")


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        ("none", None),
        ("seconds", "7"),
        ("soon", "soon"),
        ("date", formatdate(START + 7, usegmt=True)),
    ],
)
def test_each_kind_of_retry_after(
    client: httpx.Client, simulator: SimulatorServer, retry_after: str, header: str | None
) -> None:
    """Retry-After comes as seconds, as a date, not at all, or as nonsense."""
    simulator.add_faults(Fault(kind="rate_limited", retry_after=retry_after, seconds=7))
    assert client.get(RUNS).headers.get("retry-after") == header


def test_oversized_answers(client: httpx.Client, simulator: SimulatorServer, world: World) -> None:
    """A page can be large, large only when decompressed, or hold one large run."""
    run_id = world.add_run()
    simulator.add_faults(Fault(kind="padded", mebibytes=2))
    assert len(client.get(RUNS).content) > 2 * 2**20
    simulator.faults.clear()
    simulator.add_faults(Fault(kind="gzip_bomb", mebibytes=2))
    with client.stream("GET", RUNS) as answer:
        assert len(b"".join(answer.iter_raw())) < 100_000
    answer = client.get(RUNS)
    assert len(answer.content) > 2 * 2**20
    assert answer.json()[0]["id"] == run_id
    simulator.faults.clear()
    world.spoil_run(run_id, "oversized", mebibytes=3)
    assert len(client.get(RUNS).json()[0]["outputs"]["text"]) == 3 * 2**20


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_slow_answers_time_out_and_patience_gets_them_whole(
    client: httpx.Client, simulator: SimulatorServer, world: World, kind: str
) -> None:
    """A slow answer breaks a read timeout, a dripping one only a total one."""
    world.add_run()
    fault = Fault(kind="slow", seconds=30) if kind == "slow" else Fault(kind="drip", seconds=1)
    simulator.add_faults(fault)
    if kind == "slow":
        with pytest.raises(httpx.ReadTimeout):
            client.get(RUNS, timeout=httpx.Timeout(60.0, read=0.2))
    else:
        with client.stream("GET", RUNS) as answer:
            pieces = list(answer.iter_raw())
        assert len(pieces) > 5
        assert len(json.loads(b"".join(pieces))) == 1


def test_an_endless_answer_goes_on_until_the_client_leaves(
    client: httpx.Client, simulator: SimulatorServer
) -> None:
    """It has no length, and other requests are answered meanwhile."""
    simulator.add_faults(Fault(kind="endless", count=1))
    read = 0
    with client.stream("GET", RUNS) as answer:
        assert "content-length" not in answer.headers
        for piece in answer.iter_raw():
            read += len(piece)
            if read > 2**20:
                break
        assert client.get(RUNS).status_code == 200


def test_connections_that_break(
    client: httpx.Client, simulator: SimulatorServer, world: World
) -> None:
    """A cut-off answer promised more than came; a reset is a reset."""
    world.add_run()
    simulator.add_faults(Fault(kind="cut_off", count=1, share=0.25), Fault(kind="reset", count=1))
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        client.get(RUNS)
    with pytest.raises(httpx.ReadError, match="reset"):
        client.get(RUNS)
    assert client.get(RUNS).status_code == 200


def test_faults_choose_their_requests(
    client: httpx.Client, simulator: SimulatorServer, clock: Clock
) -> None:
    """By org and query, after some, each so-manyth, no more than so many, so long."""

    def statuses(fault: Fault, path: str = RUNS, times: int = 6) -> str:
        simulator.faults.clear()
        simulator.add_faults(fault)
        return "".join("x" if client.get(path).is_error else "." for _ in range(times))

    assert statuses(Fault(kind="status", org="org-main")) == "xxxxxx"
    assert statuses(Fault(kind="status", org="org-sub")) == "......"
    assert statuses(Fault(kind="status", query={"page": "2"})) == "......"
    assert statuses(Fault(kind="status", query={"page": "2"}), RUNS + "?page=2") == "xxxxxx"
    assert statuses(Fault(kind="status", path="/orgs")) == "......"
    assert statuses(Fault(kind="status", path="/orgs"), "/orgs/c/orgs") == "xxxxxx"
    assert statuses(Fault(kind="status", skip=2)) == "..xxxx"
    assert statuses(Fault(kind="status", every=3)) == "..x..x"
    assert statuses(Fault(kind="status", skip=1, count=2)) == ".xx..."
    assert set(statuses(Fault(kind="status", probability=0.5), times=40)) == {".", "x"}
    assert statuses(Fault(kind="status", for_seconds=10)) == "xxxxxx"
    clock.now += 10
    assert client.get(RUNS).status_code == 200


def test_two_worlds_of_one_seed_fail_alike(clock: Clock) -> None:
    """Random faults can be repeated."""
    seen = []
    for _ in range(2):
        with SimulatorServer() as server:
            server.add_faults(Fault(kind="status", probability=0.5))
            seen.append([httpx.get(server.url + RUNS).status_code for _ in range(12)])
    assert seen[0] == seen[1]
    assert set(seen[0]) == {401, 500}
    assert clock.now == START


SPOILED: dict[str, object] = {
    "missing_id": lambda run: "id" not in run,
    "null_id": lambda run: run["id"] is None,
    "number_id": lambda run: run["id"] == 17,
    "missing_status": lambda run: "status" not in run,
    "bad_status_type": lambda run: run["status"] == 5,
    "bad_date": lambda run: "yesterday" in run["created_at"],
    "numbers_as_strings": lambda run: run["usage"]["total"] == "7.5",
    "negative_usage": lambda run: run["usage"]["total"] < 0,
    "bad_usage": lambda run: isinstance(run["usage"], str),
    "lone_surrogate": lambda run: run["result"] == "\ud800",
    "not_an_object": lambda run: run == 7,
    "null_run": lambda run: run is None,
}


@pytest.mark.parametrize("kind", sorted(SPOILED))
def test_a_spoiled_run_leaves_its_neighbours_readable(
    client: httpx.Client, world: World, kind: str
) -> None:
    """One run of a page is unreadable, and can be healed."""
    first, spoiled, last = (world.add_run(status="COMPLETED") for _ in range(3))
    world.spoil_run(spoiled, kind)  # type: ignore[arg-type]
    page = json.loads(client.get(RUNS).content)
    assert (page[0]["id"], page[2]["id"]) == (last, first)
    assert SPOILED[kind](page[1])  # type: ignore[operator]
    world.spoil_run(spoiled, None)
    assert client.get(RUNS).json()[1]["id"] == spoiled


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_an_odd_field_is_one_of_a_run_that_is_there(
    client: httpx.Client, world: World, kind: OddKind
) -> None:
    """Each kind changes what is listed of an open run or of a finished one."""
    usage = Usage(3.0, 1.0, {"step_1": 2.0})
    opened = world.add_run(status="RUNNING")
    failed = world.add_run(status="FAILED", usage=usage, error="boom")
    sane = client.get(RUNS).content
    for run_id in (opened, failed):
        world.spoil_run(run_id, kind)
    odd = client.get(RUNS).content
    assert odd != sane
    assert odd.count(b'"status":"') == 2
    assert odd.count(b'"id":') >= 2


def test_spoiled_bytes(client: httpx.Client, world: World) -> None:
    """Invalid UTF-8 and deep nesting stand in fields that a reader may skip."""
    run_id = world.add_run(spoiled="invalid_utf8")
    with pytest.raises(UnicodeDecodeError):
        client.get(RUNS).content.decode()
    world.spoil_run(run_id, "deep_nesting")
    assert b"[" * 10_000 + b"]" * 10_000 in client.get(RUNS).content
