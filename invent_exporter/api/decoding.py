"""A page of the listing, from bytes to runs; a run that can't be read does not spoil the others."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import msgspec

from invent_exporter.api.models import MAX_CREDITS, Run
from invent_exporter.errors import BadAnswerError, SpoiledPageError

DIGEST_BYTES = 12
IDENTITY_BYTES = 64 * 1024
"""How far the id of a run is looked for whose bytes can't be decoded: the API begins with it."""


@dataclass(frozen=True, slots=True)
class InvalidRun:
    """A run that was left out; `digest` tells one without an id from another."""

    run_id: str | None
    reason: str
    digest: str


@dataclass(frozen=True, slots=True)
class DecodedPage:
    """The runs of one page in its order, those left out, and how many rows it had in all."""

    runs: list[Run]
    invalid: list[InvalidRun]
    rows: int


class _Identity(msgspec.Struct, frozen=True):
    id: str


# Numbers may come as strings: strict=False reads those.
_PAGE = msgspec.json.Decoder(list[Run], strict=False)
_RUN = msgspec.json.Decoder(Run, strict=False)
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_IDENTITY = msgspec.json.Decoder(_Identity)

_REASON_BY_FIELD = {
    "id": "id",
    "status": "status",
    "origin": "origin",
    "org_id": "org_id",
    "workflow_org_id": "org_id",
    "workflow_id": "workflow_id",
    "created_at": "time",
    "started_at": "time",
    "ended_at": "time",
    "updated_at": "time",
    "usage": "usage",
}
_FIELD = re.compile(r" - at `\$\.(\w+)|missing required field `(\w+)`")


def digest_of(content: bytes | bytearray | msgspec.Raw) -> str:
    """Name a content, briefly and the same at each poll."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def decode_page(body: bytes | bytearray) -> DecodedPage:
    """Decode a page, each run on its own where one can't be read.

    Raises:
        SpoiledPageError: it is an array, but can't even be taken apart into its runs.
        BadAnswerError: it is no JSON array, or not a complete one.

    """
    try:
        runs = _PAGE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_rows(body)
    if all(_reason_against(run) is None for run in runs):
        for run in runs:
            _release_page(run)
        return DecodedPage(runs, [], len(runs))
    return _decode_rows(body)


def _decode_rows(body: bytes | bytearray) -> DecodedPage:
    try:
        rows = _ROWS.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        if _looks_like_rows(body):
            raise SpoiledPageError(str(error)) from error
        raise BadAnswerError(_describe(body)) from error
    page = DecodedPage([], [], len(rows))
    for row in rows:
        result = _decode_row(row)
        if isinstance(result, Run):
            page.runs.append(result)
        else:
            page.invalid.append(result)
    return page


def _decode_row(row: msgspec.Raw) -> Run | InvalidRun:
    reason: str | None
    try:
        run = _RUN.decode(row)
    except msgspec.ValidationError as error:
        reason = _reason_of(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reason = "undecodable"
    else:
        reason = _reason_against(run)
        if reason is None:
            _release_page(run)
            return run
    return InvalidRun(_identity_of(row), reason, digest_of(row))


def _reason_against(run: Run) -> str | None:
    """Tell what makes a decoded run unusable; None for a good one."""
    if not run.id:
        return "id"
    usage = run.usage
    if usage is not None and not (
        abs(usage.total or 0.0) <= MAX_CREDITS and abs(usage.ai_total or 0.0) <= MAX_CREDITS
    ):
        return "usage"  # also "nan" and "inf", which strict=False lets in
    return None


# A string (one that is cut off goes to the end), or what opens and closes.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*+")', re.DOTALL)
_TEXT = msgspec.json.Decoder(str)


def identity_in(body: bytes | bytearray) -> str | None:
    """Find the id of a page's first run, though the page is cut off or can't be decoded.

    The id tells whether the run was counted as invalid before; its content may have changed since.
    """
    begin = bytes(body[:IDENTITY_BYTES])
    depth = 0
    for token in _TOKEN.finditer(begin):
        kind = token[0][:1]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
            if depth <= 1:
                return None
        elif depth == 2 and token[0] == b'"id"':  # noqa: PLR2004 (in the array, in the run)
            value = _VALUE.match(begin, token.end())
            if value is not None:
                return _text_of(value[1])
    return None


def _text_of(value: bytes) -> str | None:
    try:
        return _TEXT.decode(value) or None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_ROWS_BEGIN = re.compile(rb"\s*\[\s*(?:(?:null|true|false|-?[0-9][0-9.eE+-]*)\s*,\s*)*\{")


def _reason_of(message: str) -> str:
    """Turn msgspec's words for one run into a reason: which field it names."""
    match = _FIELD.search(message)
    if match is None:
        return "not_an_object"
    return _REASON_BY_FIELD.get(match[1] or match[2], "other")


def _identity_of(row: msgspec.Raw) -> str | None:
    try:
        return _IDENTITY.decode(row).id or None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _release_page(run: Run) -> None:
    """Copy the part of the page that a run points into, so that it does not keep the whole page."""
    if run.usage is not None:
        msgspec.structs.force_setattr(run.usage, "steps", run.usage.steps.copy())


def _looks_like_rows(body: bytes | bytearray) -> bool:
    """Tell an array of objects with something wrong inside from what never was one, or is cut.

    A row before the first object may be no object itself: it is left out as any bad row is.
    """
    return _ROWS_BEGIN.match(body) is not None and bytes(body[-100:]).rstrip()[-1:] == b"]"


def _describe(body: bytes | bytearray) -> str:
    """Say what came in place of a page, without showing what may be somebody's data."""
    start = bytes(body[:100]).lstrip()
    if not body.strip():
        return "the body is empty, expected a JSON array"
    if start.startswith(b"["):
        return f"the JSON array is cut off or malformed ({len(body)} bytes)"
    kinds = {b"{": "a JSON object", b"<": "HTML"}
    return f"the body is {kinds.get(start[:1], 'not JSON')}, expected a JSON array"
