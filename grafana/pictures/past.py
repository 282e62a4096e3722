"""A Prometheus with a past: blocks of a scene, of what the rules record, and of the alerts.

`promtool` evaluates recording rules over the past, those that read recorded series after the ones
that they read; it leaves alerts out, so what they would have done is worked out here. Blocks hold
no exemplars: those are scraped, from a page that has all of the scene's.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from random import SystemRandom
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from grafana.pictures import backfilled
from grafana.pictures.history import SCRAPE_SECONDS, Exemplars, Scene, write

RULES: Final = Path(__file__).parents[1] / "rules"
BLOCK_SECONDS: Final = 7200
START_SECONDS: Final = 120
EXEMPLARS: Final = "exemplars.om"
SCRAPED_LOOKBACK, BACKFILLED_LOOKBACK = "59s", "5m"
"""Of what a backfill writes a series that does not change has a sample every four minutes."""
_DURATION: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def build(scene: Scene, folder: Path, alert_hours: float = 3) -> None:
    """Write everything that a Prometheus would know at the end of the scene into `folder/data`."""
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    if not scene.habits:
        return
    if scene.is_backfilled:
        import_samples(folder, backfilled.lines(scene, folder), "--max-block-duration=24h")
        record(folder, scene.begin, scene.end, lookback=BACKFILLED_LOOKBACK)
        return
    exemplars: Exemplars = {}
    for _, block in groupby(
        enumerate(write(scene, exemplars)),
        lambda one: (scene.begin + one[0] * SCRAPE_SECONDS) // BLOCK_SECONDS,
    ):
        import_samples(folder, (text for _, text in block))
    record(folder, scene.begin, scene.end)
    raise_alerts(folder, max(scene.begin, scene.end - int(alert_hours * 3600)), scene.end)
    # Their samples lie behind the scene, each after the one before, and their runs within it.
    lines = [
        f"{series} 1 {scene.end + 1 + number / 1000:.3f} # {run}\n"
        for number, (series, run) in enumerate(exemplars)
    ]
    (folder / EXEMPLARS).write_text("".join((*lines, "# EOF\n")))


def _rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def _recording_rules() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "record" in rule]


def record(
    folder: Path,
    begin: int,
    end: int,
    step_seconds: int = SCRAPE_SECONDS,
    lookback: str = SCRAPED_LOOKBACK,
) -> None:
    """Add what the recording rules make of what is in `folder/data`."""
    for level in _levels(_recording_rules()):
        # When a group is evaluated hangs on its name and the file's: the same each time.
        (folder / "rules.yml").write_text(
            yaml.safe_dump({"groups": [{"name": "level", "rules": level}]})
        )
        with prometheus(folder, lookback) as url:
            _promtool(
                *("tsdb", "create-blocks-from", "rules", f"--url={url}"),
                *(f"--start={begin}", f"--end={end}", f"--eval-interval={step_seconds}s"),
                *("--output-dir=data", "rules.yml"),
                folder=folder,
            )


def raise_alerts(folder: Path, begin: int, end: int) -> None:
    """Add the alerts that fire on what is in `folder/data`."""
    with prometheus(folder) as url:
        lines = [
            line
            for rule in _rules()
            if "alert" in rule
            for line in _alert(rule, ask_range(url, rule["expr"], begin, end), end)
        ]
    if lines:
        import_samples(folder, lines)


def _levels(rules: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield rules in an order in which each finds what it reads."""
    waiting = rules
    while waiting:
        names = {rule["record"] for rule in waiting}
        level = [
            rule
            for rule in waiting
            if not names & set(re.findall(r"\w+:\w+:\w+", rule["expr"])) - {rule["record"]}
        ]
        yield level
        waiting = [rule for rule in waiting if rule not in level]


def _alert(rule: dict[str, Any], found: Iterable[dict[str, Any]], end: int) -> Iterator[str]:
    """Yield ALERTS and ALERTS_FOR_STATE as Prometheus writes them while the alert fires."""
    wait, keep = (_seconds(rule.get(key, "0s")) for key in ("for", "keep_firing_for"))
    for series in found:
        labels = {**series["metric"], **rule["labels"], "alertname": rule["alert"]}
        labels.pop("__name__", None)
        text = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
        times = [int(at) for at, _ in series["values"]]
        since = times[0]
        for at, following in zip(times, (*times[1:], end + keep + 1), strict=True):
            fires = at - since >= wait
            gone = following - at > SCRAPE_SECONDS  # its reason is, for a while or for good
            until = min(following, at + (keep if gone else 0) + 1, end + 1)
            for moment in range(at, until, SCRAPE_SECONDS) if fires else ():
                yield f'ALERTS{{{text},alertstate="firing"}} 1 {moment}\n'
                yield f"ALERTS_FOR_STATE{{{text}}} {since} {moment}\n"
            if gone and (not fires or following - at > keep):
                since = following


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * _DURATION[duration[-1]]


