"""Make the JSON of one run unreadable, in each way that a reader must survive."""

from __future__ import annotations

from typing import Literal

import msgspec

SpoilKind = Literal[
    "missing_id",
    "null_id",
    "number_id",
    "missing_status",
    "bad_status_type",
    "bad_date",
    "lone_surrogate",
    "deep_nesting",
    "invalid_utf8",
    "numbers_as_strings",
    "negative_usage",
    "bad_usage",
    "oversized",
    "not_an_object",
    "null_run",
]

NESTING_LEVELS = 10_000
_MARK = "\u2620here\u2620"
_USAGE = {"total": 7.5, "ai_total": 2.5, "steps": {"step_1": 7.5}, "calls": []}


def spoil(document: dict[str, object], kind: SpoilKind, mebibytes: float) -> bytes:
    """Return the JSON of `document` after spoiling it; `mebibytes` is the size of `oversized`."""
    if kind in _WHOLE:
        return _WHOLE[kind]
    if kind in ("missing_id", "missing_status"):
        del document[kind.removeprefix("missing_")]
    elif kind == "numbers_as_strings":
        document["version"] = str(document.get("version", 1))
        document["usage"] = {"total": "7.5", "ai_total": "2.5", "steps": {"step_1": "7.5"}}
    elif kind == "oversized":
        document["outputs"] = {"text": "x" * round(mebibytes * 2**20)}
    elif kind in _RAW:
        field, raw = _RAW[kind]
        document[field] = _MARK
        return msgspec.json.encode(document).replace(msgspec.json.encode(_MARK), raw)
    else:
        document |= _FIELDS[kind]
    return msgspec.json.encode(document)


_WHOLE: dict[str, bytes] = {"not_an_object": b"7", "null_run": b"null"}
_FIELDS: dict[str, dict[str, object]] = {
    "null_id": {"id": None},
    "number_id": {"id": 17},
    "bad_status_type": {"status": 5},
    "bad_date": {"created_at": "the day before yesterday"},
    "negative_usage": {"usage": _USAGE | {"total": -3.0, "ai_total": -1.0}},
    "bad_usage": {"usage": "a lot"},
}
_RAW: dict[str, tuple[str, bytes]] = {
    "lone_surrogate": ("result", rb'"\ud800"'),
    "deep_nesting": ("outputs", b"[" * NESTING_LEVELS + b"]" * NESTING_LEVELS),
    "invalid_utf8": ("result", b'"\xff\xfe"'),
}
