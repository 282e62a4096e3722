"""Replicas share a real PostgreSQL: killed, frozen, cut off, replaced, each run counts once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.rounds import Judge
from tests.ha.scenarios import SCENARIOS
from tests.ha.stage import Stage, new_folder

LIVE_SECONDS = 4.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Return three replicas that read 60 orgs."""
    with new_folder() as folder, Stage(Path(folder)) as running:
        yield running


@pytest.mark.system
@pytest.mark.parametrize("name", SCENARIOS)
def test_numbers_stay_exact(name: str, stage: Stage) -> None:
    """In the end each org's numbers are the truth, in the replicas and in Prometheus.

    No scraper ever sees an org at two replicas under one lease, or a number that goes back.
    """
    stage.restore()
    stage.live(LIVE_SECONDS)
    SCENARIOS[name](stage)
    stage.live(LIVE_SECONDS)
    stage.settle()
    stage.check_stored()


def test_the_judge_sees_two_servers_of_one_org() -> None:
    """It does not take a handover for one, and sees who serves without a lease, or another's."""
    judge = Judge()
    judge.close({"x": (1, "first"), "y": (2, None)})
    judge.sight("x", "a")
    judge.close({"x": (1, "first"), "y": (2, None)})
    judge.sight("x", "a")
    judge.sight("x", "b")
    judge.close({"x": (3, "second"), "y": (2, None)})
    assert judge.wrong == []
    for org_id, replica in (("x", "b"), ("x", "a"), ("y", "a"), ("z", "a")):
        judge.sight(org_id, replica)
    judge.close({"x": (3, "second"), "y": (2, None)})
    assert [line.split(" ", 1)[0] for line in judge.wrong] == ["x", "y", "z"]
