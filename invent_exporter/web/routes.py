"""The HTTP routes: metrics, health, readiness and the overview for people.

Five paths do not need a framework: each request is looked up in one table, and everything that is
answered is in memory already.

Longer than most modules: one method for each path.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from invent_exporter.web.api_status import API_STATUS_PATH, encode
from invent_exporter.web.overview import CONTENT_SECURITY_POLICY, Chosen, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from invent_exporter.collector.status import OrgElsewhere, OrgStatus
    from invent_exporter.collector.supervisor import Supervisor
    from invent_exporter.metrics.exposition import Answer, Exposition
    from invent_exporter.web.connection import Connection, Connections

HEALTHY_PATH = "/-/healthy"
READY_PATH = "/-/ready"
HEALTH_PATHS = (HEALTHY_PATH, READY_PATH)
RELOAD_PATH = "/-/reload"
OVERVIEW_PATH = "/"
BODY_BYTES_MAX = 64 * 1024
"""No route reads a body; one above this is refused by name, others end the connection."""
PIECE_BYTES = 256 * 1024
"""What of an answer is in our own buffers at a time, however slowly a client reads it."""

_ABSOLUTE_FORM = re.compile(rb"https?://[^/]+(.*)", re.IGNORECASE)
_TEXT = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
_JSON = {"content-type": "application/json", "cache-control": "no-store"}
_OVERVIEW = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Response:
    """An answer to one request, headers without the length."""

    status: int
    headers: dict[str, str]
    body: bytes | Answer
    on_handed_over: Callable[[], None] = lambda: None
    sending: Callable[[], AbstractContextManager[None]] = nullcontext
    """What is around it while it is sent."""

    @property
    def size_bytes(self) -> int:
        """The length of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """Cut and join the body, so that all pieces but the last have `PIECE_BYTES` at least."""
        parts = (self.body,) if isinstance(self.body, bytes) else self.body.parts()
        ahead, ahead_bytes = [], 0
        for part in parts:
            for start in range(0, len(part), PIECE_BYTES):
                ahead.append(part[start : start + PIECE_BYTES])
                ahead_bytes += len(ahead[-1])
                if ahead_bytes >= PIECE_BYTES:
                    yield b"".join(ahead)
                    ahead, ahead_bytes = [], 0
        yield b"".join(ahead)


def text(status: int, line: str, **headers: str) -> Response:
    """Answer one line of plain text, whatever names are in it."""
    line = "".join(character if character.isprintable() else "?" for character in line)
    return Response(status, _TEXT | headers, f"{line}\n".encode())


