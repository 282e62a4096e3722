"""Requests over real connections: each failure is one typed error, bounded, without the key."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import httpcore
import pytest
from prometheus_client import CollectorRegistry

from invent_exporter.api.budget import POOL_BYTES
from invent_exporter.api.connections import _Stream
from invent_exporter.api.transport import Answer, Transport
from invent_exporter.config.load import ApiConfig
from invent_exporter.errors import ApiError, PausedError, TooLargeError
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import POLL_ERROR_REASONS, Telemetry
from tests.proof.process import FakeClocks
from tests.raw_server import Handler, HangUpError, RawServer, Request, Say, always, answer

KEY = "inv_secret_0123456789"
MIXED_KEY = "Inv_Secret_0123456789"
LIMIT = 256 * 1024
OK = answer(b"[]")


class Setup(FakeClocks):
    """A transport with its own registry, no real waiting between tries, and a log of waits."""

    def __init__(self, url: str, *, timeout_seconds: float = 20, key: str = KEY) -> None:
        self.registry = CollectorRegistry()
        self.waits: list[float] = []
        self.heartbeats: list[float] = []
        self.key = key
        config = ApiConfig(
            url=url,
            timeout_seconds=timeout_seconds,
            requests_per_minute=6000,
            max_response_bytes=LIMIT,
        )
        redactor = Redactor()
        redactor.add(key)
        self.transport = Transport(config, Telemetry(self.registry), self, redactor, "1.2.3")
        self.limiter = self.transport._limiter

    def time(self) -> float:
        """Tell the fake time of day."""
        return 1_000_000.0

    async def sleep(self, seconds: float) -> None:
        """Let fake time pass."""
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def get(self, path: str = "/runs", org_id: str = "org-1") -> Answer:
        """Ask once."""
        return await self.transport.get(
            path, {"page": "1"}, lambda: self.key, org_id, self.heartbeats.append
        )

    async def error(self) -> ApiError:
        """Ask, and return the failure."""
        with pytest.raises(ApiError) as caught:
            await self.get()
        error = caught.value
        assert error.reason in POLL_ERROR_REASONS
        assert "\n" not in error.message
        assert KEY not in str(error) + repr(error)
        return error

    def requests(self, code: str) -> float:
        """Tell how many tries had this code."""
        labels = {"org_id": "org-1", "code": code}
        return self.registry.get_sample_value("invent_api_requests_total", labels) or 0.0

    @property
    def has_begun(self) -> bool:
        """Tell whether some of a body has come."""
        return self.transport._budget.free_bytes < POOL_BYTES

    @property
    def throttled(self) -> float:
        """Tell the throttled counter."""
        name = "invent_api_throttled_seconds_total"
        return self.registry.get_sample_value(name) or 0.0


@asynccontextmanager
async def asking(
    *answers: bytes, handler: Handler | None = None, timeout_seconds: float = 20, key: str = KEY
) -> AsyncIterator[tuple[Setup, RawServer]]:
    """Run a server that gives these answers, or does worse, and a transport that asks it."""
    async with RawServer(handler or always(*answers)) as server:
        setup = Setup(server.url, timeout_seconds=timeout_seconds, key=key)
        try:
            yield setup, server
        finally:
            await setup.transport.aclose()


async def failure(handler: Handler, key: str = KEY) -> ApiError:
    """Tell how a request to such a server fails."""
    async with asking(handler=handler, key=key) as (setup, _):
        return await setup.error()


async def test_a_request_says_who_asks_and_keeps_its_connection() -> None:
    """Two requests go over one connection, with the headers the API needs."""
    async with asking(OK) as (setup, server):
        first = await setup.get("/orgs/c/workflows/runs")
        await setup.get()
        assert (first.status, bytes(first.body)) == (200, b"[]")
        assert server.connections == 1
        request = server.requests[0]
        assert (request.path, request.query) == ("/orgs/c/workflows/runs", {"page": "1"})
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["user-agent"] == "invent-exporter/1.2.3"
        assert request.headers["accept"] == "application/json"
        assert request.headers["accept-encoding"] == "gzip"
        assert setup.requests("200") == 2
        assert setup.registry.get_sample_value("invent_api_request_duration_seconds_count") == 2


@pytest.mark.parametrize(
    ("status", "reason", "tries"),
    [
        ("400 Bad Request", "bad_request", 1),
        ("401 Unauthorized", "unauthorized", 1),
        ("403 Forbidden", "forbidden", 1),
        ("404 Not Found", "not_found", 1),
        ("405 Method Not Allowed", "bad_request", 1),
        ("418 I'm a teapot", "bad_request", 1),
        ("429 Too Many Requests", "rate_limited", 4),
        ("500 Internal Server Error", "server_error", 4),
        ("503 Service Unavailable", "server_error", 4),
        ("599 Odd", "server_error", 4),
        ("204 No Content", "invalid_response", 1),
        ("206 Partial Content", "invalid_response", 1),
    ],
)
async def test_each_status_has_its_reason_and_only_some_are_tried_again(
    status: str, reason: str, tries: int
) -> None:
    """What the caller did wrong stays wrong; what the service did may pass."""
    code = status[:3]

    async with asking(answer(b"", status=status)) as (setup, server):
        error = await setup.error()
        assert (error.reason, error.status) == (reason, int(code))
        assert len(server.requests) == tries == setup.requests(code)


async def test_a_failure_that_passes_is_not_seen() -> None:
    """A 500, a 429 and a reset, then the answer; the waits grow and are shown."""
    steps = [answer(b"", status="500 No"), answer(b"", status="429 No"), None, OK]

    async def handler(_request: Request, say: Say) -> None:
        step = steps.pop(0)
        if step is None:
            raise HangUpError(reset=True)
        await say(step)

    async with asking(handler=handler) as (setup, server):
        got = await setup.get()
        assert bytes(got.body) == b"[]"
        assert len(server.requests) == 4
        assert setup.waits == [0.5, 1.0, 2.0]  # 0.5 is what the fake chance gives
        assert set(setup.waits) <= set(setup.heartbeats)
        assert [setup.requests(code) for code in ("500", "429", "error", "200")] == [1, 1, 1, 1]
        assert setup.throttled == 1.0  # the 429's, no backoff of another kind


async def test_nobody_listening_is_a_network_error() -> None:
    """Tried four times, counted as `error`."""
    async with asking(OK) as (setup, _):
        closed = Setup("http://127.0.0.1:1")
        error = await closed.error()
        assert (error.reason, error.status) == ("network", None)
        assert closed.requests("error") == 4
        await closed.transport.aclose()
        assert setup.waits == []


def says(*pieces: bytes, reset: bool = False) -> Handler:
    """Make a server that says this, however wrong it is, and hangs up."""

    async def handler(_request: Request, say: Say) -> None:
        for piece in pieces:
            await say(piece)
        raise HangUpError(reset=reset)

    return handler


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "cut off": says(HEAD + b'Content-Length: 100\r\n\r\n[{"id":'),
    "reset in the body": says(HEAD + b"Content-Length: 100\r\n\r\n[", reset=True),
    "bad chunk size": says(CHUNKED + b"ZZ\r\n[]\r\n0\r\n\r\n"),
    "no last chunk": says(CHUNKED + b"2\r\n[]\r\n"),
    "not HTTP": says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "bad length": says(HEAD + b"Content-Length: many\r\n\r\n[]"),
    "endless header": says(HEAD + b"X: " + b"a" * 300_000),
    "nothing": says(),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_broken_connection_or_protocol_is_a_network_error(how: str) -> None:
    """Part of an answer is never taken for the whole."""
    assert (await failure(BROKEN[how])).reason == "network"


@pytest.mark.parametrize(("how", "status"), [("cut off", 200), ("nothing", None)])
async def test_a_network_error_tells_whether_an_answer_had_begun(
    how: str, status: int | None
) -> None:
    """One that broke off may come whole when it is smaller."""
    assert (await failure(BROKEN[how])).status == status


def test_speaking_tls_to_a_plain_server_is_a_network_error() -> None:
    """What the TLS library raises ends as the same error."""

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            setup = Setup(f"https://127.0.0.1:{port}")
            assert (await setup.error()).reason == "network"
            await setup.transport.aclose()

    asyncio.run(main())


async def test_bytes_in_headers_that_are_no_utf8_do_no_harm() -> None:
    """An odd header is not worth a failed poll."""
    odd = HEAD + b"X-Odd: \xff\xfe\r\nContent-Length: 2\r\n\r\n[]"
    async with asking(odd) as (setup, _):
        assert (await setup.get()).headers["x-odd"]


async def silent(_request: Request, _say: Say) -> None:
    """Never answer."""
    await asyncio.sleep(3600)


async def drip(_request: Request, say: Say) -> None:
    """Send a byte now and then, so that no single read takes long."""
    await say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await say(b" ")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("handler", "code"), [(silent, "error"), (drip, "200")])
async def test_a_slow_answer_is_one_timeout_that_the_caller_may_answer(
    handler: Handler, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not tried again here: a smaller page is the better try."""
    async with asking(handler=handler) as (setup, server):
        asking_once = asyncio.create_task(setup.error())
        while not server.requests or (handler is drip and not setup.has_begun):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        later = loop.time() + 20
        monkeypatch.setattr(loop, "time", lambda: later)
        assert (await asking_once).reason == "timeout"
        monkeypatch.undo()
        assert len(server.requests) == 1 == setup.requests(code)
        assert setup.heartbeats == [20]


