"""Reads a row as an API may write it: `id`, `status` and a time make a run, all else may be odd.

Any other field that has another type, or can't be read, is unknown, and named in
`Run.unreadable` (contract, section 1). Only rows that the typed decoder refuses come here. Of a
row only what is read is built, and of that nothing that is longer than it may be.

Longer than most modules: one reading for each field, side by side.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import msgspec

from invent_exporter.api import cutting
from invent_exporter.api.models import (
    EARLIEST_SECONDS,
    MAX_CREDITS,
    MAX_ERROR_CHARACTERS,
    MAX_LABEL_BYTES,
    MAX_STEPS_BYTES,
    READ_FIELDS,
    Run,
    Usage,
    Version,
    escape,
)
from invent_exporter.errors import SpoiledPageError

Piece: TypeAlias = bytes | memoryview
MAX_VALUE_BYTES = 4096
"""No value that is longer can be read, but for an error, whose beginning is."""
EXAMPLE_BYTES = 1000
MILLISECONDS_FROM = 1e11
"""A number from here on counts milliseconds since the epoch: as seconds it is the year 5138."""


class Digits(str):
    """A number, as it is written: `17.50` stays so where text is expected."""

    __slots__ = ()


Json: TypeAlias = "bool | str | list[Json] | Mapping[str, Json] | None"

_DECODER = json.JSONDecoder(
    strict=False, parse_int=Digits, parse_float=Digits, parse_constant=Digits
)
_UNREADABLE: Json = [None]
"""There, and nothing that any field could be."""


class Fields:
    """Finds the members of an object that have these names."""

    def __init__(self, *names: str) -> None:
        self._names = {f'"{name}"'.encode(): name for name in names}
        fields = [(name, msgspec.Raw, msgspec.Raw()) for name in names]
        self._strict = msgspec.json.Decoder(msgspec.defstruct("_Fields", fields))

    def of(self, content: Piece) -> dict[str, Piece]:
        """Return those that are there and not null, as they are written.

        Raises:
            SpoiledPageError: it is no object, or its brackets or quotes don't match.

        """
        found: dict[str, Piece]
        try:
            strict = self._strict.decode(content)
            found = {name: memoryview(getattr(strict, name)) for name in self._names.values()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            members = cutting.members(content)
            found = {self._names[key]: value for key, value in members if key in self._names}
        return {name: value for name, value in found.items() if value not in (b"", b"null")}


_LABELS = ("origin", "org_id", "workflow_org_id", "workflow_id")
_TIMES = ("created_at", "started_at", "ended_at", "updated_at")
_ROW = Fields("id", "status", "error", *READ_FIELDS)
_USAGE = Fields("total", "ai_total", "steps")
_VERSION = Fields("version")


def read_value(piece: Piece | None, most: int = MAX_VALUE_BYTES) -> Json:
    """Decode a value, leniently; what is too long, or no JSON, is nothing that a field could be."""
    if piece is None:
        return None
    if len(piece) > most:
        return _UNREADABLE
    try:
        # What is no UTF-8 is kept apart too: labels and keys are escaped.
        value: Json = _DECODER.raw_decode(str(piece, "utf-8", "surrogateescape"))[0]
        return value
    except (ValueError, RecursionError):
        return _UNREADABLE


def read_run(row: Piece, latest_seconds: float) -> Run | tuple[str, str | None]:
    """Read a run; where there is none, what it lacks (`id` or `status`) and its id.

    Raises:
        SpoiledPageError: it is no object, or its brackets or quotes don't match.

    """
    fields = _ROW.of(row)
    values = {name: read_value(piece) for name, piece in fields.items()}
    run_id = read_label(values.get("id"))
    if not run_id:
        return "id", None
    status = _text(values.get("status"))
    if not status:
        return "status", run_id
    usage, is_usage_whole = _usage(fields.get("usage"))
    readings: dict[str, object] = {
        **{name: read_label(values.get(name)) for name in _LABELS},
        **{name: read_time(values.get(name), latest_seconds) for name in _TIMES},
        "workflow_version": _version(fields.get("workflow_version")),
        "version": _number_or_text(values.get("version")),
        "usage": usage,
    }
    return Run(
        id=run_id,
        status=status,
        error=_error(fields.get("error")),
        unreadable={
            name: _compact(fields[name], EXAMPLE_BYTES)
            for name in READ_FIELDS
            if name in fields
            and (readings[name] is None or (name == "usage" and not is_usage_whole))
        },
        **readings,  # type: ignore[arg-type]
    )


def read_label(value: Json) -> str | None:
    """Read a text that may become a label or a key: escaped, and not too long."""
    text = _text(value)
    if text is None or len(text.encode("utf-8", "surrogatepass")) > MAX_LABEL_BYTES:
        return None
    return escape(text)


def _text(value: Json) -> str | None:
    """Read a text, or the digits of a number."""
    return str(value) if isinstance(value, str) else None


def read_number(value: Json) -> float | None:
    """Read a number, or a text that is one; nothing that no credits can be."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return number if abs(number) <= MAX_CREDITS else None


