"""The HTTP routes: metrics, health, readiness and the page for people.

Five paths do not need a framework: each request is looked up in one table, and everything that is
answered is in memory already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from invent_exporter.web.page import CONTENT_SECURITY_POLICY, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from invent_exporter.metrics.exposition import Answer
    from invent_exporter.web.page import PageView

HEALTHY_PATH = "/-/healthy"
READY_PATH = "/-/ready"
RELOAD_PATH = "/-/reload"
PAGE_PATH = "/"
BODY_BYTES_MAX = 64 * 1024
"""No route reads a body; one above this is refused by name, others end the connection."""

Headers = list[tuple[bytes, bytes]]

_TEXT: Headers = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
_PAGE: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Exposition(Protocol):
    """Where the metrics come from."""

    async def answer(self, accept: str, accept_encoding: str) -> Answer:
        """Choose the form for these request headers; returns at once but for a form's first use."""

    def acknowledge(self, generation: int) -> None:
        """Learn that an answer of this generation was delivered whole."""


class Health(Protocol):
    """How the process is."""

    def stalled(self) -> tuple[str, ...]:
        """Name the poll loops that stalled; empty when all is well."""

    def ready(self) -> bool:
        """Tell whether each org's first attempt has ended."""


class Connection(Protocol):
    """What the server says about the connection that a request came on (see http_protocol)."""

    def when_delivered(self, callback: Callable[[], None]) -> None:
        """Call back once the answer that is being sent was delivered whole, never otherwise."""


@dataclass(frozen=True)
class Response:
    """An answer to one request, headers without the length."""

    status: int
    headers: Headers
    body: bytes
    generation: int | None = None


def text(status: int, line: str, *headers: tuple[bytes, bytes]) -> Response:
    """Answer one line of plain text."""
    return Response(status, [*_TEXT, *headers], f"{line}\n".encode())


class Application:
    """The exporter as an ASGI application."""

    def __init__(
        self,
        exposition: Exposition,
        health: Health,
        page: Callable[[], PageView],
        *,
        telemetry_path: str = "/metrics",
    ) -> None:
        """Serve the metrics at `telemetry_path`; at `/` they take the place of the page.

        :raises ValueError: when the path is not one, or is taken by another route.
        """
        self._exposition = exposition
        self._health = health
        self._view = page
        self._reads: dict[str, Callable[[HTTPScope], Awaitable[Response]]] = {
            PAGE_PATH: self._page,
            HEALTHY_PATH: self._healthy,
            READY_PATH: self._ready,
            check_telemetry_path(telemetry_path): self._metrics,
        }
        listed = ", ".join(sorted(self._reads))
        self._not_found = text(404, f"Not found. There is {listed}")

    async def __call__(
        self, scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        body_bytes = _body_bytes(scope["headers"])
        if body_bytes is not None and body_bytes > BODY_BYTES_MAX:
            response = text(413, f"Request body too large: at most {BODY_BYTES_MAX} bytes")
        else:
            response = await self._respond(scope)
        headers = [*response.headers, (b"content-length", str(len(response.body)).encode())]
        if body_bytes != 0:  # nobody reads it
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.generation is not None and scope["method"] == "GET":
            self._acknowledge_delivery(scope, response.generation)
        await send({"type": "http.response.body", "body": response.body, "more_body": False})

    async def _respond(self, scope: HTTPScope) -> Response:
        path, method = scope["path"], scope["method"]
        if path == RELOAD_PATH:
            if method != "POST":
                return text(405, "Method not allowed, expected POST", (b"allow", b"POST"))
            return text(403, "Lifecycle API is not enabled.")
        route = self._reads.get(path)
        if route is None:
            return self._not_found
        if method not in ("GET", "HEAD"):
            return text(405, "Method not allowed, expected GET", (b"allow", b"GET, HEAD"))
        return await route(scope)

    def _acknowledge_delivery(self, scope: HTTPScope, generation: int) -> None:
        connection: Connection | None = scope.get("state", {}).get("connection")
        if connection is not None:
            connection.when_delivered(lambda: self._exposition.acknowledge(generation))

    async def _metrics(self, scope: HTTPScope) -> Response:
        headers = scope["headers"]
        answer = await self._exposition.answer(
            _header(headers, b"accept"), _header(headers, b"accept-encoding")
        )
        form = [
            (b"content-type", answer.content_type.encode("latin-1")),
            (b"vary", b"Accept, Accept-Encoding"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if answer.content_encoding is not None:
            form.append((b"content-encoding", answer.content_encoding.encode("latin-1")))
        return Response(200, form, answer.body, answer.generation)

    async def _healthy(self, _scope: HTTPScope) -> Response:
        stalled = self._health.stalled()
        if stalled:
            return text(503, "Stalled poll loops: " + ", ".join(map(_one_line, stalled)))
        return text(200, "Healthy.")

    async def _ready(self, _scope: HTTPScope) -> Response:
        if self._health.ready():
            return text(200, "Ready.")
        return text(503, "Not ready: the first poll of each org has not ended yet.")

    async def _page(self, _scope: HTTPScope) -> Response:
        return Response(200, _PAGE, render(self._view()).encode("utf-8", "replace"))


def check_telemetry_path(path: str) -> str:
    """Return the path unchanged.

    :raises ValueError: when it is not a path, or is taken by another route.
    """
    if not path.startswith("/") or not path.isascii() or not path.isprintable():
        message = f"--web.telemetry-path: {path!r} is not a path, expected one such as /metrics"
        raise ValueError(message)
    if any(character in path for character in "?#% "):
        message = f"--web.telemetry-path: {path!r} may not contain ?, #, % or spaces"
        raise ValueError(message)
    if path in (HEALTHY_PATH, READY_PATH, RELOAD_PATH):
        message = f"--web.telemetry-path: {path} is taken, expected another such as /metrics"
        raise ValueError(message)
    return path


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """Join the values of one header, as RFC 9110, 5.2 has it; empty when it is missing."""
    return ", ".join([value.decode("latin-1") for key, value in headers if key == name])


def _body_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Tell how long the request's body is; None for one that comes in chunks."""
    for key, value in headers:
        if key == b"transfer-encoding":
            return None
        if key == b"content-length":
            return int(value)
    return 0


def _one_line(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)
