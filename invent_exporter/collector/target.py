"""What to poll: one org, and what its polls share with all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from invent_exporter.api.listing import RunsApi
from invent_exporter.api.orgs import NO_FINANCES, Finances, SubOrgsApi
from invent_exporter.api.ratelimit import PageAllowance
from invent_exporter.clocks import Clocks
from invent_exporter.collector.demand import Demand
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
    lease: int | None = None
    """The epoch of the lease under which it is polled, where replicas share the orgs."""
    sub_orgs_interval_seconds: float | None = None
    """How often its sub-orgs are looked for; None: never."""
    parent: str | None = None
    """The org that lists this one, by its real id where that is known; None: it is configured."""
    finances: Finances = NO_FINANCES

    def is_polled_as(self, other: Target) -> bool:
        """Tell whether the two differ in nothing but what is said of the org."""
        said = {"name": other.name, "parent": other.parent, "finances": other.finances}
        return replace(self, **said) == other  # type: ignore[arg-type]


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
    sub_orgs: SubOrgsApi
    telemetry: Telemetry
    publisher: Publisher
    clocks: Clocks
    allowance: PageAllowance
    demand: Demand
    read_key: Callable[[Key], str]
    redactor: Redactor
    walk_bounds: WalkBounds = WalkBounds()
    may_poll: Callable[[], bool] = lambda: True
    """False while this replica's leases have run out."""
    retarget: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set when sub-orgs were looked for, whatever came of it: the targets may be others."""
