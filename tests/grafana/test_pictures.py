"""Hold the tool that draws the dashboards: its histories are the exporter's, its checks bite."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from drill.incidents import EXPORTER, RUNS, Theater
from drill.traffic import Habit
from grafana.pictures import backfilled, past, scenes
from grafana.pictures.checks import LINKED, Job, look_at
from grafana.pictures.history import Exemplars, Purse, Scene, write
from tests.programs import require

ROOT = Path(__file__).parents[2]
HABIT = Habit("wf-1", "acme", "WEBHOOK", 5, 1, failing=0.3)
HOUR = Scene(0, 3600, (HABIT,))


def _last(scene: Scene) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples of the last scrape, by name and labels."""
    *_, scrape, end = write(scene, {})
    assert end == "# EOF\n"
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_a_history_counts_each_run_once_in_the_series_of_the_exporter() -> None:
    """A picture of series that nobody serves proves nothing."""
    found = _last(HOUR)
    of_workflow = [
        labels
        for series in found.values()
        for labels in series
        if ("workflow_id", "wf-1") in labels
    ]
    assert 126 <= len(of_workflow) <= 128  # as the README says; none or two are of open runs
    finished = sum(found["invent_runs_finished_total"].values())
    is_open = sum(found["invent_runs_open"].values())
    assert finished > 5
    assert sum(found["invent_runs_submitted_total"].values()) == finished + is_open
    assert sum(found["invent_run_duration_seconds_count"].values()) == finished
    assert sum(found["invent_run_credits_count"].values()) == finished


def test_each_failed_run_is_an_exemplar() -> None:
    """As the scrapes that came after it carried it."""
    exemplars: Exemplars = {}
    *_, scrape, _ = write(HOUR, exemplars)
    failed = [run for series, run in exemplars if "finished_total" in series and "FAILED" in series]
    [counted] = re.findall(r'finished_total{.*"WEBHOOK",status="FAILED"} (\d+)', scrape)
    assert len(failed) == int(counted) > 1
    assert all(re.fullmatch(r'{run_id="run-\d+"} 1.0 [\d.]+', run) for run in failed)


def test_the_same_scene_has_the_same_history() -> None:
    """A picture changes when a dashboard does, and not by chance."""
    assert list(write(HOUR, {})) == list(write(HOUR, {}))


def test_habits_change_when_they_should() -> None:
    """An incident begins at its moment."""

    def pause(theater: Theater) -> None:
        theater.habit("wf-1").paused = True

    scrapes = list(write(replace(HOUR, acts=((30, pause),)), {}))
    submitted = [re.findall(r"submitted_total{.*WEBHOOK.*} (\d+)", one) for one in scrapes[:-1]]
    assert submitted[0] != submitted[31] == submitted[60]


def test_an_exporter_that_is_killed_serves_nothing_more() -> None:
    """Prometheus alone goes on: the target is down."""
    killed = replace(HOUR, acts=((30, lambda theater: theater.kill_exporter()),))
    *_, scrape, _ = write(killed, {})
    assert scrape.startswith("up{")
    assert "invent_" not in scrape


def test_a_sub_org_has_less_as_its_runs_burn() -> None:
    """By what they burned, as it was when it was last looked at."""
    purses = {"acme": Purse(balance=100, cap=50, used=45)}
    found = _last(replace(HOUR, purses=purses))
    [balance] = found["invent_org_balance_credits"].values()
    [used] = found["invent_org_spending_cap_used_credits"].values()
    burned = sum(found["invent_credits_total"].values())
    assert 0 < 100 - balance < burned + 0.01
    assert used == pytest.approx(min(50, 45 + 100 - balance))
    assert not _last(HOUR).get("invent_org_balance_credits")


def test_each_org_is_served_by_one_replica_and_another_when_that_stands_still() -> None:
    """Which lost its leases meanwhile, and gets its org back."""
    habits = tuple(replace(HABIT, org_id=f"org-{number}") for number in range(4))
    scrapes = list(write(Scene(0, 3600, habits, replicas=2, pauses=((40, 20),)), {}))[:-1]
    for minute, scrape in enumerate(scrapes):
        served = re.findall(
            r'^invent_up{.*instance="([^"]+)",org_id="([^"]+)"', scrape, re.MULTILINE
        )
        assert sorted(org_id for _, org_id in served) == [f"org-{number}" for number in range(4)]
        assert len({instance for instance, _ in served}) == (1 if 20 <= minute < 40 else 2)
    lost = re.findall(r"^invent_leases_lost_total{.*} (\S+) ", scrapes[-1], re.MULTILINE)
    assert sorted(map(float, lost)) == [0, 2]


def test_the_lock_file_pins_every_package_and_names_no_registry() -> None:
    """What draws is the same on every machine, wherever it comes from."""
    text = (ROOT / "grafana/pictures/package-lock.json").read_text()
    packages = {name: one for name, one in json.loads(text)["packages"].items() if name}
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert '"resolved"' not in text


