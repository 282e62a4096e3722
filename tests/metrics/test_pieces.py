"""Compressed pieces join into one gzip member, which any reader takes."""

from __future__ import annotations

import random
import subprocess
import zlib

from hypothesis import given
from hypothesis import strategies as st

from invent_exporter.metrics.pieces import join, piece
from tests.programs import require

TEXTS = [b"", b"a\n", b"invent_up 1.0\n" * 5000, "ü\n".encode() * 70_000]


@given(st.lists(st.binary(max_size=2000), max_size=20), st.binary(max_size=100))
def test_the_pieces_are_one_member_with_the_right_sums(texts: list[bytes], ending: bytes) -> None:
    """Nothing is left over behind it: readers that stop at the first member have read all."""
    joined = join(map(piece, texts))
    reader = zlib.decompressobj(31)
    whole = reader.decompress(b"".join(joined.gzip(ending)))
    assert whole == b"".join(texts) + ending
    assert reader.eof
    assert reader.unused_data == b""
    assert list(joined.text()) == texts
    assert joined.text_bytes == len(b"".join(texts))


def test_an_answer_is_few_parts_however_many_pieces_it_has() -> None:
    """A scrape would take longer to put a thousand together than to send their bytes."""
    texts = [random.Random(number).randbytes(1000) for number in range(1000)]
    parts = join(map(piece, texts)).gzip(b"# EOF\n")
    assert max(map(len, parts)) <= 256 * 1024
    assert len(parts) <= 2 + -(-sum(map(len, parts)) // (256 * 1024))


def test_gzip_itself_takes_them() -> None:
    """With its own check of the sums, and pieces of any size."""
    texts = [b"", b"a\n", b"invent_up 1.0\n" * 5000, "\u00fc\n".encode() * 70_000]
    body = b"".join(join(map(piece, texts)).gzip(b"# EOF\n"))
    done = subprocess.run([require("gzip"), "-dc"], input=body, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"".join(texts) + b"# EOF\n", b"")
