"""What is looked for in a picture: cut words, lies, color on a quiet day, silent incidents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drill.incidents import EXPORTER, RUNS
from grafana.pictures import scenes
from grafana.pictures.history import SCRAPE_SECONDS
from grafana.pictures.past import ask

CALM: Final = {"#00000000", "#ffffff00"}
UNKNOWN: Final = "#8e8e8e"
QUIET: Final = {"A quiet day", "one org", "an agency on a quiet day"}
EXPECTED: Final = {
    **{one.name: {one.expected} for one in (*RUNS, *EXPORTER)},
    "an agency at night": {"InventCreditsExhausting", "InventLeasesLost"},
}
"""The alerts that must be in the list, by the scene."""
COUNTED: Final = {
    "Runs finished": ("invent_runs_finished_total", "status"),
    "Runs submitted": ("invent_runs_submitted_total", "origin"),
}
LINKED: Final = {"org_id", "workflow_id", "run_id"}
"""What the address of a run is made of."""
RANGE_SECONDS, STEP_SECONDS = 6 * 3600, 300


@dataclass(frozen=True)
class Job:
    """One picture: of a scene, a dashboard, in a shape."""

    scene: str
    board: str
    theme: str
    width: int
    url: str
    out: Path
    top: bool = False
    is_open: bool = False
    vision: str | None = None

    @property
    def name(self) -> str:
        """Say what it shows."""
        more = [self.vision, "top" if self.top else None, "open" if self.is_open else None]
        return "-".join(filter(None, (self.scene, self.board, self.theme, str(self.width), *more)))

    @property
    def chosen(self) -> dict[str, str]:
        """The variables that are not at their default: the workflow in trouble."""
        in_trouble = self.scene in {"an incident", "a backfilled day"}
        return {"var-workflow_id": "wf-invoices"} if in_trouble else {}


def look_at(job: Job, seen: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a picture, given what its page said."""
    for flaw in (*seen["errors"], *seen["flaws"], *_lies(seen["tiles"])):
        yield f"{job.name}: {flaw}"
    if job.scene in QUIET:
        for tile in seen["tiles"]:
            if tile["color"] not in CALM:
                yield f"{job.name}: {tile['panel']}: {tile['text']} is not calm"
    if job.scene == "an incident" and job.board == "workflow":
        for panel in ("Runs finished", "Durations of runs"):
            if not any(set(labels) >= LINKED for labels in seen["exemplars"].get(panel, ())):
                yield f"{job.name}: {panel}: no run is marked"
    if job.board == "overview":
        for flaw in (*_silences(job.scene, seen), *_sums(job, seen["bars"])):
            yield f"{job.name}: {flaw}"


def _lies(tiles: list[dict[str, str]]) -> Iterator[str]:
    for tile in tiles:
        if "no data" in tile["text"].lower() and tile["color"] != UNKNOWN:
            yield f"{tile['panel']}: what is not known has the color {tile['color']}"


def _silences(scene: str, seen: dict[str, Any]) -> Iterator[str]:
    loud = {tile["panel"] for tile in seen["tiles"] if tile["color"] not in {*CALM, UNKNOWN}}
    alerts = {cell for row in seen["rows"].get("Alerts firing", ()) for cell in row}
    if expected := EXPECTED.get(scene):
        for alert in sorted(expected - alerts):
            yield f"{alert} is not in the list of alerts"
        if not loud:
            yield "no tile has a color"
    if scene == "the exporter is dead" and "Orgs not read" not in loud:
        yield "no tile says that no org is read"
    if scene == "nothing installed":
        yield from (f"{panel} has a color" for panel in loud)
        if "No exporter, or no rules" not in alerts:
            yield "an empty list of alerts passes for all is well"


def _sums(job: Job, bars: dict[str, dict[str, float]]) -> Iterator[str]:
    """Compare what the bars add up to with what the exporter's counters rose by."""
    if job.scene not in {*QUIET, "an incident", "a hundred orgs", "a backfilled day"}:
        return
    # Rules are evaluated some seconds after a scrape: at its moment the one before was recorded.
    end = scenes.END - SCRAPE_SECONDS
    begin = end - RANGE_SECONDS - STEP_SECONDS
    for panel, (metric, label) in COUNTED.items():
        after, before = (
            {
                one["metric"][label]: float(one["value"][1])
                for one in ask(job.url, f"sum by ({label}) ({metric})", at)
            }
            for at in (end, begin)
        )
        truth = {name: count - before.get(name, 0) for name, count in after.items()}
        if bars[panel] != truth:
            yield f"{panel}: the bars add up to {bars[panel]}, the truth is {truth}"
