"""What a drill found, as a page of Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drill.incidents import Incident
from drill.speed import SPEED
from drill.stage import Notice

COLUMNS = (
    "incident",
    "alert that must come",
    "after",
    "also came",
    "should not have",
    "on Overview's first screen",
)
ORG_WIDE = frozenset(
    {"InventErrorBudgetBurnFast", "InventErrorBudgetBurnSlow", "InventCreditsOverBudget"}
)


@dataclass
class Result:
    """One incident, when it began, and the alerts that arrived."""

    incident: Incident
    begun: float
    notices: list[Notice]

    def first(self, alert: str) -> float | None:
        """Return after how many drill minutes the alert arrived first; None when it did not."""
        times = [n.at for n in self.notices if n.alert == alert and n.is_firing]
        return (min(times) - self.begun) * SPEED / 60 if times else None

    @property
    def others(self) -> list[str]:
        """The alerts beside the expected one."""
        fired = {notice.alert for notice in self.notices if notice.is_firing}
        return sorted(fired - {self.incident.expected})

    @property
    def false(self) -> list[str]:
        """The alerts that should not have arrived."""
        return [name for name in self.others if name not in self.incident.allowed | ORG_WIDE]

    @property
    def is_right(self) -> bool:
        """Whether the expected alert arrived and no false one."""
        return self.first(self.incident.expected) is not None and not self.false


@dataclass
class Played:
    """A whole drill: alerts on the quiet day, alerts that belong to no incident, and the rest."""

    quiet: list[Notice]
    stray: list[Notice]
    results: list[Result]

    @property
    def is_right(self) -> bool:
        """Whether all that should have come came, and nothing else."""
        return not self.quiet and not self.stray and all(r.is_right for r in self.results)


def write_report(quiet_hours: float, played: Played, moment: datetime, machine: str) -> str:
    """Write the page."""
    false_alarms = _names(played.quiet)
    lines = [
        "# Drill report",
        "",
        f"`python -m drill --hours {quiet_hours:g}`, {moment:%Y-%m-%d}, {machine}.",
        "",
        "A real Prometheus with the shipped rules and thresholds, a real Alertmanager with the",
        "shipped inhibition, the exporter, and a simulated API. Time runs",
        f"{SPEED} times as fast: every duration in the rules, and the intervals of polls (30 s),",
        "scrapes and evaluations (60 s), are divided by that.",
        "Times below are as they would be in real life, from the beginning of the incident",
        "to the webhook, without Alertmanager's `group_wait`.",
        "",
        f"**The quiet day** ({quiet_hours:g} hours, 9 workflows, 2 orgs): "
        + (f"false alarms: {false_alarms}." if false_alarms else "no alert."),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in played.results:
        after = result.first(result.incident.expected)
        others = [
            f"{name} ({result.first(name):.0f} min)"
            for name in result.others
            if name not in result.false
        ]
        lines.append(
            f"| {result.incident.name} | {result.incident.expected} | "
            f"{'**never**' if after is None else f'{after:.0f} min'} | "
            f"{', '.join(others) or 'none'} | {', '.join(result.false) or 'none'} | "
            f"{result.incident.seen_at} |"
        )
    lines += [
        "",
        "The eight incidents of runs are played at once, each in a workflow of its own; alerts on",
        "the org as a whole are listed with the first. The others follow one by one.",
        f"Alerts of workflows in which nothing was played: {_names(played.stray) or 'none'}.",
        "",
    ]
    return "\n".join(lines)


def _names(notices: list[Notice]) -> str:
    found = {f"{notice.alert} ({notice.labels.get('workflow_id', 'org')})" for notice in notices}
    return ", ".join(sorted(found))
