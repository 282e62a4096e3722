"""The listing of runs, read by offset; page sizes and bad rows are this module's business.

Longer than most modules: the search for a bad row and the size of pages depend on each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote

from invent_exporter.api.bad_rows import NOTHING, BadRows, Span
from invent_exporter.api.decoding import (
    DecodedPage,
    InvalidRun,
    decode_page,
    digest_of,
    identity_in,
)
from invent_exporter.api.models import Run
from invent_exporter.api.page_size import PageSize
from invent_exporter.api.ratelimit import Heartbeat
from invent_exporter.api.transport import Answer, ReadKey, Transport
from invent_exporter.api.worker import Worker
from invent_exporter.errors import ApiError, BadAnswerError, SpoiledPageError, TooLargeError

DECODE_IN_THREAD_BYTES = 32 * 1024
FAILURES_IN_A_READ = 3
SAME_SPOILED_ROWS = 5
LONGEST_NUMBER = 18
DECODER = Worker()
"""For all orgs: large pages are decoded one after the other."""

_FAILING_ROW = InvalidRun(None, "server_error", digest_of(b"server_error"))
"""A row that its page fails for: nothing tells one from another, so they count once."""
_PROBED_ROWS = (0, 8, 64, 512)

Fetch = Callable[[int, int], Awaitable[Answer]]
"""Asks for page number `page` (from 1) of `take` rows."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start` to `end` (exclusive) of a listing, readable or not.

    `count` is what the API says the listing has in all; `at_end` when nothing follows;
    `asked_seconds` is our time of the request, `date_seconds` the API's of its answer.
    """

    start: int
    end: int
    runs: list[Run]
    invalid: list[InvalidRun]
    count: int | None
    at_end: bool
    asked_seconds: float = math.inf
    date_seconds: float | None = None


class _SpoiledAnswerError(Exception):
    """An answer that one of its rows makes unreadable as a whole."""

    def __init__(self, reason: str, content: bytes | bytearray, count: int | None) -> None:
        super().__init__(reason)
        self.row = InvalidRun(identity_in(content), reason, digest_of(content))
        self.count = count


class Listing:
    """One walk through the runs of one org with one status filter."""

    def __init__(self, fetch: Fetch, page_size: PageSize, bad_rows: BadRows | None = None) -> None:
        """Begin a walk; `bad_rows` are those that walks before this one met in the listing."""
        self._fetch = fetch
        self._page_size = page_size
        self._server_take: int | None = None
        self._bad_rows = bad_rows or BadRows()
        self._bad_rows.begin()
        self._now = 0.0  # when the last answer was asked for
        self._suspect = range(0)  # rows among which one spoils its page
        self._cap: int | None = None  # largest page while one is searched, and shortly after
        self._last_spoiled = (-1, "", 0)  # row, digest, and how many had the same
        self._doubted: tuple[int, tuple[int, str]] | None = None  # take, end and last id

    async def read(self, offset: int, *, forward: bool = True) -> Chunk:
        """Read the page that holds row `offset`, and where one can the row before it.

        That row says whether rows moved since the page before was read. Not `forward`: the row
        behind it, and as many as fit before it. Unless `at_end`,
        `chunk.start <= offset < chunk.end`.

        Raises:
            ApiError: the page can't be read, smaller either.

        """
        bad = self._bad_rows.holding(offset)
        chunk = None if bad is None else await self._read_beside(bad, forward=forward)
        if chunk is None:
            chunk = await self._read_page(offset, forward=forward)
        if bad in await self._ask_again():  # passed over just now, and this walk may be the last
            chunk = await self._read_page(offset, forward=forward)
        return chunk

    async def _read_page(self, offset: int, *, forward: bool) -> Chunk:
        failures = 0
        while True:
            take = self._take_for(offset, forward=forward)
            rows = _page_of(offset, take)
            try:
                answer, page = await self._ask(rows)
            except _SpoiledAnswerError as error:
                if take == 1:
                    return self._isolated(offset, error)
                self._search(offset, rows, too_large=error.row.reason == "too_large")
            except ApiError as error:
                if await self._is_fault_of_a_row(error, offset, take):
                    if take == 1:
                        return self._passed_over(offset, _FAILING_ROW, None)
                    self._search(offset, rows, too_large=False)
                    continue
                failures += 1
                if not self._tries_smaller(error, take, failures):
                    raise
            else:
                chunk = self._chunk_of(answer, page, rows, offset)
                if chunk is not None:
                    self._went_well(offset, take)
                    return chunk

    async def _read_beside(self, bad: Span, *, forward: bool) -> Chunk | None:
        """Pass over bad rows if the run beside them, with which it reads on, proves the place."""
        edge, neighbour = (bad.stop, bad.behind) if forward else (bad.start, bad.before)
        # On the way back the run behind was read just now; at the end there is none that proves it.
        is_there = forward or bad.behind in (None, self._bad_rows.run_at(bad.stop))
        if neighbour is None or not is_there:
            return None
        pages = (
            range(edge, edge + take) if forward else range(edge - take, edge)
            for take in range(self._largest_take(), 0, -1)
            if edge % take == 0
        )
        rows = next((rows for rows in pages if self._bad_rows.are_apart_from(rows)), None)
        if rows is None:
            return None
        try:
            answer, page = await self._ask(rows)
        except _SpoiledAnswerError:
            return None
        except ApiError as error:
            if error.reason != "server_error":
                raise
            return None
        chunk = None if page.invalid else self._chunk_of(answer, page, rows, edge)
        beside = ([run.id for run in page.runs] or [NOTHING])[0 if forward else -1]
        is_gone = chunk is not None and chunk.count is not None and chunk.count < bad.stop
        is_elsewhere = beside != neighbour or is_gone
        if chunk is None or is_elsewhere or not (neighbour or await self._is_at_the_end(bad)):
            self._bad_rows.forget(bad)
            return None
        bad.is_sure = bad.is_placed = True
        start, end = min(bad.start, chunk.start), max(bad.stop, chunk.end)
        return replace(chunk, start=start, end=end, invalid=[*bad.invalid])

    async def _is_at_the_end(self, bad: Span) -> bool:
        """Tell whether these are still the last rows: new runs stand there, with nothing behind."""
        if bad.is_placed or bad.before is None:
            return bad.is_placed
        with suppress(_SpoiledAnswerError, ApiError):
            _, page = await self._ask(range(bad.start - 1, bad.start))
            return [run.id for run in page.runs] == [bad.before]
        return False

    async def _ask_again(self) -> list[Span]:
        """Look, rarely, whether rows that are taken for bad ones can be read by now: list those."""
        readable = []
        for bad, rows in self._bad_rows.due(self._now):
            for row in rows:
                with suppress(_SpoiledAnswerError, ApiError):
                    await self._ask(range(row, row + 1))
                    self._bad_rows.forget(bad)
                    readable.append(bad)
                    break
        return readable

    def _tries_smaller(self, error: ApiError, take: int, failures: int) -> bool:
        """Ask for fewer rows from now on where that may help; tell whether to ask again at once."""
        is_bad = isinstance(error, BadAnswerError)
        # An answer that broke off each time it was tried did so perhaps at a limit on the way.
        broke_off = error.reason == "network" and error.status is not None
        if not (is_bad or broke_off or error.reason == "timeout"):
            return False
        self._page_size.halve(take)
        return take > 1 if is_bad else failures < FAILURES_IN_A_READ

    async def _is_fault_of_a_row(self, error: ApiError, offset: int, take: int) -> bool:
        """Tell a row that its API stumbles over from an outage, and from a depth it refuses.

        It answers for the first of these rows alone, or for one behind it; bad rows come together.
        The first error is taken for an outage, in which more requests would be no help.
        """
        if error.reason != "server_error" or error.retry_after_seconds is not None:
            return False
        suspects, self._page_size.suspects_a_row = self._page_size.suspects_a_row, True
        if not suspects:
            return False
        for step in _PROBED_ROWS[take == 1 :]:
            if await self._answers_for(offset + step):
                return True
        self._page_size.suspects_a_row = False
        return False

    async def _answers_for(self, row: int) -> bool:
        try:
            answer = await self._fetch(row + 1, 1)
            answer.release()
            self._now = answer.asked_seconds
        except TooLargeError:
            return True
        except ApiError:
            return False
        return True

    async def _ask(self, rows: range) -> tuple[Answer, DecodedPage]:
        try:
            answer = await self._fetch(rows.start // len(rows) + 1, len(rows))
        except TooLargeError as error:
            raise _SpoiledAnswerError("too_large", error.prefix, None) from error
        self._now = answer.asked_seconds
        try:
            decode = partial(decode_page, answer.body, answer.latest_seconds)
            is_small = len(answer.body) <= DECODE_IN_THREAD_BYTES
            page = decode() if is_small else await DECODER.run(decode)
            return replace(answer, body=b""), page
        except SpoiledPageError as error:
            count = number_in(answer.headers, "pagination-count")
            raise _SpoiledAnswerError("undecodable", answer.body, count) from error
        finally:
            answer.release()

    def _take_for(self, offset: int, *, forward: bool) -> int:
        """Choose a page that holds the row and its neighbour, as many more, and no bad row."""

        # Pages begin at multiples of their size: it decides what one shares with the one before.
        def reach(take: int) -> int:
            """Count the rows from this one on, in the walk's direction; 0 without its neighbour."""
            place = offset % take
            if forward:
                return take - place if place or offset == 0 else 0
            return place + 1 if place + 1 < take else 0

        takes = range(self._largest_take(), 1, -1)
        good = [take for take in takes if self._bad_rows.are_apart_from(_page_of(offset, take))]
        return max(good or [1], key=reach)

    def _largest_take(self) -> int:
        limits = (self._page_size.current, self._server_take, self._cap)
        return min(limit for limit in limits if limit is not None)

    def _search(self, offset: int, rows: range, *, too_large: bool) -> None:
        """Remember that one of these rows spoils its page, and look with smaller pages."""
        if offset not in self._suspect:
            self._suspect = rows
            if too_large:  # perhaps all pages are; smaller ones from here on, to waste less
                self._page_size.halve(len(rows))
        self._cap = len(rows) // 2

    def _isolated(self, row: int, error: _SpoiledAnswerError) -> Chunk:
        """Report the one row that can't be read, and let the walk go on behind it."""
        digest = error.row.digest
        last_row, last_digest, times = self._last_spoiled
        times = times + 1 if digest == last_digest and row != last_row else 1
        self._last_spoiled = (row, digest, times)
        if times >= SAME_SPOILED_ROWS:  # a server that gives the same answer for each page
            raise ApiError("invalid_response", f"{times} pages have the same undecodable body")
        return self._passed_over(row, error.row, error.count)

    def _passed_over(self, row: int, invalid: InvalidRun, count: int | None) -> Chunk:
        self._bad_rows.met(row, invalid, self._now)
        self._suspect = range(0)
        # Bad rows often come together (one workflow makes them): don't start with a large page.
        self._cap = 1
        return Chunk(row, row + 1, [], [invalid], count, at_end=False)

    def _went_well(self, offset: int, take: int) -> None:
        self._page_size.good(take)
        if self._cap is not None and offset not in self._suspect:
            self._cap *= 4
            if self._cap >= self._page_size.current:
                self._cap = None

    def _chunk_of(
        self, answer: Answer, page: DecodedPage, asked: range, offset: int
    ) -> Chunk | None:
        """Place the rows in the listing; None when another page size must be asked for."""
        start, take = asked.start, len(asked)
        count = number_in(answer.headers, "pagination-count")
        said_take = number_in(answer.headers, "pagination-take")
        if page.rows > take:
            message = f"asked for {take} rows, got {page.rows}: `take` is ignored"
            raise ApiError("invalid_response", message)
        if said_take is not None and 0 < said_take < take and page.rows <= said_take:
            self._server_take = said_take  # the server cut `take` down, so pages lie elsewhere
            return None
        end = start + page.rows
        last = (end, page.runs[-1].id) if page.runs and not page.invalid else None
        at_end = page.rows == 0 or (page.rows < take and (count is None or end >= count))
        self._page_size.proved = max(self._page_size.proved, page.rows)
        cut_in_silence = said_take is None and take > self._page_size.proved
        if 0 < page.rows < take and (cut_in_silence or (count is not None and end != count)):
            # A short page is the last one, so its end should be the count. Where it is not, the
            # server may give fewer rows than asked without saying so, and pages lie elsewhere.
            self._server_take = page.rows
            if start > 0 or not (at_end or offset < end):  # the first page lies where it lies
                if last is not None:
                    self._doubted = (take, last)
                return None
        # A page that was cut down in silence lies nearer to the front than its number says. So when
        # the row that it ended with is found where it was said to stand, the page was short because
        # the listing ends there, and so large a page need not be doubted again.
        if self._doubted is not None and self._doubted[1] == last:
            self._page_size.proved = max(self._page_size.proved, self._doubted[0])
        if not page.invalid:
            self._bad_rows.saw(start, [run.id for run in page.runs])
        return Chunk(
            start,
            end,
            page.runs,
            page.invalid,
            count,
            at_end,
            asked_seconds=answer.asked_seconds,
            date_seconds=answer.date_seconds,
        )


