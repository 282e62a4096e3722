"""A server in a thread of its own, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from invent_exporter.metrics.exposition import Answer
from invent_exporter.web.connection import Bounds, Connection
from invent_exporter.web.guard import WebFile
from invent_exporter.web.listening import HealthPlace
from invent_exporter.web.routes import Application
from invent_exporter.web.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

DEADLINE_SECONDS = 20.0
GET_METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
GET_READY = b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /-/reload HTTP/1.1\r\nHost: x\r\n"
BODY = b"invent_up 1\n" * 100
LARGE = b"x" * 3_000_000
"""More than all buffers on the way take."""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, or fail with what it was."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


@dataclass
class Running:
    """A server in a thread of its own, what it serves, and what that was asked for and told."""

    body: bytes
    generation: int = 7
    asked: list[tuple[str, str]] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    stalled: Callable[[], tuple[str, ...]] = tuple
    ready: Callable[[], bool] = lambda: True
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    server: Server = field(init=False)

    async def answer(self, accept: str, accept_encoding: str) -> Answer:
        """Answer gzip when it is accepted."""
        self.asked.append((accept, accept_encoding))
        while not self.may_answer.is_set():  # noqa: ASYNC110 -- set by another thread
            await asyncio.sleep(0.005)
        if "gzip" in accept_encoding:
            return self._answer("text/plain", "gzip", gzip.compress(self.body))
        return self._answer("text/plain; version=0.0.4", None, self.body)

    def _answer(self, content_type: str, encoding: str | None, body: bytes) -> Answer:
        return Answer(self.generation, content_type, encoding, len(body), lambda: iter((body,)))

    sending = staticmethod(nullcontext)

    def acknowledge(self, generation: int) -> None:
        """Note it."""
        self.acknowledged.append(generation)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server.addresses[0][1]}"

    def connect(self, sent: bytes = b"", *, source: str = "127.0.0.1") -> socket.socket:
        """Open a raw connection, with a small buffer, and send something."""
        raw = socket.socket()
        raw.settimeout(DEADLINE_SECONDS)
        raw.bind((source, 0))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        raw.connect(self.server.addresses[0])
        raw.sendall(sent)
        return raw

    def only_connection(self) -> Connection:
        """Wait for the one that there is."""
        until(lambda: self.server._connections.by_age, "the connection")
        (connection,) = tuple(self.server._connections.by_age)
        assert isinstance(connection, Connection)
        return connection

    def call(self, task: Coroutine[None, None, None]) -> None:
        """Run it in the server's thread."""
        asyncio.run_coroutine_threadsafe(task, self.loop).result(DEADLINE_SECONDS)

    def until_gone(self) -> None:
        """Wait until the server has let go of all connections, so that nothing can follow."""
        until(
            lambda: not self.server._connections.by_age and not self.server._state.tasks, "an end"
        )


@contextlib.contextmanager
def serving(
    bounds: Bounds | None = None,
    body: bytes = BODY,
    path: str = "/metrics",
    file: WebFile | None = None,
    health: HealthPlace | None = None,
) -> Iterator[Running]:
    """Serve on a free loopback port, as a web configuration has it, if there is one."""
    running = Running(body)
    running.may_answer.set()
    both = cast("Any", running)
    app = Application(both, both, lambda: (), telemetry_path=path)
    running.server = Server(
        app if file is None else file.guard(app),
        [("127.0.0.1", 0)],
        bounds=bounds,
        tls=None if file is None else file.tls,
        health=None if health is None else (app.health, health),
    )
    thread = threading.Thread(target=running.loop.run_forever)
    thread.start()
    try:
        running.call(running.server.start())
        yield running
    finally:
        running.may_answer.set()
        running.call(running.server.stop())
        running.loop.call_soon_threadsafe(running.loop.stop)
        thread.join(DEADLINE_SECONDS)
        running.loop.close()


def receive(raw: socket.socket, size: int) -> bytes:
    """Read so much, and not a byte more."""
    received = b""
    while len(received) < size:
        received += (part := raw.recv(size - len(received)))
        assert part, f"ended after {len(received)} of {size} bytes"
    return received


def read_answer(raw: socket.socket) -> bytes:
    """Read one answer with a Content-Length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(raw, 1)
    return head + receive(raw, int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


def read_to_end(raw: socket.socket) -> bytes:
    """Read until the server ends the connection, in whichever way."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := raw.recv(65536):
            received += part
    return received


def reset(raw: socket.socket) -> None:
    """Close with a reset."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
