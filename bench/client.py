"""A scraper that costs little itself: one kept connection, no parsing beyond the headers."""

from __future__ import annotations

import gzip
import re
import socket
import time
from typing import Self

OPENMETRICS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)


_CHUNKED = 2**60
"""The end of an answer without a length: it is known when the last chunk has come."""


def request(path: str = "/metrics", accept: str = OPENMETRICS) -> bytes:
    """Make the request that Prometheus makes."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
        "Accept-Encoding: gzip\r\n\r\n"
    ).encode()


class Client:
    """One connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(32 * 2**20)
        self._start = 0
        self._head = b""

    def get(self, message: bytes) -> tuple[float, int]:
        """Ask once; return the seconds until the last byte, and the bytes of the body."""
        began = time.perf_counter()
        self._socket.sendall(message)
        view = memoryview(self._buffer)
        size, total = 0, -1
        while size != total:
            got = self._socket.recv_into(view[size:])
            if got == 0:
                raise ConnectionError("the server closed the connection")
            size += got
            if total < 0:
                head_end = self._buffer.find(b"\r\n\r\n", 0, size)
                if head_end < 0:
                    continue
                self._head = bytes(self._buffer[:head_end])
                self._start = head_end + 4
                match = re.search(rb"(?i)content-length: (\d+)", self._head)
                total = self._start + int(match[1]) if match else _CHUNKED
            if total == _CHUNKED and self._buffer.endswith(b"\r\n0\r\n\r\n", 0, size):
                total = size
        return time.perf_counter() - began, size - self._start

    def body(self, message: bytes) -> tuple[bytes, bytes]:
        """Ask once; return the headers and the body as it came."""
        _, size = self.get(message)
        return self._head, bytes(self._buffer[self._start : self._start + size])

    def text(self) -> str:
        """Scrape, decompressed."""
        _, content = self.body(request())
        return gzip.decompress(content).decode()

    def sum_of(self, name: str) -> float | None:
        """Sum up the samples of a metric; None when there is none."""
        found = re.findall(rf"^{name}(?:\{{[^\n]*?\}})? ([^ \n]+)", self.text(), re.MULTILINE)
        return sum(map(float, found)) if found else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def samples_in(text: str) -> int:
    """Count the samples of an exposition."""
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))
