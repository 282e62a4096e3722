"""Keys are found in texts in whatever form they come back, and nothing else is touched."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invent_exporter.redaction import MAX_KEYS, MAX_TEXT, REDACTED, Redactor
from tests.leaks import leaked

KEY = "sk-live_4f9aQ7zX1.bT6-mW2k"


def knowing(*keys: str) -> Redactor:
    """Make a redactor that knows these keys."""
    redactor = Redactor()
    for key in keys:
        redactor.add(key)
    return redactor


def each(form: str) -> Callable[[str], str]:
    """Write each character by its number."""
    return lambda text: "".join(form.format(ord(character)) for character in text)


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "another case": str.swapcase,
    "its first half": lambda key: key[: len(key) // 2],
    "its second half": lambda key: key[len(key) // 2 :],
    "the fewest that can be recognized": lambda key: re.sub(r"[\W_]", "", key)[8:16],
    "blanks": " ".join,
    "dashes": "-".join,
    "line breaks": "\r\n".join,
    "without width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "wide": lambda key: "".join(chr(ord(c) + 0xFEE0) for c in key),
    "tags": "<b>".join,
    "colours": "\x1b[1;31m".join,
    "colours in JSON": "\\u001b[0m".join,
    "in a tag": lambda key: f'<a title="{key}">',
    "URL": each("%{:02x}"),
    "URL in a URL": each("%25{:02X}"),
    "URL with a zero width": "%E2%80%8B".join,
    "JSON": each("\\u{:04x}"),
    "JSON in JSON": lambda key: json.dumps(json.dumps(each("\\u{:04x}")(key))),
    "JSON with a line break": lambda key: f"{key[:9]}\\n{key[9:]}",
    "a program's": each("\\x{:02x}"),
    "HTML": each("&#{};"),
    "HTML, hexadecimal": each("&#x{:X}"),
    "HTML by name": "&shy;".join,
    "HTML in JSON": lambda key: json.dumps({"error": each("&#{};")(key)}),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 with a user": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 within more": lambda key: base64.urlsafe_b64encode(
        f'{{"k":"{key}"}}'.encode()
    ).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_found_in_every_form(form: str) -> None:
    """What is around it stays."""
    text = f"({FORMS[form](KEY)})"
    shown = knowing("another-key-0123456789", KEY).redact(text)
    assert leaked(text, [KEY])
    assert not leaked(shown, [KEY])
    assert REDACTED in shown
    assert (shown[0], shown[-1]) == ("(", ")")


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(KEY)),
            st.integers(0, len(KEY)),
            st.sampled_from([str, str.upper, each("%{:02x}"), each("&#{};"), each("\\u{:04x}")]),
            st.sampled_from(["", " ", "<i>", "\u200b", "%20", "x"]),
        ),
        max_size=6,
    )
)
def test_no_mixture_of_pieces_shows_a_part(
    pieces: list[tuple[int, int, Callable[[str], str], str]],
) -> None:
    """Pieces of a key, each written in its own way, with something between them."""
    text = "".join(spell(KEY[start:end]) + between for start, end, spell, between in pieces)
    assert not leaked(knowing(KEY).redact(text), [KEY])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HTTP 503: the service is not available; try again in 30 s",
        "run_01J9ZC5T7Y failed: 50 % of <b>rows</b> &amp; C:\\new\\x",
        f"seven of it are none: {KEY[9:16]}",
        "\ud800 half a pair",
    ],
)
def test_what_is_no_key_stays_as_it_is(text: str) -> None:
    """Escapes and tags too: a text is only read, never rewritten."""
    assert knowing(KEY).redact(text) == text


def test_an_id_is_unreadable_when_it_holds_a_whole_key() -> None:
    """A random id may share some characters with a key."""
    redactor = knowing(KEY)
    assert all(redactor.holds(f"wf-{FORMS[form](KEY)}-1") for form in ("plain", "URL", "base64"))
    shared = f"wf-{KEY[:-1]}"
    assert not redactor.holds(shared)
    assert redactor.redact_label(shared) == shared
    assert redactor.redact_label(f"wf-{KEY}") == f"wf-{REDACTED}"


def test_of_a_key_with_few_characters_the_whole_is_secret() -> None:
    """The longer of two is redacted whole; what is very short is no secret."""
    redactor = knowing("ab-cd", "ab-cd-ef", "", "c")
    assert redactor.redact("AB-CD-ef ab-cd c abcd") == f"{REDACTED} {REDACTED} c abcd"
    assert redactor.holds("wf-AB-cd-ef")
    assert not redactor.holds("wf-ab-cd")
    assert not redactor.holds("wf-abcdef")
    assert knowing('a/"b').redact('a/"B a/\\"b a%2F%22b') == f"{REDACTED} {REDACTED} {REDACTED}"


def test_nothing_is_left_at_the_end_of_a_long_text() -> None:
    """A text is cut before it is looked at, and what is left of a key there is a part of one."""
    text = knowing(KEY).redact("x" * (MAX_TEXT - 12) + KEY)
    assert text == "x" * (MAX_TEXT - 12) + REDACTED


def test_old_keys_are_forgotten_in_the_end() -> None:
    """Keys are rotated for ever; those that are read stay."""
    redactor = knowing(KEY)
    old = [sha256(str(number).encode()).hexdigest()[:16] for number in range(MAX_KEYS)]
    for key in old:
        redactor.add(key)
        redactor.add(KEY)
    assert redactor.redact(f"{KEY} {old[-1]} {old[0]}") == f"{REDACTED} {REDACTED} {old[0]}"
    assert KEY not in repr(redactor)
