"""Which of the targets this replica polls and serves, where several share a database.

Between `Targets`, which are the same for all replicas, and `Supervisor.apply`: what this replica
holds a lease of goes through. What is lost or handed over is withdrawn first; only then may it be
served by another (`release`), or the rest be served on (`Standing.renewed`). docs/replicas.md.
"""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

from invent_exporter.collector.status import OrgElsewhere
from invent_exporter.errors import StorageError
from invent_exporter.ledger.heartbeat import shown_name
from invent_exporter.ledger.lease import RENEWALS, Heard, Standing, to_hand_over
from invent_exporter.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from invent_exporter.collector.supervisor import Supervisor
    from invent_exporter.collector.target import Target
    from invent_exporter.ledger.heartbeat import Leases
    from invent_exporter.telemetry import Telemetry

_NAMED_ORGS = 5
_LEAVE_SECONDS = 1.5
"""A stop waits so long for the database; leases that it does not release run out."""

_T = TypeVar("_T")

log = get_logger(__package__)


class Ownership:
    """What this replica holds; the heartbeat that keeps it."""

    def __init__(
        self,
        leases: Leases,
        supervisor: Supervisor,
        telemetry: Telemetry,
        *,
        lease_seconds: float,
        clock: Callable[[], float],
        serve_until: Callable[[float], None],
        on_listed: Callable[[], None],
    ) -> None:
        """Hold nothing until `apply`; `clock` goes on while this machine sleeps.

        `serve_until` is told up to which time of `clock` an answer with series of the held orgs may
        begin, `on_listed` that another replica may have noted other sub-orgs.
        """
        self.elsewhere: Sequence[OrgElsewhere] = ()
        self._leases = leases
        self._supervisor = supervisor
        self._telemetry = telemetry
        self._beat_seconds = lease_seconds / RENEWALS
        self._clock = clock
        self._serve_until = serve_until
        self._on_listed = on_listed
        self._standing = Standing(lease_seconds)
        self._targets: dict[str, Target] = {}
        self._heard: Heard | None = None
        self._failed_since: float | None = None
        self._beating = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "leases")

    @property
    def may_serve(self) -> bool:
        """Tell whether an answer that begins now may have series of the orgs that are held."""
        return self._clock() < self._standing.serving_until

    @property
    def serving(self) -> int:
        """How many orgs are served."""
        return len(self._standing.held) if self.may_serve else 0

    # -- what is wanted

    async def apply(self, targets: Sequence[Target]) -> None:
        """Poll what is held of these, all replicas together all of them.

        Raises:
            StorageError: before `run`: no lease can be had.

        """
        self._targets = {target.id: target for target in targets}
        is_first = self._heard is None
        try:
            await self._beat()
        except StorageError:
            if is_first:
                raise
        await self._settle()

    # -- the heartbeat

    async def run(self) -> None:
        """Keep what is held, and the shares even, until cancelled."""
        await asyncio.gather(self.settle_changes(), self._keep_beating())

    async def _keep_beating(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._beat_seconds)
            await self.beat()

    async def beat(self) -> None:
        """Renew what is held; when that fails, say so, and for how long it is served."""
        try:
            await self._beat()
        except StorageError as error:
            self._say_failed(error)

    async def _beat(self) -> None:
        async with self._beating:
            heard = await self._in_thread(self._leases.beat, tuple(self._targets))
            await self._learn(heard)

    async def _learn(self, heard: Heard) -> None:
        standing = self._standing
        before, known = standing.held, self._heard
        if lost := standing.lost(heard.mine):
            self._say_lost([before[epoch] for epoch in lost], heard)
            standing.keep_only(heard.mine)
            await self._settle()
        was_out = known is not None and not self.may_serve
        standing.renewed(heard)
        self._serve_until(standing.serving_until)
        self._heard = heard
        me, wanted = self._leases.name, tuple(dict.fromkeys(heard.keys.values()))
        surplus = {*to_hand_over(me, wanted, heard.owners, heard.replicas)}
        surplus |= {*heard.mine.values()} - {*wanted}
        standing.given_up |= {epoch for epoch, key in standing.held.items() if key in surplus}
        self._note_others(heard, wanted)
        self._say_changes(before, standing.held, was_out=was_out)
        if standing.held != before or standing.given_up:
            self._changed.set()
        if known is not None and known.listed != heard.listed:
            self._on_listed()

    def _note_others(self, heard: Heard, wanted: Iterable[str]) -> None:
        """Tell who serves the others, and until when what ended is not theirs."""
        held = {*self._standing.held.values()}
        others = [key for key in wanted if key not in held]
        self.elsewhere = [
            OrgElsewhere(key, shown_name(heard.owners.get(key, "")) or None) for key in others
        ]
        self._supervisor.elsewhere = {
            key: heard.history_until[key] for key in others if key in heard.history_until
        }

    # -- what follows

    async def settle_changes(self) -> NoReturn:
        """Do what heartbeats decided, beside them, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._settle()

    async def _settle(self) -> None:
        """Poll what is held, and no more; then let others have what is given up."""
        async with self._changing:
            held = {key: epoch for epoch, key in self._standing.held.items()}
            given_up = tuple(self._standing.given_up)
            keys = {} if self._heard is None else self._heard.keys
            targets: dict[str, Target] = {}
            for target in self._targets.values():
                key = keys.get(target.id)
                if key in held:  # of two that are one org the earlier one
                    targets.setdefault(key, replace(target, lease=held[key]))
            await self._supervisor.apply(targets.values())
            if given_up:
                try:
                    await self._in_thread(self._leases.release, given_up)
                except StorageError as error:  # the next heartbeat that succeeds leads here again
                    log.warning("leases can't be released yet", error=str(error))

    async def leave(self) -> None:
        """Let others take all at once; polls have ended, and nothing is served from now on."""
        self._standing.serving_until = -math.inf
        self._serve_until(-math.inf)
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._in_thread(self._leases.leave)
            log.info("all orgs were handed over", orgs=len(self._standing.held))
        except (StorageError, TimeoutError) as error:
            why = str(error) or "the database does not answer"
            log.warning("leases can't be released; they run out", error=why)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    # -- for people

    def _say_failed(self, error: StorageError) -> None:
        now = self._clock()
        if self._failed_since is None:
            self._failed_since = now
            left = round(max(0.0, self._standing.serving_until - now), 1)
            line = "leases can't be renewed; without that no org is served soon"
            log.warning(line, error=str(error), seconds_left=left)
        elif not self.may_serve:
            line = "leases ran out: no org is served until the database answers"
            log.error(line, error=str(error), orgs=len(self._standing.held))

    def _say_lost(self, keys: Sequence[str], heard: Heard) -> None:
        taken = [key for key in keys if heard.owners.get(key) != self._leases.name]
        if taken:
            self._telemetry.leases_lost(len(taken))
            line = "leases were lost: other replicas took these orgs over"
            log.warning(line, **_named(taken))

    def _say_changes(
        self, before: Mapping[int, str], held: Mapping[int, str], *, was_out: bool
    ) -> None:
        if self._failed_since is not None:
            after_seconds = round(self._clock() - self._failed_since, 1)
            log.info("leases are renewed again", after_seconds=after_seconds)
        elif was_out:
            log.warning("this process stood still until its leases had run out", orgs=len(before))
        self._failed_since = None
        if new := [key for epoch, key in held.items() if epoch not in before]:
            log.info("orgs are served here from now on", **_named(new), now=len(held))
        if gone := [before[epoch] for epoch in before.keys() & self._standing.given_up]:
            log.info("orgs are handed over", **_named(gone), now=len(held))


def _named(keys: Sequence[str]) -> dict[str, object]:
    more = "" if len(keys) <= _NAMED_ORGS else ", ..."
    return {"orgs": len(keys), "org_ids": ", ".join(sorted(keys)[:_NAMED_ORGS]) + more}
