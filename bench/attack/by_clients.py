"""What clients can do to the exporter, and to those who scrape it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

from bench.attack.stage import Attack, Bounds
from bench.client import request

CLIENTS, REQUESTS_AHEAD = 400, 20
_AGAIN_SECONDS = 0.2
_ESTABLISHED = 1


def _hold(pipe: Connection, port: int, peers: int, sent: bytes) -> None:
    """Keep all connections open and read nothing; who is let go comes again."""
    clients = [_connect(port, number % peers, sent) for number in range(CLIENTS)]
    pipe.send(None)
    while not pipe.poll(_AGAIN_SECONDS):
        for number, raw in enumerate(clients):
            if raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED:
                raw.close()
                clients[number] = _connect(port, number % peers, sent)
    for raw in clients:
        raw.close()


def _connect(port: int, peer: int, sent: bytes) -> socket.socket:
    """Connect from an address of the peer's own, and send as much as goes without waiting."""
    raw = socket.socket()
    raw.bind((f"127.0.1.{1 + peer}", 0))
    raw.connect(("127.0.0.1", port))
    raw.setblocking(False)  # noqa: FBT003 -- it has no name
    with suppress(OSError):
        raw.send(sent)
    return raw


@contextmanager
def _besieged(port: int, *, peers: int, sent: bytes) -> Iterator[None]:
    """Attack from a process of its own, so that the scraper does not wait for it."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    siege = context.Process(target=_hold, args=(theirs, port, peers, sent))
    siege.start()
    try:
        ours.recv()
        yield
    finally:
        ours.send(None)
        siege.join()


_AHEAD = request(accept="text/plain") * REQUESTS_AHEAD
_UNENDED = b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 15_000


def _attack(name: str, what: str, peers: int, sent: bytes) -> Attack:
    siege = partial(_besieged, peers=peers, sent=sent)
    return Attack(name, what, besiege=siege, bounds=Bounds(p50_ms=100.0))


ATTACKS = (
    _attack("unread", f"{CLIENTS} clients, {REQUESTS_AHEAD} requests ahead, none read", 40, _AHEAD),
    _attack("unread_by_one_peer", "the same from one address", 1, _AHEAD),
    _attack("idle", f"{CLIENTS} connections that ask nothing", 40, b""),
    _attack("unended", f"{CLIENTS} headers without an end", 40, _UNENDED),
    _attack("not_found", f"{CLIENTS} clients, 200 short requests ahead", 40, request("/x") * 200),
)
