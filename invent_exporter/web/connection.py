"""One HTTP connection, and all of them: uvicorn's own h11 protocol within bounds.

Longer than most modules: what one may take depends on all, and on what each of them is doing.
"""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from typing import TypeAlias

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState


@dataclass(frozen=True)
class Bounds:
    """What one client, and all of them, may take."""

    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: int = 120
    answer_seconds: float = 60.0
    """To make an answer and hand it over: a client that does not read is let go."""
    answers: int = 40
    """At a time, as client_golang's handlers are often told; answers about health don't count."""
    connections: int = 512
    connections_of_one_peer: int = 64
    """Far above what scrapers need: each has one, and a network behind one address has a few."""


# What asyncio keeps for each connection with TLS, from its beginning: 256 KiB by itself.
SSLProtocol.max_size = 32 * 1024

Peer: TypeAlias = str | bytes
TURNS = 2
"""Requests that are looked at in one round of the event loop."""
_SERVED_MAX = 4096


@dataclass
class Connections:
    """All connections of a server, and whose answers are under way; who waits longest is first.

    Where there are too many, one goes that only takes up room: that is idle, or does not read.
    Requests are looked at few at a time, first those of the peer that had its turn longest ago: a
    flood of them keeps neither the loop nor a scraper.
    """

    bounds: Bounds
    by_age: dict[Connection | Handshake, None] = field(default_factory=dict)
    answered: dict[Connection, None] = field(default_factory=dict)
    _waiting: dict[Peer, dict[Connection, None]] = field(default_factory=dict)
    _served: dict[Peer, int] = field(default_factory=dict)
    _turns: int = 0
    _turns_left: int = TURNS

    def give_turn(self, connection: Connection) -> None:
        """Let it go on: now, or when it is its turn."""
        if self._turns_left:
            self._take(connection)
        else:
            self._waiting.setdefault(connection.peer, {})[connection] = None

    def _take(self, connection: Connection) -> None:
        if self._turns_left == TURNS:
            connection.loop.call_soon(self._next_round)
        self._turns_left -= 1
        self._turns += 1
        if len(self._served) > _SERVED_MAX:
            self._served.clear()
        self._served[connection.peer] = self._turns
        connection.go_on()

    def _next_round(self) -> None:
        self._turns_left = TURNS
        while self._waiting and self._turns_left:
            peer = min(self._waiting, key=lambda each: self._served.get(each, 0))
            connection = next(iter(self._waiting[peer]))
            self._leave_queue(connection)
            self._take(connection)

    def _leave_queue(self, connection: Connection) -> None:
        of_peer = self._waiting.get(connection.peer, {})
        of_peer.pop(connection, None)
        if not of_peer:
            self._waiting.pop(connection.peer, None)

    def admit(self, new: Connection | Handshake) -> None:
        """Take a connection in the place of another, if its peer or all have too many."""
        self.by_age[new] = None
        alike = [each for each in self.by_age if each.peer == new.peer]
        if len(alike) > self.bounds.connections_of_one_peer:
            self.make_room(alike, new)
        elif len(self.by_age) > self.bounds.connections:
            self.make_room(self.by_age, new)

    def make_room(
        self,
        among: Iterable[Connection | Handshake],
        new: Connection | Handshake | None = None,
    ) -> None:
        """End one that only takes up room; the new one, if all others are at work."""
        idle = (each for each in among if each is not new and each.only_takes_room)
        if (leaving := next(idle, new)) is not None:
            leaving.abort()

    def begin_answer(self, connection: Connection) -> bool:
        """Tell whether one more answer may be under way, if need be in the place of a stuck one."""
        if len(self.answered) >= self.bounds.answers:
            stuck = next((each for each in self.answered if each.flow.write_paused), None)
            if stuck is None:
                return False
            stuck.abort()
        self.answered[connection] = None
        return True

    def forget(self, connection: Connection | Handshake) -> None:
        """Leave out a connection that has ended."""
        self.by_age.pop(connection, None)
        if isinstance(connection, Connection):
            self.answered.pop(connection, None)
            self._leave_queue(connection)


