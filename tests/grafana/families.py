"""The metric families that the code declares, with their types."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from invent_exporter.metrics.families import FAMILIES
from invent_exporter.telemetry import Telemetry

NOT_IN_THE_DEMO = {
    # Of sub-orgs, which the demo does not read.
    "invent_org_balance_credits": {"org_id"},
    "invent_org_promo_balance_credits": {"org_id"},
    "invent_org_spending_cap_credits": {"org_id"},
    "invent_org_spending_cap_used_credits": {"org_id"},
    # Of a configuration that can be read again, which the demo's can't.
    "invent_config_last_reload_successful": set[str](),
}
"""Metrics of the contract that only some configurations have, with their labels."""


def family_types() -> dict[str, str]:
    """Return the type of each family by its name, which is without the suffix of its samples."""
    registry = CollectorRegistry()
    Telemetry(registry)
    families = [*registry.collect(), *(family.metric() for family in FAMILIES)]
    return {family.name: family.type for family in families} | dict.fromkeys(
        NOT_IN_THE_DEMO, "gauge"
    )


def family_name(sample: str) -> str:
    """Return the family that a sample's name belongs to."""
    return re.sub(r"_(total|bucket|count|sum|info)$", "", sample)
