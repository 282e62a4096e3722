"""Finds API keys, and what is left of them, in texts of others; takes them out.

A key may come back in many forms: in another case, split by blanks, tags or characters without
width, escaped as JSON, HTML or URLs do it (also one in the other), in base64, or in part. So it is
looked for in the letters and digits alone of what a text may mean, and any `PART` of them in a row
are a part of a key. Everything is linear in the length of the text.
"""

from __future__ import annotations

import base64
import html
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

PART: Final = 8
"""So many letters and digits of a key in a row are recognizable."""
MIN_CHARACTERS: Final = 4
"""Anything shorter is no secret, and redacting it would spoil every line."""
MAX_TEXT: Final = 16 * 1024
"""Free text is cut here before anything is looked for: nobody shows so much."""
MAX_KEYS: Final = 2000
"""Keys are rotated: of more than these, those that were not read for longest are forgotten."""
REDACTED: Final = "[redacted]"
_ESCAPES_WITHIN_ESCAPES = 3

_ESCAPE = re.compile(
    r"\\u\{?[0-9A-Fa-f]{1,6}\}?|\\x[0-9A-Fa-f]{2}|\\[abfnrtv]"  # JSON, and programs
    r"|&(?:#[0-9]{1,7};?|#[xX][0-9A-Fa-f]{1,6};?|[A-Za-z][A-Za-z0-9]{1,30};)"  # HTML
    r"|%[0-9A-Fa-f]{2}"  # URLs
)
_TAG = re.compile(r"<[^<>]{0,1000}>|\x1b\[[0-9;]{0,100}[A-Za-z]")
"""Of HTML, or a colour of a terminal."""
_NOT_CANONICAL = re.compile("[^a-z0-9]+")
_SEPARATORS = frozenset(map(chr, range(128))) - {*string.ascii_letters, *string.digits}


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a text may mean: characters, and where in the text each begins and ends."""

    characters: str
    starts: Sequence[int]
    ends: Sequence[int]

    def without(self, pattern: re.Pattern[str]) -> _Reading:
        """Undo what matches: an escape becomes its character, a tag nothing."""
        pieces: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        done = 0

        def copy(until: int) -> None:
            pieces.append(self.characters[done:until])
            starts.extend(self.starts[done:until])
            ends.extend(self.ends[done:until])

        for match in pattern.finditer(self.characters):
            copy(match.start())
            done = match.end()
            plain = _meaning(match[0])
            pieces.append(plain)
            starts += [self.starts[match.start()]] * len(plain)
            ends += [self.ends[done - 1]] * len(plain)
        copy(len(self.characters))
        return _Reading("".join(pieces), starts, ends)


class Redactor:
    """The keys that are known so far; one is added when it is read."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._short: re.Pattern[str] | None = None
        self._wholes: set[str] = set()
        self._parts: set[str] = set()

    def __repr__(self) -> str:
        return f"Redactor({len(self._keys)} keys)"

    def add(self, key: str) -> None:
        """Take this key out of texts from now on."""
        if len(key) < MIN_CHARACTERS:
            return
        is_known = key in self._keys
        self._keys.pop(key, None)
        self._keys[key] = None  # the one that was read last
        if len(self._keys) > MAX_KEYS:
            self._keys = dict.fromkeys([*self._keys][MAX_KEYS // 2 :])
            self._wholes, self._parts, self._short = set(), set(), None
            for each in self._keys:
                self._learn(each)
        elif not is_known:
            self._learn(key)

    def _learn(self, key: str) -> None:
        forms = {form for form in _forms(key) if len(form) >= PART}
        self._wholes |= forms
        self._parts.update(part for form in forms for part in _parts(form))
        if len(canonical(key)) < PART:
            # Of so few letters and digits only the whole is a secret. The longest first, so that no
            # end of one stays behind that begins with another.
            short = [each for each in self._keys if len(canonical(each)) < PART]
            spelled = {
                re.escape(form)
                for each in short
                for form in (each, json.dumps(each)[1:-1], quote(_bytes(each), safe=""))
            }
            longest_first = sorted(spelled, key=len, reverse=True)
            self._short = re.compile("|".join(longest_first), re.IGNORECASE)

    def redact(self, text: str) -> str:
        """Replace keys and parts of them, in free text; what is too long is cut first."""
        text = text[:MAX_TEXT]
        if self._short is not None:
            text = self._short.sub(REDACTED, text)
        if not self._parts:
            return text
        found = [span for reading in _readings(text) for span in self._spans(reading)]
        return _replaced(text, found) if found else text

    def holds(self, label: str) -> bool:
        """Tell whether a whole key is in an id or a name.

        A part of one is none there: a random id may share some characters with a key. Nor is a key
        of fewer than `PART` characters: nothing would be left of the runs of a test.
        """
        if self._short is not None:
            found = self._short.search(label)
            if found is not None and len(found[0]) >= PART:
                return True
        if not self._wholes:
            return False
        forms = {canonical(reading.characters) for reading in _readings(label)}
        return any(whole in form for form in forms for whole in self._wholes)

    def redact_label(self, label: str) -> str:
        """Redact an id or a name that holds a whole key, and no other."""
        return self.redact(label) if self.holds(label) else label

    def _spans(self, reading: _Reading) -> Iterator[tuple[int, int]]:
        """Say where in the text parts of keys stand."""
        hits = [
            start
            for start, part in enumerate(_parts(canonical(reading.characters)))
            if part in self._parts
        ]
        if hits:
            places = [
                place
                for place, character in enumerate(reading.characters)
                for _ in (character if character.isascii() else canonical(character))
                if character not in _SEPARATORS
            ]
            for hit in hits:
                yield reading.starts[places[hit]], reading.ends[places[hit + PART - 1]]


def canonical(text: str) -> str:
    """Return the ASCII letters and digits of a text alone, in lower case, whatever their form."""
    plain = text if text.isascii() else unicodedata.normalize("NFKD", text)
    return _NOT_CANONICAL.sub("", plain.lower())


def _parts(form: str) -> Iterator[str]:
    return (form[start : start + PART] for start in range(len(form) - PART + 1))


def _bytes(key: str) -> bytes:
    """Encode what may be no key at all, but whatever stands in its place."""
    return key.encode("utf-8", "surrogatepass")


def _forms(key: str) -> Iterator[str]:
    """Say how a key is spelled, canonically; base64 depends on how much stands before it."""
    yield canonical(key)
    for before, first in enumerate((0, 2, 3)):
        encoded = base64.b64encode(b"\0" * before + _bytes(key)).decode().rstrip("=")
        # The first characters hold something of what stands before, the last of what is behind.
        is_whole = (before + len(key)) % 3 == 0
        yield canonical(encoded[first : None if is_whole else -1])


def _readings(text: str) -> Iterator[_Reading]:
    """Read a text as it is written, and with escapes undone, again and again; without tags too."""
    reading = _Reading(text, range(len(text)), range(1, len(text) + 1))
    for _ in range(_ESCAPES_WITHIN_ESCAPES + 1):
        yield reading
        if _TAG.search(reading.characters) is not None:
            yield reading.without(_TAG)
        if _ESCAPE.search(reading.characters) is None:
            return
        reading = reading.without(_ESCAPE)


def _meaning(match: str) -> str:
    """Return the character that an escape stands for; nothing for a tag."""
    kind = match[0]
    if kind in "<\x1b":
        return ""
    if kind == "&":
        return html.unescape(match)
    digits = match[1:] if kind == "%" else match[2:].strip("{}")
    number = int(digits, 16) if digits else 0
    # Several such escapes of a URL are one character, and none of a key.
    return chr(number) if number < (0x80 if kind == "%" else 0x110000) else ""


def _replaced(text: str, spans: Iterable[tuple[int, int]]) -> str:
    pieces: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if first >= end:
            pieces += [text[end:first], REDACTED]
        end = max(end, last)
    return "".join([*pieces, text[end:]])
