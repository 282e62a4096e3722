"""The simulated service: a request in, an answer out. No sockets, so it can be called directly."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

import msgspec

from invent_exporter.simulator.faults import (
    Answer,
    Faults,
    apply_fault,
    error_answer,
    rate_limited,
)
from invent_exporter.simulator.listing import (
    BadParameterError,
    Order,
    Query,
    read_query,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from invent_exporter.simulator.orgs import Org
    from invent_exporter.simulator.world import World

KEPT_REQUESTS = 100_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the service."""

    method: str = "GET"
    path: str
    query: dict[str, str] = {}
    authorization: str | None = None
    client: str = "127.0.0.1"


class SeenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it is remembered. Without an authorization that is right, `org` is None."""

    at: float
    method: str
    path: str
    query: dict[str, str]
    status: int
    authorized: bool
    org: str | None
    fault: str | None


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the service behaves; may be changed while it runs."""

    order: Order = "created"
    deals_ties: bool = False
    """Whether runs whose sort keys are equal stand in another order at each request."""
    count: bool = True
    """Whether answers carry pagination-count, -page and -take."""
    rows_listed: int | None = None
    """Pages that begin behind so many rows are refused with 400; None: none is."""
    rate_limit_per_minute: int | None = 500
    """Requests a minute for each client address, as the service documents; None: no limit."""
    rate_limit_retry_after: str = "none"
    """As in `Fault.retry_after`."""


class Service:
    """The endpoints over one world, with its faults and its memory of the requests."""

    def __init__(
        self, world: World, faults: Faults | None = None, settings: Settings | None = None
    ) -> None:
        """Serve `world`, without faults and with the default settings unless they are given."""
        self.world = world
        self.faults = Faults(world.seed) if faults is None else faults
        self.settings = Settings() if settings is None else settings
        self.requests: deque[SeenRequest] = deque(maxlen=KEPT_REQUESTS)
        self.request_count = 0
        self.before_answer: Callable[[Request], None] | None = None
        """For tests: called before each answer is made, to change the world between two pages."""
        self._recent: dict[str, deque[float]] = {}
        self._deal = Random(f"{world.seed}:ties")

    def handle(self, request: Request) -> Answer:
        """Answer a request to the API, and remember it."""
        with self.world.lock:
            self.world.advance()
            if self.before_answer is not None:
                self.before_answer(request)
            now = self.world.clock()
            key_org = self._key_org(request)
            org = None if key_org is None else self._asked_org(request, key_org)
            fault = None
            if self._is_over_limit(request.client, now):
                answer = self._limited(request.client, now)
            else:
                answer = self._answer(request, key_org, org)
                fault = self.faults.pick(
                    None if org is None else org.id, request.path, request.query, now
                )
                if fault is not None:
                    answer = apply_fault(fault, answer, now)
            self.request_count += 1
            self.requests.append(
                SeenRequest(
                    at=now,
                    method=request.method,
                    path=request.path,
                    query=request.query,
                    status=answer.status,
                    authorized=key_org is not None,
                    org=None if org is None else org.id,
                    fault=None if fault is None else fault.kind,
                )
            )
            return answer

    def forget_requests(self) -> None:
        """Start the memory of requests anew."""
        with self.world.lock:
            self.requests.clear()
            self.request_count = 0

    def _key_org(self, request: Request) -> Org | None:
        scheme, _, key = (request.authorization or "").partition(" ")
        return self.world.org_of_key(key) if scheme.lower() == "bearer" else None

    def _asked_org(self, request: Request, key_org: Org) -> Org | None:
        """Find the org that the path names, among those that the key may read."""
        parts = request.path.split("/")
        org_id = parts[2] if len(parts) > 2 and parts[1] == "orgs" else None  # noqa: PLR2004
        if org_id in ("c", key_org.id):
            return key_org
        org = self.world.find_org(org_id or "")
        return org if org is not None and org.parent == key_org.id else None

    def _answer(self, request: Request, key_org: Org | None, org: Org | None) -> Answer:
        if key_org is None:
            return error_answer(401, "missing or wrong key")
        rest = request.path.split("/")[3:]
        if org is None or rest not in (["workflows", "runs"], ["orgs"]):
            return error_answer(404, "not found")
        if request.method != "GET":
            return error_answer(405, "method not allowed")
        try:
            query = read_query(request.query)
        except BadParameterError as error:
            return error_answer(400, str(error))
        return self._runs(org, query) if rest[0] == "workflows" else self._sub_orgs(org, query)

    def _runs(self, org: Org, query: Query) -> Answer:
        if self.settings.rows_listed is not None and (
            (query.page - 1) * query.take >= self.settings.rows_listed
        ):
            return error_answer(400, "page is out of range")
        deal = self._deal if self.settings.deals_ties else None
        runs, total = self.world.page(org.id, query, self.settings.order, deal)
        body = b",".join(b"".join(run.json()) for run in runs)
        return self._page(b"[" + body + b"]", query, total)

    def _sub_orgs(self, org: Org, query: Query) -> Answer:
        subs = [sub for sub in self.world.orgs if sub.parent == org.id]
        first = (query.page - 1) * query.take
        body = msgspec.json.encode([*map(_sub_org, subs[first : first + query.take])])
        return self._page(body, query, len(subs))

    def _page(self, body: bytes, query: Query, total: int) -> Answer:
        headers = [("content-type", "application/json; charset=utf-8")]
        if self.settings.count:
            headers += [
                ("pagination-count", str(total)),
                ("pagination-page", str(query.page)),
                ("pagination-take", str(query.take)),
            ]
        return Answer(headers=tuple(headers), body=body)

    def _is_over_limit(self, client: str, now: float) -> bool:
        limit = self.settings.rate_limit_per_minute
        if limit is None:
            return False
        recent = self._recent.setdefault(client, deque())
        while recent and recent[0] <= now - 60.0:
            recent.popleft()
        if len(recent) >= limit:
            return True
        recent.append(now)
        return False

    def _limited(self, client: str, now: float) -> Answer:
        wait_seconds = self._recent[client][0] + 60.0 - now
        return rate_limited(self.settings.rate_limit_retry_after, wait_seconds + 1.0, now)


def _sub_org(org: Org) -> dict[str, object]:
    cap = {"enabled": org.spending_cap is not None, "amount": org.spending_cap or 0.0}
    return {
        "id": org.id,
        "name": org.name,
        "plan": org.plan,
        "balance": org.balance,
        "promo_balance": org.promo_balance,
        "spending_cap_used": org.spending_cap_used,
        "billing": {"use_parent_balance": org.use_parent_balance, "spending_cap": cap},
    }