async def endless(_request: Request, say: Say) -> None:
    """Send without end."""
    await say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


async def test_an_endless_answer_is_broken_off_at_the_limit() -> None:
    """It is not tried again: it would be as large."""
    async with asking(handler=endless) as (setup, server):
        error = await setup.error()
        assert isinstance(error, TooLargeError)
        assert error.reason == "invalid_response"
        assert error.prefix == b"x" * 64 * 1024
        assert len(server.requests) == 1


async def crumbs(_request: Request, say: Say) -> None:
    """Send chunks of one byte without end, many at a time."""
    await say(CHUNKED)
    while True:
        await say(b"1\r\n \r\n" * 10_000)


async def interim(_request: Request, say: Say) -> None:
    """Promise an answer without end."""
    while True:
        await say(b"HTTP/1.1 100 Continue\r\n\r\n" * 2_500)


async def empty_members(_request: Request, say: Say) -> None:
    """Compress nothing, again and again."""
    members = gzip.compress(b"") * 3_000
    await say(HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await say(b"%x\r\n%b\r\n" % (len(members), members))


@pytest.mark.parametrize(
    ("handler", "said", "turns_due"),
    [
        (crumbs, "1001 pieces", 31),
        (interim, "without end", 0),
        (empty_members, "too many parts", 0),
    ],
)
async def test_what_comes_in_crumbs_is_broken_off_and_others_have_their_turn(
    handler: Handler, said: str, turns_due: int
) -> None:
    """It is far from the limit in bytes, and no wait comes between its pieces."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asking(handler=handler) as (setup, _):
        waiting = asyncio.create_task(others())
        error = await setup.error()
        waiting.cancel()
        assert said in error.message
        assert setup.transport._budget.free_bytes == POOL_BYTES
        assert turns >= turns_due


async def test_a_head_is_read_in_small_pieces_until_it_is_there() -> None:
    """What is parsed in one go holds others up."""
    wanted: list[int] = []

    class Inner(httpcore.AsyncNetworkStream):
        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
            del timeout
            wanted.append(max_bytes)
            return b"HTTP/1.1 100 Continue\r\n\r\n" if len(wanted) < 3 else OK

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
            del buffer, timeout

    stream = _Stream(Inner())
    await stream.write(b"GET")
    for _ in range(4):
        await stream.read(65536)
    assert wanted == [2048, 2048, 2048, 65536]


async def test_no_cookie_is_kept_or_sent() -> None:
    """One org's session would go out with another's key; many would make requests too long."""
    cookies = ["Set-Cookie: session=of-org-1; Path=/"]
    cookies += [f"Set-Cookie: c{number}={'x' * 4000}; Path=/" for number in range(20)]
    async with asking(answer(b"[]", *cookies)) as (setup, server):
        for key in ("key-of-org-1", "key-of-org-1", "key-of-org-2"):
            setup.key = key
            await setup.get()
        assert [request.headers.get("cookie") for request in server.requests] == [None] * 3


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    """The limit is what is allowed."""
    async with asking(answer(b" " * LIMIT)) as (setup, _):
        assert len((await setup.get()).body) == LIMIT
    assert isinstance(await failure(always(answer(b" " * (LIMIT + 1)))), TooLargeError)


def gzipped(body: bytes) -> bytes:
    """Write an answer with a compressed body."""
    return answer(body, "Content-Encoding: gzip")


async def test_gzip_is_read_in_one_member_or_several() -> None:
    """Small pieces of a large body come out whole."""
    text = b"[" + b" " * 200_000 + b"]"
    halves = gzip.compress(text[:1000]) + gzip.compress(text[1000:])
    bodies = (gzip.compress(text), halves, gzip.compress(b""))
    async with asking(*map(gzipped, bodies)) as (setup, _):
        assert bytes((await setup.get()).body) == text
        assert bytes((await setup.get()).body) == text
        assert bytes((await setup.get()).body) == b""


async def test_a_gzip_bomb_is_broken_off_at_the_limit() -> None:
    """No piece that is decompressed is larger than a chunk, however small its source."""
    bomb = gzipped(gzip.compress(b" " * 20_000_000, compresslevel=9))
    tracemalloc.start()
    try:
        assert isinstance(await failure(always(bomb)), TooLargeError)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "bad",
    [
        answer(b"[]", "Content-Encoding: gzip"),
        gzipped(gzip.compress(b"[]", mtime=0)[:-5]),
        gzipped(b""),
        gzipped(gzip.compress(b"[]", mtime=0) + b"garbage"),
        answer(b"[]", "Content-Encoding: br"),
    ],
)
async def test_a_body_that_is_not_encoded_as_it_says_is_an_invalid_response(bad: bytes) -> None:
    """Nothing half decompressed is decoded."""
    error = await failure(always(bad))
    assert (error.reason, error.status) == ("invalid_response", 200)


async def test_a_redirect_is_named_and_not_followed() -> None:
    """The key goes to the one host that is configured."""
    async with asking(OK) as (setup, server), RawServer(always(OK)) as other:
        server.handler = always(
            answer(b"", f"Location: {other.url}/login?token=abc", status="302 Found")
        )
        error = await setup.error()
        assert error.reason == "invalid_response"
        assert f"redirect to {other.url}/login not followed" in error.message
        assert other.requests == []
        assert len(server.requests) == 1


async def test_an_error_page_is_shown_as_one_short_line() -> None:
    """Tags, scripts and control characters go; the words stay."""
    page = (
        b"<html><head><style>p {}</style><script>var a = 1 < 2;</script></head>"
        b"<body><h1>Service\r\nUnavailable</h1>\x1b[31m &amp; more " + b"x" * 1000 + b"</body>"
    )
    message = (await failure(always(answer(page, status="503 No")))).message
    assert message.startswith("HTTP 503: Service Unavailable �[31m & more xxx")
    assert len(message) <= 220
    assert message.isprintable()


@pytest.mark.parametrize("chunks", [b"ZZ Ann\r\n", b"2\r\n[]Ann\r\n0\r\n\r\n"])
async def test_nothing_of_an_answer_is_shown_where_its_chunks_are_bad(chunks: bytes) -> None:
    """It is users' data, which a wrong length puts where a chunk should begin."""
    message = (await failure(says(CHUNKED + chunks))).message
    assert message.startswith("RemoteProtocolError: ")
    assert "Ann" not in message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b' [{"id":"Ann"}]', "the body is a JSON array (15 bytes)"),
        (b'{"id":"Ann"}', "the body is a JSON object (12 bytes)"),
        (b"<html>Ann</html>", "the body is HTML (16 bytes)"),
        (b"Ann", "the body is not JSON (3 bytes)"),
        (b"[" + b" " * 10**6 + b"]", "the body is a JSON array (at least 65536 bytes)"),
    ],
)
async def test_an_answer_with_another_success_is_described(body: bytes, said: str) -> None:
    """By its size and kind, as a page that can't be read is."""
    error = await failure(always(answer(body, status="206 Partial Content")))
    assert error.message == f"HTTP 206, expected 200; {said}"


