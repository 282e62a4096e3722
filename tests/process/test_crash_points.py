"""Kill the exporter at every write and every publish of its polls: exact and monotonic after it.

tests/deliberate_bugs.yaml lists bugs that turn this test red.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from invent_exporter.simulator import SimulatorServer, Usage
from tests.effort import Effort
from tests.process.expected import differences
from tests.process.harness import Exporter, clean_environment, make_config, parse, wait_for
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher

RUNNER = Path(__file__).with_name("crash_runner.py")
LANES = 2


def test_every_crash_point(tmp_path: Path, effort: Effort) -> None:
    """A poll finds a new workflow, ends of open runs, late usage and a streak; kill it anywhere.

    The quick form takes one point of each kind, the long one every point.
    """
    with quiet_api() as simulator:
        base = tmp_path / "base"
        base.mkdir()
        since = _prepare(base, simulator)
        with _Lane(tmp_path / "all", base, simulator, since) as lane:
            points = lane.live(kill_at=0)
        # What makes the test worth something: these were among the points.
        assert points.count("before publish") >= 3, points
        assert {"before INSERT INTO run", "before INSERT INTO workflow"} <= set(points), points
        numbers = effort.choose(_one_of_each_kind(points), [*range(1, len(points) + 1)])
        with ThreadPoolExecutor(LANES) as pool:
            results = [
                pool.submit(_crash_at, tmp_path / f"lane-{lane}", base, simulator, since, some)
                for lane in range(LANES)
                for some in [numbers[lane::LANES]]
            ]
            for result in results:
                result.result()


def _one_of_each_kind(points: list[str]) -> list[int]:
    """Choose points by what they are and what came before; a BEGIN is as good as its COMMIT."""
    kinds = {
        pair: number
        for number, pair in enumerate(pairwise(points), 2)
        if not pair[1].startswith("before BEGIN")
    }
    return sorted(kinds.values())


def _prepare(base: Path, simulator: SimulatorServer) -> float:
    """Let first contact be complete and some runs open; then let things happen."""
    world = simulator.world
    ends = [world.add_run(status="RUNNING", workflow_id="wf-known") for _ in range(2)]
    config = make_config(simulator.url, base)
    with Exporter(base, config) as exporter:
        exporter.wait_until_up()
        since = time.time() - 0.002  # the world rounds to milliseconds
        late = world.add_run(status="COMPLETED", workflow_id="wf-known")
        exporter.wait_for(
            "the first is counted", lambda now: now.total("invent_runs_finished_total") == 1
        )
        exporter.wait_for_polls()
        (base / "served").write_text(exporter.get("/metrics").text)
        assert exporter.stop() == 0
    world.revise_usage(late, Usage(3.0, 1.0))
    world.finish_run(ends[0], "FAILED", usage=Usage(2.0, 0.5), error="x")
    world.finish_run(ends[1], "COMPLETED", usage=Usage(1.0))
    world.add_run(status="FAILED", workflow_id="wf-new", usage=Usage(5.0, 5.0))
    world.add_run(status="RUNNING", workflow_id="wf-new")
    return since


def _crash_at(
    folder: Path, base: Path, simulator: SimulatorServer, since: float, numbers: Sequence[int]
) -> None:
    with _Lane(folder, base, simulator, since) as lane:
        for number in numbers:
            lane.live(kill_at=number)


class _Lane:
    """One runner and a folder of its own."""

    def __init__(self, folder: Path, base: Path, simulator: SimulatorServer, since: float) -> None:
        self._folder = folder
        self._base = base
        self._simulator = simulator
        self._since = since
        folder.mkdir()
        config = make_config(simulator.url, folder, reconcile_interval="300ms")
        (folder / "config.yaml").write_text(json.dumps(config))
        self._runner = subprocess.Popen(
            [sys.executable, RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.communicate(timeout=60)

    def live(self, *, kill_at: int) -> list[str]:
        """Start from the base state and die at a point; then live until all is exact."""
        for file in self._folder.glob("state.db*"):
            file.unlink()
        for file in self._base.glob("state.db*"):
            shutil.copy(file, self._folder)
        watcher = Watcher()
        watcher.take((self._base / "served").read_text(), is_known=True)
        if kill_at:
            self._order(kill_at)
            status = self._answer()["status"]
            assert status == -signal.SIGKILL, (kill_at, status, self._log())
            for scrape in self._report("scrape"):
                watcher.take(scrape)
        pid = self._order(0)
        truth = self._simulator.world.truth(self._since)
        wrong: list[str] = []

        def is_exact() -> bool:
            nonlocal wrong
            scrapes = self._report("scrape")
            wrong = differences(parse(scrapes[-1]), truth) if scrapes else ["nothing was served"]
            return not wrong

        try:
            wait_for(f"exact again, killed at point {kill_at}", is_exact)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *wrong, self._log()])) from error
        finally:
            os.kill(pid, signal.SIGTERM)
            status = self._answer()["status"]
        assert status == 0, (kill_at, self._log())
        for scrape in self._report("scrape"):
            watcher.take(scrape)
        assert is_exact(), "it was exact, and then it was not"
        assert watcher.wrong == [], f"killed at point {kill_at}"
        return self._report("point")

    def _order(self, kill_at: int) -> int:
        """Start a child; return its process id."""
        (self._folder / "report").unlink(missing_ok=True)
        flags = (f"--config.file={self._folder}/config.yaml", "--web.listen-address=127.0.0.1:0")
        order = {
            "argv": ["serve", *flags],
            "log": str(self._folder / "log"),
            "report": str(self._folder / "report"),
            "kill_at": kill_at,
        }
        assert self._runner.stdin is not None
        self._runner.stdin.write(json.dumps(order) + "\n")
        self._runner.stdin.flush()
        pid: int = self._answer()["pid"]
        return pid

    def _answer(self) -> dict[str, Any]:
        assert self._runner.stdout is not None
        answer: dict[str, Any] = json.loads(self._runner.stdout.readline())
        return answer

    def _report(self, kind: str) -> list[str]:
        file = self._folder / "report"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        # The last one may be half written.
        known = [json.loads(line) for line in lines if line.endswith("\n")]
        return [line[kind] for line in known if kind in line]

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-3000:]
