"""Ready worlds: the lively one of the demo, and a quiet one for tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from invent_exporter.simulator.orgs import Org
from invent_exporter.simulator.workflows import DAY_SECONDS, Workflow
from invent_exporter.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO_KEY = "demo-key"
DEMO_ORG = "org-aurora"
_LABS, _RETAIL, _KITCHENS = "org-aurora-labs", "org-aurora-retail", "org-aurora-kitchens"
LIVE_PACE = 8.0
"""How much faster than in its history the demo goes on: a run every few seconds."""

_WORKFLOWS = (
    Workflow(
        id="wf-order-intake",
        name="Order intake",
        org_id=DEMO_ORG,
        origins=("WEBHOOK",),
        profile="office",
        runs_per_hour=45,
        duration_seconds=4.0,
        failed=0.01,
        credits=0.8,
        errors=("Error: 502 from the shop's API",),
    ),
    Workflow(
        id="wf-crm-sync",
        name="CRM sync (flaky)",
        org_id=DEMO_ORG,
        origins=("TRIGGER",),
        profile="clock",
        # At the live pace every 20 s with a failure in every three runs: one a minute at least.
        runs_per_hour=22.5,
        duration_seconds=3.0,
        failed=0.25,
        fails_at_least_every=3,
        errors=(
            "TimeoutError: contacts.list took longer than 30 s",
            "Error: token expired\n  at refresh (step_2)",
        ),
    ),
    Workflow(
        id="wf-research-report",
        name="Research report (costly)",
        org_id=DEMO_ORG,
        runs_per_hour=6,
        profile="office",
        duration_seconds=600.0,
        duration_spread=0.8,
        failed=0.03,
        canceled=0.05,
        credits=60.0,
        ai_share=0.9,
        late_usage_seconds=20.0,
        step_objects=True,
        steps=12,
        output_bytes=20_000,
    ),
    Workflow(
        id="wf-nightly-export",
        name="Nightly export",
        org_id=DEMO_ORG,
        origins=("TRIGGER",),
        profile="night",
        runs_per_hour=2,
        duration_seconds=6_000.0,
        failed=0.05,
        credits=5.0,
        ai_share=0.0,
        steps=8,
    ),
    Workflow(
        id="wf-address-check",
        name="Address check",
        org_id=DEMO_ORG,
        origins=("WEBHOOK", "TRIGGER"),
        runs_per_hour=40,
        duration_seconds=0.08,
        duration_spread=0.9,
        queue_seconds=0.02,
        failed=0.002,
        credits=0.1,
        ai_share=0.0,
        steps=1,
        output_bytes=60,
    ),
    Workflow(
        id="wf-invoice-approval",
        name="Invoice approval",
        org_id=DEMO_ORG,
        origins=("WORKFLOW", "WEBHOOK"),
        profile="office",
        runs_per_hour=8,
        duration_seconds=1_200.0,
        duration_spread=1.0,
        failed=0.02,
        canceled=0.15,
        skipped=0.25,
        credits=3.0,
    ),
    Workflow(
        id="wf-inventory-watch",
        name="Inventory watch (one run is stuck)",
        org_id=DEMO_ORG,
        origins=("TRIGGER",),
        runs_per_hour=2,
        duration_seconds=30.0,
        stuck_run=3,
        credits=0.5,
    ),
    Workflow(
        id=None,
        name="deleted workflow",
        org_id=DEMO_ORG,
        runs_per_hour=2,
        duration_seconds=10.0,
        failed=0.1,
        credits=0.4,
    ),
    Workflow(
        id="wf-new-pricing",
        name="New pricing (appears later, its first run fails)",
        org_id=DEMO_ORG,
        runs_per_hour=12,
        duration_seconds=8.0,
        first_fails=True,
        credits=2.0,
        appears_after_seconds=90.0,
        errors=("TypeError: cannot read 'price' of undefined",),
    ),
    Workflow(
        id="wf-labs-mail-triage",
        name="Mail triage",
        org_id=_LABS,
        origins=("TRIGGER",),
        profile="office",
        runs_per_hour=30,
        duration_seconds=5.0,
        failed=0.04,
        skipped=0.2,
        credits=1.5,
        ai_share=0.8,
    ),
    Workflow(
        id="wf-retail-price-tags",
        name="Price tags",
        org_id=_RETAIL,
        origins=("WEBHOOK",),
        runs_per_hour=30,
        duration_seconds=6.0,
        failed=0.02,
        credits=2.5,
    ),
    Workflow(
        id="wf-kitchens-menu",
        name="Menu of the day",
        org_id=_KITCHENS,
        profile="clock",
        runs_per_hour=6,
        duration_seconds=20.0,
        failed=0.05,
        credits=1.0,
    ),
)


_SUB_ORGS = (
    Org(
        id=_LABS,
        name="Aurora Labs",
        key="demo-labs-key",
        parent=DEMO_ORG,
        balance=18_000.0,
        promo_balance=200.0,
        spending_cap_used=3_400.0,
        spending_cap=50_000.0,
    ),
    # What is left of its credits does not last for three days: after some runs an alert says so.
    Org(
        id=_RETAIL,
        name="Aurora Retail",
        key="demo-retail-key",
        parent=DEMO_ORG,
        balance=200.0,
    ),
    Org(
        id=_KITCHENS,
        name="Aurora Kitchens",
        key="demo-kitchens-key",
        parent=DEMO_ORG,
        use_parent_balance=True,
    ),
)


def demo_world(
    seed: int = 0,
    clock: Callable[[], float] = time.time,
    *,
    history_seconds: float = DAY_SECONDS,
    pace: float = LIVE_PACE,
) -> World:
    """Make the demo's world: an org and three sub-orgs, their past, and a lively present.

    The past runs at pace 1, about 2,000 runs a day; `pace` is that of the present.
    """
    world = World(seed, clock, history_seconds=history_seconds)
    world.add_org(Org(id=DEMO_ORG, name="Aurora Foods", key=DEMO_KEY, balance=25_000.0))
    for sub_org in _SUB_ORGS:
        world.add_org(sub_org)
    for workflow in _WORKFLOWS:
        world.add_workflow(workflow)
    world.advance(world.opened_at)
    world.pace = pace
    return world


def quiet_world(clock: Callable[[], float] = time.time, *, seed: int = 0) -> World:
    """Make a world where nothing happens by itself.

    Orgs: `org-main` (key `key-main`), its sub-org `org-sub` (`key-sub`), and `org-other`
    (`key-other`).
    """
    world = World(seed, clock)
    world.add_org(Org(id="org-main", name="Main", key="key-main"))
    world.add_org(Org(id="org-sub", name="Sub", key="key-sub", parent="org-main"))
    world.add_org(Org(id="org-other", name="Other", key="key-other"))
    return world
