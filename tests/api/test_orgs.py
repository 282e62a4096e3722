"""The listing of sub-orgs: whole, in doubt or without end, whatever an API makes of its pages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from invent_exporter.api.listing import DECODE_IN_THREAD_BYTES
from invent_exporter.api.orgs import (
    MAX_SUB_ORGS,
    NO_FINANCES,
    Finances,
    SubOrg,
    SubOrgs,
    SubOrgsApi,
)
from invent_exporter.api.transport import Answer, Transport
from invent_exporter.errors import ApiError

NOW = 1_800_000_000.0
Page = Callable[[int, int], tuple[Sequence[Any], int | None]]
"""Gives the rows of page number so-and-so of `take` rows, and the count of all, if it tells one."""


@dataclass
class Asked:
    """Stands in for the transport, and answers with a test's pages."""

    page: Page
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    released: int = 0

    async def get(self, path: str, params: dict[str, str], *_: object) -> Answer:
        """Answer one request."""
        number, take = int(params["page"]), int(params["take"])
        self.asked.append((path, number, take))
        rows, count = self.page(number, take)
        headers = {} if count is None else {"pagination-count": str(count)}
        return Answer(200, headers, json.dumps(rows).encode(), NOW, self.release)

    def release(self) -> None:
        """Note that an answer was decoded."""
        self.released += 1

    async def read(self, parent: str = "c") -> SubOrgs:
        """Read the listing."""
        api = SubOrgsApi(cast("Transport", self))
        return await api.read(parent, lambda: "key")


def rows_of(count: int, first: int = 0) -> list[dict[str, str]]:
    """Make rows that name an org each."""
    return [{"id": f"org-{number}"} for number in range(first, first + count)]


def paged(
    rows: Sequence[Any], *, says_count: bool = False, most: int = 100, by_take: bool = False
) -> Page:
    """List rows, at most `most` on a page; pages of these, or `by_take` of those asked for."""

    def page(number: int, take: int) -> tuple[Sequence[Any], int | None]:
        real = min(take, most)
        start = (number - 1) * (take if by_take else real)
        return rows[start : start + real], len(rows) if says_count else None

    return page


def ids(listed: SubOrgs) -> list[str]:
    """Name the orgs."""
    return [each.org_id for each in listed.orgs]


@pytest.mark.parametrize("says_count", [True, False], ids=["count", "no_count"])
@pytest.mark.parametrize("by_take", [True, False], ids=["as_asked", "as_given"])
@pytest.mark.parametrize("most", [100, 30, 1, 1000])
@pytest.mark.parametrize("count", [0, 1, 29, 30, 31, 99, 100, 101, 250])
async def test_all_are_read_whatever_the_pages_hold(
    count: int,
    most: int,
    by_take: bool,  # noqa: FBT001
    says_count: bool,  # noqa: FBT001
) -> None:
    """Each once, in order: fewer rows than were asked for don't hide the next page."""
    api = Asked(paged(rows_of(count), says_count=says_count, most=most, by_take=by_take))
    listed = await api.read()
    assert ids(listed) == [row["id"] for row in rows_of(count)]
    assert listed.doubt is None
    assert api.released == len(api.asked)


@pytest.mark.parametrize(
    ("count", "says_count", "requests"),
    [(3, True, 1), (3, False, 2), (100, True, 2), (150, True, 2)],
)
async def test_it_asks_no_more_than_it_needs(count: int, says_count: bool, requests: int) -> None:  # noqa: FBT001
    """With a count the last page is known to be the last; not a full one, which it may count."""
    api = Asked(paged(rows_of(count), says_count=says_count))
    await api.read()
    assert len(api.asked) == requests


async def test_the_path_names_the_parent() -> None:
    """As it is configured, quoted."""
    api = Asked(paged([]))
    await api.read("ä:b")
    assert [path for path, _, _ in api.asked] == ["/orgs/%C3%A4%3Ab/orgs"]


def refusing(rows: Sequence[Any], from_page: int, reason: str, *, status: int) -> Page:
    """List rows, but fail from a page on."""

    def page(number: int, take: int) -> tuple[Sequence[Any], int | None]:
        if number >= from_page:
            raise ApiError(reason, f"HTTP {status}", status=status)
        return paged(rows)(number, take)

    return page


def counting_pages(number: int, take: int) -> tuple[Sequence[Any], int | None]:
    """List rows, and give the number of those of the page for the count of all."""
    rows, _ = paged(rows_of(201))(number, take)
    return rows, len(rows)


def ending_full(number: int, take: int) -> tuple[Sequence[Any], int | None]:
    """List as many rows as the count says, which fill their page, and refuse the next one."""
    return refusing(rows_of(100), 2, "not_found", status=404)(number, take)[0], 100


def shifting(number: int, take: int) -> tuple[Sequence[Any], int | None]:
    """Let an org go before page 2, so that another one slips onto page 1 unseen."""
    rows = rows_of(150) if number == 1 else rows_of(149, 1)
    return paged(rows, says_count=True)(number, take)


