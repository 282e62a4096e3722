"""An API that answers with the key: in whatever form and place, nothing of it gets out."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from tests.leaks import leaked, parts_of
from tests.process.harness import Exporter, Samples, make_config, run_command, wait_for
from tests.raw_server import RawServer, Request, Say, answer
from tests.test_redaction import FORMS

Way = Callable[[str], bytes]
"""Makes an answer with a key in it."""
_NUMBERS = count(1)
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."


def key_of(name: str) -> str:
    """Make a key for each way."""
    random = Random(name)
    return "".join(random.choices(_LETTERS, k=40))


def run_with(**fields: object) -> bytes:
    """Write a page with one run that has just failed."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    times = dict.fromkeys(("created_at", "started_at", "ended_at", "updated_at"), now)
    run = {
        "id": f"run-{next(_NUMBERS)}",
        "status": "FAILED",
        "origin": "WORKFLOW",
        "workflow_id": "wf",
        **times,
    }
    return answer(json.dumps([run | fields]).encode())


def refusal(text: str, *headers: str, status: str = "400 Bad Request") -> bytes:
    """Write an error."""
    return answer(text.encode(), *headers, status=status)


def in_a_body(spell: Callable[[str], str]) -> Way:
    """Say the key in the body of an error."""
    return lambda key: refusal(f"bad: {spell(key)}")


def in_an_error(spell: Callable[[str], str]) -> Way:
    """Say the key in a run's error, where that is shortened."""
    return lambda key: run_with(error=f"{'x' * 280} {spell(key)}")


def _steps(key: str) -> bytes:
    usage = {"total": 2, "ai_total": 1, "steps": {key: 1, f"step-{key}": {"total": 1}, "good": 1}}
    return run_with(usage=usage)


FAILURES: Final[dict[str, Way]] = {
    **{f"a body with the key: {form}": in_a_body(spell) for form, spell in FORMS.items()},
    "cut where it is shortened": lambda key: refusal("x" * 190 + key),
    "cut where reading ends": lambda key: refusal("x" * (64 * 1024 - 12) + key),
    "JSON": lambda key: refusal(json.dumps({"error": {"message": f"key {key}"}})),
    "the request as it came": lambda key: refusal(f"GET / Authorization: Bearer {key}"),
    "basic auth": lambda key: refusal(
        f"Authorization: Basic {base64.b64encode(f'u:{key}'.encode()).decode()}"
    ),
    "Location": lambda key: refusal("", f"Location: https://a.example/{key}", status="302 Found"),
    "Retry-After": lambda key: refusal("", f"Retry-After: {key}", status="503 Busy"),
    "reason phrase": lambda key: refusal("", status=f"418 {key}"),
    "content-encoding": lambda key: answer(b"", f"Content-Encoding: {key}"),
    "no status": lambda key: f"HTTP/1.1 {key} {key}\r\n\r\n".encode(),
    "no HTTP": lambda key: f"{key}\r\n\r\n".encode(),
    "a header that is none": lambda key: f"HTTP/1.1 200 OK\r\n{key}\r\n\r\n".encode(),
    "a bad length": lambda key: f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode(),
    "no page": lambda key: answer(json.dumps(key).encode()),
}
RUNS: Final[dict[str, Way]] = {
    **{f"an error with the key: {form}": in_an_error(spell) for form, spell in FORMS.items()},
    "an error that is an object": lambda key: run_with(error={"headers": {"a": [key]}}),
    "a field that can't be read": lambda key: run_with(version=[f"{'x' * 70}{key}"]),
    "a time": lambda key: run_with(started_at=key),
    "id": lambda key: run_with(id=f"run-{key}"),
    "id in another case": lambda key: run_with(id=f"run-{key.swapcase()}"),
    "id in base64": lambda key: run_with(id=base64.b64encode(key.encode()).decode()),
    "id of a run that is none": lambda key: run_with(id=f"run-{key}", status=None),
    "workflow": lambda key: run_with(workflow_id=f"wf {key}"),
    "workflow with escapes": lambda key: run_with(workflow_id=FORMS["URL"](key)),
    "version": lambda key: run_with(version=key),
    "version of the workflow": lambda key: run_with(workflow_version={"version": key}),
    "org": lambda key: run_with(org_id=key),
    "org of the workflow": lambda key: run_with(workflow_org_id=f"org-{key}"),
    "steps": _steps,
    "origin": lambda key: run_with(origin=key),
    "status": lambda key: run_with(status=key),
    "headers": lambda key: run_with().replace(b"200 OK\r\n", f"200 {key}\r\nX: {key}\r\n".encode()),
}
WAYS: Final = FAILURES | RUNS
ORGS: Final = {name: f"way-{number}" for number, name in enumerate(WAYS)}