async def test_a_key_that_comes_back_in_an_error_is_not_shown() -> None:
    """Some services repeat what they refuse."""
    body = f'{{"message": "the key <b>{KEY}</b> is not valid", "k": "{KEY}"}}'.encode()
    message = (await failure(always(answer(body, status="401 No")))).message
    assert "the key [redacted] is not valid" in message
    assert KEY not in message
    redirect = answer(b"", f"Location: https://other.example/{KEY}", status="307 No")
    assert KEY not in (await failure(always(redirect))).message
    encoding = await failure(always(answer(b"", f"Content-Encoding: {MIXED_KEY}")), key=MIXED_KEY)
    assert MIXED_KEY.lower() not in encoding.message.lower()


@pytest.mark.parametrize("key", ["", "a\nb", " a", "schlüssel", "a\x00b"])
async def test_a_key_that_no_header_carries_is_refused_without_being_shown(key: str) -> None:
    """The HTTP library would show it in its error."""
    error = await failure(always(OK), key=key)
    assert error.reason == "unauthorized"
    assert not key.strip() or key not in error.message


async def test_a_key_that_can_not_be_read_is_that_orgs_failure() -> None:
    """Whatever the reader raises."""

    def unreadable() -> str:
        raise OSError("no such file: key")

    async with asking(OK) as (setup, server):
        with pytest.raises(ApiError, match="no such file: key") as caught:
            await setup.transport.get("/runs", {}, unreadable, "org-1", setup.heartbeats.append)
        assert caught.value.reason == "unauthorized"
        assert server.requests == []


