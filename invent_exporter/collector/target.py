"""What to poll: one org, and what its polls share with all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from invent_exporter.api.listing import RunsApi
from invent_exporter.api.ratelimit import Demand, PageAllowance
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
    logged_runs: str = "failed"
    """Which finished runs have a log line: `failed`, `all` or `none`."""


@dataclass(frozen=True)
class WalkBounds:
    """What one walk may take, however long the API says that the listing is.

    So many rows, and this share of the room that is left on the state's disk; `spare_bytes` it may
    always fill: a disk without room says so itself.
    """

    rows: int = 2_000_000
    share_of_room: float = 0.5
    spare_bytes: int = 64 * 1024 * 1024

    def growth_bytes(self, room_bytes: float) -> float:
        """Tell by how much the state may grow."""
        return max(self.spare_bytes, self.share_of_room * room_bytes)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the collectors of one process have in common."""

    ledger: Ledger
    api: RunsApi
    telemetry: Telemetry
    publisher: Publisher
    clocks: Clocks
    allowance: PageAllowance
    demand: Demand
    read_key: Callable[[Key], str]
    redactor: Redactor
    walk_bounds: WalkBounds = WalkBounds()