def import_samples(folder: Path, texts: Iterable[str], *flags: str) -> None:
    """Add samples as OpenMetrics has them, each with its time."""
    path = folder / "samples.om"
    with path.open("w") as file:
        file.writelines(text for text in texts if text != "# EOF\n")
        file.write("# EOF\n")
    made = ("tsdb", "create-blocks-from", "openmetrics", *flags, path.name, "data")
    _promtool(*made, folder=folder)
    path.unlink()


def _promtool(*arguments: str, folder: Path) -> None:
    command = ["promtool", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


class _Page(SimpleHTTPRequestHandler):
    def guess_type(self, *_: object) -> str:
        return "application/openmetrics-text; version=1.0.0"

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


@contextmanager
def prometheus(folder: Path, lookback: str = SCRAPED_LOOKBACK) -> Iterator[str]:
    """Run Prometheus on `folder/data` while entered; gives its address.

    Imported series have no end. Scrapes, rules and steps meet on full minutes, so a series is gone
    where it has no sample of that very minute, as it is when a scrape fails. The head is never made
    a block of: behind it the exemplars of the next start would be too old to be taken.
    """
    shutil.rmtree(folder / "data" / "wal", ignore_errors=True)  # of exemplars that were scraped
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=100y"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--web.cors.origin=.*"),
        *(
            f"--query.lookback-delta={lookback}",
            "--query.max-samples=500000000",
            "--log.level=error",
        ),
        "--enable-feature=exemplar-storage",
        *(f"--storage.tsdb.{end}-block-duration=10000h" for end in ("min", "max")),
    ]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Page, directory=folder)) as page:
        scraped = {
            "job_name": "exemplars",
            "scrape_interval": "5s",
            "honor_labels": True,
            "metrics_path": f"/{EXEMPLARS}",
            "static_configs": [{"targets": [f"127.0.0.1:{page.server_port}"]}],
        }
        jobs = [scraped] if (folder / EXEMPLARS).exists() else []
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
        threading.Thread(target=page.serve_forever, daemon=True).start()
        with subprocess.Popen(command) as process:
            try:
                _wait_until(process, lambda: urlopen(f"{url}/-/ready").close() is None)
                yield url
            finally:
                process.terminate()
                page.shutdown()


def _free_port() -> int:
    """Return a port that nobody has, below those that the system gives to clients meanwhile."""
    while True:
        port = SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for_exemplars(url: str, scene: Scene) -> None:
    """Return when a Prometheus that runs knows the exemplars of its scene."""
    asked = {"query": '{__name__=~".+"}', "start": scene.begin, "end": scene.end}
    _wait_until(None, lambda: bool(_get(url, "query_exemplars", asked)))


def _wait_until(process: subprocess.Popen[bytes] | None, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            raise RuntimeError("Prometheus ended by itself")
        with suppress(OSError):
            if condition():
                return
        time.sleep(0.05)
    raise RuntimeError("Prometheus was not ready in time")


def ask(url: str, expr: str, at: int) -> list[dict[str, Any]]:
    """Return the series that a query has at one moment."""
    found: list[dict[str, Any]] = _get(url, "query", {"query": expr, "time": at})["result"]
    return found


def ask_range(url: str, expr: str, begin: int, end: int) -> list[dict[str, Any]]:
    """Return the series that a query has, minute by minute."""
    asked = {"query": expr, "start": begin, "end": end, "step": SCRAPE_SECONDS}
    found: list[dict[str, Any]] = _get(url, "query_range", asked)["result"]
    return found


def _get(url: str, path: str, asked: Mapping[str, object]) -> Any:  # noqa: ANN401 (each path's own)
    with urlopen(f"{url}/api/v1/{path}", data=urlencode(asked).encode()) as answer:
        return json.load(answer)["data"]