async def send_response(scope: HTTPScope, send: ASGISendCallable, response: Response) -> None:
    """Send it in pieces, and tell the response when a GET was handed over whole."""
    named = {"date": formatdate(usegmt=True), "x-content-type-options": "nosniff"}
    named |= response.headers | {"content-length": str(response.size_bytes)}
    if _body_bytes(scope) != 0:  # nobody reads it
        named["connection"] = "close"
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    connection: Connection = scope["state"]["connection"]
    with response.sending():
        for piece in () if scope["method"] == "HEAD" else response.pieces():
            if connection.transport.is_closing():
                connection.abort()  # asyncio would warn of each piece more
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if scope["method"] == "GET" and await connection.handed_over():
            response.on_handed_over()
    # uvicorn sends nothing before its buffer is empty: the request ends when all has left us.
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Application:
    """The exporter as an ASGI application."""

    def __init__(
        self,
        exposition: Exposition,
        health: Supervisor,
        statuses: Callable[[], Iterable[OrgStatus]],
        *,
        elsewhere: Callable[[], Sequence[OrgElsewhere]] = lambda: (),
        telemetry_path: str = "/metrics",
        clock: Callable[[], float] = time.time,
        reload: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        """Serve the metrics at `telemetry_path`; at `/` they take the place of the overview.

        `reload`, where it is allowed, reads the configuration again and says why it could not.
        """
        self._exposition = exposition
        self._health = health
        self._statuses = statuses
        self._elsewhere = elsewhere
        self._telemetry_path = telemetry_path
        self._clock = clock
        self._reload = reload
        self._reads: dict[str, Callable[[HTTPScope], Awaitable[Response]]] = {
            OVERVIEW_PATH: self._overview,
            HEALTHY_PATH: self._healthy,
            READY_PATH: self._ready,
            API_STATUS_PATH: self._api_status,
            telemetry_path: self._metrics,
        }
        self._not_found = text(404, f"Not found. There is {', '.join(sorted(self._reads))}")

    async def __call__(
        self, scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await send_response(scope, send, await self._respond(scope))

    async def health(
        self, scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request about health alone, as an application of its own."""
        if scope["type"] == "http":
            is_known = _path(scope) in HEALTH_PATHS
            response = await self._respond(scope) if is_known else self._not_found
            await send_response(scope, send, response)

    async def _respond(self, scope: HTTPScope) -> Response:
        path, method = _path(scope), scope["method"]
        if (_body_bytes(scope) or 0) > BODY_BYTES_MAX:
            return text(413, f"Request body too large: at most {BODY_BYTES_MAX} bytes")
        if path == RELOAD_PATH:
            return await self._reloaded(method)
        if path not in self._reads:
            return self._not_found
        if method not in ("GET", "HEAD"):
            return text(405, "Method not allowed, expected GET", allow="GET, HEAD")
        everyone: Connections = scope["state"]["connection"].everyone
        if path not in HEALTH_PATHS and not everyone.begin_answer(scope["state"]["connection"]):
            limit = everyone.bounds.answers
            line = f"Limit of concurrent requests reached ({limit}), try again later."
            return text(503, line, connection="close")
        return await self._reads[path](scope)

    async def _metrics(self, scope: HTTPScope) -> Response:
        answer = await self._exposition.answer(
            header(scope, b"accept"), header(scope, b"accept-encoding")
        )
        form = {"content-type": answer.content_type, "vary": "Accept, Accept-Encoding"}
        if answer.content_encoding is not None:
            form["content-encoding"] = answer.content_encoding
        acknowledge = partial(self._exposition.acknowledge, answer.generation)
        return Response(200, form, answer, acknowledge, self._exposition.sending)

    async def _reloaded(self, method: str) -> Response:
        if method != "POST":
            return text(405, "Method not allowed, expected POST", allow="POST")
        if self._reload is None:
            return text(403, "Lifecycle API is not enabled.")
        problem = await self._reload()
        return text(200, "Reloaded.") if problem is None else text(500, problem)

    async def _healthy(self, _scope: HTTPScope) -> Response:
        if stalled := self._health.stalled():
            return text(503, "Stalled poll loops: " + ", ".join(stalled))
        return text(200, "Healthy.")

    async def _ready(self, _scope: HTTPScope) -> Response:
        if not self._health.ready():
            return text(503, "Not ready: the first poll of each org has not ended yet.")
        return text(200, "Ready.")

    async def _api_status(self, _scope: HTTPScope) -> Response:
        # In whole seconds, so that HEAD tells the length that GET has.
        now = float(int(self._clock()))
        body = encode(self._statuses(), now=now, elsewhere=self._elsewhere())
        return Response(200, _JSON, body)

    async def _overview(self, scope: HTTPScope) -> Response:
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        # In a thread: of many orgs it is a large page, and scrapes go on meanwhile.
        html = await asyncio.to_thread(
            render,
            [*self._statuses()],
            telemetry_path=self._telemetry_path,
            now=self._clock(),
            chosen=Chosen(asked.get("org"), asked.get("workflow")),
            elsewhere=self._elsewhere(),
        )
        return Response(200, _OVERVIEW, html.encode("utf-8", "replace"))


def check_telemetry_path(path: str) -> str:
    """Return the path unchanged.

    Raises:
        ValueError: it is not a path, or is taken by another route.

    """
    if not path.startswith("/") or not path.isascii() or not path.isprintable():
        wrong = f"{path!r} is not a path, expected one such as /metrics"
    elif any(character in path for character in "?#% "):
        wrong = f"{path!r} may not contain ?, #, % or spaces"
    elif path in (*HEALTH_PATHS, RELOAD_PATH, API_STATUS_PATH):
        wrong = f"{path} is taken, expected another such as /metrics"
    else:
        return path
    raise ValueError(f"--web.telemetry-path: {wrong}")


def _path(scope: HTTPScope) -> str:
    """Return the path, also of a target that begins with scheme and host (RFC 9112, 3.2.2)."""
    absolute = _ABSOLUTE_FORM.fullmatch(scope["raw_path"])
    if absolute is None:
        return scope["path"]
    return unquote(absolute[1].decode("ascii")) or OVERVIEW_PATH


def header(scope: HTTPScope, name: bytes) -> str:
    """Join the values of one header, as RFC 9110, 5.2 has it; empty when it is missing."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _body_bytes(scope: HTTPScope) -> int | None:
    """Tell how long the request's body is; None for one that comes in chunks."""
    if header(scope, b"transfer-encoding"):
        return None
    return int(header(scope, b"content-length") or 0)  # h11 lets nothing else through
