"""The floor of a scrape: the exporter's own HTTP server, and a constant answer."""

from __future__ import annotations

import asyncio
from multiprocessing import get_context
from typing import TYPE_CHECKING, Self

from invent_exporter.web.server import Server

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope


class _Constant:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._headers = [
            (b"content-type", b"text/plain"),
            (b"content-encoding", b"gzip"),
            (b"content-length", str(len(body)).encode()),
        ]

    async def __call__(
        self, _scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


async def _serve(pipe: Connection, body: bytes) -> None:
    async with Server(_Constant(body), [("127.0.0.1", 0)]) as server:
        pipe.send(server.addresses[0][1])
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), ended.set)
        await ended.wait()


def _run(pipe: Connection, body: bytes) -> None:
    asyncio.run(_serve(pipe, body))


class ConstantServer:
    """The process."""

    def __init__(self, body: bytes) -> None:
        """Answer every request with this body."""
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, body))
        self._process.start()
        theirs.close()
        self.port: int = self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
