"""A loopback HTTP server that says exactly the bytes a test wants, however wrong they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: its path, query and headers (names in lower case)."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Read the head of a request."""
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        target = urlsplit(first.split(" ")[1])
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        pairs = (line.split(": ", 1) for line in lines)
        return cls(target.path, query, {name.lower(): value for name, value in pairs})


Say = Callable[[bytes], Awaitable[None]]
"""Sends bytes and waits until they are gone."""
Handler = Callable[[Request, Say], Awaitable[None]]
"""Answers one request; when it raises HangUpError the connection ends."""


class HangUpError(Exception):
    """The connection is to be closed; at once, with a reset, when `reset` is set."""

    def __init__(self, *, reset: bool = False) -> None:
        """Choose between an orderly end and a reset."""
        super().__init__()
        self.reset = reset


@dataclass
class RawServer:
    """Serves `handler` on a free loopback port while it is entered; keeps the requests it saw."""

    handler: Handler
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        """Start to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every connection."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while True:
                request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
                self.requests.append(request)
                await self.handler(request, say)
        except HangUpError as error:
            if error.reset:
                writer.transport.abort()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Write down a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def always(*answers: bytes) -> Handler:
    """Give these answers one after the other, the last of them for ever."""
    left = list(answers)

    async def handler(_request: Request, say: Say) -> None:
        await say(left.pop(0) if len(left) > 1 else left[0])

    return handler