DOUBTFUL: dict[str, tuple[Page, list[str], str | None]] = {
    "the same page again and again": (
        lambda *_: (rows_of(5), None),
        [f"org-{number}" for number in range(5)],
        None,
    ),
    "take is ignored, and the page is": (
        lambda *_: (rows_of(150), None),
        [f"org-{number}" for number in range(150)],
        None,
    ),
    "duplicates on a page and over pages": (
        paged([*rows_of(60), *rows_of(60), *rows_of(60)]),
        [f"org-{number}" for number in range(60)],
        None,
    ),
    "a page behind the last is refused": (
        refusing(rows_of(3), 2, "not_found", status=404),
        ["org-0", "org-1", "org-2"],
        None,
    ),
    "a page is refused that others may be on": (
        refusing(rows_of(250), 2, "bad_request", status=400),
        [f"org-{number}" for number in range(100)],
        "page 2 is refused",
    ),
    "its count is that of each page": (
        counting_pages,
        [f"org-{number}" for number in range(201)],
        None,
    ),
    "a page is refused behind as many as it counts": (
        ending_full,
        [f"org-{number}" for number in range(100)],
        None,
    ),
    "it changes between two pages": (
        shifting,
        [*(f"org-{number}" for number in range(100)), *(f"org-{n}" for n in range(101, 150))],
        "it changed while it was read",
    ),
    "fewer than it says": (
        lambda number, _: (rows_of(3) if number == 1 else [], 7),
        ["org-0", "org-1", "org-2"],
        "it has 3 sub-orgs, and says that there are 7",
    ),
    "rows without an id that can be asked for": (
        paged(
            [
                *({"id": "org-1"}, {"id": None}, {}, None, 5, "org-2", [], {"id": {"a": 1}}),
                *({"id": ""}, {"id": "c"}, {"id": "."}, {"id": ".."}, {"id": "a/b"}),
                *({"id": "a b"}, {"id": "a?b"}, {"id": "a\\b"}, {"id": "a\0b"}, {"id": "x" * 257}),
                *({"id": "\ud800"}, {"id": 17}, {"id": True}, {"id": "x" * 256}, {"id": "größe"}),
            ]
        ),
        ["org-1", "17", "x" * 256, "größe"],
        "19 of 23 sub-orgs can't be read",
    ),
}


@pytest.mark.parametrize("case", DOUBTFUL)
async def test_odd_listings_end_and_say_when_they_may_lack_somebody(case: str) -> None:
    """Who is named is known; whether nobody else is there depends."""
    page, expected, doubt = DOUBTFUL[case]
    listed = await Asked(page).read()
    assert ids(listed) == expected
    assert listed.doubt == doubt


def breaking(body: bytes) -> Page:
    """Answer page 2 with something else."""

    def page(number: int, take: int) -> tuple[Sequence[Any], int | None]:
        if number == 2:
            raise ApiError("network", body.decode())
        return paged(rows_of(250))(number, take)

    return page


NO_END: dict[str, Page] = {
    "new orgs on each page": lambda number, take: (rows_of(take, number * take), None),
    "new orgs on each page, one at a time": lambda number, _: (rows_of(1, number), None),
    "a count that is never reached": lambda number, take: (rows_of(take, number * take), 10**12),
    "one page with more than any parent has": lambda *_: (rows_of(MAX_SUB_ORGS + 5), None),
}


@pytest.mark.parametrize("case", NO_END)
async def test_a_listing_without_end_is_broken_off(case: str) -> None:
    """Bounded in rows and requests."""
    api = Asked(NO_END[case])
    with pytest.raises(ApiError, match="has no end: it goes on behind") as caught:
        await api.read()
    assert caught.value.reason == "invalid_response"
    assert len(api.asked) <= 1000


async def test_as_many_as_may_be_are_read() -> None:
    """The bound is one, and no one less."""
    listed = await Asked(paged(rows_of(MAX_SUB_ORGS), says_count=True)).read()
    assert len(listed.orgs) == MAX_SUB_ORGS
    assert listed.doubt is None


@pytest.mark.parametrize("reason", ["unauthorized", "forbidden", "not_found", "timeout"])
async def test_a_first_page_that_fails_fails_the_listing(reason: str) -> None:
    """A parent that is not found has no sub-orgs that could be told."""
    with pytest.raises(ApiError) as caught:
        await Asked(refusing([], 1, reason, status=400)).read()
    assert caught.value.reason == reason


async def test_a_listing_that_is_cut_off_in_the_middle_fails() -> None:
    """What page 1 said is nothing alone."""
    with pytest.raises(ApiError) as caught:
        await Asked(breaking(b"reset")).read()
    assert caught.value.reason == "network"