class Connection(H11Protocol):
    """A connection within bounds; the application finds it in `scope["state"]["connection"]`."""

    def __init__(self, config: Config, state: ServerState, everyone: Connections) -> None:
        super().__init__(config, state, {"connection": self})
        self.peer: Peer = ""
        self.everyone = everyone
        self._bounds = everyone.bounds
        self._ahead = b""  # not given to h11 yet
        self._is_made = self._has_turn = False
        self._header_timer: asyncio.TimerHandle

    async def handed_over(self) -> bool:
        """Wait until what was written has left this process; tell whether the client can have it.

        What it means after the last byte of a body: docs/how-it-counts.md, "The first event is
        seen".
        """
        await self.flow.drain()
        return not self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """End at once, with whatever was not handed over."""
        self.everyone.forget(self)
        if self._answering:
            self.cycle.disconnected = True  # uvicorn then drops what else is sent
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of another one if there are too many.

        Who only holds it open is pushed out, who waits for an answer is not: a scraper gets in.
        """
        super().connection_made(transport)
        self._is_made = True
        transport.set_write_buffer_limits(high=1, low=0)  # 0 would be "always full" with TLS
        self.peer = _peer(transport)
        self._expect_header()
        self.everyone.admit(self)
        if self._ahead:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Keep what came until it is its turn, and no more before that.

        After a handshake of TLS data can come first, then the transport.
        """
        self._ahead += data
        if not self._is_made:
            return
        if not self._answering:
            self.everyone.give_turn(self)
        if self._ahead:
            self.flow.pause_reading()

    def handle_events(self) -> None:
        """Look at what h11 has, which may be the next request, only when it is its turn."""
        if self._has_turn:
            super().handle_events()

    def go_on(self) -> None:
        """Hand on what came, in pieces that keep h11's buffer at the bound of a header.

        Nothing is handed on while an answer is under way, so no body is ever read: routes that are
        sent one answer without it and close.
        """
        self._has_turn = True
        if self.conn.trailing_data[0] and not self.transport.is_closing():
            self.handle_events()
        while self._ahead and not self._answering and not self.transport.is_closing():
            room = self._bounds.header_bytes - len(self.conn.trailing_data[0])
            piece, self._ahead = self._ahead[:room], self._ahead[room:]
            super().data_received(piece)
        self._has_turn = False
        if not self._ahead:
            self.flow.resume_reading()
        if self._answering:
            self.everyone.by_age[self] = self.everyone.by_age.pop(self, None)
            self._header_timer.cancel()
        elif self._header_timer.cancelled():
            self._expect_header()

    def resume_writing(self) -> None:
        """Go on with an answer: the client has read."""
        super().resume_writing()
        if self in self.everyone.answered:
            self.everyone.answered[self] = self.everyone.answered.pop(self)

    def on_response_complete(self) -> None:
        """Go on with what the client sent ahead."""
        super().on_response_complete()
        if self._ahead or self.conn.trailing_data[0]:
            self.everyone.give_turn(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer has already begun."""
        if self._answering:
            self.abort()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if not self._is_made:
            return
        self.everyone.forget(self)
        self._header_timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def only_takes_room(self) -> bool:
        """It waits for a request, or for a client that does not read."""
        return not self._answering or self.flow.write_paused

    @property
    def _answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _expect_header(self) -> None:
        self._header_timer = self.loop.call_later(self._bounds.header_seconds, self.abort)


class Handshake(asyncio.Protocol):
    """A connection until TLS has begun: bounded as all are, which asyncio does not do by itself."""

    only_takes_room = True

    def __init__(
        self, connection: Connection, context: SSLContext, tasks: set[asyncio.Task[None]]
    ) -> None:
        """Make `connection` after it; what is under way is in `tasks`."""
        self.peer: Peer = ""
        self._connection = connection
        self._context = context
        self._tasks = tasks
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport
        self.peer = _peer(transport)
        self._connection.everyone.admit(self)
        task = self._connection.loop.create_task(self._shake_hands())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abort(self) -> None:
        """End at once."""
        self._connection.everyone.forget(self)
        self._transport.abort()

    shutdown = abort

    async def _shake_hands(self) -> None:
        connection = self._connection
        try:
            transport = await connection.loop.start_tls(
                self._transport,
                connection,
                self._context,
                server_side=True,
                ssl_handshake_timeout=connection.everyone.bounds.header_seconds,
            )
        except OSError:  # a client's mistake, as are all others
            transport = None
        finally:
            connection.everyone.forget(self)
        if transport is not None and not transport.is_closing():
            connection.connection_made(transport)


def _peer(transport: asyncio.Transport) -> Peer:
    client = get_remote_addr(transport)
    return _network(client[0]) if client else ""


def _network(host: str) -> Peer:
    """Name the peer: an IPv4 address, or the half of an IPv6 address that one has for itself."""
    address = ip_address(host)
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped) if address.ipv4_mapped else address.packed[:8]
