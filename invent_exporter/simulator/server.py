"""The simulated service over HTTP, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import parse_qsl, unquote

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from invent_exporter.simulator.catalogue import quiet_world
from invent_exporter.simulator.control import PREFIX, control
from invent_exporter.simulator.faults import Fault
from invent_exporter.simulator.service import Request, SeenRequest, Service, Settings

if TYPE_CHECKING:
    from types import TracebackType

    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

    from invent_exporter.simulator.faults import Answer, Faults
    from invent_exporter.simulator.world import World

_DRIPS = 20
_ENDLESS_PIECE = b" " * 65_536
_TRANSPORT = "simulator.transport"
_LINGER_NOT = struct.pack("ii", 1, 0)


class _Protocol(H11Protocol):
    """Hands the connection to the application: ASGI itself has no way to break one off."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        application = cast("ASGI3Application", self.app)

        async def with_transport(
            scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
        ) -> None:
            cast("dict[str, Any]", scope)[_TRANSPORT] = transport
            await application(scope, receive, send)

        self.app = with_transport


class _Application:
    """The ASGI application of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "http":
            return
        transport: asyncio.Transport = cast("dict[str, Any]", scope)[_TRANSPORT]
        client = scope["client"]
        authorization = dict(scope["headers"]).get(b"authorization")
        request = Request(
            method=scope["method"],
            path=unquote(scope["path"]),
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            authorization=None if authorization is None else authorization.decode("latin-1"),
            client="" if client is None else client[0],
        )
        if request.path.startswith(PREFIX):
            answer = control(self._service, request, await _read_body(receive))
        else:
            answer = self._service.handle(request)
        await asyncio.sleep(answer.wait_seconds)
        if answer.manner in ("cut_off", "reset"):
            _break_off(answer, transport)
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await _send(answer, send, transport, is_head=request.method == "HEAD")


async def _read_body(receive: ASGIReceiveCallable) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def _send(
    answer: Answer, send: ASGISendCallable, transport: asyncio.Transport, *, is_head: bool
) -> None:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    if answer.manner != "endless":
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": headers,
            "trailers": False,
        }
    )

    async def send_piece(piece: bytes, *, is_last: bool = False) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": not is_last})

    if answer.manner == "endless" and not is_head:
        await send_piece(answer.body[:1])
        while not transport.is_closing():
            await send_piece(_ENDLESS_PIECE)
            await asyncio.sleep(0)
        return
    if answer.manner == "drip":
        size = len(answer.body) // _DRIPS + 1
        for start in range(0, len(answer.body), size):
            if transport.is_closing():
                return
            await send_piece(answer.body[start : start + size])
            await asyncio.sleep(answer.drip_seconds / _DRIPS)
        await send_piece(b"", is_last=True)
        return
    await send_piece(answer.body, is_last=True)


def _break_off(answer: Answer, transport: asyncio.Transport) -> None:
    if answer.manner == "reset":
        # With a linger of 0 the kernel sends RST, not FIN.
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        transport.abort()
        return
    lines = [f"HTTP/1.1 {answer.status} Simulated", f"content-length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    sent = min(len(answer.body) - 1, round(len(answer.body) * answer.sent_share))
    transport.write(head + answer.body[:sent])
    transport.close()


def _listen(address: tuple[str, int]) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is: without
    # that each small answer over a kept connection takes 40 ms.
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class SimulatorServer:
    """Serves a world on a loopback port while it is entered.

    The world, the faults and the settings may be used directly from other threads.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        settings: Settings | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Prepare to serve `world`, by default a quiet one; port 0 takes a free one."""
        self.service = Service(quiet_world() if world is None else world, settings=settings)
        self._address = (host, port)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start to serve.

        Raises:
            OSError: the address can't be had.

        """
        listener = _listen(self._address)
        self._address = listener.getsockname()[:2]
        config = uvicorn.Config(
            _Application(self.service),
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=60,
        )
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: server.run(sockets=[listener]), name="simulator", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, without waiting for answers that are still under way."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def world(self) -> World:
        """The world that is served."""
        return self.service.world

    @property
    def faults(self) -> Faults:
        """The faults that are switched on."""
        return self.service.faults

    @property
    def settings(self) -> Settings:
        """The settings; they may be changed while it serves."""
        return self.service.settings

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The requests to the API that were seen, oldest first."""
        with self.world.lock:
            return tuple(self.service.requests)

    def add_faults(self, *faults: Fault) -> None:
        """Switch faults on, from now."""
        self.faults.add(*faults, now=self.world.clock())

    def forget_requests(self) -> None:
        """Start the memory of requests anew."""
        self.service.forget_requests()
