"""A simulated agency: many orgs that one key reads, each with traffic of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from invent_exporter.simulator import Org, Workflow, World, add_many
from tests.process.traffic import workflows

KEY: Final = "key-agency"
LATE_EVERY: Final = 3
"""Each so-manyth org gets a workflow while it is watched, whose first run fails."""
_HISTORY: Final = 20


def org_ids(orgs: int) -> list[str]:
    """List the orgs; the first is the parent, whose key reads all of them."""
    return [f"org-{number:02d}" for number in range(orgs)]


def agency(seed: int, orgs: int, *, late_seconds: float) -> World:
    """Make a world that stands still until it is made automatic; about 0.4 runs a second and org.

    New workflows appear `late_seconds` after that, and all through the next minute.
    """
    world = World(seed, time.time)
    parent, *_ = ids = org_ids(orgs)
    for number, org_id in enumerate(ids):
        is_parent = org_id == parent
        world.add_org(
            Org(
                id=org_id,
                name=org_id.title(),
                key=KEY if is_parent else f"key-of-{org_id}",
                parent=None if is_parent else parent,
            )
        )
        for workflow in _workflows(org_id):
            world.add_workflow(workflow)
        if number % LATE_EVERY == 0:
            world.add_workflow(_late(org_id, late_seconds + number))
    world.automatic = False
    for org_id in ids:
        add_many(world, _HISTORY, org_id=org_id, workflows=2, seconds=7200, prefix=org_id)
    return world


def _workflows(org_id: str) -> Iterator[Workflow]:
    """Slow the usual ones down: there are many orgs."""
    fast, flaky, *_ = workflows()
    yield replace(fast, org_id=org_id, runs_per_hour=900, duration_seconds=0.2)
    yield replace(flaky, org_id=org_id, runs_per_hour=400, duration_seconds=3.0, step_objects=False)


def _late(org_id: str, seconds: float) -> Workflow:
    *_, late = workflows()
    return replace(late, org_id=org_id, runs_per_hour=400, appears_after_seconds=seconds)
