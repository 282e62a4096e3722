"""A listing of runs, served by a process of its own as fast as bytes can be put together.

The simulator answers what the real API would; this one must only never be what is measured. Runs
are prepared once; a page is joined from their bytes. Control goes over the same port:
`/add/N` puts N new finished runs in front, `/each-poll/N` does that whenever row 0 is asked for,
`/served` counts requests for pages, `/last` tells how deep the last page began. Each org has a
listing of its own where that is wanted; control is for all of them.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Listing:
    """The runs, newest last, and what is asked of them."""

    def __init__(self, run_bytes: int, workflows: int, org: int = 0) -> None:
        self._org = org
        self._filler = b"x" * run_bytes
        self._workflows = workflows
        self._runs: list[bytes] = []
        self._newest = 0.0
        self._each_poll = 0
        self._served = 0
        self._last = 0

    def add(self, count: int) -> None:
        """Put finished runs in front, created within the last minute, after all that are there."""
        first, now = len(self._runs), time.time()
        since, until = max(self._newest, now - 60), now - 10
        for number in range(first, first + count):
            self._newest = since + (number - first + 1) * (until - since) / count
            self._runs.append(self._run(number, self._newest, now))

    def _run(self, number: int, created: float, now: float) -> bytes:
        workflow = self._org * self._workflows + number % self._workflows
        status = ("FAILED", "CANCELED")[number // 10 % 2] if number % 10 == 0 else "COMPLETED"
        origin = ("WEBHOOK", "TRIGGER", "WORKFLOW")[number % 3]
        ended = max(created + 1.1 + number % 997, now)  # what ended before contact is history
        times = {
            "created_at": created,
            "started_at": created + 0.1 + number % 7,
            "ended_at": ended,
            "updated_at": ended,
        }
        texts = ",".join(
            f'"{name}":"{datetime.fromtimestamp(value, UTC).isoformat()}"'
            for name, value in times.items()
        )
        total = 1 + number % 50 / 4
        # A multiplicative hash: ids of equal length in no order, as the documentation's are.
        mixed = (number + self._org * 2**20) * 0x9E3779B97F4A7C15 % 2**64
        identity = f"{mixed:016x}{number:08x}"
        return (
            f'{{"id":"{identity}","status":"{status}","origin":"{origin}",{texts},'
            f'"org_id":null,"workflow_org_id":"bench","workflow_id":'
            f'"workflow-{workflow:06d}","version":{number % 3},'
            f'"usage":{{"total":{total},"ai_total":{total / 4},"steps":{{"a":{total}}}}},'
            '"outputs":{"text":"'
        ).encode()

    def answer(self, target: str) -> bytes:
        """Answer one request target."""
        parts = urlsplit(target)
        match parts.path.strip("/").split("/"):
            case ["add", count]:
                self.add(int(count))
                return _answer(b"ok", 2)
            case ["each-poll", count]:
                self._each_poll = int(count)
                return _answer(b"ok", 2)
            case ["served"]:
                return _answer(str(self._served).encode(), 2)
            case ["last"]:
                return _answer(str(self._last).encode(), 2)
        query = parse_qs(parts.query)
        take, page = int(query["take"][0]), int(query["page"][0])
        if query.get("status", ["ALL"])[0] != "ALL":
            return _answer(b"[]", 0)
        self._served += 1
        start = self._last = (page - 1) * take
        if start == 0 and self._each_poll:
            self.add(self._each_poll)
        newest = len(self._runs)
        rows = self._runs[max(0, newest - start - take) : max(0, newest - start)][::-1]
        ending = self._filler + b'"}}'
        parts_of_body: list[bytes] = []
        for index, row in enumerate(rows):
            parts_of_body += (b"[" if index == 0 else b",", row, ending)
        parts_of_body.append(b"]" if rows else b"[]")
        return _answer(b"".join(parts_of_body), newest)


def _answer(body: bytes, count: int) -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\npagination-count: {count}\r\n\r\n"
    )
    return head.encode() + body


class Orgs:
    """The listings of orgs whose ids end in a number; each begins with some runs."""

    def __init__(self, run_bytes: int, workflows: int, runs: int, orgs: int) -> None:
        self._listings = [Listing(run_bytes, workflows, org) for org in range(orgs)]
        for listing in self._listings:
            listing.add(runs)

    def answer(self, target: str) -> bytes:
        """Answer one request target."""
        parts = target.split("/")
        if parts[1] == "orgs":
            org = parts[2].rpartition("-")[2]
            return self._listings[int(org) % len(self._listings)].answer(target)
        answers = [listing.answer(target) for listing in self._listings]
        if parts[1] != "served":
            return answers[0]
        return _answer(str(sum(int(each.rpartition(b"\n")[2]) for each in answers)).encode(), 2)


class _Protocol(asyncio.Protocol):
    def __init__(self, listing: Orgs) -> None:
        self._listing = listing
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received and self._transport is not None:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            self._transport.write(self._listing.answer(target))


async def _serve(pipe: Connection, listing: Orgs) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(listing), "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    ended = asyncio.Event()
    loop.add_reader(pipe.fileno(), ended.set)  # readable when the parent closed it
    await ended.wait()


def _run(pipe: Connection, *sizes: int) -> None:
    asyncio.run(_serve(pipe, Orgs(*sizes)))


class PageServer:
    """The process."""

    def __init__(self, *, run_bytes: int, workflows: int, runs: int = 0, orgs: int = 1) -> None:
        """Serve `runs` runs of about `run_bytes` bytes each, spread over `workflows` workflows.

        That for each of so many orgs; more are asked for the same.
        """
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, run_bytes, workflows, runs, orgs)
        )
        self._process.start()
        theirs.close()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}"

    def ask(self, path: str) -> str:
        """Send a control request, such as `add/100`."""
        with urlopen(f"{self.url}/{path}", timeout=60) as answer:
            text: str = answer.read().decode()
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
