"""The HTTP server over real sockets: routes, bounds, and which answers count as handed over."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from invent_exporter.errors import ListenError
from invent_exporter.web.connection import TURNS, Bounds, Connections, _network
from invent_exporter.web.listening import bind, join_address, parse_listen_address
from invent_exporter.web.routes import check_telemetry_path
from invent_exporter.web.server import Server
from tests.web.running import (
    BODY,
    DEADLINE_SECONDS,
    GET_METRICS,
    GET_READY,
    LARGE,
    POST,
    Running,
    read_answer,
    read_to_end,
    receive,
    reset,
    serving,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check it: a client's mistakes are not worth a line, and nothing here is our error."""
    yield
    assert caplog.get_records("call") == []


@pytest.fixture
def running() -> Iterator[Running]:
    """Serve with bounds of which none is met by waiting."""
    with serving() as server:
        yield server


# Routes


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/metrics", "text/plain; version=0.0.4"),
        ("/metrics?name[]=x&y=%zz", "text/plain; version=0.0.4"),
        ("/-/healthy", "text/plain; charset=utf-8"),
        ("/-/ready", "text/plain; charset=utf-8"),
        ("/", "text/html; charset=utf-8"),
        ("/api/status", "application/json"),
    ],
)
def test_reads_answer_get_and_head_alike(running: Running, path: str, content_type: str) -> None:
    """HEAD has GET's status and headers, its Content-Length too, and no body.

    Only a GET of the metrics acknowledges what it carried.
    """
    with httpx.Client(base_url=running.url, headers={"accept-encoding": "identity"}) as client:
        got, head = client.get(path), client.head(path)
        assert (got.status_code, head.status_code) == (200, 200)
        assert got.headers["content-type"] == content_type
        assert int(got.headers["content-length"]) == len(got.content) > 0
        same = set(got.headers.items()) - {("date", got.headers["date"])}
        assert same <= set(head.headers.items())
        assert head.content == b""
        assert "server" not in got.headers
        assert got.headers["x-content-type-options"] == "nosniff"
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"):
            refused = client.request(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    running.until_gone()
    assert running.acknowledged == ([7] if path.startswith("/metrics") else [])


def test_metrics_pass_the_negotiation_on(running: Running) -> None:
    """Accept and Accept-Encoding reach the exposition whole, its choice reaches the client."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
    headers = [("Accept", accept), ("Accept", "text/plain"), ("Accept-Encoding", "gzip")]
    answer = httpx.get(f"{running.url}/metrics", headers=headers)
    assert answer.content == BODY
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    with running.connect(GET_METRICS) as raw:
        assert b"content-encoding" not in read_answer(raw).lower()
    assert running.asked == [(f"{accept}, text/plain", "gzip"), ("", "")]


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/-/healthy", 503, "Stalled poll loops: org-1, org??2"),
        ("GET", "/-/ready", 503, "Not ready: the first poll of each org has not ended yet."),
        ("POST", "/-/reload", 403, "Lifecycle API is not enabled."),
        ("GET", "/-/reload", 405, "Method not allowed, expected POST"),
        *(
            ("GET", path, 404, "Not found. There is /, /-/healthy, /-/ready, /api/status, /metrics")
            for path in ("/x", "/metrics/", "//", "/-/", "/%00", "/%ff", "/..;/metrics")
        ),
    ],
)
def test_refusal_says_why_in_one_line(
    running: Running, method: str, path: str, status: int, said: str
) -> None:
    """What stalled, what is missing, what there is; never what was asked, and no line is broken."""
    running.stalled, running.ready = lambda: ("org-1", "org\r\n2"), lambda: False
    answer = httpx.request(method, running.url + path)
    assert (answer.status_code, answer.text) == (status, f"{said}\n")
    assert (status != 405) or answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("target", "status", "content_type"),
    [
        (b"http://host:10480/metrics", 200, b"text/plain; version=0.0.4"),
        (b"HTTPS://[::1]/metrics?x=http://y/", 200, b"text/plain; version=0.0.4"),
        (b"http://host/%6detrics", 200, b"text/plain; version=0.0.4"),
        (b"http://host?x=/metrics", 200, b"text/html; charset=utf-8"),
        (b"http://host/http://host/metrics", 404, b"text/plain; charset=utf-8"),
        (b"http:///metrics", 404, b"text/plain; charset=utf-8"),
        (b"ftp://host/metrics", 404, b"text/plain; charset=utf-8"),
        (b"/http://host/metrics", 404, b"text/plain; charset=utf-8"),
    ],
)
def test_target_in_absolute_form_is_answered_as_its_path(
    running: Running, target: bytes, status: int, content_type: bytes
) -> None:
    """RFC 9112, 3.2.2: a server accepts it, whatever host it names; a proxy may send it."""
    with running.connect(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n") as raw:
        head = read_answer(raw).split(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 %d " % status)
    assert b"\r\ncontent-type: " + content_type in head


def test_metrics_at_the_root_take_the_place_of_the_overview() -> None:
    """With a telemetry path of `/` there is no overview and no /metrics."""
    with serving(path="/") as running:
        assert httpx.get(running.url).content == BODY
        assert httpx.get(f"{running.url}/metrics").status_code == 404


@pytest.mark.parametrize(
    "path", ["", "metrics", "/-/ready", "/-/healthy", "/-/reload", "/a b", "/a?b", "/%41", "/é"]
)
def test_bad_telemetry_path_is_named(path: str) -> None:
    """A path that could never be reached, or is taken, is an error that names the flag."""
    with pytest.raises(ValueError, match=r"^--web\.telemetry-path: "):
        check_telemetry_path(path)


def test_answers_do_not_wait_for_the_clients_acknowledgement(running: Running) -> None:
    """Nagle's algorithm is off: it would hold the body back for 40 ms."""
    with running.connect(GET_METRICS) as raw:
        read_answer(raw)
        connection = running.only_connection()
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# What was handed over


def test_requests_sent_ahead_are_answered_one_after_the_other() -> None:
    """The next waits until the one before was handed over, and what waits is one piece of it.

    Each counts for what it carried, not for what is new when its last byte is on its way.
    """
    sent = GET_METRICS * 2 + GET_METRICS[:-2] + b"Connection: close\r\n\r\n"
    with serving(body=LARGE) as running, running.connect(sent) as raw:
        raw.recv(1, socket.MSG_PEEK)
        connection = running.only_connection()
        until(connection.transport.get_write_buffer_size, "a piece that waits")
        assert connection.transport.get_write_buffer_size() <= 2**20
        assert (len(running.asked), running.acknowledged) == (1, [])
        running.generation = 8
        for _ in range(3):
            assert read_answer(raw).endswith(LARGE)
        until(lambda: running.acknowledged == [7, 8, 8], "acknowledgements")
        assert read_to_end(raw) == b""


def test_client_that_does_not_read_is_not_answered_ahead() -> None:
    """What it sent ahead waits for it: of its answers no more is kept than small buffers take."""
    with serving(body=LARGE[:100_000]) as running, running.connect(GET_METRICS * 20):
        connection = running.only_connection()
        until(connection.transport.get_write_buffer_size, "a piece that waits")
        assert len(running.asked) <= 4


@pytest.mark.parametrize("read_bytes", [0, len(LARGE) // 2])
@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_answer_broken_off_is_not_acknowledged(
    end: Callable[[socket.socket], None], read_bytes: int
) -> None:
    """The client closed before it had all of it, in order or with a reset."""
    with serving(body=LARGE) as running:
        running.may_answer.clear()
        raw = running.connect(GET_METRICS)
        until(lambda: running.asked, "request to arrive")
        if read_bytes:
            running.may_answer.set()
            receive(raw, read_bytes)
        end(raw)
        until(lambda: not running.server._connections.by_age, "an end")
        running.may_answer.set()
        running.until_gone()
        assert running.acknowledged == []


@pytest.mark.parametrize("body_bytes", [200_000, len(LARGE)])
def test_client_that_never_reads_is_let_go_unacknowledged(body_bytes: int) -> None:
    """An answer that stays in our buffer, its last piece too, is given up on."""
    bounds = Bounds(answer_seconds=0.3)
    with serving(bounds, LARGE[:body_bytes]) as running, running.connect(GET_METRICS):
        until(lambda: running.asked, "request to arrive")
        running.until_gone()
        assert running.acknowledged == []


# Bounds


@pytest.mark.parametrize("before", [b"", GET_READY], ids=["first", "second"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("over", "status"), [(0, b"200"), (1, b"400"), (300_000, b"400")])
def test_large_header_is_refused(
    running: Running, before: bytes, parts: int, over: int, status: bytes
) -> None:
    """Above the bound, to the byte: in one piece or more, and behind another request."""
    size = Bounds.header_bytes + over
    header = GET_METRICS[:-2] + b"Connection: close\r\nX: "
    sent = before + header + b"a" * (size - len(header) - 4) + b"\r\n\r\n"
    with running.connect() as raw, contextlib.suppress(ConnectionError):
        for part in (sent[: len(sent) // parts], sent[len(sent) // parts :]):
            raw.sendall(part)
        if before:
            assert read_answer(raw).endswith(b"Ready.\n")
        assert read_to_end(raw).startswith(b"HTTP/1.1 " + status)
    running.until_gone()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HT", GET_METRICS + b"GET /metr"])
@pytest.mark.parametrize("trickle", [b"", b"G"])
def test_slow_header_is_ended(sent: bytes, trickle: bytes) -> None:
    """A header that does not come to its end in time; bytes one by one don't buy time."""
    with serving(Bounds(header_seconds=0.2)) as running, running.connect(sent) as raw:

        def has_ended() -> bool:
            try:
                raw.sendall(trickle)
                return raw.recv(65536) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        raw.settimeout(0.005)
        until(has_ended, "its end")
        running.until_gone()


def test_idle_connection_is_ended() -> None:
    """A connection without a request for the idle time is ended in order, with a FIN."""
    with serving(Bounds(idle_seconds=0)) as running, running.connect(GET_READY) as raw:
        assert read_to_end(raw).endswith(b"Ready.\n")


def test_full_house_makes_room_for_the_newest() -> None:
    """Clients that only hold connections open cannot keep a scraper out."""
    with serving(Bounds(connections=5)) as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(running.connect()) for _ in range(5)]
        until(lambda: len(running.server._connections.by_age) == 5, "connections to be made")
        held[0].sendall(GET_READY)
        read_answer(held[0])
        assert httpx.get(f"{running.url}/metrics").status_code == 200
        assert read_to_end(held[1]) == b""
        held[0].sendall(GET_READY)
        assert read_answer(held[0]).endswith(b"Ready.\n")


def test_client_that_does_not_read_makes_room_too() -> None:
    """We don't work on its answer, we wait for it."""
    with serving(Bounds(connections=1), LARGE) as running, running.connect(GET_METRICS) as raw:
        raw.recv(1)
        assert httpx.get(f"{running.url}/-/ready").status_code == 200
        assert len(read_to_end(raw)) < len(LARGE)


def test_running_answers_are_not_given_up_for_new_connections() -> None:
    """When all connections wait for an answer, a new one is ended."""
    with serving(Bounds(connections=2)) as running, contextlib.ExitStack() as stack:
        running.may_answer.clear()
        held = [stack.enter_context(running.connect(GET_METRICS)) for _ in range(2)]
        until(lambda: len(running.asked) == 2, "requests to arrive")
        with running.connect() as late:
            assert read_to_end(late) == b""
        running.may_answer.set()
        for raw in held:
            assert read_answer(raw).endswith(BODY)


def test_one_peer_cannot_take_the_place_of_others() -> None:
    """Above its own bound, the connection that it used longest ago gives way to its newest."""
    with (
        serving(Bounds(connections_of_one_peer=2)) as running,
        running.connect(source="127.0.0.2") as other,
        running.connect() as first,
    ):
        until(lambda: len(running.server._connections.by_age) == 2, "connections to be made")
        for _ in range(3):
            with running.connect(GET_READY) as raw:
                assert read_answer(raw).endswith(b"Ready.\n")
                with running.connect(GET_READY) as another:
                    assert read_answer(another).endswith(b"Ready.\n")
        assert read_to_end(first) == b""
        other.sendall(GET_READY)
        assert read_answer(other).endswith(b"Ready.\n")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_peer_is_who_can_choose_its_address(one: str, other: str, *, is_same: bool) -> None:
    """Of IPv6 each has half an address for itself; IPv4 may come in IPv6's form."""
    assert (_network(one) == _network(other)) == is_same


def test_who_asks_seldom_has_its_turn_before_a_flood() -> None:
    """Few requests are looked at in a round of the loop; a peer's that was served longest ago."""
    rounds: list[Callable[[], None]] = []
    everyone = Connections(Bounds())
    served: list[str] = []

    def ask(peer: str) -> None:
        asking = Mock(peer=peer, go_on=lambda: served.append(peer))
        asking.loop.call_soon = rounds.append
        everyone.give_turn(asking)

    for _ in range(TURNS * 5):
        ask("flood")
    assert served == ["flood"] * TURNS
    rounds.pop()()
    assert served == ["flood"] * TURNS * 2
    ask("scraper")
    rounds.pop()()
    assert served[TURNS * 2 :] == ["scraper", *["flood"] * (TURNS - 1)]
    while rounds:
        rounds.pop()()
    assert len(served) == TURNS * 5 + 1
    ask("flood")
    assert len(served) == TURNS * 5 + 2


def test_answers_under_way_have_a_limit_and_health_is_apart() -> None:
    """One more is refused, as client_golang's handlers do it, until one is done."""
    with serving(Bounds(answers=2)) as running, contextlib.ExitStack() as stack:
        running.may_answer.clear()
        held = [stack.enter_context(running.connect(GET_METRICS)) for _ in range(2)]
        until(lambda: len(running.asked) == 2, "requests to arrive")
        for path in ("/metrics", "/"):
            refused = httpx.get(running.url + path)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert refused.text == "Limit of concurrent requests reached (2), try again later.\n"
        assert httpx.get(f"{running.url}/-/ready").status_code == 200
        running.may_answer.set()
        for raw in held:
            assert read_answer(raw).endswith(BODY)
        assert httpx.get(f"{running.url}/metrics").status_code == 200


def test_answer_that_nobody_reads_gives_way_to_one_more() -> None:
    """The one whose client has not read for the longest; so nobody starves a scraper."""
    with (
        serving(Bounds(answers=2), LARGE) as running,
        running.connect(GET_METRICS) as reading,
        running.connect(GET_METRICS) as stuck,
    ):
        until(lambda: len(running.server._connections.answered) == 2, "answers to begin")
        receive(reading, len(LARGE) // 2)
        assert httpx.get(f"{running.url}/metrics").content == LARGE
        assert len(read_to_end(stuck)) < len(LARGE)
        receive(reading, len(LARGE) // 2)


def test_out_of_descriptors_is_said_once_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only takes up room gives a descriptor back; the next try takes it."""
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.01)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        capture_logs() as logs,
        serving(Bounds(header_seconds=1000.0)) as running,
        running.connect() as idle,
    ):
        until(lambda: running.server._connections.by_age, "the connection")
        with socket.socket() as late:
            late.settimeout(DEADLINE_SECONDS)
            # A new one has the lowest number that is free.
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, limits[1]))
            try:
                late.connect(running.server.addresses[0])
                late.sendall(GET_READY)
                assert read_answer(late).endswith(b"Ready.\n")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert read_to_end(idle) == b""
    assert [line["event"] for line in logs] == ["a connection can't be accepted"]


@pytest.mark.parametrize("body", [b"", b"5\r\nhello\r\n" * 1000])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Content-Length: 99999999", b"413"),
        (b"Content-Length: 5", b"403"),
        (b"Content-Length: 5\r\nExpect: 100-continue", b"403"),
        (b"Transfer-Encoding: chunked", b"403"),
    ],
)
def test_request_with_a_body_is_answered_and_ends(
    running: Running, header: bytes, status: bytes, body: bytes
) -> None:
    """No body is waited for; the connection ends after the answer."""
    with running.connect(POST + header + b"\r\n\r\n" + body) as raw:
        answer = read_to_end(raw)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_body_that_is_none_ends_the_connection(running: Running) -> None:
    """The answer is under way by then, so there is no second one."""
    with running.connect(POST + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n") as raw:
        assert read_to_end(raw) == b""


def test_endless_body_is_broken_off(running: Running) -> None:
    """A client that sends on after its answer is cut off, not read forever."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with (
        running.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n") as raw,
        pytest.raises(ConnectionError),
    ):
        raw.sendall(chunk * 1000)
    running.until_gone()


# Start and stop


@pytest.mark.parametrize("host", ["", "127.0.0.1", "[::1]", "localhost"])
def test_listen_address_is_split(host: str) -> None:
    """Host and port, with an IPv6 address in brackets; it is written in the same way."""
    assert parse_listen_address(f"{host}:10480") == (host.strip("[]"), 10480)
    assert join_address(host.strip("[]"), 10480) == f"{host}:10480"


@pytest.mark.parametrize(
    "address", ["", "10480", "x", "x:", ":65536", ":-1", "::1:80", "[::1]", "[x]:1", "[]:1", ":²"]
)
def test_bad_listen_address_is_explained(address: str) -> None:
    """The error quotes it and shows what is right, in one line."""
    with pytest.raises(ValueError, match=rf"^{re.escape(repr(address))} .* expected HOST:PORT.*$"):
        parse_listen_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_busy_port_is_one_line_that_names_the_flag(running: Running, host: str) -> None:
    """The error says which address, why, and what to do; what was bound before it is free again."""
    port = running.server.addresses[0][1]
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = found.getsockname()
    with pytest.raises(ListenError) as caught:
        Server(cast("Any", None), [free, (host, port)])
    assert str(caught.value) == (
        f"--web.listen-address: cannot listen on {host}:{port}: Address already in use; "
        "another program or an address before has this port, choose a free one"
    )
    socket.create_server(free).close()


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "a" * 80])
def test_unusable_host_is_one_line_that_names_the_flag(host: str) -> None:
    """A host that is not ours, or no host, is named with what was expected."""
    expected = rf"^--web\.listen-address: cannot listen on {host}:0: .*; .*$"
    with pytest.raises(ListenError, match=expected):
        bind(host, 0, contextlib.ExitStack())


@pytest.mark.parametrize("host", ["", "::", "0::0", "::1"])
def test_no_host_and_the_any_address_listen_on_ipv4_and_ipv6(host: str) -> None:
    """All interfaces, of both kinds where the machine has both; who names one means that one."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6 that takes IPv4 as well")
    with (
        contextlib.ExitStack() as opened,
        socket.socket() as version4,
        socket.socket(socket.AF_INET6) as version6,
    ):
        (listening,) = bind(host, 0, opened)
        port = listening.getsockname()[1]
        version6.connect(("::1", port))
        assert (version4.connect_ex(("127.0.0.1", port)) == 0) == (host != "::1")


def test_stop_ends_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, within a header, with an answer that nobody reads, and with one that never comes."""
    monkeypatch.setattr("invent_exporter.web.server.STOP_SECONDS", 0.1)
    with serving(body=LARGE) as running, contextlib.ExitStack() as stack:
        idle = stack.enter_context(running.connect(GET_READY))
        read_answer(idle)
        half = stack.enter_context(running.connect(b"GET /me"))
        stack.enter_context(running.connect(GET_METRICS)).recv(1)
        running.may_answer.clear()
        stuck = stack.enter_context(running.connect(GET_METRICS))
        until(lambda: len(running.asked) == 2, "requests to arrive")
        running.call(running.server.stop())
        assert not running.server._connections.by_age
        assert [read_to_end(each) for each in (idle, half, stuck)] == [b"", b"", b""]
        assert running.acknowledged == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(running.server.addresses[0], DEADLINE_SECONDS)


def test_stop_lets_a_running_answer_finish(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes within the stop's time is handed over whole; who is idle goes at once."""
    monkeypatch.setattr("invent_exporter.web.server.STOP_SECONDS", DEADLINE_SECONDS)
    with running.connect(GET_READY) as idle, running.connect() as raw:
        read_answer(idle)
        running.may_answer.clear()
        raw.sendall(GET_METRICS)
        until(lambda: running.asked, "request to arrive")
        stopping = asyncio.run_coroutine_threadsafe(running.server.stop(), running.loop)
        assert read_to_end(idle) == b""
        running.may_answer.set()
        assert read_to_end(raw).endswith(BODY)
        stopping.result(DEADLINE_SECONDS)
        assert running.acknowledged == [7]


# Anything at all

TOKEN = st.text("abcXYZ-_/.%?#&=;:@!$'()*+,0123456789~", max_size=40).map(str.encode)
METHOD = st.sampled_from([b"GET", b"HEAD", b"POST", b"CONNECT", b"TRACE"]) | TOKEN
PATH = st.sampled_from([b"*", b"http://x/metrics"]) | TOKEN.map(lambda token: b"/" + token)
HEADERS = st.lists(st.binary(max_size=60).map(lambda line: line + b"\r\n"), max_size=5)
REQUEST = st.builds(
    b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n".__mod__, st.tuples(METHOD, PATH, HEADERS.map(b"".join))
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One server for many requests."""
    with serving() as server:
        yield server


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(REQUEST | st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_whatever_comes_is_no_error_of_ours(shared: Running, parts: list[bytes]) -> None:
    """An answer that is not a 500, or an end, and the server serves on."""
    with shared.connect() as raw:
        with contextlib.suppress(OSError):
            for each in parts:
                raw.sendall(each)
            raw.shutdown(socket.SHUT_WR)
        assert read_to_end(raw)[:10] in (b"", b"HTTP/1.1 2", b"HTTP/1.1 4")
    with shared.connect(GET_READY) as raw:
        assert read_answer(raw).endswith(b"Ready.\n")
