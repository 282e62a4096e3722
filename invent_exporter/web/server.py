"""Listening: where the server is reached, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Self

from uvicorn.config import Config
from uvicorn.server import ServerState

from invent_exporter.errors import ListenError
from invent_exporter.web.connection import Bounds, Connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope

STOP_SECONDS = 1.5
"""How long running answers may go on after a stop."""
PORT_MAX = 65535


def parse_listen_address(address: str) -> tuple[str, int]:
    """Split `host:port` into its parts; an empty host stands for all interfaces.

    :raises ValueError: when it is not of that form, in one line that says what is.
    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid_port = port.isascii() and port.isdigit() and int(port) <= PORT_MAX
    if not colon or not valid_port or (":" in host) != bracketed or " " in host or host == "[]":
        message = (
            f"{address!r} is not an address to listen on; expected HOST:PORT with a port from 0 to "
            f"{PORT_MAX}, such as :10480, 127.0.0.1:10480 or [::1]:10480"
        )
        raise ValueError(message)
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Write an address as `parse_listen_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of the host; none, or `::`, is every interface, IPv4 and IPv6.

    :raises ListenError: one line that names the flag, the address and what is wrong with it.
    """
    sockets: list[socket.socket] = []
    try:
        if host:
            _bind_each(host, port, sockets)
        else:
            sockets.append(_bind_all_interfaces(port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that no DNS name can be
        for each in sockets:
            each.close()
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        raise ListenError(number, _why_not(error, host, port)) from error
    return sockets


def _bind_all_interfaces(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:  # a kernel may know IPv6 and have it switched off
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port))


def _bind_each(host: str, port: int, sockets: list[socket.socket]) -> None:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    missing: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        at = (str(address[0]), port)
        if port == 0 and sockets:  # the second address of a name gets the first one's port
            at = (at[0], sockets[0].getsockname()[1])
        # `::` is every interface, as Go's programs have it; the system's own default may differ.
        is_dual = at[0] == "::" and socket.has_dualstack_ipv6()
        try:
            sockets.append(socket.create_server(at, family=family, dualstack_ipv6=is_dual))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            missing = error  # `localhost` may name ::1 on a machine without IPv6
    if not sockets and missing is not None:
        raise missing


def _why_not(error: OSError | UnicodeError, host: str, port: int) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, UnicodeError):
        reason = "this is no host name"
    elif isinstance(error, socket.gaierror) or number is None:
        reason = str(error.strerror)
    else:
        reason = os.strerror(number)  # asyncio and socket put more words into strerror
    remedy = {
        errno.EADDRINUSE: "another program or an address before has this port, choose a free one",
        errno.EACCES: "ports below 1024 need a privilege, choose a higher one",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address",
    }.get(number or 0, "expected HOST:PORT, such as :10480")
    return f"--web.listen-address: cannot listen on {join_address(host, port)}: {reason}; {remedy}"


class Server:
    """Serves an ASGI application in the running event loop; signals stay the caller's."""

    def __init__(
        self,
        app: ASGI3Application,
        addresses: Sequence[tuple[str, int]],
        *,
        bounds: Bounds | None = None,
    ) -> None:
        """Bind the sockets of every host and port; connections wait there until `start`.

        :raises ListenError: one line that names the flag, the address and what is wrong with it.
        """
        self._app = app
        self._bounds = bounds or Bounds()
        self._config = Config(
            self._run,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",  # a client's mistakes are not worth a line each
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=self._bounds.header_bytes,
            timeout_keep_alive=self._bounds.idle_seconds,
        )
        self._config.load()
        self._state = ServerState()
        self._by_age: dict[Connection, None] = {}
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self.addresses: list[tuple[str, int]] = []
        """What was asked for, with the port that the system chose in place of 0."""
        try:
            for host, port in addresses:
                bound = bind(host, port)
                self._sockets += bound
                self.addresses.append((host, bound[0].getsockname()[1]))
        except ListenError:
            for each in self._sockets:
                each.close()
            raise

    @property
    def port(self) -> int:
        """The port of the first address."""
        return self.addresses[0][1]

    @property
    def connection_count(self) -> int:
        """How many clients are connected."""
        return len(self._by_age)

    async def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        self._servers = [await loop.create_server(self._connect, sock=s) for s in self._sockets]

    async def stop(self) -> None:
        """End within 2 s: idle connections at once, running answers after `STOP_SECONDS`."""
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        for connection in list(self._by_age):
            connection.stop()
        deadline = asyncio.get_running_loop().time() + STOP_SECONDS
        while self._busy and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 -- once, for moments
            await asyncio.sleep(0.01)
        for connection in list(self._by_age):
            connection.abort()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    @property
    def _busy(self) -> bool:
        return bool(self._by_age or self._state.tasks)

    def _connect(self) -> Connection:
        return Connection(self._config, self._state, self._bounds, self._by_age)

    async def _run(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # only `stop` cancels, and it is done
            await self._app(scope, receive, send)
