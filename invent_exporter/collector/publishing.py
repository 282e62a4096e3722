"""When an org's news are published: soon, but never so often that it is most of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from invent_exporter.api.orgs import Finances
    from invent_exporter.clocks import Clocks
    from invent_exporter.ledger.org import OrgLedger
    from invent_exporter.metrics.publisher import Publisher

_LEAST_SECONDS, _MOST_SECONDS = 1.0, 10.0
"""While a walk goes on, it publishes no more and no less often than so."""
_STRETCH = 20
"""Between these: publishing takes at most a twentieth of the time, however many series changed."""


class Publishing:
    """The workflows of one org that changed since they were published."""

    def __init__(self, publisher: Publisher, clocks: Clocks) -> None:
        self._publisher = publisher
        self._clocks = clocks
        self._pending: set[str] = set()
        self._ended_at = 0.0
        self._took_seconds = 0.0

    def note(self, changed: Iterable[str]) -> None:
        """Publish these workflows with the next publish."""
        self._pending.update(changed)

    @property
    def is_due(self) -> bool:
        """Tell whether a walk that is under way should publish now."""
        wait_seconds = min(_MOST_SECONDS, max(_LEAST_SECONDS, _STRETCH * self._took_seconds))
        return bool(self._pending) and self._clocks.monotonic() - self._ended_at >= wait_seconds

    async def publish(self, org: OrgLedger, org_name: str, finances: Finances) -> None:
        """Serve what is committed of the org and of its changed workflows."""
        changed, self._pending = self._pending, set()
        began = self._clocks.monotonic()
        await self._publisher.publish(org, changed, org_name=org_name, finances=finances)
        self._ended_at = self._clocks.monotonic()
        self._took_seconds = self._ended_at - began
