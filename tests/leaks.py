"""Looks for keys in texts, in its own way: what the program takes out, this must not find."""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

PART = 8
"""So many characters of a key in a row are recognizable (contract, promise 7)."""


def parts_of(key: str) -> set[str]:
    """Return all that is recognizable of a key."""
    return {
        form[start : start + PART]
        for form in (_plain(key), *_base64_forms(key))
        for start in range(len(form) - PART + 1)
    }


def leaked(text: str, keys: Iterable[str]) -> set[str]:
    """Return the parts of keys that can be read in a text, or from it."""
    parts = set().union(*map(parts_of, keys))
    found = set()
    for meant in _meanings(text):
        plain = _plain(meant)
        found |= parts & {plain[start : start + PART] for start in range(len(plain) - PART + 1)}
    return found


def _meanings(text: str) -> Iterator[str]:
    """Undo all escapes, again and again; with tags and without."""
    for _ in range(5):
        yield text
        yield re.sub(r"<[^<>]*>|\x1b\[[0-9;]*[A-Za-z]", "", text)
        text = unquote(html.unescape(text))
        text = re.sub(r"\\(?:u00|x)([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
        text = re.sub(r"\\[nrt]", " ", text)


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", unicodedata.normalize("NFKD", text).lower())


def _base64_forms(key: str) -> Iterable[str]:
    """Yield what is the same in base64 whatever stands before and behind, in three positions."""
    for before in range(3):
        encoded = [
            base64.b64encode((filling * before + key + filling * 3).encode()).decode()
            for filling in ("a", "~")
        ]
        alike = "".join(a if a == b else " " for a, b in zip(*encoded, strict=True))
        yield _plain(alike)
