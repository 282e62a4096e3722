"""Compressed pieces of text that can be joined, in any order, into one gzip member (RFC 1952).

A piece ends with a full flush: at a byte's end, and nothing after it refers to what was before. So
joining is putting bytes in a row, and the checksum of the whole follows from those of its parts:
for n bytes more behind it a CRC is multiplied, as a polynomial over GF(2), by x to the power of 8n.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LEVEL = 1
"""Level 6 makes answers a fifth smaller and takes five times as long."""
_BLOCK_BYTES = 256 * 1024
_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_POLYNOMIAL = 0xEDB88320  # as all of them here with the bit of x^0 on top
_ONE = 1 << 31


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text, compressed."""

    deflated: bytes
    text_bytes: int
    crc: int
    shift: int
    """x to the power of 8 for each byte of the text."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Pieces in a row."""

    deflated: tuple[bytes, ...]
    blocks: tuple[bytes, ...]
    """The same in few parts: a thousand pieces would take each answer longer than their bytes."""
    text_bytes: int
    crc: int

    def gzip(self, ending: bytes) -> tuple[bytes, ...]:
        """Make a gzip member of the pieces with a text behind them, in parts."""
        last = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        crc = _product(self.crc, _shift(len(ending))) ^ zlib.crc32(ending)
        sums = struct.pack("<II", crc, (self.text_bytes + len(ending)) & 0xFFFFFFFF)
        return (_HEAD, *self.blocks, last.compress(ending) + last.flush() + sums)

    def text(self) -> Iterator[bytes]:
        """Decompress, piece by piece."""
        inflate = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        return map(inflate, self.deflated)


def piece(text: bytes) -> Piece:
    """Compress a text."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH)
    return Piece(deflated, len(text), zlib.crc32(text), _shift(len(text)))


def join(pieces: Iterable[Piece]) -> Joined:
    """Put pieces in a row."""
    deflated, text_bytes, crc = [], 0, 0
    for each in pieces:
        deflated.append(each.deflated)
        text_bytes += each.text_bytes
        crc = _product(crc, each.shift) ^ each.crc
    whole = b"".join(deflated)
    starts = range(0, len(whole), _BLOCK_BYTES)
    blocks = tuple(whole[start : start + _BLOCK_BYTES] for start in starts)
    return Joined(tuple(deflated), blocks, text_bytes, crc)


def _product(left: int, right: int) -> int:
    """Multiply two polynomials modulo that of the CRC."""
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = left << 1 & 0xFFFFFFFF
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product


def _powers() -> list[int]:
    powers = [_ONE >> 8]
    for _ in range(40):
        powers.append(_product(powers[-1], powers[-1]))
    return powers


_SHIFTS = _powers()
"""x to the power of 8 for each of 2^n bytes, by n."""


def _shift(size_bytes: int) -> int:
    shift = _ONE
    for power, each in enumerate(_SHIFTS):
        if size_bytes >> power & 1:
            shift = _product(shift, each)
    return shift