def test_a_backfilled_scene_is_what_backfill_writes_of_its_runs(tmp_path: Path) -> None:
    """Up to the scene's end, whenever it is written; nothing of polls, and nothing is left."""
    text = "".join(
        backfilled.lines(replace(HOUR, begin=scenes.END - 3600, end=scenes.END), tmp_path)
    )
    counts = re.findall(r"invent_runs_finished_total{.*} ([0-9.]+) ([0-9]+)\n", text)
    assert max(float(count) for count, _ in counts) > 3
    assert max(int(at) for _, at in counts) <= scenes.END
    assert "invent_up" not in text
    assert list(tmp_path.iterdir()) == []


def test_each_situation_of_the_drill_has_a_scene() -> None:
    """Thirteen of them: the quiet day and twelve incidents, by the drill's names."""
    assert set(scenes.DRILL) == {"A quiet day", *(one.name for one in (*RUNS, *EXPORTER))}


def test_recording_rules_come_after_what_they_read() -> None:
    """A rule that came too early would record nothing."""
    names = [{rule["record"] for rule in level} for level in past._levels(past._recording_rules())]
    for level in range(1, len(names)):
        for rule in past._recording_rules():
            if rule["record"] in names[level]:
                assert any(before in rule["expr"] for before in set().union(*names[:level]))
    assert sum(map(len, names)) == len(past._recording_rules())


RULE = {"alert": "A", "for": "2m", "keep_firing_for": "3m", "labels": {"severity": "warning"}}


@pytest.mark.parametrize(
    ("minutes", "firing"),
    [
        ([1, 2], []),
        ([1, 2, 3], [3, 4, 5, 6]),
        ([1, 2, 3, 5], [3, 4, 5, 6, 7, 8]),
        ([1, 2, 3, 8], [3, 4, 5, 6]),
    ],
    ids=["too short", "and kept", "an interruption", "begins anew"],
)
def test_alerts_fire_as_prometheus_lets_them(minutes: list[int], firing: list[int]) -> None:
    """After `for`, and for `keep_firing_for` longer than their reason."""
    found = [{"metric": {"org_id": "acme"}, "values": [[60 * one, "1"] for one in minutes]}]
    lines = [line for line in past._alert(RULE, found, 3600) if line.startswith("ALERTS{")]
    assert [int(line.split()[-1]) // 60 for line in lines] == firing
    assert all('alertname="A"' in line and 'severity="warning"' in line for line in lines)


SEEN: dict[str, Any] = {
    "errors": [],
    "flaws": [],
    "tiles": [],
    "rows": {},
    "bars": {},
    "exemplars": {},
}


@pytest.mark.parametrize(
    ("scene", "seen", "said"),
    [
        ("A quiet day", {"errors": ["Orgs: bad query"]}, "Orgs: bad query"),
        ("A quiet day", {"flaws": ["Orgs: its title is cut"]}, "Orgs: its title is cut"),
        ("A quiet day", {"tiles": [("Slow", "1", "#FADE2A")]}, "Slow: 1 is not calm"),
        ("A quiet day", {"tiles": [("Slow", "no data", "#8e8e8e")]}, "Slow: no data is not calm"),
        ("an incident", {"tiles": [("Slow", "No data", "#73BF69")]}, "what is not known"),
    ],
)
def test_a_flaw_is_named(scene: str, seen: dict[str, Any], said: str) -> None:
    """With the picture in which it is, so that somebody can look."""
    job = Job(scene, "exporter", "dark", 1280, "", Path())
    if "tiles" in seen:
        fields = ("panel", "text", "color")
        seen = {"tiles": [dict(zip(fields, tile, strict=True)) for tile in seen["tiles"]]}
    [flaw] = look_at(job, {**SEEN, **seen})
    assert said in flaw
    assert scene in flaw


@pytest.mark.parametrize("missing", [None, "run_id", "workflow_id"])
def test_failed_runs_are_marked_with_what_their_address_is_made_of(missing: str | None) -> None:
    """Two clicks lead from an alert to the run."""
    labels = sorted(LINKED - {missing})
    marked = {"Runs finished": [labels], "Durations of runs": [labels]}
    job = Job("an incident", "workflow", "dark", 1280, "", Path())
    flaws = list(look_at(job, {**SEEN, "exemplars": marked}))
    assert len(flaws) == (2 if missing else 0)


@pytest.mark.parametrize("alert", ["InventRunStuck", "InventRunsSlow"])
def test_an_incident_that_is_not_seen_is_a_flaw(alert: str) -> None:
    """Its alert must be in the list, and a tile must have a color."""
    job = Job("A run hangs", "overview", "dark", 1920, "", Path())
    tiles = [{"panel": "Stuck or waiting", "text": "1", "color": "#FADE2A"}]
    rows = {"Alerts firing": [["warning", alert]]}
    flaws = list(look_at(job, {**SEEN, "tiles": tiles, "rows": rows}))
    assert bool(flaws) == (alert != "InventRunStuck")
    assert len(list(look_at(job, {**SEEN, "rows": rows}))) == len(flaws) + 1


@pytest.mark.system
def test_every_picture_is_without_flaw(tmp_path: Path) -> None:
    """All dashboards, scenes, themes and widths, in Chromium; the pictures stay on failure."""
    for program in ("prometheus", "promtool", "chromium", "node", "npm"):
        require(program)
    command = [sys.executable, "-m", "grafana.pictures", "--hours=0.25", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    counted = Counter(path.suffix for path in tmp_path.iterdir())
    assert counted[".png"] > 50
