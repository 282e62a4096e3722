"""The listing by offset: no row is lost or misplaced, whatever page sizes it takes to read it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from invent_exporter.api.budget import POOL_BYTES
from invent_exporter.api.decoding import DecodedPage, decode_page
from invent_exporter.api.listing import Chunk, Listing, RunsApi
from invent_exporter.api.page_size import PageSize
from invent_exporter.api.transport import Answer, Transport
from invent_exporter.clocks import SystemClocks
from invent_exporter.config.load import ApiConfig
from invent_exporter.errors import ApiError, TooLargeError
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry
from tests.raw_server import RawServer, always, answer

GOOD, SPOILED, UNREADABLE = "good", "spoiled", "unreadable"


def row_of(number: int, kind: str = GOOD) -> bytes:
    """Write a row: readable, one that spoils its page, or one that is invalid alone."""
    status = b"null" if kind == UNREADABLE else b'"COMPLETED"'
    outputs = b'"' if kind == SPOILED else b""
    return b'{"id":"%d","status":%s,"outputs":"%s"}' % (number, status, outputs)


NOW = 1_800_000_000.0


@dataclass
class FakeApi:
    """A listing in memory that pages as the service does."""

    kinds: list[str]
    server_maximum: int = 100
    says_take: bool = True
    says_count: bool = True
    too_large_rows: int | None = None
    timeouts: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def fetch(self, page: int, take: int) -> Answer:
        """Answer for one page."""
        self.asked.append((page, take))
        if self.timeouts > 0:
            self.timeouts -= 1
            raise ApiError("timeout", "too slow")
        real_take = min(take, self.server_maximum)
        first = (page - 1) * real_take
        kinds = self.kinds[first : first + real_take]
        rows = [row_of(first + index, kind) for index, kind in enumerate(kinds)]
        if self.too_large_rows is not None and len(rows) > self.too_large_rows:
            raise TooLargeError(1000, b"[", 200)
        headers = {}
        if self.says_count:
            headers["pagination-count"] = str(len(self.kinds))
        if self.says_take:
            headers["pagination-take"] = str(real_take)
        return Answer(200, headers, b"[" + b",".join(rows) + b"]", NOW)


@dataclass
class Always:
    """An endpoint that gives the same answer, or fails in the same way, whatever it is asked."""

    what: bytes | ApiError
    headers: dict[str, str] = field(default_factory=dict)
    takes: list[int] = field(default_factory=list)

    async def fetch(self, _page: int, take: int) -> Answer:
        """Answer for one page."""
        self.takes.append(take)
        if isinstance(self.what, ApiError):
            raise self.what
        return Answer(200, self.headers, self.what, NOW)


def read(listing: Listing, offset: int = 0, *, forward: bool = True) -> Chunk:
    """Read the page with the row at an offset."""
    return asyncio.run(listing.read(offset, forward=forward))


def walk(listing: Listing, offset: int = 0) -> list[Chunk]:
    """Read from an offset to the end."""
    chunks = []
    while True:
        chunk = read(listing, offset)
        chunks.append(chunk)
        if chunk.at_end:
            return chunks
        assert chunk.start <= offset < chunk.end
        offset = chunk.end


def assert_exact(chunks: list[Chunk], kinds: list[str], first: int = 0) -> None:
    """Each row came from where its chunk says, none is missing, each bad one is there once."""
    seen: set[int] = set()
    for chunk in chunks:
        numbers = {int(run.id) for run in chunk.runs}
        assert numbers <= set(range(chunk.start, chunk.end))
        assert len(chunk.runs) + len(chunk.invalid) == chunk.end - chunk.start
        seen |= numbers
    readable = {number for number, kind in enumerate(kinds) if kind == GOOD}
    assert {number for number in seen if number >= first} == {n for n in readable if n >= first}
    bad_rows = [bad for chunk in chunks for bad in chunk.invalid]
    spoiled = [bad.run_id for bad in bad_rows if bad.reason in ("undecodable", "too_large")]
    assert len(spoiled) == len(set(spoiled)) == kinds[first:].count(SPOILED)
    named = {int(bad.run_id) for bad in bad_rows if bad.run_id is not None}
    invalid = {number for number, kind in enumerate(kinds) if kind != GOOD}
    assert {number for number in named if number >= first} == {n for n in invalid if n >= first}


KINDS = st.lists(st.sampled_from([GOOD] * 8 + [SPOILED, UNREADABLE]), max_size=260)


@settings(max_examples=100, deadline=None)
@given(
    kinds=KINDS,
    maximum=st.integers(1, 100),
    server_maximum=st.integers(1, 100),
    says=st.sampled_from(["count", "take", "both"]),
    first=st.integers(0, 300),
    too_large_rows=st.none() | st.integers(1, 100),
    timeouts=st.integers(0, 2),
)
def test_a_walk_yields_every_row_once_in_its_place(
    *,
    kinds: list[str],
    maximum: int,
    server_maximum: int,
    says: str,
    first: int,
    too_large_rows: int | None,
    timeouts: int,
) -> None:
    """From anywhere, whatever spoils pages, cuts `take` down (silently), is too large or slow."""
    api = FakeApi(
        kinds,
        server_maximum,
        says_count=says != "take",
        says_take=says != "count",
        too_large_rows=too_large_rows,
        timeouts=timeouts,
    )
    chunks = walk(Listing(api.fetch, PageSize(maximum)), min(first, len(kinds)))
    assert_exact(chunks, kinds, min(first, len(kinds)))
    assert {chunk.count for chunk in chunks} == {None if says == "take" else len(kinds)}


def test_a_last_page_is_doubted_only_once_where_no_header_speaks() -> None:
    """A new process meets an ascending listing at its short end, and then stays at one request."""
    api = FakeApi([GOOD] * 1280, says_take=False, says_count=False)
    size = PageSize(100)
    costs = []
    for _ in range(3):
        before = len(api.asked)
        chunk = read(Listing(api.fetch, size), 1279)
        assert chunk.at_end
        costs.append(len(api.asked) - before)
    assert costs == [2, 1, 1]


def test_a_page_that_is_cut_in_silence_is_doubted_each_time() -> None:
    """Its rows are others than those that were asked for."""
    api = FakeApi([GOOD] * 1280, server_maximum=7, says_take=False, says_count=False)
    size = PageSize(100)
    for _ in range(3):
        chunk = read(Listing(api.fetch, size), 1000)
        assert [int(run.id) for run in chunk.runs] == list(range(chunk.start, chunk.end))
        assert chunk.start <= 1000 < chunk.end


@settings(max_examples=60, deadline=None)
@given(kinds=KINDS.filter(bool), maximum=st.integers(1, 100), data=st.data())
def test_any_offset_can_be_read_in_any_order(
    kinds: list[str], maximum: int, data: st.DataObject
) -> None:
    """A scan may start in the middle and go back: the page holds the row that was asked for."""
    listing = Listing(FakeApi(kinds).fetch, PageSize(maximum))
    offsets = data.draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=6))

    for offset in offsets:
        chunk = read(listing, offset)
        assert chunk.start <= offset < chunk.end
        numbers = {int(run.id) for run in chunk.runs}
        bad = {int(bad.run_id) for bad in chunk.invalid if bad.run_id is not None}
        assert numbers == {
            n for n in range(chunk.start, chunk.end) if n < len(kinds) and kinds[n] == GOOD
        }
        assert (offset in numbers) == (kinds[offset] == GOOD)
        assert (offset in bad) == (kinds[offset] != GOOD)


def test_an_idle_listing_is_one_request() -> None:
    """A short page that the count confirms is the end."""
    api = FakeApi([GOOD] * 30)
    chunks = walk(Listing(api.fetch, PageSize(100)))
    assert api.asked == [(1, 100)]
    assert [(chunk.start, chunk.end, chunk.count) for chunk in chunks] == [(0, 30, 30)]


@pytest.mark.parametrize("says_count", [True, False])
def test_a_full_page_is_not_the_end_until_another_read_says_so(
    says_count: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The count may be old by the time the page comes."""
    api = FakeApi([GOOD] * 20, says_count=says_count)
    listing = Listing(api.fetch, PageSize(20))
    assert not read(listing, 0).at_end
    assert read(listing, 20).at_end


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(30, 400), maximum=st.integers(12, 100), data=st.data())
def test_a_page_holds_the_neighbour_of_the_row_that_was_asked_for(
    rows: int, maximum: int, data: st.DataObject
) -> None:
    """The neighbour says whether rows moved since the page before was read."""
    offset = data.draw(st.integers(1, rows - 2))
    listing = Listing(FakeApi([GOOD] * rows).fetch, PageSize(maximum))
    chunk = read(listing, offset)
    assert chunk.start < offset < chunk.end
    chunk = read(listing, offset, forward=False)
    assert chunk.start <= offset < chunk.end - 1


