"""Which orgs this process polls now: `apply` is the one door for every change of them.

An org that is withdrawn keeps its rows in the ledger, and goes on where it was when it comes back.
Two targets may turn out to be one org (`c` and its real id): the earlier one polls it, and the
later one is *superseded*; it takes over when the earlier one is gone. A task is ended by
cancelling it: a step of the ledger that is under way still ends whole, before any later step.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from invent_exporter.collector.loop import Collector
from invent_exporter.collector.poller import Poller, SupersededError
from invent_exporter.errors import NoRoomError, StorageError
from invent_exporter.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from invent_exporter.collector.target import Shared, Target

_ALIAS = "c"
_ALIAS_PATIENCE_SECONDS = 30.0
"""How long the first attempt of `c` goes alone: a long one must not hold the others up."""

log = get_logger(__package__)


class _Others(Mapping[str, float]):
    """The polled orgs but for one; made when another is asked for, which few pages name."""

    def __init__(
        self, own: Sequence[str], here: Sequence[Collector], elsewhere: Mapping[str, float]
    ) -> None:
        self._own, self._here, self._elsewhere = own, here, elsewhere

    @cached_property
    def _polled(self) -> Mapping[str, float]:
        orgs = ((collector.label, collector.org) for collector in self._here)  # each read once
        here = {label: math.inf if org is None else org.history_until for label, org in orgs}
        polled = {**self._elsewhere, **here}
        return {org: until for org, until in polled.items() if org not in self._own}

    def __getitem__(self, org_id: str) -> float:
        if org_id in self._own:
            raise KeyError(org_id)
        return self._polled[org_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._polled)

    def __len__(self) -> int:
        return len(self._polled)


class Supervisor:
    """Starts, changes and withdraws the collectors of this process."""

    def __init__(self, shared: Shared) -> None:
        self.elsewhere: Mapping[str, float] = {}
        """The orgs that other replicas poll, each with its `OrgLedger.history_until`."""
        self._shared = shared
        self._wanted: dict[str, Target] = {}
        self._precedence: dict[str, int] = {}
        self._collectors: dict[str, Collector] = {}
        self._superseded: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._applying = asyncio.Lock()
        self._was_ready = False

    # -- for others to see

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """The collectors in the order of their targets."""
        order = self._precedence
        return tuple(sorted(self._collectors.values(), key=lambda each: order[each.target.id]))

    def stalled(self) -> tuple[str, ...]:
        """List the orgs whose poll loop stalled."""
        return tuple(collector.label for collector in self.collectors if collector.is_stalled)

    def ready(self) -> bool:
        """Tell whether each org's first attempt has ended; an org that comes later changes nothing.

        Kubernetes would take the metrics of all orgs away.
        """
        self._was_ready = self._was_ready or all(
            collector.first_attempt.is_set() for collector in self._collectors.values()
        )
        return self._was_ready

    # -- what the pollers ask

    def others(self, poller: Poller) -> Mapping[str, float]:
        """Name the other polled orgs, each with the time until which its runs are not its own."""
        # Its own too is left out: another target may be the same org, until that is settled.
        own = (_ALIAS, poller.label)
        # Who polls is of now: the step that asks runs beside what changes it, half of it done.
        return _Others(own, tuple(self._collectors.values()), self.elsewhere)

    def claim(self, poller: Poller, org_id: str) -> bool:
        """Tell whether no earlier target is the same org; a later one gives way."""
        order = self._precedence
        mine = poller.target.id
        for other in self.collectors:
            if other.target.id == mine or other.label != org_id:
                continue
            if order[other.target.id] < order[mine]:
                return False
            self._supersede(other, org_id)
        return True

    def left(self, org_id: str) -> None:
        """Let a target that stood back for this org poll it: `c` is another one from now on."""
        if self._group is not None and org_id in self._superseded.values():
            self._group.create_task(self._resume())

    async def _resume(self) -> None:
        async with self._applying:
            await self._start_wanted()

    def _supersede(self, collector: Collector, org_id: str) -> None:
        target_id = collector.target.id
        if self._collectors.get(target_id) is not collector:
            return  # it was superseded while it started
        del self._collectors[target_id]
        task = self._tasks.pop(target_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        collector.first_attempt.set()
        self._superseded[target_id] = org_id
        self._shared.telemetry.forget_org(target_id)
        if collector.target.parent is None:  # else it is its own sub-org, and polled as configured
            line = "an org is configured twice; the later entry is dropped"
            log.warning(line, org_id=org_id, entry=target_id)

    # -- changes

    async def apply(self, targets: Iterable[Target]) -> None:
        """Poll these orgs and no others; of two that are the same org, the earlier one.

        Raises:
            StorageError: before `run`: what is known of an org can't be loaded, and not
                for lack of room.

        """
        async with self._applying:
            wanted: dict[str, Target] = {}
            for target in targets:
                wanted.setdefault(target.id, target)
            gone = [each for each in self._collectors.values() if each.target.id not in wanted]
            for collector in gone:
                await self._end(collector)
            self._wanted = wanted
            self._precedence = {target_id: index for index, target_id in enumerate(wanted)}
            for target_id in self._superseded.keys() - wanted.keys():
                del self._superseded[target_id]
            await self._start_wanted()
            await asyncio.gather(*map(self._withdraw, gone))
            await self._shared.publisher.flush()
            with suppress(StorageError):  # the next change, or start, does it
                await self._shared.ledger.forget_texts()

    async def _start_wanted(self) -> None:
        for target in self._wanted.values():
            known = self._collectors.get(target.id)
            if known is not None:
                await known.change(target)
            elif not self._is_superseded(target):
                await self._begin(target)

    def _is_superseded(self, target: Target) -> bool:
        org_id = self._superseded.get(target.id)
        order = self._precedence
        return any(
            collector.label == org_id and order[collector.target.id] < order[target.id]
            for collector in self._collectors.values()
        )

    async def _begin(self, target: Target) -> None:
        self._superseded.pop(target.id, None)
        collector = Collector(target, self._shared, self)
        self._collectors[target.id] = collector
        try:
            await collector.start()
        except SupersededError as error:
            self._supersede(collector, str(error))
            return
        except StorageError as error:
            if self._group is None and not isinstance(error, NoRoomError):
                raise
            # Its polls try again, and say why they fail.
        if self._collectors.get(target.id) is collector:  # `c` may have turned out to be this org
            self._spawn(collector)

    async def _end(self, collector: Collector) -> None:
        target_id = collector.target.id
        self._collectors.pop(target_id, None)
        task = self._tasks.pop(target_id, None)
        collector.first_attempt.set()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _withdraw(self, collector: Collector) -> None:
        """Take an org from what is served, unless another target has taken it over."""
        if self._is_polled(collector.label):
            return
        self._shared.telemetry.forget_org(collector.label)
        # A target that has just given way to this one may have served the org from another ledger.
        served = self._shared.publisher.serving(collector.label)
        orgs = {org.key: org for org in (collector.org, *served) if org is not None}
        for org in orgs.values():
            await self._shared.publisher.withdraw(org)
            if self._is_polled(collector.label):  # `c` may just have turned out to be this org
                return
            await self._shared.ledger.unload(org)
        collector.let_go()
        log.info("an org is not polled any more", org_id=collector.label)

    def _is_polled(self, org_id: str) -> bool:
        return any(collector.label == org_id for collector in self._collectors.values())

    # -- life

    async def run(self) -> NoReturn:
        """Poll until cancelled; a loop that died of a bug ends all, with its error."""
        try:
            async with asyncio.TaskGroup() as group:
                async with self._applying:
                    self._group = group
                    for collector in self.collectors:
                        self._spawn(collector)
                await asyncio.Event().wait()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        raise AssertionError("an event that nobody sets was set")

    def _spawn(self, collector: Collector) -> None:
        if self._group is not None:
            task = self._group.create_task(self._live(collector), name=collector.label)
            self._tasks[collector.target.id] = task

    async def _live(self, collector: Collector) -> None:
        # `c` first: until it is known which org that is, another target could take its runs.
        alias = self._collectors.get(_ALIAS)
        if alias is not None and alias is not collector and alias.label == _ALIAS:
            with suppress(TimeoutError):
                await asyncio.wait_for(alias.first_attempt.wait(), _ALIAS_PATIENCE_SECONDS)
        try:
            await collector.run()
        except SupersededError as error:
            self._supersede(collector, str(error))