_BEGINNING = re.compile(r'"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+', re.DOTALL)


def _error(piece: Piece | None) -> str | None:
    """Read an error's text, of a long one the beginning; anything else stays JSON."""
    if piece is None:
        return None
    begin = str(piece[: 2 * MAX_ERROR_CHARACTERS], "utf-8", "replace")
    string = _BEGINNING.match(begin)
    value = None if string is None else read_value(f'{string[0]}"'.encode(), 2 * len(begin) + 2)
    text = value if isinstance(value, str) else _compact(piece, MAX_ERROR_CHARACTERS)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text[:MAX_ERROR_CHARACTERS]


_BLANKS = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)|\s++', re.DOTALL)


def _compact(piece: Piece, most: int) -> str:
    """Write the beginning of JSON again, without blanks between its values."""
    return _BLANKS.sub(lambda match: match[1] or "", str(piece[:most], "utf-8", "replace"))


def _version(piece: Piece | None) -> Version | None:
    if piece is None or piece[:1] != b"{":
        return None
    try:
        return Version(_number_or_text(read_value(_VERSION.of(piece).get("version"))))
    except SpoiledPageError:
        return None


def _number_or_text(value: Json) -> float | str | None:
    return read_number(value) if isinstance(value, Digits) else read_label(value)


def _usage(piece: Piece | None) -> tuple[Usage | None, bool]:
    """Read credits; also tell whether all of them could be."""
    try:
        fields = {} if piece is None else _USAGE.of(piece)
    except SpoiledPageError:
        return None, False
    if piece is None:
        return None, True
    total, ai_total = (read_number(read_value(fields.get(name))) for name in ("total", "ai_total"))
    steps = fields.get("steps", b"")
    read, totals = read_value(steps, MAX_STEPS_BYTES) if steps else None, {}
    for name, step in read.items() if isinstance(read, Mapping) else ():
        credits_ = read_number(step.get("total") if isinstance(step, Mapping) else step)
        if credits_ is not None:
            totals[name.encode("utf-8", "backslashreplace").decode()] = credits_
    is_whole = (
        (total is not None or "total" not in fields)
        and (ai_total is not None or "ai_total" not in fields)
        and len(steps) <= MAX_STEPS_BYTES
    )
    return Usage(total, ai_total, msgspec.Raw(msgspec.json.encode(totals))), is_whole


_ISO_8601 = re.compile(
    r"\s*(\d{4})-?(\d\d)-?(\d\d)(?:[Tt_]|\s+)(\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?"
    r"\s*+(?:[Zz]|UTC|GMT|([+\N{MINUS SIGN}-])(\d\d)(?::?(\d\d))?)?\s*"
)


def read_time(value: Json, latest_seconds: float) -> datetime | None:
    """Read a time leniently: any ISO 8601 with a time of day, or a number of (milli)seconds.

    None for what is no time, and for zero times and those that are still to come.
    """
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        time = _iso_8601(value)
    else:
        time = number / 1000 if number >= MILLISECONDS_FROM else number
    if time is None or not EARLIEST_SECONDS <= time <= latest_seconds:
        return None
    return datetime.fromtimestamp(time, UTC)


def _iso_8601(text: str) -> float | None:
    match = _ISO_8601.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        begin = datetime(year, month, day, tzinfo=UTC)
        # A leap second, or 24:00, is the moment after.
        since = timedelta(
            hours=hour,
            minutes=minute,
            seconds=second,
            microseconds=int(((match[7] or "") + "000000")[:6]),
        )
        offset = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
        fits = (hour, minute) <= (24, 59) and second <= 60 and offset < timedelta(days=1)  # noqa: PLR2004
        time = begin + since - (offset if match[8] == "+" else -offset)
    except (ValueError, OverflowError):
        return None
    return time.timestamp() if fits else None