def test_one_spoiled_row_costs_few_requests() -> None:
    """Halving finds it in about twice log2(100), and large pages come back behind it."""
    kinds = [GOOD] * 300
    kinds[99] = SPOILED
    api = FakeApi(kinds)
    assert_exact(walk(Listing(api.fetch, PageSize(100))), kinds)
    assert len(api.asked) <= 22
    assert max(take for _, take in api.asked[-3:]) > 64


def test_rows_that_are_all_spoiled_cost_one_request_each() -> None:
    """One workflow may spoil each of its runs: searching anew each time would cost hundreds."""
    kinds = [SPOILED] * 100
    api = FakeApi(kinds)
    assert_exact(walk(Listing(api.fetch, PageSize(100))), kinds)
    assert len(api.asked) <= 110


def test_a_row_that_spoils_its_page_is_left_out_under_its_id() -> None:
    """Its content may change with each poll, and it is still the same run."""
    listing = Listing(FakeApi([GOOD, SPOILED, GOOD]).fetch, PageSize(100))
    invalid = [bad for chunk in walk(listing) for bad in chunk.invalid]
    assert [(bad.run_id, bad.reason) for bad in invalid] == [("1", "undecodable")]


def test_a_row_too_large_alone_is_left_out() -> None:
    """It counts as too large, and the walk goes on behind it."""
    api = FakeApi([GOOD] * 3, too_large_rows=0)
    api_chunk = read(Listing(api.fetch, PageSize(4)), 1)
    assert [(bad.run_id, bad.reason) for bad in api_chunk.invalid] == [(None, "too_large")]
    assert (api_chunk.start, api_chunk.end, api_chunk.at_end) == (1, 2, False)


