"""Where the state is kept: the rule of `state.url`, and how it is shown, without its password.

A PostgreSQL URL is libpq's own, and handed to it as it is: several hosts, TLS and all else that it
knows can stand in it. https://www.postgresql.org/docs/current/libpq-connect.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from invent_exporter.config.yaml_nodes import Value
from invent_exporter.errors import UsageError
from invent_exporter.redaction import Redactor

POSTGRESQL: Final = "postgresql://"
_EXPECTED = "expected sqlite:///FILE, sqlite:// to keep nothing, or postgresql://USER@HOST/DATABASE"
_PASSWORD = re.compile(
    r"(?P<before>^postgresql://[^/?#@:]*:)(?P<secret>[^/?#]*)(?=@)"  # of the user
    r"|(?P<named>[?&](?:ssl)?password=)(?P<value>[^&]*)"
)


def state_url(value: Value) -> str:
    """Read where the state is kept; nothing of the text is shown, for it may hold a password."""
    text = value.text()
    if text.startswith(("postgres://", POSTGRESQL)):  # libpq takes both
        return _postgresql(value, POSTGRESQL + text.partition("://")[2])
    scheme, separator, rest = text.partition("://")
    problems = {
        "not a known kind of state": scheme != "sqlite" or not separator,
        "a host is named, or a slash is missing": rest and not rest.startswith("/"),
        "no file is named": rest.endswith("/") or rest == "/:memory:",
        "? and # are not allowed here": "?" in rest or "#" in rest,
    }
    for problem, is_there in problems.items():
        if is_there:
            raise value.error(f"{problem}: {_EXPECTED}")
    return text


def read_flag(flag: str, text: str, redactor: Redactor) -> str:
    """Read a flag that names state, and its passwords as secrets; raises ConfigError."""
    value = Value.of_variable({flag: text}, flag)
    if value is None:
        raise UsageError(f"{flag}: nothing is named: {_EXPECTED}")
    for password in passwords(text):
        redactor.add(password)
    return state_url(value)


def _postgresql(value: Value, url: str) -> str:
    try:
        # The driver is an extra, and heavy: only who names such a URL loads it.
        from psycopg import ProgrammingError  # noqa: PLC0415
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415
    except ImportError:
        raise value.error(
            "PostgreSQL's driver is not installed: "
            "expected `pip install 'invent-exporter[postgresql]'` before"
        ) from None
    authority = re.split("[/?#]", url.removeprefix(POSTGRESQL), maxsplit=1)[0]
    try:
        # libpq would take what is behind an @, / or # of a password for a host, and name it.
        known = conninfo_to_dict(url) if url.count("@") == authority.count("@") <= 1 else None
    except (ProgrammingError, UnicodeError):
        known = None
    if known is None:
        raise value.error(
            "not a URL that PostgreSQL's libpq can read: expected such as "
            "postgresql://USER@HOST:5432/DATABASE?sslmode=verify-full, other characters as %XX"
        )
    if not known.get("dbname"):
        raise value.error(f"no database is named: {_EXPECTED}")
    return url


def passwords(url: str) -> Iterator[str]:
    """List the passwords in a URL, as they stand there and as they are meant."""
    for match in _PASSWORD.finditer(url):
        secret = match["secret"] or match["value"] or ""
        yield from {secret, unquote(secret)}


def shown(url: str) -> str:
    """Return the URL without passwords."""
    return _PASSWORD.sub(lambda match: f"{match['before'] or match['named']}***", url)
