"""The listing of runs as a model in memory, behind the interface of the transport.

It shares nothing with the product but the bytes: rows go out as JSON and are decoded again. Times
are whole or half seconds and credits whole quarters, so that sums are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec

from invent_exporter.api.models import FINAL_STATUSES, OPEN_STATUSES
from invent_exporter.api.transport import Answer
from invent_exporter.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invent_exporter.api.ratelimit import Heartbeat

ORDERS = ("created_desc", "created_asc", "updated_desc", "updated_asc", "mixed")


@dataclass
class Run:
    """One run as the service knows it; `usage` is what the field holds, None for a missing one.

    `unreadable`: its status can't be read. `stumbles`: the service fails for each page that it is
    on. `hidden`: it is on no page. `late`: it, or its last change, did not come to the end of the
    listing where news are looked for.
    """

    run_id: str
    workflow_id: str | None
    origin: str
    status: str
    created: float | None
    started: float | None = None
    ended: float | None = None
    updated: float | None = None
    usage: dict[str, object] | None = None
    org_id: str | None = "org-1"
    error: str | None = None
    version: float | None = None
    unreadable: bool = False
    stumbles: bool = False
    hidden: bool = False
    hidden_at: float = 0.0
    late: bool = False
    changed_at_read: int = 0

    @property
    def is_final(self) -> bool:
        """What the contract says of statuses: an unknown one is final once it has ended."""
        if self.status in OPEN_STATUSES:
            return False
        return self.status in FINAL_STATUSES or self.ended is not None

    def row(self) -> dict[str, object]:
        """Write the run as the endpoint does, with fields in it that nobody reads."""
        row: dict[str, object] = {
            "id": self.run_id,
            "status": None if self.unreadable else self.status,
            "origin": self.origin,
            "created_at": rfc3339(self.created),
            "started_at": rfc3339(self.started),
            "ended_at": rfc3339(self.ended),
            "updated_at": rfc3339(self.updated),
            "org_id": self.org_id,
            "workflow_org_id": self.org_id,
            "workflow_id": self.workflow_id,
            "workflow_version": {"version": 1, "steps": [{"id": "s"}]},
            "result": {"anything": [1, None]},
        }
        if self.usage is not None:
            row["usage"] = {**self.usage, "calls": []}
        if self.error is not None:
            row["error"] = self.error
        if self.version is not None:
            row["version"] = self.version
        return row


def rfc3339(seconds: float | None) -> str | None:
    """Spell a time as the API does."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Service:
    """The runs of one org, and how they are listed.

    `before_read` is called before each page is made, with the number of reads so far: a test may
    change runs there, or raise. It is the transport of `RunsApi`.
    """

    order: str = "created_desc"
    sends_count: bool = True
    sends_take: bool = True
    runs: dict[str, Run] = field(default_factory=dict)
    reads: int = 0
    requests: list[tuple[str, int, int]] = field(default_factory=list)
    before_read: Callable[[int], None] = lambda _reads: None
    refuses_from: int | None = None
    refusal: str = "bad_request"
    counts_to: int | None = None
    """Where the count stops to grow."""
    unknown_filters: frozenset[str] = frozenset()
    failed: int = 0
    sends_date: bool = True
    behind_seconds: float = 0.0
    clock: Callable[[], float] = lambda: 0.0
    """The exporter's; the service's own is behind it by `behind_seconds`."""

    def add(self, run: Run) -> Run:
        """Put a run into the listing."""
        self.runs[run.run_id] = run
        self.changed(run)
        return run

    def changed(self, run: Run) -> None:
        """Note a change of a run: when, and whether it came where news are looked for."""
        run.changed_at_read = self.reads
        keys = [self._key(other) for other in self.runs.values() if other is not run]
        if self.order != "mixed" and any(key > self._key(run) for key in keys):
            run.late = True

    def _key(self, run: Run) -> float:
        return (run.created if self.order.startswith("created") else run.updated) or 0.0

    def listed(self, status: str = "ALL") -> list[Run]:
        """List what the service shows, in its order."""
        shown = [
            run for run in self.runs.values() if not run.hidden and status in {"ALL", run.status}
        ]
        if self.order == "mixed":
            return sorted(shown, key=lambda run: hashlib.sha1(run.run_id.encode()).digest())  # noqa: S324
        if self.order == "workflow":
            return sorted(shown, key=lambda run: (run.workflow_id or "", -(run.created or 0.0)))
        return sorted(
            shown,
            key=lambda run: (self._key(run), run.run_id),
            reverse=self.order.endswith("desc"),
        )

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        key: Callable[[], str],
        _label: str,
        _heartbeat: Heartbeat = lambda _seconds: None,
    ) -> Answer:
        """Answer one request, as `Transport.get` does."""
        assert path.endswith("/workflows/runs")
        assert key()
        self.before_read(self.reads)
        self.reads += 1
        status, page, take = params["status"], int(params["page"]), int(params["take"])
        self.requests.append((status, page, take))
        if status in self.unknown_filters:
            raise failing("bad_request")
        if self.refuses_from is not None and (page - 1) * take >= self.refuses_from:
            raise failing(self.refusal)
        listed = [run for run in self.listed(status) if params["origin"] in {"ALL", run.origin}]
        rows = listed[(page - 1) * take : page * take]
        if any(run.stumbles for run in rows):
            self.failed += 1
            raise failing("server_error")
        headers: dict[str, str] = {}
        if self.sends_take:
            headers |= {"pagination-page": str(page), "pagination-take": str(take)}
        if self.sends_count:
            count = len(listed) if self.counts_to is None else min(len(listed), self.counts_to)
            headers["pagination-count"] = str(count)
        now = self.clock()
        if self.sends_date:
            headers["date"] = formatdate(now - self.behind_seconds, usegmt=True)
        return Answer(200, headers, msgspec.json.encode([run.row() for run in rows]), now)


def failing(reason: str) -> ApiError:
    """Make the error with which a read fails."""
    return ApiError(reason, f"made to fail: {reason}")