def test_the_same_spoiled_answer_for_every_page_is_an_error() -> None:
    """Else a server that answers with one broken body would be walked for ever."""
    with pytest.raises(ApiError, match="same undecodable body") as caught:
        walk(Listing(Always(b"[{broken]").fetch, PageSize(100)))
    assert caught.value.reason == "invalid_response"


def test_a_server_that_ignores_take_is_an_error() -> None:
    """Where its pages lie can't be known."""
    generous = Always(b"[" + b",".join(row_of(n) for n in range(100)) + b"]").fetch
    with pytest.raises(ApiError, match="asked for 50 rows, got 100"):
        read(Listing(generous, PageSize(50)), 0)


@pytest.mark.parametrize("value", ["-1", "many", "", "1.5", "٣", "9" * 400, "0x10"])
def test_headers_that_can_not_be_read_are_as_if_absent(value: str) -> None:
    """They are optional; an odd one must not fail a page."""
    odd = Always(b"[]", {"pagination-count": value, "pagination-take": value}).fetch
    chunk = read(Listing(odd, PageSize(10)), 0)
    assert (chunk.count, chunk.at_end) == (None, True)


def test_what_was_learned_of_an_org_is_unlearned_by_good_answers() -> None:
    """A size that was too slow once is tried again, step by step."""
    size = PageSize(100)
    for take in (100, 50, 25):
        size.halve(take)
    sizes = [size.current]
    listing = Listing(FakeApi([GOOD] * 2000).fetch, size)
    for page in range(12):
        read(listing, page * 100)
        sizes.append(size.current)
    assert sizes == [12] * 3 + [24] * 3 + [48] * 3 + [96] * 3 + [100]


HTML = b"<html>502 Bad Gateway</html>"


@pytest.mark.parametrize("cut", [lambda body: body[:1500], lambda _body: b"", lambda _body: HTML])
def test_an_answer_that_is_no_page_is_asked_for_with_fewer_rows(
    cut: Callable[[bytes], bytes],
) -> None:
    """Something on the way may cut off or replace what it finds too large."""
    api = FakeApi([GOOD] * 250)

    async def fetch(page: int, take: int) -> Answer:
        answered = await api.fetch(page, take)
        body = bytes(answered.body)
        return Answer(200, answered.headers, body if len(body) < 2500 else cut(body), NOW)

    size = PageSize(100)
    assert_exact(walk(Listing(fetch, size)), api.kinds)
    assert size.current < 100


