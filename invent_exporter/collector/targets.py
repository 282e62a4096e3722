"""Which orgs are to be polled now: those of the configuration, and the sub-orgs that are known.

The one place that says so, for every process that shares a ledger: what one of them found, and
what was known before a start, is in the table of sub-orgs. Who of them polls what is another
question, between this and `Supervisor.apply`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.collector.target import Target
from invent_exporter.errors import StorageError
from invent_exporter.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from invent_exporter.collector.target import Shared
    from invent_exporter.config.load import Config, OrgConfig
    from invent_exporter.ledger.schema import SubOrgRow
    from invent_exporter.ledger.sub_orgs import SubOrgRows

STALE_INTERVALS = 3
"""A balance that was not read for so many intervals is not known any more."""

log = get_logger(__package__)


class Targets:
    """Computes the targets anew when the configuration or the sub-orgs may have changed."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        apply: Callable[[Sequence[Target]], Awaitable[None]],
    ) -> None:
        """Give them to `apply`, one computation after the other."""
        self._config = config
        self._shared = shared
        self._apply = apply
        self._known: SubOrgRows | None = None
        self._one_at_a_time = asyncio.Lock()

    async def refresh(self, config: Config | None = None) -> None:
        """Compute and apply them now, from another configuration where one is given.

        Raises:
            StorageError: as `apply` does; or the sub-orgs can't be read, the first time.

        """
        async with self._one_at_a_time:
            self._config = config or self._config
            try:
                self._known = await self._shared.ledger.sub_orgs()
            except StorageError as error:
                if self._known is None:
                    raise
                log.warning("sub-orgs stay as they were", error=str(error))
            await self._apply(targets_of(self._config, self._known, self._shared.clocks.time()))

    async def run(self) -> NoReturn:
        """Refresh when sub-orgs were looked for, until cancelled."""
        while True:
            await self._shared.retarget.wait()
            self._shared.retarget.clear()
            await self.refresh()


def targets_of(config: Config, known: SubOrgRows, now: float) -> tuple[Target, ...]:
    """List what to poll; an org that is configured and listed as well is polled as configured.

    Its name, where it has none, and its finances come from the listing all the same. What several
    list goes with the first of them in the configuration. `now` is our time.
    """
    alias = known.alias

    def real_id(org: OrgConfig) -> str:
        return alias if org.id == "c" and alias is not None else org.id

    listed: dict[str, tuple[OrgConfig, SubOrgRow]] = {}
    for org in (each for each in config.orgs if each.sub_orgs):
        for row in known.rows:
            if row.parent in (org.id, real_id(org)):
                listed.setdefault(row.org_id, (org, row))
    target = partial(
        Target,
        poll_interval_seconds=config.poll_interval_seconds,
        lookback_seconds=config.lookback_seconds,
        reconcile_interval_seconds=config.reconcile_interval_seconds,
        logged_runs=config.logged_runs,
    )
    targets = []
    for org in config.orgs:
        found = listed.pop(real_id(org), None)
        targets.append(
            target(
                id=org.id,
                name=org.name or (None if found is None else found[1].name),
                key=org.key,
                sub_orgs_interval_seconds=org.sub_orgs_interval_seconds if org.sub_orgs else None,
                finances=NO_FINANCES if found is None else _finances(*found, now),
            )
        )
    targets += [
        target(
            id=row.org_id,
            name=row.name,
            key=parent.key,
            parent=real_id(parent),
            finances=_finances(parent, row, now),
        )
        for parent, row in listed.values()
    ]
    return tuple(targets)


def _finances(parent: OrgConfig, row: SubOrgRow, now: float) -> Finances:
    if now - row.seen > STALE_INTERVALS * parent.sub_orgs_interval_seconds:
        return NO_FINANCES
    return Finances(
        row.balance_credits,
        row.promo_balance_credits,
        row.spending_cap_credits,
        row.spending_cap_used_credits,
    )
