"""Leases: whatever befalls replicas, no run is lost and no org is served twice."""

from __future__ import annotations

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.effort import Effort
from tests.replicas.machine import Machine


def test_no_org_is_served_or_counted_by_two(effort: Effort) -> None:
    """However replicas stop, lose the network, come and go; afterwards all are served evenly."""
    size = settings(
        max_examples=effort.choose(150, 5000),
        stateful_step_count=effort.choose(40, 80),
        deadline=None,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(Machine, settings=size)
