"""Takes JSON apart without reading it: what nobody asks for may be as odd as it likes.

A page that msgspec refuses may still be read, because most of it is never looked at: half a
surrogate pair, `NaN`, a raw control character or deep nesting in a run's outputs costs nothing.
Only strings, brackets, colons and commas are told apart; two values that nothing separates are a
quote too many or too few, which could hide a row. Nothing is kept of what is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from invent_exporter.errors import SpoiledPageError

MAX_PIECES = 2_000_000
"""What is passed over at the most before one value ends: about a second's work."""
MAX_NAME_BYTES = 100
_AT_ONCE = 1024
"""How many values one match passes over: it keeps all other threads waiting."""

_SCALAR = rb'(?:[-+.\w]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")'
_OPENS = re.compile(rb"\s*+([\[{])")
_BEGINS = re.compile(rb"\s*+(%b|([\[{])|)" % _SCALAR, re.DOTALL)
_ENDS = re.compile(rb"\s*+([\],:}])")
_BLANK = re.compile(rb"\s*+")
_FLAT = rb"(?:[\s,:]++|%b(?=\s*+[\],:}]))" % _SCALAR
_PAIR = rb"[\[{]%b{0,%d}+[\]}](?=\s*+[\],:}])" % (_FLAT, _AT_ONCE)
# Values up to the next bracket that holds others, and that bracket. What does not fit is tried in
# two ways at the most, each in one go.
_NESTED = re.compile(rb"(?:%b|%b){0,%d}+(?:([\[{])|([\]}])|)" % (_FLAT, _PAIR, _AT_ONCE), re.DOTALL)


def items(content: bytes | bytearray) -> Iterator[memoryview]:
    """Yield what each place of an array holds, as it is written.

    Raises:
        SpoiledPageError: it is no array, or its brackets or quotes don't match.

    """
    return (piece for piece, _ in _pieces(memoryview(content), b"[") if piece)


def members(content: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the names of an object, in quotes, and their values, up to where it goes wrong.

    Raises:
        SpoiledPageError: it is no object, or its brackets or quotes don't match.

    """
    name = b""
    for piece, separator in _pieces(memoryview(content), b"{"):
        if separator == b":":
            name = bytes(piece[:MAX_NAME_BYTES])
        elif name:
            yield name, piece
            name = b""


def _pieces(content: memoryview, opening: bytes) -> Iterator[tuple[memoryview, bytes]]:
    """Yield what stands between the outermost brackets, each piece with what ends it."""
    opens = _OPENS.match(content)
    if opens is None or opens[1] != opening:
        raise SpoiledPageError("another kind of value")
    at = opens.end()
    for _ in range(MAX_PIECES):
        value = _BEGINS.match(content, at)
        begin, end = value.span(1) if value is not None else (at, at)
        if value is not None and value[2]:
            end = _behind_nested(content, end)
        ends = _ENDS.match(content, end)
        if ends is None:
            raise SpoiledPageError("values that nothing separates")
        yield content[begin:end], ends[1]
        at = ends.end()
        if ends[1] in (b"]", b"}"):
            if _BLANK.fullmatch(content, at) is None:
                raise SpoiledPageError("more behind the last bracket")
            return
    raise SpoiledPageError("too much to take apart")


def _behind_nested(content: memoryview, start: int) -> int:
    """Tell where the bracket closes that opened just before `start`."""
    depth = 1
    for passed in islice(_NESTED.finditer(content, start), MAX_PIECES):
        depth += {None: 0, 1: 1, 2: -1}[passed.lastindex]
        if depth == 0:
            return passed.end()
        if passed.end() == passed.start():
            break
    raise SpoiledPageError("brackets or quotes that don't match, or too much to take apart")
