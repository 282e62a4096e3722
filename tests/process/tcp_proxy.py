"""A network between the exporter and its database: it cuts, goes silent, and loses answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

_BYTES = 65536


class TcpProxy:
    """Passes connections on to a port of the loopback address, as well as it is told to."""

    def __init__(self, port: int) -> None:
        """Begin to listen; `port` is the one to pass on to."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._is_cut = False
        self._passes = threading.Event()
        self._passes.set()
        self.lose_every: int | None = None
        """Of so many commits, one is done and its answer lost, with the connection."""
        self.commits = 0
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """Be there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all connections, and listen no more."""
        self.cut()
        self._listener.close()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._is_cut = True
        self._passes.set()
        for pair in [*self._pairs]:
            _end(*pair)

    def go_silent(self) -> None:
        """Take all that is sent, and pass nothing on: neither side learns anything."""
        self._passes.clear()

    def mend(self) -> None:
        """Let new connections through; those that were silent are over."""
        for pair in [*self._pairs]:
            _end(*pair)
        self._is_cut = False
        self._passes.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                pair = near, far
                self._pairs.add(pair)
                doubt = threading.Event()
                for source, sink in (pair, pair[::-1]):
                    way = (source, sink, pair, doubt)
                    threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(
        self,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        in_doubt: threading.Event,
    ) -> None:
        with suppress(OSError):
            while data := source.recv(_BYTES):
                self._passes.wait()
                if source is pair[0] and b"COMMIT" in data:
                    self.commits += 1
                    if self.lose_every is not None and self.commits % self.lose_every == 0:
                        in_doubt.set()
                elif source is pair[1] and in_doubt.is_set():
                    self.lost += 1
                    break
                sink.sendall(data)
        _end(*pair)
        self._pairs.discard(pair)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
