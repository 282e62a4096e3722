"""One HTTP connection: uvicorn's own h11 protocol, with bounds on what a client may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


@dataclass(frozen=True)
class Bounds:
    """What one client, and all of them, may take."""

    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: int = 120
    answer_seconds: float = 60.0
    """To make an answer and hand it over: a client that does not read is let go."""
    connections: int = 512


class Connection(H11Protocol):
    """A connection within bounds; the application finds it in `scope["state"]["connection"]`.

    `by_age` are the connections of a server, the least recently used first.
    """

    def __init__(
        self, config: Config, state: ServerState, bounds: Bounds, by_age: dict[Connection, None]
    ) -> None:
        super().__init__(config, state, {"connection": self})
        self._bounds = bounds
        self._by_age = by_age
        self._ahead = b""  # not given to h11 yet
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
        self._by_age.pop(self, None)
        if self._answering:
            self.cycle.disconnected = True  # uvicorn then drops what else is sent
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, in the place of the least recently used one if there are too many.

        Who only holds it open is pushed out, who waits for an answer is not: a scraper gets in.
        """
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1, low=0)  # 0 would be "always full" with TLS
        self._by_age[self] = None
        if len(self._by_age) > self._bounds.connections:
            others = (each for each in self._by_age if each is not self)
            idle = (each for each in others if not each._answering or each.flow.write_paused)  # noqa: SLF001 -- its own kind
            next(idle, self).abort()
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        """Hand on what came, in pieces that keep h11's buffer at the bound of a header.

        Nothing is handed on while an answer is under way, so no body is ever read: routes that are
        sent one answer without it and close.
        """
        self._ahead += data
        while self._ahead and not self._answering and not self.transport.is_closing():
            room = self._bounds.header_bytes - len(self.conn.trailing_data[0])
            piece, self._ahead = self._ahead[:room], self._ahead[room:]
            super().data_received(piece)
        if self._ahead:
            self.flow.pause_reading()
        if self._answering:
            self._by_age[self] = self._by_age.pop(self, None)
            self._header_timer.cancel()
        elif self._header_timer.cancelled():
            self._expect_header()

    def on_response_complete(self) -> None:
        """Go on with what the client sent ahead."""
        super().on_response_complete()
        if self._ahead or self.conn.trailing_data[0]:
            self.data_received(b"")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer has already begun."""
        if self._answering:
            self.abort()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._by_age.pop(self, None)
        self._header_timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def _answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _expect_header(self) -> None:
        self._header_timer = self.loop.call_later(self._bounds.header_seconds, self.abort)
