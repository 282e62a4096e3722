"""A real Prometheus that scrapes every second for a minute stores nothing but the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.soak import soak


@pytest.mark.system
def test_prometheus_stores_the_truth(tmp_path: Path) -> None:
    """Raw increments sum up to the truth exactly, `increase()` within extrapolation.

    Each series is first stored at 0, the first failure of a new workflow's included.
    """
    result = soak(tmp_path, seconds=60, seed=1, is_sick=False)
    assert result.wrong == []
    late = [
        line
        for line in result.lines
        if line.name == "invent_runs_finished_total"
        and {("workflow_id", "wf-late"), ("status", "FAILED")} <= line.labels
        and line.truth
    ]
    assert [line.truth for line in late] == [1]
    assert all(line.raw == 1 and line.increase >= 1 for line in late)
    assert len([line for line in result.lines if line.truth]) > 50
