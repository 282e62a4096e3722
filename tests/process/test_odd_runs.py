"""Odd runs as APIs write them, through the running process: each gives what it should."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.process.harness import Exporter, make_config, wait_for

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "api" / "odd-runs.jsonl").read_text().splitlines()
]
GOOD = '{"id": "good-%d", "status": "COMPLETED", "origin": "TRIGGER", "workflow_id": "wf-good", %s}'


class Api:
    """A listing of rows as they are written, newest first."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.requests = 0

    def page(self, query: dict[str, list[str]]) -> bytes:
        """Answer one request."""
        self.requests += 1
        rows = self.rows if query["status"] == ["ALL"] else []
        if query["status"] == ["RUNNING"]:
            rows = [row for row in self.rows if '"RUNNING"' in row]
        page, take = int(query["page"][0]), int(query["take"][0])
        shown = rows[(page - 1) * take : page * take]
        return f"[{','.join(shown)}]".encode("utf-8", "surrogatepass")


@contextmanager
def served(api: Api) -> Iterator[str]:
    """Serve it on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = api.page(parse_qs(urlsplit(self.path).query))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def moved(row: str, begin: float) -> str:
    """Let the row's run begin at a time."""
    hour, shifted = datetime.fromtimestamp(begin, UTC), str(int(begin * 1000) + 5000)
    text = row.replace("2026-11-20T10:00", f"{hour:%Y-%m-%dT%H:%M}")
    text = text.replace("2026-11-20 10:00", f"{hour:%Y-%m-%d %H:%M}")
    other = datetime.fromtimestamp(begin + 7200, UTC)
    text = text.replace("2026-11-20T12:00", f"{other:%Y-%m-%dT%H:%M}")
    return text.replace("1795255205000", shifted)


def test_each_odd_run_gives_what_it_should_and_costs_no_other(tmp_path: Path) -> None:
    """After first contact, among good runs; then the org is idle, at one request a poll."""
    api = Api()
    with served(api) as url:
        config = make_config(url, tmp_path, orgs=[{"id": "org-odd"}], poll_interval="300ms")
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up("org-odd")
            # The minute after next: no time of a run is before contact or a day ahead.
            begin = (time.time() // 60 + 1) * 60
            times = f'"created_at": {begin}, "ended_at": {begin + 2}, "updated_at": {begin + 2}'
            rows = []
            for number, case in enumerate(CASES):
                rows += [moved(case["json"], begin), GOOD % (number, times)]
            api.rows = rows[::-1]
            counting = [case for case in CASES if case["expect"].startswith("counts")]
            samples = exporter.wait_for(
                "all that can count has counted",
                lambda now: (
                    now.total("invent_runs_finished_total") >= len(CASES) + len(counting)
                    and now.total("invent_runs_open") >= 1
                ),
            )
            assert samples.total("invent_runs_finished_total") == len(CASES) + len(counting)
            good = {"workflow_id": "wf-good", "status": "COMPLETED"}
            assert samples.total("invent_runs_finished_total", **good) == len(CASES)
            assert samples.total("invent_runs_open") == 1
            for case in CASES:
                if case["expect"].startswith("invalid"):
                    reason = case["expect"].split()[2].strip(":;")
                    assert samples.total("invent_runs_invalid_total", reason=reason), case["why"]
            for field in ("usage", "workflow_id", "ended_at"):
                assert samples.total("invent_run_fields_unreadable_total", field=field), field
            total = samples.total("invent_run_duration_seconds_sum")
            assert 0 < total < 3600 * len(CASES), "a zero time is in the sums"
            api.rows = [row for row in api.rows if '"PAUSED"' not in row]
            exporter.wait_for("nothing is open", lambda now: now.total("invent_runs_open") == 0)
            wait_for("it counts once", lambda: api.requests > 20)
            assert exporter.scrape().total("invent_runs_finished_total") == (
                len(CASES) + len(counting)
            )