def test_what_is_no_page_at_any_size_is_an_error_after_one_row() -> None:
    """And from then on, one request tells that it still is."""
    html = Always(HTML)
    size = PageSize(100)
    for expected in ([100, 50, 25, 12, 6, 3, 1], [1]):
        html.takes.clear()
        with pytest.raises(ApiError, match="HTML") as caught:
            read(Listing(html.fetch, size), 0)
        assert (caught.value.reason, html.takes) == ("invalid_response", expected)


def test_a_walk_goes_on_where_answers_above_a_size_break_off() -> None:
    """They were tried again already; a smaller page may come whole."""
    api = FakeApi([GOOD] * 600)

    async def fetch(page: int, take: int) -> Answer:
        answered = await api.fetch(page, take)
        if len(answered.body) > 60 * len(row_of(100)):
            raise ApiError("network", "RemoteProtocolError: incomplete body", status=200)
        return answered

    assert_exact(walk(Listing(fetch, PageSize(100))), api.kinds)


@pytest.mark.parametrize(
    ("reason", "status", "takes", "size_after"),
    [
        ("network", 200, [100, 50, 25], 12),
        ("network", None, [100], 100),
        ("timeout", None, [100, 50, 25], 12),
        ("forbidden", 403, [100], 100),
    ],
)
def test_only_what_may_be_better_with_fewer_rows_is_asked_for_again(
    reason: str, status: int | None, takes: list[int], size_after: int
) -> None:
    """A connection that never was says nothing of the size; the next poll begins with what is."""
    broken = Always(ApiError(reason, "no", status=status))
    size = PageSize(100)
    with pytest.raises(ApiError) as caught:
        read(Listing(broken.fetch, size), 0)
    assert (caught.value.reason, broken.takes, size.current) == (reason, takes, size_after)


def test_a_size_that_is_too_large_again_and_again_is_tried_ever_more_seldom() -> None:
    """Each try costs a request, or a whole timeout; once it holds, growing is quick again."""
    size = PageSize(100)
    size.halve(100)
    waited = []
    for _ in range(8):
        good = 0
        while size.current == 50:
            size.good(50)
            good += 1
        waited.append(good)
        size.halve(size.current)
    assert waited == [3, 6, 12, 24, 48, 96, 192, 192]
    for _ in range(192 + 3):
        size.good(size.current)
    size.halve(100)
    size.halve(50)
    sizes = []
    for _ in range(8):
        sizes.append(size.current)
        size.good(size.current)
    assert sizes == [25, 25, 25, 50, 50, 50, 100, 100]


async def test_over_http_the_endpoint_is_asked_as_documented_and_a_large_page_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Path, query and key are right; a large page is decoded in a thread of its own."""
    rows = b",".join(row_of(n)[:-2] + b"x" * 2000 + b'"}' for n in range(100))
    registry, threads = CollectorRegistry(), set[str]()

    def decode(body: bytes, latest_seconds: float) -> DecodedPage:
        threads.add(threading.current_thread().name)
        return decode_page(body, latest_seconds)

    monkeypatch.setattr("invent_exporter.api.listing.decode_page", decode)
    page = answer(b"[" + rows + b"]", "Pagination-Count: 100")
    async with RawServer(always(page)) as server:
        config, telemetry = ApiConfig(url=server.url), Telemetry(registry)
        transport = Transport(config, telemetry, SystemClocks(), Redactor())
        listing = RunsApi(transport).listing("org/1", lambda: "k", "PENDING", label="real")
        chunk = await listing.read(0)
        assert transport._budget.free_bytes == POOL_BYTES
        await transport.aclose()
    assert threads == {"decoder"}
    labels = {"org_id": "real", "code": "200"}
    assert registry.get_sample_value("invent_api_requests_total", labels) == 1
    assert [run.id for run in chunk.runs] == [str(n) for n in range(100)]
    (request,) = server.requests
    assert request.path == "/orgs/org%2F1/workflows/runs"
    assert request.headers["authorization"] == "Bearer k"
    expected = {"expand": "false", "origin": "ALL", "status": "PENDING", "page": "1", "take": "100"}
    assert request.query == expected
