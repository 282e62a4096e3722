"""Measure how many scrapes of 10,000 samples are answered in a second, on 8 connections."""

from __future__ import annotations

import selectors
import socket
import time

from bench.client import request, samples_in
from bench.constant import ConstantServer
from bench.scrape import filled_exporter
from bench.table import Row, Size

_CONNECTIONS = 8


def rows(size: Size) -> list[Row]:
    """Measure."""
    seconds = size.of(5, 1)
    ours, floors = [], []
    with filled_exporter(84, size.of(5_000, 500)) as (exporter, _):
        with exporter.client() as client:
            samples = samples_in(client.text())
            _, body = client.body(request())
        with ConstantServer(body) as floor:
            for _ in range(size.of(3, 1)):
                ours.append(_rate(exporter.port, seconds))
                floors.append(_rate(floor.port, seconds))
    rate, floor_rate = sorted(ours)[len(ours) // 2], sorted(floors)[len(floors) // 2]
    return [
        Row(
            f"scrapes a second, {_CONNECTIONS} connections, {samples:,} samples",
            f"{rate:,.0f}",
            f"ASGI constant, {len(body):,} bytes: {floor_rate:,.0f}",
            f"1/{floor_rate / rate:.2f}",
            "at least 1,500",
            rate >= 1500,
        )
    ]


def _rate(port: int, seconds: float) -> float:
    """Keep every connection busy; return the answers a second."""
    message = request()
    buffer = memoryview(bytearray(2**20))
    selector = selectors.DefaultSelector()
    left: dict[int, int] = {}
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
    for connection in sockets:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, connection)
        left[connection.fileno()] = -1
        connection.sendall(message)
    answers = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for key, _ in selector.select(1):
            connection = key.data
            got = connection.recv_into(buffer)
            if got == 0:
                raise ConnectionError("the server closed a connection")
            rest = left[key.fd]
            if rest < 0:
                rest = _size_of(bytes(buffer[:got]))
            rest -= got
            if rest == 0:
                answers += 1
                connection.sendall(message)
            left[key.fd] = rest or -1
    taken = time.perf_counter() - began
    for connection in sockets:
        connection.close()
    selector.close()
    return answers / taken


def _size_of(start: bytes) -> int:
    """Read the size of head and body; the head comes in one piece on a loopback connection."""
    head, _, _ = start.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return len(head) + 4 + int(line[15:])
    raise ConnectionError(f"no content-length in {head!r}")
