"""What to poll: one org, and what its polls share with all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from invent_exporter.api.listing import RunsApi
from invent_exporter.api.ratelimit import PageAllowance
from invent_exporter.clocks import Clocks
from invent_exporter.config.key import Key
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.metrics.publisher import Publisher
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True)
class Target:
    """One org to poll; its id is the configuration's, so it may be `c`. Equal ones need no change.

    `lookback_seconds` is how far back a first contact reads.
    """

    id: str
    name: str | None = None
    key: Key
    poll_interval_seconds: float
    lookback_seconds: float
    reconcile_interval_seconds: float


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the collectors of one process have in common."""

    ledger: Ledger
    api: RunsApi
    telemetry: Telemetry
    publisher: Publisher
    clocks: Clocks
    allowance: PageAllowance
    read_key: Callable[[Key], str]
    redactor: Redactor
