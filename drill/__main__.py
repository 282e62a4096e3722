"""Play a quiet day and twelve incidents, and write the report: `python -m drill`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from drill.incidents import ACME, EXPORTER, RUNS, UMBRELLA, Incident, Theater, quiet_habits
from drill.report import ORG_WIDE, Played, Result, write_report
from drill.stage import Notice, Stage
from drill.traffic import MINUTE, Traffic
from invent_exporter.simulator import Org, Settings, SimulatorServer, World

RUNS_MINUTES = 120.0
"""How long the eight incidents of the runs are watched; the leak takes longest."""
EXPORTER_MINUTES = 18.0
RECOVERY_MINUTES = 15.0


def main() -> int:
    """Play, report, and return 1 when an alert was missing or false."""
    parser = argparse.ArgumentParser(prog="python -m drill", description=__doc__)
    parser.add_argument("--hours", type=float, default=24, help="length of the quiet day")
    parser.add_argument("--report", type=Path, help="where to write the report")
    flags = parser.parse_args()
    # So that the programs of the stage are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    world = World(1)
    keys = {ACME: "key-acme", UMBRELLA: "key-umbrella"}
    for org, key in keys.items():
        world.add_org(Org(id=org, name=org, key=key))
    traffic = Traffic(world, quiet_habits(), Random(1))  # noqa: S311 (it chooses times)
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as folder,
        SimulatorServer(world, settings=Settings(rate_limit_per_minute=None)) as simulator,
    ):
        stage = Stage(Path(folder), keys)
        theater = Theater(
            traffic,
            simulator.add_faults,
            simulator.faults.clear,
            stage.kill_exporter,
            stage.start_exporter,
        )
        with (
            stage.receiver.listening() as webhook_port,
            stage.running(simulator.url, webhook_port),
        ):
            traffic.start()
            played = _play(stage, theater, flags.hours)
            traffic.stop()
        if not played.is_right:
            for log in Path(folder).glob("*.log"):
                sys.stderr.write(f"{log.name}:\n{log.read_text()[-2000:]}\n")
    moment = datetime.now(UTC)
    machine = f"{os.cpu_count()} cores, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    text = write_report(flags.hours, played, moment, machine)
    sys.stdout.write(text)
    if flags.report:
        flags.report.write_text(text)
    return int(not played.is_right)


def _play(stage: Stage, theater: Theater, quiet_hours: float) -> Played:
    notices = stage.receiver.notices
    _say(f"a quiet day of {quiet_hours:g} hours")
    _pass(quiet_hours * 60)
    stage.expect_exporter()
    quiet = list(notices)
    _say(f"eight incidents of runs, {RUNS_MINUTES:g} minutes")
    begun = time.time()
    for incident in RUNS:
        incident.begin(theater)
    _pass(RUNS_MINUTES)
    happened = notices[len(quiet) :]
    results = [
        Result(incident, begun, [notice for notice in happened if _belongs(notice, incident)])
        for incident in RUNS
    ]
    known = {id(notice) for result in results for notice in result.notices}
    stray = [notice for notice in happened if id(notice) not in known and notice.is_firing]
    # Alerts on the org as a whole come from whatever is played in it.
    results[0].notices.extend(notice for notice in stray if notice.alert in ORG_WIDE)
    stray = [notice for notice in stray if notice.alert not in ORG_WIDE]
    theater.traffic.calm_down(quiet_habits())
    results.extend(_play_alone(stage, theater, incident) for incident in EXPORTER)
    return Played(quiet, stray, results)


def _play_alone(stage: Stage, theater: Theater, incident: Incident) -> Result:
    _pass(RECOVERY_MINUTES)
    notices = stage.receiver.notices
    _say(incident.name)
    before, begun = len(notices), time.time()
    incident.begin(theater)
    _pass(EXPORTER_MINUTES)
    # What an earlier incident left behind may fire again.
    known = {(notice.alert, *sorted(notice.labels.items())) for notice in notices[:before]}
    happened = [
        notice
        for notice in notices[before:]
        if notice.alert == incident.expected
        or (notice.alert, *sorted(notice.labels.items())) not in known
    ]
    incident.end(theater)
    return Result(incident, begun, happened)


def _belongs(notice: Notice, incident: Incident) -> bool:
    return notice.labels.items() >= incident.concerns.items()


def _pass(minutes: float) -> None:
    time.sleep(minutes * MINUTE)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
