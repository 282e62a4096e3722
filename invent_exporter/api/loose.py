"""Reads a row as an API may write it: `id`, `status` and a time make a run, all else may be odd.

Any other field that has another type, or can't be read, is unknown, and named in
`Run.unreadable` (contract, section 1). Only rows that the typed decoder refuses come here.

Longer than most modules: one reading for each field, side by side.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import msgspec

from invent_exporter.api import cutting
from invent_exporter.api.models import (
    EARLIEST_SECONDS,
    MAX_CREDITS,
    MAX_LABEL_BYTES,
    READ_FIELDS,
    Run,
    Usage,
    Version,
    escape,
)
from invent_exporter.errors import SpoiledPageError

_KEYS = {name: f'"{name}"'.encode() for name in ("id", "status", "error", *READ_FIELDS)}
_FIELDS = msgspec.json.Decoder(
    msgspec.defstruct("_Fields", [(name, msgspec.Raw, msgspec.Raw()) for name in _KEYS])
)
MILLISECONDS_FROM = 1e11
"""A number from here on counts milliseconds since the epoch: as seconds it is the year 5138."""


class Digits(str):
    """A number, as it is written: `17.50` stays so where text is expected."""

    __slots__ = ()


Json: TypeAlias = "bool | str | list[Json] | Mapping[str, Json] | None"

_DECODER = json.JSONDecoder(
    strict=False, parse_int=Digits, parse_float=Digits, parse_constant=Digits
)


def rows_of(body: bytes | bytearray) -> Iterator[bytes]:
    """Take a page apart into its rows, though it is no strict JSON.

    Raises:
        SpoiledPageError: it can't be told where a row ends.

    """
    text = body.decode("utf-8", "replace")
    begin = _BEGIN.match(text)
    if begin is None:
        raise SpoiledPageError("no array")
    start = begin.end()
    while text[start : start + 1] not in ("]", ""):
        try:
            _, end = next_row(text, start)
        except (ValueError, RecursionError):
            yield from cutting.items(b"[" + text[start:].encode())
            return
        yield text[start:end].encode()
        separator = _SEPARATOR.match(text, end)
        start = end if separator is None else separator.end()
    if text[start:].strip() != "]":
        raise SpoiledPageError("no end of the array")


_BEGIN = re.compile(r"\s*\[\s*")
_SEPARATOR = re.compile(r"\s*,?\s*")


def next_row(text: str, start: int) -> tuple[Json, int]:
    """Decode the value at `start`, and tell where it ends.

    Raises:
        ValueError: it is no JSON, also when that is said leniently.
        RecursionError: it is nested too deep.

    """
    return _DECODER.raw_decode(text, start)


def fields_of(row: str) -> Mapping[str, Json] | None:
    """Return the fields of a row; None when it is no object.

    Raises:
        SpoiledPageError: its brackets or quotes don't match.

    """
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Of strict JSON only what is read is built: a row's outputs may be millions of values.
        found = _FIELDS.decode(row)
        values = {name: bytes(getattr(found, name)) for name in _KEYS}
        return {name: _cut_value(value) for name, value in values.items() if value}
    try:
        decoded, _ = next_row(row, 0)
    except (ValueError, RecursionError):
        cut = cutting.members(row.encode("utf-8", "surrogatepass"))
        return {name: _cut_value(cut[key]) for name, key in _KEYS.items() if key in cut}
    return decoded if isinstance(decoded, dict) else None


def _cut_value(value: bytes) -> Json:
    try:
        return next_row(value.decode("utf-8", "surrogatepass"), 0)[0]
    except (ValueError, RecursionError):
        return [value.decode("utf-8", "replace")]  # there, and nothing that any field could be


def read_run(fields: Mapping[str, Json], latest_seconds: float) -> Run | str:
    """Read a run; the reason why there is none is `id` or `status`."""
    run_id = read_label(fields.get("id"))
    if not run_id:
        return "id"
    status = _text(fields.get("status"))
    if not status:
        return "status"
    readings = {
        "origin": read_label(fields.get("origin")),
        "created_at": read_time(fields.get("created_at"), latest_seconds),
        "started_at": read_time(fields.get("started_at"), latest_seconds),
        "ended_at": read_time(fields.get("ended_at"), latest_seconds),
        "updated_at": read_time(fields.get("updated_at"), latest_seconds),
        "org_id": read_label(fields.get("org_id")),
        "workflow_org_id": read_label(fields.get("workflow_org_id")),
        "workflow_id": read_label(fields.get("workflow_id")),
        "workflow_version": _version(fields.get("workflow_version")),
        "version": _number_or_text(fields.get("version")),
        "usage": _usage(fields.get("usage")),
    }
    unreadable = {
        name: _compact(fields[name])
        for name in READ_FIELDS
        if fields.get(name) is not None
        and (readings[name] is None or (name == "usage" and _lost_credits(readings, fields)))
    }
    return Run(
        id=run_id,
        status=status,
        error=_error(fields.get("error")),
        unreadable=unreadable,
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


def _error(value: Json) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else _compact(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _compact(value: Json) -> str:
    """Write JSON again, without blanks, numbers as they were."""
    try:
        return _written(value)
    except RecursionError:  # writing takes more of the stack than reading did
        return "nested too deep"


def _written(value: Json) -> str:
    if isinstance(value, Digits):
        return value
    if isinstance(value, Mapping):
        inner = (f"{_written(str(name))}:{_written(item)}" for name, item in value.items())
        return f"{{{','.join(inner)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _version(value: Json) -> Version | None:
    return Version(_number_or_text(value.get("version"))) if isinstance(value, Mapping) else None


def _number_or_text(value: Json) -> float | str | None:
    return read_number(value) if isinstance(value, Digits) else read_label(value)


def _usage(value: Json) -> Usage | None:
    if not isinstance(value, Mapping):
        return None
    steps = value.get("steps")
    totals = {}
    if isinstance(steps, Mapping):
        for name, step in steps.items():
            total = read_number(step.get("total") if isinstance(step, Mapping) else step)
            if total is not None:
                totals[name.encode("utf-8", "backslashreplace").decode()] = total
    encoded = msgspec.json.encode(totals)
    return Usage(
        read_number(value.get("total")), read_number(value.get("ai_total")), msgspec.Raw(encoded)
    )


def _lost_credits(readings: Mapping[str, object], fields: Mapping[str, Json]) -> bool:
    usage, value = readings["usage"], fields["usage"]
    return isinstance(value, Mapping) and any(
        value.get(name) is not None and getattr(usage, name) is None
        for name in ("total", "ai_total")
    )


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