async def endless_error(_request: Request, say: Say) -> None:
    """Say no, and don't stop."""
    await say(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n")
    while True:
        await say(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


REFUSED = {
    "endless": endless_error,
    "cut off": says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nsorry"),
    "odd": always(answer(b"\x00\x01", "Content-Encoding: br", status="404 Not Found")),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_the_status_of_an_error_matters_more_than_its_body(how: str) -> None:
    """A body that can't be read does not hide what the status said."""
    assert (await failure(REFUSED[how])).reason == "not_found"


async def test_a_short_retry_after_is_waited_for_by_everybody() -> None:
    """A 429's limit is by address: no request goes out before, for no org."""
    async with asking(answer(b"", "Retry-After: 7", status="429 No"), OK) as (
        setup,
        server,
    ):
        await setup.get()
        assert setup.waits == [7.0]
        assert setup.throttled == 7.0
        assert setup.requests("429") == setup.requests("200") == 1
        assert len(server.requests) == 2


async def test_a_retry_after_of_a_5xx_holds_that_request_alone() -> None:
    """The others of the process go on."""
    async with asking(answer(b"", "Retry-After: 7", status="503 No"), OK) as (setup, _):
        await setup.get()
        assert setup.waits == [7.0]
        assert setup.throttled == 7.0
        assert setup.limiter.pause_seconds("org-2") == 0


async def test_a_long_retry_after_fails_at_once_and_holds_all_requests() -> None:
    """The caller is told how long; asking earlier sends nothing."""
    async with asking(answer(b"", "Retry-After: 120", status="429 No"), OK) as (
        setup,
        server,
    ):
        error = await setup.error()
        assert (error.reason, error.retry_after_seconds) == ("rate_limited", 120)
        again = await setup.error()
        assert (again.reason, again.retry_after_seconds, again.status) == (
            "rate_limited",
            120,
            None,
        )
        assert len(server.requests) == 1
        assert setup.waits == []
        setup.now += 100
        await setup.get()  # 20 s are left: those are waited for
        assert setup.waits == [20.0]


async def test_one_orgs_long_retry_after_holds_another_for_a_minute_at_most() -> None:
    """Then the other asks; where it is answered, it goes on and the throttled one waits."""

    async def handler(request: Request, say: Say) -> None:
        refusal = answer(b"", "Retry-After: 3600", status="429 No")
        await say(refusal if request.path == "/throttled" else OK)

    async with asking(handler=handler) as (setup, server):
        with pytest.raises(ApiError):
            await setup.get("/throttled")
        for org_id, seconds in (("org-2", 60), ("org-1", 3600)):
            with pytest.raises(PausedError) as caught:
                await setup.get(org_id=org_id)
            assert caught.value.retry_after_seconds == seconds
        setup.now += 60
        for _ in range(2):
            await setup.get(org_id="org-2")
        with pytest.raises(PausedError):
            await setup.get("/throttled")
        assert [request.path for request in server.requests] == ["/throttled", "/runs", "/runs"]
        assert setup.waits == []


async def test_all_waits_of_a_request_are_bounded_together() -> None:
    """Three short ones can be too long as well."""
    async with asking(answer(b"", "Retry-After: 14", status="503 No")) as (setup, server):
        error = await setup.error()
        assert (error.reason, error.retry_after_seconds) == ("server_error", 14)
        assert setup.waits == [14.0, 14.0]
        assert len(server.requests) == 3


async def test_a_request_that_is_dropped_passes_the_cancellation_on() -> None:
    """A stop must not wait for the API."""
    async with asking(handler=silent) as (setup, server):
        task = asyncio.create_task(setup.get())
        while not server.requests:  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_while_url_and_keys_change_nothing_is_asked() -> None:
    """A key goes to the one host that it was given for; what was under way ends as it began."""
    came, went_on = asyncio.Event(), asyncio.Event()

    async def answer_late(_request: Request, say: Say) -> None:
        came.set()
        await went_on.wait()
        await say(OK)

    async with asking(handler=answer_late) as (setup, first), RawServer(always(OK)) as second:
        under_way = asyncio.create_task(setup.get())
        await came.wait()
        changed = ApiConfig(url=second.url, requests_per_minute=6000, max_response_bytes=LIMIT)
        async with setup.transport.changing(changed):
            waiting = asyncio.create_task(setup.get())
            await asyncio.wait([waiting], timeout=0.2)
            assert (len(first.requests), second.requests) == (1, [])
            setup.key = "another"
        await waiting
        went_on.set()
        assert (await under_way).status == 200
        (request,) = second.requests
        assert request.headers["authorization"] == "Bearer another"
        assert len(first.requests) == 1


ASKED = 1_800_000_000.0
DAY = 86400.0


@pytest.mark.parametrize(
    ("date", "told", "latest"),
    [
        (None, None, ASKED + DAY),
        ("nonsense", None, ASKED + DAY),
        (formatdate(ASKED - 30 * DAY, usegmt=True), ASKED - 30 * DAY, ASKED + DAY),
        (formatdate(ASKED + 30 * DAY, usegmt=True), ASKED + 30 * DAY, ASKED + 31 * DAY),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None, ASKED + DAY),
        ("Fri, 31 Dec 9999 23:59:59 GMT", None, ASKED + DAY),
        ("Fri, 01 Jan 2100 00:00:00 GMT", None, ASKED + DAY),
    ],
)
def test_times_of_runs_are_limited_by_the_later_clock(
    date: str | None, told: float | None, latest: float
) -> None:
    """However far the API's is from ours; what no clock shows is no time of it."""
    headers = {} if date is None else {"date": date}
    answered = Answer(200, headers, b"", ASKED)
    assert (answered.date_seconds, answered.latest_seconds) == (told, latest)
