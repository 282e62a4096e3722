"""Logs: one line each, logfmt or JSON, without secrets, whatever a field holds.

The exporter's own lines come through structlog, those of libraries (uvicorn, httpx, SQLAlchemy)
through `logging` from warning level on; both take the same way. Each line begins with `ts` (UTC,
milliseconds), `level` and `msg`. A line that can't be written is dropped: there is no other place
to tell it, and a log must not end the process.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO, cast
from urllib.parse import quote

import structlog
from structlog.typing import FilteringBoundLogger

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("logfmt", "json")

MIN_SECRET_CHARACTERS: Final = 4
"""Anything shorter is no secret, and redacting it would spoil every line."""

MAX_CHARACTERS: Final = 10_000
MAX_DEPTH: Final = 6
MAX_INTEGER: Final = 2**63
"""Bounds of one field: its length, its nesting, and what readers of JSON take for an integer."""


class Secrets:
    """The secrets that are known so far; a new key is added when it is read."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Redact this text from now on, as it is, and as JSON and URLs spell it."""
        if len(secret) < MIN_SECRET_CHARACTERS or secret in self._known:
            return
        spellings = {secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="replace")}
        self._known |= spellings
        # The longest first, so that no end of a secret stays behind that begins with another.
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(known) for known in longest_first))

    def redact(self, text: str) -> str:
        """Replace each occurrence of a known secret with `[redacted]`."""
        return text if self._pattern is None else self._pattern.sub("[redacted]", text)

    def __repr__(self) -> str:
        """Show how many there are, not what they are."""
        return f"Secrets({len(self._known)} spellings)"


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `logger=name`; it follows a later `setup_logging`."""
    return cast("FilteringBoundLogger", structlog.get_logger(logger_name=name))


def setup_logging(
    level: str,
    format: str,  # noqa: A002 - named as its flag
    secrets: Secrets,
    stream: TextIO | None = None,
) -> None:
    """Send the lines of structlog and of `logging` to one stream, in one format.

    `level` is one of LEVELS, `format` one of FORMATS, `stream` stderr when not given. A second
    call replaces the first. Raises ValueError for another level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level: expected one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a log format: expected one of {', '.join(FORMATS)}")
    writer = _Writer(sys.stderr if stream is None else stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _Renderer(secrets, is_json=format == "json"),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
        # Loggers are made when modules are imported, before this is called.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logging.WARNING))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _Bridge(logging.Handler):
    """Hands the records of `logging` to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that don't fit their format are a library's bug
            message = str(record.msg)
        log = get_logger(record.name)
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(message, exc_info=record.exc_info or None)


class _Writer:
    """Writes whole lines; the last stop of every log line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        line = line.encode(encoding, "backslashreplace").decode(encoding)
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):
                # A closed or broken stream: see the module's docstring.
                return

    debug = info = warning = error = critical = exception = log = msg


class _Renderer:
    """Turns an event into its line; the only place that knows the two formats."""

    def __init__(self, secrets: Secrets, *, is_json: bool) -> None:
        self._secrets = secrets
        self._is_json = is_json

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = event.pop("level", "info")
        fields = {
            "ts": now,
            "level": "warn" if level == "warning" else level,
            "msg": self._field(event.pop("event", "")),
        }
        if "logger_name" in event:  # structlog keeps `logger` for itself
            fields["logger"] = self._field(event.pop("logger_name"))
        for name, value in event.items():
            shown = self._text(name)
            # A field that is called as one of these does not replace it.
            fields[f"{shown}_" if shown in ("ts", "level", "msg", "logger") else shown] = (
                self._field(value)
            )
        if self._is_json:
            return _one_line(fields)
        return " ".join(f"{_logfmt_name(name)}={_logfmt(value)}" for name, value in fields.items())

    def _field(self, value: object) -> object:
        try:
            plain = self._plain(value)
            if (
                isinstance(plain, (dict, list))
                and len(encoded := _one_line(plain)) > MAX_CHARACTERS
            ):
                return f"{encoded[:MAX_CHARACTERS]}..."
        except Exception:  # noqa: BLE001 - a value that can't be shown must not cost the line
            return f"<{type(value).__name__} that can't be shown>"
        return plain

    def _plain(self, value: object, depth: int = 0) -> object:
        """Turn any value into what JSON has, with its secrets redacted."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < MAX_INTEGER:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            items = value.items()
            return {self._text(name): self._plain(item, depth + 1) for name, item in items}
        if isinstance(value, (list, tuple, set, frozenset)) and depth < MAX_DEPTH:
            return [self._plain(item, depth + 1) for item in value]
        return self._text(value)

    def _text(self, value: object) -> str:
        if isinstance(value, bytes):
            text = value.decode("utf-8", "backslashreplace")
        elif isinstance(value, BaseException):
            text = f"{type(value).__name__}: {value}".removesuffix(": ")
        else:
            text = str(value)
        # Redacted first: a secret that was cut would not be found.
        text = self._secrets.redact(text)
        return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


def _logfmt_name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name) or "_"


def _logfmt(value: object) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _one_line(value)
    encoded = _one_line(value)
    return _one_line(encoded) if isinstance(value, (dict, list)) else encoded


def _one_line(value: object) -> str:
    """Encode as JSON, with every character that is not printable escaped.

    Outside of strings JSON is printable, so each escape lands in a string. Half a surrogate pair
    has no valid form in JSON's UTF-8 and becomes the replacement character.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "\\ufffd" if "\ud800" <= char <= "\udfff" else json.dumps(char)[1:-1]
