"""How the server starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from ssl import SSLContext
from typing import Any, Self

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from invent_exporter.log import get_logger
from invent_exporter.web.connection import Bounds, Connection, Connections, Handshake
from invent_exporter.web.listening import HealthPlace, bind, bind_unix

STOP_SECONDS = 1.5
"""How long running answers may go on after a stop."""
ACCEPTED_AT_A_TIME, WAITING_TO_BE_ACCEPTED = 4, 1024
"""A flood of connections must not keep the loop from those that are there."""
SCARCITY_SECONDS, GIVEN_BACK = 60.0, 8
"""How often it is said that there is no descriptor for a connection, and how many each try that
fails takes from those that only take up room."""

log = get_logger(__name__)


@dataclass(frozen=True)
class _Listener:
    """A socket, and what is served on it."""

    app: ASGI3Application
    socket: socket.socket
    tls: SSLContext | None


class Server:
    """Serves an ASGI application in the running event loop; signals stay the caller's."""

    def __init__(
        self,
        app: ASGI3Application,
        addresses: Sequence[tuple[str, int]],
        *,
        bounds: Bounds | None = None,
        tls: SSLContext | None = None,
        health: tuple[ASGI3Application, HealthPlace] | None = None,
    ) -> None:
        """Bind the sockets of every host and port; connections wait there until `start`.

        `health` is another application at a place of its own, without TLS.

        Raises:
            ListenError: one line that names the flag, the address and what is wrong with it.

        """
        self._bounds = bounds or Bounds()
        self._state = ServerState()
        self._connections = Connections(self._bounds)
        self._scarce_since = -inf
        self._servers: list[asyncio.Server] = []
        self._listeners: list[_Listener] = []
        self.addresses: list[tuple[str, int]] = []
        """What was asked for, with the port that the system chose in place of 0."""
        with contextlib.ExitStack() as opened:
            for host, port in addresses:
                bound = bind(host, port, opened)
                self._listeners += [_Listener(app, each, tls) for each in bound]
                self.addresses.append((host, bound[0].getsockname()[1]))
            if health is not None:
                about_health, place = health
                if isinstance(place, Path):
                    local = [bind_unix(place, opened)]
                else:
                    local = bind(*place, opened, "--web.health-address")
                self._listeners += [_Listener(about_health, each, None) for each in local]
            self._opened = opened.pop_all()

    async def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        self._servers = [
            await loop.create_server(
                partial(self._protocol, self._config(each.app), each.tls),
                sock=each.socket,
                backlog=ACCEPTED_AT_A_TIME,  # as asyncio takes it, which also tells the kernel
            )
            for each in self._listeners
        ]
        for each in self._listeners:
            each.socket.listen(WAITING_TO_BE_ACCEPTED)

    def _protocol(self, config: Config, tls: SSLContext | None) -> Connection | Handshake:
        connection = Connection(config, self._state, self._connections)
        return connection if tls is None else Handshake(connection, tls, self._state.tasks)

    def _config(self, app: ASGI3Application) -> Config:
        return Config(
            partial(self._run, app),
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # a client's mistakes are not worth a line each
            access_log=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=self._bounds.header_bytes - 1,  # see data_received
            timeout_keep_alive=self._bounds.idle_seconds,
        )

    async def stop(self) -> None:
        """End within 2 s: idle connections at once, running answers after `STOP_SECONDS`."""
        for server in self._servers:
            server.close()
        self._opened.close()
        for connection in list(self._connections.by_age):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=STOP_SECONDS)
        for connection in list(self._connections.by_age):
            connection.abort()
        for task in (stuck := list(self._state.tasks)):
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _run(
        self,
        app: ASGI3Application,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Answer one request in its time, or let the client go."""
        connection: Connection = scope["state"]["connection"]
        limit = asyncio.timeout(self._bounds.answer_seconds)
        with contextlib.suppress(asyncio.CancelledError):  # only `stop` cancels, and it is done
            try:
                async with limit:
                    await app(scope, receive, send)
            except TimeoutError:
                if not limit.expired():
                    raise
                connection.abort()
            finally:
                self._connections.answered.pop(connection, None)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say once in a while that there is no descriptor; asyncio tries again each second.

        It would say so with a traceback for each try. Who only takes up room gives its own back.
        """
        if "_start_serving(" in context["message"]:
            return  # such a try, after the end
        if not context["message"].startswith("socket.accept() out of system resource"):
            loop.default_exception_handler(context)
            return
        for _ in range(GIVEN_BACK):
            self._connections.make_room(self._connections.by_age)
        if loop.time() >= self._scarce_since + SCARCITY_SECONDS:
            self._scarce_since = loop.time()
            log.error("a connection can't be accepted", error=context["exception"])
