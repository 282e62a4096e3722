"""One HTTP connection: what it may cost, and when an answer counts as delivered.

uvicorn's h11 protocol parses and answers; this adds bounds, so that no client can exhaust the
process, and the question that promise 3 of the newborn hold rests on: did the client get all of it?

**Delivered, or not.** That our kernel took the bytes says nothing, and neither does an empty send
queue (Linux `SIOCOUTQ`: bytes that the peer's kernel has not acknowledged): the program behind that
kernel may never read them. What a TCP server can see of a program that goes away is this: closing
a socket that holds unread data sends a reset (RFC 2525, 2.17, and Linux does), closing one
that was read empty sends a FIN. So an answer counts as delivered when nothing of it is left in our
buffers or unacknowledged, no reset has come, and one of these is seen:

- the client sent its next request afterwards, on a connection where it never sent ahead
  (Prometheus: at the next scrape);
- the client closed with a FIN, and no reset followed for `AFTER_FIN_SECONDS` (curl);
- `quiet_seconds` passed, Prometheus' default scrape timeout: a scraper that had not read its answer
  by then would have given up on it, and closed with a reset.

Everything else, and every error, is "not delivered": the hold waits for the next scrape, which
costs nothing but time. To see how the client closes, our end is kept open until it did, also
after `Connection: close`; with an answer in doubt our own FIN waits `OWN_FIN_SECONDS`, as a reset
that comes after both FINs is invisible. A half-closed client that leaves later than that without
reading is beyond what TCP tells.

The module is longer than others because bounds and delivery are one life of one connection.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from socket import IPPROTO_TCP, SO_ERROR, SOL_SOCKET, TCP_NODELAY
from typing import TYPE_CHECKING, Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn.config import Config
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
    from uvicorn.server import ServerState

AFTER_FIN_SECONDS = 0.05
"""How long after a client's FIN a reset may still follow."""
OWN_FIN_SECONDS = 0.1
"""How long the client may close first, when an answer is in doubt and the connection ends."""
LOOK_SECONDS = 1.0
"""How often a slow client's send queue is looked at."""
DRAIN_BYTES_MAX = 16 * 1024 * 1024
"""What is read and dropped of a client that still sends after its answer ended the connection."""
SIOCOUTQ = 0x5411
"""Linux, tcp(7): the bytes in the send queue that the peer has not acknowledged."""


@dataclass(frozen=True)
class Bounds:
    """What one client, and all of them, may take."""

    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: int = 120
    delivery_seconds: float = 60.0
    quiet_seconds: float = 10.0
    connections: int = 512