class Api:
    """Answers each org in its own way, and once before with an empty page: first contact."""

    def __init__(self) -> None:
        self._ways = {f"Bearer {key_of(name)}": (key_of(name), way) for name, way in WAYS.items()}
        self._pages: dict[str, bytes] = {}
        self.given = Counter[str]()

    async def __call__(self, request: Request, say: Say) -> None:
        """Answer one request."""
        key, way = self._ways[request.headers["authorization"]]
        page = answer(b"[]")
        if request.query["status"] == "ALL":
            page = self._pages.get(key, page)
            self.given[key] += 1
            self._pages[key] = way(key) if page == answer(b"[]") else page
        await say(page)


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """Serve it in a thread of its own; give its URL."""
    loop = asyncio.new_event_loop()
    server = RawServer(api)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(awaitable: Any) -> Any:  # noqa: ANN401
        return asyncio.run_coroutine_threadsafe(awaitable, loop).result(60)

    try:
        run(server.__aenter__())
        try:
            yield server.url
        finally:
            run(server.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def was_each_answer_taken(samples: Samples) -> bool:
    """Tell whether each org's poll has failed, or its run was looked at."""
    failed = {dict(labels)["org_id"] for labels, value in errors(samples).items() if value}
    met = {
        dict(labels)["org_id"]
        for name in ("invent_runs_finished_total", "invent_runs_invalid_total", "invent_runs_open")
        for labels, value in samples.among(name).items()
        if value
    }
    return {ORGS[name] for name in FAILURES} <= failed and {ORGS[name] for name in RUNS} <= met


def errors(samples: Samples) -> dict[Any, float]:
    """Choose the failed polls."""
    return samples.among("invent_poll_errors_total")


@pytest.mark.system
def test_no_way_to_answer_with_a_key_gets_it_out(tmp_path: Path) -> None:
    """Neither into log, page, /api/status or metrics, the ledger's bytes, nor what `check` says."""
    api = Api()
    with serving(api) as url:
        orgs = [{"id": ORGS[name], "key": key_of(name)} for name in WAYS]
        few = {f"{kind}_buckets": [1] for kind in ("duration", "queue", "credit")}
        config = make_config(url, tmp_path, orgs=orgs, metrics=few | {"step_credits": True})
        config["poll_interval"] = "2s"
        with Exporter(tmp_path, config, arguments=["--log.level=debug"]) as exporter:
            wait_for("each way", lambda: all(api.given[key_of(name)] > 2 for name in WAYS))
            samples = exporter.wait_for("each way was met", was_each_answer_taken)
            shown = {
                "page": exporter.get("/").text,
                "status": exporter.get("/api/status").text,
                "metrics": exporter.get("/metrics").text,
                "OpenMetrics": exporter.get("/metrics", accept="application/openmetrics-text").text,
                "log": exporter.log,
            }
            checked = run_command("check", f"--config.file={exporter.config_file}")
            shown |= {"table": checked.stdout, "stderr": checked.stderr}
            assert exporter.stop() == 0
            shown["log"] = exporter.log
            for file in tmp_path.glob("state.db*"):
                shown[file.name] = file.read_bytes().decode("latin-1")
    told = {place: leaked(text, map(key_of, WAYS)) for place, text in shown.items()}
    ways = {place: [n for n in WAYS if parts_of(key_of(n)) & told[place]] for place in told}
    assert {place: names for place, names in ways.items() if names} == {}
    assert "[redacted]" in shown["page"]
    assert "[redacted]" in shown["status"]
    assert "[redacted]" in shown["log"]
    assert "[redacted]" in shown["table"]
    # What is beside the key is there all the same.
    of_steps = {"org_id": ORGS["steps"], "workflow_id": "wf", "step": "good"}
    assert samples.find("invent_step_credits_total", **of_steps) == 1
    unknown = {"org_id": ORGS["workflow"], "field": "workflow_id"}
    assert samples.find("invent_run_fields_unreadable_total", **unknown) == 1
    assert samples.find("invent_runs_invalid_total", org_id=ORGS["id"], reason="id") == 1


def test_ids_that_share_a_part_with_a_key_are_shown(tmp_path: Path) -> None:
    """Only a whole key makes an id unreadable: a random one may have some characters of it."""
    name = "status"
    part = key_of(name)[8:20]
    ways = {"run": lambda _key: run_with(id=f"run-{part}", workflow_id=f"wf-{part}")}
    api = Api()
    api._ways = {f"Bearer {key_of(name)}": (key_of(name), ways["run"])}
    with serving(api) as url:
        config = make_config(url, tmp_path, orgs=[{"id": "org", "key": key_of(name)}])
        with Exporter(tmp_path, config) as exporter:
            workflow = {"org_id": "org", "workflow_id": f"wf-{part}"}
            exporter.wait_for(
                "the run is counted",
                lambda samples: samples.total("invent_runs_finished_total", **workflow) == 1,
            )
            exporter.wait_for_polls("org")
            assert f"run_id=run-{part}" in exporter.log
            assert f"run-{part}" in exporter.get("/").text
