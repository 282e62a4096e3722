"""The listing of a parent's sub-orgs: pages in, orgs and their finances out.

Nothing but the fields is documented: no order, no end, no size of a page. So it is read until a
page that is not full brings all that its count tells, or one brings nobody new; and what may lack
somebody says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from urllib.parse import quote

import msgspec

from invent_exporter.api import cutting
from invent_exporter.api.decoding import describe
from invent_exporter.api.listing import DECODE_IN_THREAD_BYTES, DECODER, number_in
from invent_exporter.api.loose import Fields, Json, Piece, read_label, read_number, read_value
from invent_exporter.api.ratelimit import Heartbeat
from invent_exporter.api.transport import ReadKey, Transport
from invent_exporter.config.values import is_org_id
from invent_exporter.errors import ApiError, BadAnswerError, SpoiledPageError

MAX_SUB_ORGS = 10_000
"""Of one parent. A listing that has more has no end."""
_MAX_PAGES = 1000
_TAKE = 100
_REFUSALS = ("bad_request", "not_found")
"""How an API may answer for a page behind the last."""


class Finances(msgspec.Struct, frozen=True):
    """Credits of one sub-org; None is what could not be read, or does not apply to it."""

    balance_credits: float | None = None
    promo_balance_credits: float | None = None
    spending_cap_credits: float | None = None
    spending_cap_used_credits: float | None = None

    @property
    def shown(self) -> str:
        """What is known of them, for people; empty when nothing is."""
        balance, promo = self.balance_credits, self.promo_balance_credits
        cap, used = self.spending_cap_credits, self.spending_cap_used_credits
        parts = [] if balance is None else [f"balance {balance:,.10g}"]
        parts += [] if promo is None else [f"promotional {promo:,.10g}"]
        if cap is not None:
            parts.append(f"spent {'?' if used is None else f'{used:,.10g}'} of at most {cap:,.10g}")
        return ", ".join(parts)


NO_FINANCES = Finances()


class SubOrg(msgspec.Struct, frozen=True):
    """A sub-org as its parent lists it."""

    org_id: str
    name: str | None
    finances: Finances


class SubOrgs(msgspec.Struct, frozen=True):
    """Those that a listing named, each once; `doubt` says why it may lack some, if it may."""

    orgs: tuple[SubOrg, ...]
    doubt: str | None


class _Page(msgspec.Struct, frozen=True):
    orgs: list[SubOrg]
    rows: int
    """Those that can't be read among them."""


