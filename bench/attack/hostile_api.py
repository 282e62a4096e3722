"""An API in a process of its own: one org is honest, each other one answers as it was told."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

HONEST_ORG = "org-0"
LARGE_BYTES = 15 * 2**20

Say = Callable[[bytes], Awaitable[None]]


class HonestListing:
    """Runs that ended just when they were added, newest first."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []

    def add(self, count: int) -> None:
        """Let so many runs end."""
        now = datetime.fromtimestamp(time.time(), UTC).isoformat()
        for _ in range(count):
            row = {"id": f"run-{len(self._rows)}", "status": "COMPLETED", "origin": "TRIGGER"}
            times = {"created_at": now, "started_at": now, "ended_at": now, "updated_at": now}
            row |= times | {"org_id": HONEST_ORG, "workflow_id": "workflow"}
            self._rows.insert(0, json.dumps(row).encode())

    def answer(self, query: dict[str, list[str]]) -> bytes:
        """Answer for one page."""
        page, take = int(query["page"][0]), int(query["take"][0])
        rows = self._rows if query["status"] == ["ALL"] else []
        shown = b",".join(rows[(page - 1) * take : page * take])
        return answer(b"[%b]" % shown, f"Pagination-Count: {len(rows)}")


def answer(body: bytes, *headers: str) -> bytes:
    """Write down an answer."""
    lines = ("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def row_with(field: bytes) -> bytes:
    """Write a page of one run that ended, with one more field."""
    now = int(time.time())
    return b'[{"id":"run","status":"FAILED","ended_at":%d,%b}]' % (now, field)


def _numbers(count: int) -> bytes:
    return b",".join(b"%d" % number for number in range(count))


def _steps(count: int) -> bytes:
    return b",".join(b'"%d":1' % number for number in range(count))


async def _endless(say: Say, head: bytes, piece: bytes) -> None:
    await say(head)
    while True:
        await say(piece)


async def _slow(say: Say) -> None:
    body = row_with(b'"outputs":"%b"' % (b"x" * LARGE_BYTES))
    await say(answer(body)[: LARGE_BYTES // 2])
    for _ in range(1000):
        await say(b"x")
        await asyncio.sleep(0.1)


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "one_byte_chunks": (_CHUNKED, b"1\r\n \r\n" * 10_000),
    "interim_answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_500),
    "empty_gzip": (
        _CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        b"ea60\r\n" + gzip.compress(b"", mtime=0) * 3000 + b"\r\n",
    ),
}
WHOLE: dict[str, Callable[[], bytes]] = {
    "brackets": lambda: answer(b"[" * LARGE_BYTES),
    "error_array": lambda: answer(row_with(b'"error":[NaN,%b]' % _numbers(1_950_000))),
    "outputs_array": lambda: answer(row_with(b'"outputs":[NaN,%b]' % (b"[]," * 5_000_000 + b"1"))),
    "wide_error": lambda: answer(
        row_with('"error":"\N{GRINNING FACE}%b"'.encode() % (b"x" * LARGE_BYTES))
    ),
    "usage": lambda: answer(row_with(b'"usage":{"total":1,"steps":{%b}}' % _steps(1_400_000))),
    "large": lambda: answer(row_with(b'"outputs":"%b"' % (b"x" * LARGE_BYTES))),
    "rows": lambda: answer(
        gzip.compress(b"[%b1]" % (b"1," * 5_000_000), mtime=0), "Content-Encoding: gzip"
    ),
    "cookies": lambda: answer(b"[]", *(f"Set-Cookie: c{n}={'x' * 4000}" for n in range(20))),
}


class _Api:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._whole = WHOLE[kind]() if kind in WHOLE else None
        self._honest = HonestListing()
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head.split(b" ", 2)[1].decode(), say)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()

    async def _answer(self, target: str, say: Say) -> None:
        parts = urlsplit(target)
        names = parts.path.strip("/").split("/")
        if names[0] == "add":
            self._honest.add(int(names[1]))
            await say(answer(b"ok"))
        elif names[1] == HONEST_ORG or self._kind == "honest":
            await say(self._honest.answer(parse_qs(parts.query)))
        elif self._whole is not None:
            await say(self._whole)
        elif self._kind in ENDLESS:
            await _endless(say, *ENDLESS[self._kind])
        else:
            await _slow(say)


def _run(pipe: Connection, kind: str) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_Api(kind).accept, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), ended.set)  # the parent closed it
        await ended.wait()

    asyncio.run(main())


class HostileApi:
    """The process."""

    def __init__(self, kind: str) -> None:
        """Answer in this way: a name of `WHOLE` or `ENDLESS`, `slow` or `honest`."""
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, kind), daemon=True)
        self._process.start()
        theirs.close()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}"

    def add(self, count: int) -> None:
        """Let runs of the honest org end."""
        urlopen(f"{self.url}/add/{count}", timeout=60).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()
