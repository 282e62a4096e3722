"""Write the JSON of one run as no reader expects it: unreadable, or with one odd field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import msgspec

OddKind = Literal[
    "bad_usage",
    "control_character",
    "created_zero",
    "deep_nesting",
    "definition_list",
    "definition_text",
    "end_blank",
    "end_comma",
    "end_leap_second",
    "end_milliseconds",
    "end_nanoseconds",
    "end_never",
    "end_object",
    "end_offset",
    "error_list",
    "error_object",
    "huge_number",
    "lone_surrogate",
    "nan",
    "nul_in_id",
    "number_as_id",
    "origin_null",
    "origin_number",
    "owner_number",
    "start_epoch",
    "start_zero",
    "status_expired",
    "status_letters",
    "status_paused",
    "steps_list",
    "surrogate_in_error",
    "updated_empty",
    "usage_list",
    "usage_texts",
    "usage_total_empty",
    "version_empty",
    "version_text",
    "workflow_long",
    "workflow_number",
]
"""One field is odd, and there is still an id, a status and a time: the run counts."""

SpoilKind = Literal[
    OddKind,
    "missing_id",
    "null_id",
    "number_id",
    "long_id",
    "missing_status",
    "bad_status_type",
    "bad_date",
    "invalid_utf8",
    "numbers_as_strings",
    "negative_usage",
    "oversized",
    "not_an_object",
    "null_run",
]

ODD_KINDS: tuple[OddKind, ...] = get_args(OddKind)
NESTING_LEVELS = 10_000
ODD_WORKFLOW = 17
_MARK = "\u2620here\u2620"
_USAGE = {"total": 7.5, "ai_total": 2.5, "steps": {"step_1": 7.5}, "calls": []}
_Document = dict[str, object]


def spoil(document: _Document, kind: SpoilKind, mebibytes: float) -> bytes:
    """Return the JSON of `document` after spoiling it; `mebibytes` is the size of `oversized`."""
    if kind in _WHOLE:
        return _WHOLE[kind]
    if kind in ("missing_id", "missing_status"):
        del document[kind.removeprefix("missing_")]
    elif kind == "oversized":
        document["outputs"] = {"text": "x" * round(mebibytes * 2**20)}
    elif kind in _RAW:
        field, raw = _RAW[kind]
        document[field] = _MARK
        return msgspec.json.encode(document).replace(msgspec.json.encode(_MARK), raw)
    elif kind in _MADE:
        document |= _MADE[kind](document)
    else:
        document |= _FIELDS[kind]
    return msgspec.json.encode(document)


_WHOLE: dict[str, bytes] = {"not_an_object": b"7", "null_run": b"null"}
_FIELDS: dict[str, _Document] = {
    "null_id": {"id": None},
    "number_id": {"id": 17},
    "long_id": {"id": "r" * 300},
    "bad_status_type": {"status": 5},
    "bad_date": {"created_at": "the day before yesterday"},
    "numbers_as_strings": {
        "version": "1",
        "usage": {"total": "7.5", "ai_total": "2.5", "steps": {"step_1": "7.5"}},
    },
    "negative_usage": {"usage": _USAGE | {"total": -3.0, "ai_total": -1.0}},
    "bad_usage": {"usage": "a lot"},
    "created_zero": {"created_at": "0001-01-01T00:00:00Z"},
    "definition_list": {"workflow_version": []},
    "definition_text": {"workflow_version": "gone"},
    "end_never": {"ended_at": "9999-12-31T23:59:59Z"},
    "error_list": {"error": ["a", {"b": 1}]},
    "error_object": {"error": {"code": "E42", "message": "upstream said no"}},
    "origin_null": {"origin": None},
    "origin_number": {"origin": 3},
    "owner_number": {"workflow_org_id": 12},
    "start_epoch": {"started_at": "1970-01-01T00:00:00Z"},
    "start_zero": {"started_at": "0001-01-01T00:00:00Z"},
    "updated_empty": {"updated_at": ""},
    "usage_list": {"usage": []},
    "usage_total_empty": {"usage": _USAGE | {"total": ""}},
    "version_empty": {"version": ""},
    "version_text": {"version": "v3"},
    "workflow_long": {"workflow_id": "w" * 300},
    "workflow_number": {"workflow_id": ODD_WORKFLOW},
}
_RAW: dict[str, tuple[str, bytes]] = {
    "control_character": ("outputs", b'{"a":"tab\there"}'),
    "deep_nesting": ("outputs", b"[" * NESTING_LEVELS + b"]" * NESTING_LEVELS),
    "huge_number": ("outputs", b"9" * 400),
    "invalid_utf8": ("result", b'"\xff\xfe"'),
    "lone_surrogate": ("result", rb'"\ud800"'),
    "nan": ("outputs", b'{"a":NaN,"b":-Infinity}'),
    "surrogate_in_error": ("error", rb'"cut \ud83d"'),
}


def _end(write: Callable[[datetime], object]) -> Callable[[_Document], _Document]:
    """Write the end in another way, where there is one."""

    def change(document: _Document) -> _Document:
        text = document["ended_at"]
        if not isinstance(text, str):
            return {}
        return {"ended_at": write(datetime.fromisoformat(text))}

    return change


def leap_second(moment: datetime) -> datetime:
    """Return the moment that `end_leap_second` writes instead: the end of the minute."""
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=1)


def _usage_with(change: Callable[[_Document], _Document]) -> Callable[[_Document], _Document]:
    """Change the run's own usage, where there is one."""

    def changed(document: _Document) -> _Document:
        usage = document.get("usage")
        return {"usage": usage | change(usage)} if isinstance(usage, dict) else {}

    return changed


_MADE: dict[str, Callable[[_Document], _Document]] = {
    "end_blank": _end(lambda end: f"{end:%Y-%m-%d %H:%M:%S}.{end.microsecond // 1000:03d}"),
    "end_comma": _end(lambda end: f"{end:%Y-%m-%dT%H:%M:%S},{end.microsecond // 1000:03d}Z"),
    "end_leap_second": _end(lambda end: f"{end:%Y-%m-%dT%H:%M}:60Z"),
    "end_milliseconds": _end(lambda end: round(end.timestamp() * 1000)),
    "end_nanoseconds": _end(lambda end: f"{end:%Y-%m-%dT%H:%M:%S}.{end.microsecond:06d}000Z"),
    "end_object": lambda document: {"ended_at": {"$date": document["ended_at"]}},
    "end_offset": _end(
        lambda end: (end + timedelta(hours=2)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0200")
    ),
    "nul_in_id": lambda document: {"id": f"run-\0-{document['id']}"},
    "number_as_id": lambda document: {"id": int(str(document["id"])[-15:], 16)},
    "status_expired": lambda document: (
        {"status": "EXPIRED"} if document["ended_at"] is not None else {}
    ),
    "status_letters": lambda document: {"status": str(document["status"]).capitalize()},
    "status_paused": lambda document: {"status": "PAUSED"} if document["ended_at"] is None else {},
    "steps_list": _usage_with(lambda _: {"steps": [1, 2]}),
    "usage_texts": _usage_with(
        lambda usage: {name: str(usage[name]) for name in ("total", "ai_total")}
    ),
}