class Connection(H11Protocol):
    """A connection within bounds that knows whether its last answer arrived."""

    def __init__(
        self, config: Config, state: ServerState, bounds: Bounds, by_age: dict[Connection, None]
    ) -> None:
        """Join the connections `by_age`: least recently used first, shared by all of a server."""
        super().__init__(config, state, {"connection": self})
        self._bounds = bounds
        self._by_age = by_age
        self._wire: asyncio.Transport
        self._header_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._waiting: Callable[[], None] | None = None
        self._give_up_at = 0.0
        self._drained_bytes = 0
        self._sends_ahead = False  # a next request then proves nothing
        self._seen_whole = False  # all bytes had reached the peer's kernel at the last look
        self._client_ended = False
        self._own_fin_sent = False
        self._stopping = False
        self.ending = False

    def when_delivered(self, callback: Callable[[], None]) -> None:
        """Call back once the answer that is being sent was delivered whole, never otherwise.

        Called before the last part of the answer is sent. A later answer takes the place of one
        that is still in doubt: what was read of it stands after all of the earlier one.
        """
        if not self._wire.is_closing():
            self._waiting = callback

    def stop(self) -> None:
        """Close now, or when the running answer is written."""
        self._stopping = True
        if self._answering:
            self.cycle.keep_alive = False
        else:
            self._wire.close()

    def abort(self) -> None:
        """Close at once, with whatever was not delivered."""
        self._waiting = None
        self._by_age.pop(self, None)
        self._wire.abort()

    # What asyncio and uvicorn call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, in the place of the least recently used one if there are too many.

        So clients that only hold connections open push each other out, and a scraper gets in.
        """
        self._wire = cast("asyncio.Transport", transport)
        # asyncio does this only for sockets that name their protocol; without it an answer's second
        # part waits 40 ms for the client's delayed acknowledgement of the first.
        self._wire.get_extra_info("socket").setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        super().connection_made(_Transport(self._wire, self))
        self._by_age[self] = None
        if len(self._by_age) > self._bounds.connections:
            others = (each for each in self._by_age if each is not self and not each._answering)  # noqa: SLF001 -- its own kind
            next(others, self).abort()
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        """Read what the client sent, unless its connection is ending."""
        if self.ending or self._wire.is_closing():
            self._drained_bytes += len(data)
            if self._drained_bytes > DRAIN_BYTES_MAX:
                self.abort()
            return
        if self._answering:
            self._sends_ahead = True
        elif self._waiting is not None:
            if not self._is_whole():
                self._sends_ahead = True
            elif not self._sends_ahead:
                self._settle()
        before = self.cycle
        self._set_date()
        super().data_received(data)
        if self.cycle is not before:
            self._by_age[self] = self._by_age.pop(self, None)
            self._cancel_header_timer()
        elif not self._answering and self._header_timer is None:
            self._expect_header()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Note that the client ended its side; it may still be reading."""
        self._client_ended = True
        if self._answering:
            self.cycle.keep_alive = False
            return True
        if self._waiting is None and not self._wire.get_write_buffer_size():
            return False
        self.ending = True
        self._seen_whole = False
        self._look()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; an answer still in doubt was not delivered."""
        self.ending = True
        self._waiting = None
        self._by_age.pop(self, None)
        self._cancel_header_timer()
        self._look_after(None)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_response_complete(self) -> None:
        """Begin to look for the answer's delivery, when someone waits for it."""
        self._give_up_at = self.loop.time() + self._bounds.delivery_seconds
        self._seen_whole = False
        if self._waiting is not None and not self.ending:
            self._look_after(LOOK_SECONDS)
        super().on_response_complete()
        half_a_request_is_here = not self._answering and self.conn.trailing_data[0]
        if half_a_request_is_here and not self.ending and self._header_timer is None:
            self._expect_header()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer has already begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self._answering:
            super().send_400_response(msg)
        else:
            self.abort()

    def end(self) -> None:
        """End the connection so that the client can still read its answer.

        Closing with unread input would send a reset, which takes the answer from the client's
        hands (RFC 9112, 9.6): our side ends, and the client's is read to its end, within bounds.
        """
        if self.ending:
            return
        self.ending = True
        self._cancel_header_timer()
        if self._stopping:
            self._wire.close()
            return
        self.flow.resume_reading()
        self._give_up_at = self.loop.time() + self._bounds.delivery_seconds
        if self._client_ended:
            self._look()
        elif self._waiting is not None:
            self._look_after(OWN_FIN_SECONDS)
        else:
            self._send_fin()

    # Delivery

    def _look(self) -> None:
        """Decide what became of the last answer, or look again later."""
        self._look_timer = None
        if self._wire.is_closing():
            return
        soon = self._client_ended or (self.ending and not self._own_fin_sent)
        if self._answering or not self._is_whole():
            if self._wire.is_closing():
                return
            if not self._answering and self.loop.time() >= self._give_up_at:
                self.abort()
            else:
                self._look_after(AFTER_FIN_SECONDS if soon else LOOK_SECONDS)
        elif self.ending and not self._client_ended and not self._own_fin_sent:
            self._send_fin()
        elif not self._seen_whole:
            self._seen_whole = True
            self._look_after(AFTER_FIN_SECONDS if soon else self._bounds.quiet_seconds)
        else:
            self._settle()
            if self.ending:
                self._wire.close()

    def _is_whole(self) -> bool:
        """Whether all that was written reached the peer's kernel; a reset ends the connection."""
        peer = self._wire.get_extra_info("socket")
        if peer.getsockopt(SOL_SOCKET, SO_ERROR):
            self.abort()
            return False
        return self._wire.get_write_buffer_size() == 0 and _unacknowledged_bytes(peer.fileno()) == 0

    def _settle(self) -> None:
        callback, self._waiting = self._waiting, None
        self._look_after(None)
        if callback is not None:
            callback()

    def _send_fin(self) -> None:
        self._own_fin_sent = True
        try:
            if self._wire.can_write_eof():
                self._wire.write_eof()
        except OSError:  # the client has reset the connection
            self.abort()
        else:
            self._look_after(self._bounds.quiet_seconds)
            self._seen_whole = True

    # Bookkeeping

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None until the first request
        return cycle is not None and not cycle.response_complete

    def _look_after(self, seconds: float | None) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._look_timer = None if seconds is None else self.loop.call_later(seconds, self._look)

    def _expect_header(self) -> None:
        self._header_timer = self.loop.call_later(self._bounds.header_seconds, self.abort)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _set_date(self) -> None:
        now = int(time.time())
        state: Any = self.server_state
        if getattr(state, "date_second", None) != now:
            state.date_second = now
            state.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]


class _Transport(asyncio.Transport):
    """The transport as uvicorn sees it: closing it ends the connection in the client's time."""

    def __init__(self, wire: asyncio.Transport, connection: Connection) -> None:
        super().__init__()
        self._wire = wire
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 -- asyncio's signature
        return self._wire.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._wire.write(data)

    def pause_reading(self) -> None:
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        self._wire.resume_reading()

    def is_closing(self) -> bool:
        return self._connection.ending or self._wire.is_closing()

    def close(self) -> None:
        self._connection.end()


if sys.platform == "linux":
    import fcntl

    def _unacknowledged_bytes(file_number: int) -> int:
        return int(struct.unpack("i", fcntl.ioctl(file_number, SIOCOUTQ, b"\0\0\0\0"))[0])

else:

    def _unacknowledged_bytes(_file_number: int) -> int:
        return 0  # not to be had: a reset, the next request and the quiet time decide alone
