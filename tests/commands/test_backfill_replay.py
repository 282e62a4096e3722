"""From runs to samples: where series begin, when they have samples, and where they end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from invent_exporter.api.models import Run, Usage
from invent_exporter.commands.backfill_plan import Forecast, Plan, notes
from invent_exporter.commands.backfill_replay import Changes, Event, Workflow
from invent_exporter.commands.backfill_text import lines
from invent_exporter.ledger.counts import Bounds

PLAN = Plan(Path("history.om"), "1d", 0, 60_000, {"job": "x"})
BOUNDS = Bounds((10.0,), (1.0,), (1.0,))
END_MS = 10_000_000_000


def run_of(at: float, *, version: str = "1", status: str = "FAILED", **fields: object) -> Event:
    """Make a run that started and ended then, and the event of its end."""
    moment = datetime.fromtimestamp(at, UTC)
    times = dict.fromkeys(("created_at", "started_at", "ended_at"), moment)
    return at, True, Run(f"r{at}", status, "TRIGGER", version=version, **times, **fields)  # type: ignore[arg-type]


def replayed(events: Iterable[Event], end_ms: int = END_MS) -> dict[str, list[tuple[int, str]]]:
    """List the samples of each series, by the beginning of its first line."""
    workflow = Workflow("org", "wf", "wf", BOUNDS, step_credits=False)
    changes = Changes(PLAN, end_ms, 0)
    points = [
        point
        for at_ms, metrics in workflow.moments(
            events, lambda seconds: PLAN.moment_of(seconds, end_ms), PLAN.step_ms
        )
        for point in changes.take(at_ms, metrics)
    ]
    return {
        series.names[0]: [
            (at_ms, numbers) for number, at_ms, numbers in points if number == series.number
        ]
        for series in changes.series
    }


def series_with(
    found: dict[str, list[tuple[int, str]]], *parts: str
) -> list[list[tuple[int, str]]]:
    """Choose the series in whose name all of these stand."""
    return [points for name, points in found.items() if all(part in name for part in parts)]


def test_a_workflow_begins_at_0_one_step_before_its_first_run() -> None:
    """So `increase()` sees the first failure; a sample stands at the end of the step."""
    found = replayed([run_of(90_001), run_of(90_030), run_of(90_100)])
    (failed,) = series_with(found, "finished", "FAILED", "TRIGGER")
    assert failed == [(90_000_000, "0.0"), (90_060_000, "2.0"), (90_120_000, "3.0")]
    (canceled,) = series_with(found, "finished", "CANCELED", "TRIGGER")
    assert canceled == [(90_000_000, "0.0")]


def test_all_of_a_histogram_stands_together() -> None:
    """Buckets, count and sum have the same times."""
    found = replayed([run_of(90_001)])
    (durations,) = series_with(found, "duration", "FAILED")
    assert durations == [(90_000_000, "0.0 0.0 0.0 0.0"), (90_060_000, "1.0 1.0 1.0 0.0")]


def test_a_series_that_comes_late_begins_at_0_too() -> None:
    """A status that nobody documents is seen from its first run on."""
    found = replayed([run_of(90_001), run_of(95_000, status="ODD")])
    (odd,) = series_with(found, "finished_total", "UNKNOWN")
    assert odd == [(94_980_000, "0.0"), (95_040_000, "1.0")]


def test_what_happened_at_the_end_is_shown_there() -> None:
    """No sample is later than contact, where the live series begin."""
    (failed,) = series_with(replayed([run_of(90_001)], 90_010_000), "finished", "FAILED", "TRIGGER")
    assert failed == [(89_950_000, "0.0"), (90_010_000, "1.0")]


def test_a_new_version_takes_the_place_of_the_old_one_when_that_is_seen_no_more() -> None:
    """Two info series of a workflow at one time would make every query fail that joins them."""
    events = [run_of(60_000 * step, version=version) for step, version in enumerate("11223", 1)]
    infos = series_with(replayed(events), "workflow_info")
    assert infos == [[(59_940_000, "1.0")], [(180_301_000, "1.0")], [(300_301_000, "1.0")]]
    soon = [run_of(60_000), run_of(60_090, version="2"), run_of(60_150, version="3")]
    found = replayed(soon)
    assert [points[0][0] for points in series_with(found, "workflow_info")] == [
        59_940_000,
        *(60_421_000, 60_421_000),
    ]


@pytest.mark.parametrize(
    ("points", "until_ms", "times"),
    [
        ([(0, "1")], 0, [0]),
        ([(0, "1")], 500_000, [0, 240_000, 480_000, 500_000]),
        ([(0, "1"), (60_000, "2")], 60_000, [0, 60_000]),
        ([(0, "1"), (300_000, "2")], 300_000, [0, 240_000, 300_000]),
        ([(0, "1")], 240_000, [0, 240_000]),
        ([(300_000, "1")], 299_999, []),
        ([], 300_000, []),
    ],
)
def test_there_is_a_sample_on_change_and_every_four_minutes(
    points: list[tuple[int, str]], until_ms: int, times: list[int]
) -> None:
    """So no series goes stale; the last one stands at the end."""
    written = "".join(lines(['a{x="1"}'], points, until_ms)).splitlines()
    assert [int(line.split()[2]) for line in written] == [at_ms // 1000 for at_ms in times]


def test_lines_have_their_numbers_and_times() -> None:
    """Milliseconds are written where there are some."""
    assert list(lines(["a", "b"], [(1500, "1.0 2.0")], 1500)) == ["a 1.0 1.500\nb 2.0 1.500\n"]


def test_a_forecast_bounds_what_is_written() -> None:
    """As if every run changed a step of its own, until all of them have changed."""
    forecast = Forecast(all_series=1000, series_of_a_run=100)
    day = 86_400_000
    assert forecast.size_bytes(2, 50, day, 60_000) == 2 * 360 * 1000 + 50 * 100
    assert forecast.size_bytes(1, 10**9, day, 60_000) == (360 + 1440) * 1000


def test_notes_say_what_to_do_with_prometheus() -> None:
    """Retention, blocks that reach into what it holds in memory, and missing labels."""
    hours = 3600.0
    said = "\n".join(notes(PLAN, {"org": 90 * hours}, 91 * hours))
    assert "--storage.tsdb.retention.time" in said
    assert "more than 4d" in said
    assert "give it these after 1970-01-04 21:00:00 UTC" in said
    assert "no --label instance" in said
    assert "give it these" not in "\n".join(notes(PLAN, {"org": 90 * hours}, 94 * hours))


def test_credits_and_queue_times_are_counted_once() -> None:
    """By the rules of the live counters."""
    found = replayed([run_of(90_001, usage=Usage(3.0, 1.0))])
    assert series_with(found, "invent_credits", "FAILED", "TRIGGER", '"ai"')[0][-1][1] == "1.0"
    assert series_with(found, "invent_credits", "FAILED", "TRIGGER", '"other"')[0][-1][1] == "2.0"
    (spent,) = series_with(found, "run_credits")
    assert spent[-1][1] == "0.0 1.0 1.0 3.0"
