"""What `check` finds wrong with a configuration, and what it advises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from invent_exporter.api.models import Run
from invent_exporter.commands.check_machine import Line, look_at
from invent_exporter.config.key import Key
from invent_exporter.config.load import Config
from invent_exporter.config.schema import ApiConfig, MetricsConfig, OrgConfig

ORG = OrgConfig(key=Key.literal("not-a-real-key", "here"))


def runs(count: int, *, seconds: float, workflows: int = 1) -> list[Run]:
    """Make runs that took so long."""
    begin = datetime(2026, 11, 27, tzinfo=UTC)
    end = begin + timedelta(seconds=seconds)
    made = (f"wf-{number % workflows}" for number in range(count))
    return [
        Run(
            id=f"{name}-{number}",
            status="COMPLETED",
            workflow_id=name,
            started_at=begin,
            ended_at=end,
        )
        for number, name in enumerate(made)
    ]


def lines(seen: list[Run], **config: Any) -> dict[str, Line]:  # noqa: ANN401 - what it is about
    """Look."""
    made = Config(**{"orgs": (ORG,), "state_url": "sqlite://", **config})
    return {line.what: line for line in look_at(made, seen)}


def test_all_is_well_with_the_defaults(tmp_path: Path) -> None:
    """No advice where nothing is wrong."""
    found = lines(runs(50, seconds=30), state_url=f"sqlite:///{tmp_path}/state.db")
    assert [line.what for line in found.values() if line.advice] == []


@pytest.mark.parametrize(
    ("what", "advice", "seen", "config"),
    [
        ("state", "name a file in state.url", [], {}),
        ("requests", "raise poll_interval", [], {"poll_interval_seconds": 0.2}),
        ("requests", "raise poll_interval", [], {"api": ApiConfig(requests_per_minute=2)}),
        (
            "scrape_interval",
            "raise newborn_hold",
            [],
            {"metrics": MetricsConfig(newborn_hold_seconds=30)},
        ),
        (
            "series",
            "raise metrics.max_workflows",
            runs(9, seconds=1, workflows=9),
            {"metrics": MetricsConfig(max_workflows=8)},
        ),
        (
            "series",
            "raise metrics.max_exposition",
            runs(9, seconds=1, workflows=9),
            {"metrics": MetricsConfig(max_exposition_bytes=100_000)},
        ),
        ("duration_buckets", "add bounds up to 9e+05", runs(30, seconds=9e5), {}),
        ("duration_buckets", "add smaller bounds", runs(30, seconds=0.1), {}),
        (
            "state",
            "give its owner, or the folder",
            [],
            {"state_url": "sqlite:////nowhere/state.db"},
        ),
    ],
)
def test_what_is_wrong_comes_with_advice(
    what: str, advice: str, seen: list[Run], config: dict[str, Any]
) -> None:
    """One line each, that names the key to change."""
    assert advice in (lines(seen, **config)[what].advice or "")
