"""Looks for the sub-orgs of one org, beside its polls, and notes what its listing tells.

Only what is sure takes an org away: one that was listed before is gone when two whole listings,
one directly after the other, don't name it. A listing that breaks off changes nothing. One that
may lack somebody (rows that can't be read, fewer than its count says, a change meanwhile) adds
whom it names, and withdraws nobody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import msgspec

from invent_exporter.api.orgs import MAX_SUB_ORGS
from invent_exporter.errors import ApiError, StorageError, brief
from invent_exporter.ledger.schema import SubOrgRow
from invent_exporter.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from invent_exporter.api.orgs import SubOrg
    from invent_exporter.collector.target import Shared, Target

_READINGS = 3
_FIRST_RETRY_SECONDS = 30.0
"""After a look that failed; twice as long after each further one, up to the interval."""
_MOST_DOUBLINGS = 30
_SPREAD = 0.1
"""Parents that began together don't go on together."""

log = get_logger(__package__)


class Discovery:
    """The looks for one org's sub-orgs, as its target wants them."""

    def __init__(
        self, shared: Shared, target: Callable[[], Target], label: Callable[[], str]
    ) -> None:
        """Ask for `target`, which may change, and call it `label` in log and metrics."""
        self.found: int | None = None
        """How many sub-orgs are known; None until a look has succeeded."""
        self.error: str | None = None
        """What was wrong with the last look."""
        self.brief_error: str | None = None
        """The same without what the API said."""
        self.looked_seconds: float | None = None
        """When the last one ended, our time."""
        self.first_look = asyncio.Event()
        """Is set when one has ended, whatever came of it."""
        self._shared = shared
        self._target = target
        self._label = label
        self._changed = asyncio.Event()
        self._failures = 0

    def change(self) -> None:
        """Take note that the target is another one."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Look for sub-orgs until cancelled, while the target wants it."""
        while True:
            self._changed.clear()
            interval = self._target().sub_orgs_interval_seconds
            if interval is None:
                self.found = self.error = self.brief_error = self.looked_seconds = None
                await self._changed.wait()
                continue
            await self.look()
            wait_seconds = interval
            if self._failures:
                doubled = 2.0 ** min(self._failures - 1, _MOST_DOUBLINGS)
                wait_seconds = min(interval, _FIRST_RETRY_SECONDS * doubled)
            wait_seconds *= 1 - _SPREAD * self._shared.clocks.random()
            await self._wait(wait_seconds)

    async def _wait(self, seconds: float) -> None:
        """Wait, or until the target changes."""
        sleep = asyncio.ensure_future(self._shared.clocks.sleep(seconds))
        change = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleep, change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            change.cancel()

    async def look(self) -> None:
        """Look once; whatever goes wrong is said, and leaves what is known."""
        reason = problem = status = None
        try:
            if (doubt := await self._look()) is not None:
                reason, problem = "invalid_response", f"the listing is in doubt: {doubt}"
        except ApiError as error:
            reason, problem, status = error.reason, error.message, error.status
        except StorageError as error:
            reason, problem = "storage", f"the state can't be used: {error}"
        except Exception as error:
            # As a poll, it must outlive its bugs.
            reason, problem = "invalid_response", f"unexpected: {type(error).__name__}: {error}"
            log.exception("a look for sub-orgs met a bug", org_id=self._label())
        self.error = problem
        self.brief_error = None if reason is None else brief(reason, status)
        self.looked_seconds = self._shared.clocks.time()
        if reason is None:
            self._failures = 0
        else:
            self._failures += 1
            self._shared.telemetry.failed_beside_polls(self._label(), reason)
            fields = {"reason": reason, "error": problem, "failed_looks": self._failures}
            log.warning("sub-orgs can't be listed", org_id=self._label(), **fields)
        self.first_look.set()
        self._shared.retarget.set()

    async def _look(self) -> str | None:
        """Read and commit the listing; return why it may lack somebody, if it may."""
        ledger, parent = self._shared.ledger, self._label()
        names = {parent, self._target().id}
        known = {row.org_id for row in (await ledger.sub_orgs()).rows if row.parent in names}
        listed: dict[str, SubOrg] = {}
        whole, is_whole, doubt = 0, False, None
        for _ in range(_READINGS):
            read = await self._shared.sub_orgs.read(self._target().id, self._key, label=parent)
            orgs = {each.org_id: each for each in read.orgs if not self._is_key(each.org_id)}
            listed |= orgs
            doubt = "the id of a sub-org is a key" if len(orgs) < len(read.orgs) else read.doubt
            whole += doubt is None
            is_whole = whole >= (1 if known <= listed.keys() else 2)
            if is_whole:
                break
        if len(listed if is_whole else known | listed.keys()) > MAX_SUB_ORGS:
            raise ApiError("invalid_response", f"more than {MAX_SUB_ORGS} sub-orgs were listed")
        now = self._shared.clocks.time()
        rows = [self._row(parent, now, org) for org in listed.values()]
        await ledger.put_sub_orgs(parent, rows, is_whole=is_whole)
        self._say(known, set(listed), is_whole=is_whole)
        return None if is_whole else doubt or "it changed while it was read"

    def _say(self, known: set[str], listed: set[str], *, is_whole: bool) -> None:
        self.found = len(listed if is_whole else known | listed)
        if new := listed - known:
            log.info("sub-orgs were found", org_id=self._label(), new=len(new), now=self.found)
        if is_whole and (gone := known - listed):
            line = "sub-orgs are listed no longer"
            log.warning(line, org_id=self._label(), gone=len(gone), now=self.found)

    def _row(self, parent: str, now: float, org: SubOrg) -> SubOrgRow:
        hides = org.name is not None and self._is_key(org.name)
        finances = msgspec.structs.asdict(org.finances)
        return SubOrgRow(parent, org.org_id, now, None if hides else org.name, **finances)

    def _is_key(self, text: str) -> bool:
        return self._shared.redactor.holds(text)

    def _key(self) -> str:
        return self._shared.read_key(self._target().key)
