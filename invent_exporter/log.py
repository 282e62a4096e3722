"""Logs: one line each, logfmt or JSON, without secrets, whatever a field holds.

The exporter's own lines come through structlog, those of libraries through `logging` from warning
level on; `_Clean` makes the fields of both plain, structlog renders them. A line that can't be
written is dropped: there is no other place to tell it, and a log must not end the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from invent_exporter.redaction import Redactor

LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "error": 40}
FORMATS: Final[dict[str, Processor]] = {
    "logfmt": structlog.processors.LogfmtRenderer(),
    "json": structlog.processors.JSONRenderer(ensure_ascii=False, separators=(",", ":")),
}
MAX_CHARACTERS, MAX_DEPTH, MAX_NUMBER = 10_000, 6, 2**63
"""Bounds of one field: its length, its nesting, and what readers of JSON take for an integer."""


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry `logger=name`; it follows a later `setup_logging`."""
    return cast("FilteringBoundLogger", structlog.get_logger(logger_name=name))


def setup_logging(level: str, form: str, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send the lines of structlog and of `logging` to one stream (stderr), in one format.

    A second call replaces the first. `level` is one of `LEVELS`, `form` one of `FORMATS`.
    """
    writer = _Writer(stream or sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _Clean(redactor, is_json=form == "json"),
            FORMATS[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
        # Loggers are made when modules are imported, before this is called.
        cache_logger_on_first_use=False,
    )
    handlers = logging.getLogger().handlers
    others = [each for each in handlers if not isinstance(each, _Bridge)]
    handlers[:] = [*others, _Bridge(logging.WARNING)]
    logging.captureWarnings(capture=True)


Redact: TypeAlias = Callable[[str], str]
_LABELS: Final = frozenset({"org_id", "workflow_id", "run_id", "run_ids", "entry", "before"})
"""Fields that name something: a random id may share some characters with a key."""


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


class _Clean:
    """Makes every field what both formats can say: plain, bounded, without secrets."""

    def __init__(self, redactor: Redactor, *, is_json: bool) -> None:
        self._redactor = redactor
        self._is_json = is_json

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = event.pop("level", "info").replace("warning", "warn")
        redact = self._redactor.redact
        line = {"ts": now, "level": level, "msg": self._field(event.pop("event", ""), redact)}
        if "logger_name" in event:  # structlog keeps `logger` for itself
            line["logger"] = self._field(event.pop("logger_name"), redact)
        for name, value in event.items():
            shown = re.sub(r"[^\w.-]", "_", _text(name, redact), flags=re.ASCII) or "_"
            is_label = name in _LABELS
            # A field that is called as one of the first does not replace it.
            line[f"{shown}_" if shown in line else shown] = self._field(
                value, self._redactor.redact_label if is_label else redact
            )
        return line

    def _field(self, value: object, redact: Redact) -> object:
        try:
            plain = _plain(value, redact)
            encoded = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        except Exception:  # noqa: BLE001 - a value that can't be shown must not cost the line
            return f"<{type(value).__name__} that can't be shown>"
        if isinstance(plain, str) or (self._is_json and len(encoded) <= MAX_CHARACTERS):
            return plain
        return _cut(encoded)


def _plain(value: object, redact: Redact, depth: int = 0) -> object:
    """Turn any value into what JSON has, with its secrets redacted."""
    if value is None or (isinstance(value, (int, float)) and abs(value) < MAX_NUMBER):
        return value
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        items = value.items()
        return {_text(name, redact): _plain(item, redact, depth + 1) for name, item in items}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < MAX_DEPTH:
        return [_plain(item, redact, depth + 1) for item in value]
    return _text(value, redact)


def _text(value: object, redact: Redact) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: {text}".removesuffix(": ")
    # Redacted first: a secret that was cut would not be found.
    return _cut(redact(text))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


class _Writer(structlog.WriteLogger):
    """Writes lines whole, with what is not printable spelled as in JSON; the last stop of each."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # see the module's docstring
            super().msg(re.sub("[^ -~]", self._spell, message))

    @staticmethod
    def _spell(match: re.Match[str]) -> str:
        if match[0].isprintable():
            return match[0]
        # Half a surrogate pair has no valid form.
        return "\\ufffd" if "\ud800" <= match[0] <= "\udfff" else json.dumps(match[0])[1:-1]

    debug = info = warning = error = critical = exception = log = msg