class RunsApi:
    """The endpoint that lists runs."""

    def __init__(self, transport: Transport, page_size: int = 100) -> None:
        self._transport = transport
        self._maximum_page_size = page_size
        self._page_sizes: dict[str, PageSize] = {}
        self._bad_rows: defaultdict[tuple[str, str, str], BadRows] = defaultdict(BadRows)

    def apply(self, page_size: int) -> None:
        """Let walks that begin from now on ask for no larger pages, and learn their size anew."""
        if page_size != self._maximum_page_size:
            self._maximum_page_size = page_size
            self._page_sizes.clear()

    def listing(
        self,
        org_id: str,
        key: ReadKey,
        status: str = "ALL",
        origin: str = "ALL",
        *,
        label: str | None = None,
        heartbeat: Heartbeat = lambda _seconds: None,
    ) -> Listing:
        """Start a walk through an org's runs with a status and an origin; ALL for any.

        `org_id` is what the API is asked for (it may be `c`), `label` the `org_id` of the request's
        metrics where that differs.
        """
        path = f"/orgs/{quote(org_id, safe='')}/workflows/runs"

        async def fetch(page: int, take: int) -> Answer:
            query = {"expand": "false", "origin": origin, "status": status}
            params = query | {"page": str(page), "take": str(take)}
            return await self._transport.get(path, params, key, label or org_id, heartbeat)

        page_size = self._page_sizes.setdefault(org_id, PageSize(self._maximum_page_size))
        return Listing(fetch, page_size, self._bad_rows[org_id, status, origin])


def _page_of(offset: int, take: int) -> range:
    """Name the rows of the page of `take` rows that holds a row."""
    start = offset // take * take
    return range(start, start + take)


def number_in(headers: Mapping[str, str], name: str) -> int | None:
    """Read a header as a whole number that is not negative; None for anything else."""
    text = headers.get(name, "")
    is_number = len(text) <= LONGEST_NUMBER and text.isascii() and text.isdigit()
    return int(text) if is_number else None
