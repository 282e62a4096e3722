"""Scrapes all replicas, round after round, and sees whether two of them ever serve one org.

Scrapes of one round are not made in one moment, so an org may be handed over in between. What
tells a handover from a mistake is the lease: where owner and epoch are the same before and after a
round, that owner alone may have served the org meanwhile; and nobody, where it had none.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import httpx
import psycopg

from tests.process.expected import COMPARED
from tests.process.harness import Labels, Samples, wait_for
from tests.process.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.ha.fleet import Fleet, Replica

_ORG: Final = re.compile(
    r'^(?!invent_poll_errors_total|invent_api_requests_total|#)[^{]+\{[^}]*?\borg_id="([^"]*)"',
    re.MULTILINE,
)
"""A series that is of an org; what the process counted of its own polls goes on without a lease."""
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_PAUSE_SECONDS: Final = 0.2
_TIMEOUT_SECONDS: Final = 3.0
"""Of a scrape of a round; a replica that is frozen answers later than that."""

Leases = dict[str, tuple[int | None, str | None]]
"""Epoch and owner of each lease; no other take has that number, no other process that name."""


class Judge:
    """Tells from what was sighted, and the leases around it, whether an org had a wrong server."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.wrong: list[str] = []
        self._before: Leases = {}
        self._sighted: defaultdict[str, set[str]] = defaultdict(set)
        self._processes: dict[str, str] = {}

    def sight(self, org_id: str, replica: str) -> None:
        """Note that an answer of this replica had series of this org."""
        self._sighted[org_id].add(replica)

    def close(self, leases: Leases) -> None:
        """Judge what was sighted since the last time that the leases were known."""
        for org_id, replicas in self._sighted.items():
            now = leases.get(org_id, (None, None))
            if now != self._before.get(org_id, (None, None)):
                continue  # it changed hands
            epoch, owner = now
            # Whose process an owner is shows in what it serves first.
            may = {self._processes.setdefault(owner, min(replicas))} if owner else set()
            if not replicas <= may:
                self.wrong.append(
                    f"{org_id} was served by {sorted(replicas)}; its lease, epoch {epoch}, "
                    f"was all the time that of {owner} {sorted(may)}"
                )
        self._sighted.clear()
        self._before = leases


def _compared(text: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    """Read the series that are compared with the truth; a real parser takes seconds for all."""
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in COMPARED:
            labels, _, value = rest.rpartition("} ")
            yield (name, frozenset(_LABEL.findall(labels))), float(value)


class Rounds:
    """Scrapes in a thread of its own while it is entered."""

    def __init__(self, fleet: Fleet, database_url: str) -> None:
        """Scrape this fleet; the leases are read straight from the database."""
        self.judge, self.watcher = Judge(), Watcher()
        self.serving: dict[str, set[str]] = {}
        """Which orgs each replica served in the last round."""
        self.pending: set[str] = set()
        """Which replicas were asked, and did not answer yet."""
        self.count = 0
        self.gaps: dict[str, float] = {}
        """The longest time in seconds for which no scrape had an org, since `forget_gaps`."""
        self._seen_at: dict[str, float] = {}
        self._fleet, self._database_url = fleet, database_url
        self._client = httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS)
        self._ends = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End with the round under way."""
        self._ends.set()
        self._thread.join()
        self._client.close()

    @property
    def wrong(self) -> list[str]:
        """What no scraper may ever see: two servers of one org, or a number that goes back."""
        return [*self.judge.wrong, *self.watcher.wrong]

    def wait_for(self, what: str, condition: Callable[[dict[str, set[str]]], object]) -> None:
        """Wait for a round, begun from now on, in which the condition holds."""
        first = self.count + 1

        def holds() -> object:
            assert self._error is None, self._error
            return self.count > first and condition(self.serving)

        try:
            wait_for(what, holds)
        except AssertionError as error:
            orgs = {name: len(served) for name, served in self.serving.items()}
            raise AssertionError(f"{error}\n{orgs}\n{self.wrong}\n{self._fleet.said()}") from error

    def forget_gaps(self) -> None:
        """Measure gaps from now on."""
        self.gaps = {}

    def samples(self) -> Samples:
        """Scrape all that run once more, as one picture; empty when an org moved meanwhile."""
        merged = Samples()
        for replica in self._fleet.running:
            answer = replica.get("/metrics")
            assert answer.status_code == httpx.codes.OK, answer
            compared = dict(_compared(answer.text))
            if merged.keys() & compared.keys():
                return Samples()
            merged.update(compared)
        return merged

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(8) as pool:
                while not self._ends.wait(_PAUSE_SECONDS):
                    self._round(pool)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._error = error

    def _round(self, pool: ThreadPoolExecutor) -> None:
        replicas = self._fleet.running
        serving = {}
        for replica, text in zip(replicas, pool.map(self._ask, replicas), strict=True):
            serving[replica.name] = set(_ORG.findall(text))
            for org_id in serving[replica.name]:
                self.judge.sight(org_id, replica.name)
            self.watcher.take(text)
        self._measure(set().union(*serving.values()) if serving else set())
        leases = self._leases()
        if leases is not None:
            self.judge.close(leases)
        self.serving = serving
        self.count += 1

    def _ask(self, replica: Replica) -> str:
        self.pending.add(replica.name)
        try:
            answer = self._client.get(f"http://127.0.0.1:{replica.port}/metrics")
        except httpx.TransportError:
            return ""  # ended, frozen or not there yet: as Prometheus has it, a scrape that failed
        finally:
            self.pending.discard(replica.name)
        assert answer.status_code == httpx.codes.OK, answer
        return answer.text

    def _measure(self, served: set[str]) -> None:
        now = time.monotonic()
        for org_id in served:
            gap = now - self._seen_at.get(org_id, now)
            self.gaps[org_id] = max(gap, self.gaps.get(org_id, 0.0))
            self._seen_at[org_id] = now

    def _leases(self) -> Leases | None:
        """Read the leases; None when the database does not answer."""
        try:
            with psycopg.connect(self._database_url, connect_timeout=2) as connection:
                rows = connection.execute("SELECT org_id, epoch, owner FROM lease").fetchall()
        except psycopg.Error:
            return None
        return {org_id: (epoch, owner) for org_id, epoch, owner in rows}
