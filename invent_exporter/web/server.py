"""Listening: where the server is reached, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Self, TypeAlias

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from invent_exporter.config.values import is_loopback
from invent_exporter.errors import ListenError
from invent_exporter.log import get_logger
from invent_exporter.web.connection import Bounds, Connection, Connections

STOP_SECONDS = 1.5
"""How long running answers may go on after a stop."""
PORT_MAX = 65535
BUFFER_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 64 * 1024),
)
"""What the kernel keeps of one connection (it doubles the first two): requests are small, and what
a client does not read is not to be kept for it, neither sent nor unsent."""
ACCEPTED_AT_A_TIME, WAITING_TO_BE_ACCEPTED = 4, 1024
"""A flood of connections must not keep the loop from those that are there."""
SCARCITY_SECONDS, GIVEN_BACK = 60.0, 8
"""How often it is said that there is no descriptor for a connection, and how many each try that
fails takes from those that only take up room."""

log = get_logger(__name__)


def parse_listen_address(address: str) -> tuple[str, int]:
    """Split `host:port` into its parts; an empty host stands for all interfaces.

    Raises:
        ValueError: it is not of that form, in one line that says what is.

    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid_port = port.isascii() and port.isdigit() and int(port) <= PORT_MAX
    if not colon or not valid_port or (":" in host) != bracketed or " " in host or host == "[]":
        raise ValueError(
            f"{address!r} is not an address to listen on; expected HOST:PORT with a port from 0 to "
            f"{PORT_MAX}, such as :10480, 127.0.0.1:10480 or [::1]:10480"
        )
    return host.strip("[]"), int(port)


HealthPlace: TypeAlias = Path | tuple[str, int]
"""Where health is told without a login: a Unix socket, or host and port of this machine alone."""


def parse_health_address(address: str) -> HealthPlace:
    """Read `unix:///path` or a loopback address with a port.

    Raises:
        ValueError: it is neither, in one line that says what is.

    """
    if address.startswith("unix:///") and address.isprintable():
        return Path(address.removeprefix("unix://"))
    expected = "expected unix:///run/health.sock, or a loopback address such as 127.0.0.1:10482"
    with contextlib.suppress(ValueError):
        host, port = parse_listen_address(address)
        if is_loopback(host):
            return host, port
    raise ValueError(f"{address!r} is not only for this machine; {expected}")


def join_address(host: str, port: int) -> str:
    """Write an address as `parse_listen_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(
    host: str, port: int, opened: contextlib.ExitStack, flag: str = "--web.listen-address"
) -> list[socket.socket]:
    """Listen on all addresses of the host; none, or `::`, is every interface, IPv4 and IPv6.

    The sockets are closed with `opened`; a ListenError says which address can't be had, and why.
    """
    try:
        addresses = {"::": socket.AF_INET6, "0.0.0.0": socket.AF_INET}  # noqa: S104 -- asked for: no host
        if host:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            addresses = {str(address[0]): family for family, _, _, _, address in found}
        return _bind_each(addresses, port, opened)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that no DNS name can be
        raise _explained(error, f"{flag}: cannot listen on {join_address(host, port)}") from error


def bind_unix(path: Path, opened: contextlib.ExitStack) -> socket.socket:
    """Listen on a Unix socket that is for this user alone, and goes away with `opened`.

    One that a killed process left behind is replaced; a ListenError says what else is in the way.
    """
    listening = opened.enter_context(socket.socket(socket.AF_UNIX))
    umask = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX) as other:
            if path.is_socket() and other.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()
        listening.bind(str(path))
    except OSError as error:
        where = f"--web.health-address: cannot listen on unix://{path}"
        remedy = "expected a path in a folder that can be written to, where nothing is yet"
        raise ListenError(error.errno, f"{where}: {error.strerror or error}; {remedy}") from error
    finally:
        os.umask(umask)
    opened.callback(path.unlink, missing_ok=True)
    return listening


def _bind_each(
    addresses: Mapping[str, int], port: int, opened: contextlib.ExitStack
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for address, family in addresses.items():
        # The second address of a name gets the port that the system chose for the first.
        at = (address, port or (sockets[0].getsockname()[1] if sockets else 0))
        # `::` is every interface, as Go's programs have it; the system's own default may differ.
        is_dual = address == "::" and socket.has_dualstack_ipv6()
        try:
            each = socket.create_server(at, family=family, dualstack_ipv6=is_dual)
        except OSError as error:
            # `localhost` may name ::1, and a kernel know IPv6, where it is switched off.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error
            continue
        sockets.append(opened.enter_context(each))
        # Options are inherited by connections. Asyncio sets the first only if a socket names its
        # protocol; without it the end of an answer waits for the client's delayed acknowledgement.
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in BUFFER_OPTIONS:
            each.setsockopt(*option)
        if is_dual:
            break
    if not sockets and missing is not None:
        raise missing
    return sockets


def _explained(error: OSError | UnicodeError, where: str) -> ListenError:
    number = getattr(error, "errno", None) or 0
    if isinstance(error, socket.gaierror):  # a host that is not found has its own numbers
        reason = str(error.strerror)
    else:  # asyncio and socket put more words into strerror
        reason = os.strerror(number) if isinstance(error, OSError) else "this is no host name"
    remedy = {
        errno.EADDRINUSE: "another program or an address before has this port, choose a free one",
        errno.EACCES: "ports below 1024 need a privilege, choose a higher one",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address",
    }.get(number, "expected HOST:PORT, such as :10480")
    return ListenError(number, f"{where}: {reason}; {remedy}")


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
                partial(Connection, self._config(each.app), self._state, self._connections),
                sock=each.socket,
                backlog=ACCEPTED_AT_A_TIME,  # as asyncio takes it, which also tells the kernel
                ssl=each.tls,
                ssl_handshake_timeout=self._bounds.header_seconds if each.tls else None,
            )
            for each in self._listeners
        ]
        for each in self._listeners:
            each.socket.listen(WAITING_TO_BE_ACCEPTED)

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
        if not context["message"].startswith("socket.accept() out of system resource"):
            loop.default_exception_handler(context)
            return
        for _ in range(GIVEN_BACK):
            self._connections.make_room(self._connections.by_age)
        if loop.time() >= self._scarce_since + SCARCITY_SECONDS:
            self._scarce_since = loop.time()
            log.error("a connection can't be accepted", error=context["exception"])
