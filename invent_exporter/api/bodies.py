"""Bodies of answers: decompressed within bounds, and made fit to be shown where they are errors."""

from __future__ import annotations

import asyncio
import html
import re
import zlib
from collections.abc import AsyncIterator, Callable

import httpx

from invent_exporter.errors import BadBodyError

CHUNK_BYTES = 64 * 1024
PIECES_A_TURN = 32
PIECES_OF_ANY_SIZE, CRUMB_BYTES = 1000, 64
"""So many pieces may have any size, more must have so many bytes each, taken together."""
MAX_MEMBERS = 100
LINE_LENGTH = 200
ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 2.0


def decoded(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body decompressed, in pieces that stay small whatever a small input expands to.

    Raises:
        BadBodyError: it is not compressed as its header says, or comes in crumbs.

    """
    header = response.headers.get("content-encoding", "identity").strip()
    pieces = _paced(response.aiter_raw())  # as they come: at most 64 KiB
    if header.lower() in ("gzip", "x-gzip"):
        return _paced(_gunzipped(pieces))
    if header.lower() not in ("", "identity"):
        raise BadBodyError(f"content-encoding {header} was not asked for")
    return pieces


async def _paced(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Give others their turn between pieces, however fast they come; refuse crumbs."""
    number = size = 0
    async for piece in pieces:
        number += 1
        size += len(piece)
        if number % PIECES_A_TURN == 0:
            await asyncio.sleep(0)
        if number > PIECES_OF_ANY_SIZE and size < number * CRUMB_BYTES:
            raise BadBodyError(f"{number} pieces have {size} bytes")
        yield piece


async def _gunzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Decompress gzip members one after the other."""
    member, members = zlib.decompressobj(wbits=31), 1
    try:
        async for data in pieces:
            rest, is_full = data, False  # a full piece may have more behind it
            while rest or is_full:
                if member.eof and rest:
                    members += 1
                    if members > MAX_MEMBERS:
                        raise BadBodyError("gzip: too many parts")
                    member = zlib.decompressobj(wbits=31)
                piece = member.decompress(rest, CHUNK_BYTES)
                if piece:
                    yield piece
                rest = member.unused_data if member.eof else member.unconsumed_tail
                is_full = len(piece) == CHUNK_BYTES
    except zlib.error as error:
        raise BadBodyError(f"gzip: {error}") from error
    if not member.eof:
        raise BadBodyError("gzip: cut off")


async def read_beginning(response: httpx.Response) -> bytearray:
    """Read the first 64 KiB of a body that is no page; the status matters more than the body."""
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            async for piece in decoded(response):
                body += piece
                if len(body) >= ERROR_BODY_BYTES:
                    break
    except (BadBodyError, TimeoutError, httpx.HTTPError, OSError):
        pass  # what came until then is shown
    return body[:ERROR_BODY_BYTES]


def error_text(body: bytearray, redact: Callable[[str], str]) -> str:
    """Make one line of an error's body."""
    text = body.decode("utf-8", "replace")
    text = re.sub(r"<(script|style)\b.*?(</\1\s*>|$)", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return one_line(html.unescape(re.sub(r"<[^<>]{0,1000}>", " ", text)), redact)


def kind_of(body: bytes | bytearray) -> str:
    """Name what a body is, without showing what may be somebody's data."""
    start = bytes(body[:100]).lstrip()[:1] or body.strip()[:1]
    kinds = {b"": "empty", b"[": "a JSON array", b"{": "a JSON object", b"<": "HTML"}
    return kinds.get(bytes(start), "not JSON")


def one_line(text: str, redact: Callable[[str], str]) -> str:
    """Make text fit for a log line: no control characters, no key, a bounded length."""
    text = redact(" ".join(re.sub(r"[^\S ]+", " ", text).split()))
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return text if len(text) <= LINE_LENGTH else text[: LINE_LENGTH - 1] + "…"
