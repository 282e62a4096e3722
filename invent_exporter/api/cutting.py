"""Takes JSON apart without reading it: what nobody asks for may be as odd as it likes.

A page that msgspec refuses may still be read, because most of it is never looked at: half a
surrogate pair, `NaN`, a raw control character or deep nesting in a run's outputs costs nothing.
Only strings, brackets, colons and commas are told apart; two values that nothing separates are a
quote too many or too few, which could hide a row.
"""

from __future__ import annotations

import re
from itertools import pairwise

from invent_exporter.errors import SpoiledPageError

MAX_TOKENS = 200_000
"""What is taken apart at the most: a fraction of a second's work."""
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}:,"]', re.DOTALL)
_OPEN, _CLOSE, _SEPARATORS = (b"[", b"{"), (b"]", b"}"), (b":", b",")
_BRACKETS = (*_OPEN, *_CLOSE)
_AFTER_A_STRING = (*_SEPARATORS, *_CLOSE)
_LITERAL = re.compile(rb"\s*+[-+.\w]*+\s*+")


def items(content: bytes | bytearray) -> list[bytes]:
    """Return what each place of an array holds, as it is written.

    Raises:
        SpoiledPageError: it is no array, or its brackets or quotes don't match.

    """
    return [piece for piece, _ in _pieces(content, b"[") if piece]


def members(content: bytes | bytearray) -> dict[bytes, bytes]:
    """Return the values of an object by their names, in quotes; the last of two with one name.

    Raises:
        SpoiledPageError: it is no object, or its brackets or quotes don't match.

    """
    found, name = {}, b""
    for piece, separator in _pieces(content, b"{"):
        if separator == b":":
            name = piece
        else:
            found[name] = piece
    return found


def _pieces(content: bytes | bytearray, opening: bytes) -> list[tuple[bytes, bytes]]:
    """Return what stands between the outermost brackets, each piece with what ends it."""
    cuts = []
    depth = end = 0
    before = b""
    for number, token in enumerate(_TOKEN.finditer(content)):
        kind, gap = token[0], content[end : token.start()]
        if (before[:1] == b'"' and (gap.strip() or kind not in _AFTER_A_STRING)) or (
            depth and not _LITERAL.fullmatch(gap)
        ):
            raise SpoiledPageError("values that nothing separates")
        before, end = kind, token.end()
        depth -= kind in _CLOSE
        if depth == (0 if kind in (*_OPEN, *_CLOSE) else 1) and kind in (
            *_OPEN,
            *_CLOSE,
            b":",
            b",",
        ):
            cuts.append(token)
        depth += kind in _OPEN
        if kind == b'"' or number == MAX_TOKENS:
            raise SpoiledPageError("a string without an end, or too much to take apart")
    is_whole = depth == 0 and [cut[0] for cut in cuts if cut[0] in _OPEN] == [opening]
    if not is_whole or content[: cuts[0].start()].strip() or content[cuts[-1].end() :].strip():
        raise SpoiledPageError("brackets that don't match")
    return [
        (bytes(content[left.end() : right.start()]).strip(), right[0])
        for left, right in pairwise(cuts)
    ]