class SubOrgsApi:
    """The endpoint that lists sub-orgs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(
        self,
        parent: str,
        key: ReadKey,
        *,
        label: str | None = None,
        heartbeat: Heartbeat = lambda _seconds: None,
    ) -> SubOrgs:
        """Read the listing to its end.

        `parent` is what the API is asked for (it may be `c`), `label` the `org_id` of the requests'
        metrics where that differs.

        Raises:
            ApiError: a page can't be read, or there is no end.

        """
        path, take = f"/orgs/{quote(parent, safe='')}/orgs", _TAKE
        orgs: dict[str, SubOrg] = {}
        counts: set[int] = set()
        rows = unreadable = 0
        is_short = False
        for number in range(1, _MAX_PAGES + 1):
            query = {"page": str(number), "take": str(take)}
            try:
                answer = await self._transport.get(path, query, key, label or parent, heartbeat)
            except ApiError as error:
                if number == 1 or error.reason not in _REFUSALS:
                    raise
                is_all = is_short or rows in counts
                doubt = None if is_all else f"page {number} is refused"
                return _ended(orgs, doubt or _doubt(rows, unreadable, counts))
            count = number_in(answer.headers, "pagination-count")
            try:
                page = await _decoded(answer.body)
            finally:
                answer.release()
            known, rows = len(orgs), rows + page.rows
            unreadable += page.rows - len(page.orgs)
            orgs |= {each.org_id: each for each in page.orgs}
            # Fewer than were read are no count of all, but of the page: so a full one ends nothing.
            counts |= set() if count is None or count < rows else {count}
            is_short = page.rows < take
            if len(orgs) > MAX_SUB_ORGS:
                break
            if len(orgs) == known or (is_short and count is not None and rows >= count):
                return _ended(orgs, _doubt(rows, unreadable, counts))
            if number == 1 and is_short:
                # All there are; or `take` was cut down in silence, and pages lie elsewhere.
                take = page.rows
        message = f"the listing of sub-orgs has no end: it goes on behind {rows} rows"
        raise ApiError("invalid_response", message)


def _ended(orgs: Mapping[str, SubOrg], doubt: str | None) -> SubOrgs:
    return SubOrgs(tuple(orgs.values()), doubt)


def _doubt(rows: int, unreadable: int, counts: set[int]) -> str | None:
    if unreadable:
        return f"{unreadable} of {rows} sub-orgs can't be read"
    if len(counts) > 1:
        return "it changed while it was read"
    if counts and rows < min(counts):
        return f"it has {rows} sub-orgs, and says that there are {min(counts)}"
    return None


async def _decoded(body: bytes | bytearray) -> _Page:
    if len(body) <= DECODE_IN_THREAD_BYTES:
        return _decode(body)
    return await DECODER.run(partial(_decode, body))


def _decode(body: bytes | bytearray) -> _Page:
    orgs, rows = [], 0
    try:
        # One that is too many says so; the others are not looked at.
        for row in islice(cutting.items(body), MAX_SUB_ORGS + 1):
            rows += 1
            org = _read_org(row)
            orgs += [] if org is None else [org]
    except SpoiledPageError:
        raise BadAnswerError(describe(body)) from None
    return _Page(orgs, rows)


_ROW = Fields("id", "name", "balance", "promo_balance", "spending_cap_used", "billing")
_BILLING = Fields("use_parent_balance", "spending_cap")
_CAP = Fields("enabled", "amount")


def _read_org(row: Piece) -> SubOrg | None:
    """Read a row leniently; None where there is no id that can be asked for."""
    try:
        fields = _ROW.of(row)
    except SpoiledPageError:
        return None
    org_id = read_value(fields.get("id"))
    if not isinstance(org_id, str) or not _can_be_asked_for(org_id):
        return None
    return SubOrg(
        str(org_id), read_label(read_value(fields.get("name"))) or None, _finances(fields)
    )


def _can_be_asked_for(org_id: str) -> bool:
    # `c` is the org of the key. What must be escaped would not be the same id any more.
    return is_org_id(org_id) and org_id != "c" and read_label(org_id) == org_id


def _finances(fields: Mapping[str, Piece]) -> Finances:
    billing = _within(_BILLING, fields.get("billing"))
    cap = _within(_CAP, None if billing is None else billing.get("spending_cap"))
    # Where it can't be read whose balance counts, none is told: a wrong 0 would raise an alarm.
    is_own = billing is not None and _flag(billing.get("use_parent_balance")) is False
    if cap is None or not _flag(cap.get("enabled")):
        cap = {}

    def number(piece: Piece | None) -> float | None:
        return read_number(read_value(piece))

    return Finances(
        balance_credits=number(fields.get("balance")) if is_own else None,
        promo_balance_credits=number(fields.get("promo_balance")),
        spending_cap_credits=number(cap.get("amount")),
        spending_cap_used_credits=number(fields.get("spending_cap_used")),
    )


def _within(names: Fields, piece: Piece | None) -> Mapping[str, Piece] | None:
    """Find members of an object; of one that is missing none are there, None can't be read."""
    try:
        return {} if piece is None else names.of(piece)
    except SpoiledPageError:
        return None


def _flag(piece: Piece | None) -> bool | None:
    """Read true or false, which is what a missing one means; None for what is neither."""
    value: Json = False if piece is None else read_value(piece)
    text = str(value).lower() if isinstance(value, bool | str) else ""
    return {"true": True, "false": False}.get(text)