class Bytes:
    """Stands in for a transport that has these bytes, whatever is asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def get(self, *_: object) -> Answer:
        """Answer with them."""
        return Answer(200, {"pagination-count": "1"}, self.body, NOW)


async def read_bytes(body: bytes) -> SubOrgs:
    """Read a listing of one page."""
    return await SubOrgsApi(cast("Transport", Bytes(body))).read("c", lambda: "key")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{}", b'{"data":[]}', b"<html></html>", b"null", b"[", b'[{"id":"org-1"}'),
        *(b'[{"id":"org-1"},', b'[{"id":"org', b"[" * 100_000, b"\xff\xfe", b"[]]", b'["a" "b"]'),
    ],
)
async def test_what_is_no_listing_is_an_invalid_response(body: bytes) -> None:
    """Cut off, or never one."""
    with pytest.raises(ApiError) as caught:
        await read_bytes(body)
    assert caught.value.reason == "invalid_response"


READINGS: list[tuple[str, Finances]] = [
    ("{}", NO_FINANCES),
    ('{"balance":0,"promo_balance":0,"spending_cap_used":0}', Finances(0.0, 0.0, None, 0.0)),
    (
        '{"balance":"12.5","promo_balance":" 3 ","spending_cap_used":-1}',
        Finances(12.5, 3, None, -1),
    ),
    ('{"balance":-7.25}', Finances(-7.25)),
    ('{"balance":null,"promo_balance":"much","spending_cap_used":{}}', NO_FINANCES),
    ('{"balance":NaN,"promo_balance":Infinity,"spending_cap_used":1e400}', NO_FINANCES),
    ('{"balance":true,"promo_balance":[5],"spending_cap_used":"1e13"}', NO_FINANCES),
    ('{"balance":5,"billing":null}', Finances(5.0)),
    ('{"balance":5,"billing":{"use_parent_balance":false}}', Finances(5.0)),
    ('{"balance":5,"billing":{"use_parent_balance":null}}', Finances(5.0)),
    ('{"balance":5,"promo_balance":1,"billing":{"use_parent_balance":true}}', Finances(None, 1.0)),
    ('{"balance":5,"billing":{"use_parent_balance":"True"}}', NO_FINANCES),
    ('{"balance":5,"billing":{"use_parent_balance":"perhaps"}}', NO_FINANCES),
    ('{"balance":5,"billing":"own"}', NO_FINANCES),
    (
        '{"billing":{"spending_cap":{"enabled":true,"amount":0}}}',
        Finances(spending_cap_credits=0.0),
    ),
    (
        '{"billing":{"spending_cap":{"enabled":"true","amount":"9"}}}',
        Finances(spending_cap_credits=9),
    ),
    ('{"billing":{"spending_cap":{"enabled":false,"amount":9}}}', NO_FINANCES),
    ('{"billing":{"spending_cap":{"amount":9}}}', NO_FINANCES),
    ('{"billing":{"spending_cap":{"enabled":1,"amount":9}}}', NO_FINANCES),
    ('{"billing":{"spending_cap":{"enabled":true,"amount":"?"}}}', NO_FINANCES),
    ('{"billing":{"spending_cap":[true,9]},"balance":1}', Finances(1.0)),
]


@pytest.mark.parametrize(("fields", "expected"), READINGS)
async def test_finances_that_can_not_be_read_are_unknown_and_0_is_not(
    fields: str, expected: Finances
) -> None:
    """The cap counts only where it is enabled, the balance only where it is the org's own."""
    rest = "}" if fields == "{}" else f",{fields[1:]}"
    listed = await read_bytes(f'[{{"id":"org-1"{rest}]'.encode())
    assert listed == SubOrgs((SubOrg("org-1", None, expected),), None)
    values = [getattr(expected, name) for name in expected.__struct_fields__]
    assert all(value is None or math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('"Acme"', "Acme"),
        ("17.50", "17.50"),
        ('""', None),
        ("null", None),
        ("[]", None),
        (json.dumps("x" * 256), "x" * 256),
        (json.dumps("x" * 257), None),
        (r'"a\u0000b\nc"', r"a\x00b\x0ac"),
        (r'"\ud800"', r"\ud800"),
        ('"<b>"', "<b>"),
    ],
)
async def test_names_become_labels_as_ids_of_workflows_do(name: str, expected: str | None) -> None:
    """Escaped, numbers as they are written; what is too long is none."""
    (org,) = (await read_bytes(b'[{"id":"org-1","name":' + name.encode() + b"}]")).orgs
    assert org.name == expected


async def test_a_large_page_is_decoded_beside_the_event_loop() -> None:
    """With fields that nobody reads, however long and odd they are."""
    odd = b'{"x":"' + b"y" * DECODE_IN_THREAD_BYTES + b'","z":[[[[NaN]]]],"id":"org-1","balance":3}'
    assert (await read_bytes(b"[" + odd + b"]")).orgs == (SubOrg("org-1", None, Finances(3.0)),)


@pytest.mark.parametrize(
    ("finances", "shown"),
    [
        (NO_FINANCES, ""),
        (Finances(1800.0, 0.1 + 0.2, 50_000.0, 340.0), None),
        (Finances(None, None, 10.0, None), "spent ? of at most 10"),
        (Finances(spending_cap_used_credits=3.0), ""),
    ],
)
def test_finances_are_shown_in_words(finances: Finances, shown: str | None) -> None:
    """Only what is known; what is used says nothing without a cap."""
    expected = "balance 1,800, promotional 0.3, spent 340 of at most 50,000"
    assert finances.shown == (expected if shown is None else shown)
