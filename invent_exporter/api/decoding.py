"""A page of the listing, from bytes to runs; a run that can't be read does not spoil the others.

The typed decoder takes a page whole, which is the fast way. Where it refuses a page, or a run on it
says something odd, each row is looked at by itself (`loose`).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from invent_exporter.api import cutting, loose
from invent_exporter.api.bodies import kind_of
from invent_exporter.api.models import (
    EARLIEST_SECONDS,
    MAX_STEPS_BYTES,
    Run,
)
from invent_exporter.errors import BadAnswerError, SpoiledPageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DIGEST_BYTES = 12
IDENTITY_BYTES = 64 * 1024
"""How far the id of a run is looked for whose bytes can't be decoded: the API begins with it."""
MAX_ROWS = 100
"""More are never asked for. What has more is no page, and one row too many says so."""


PAGE_AT_ONCE_BYTES, ROW_AT_ONCE_BYTES = 4 * 2**20, 64 * 2**10
"""What is larger is taken apart first: the texts in it may take four times as much memory."""


@dataclass(frozen=True, slots=True)
class InvalidRun:
    """A run that was left out; `digest` tells one without an id from another."""

    run_id: str | None
    reason: str
    digest: str


@dataclass(frozen=True, slots=True)
class DecodedPage:
    """The runs of one page in its order, and those that were left out."""

    runs: list[Run]
    invalid: list[InvalidRun]

    @property
    def rows(self) -> int:
        """How many rows it had in all."""
        return len(self.runs) + len(self.invalid)


def _rows_of(row: type) -> type[msgspec.Struct]:
    """Make a page type of at most one row more than was asked for: the others are not built."""
    rows = [(f"row_{number}", row, None) for number in range(MAX_ROWS + 1)]
    return msgspec.defstruct("_Page", rows, array_like=True)


# Numbers may come as strings: strict=False reads those.
_PAGE: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(_rows_of(Run), strict=False)
_RUN = msgspec.json.Decoder(Run, strict=False)
_ROWS: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(_rows_of(msgspec.Raw))
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def digest_of(content: bytes | bytearray | memoryview) -> str:
    """Name a content, briefly and the same at each poll."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def decode_page(body: bytes | bytearray, latest_seconds: float = math.inf) -> DecodedPage:
    """Decode a page, each run on its own where one is odd; times after `latest_seconds` are none.

    Raises:
        SpoiledPageError: it is an array, but can't even be taken apart into its runs.
        BadAnswerError: it is no JSON array, or not a complete one.

    """
    if body.startswith(_BYTE_ORDER_MARK):  # noqa: FURB188 - that copies what has none, too
        body = body[len(_BYTE_ORDER_MARK) :]
    if len(body) <= PAGE_AT_ONCE_BYTES:
        with contextlib.suppress(*_REFUSED):
            runs: list[Run] = _built(_PAGE.decode(body))
            if _are_plain(runs, body, latest_seconds):
                return DecodedPage(runs, [])
            del runs
    page = DecodedPage([], [])
    for row in islice(_rows(body), MAX_ROWS + 1):
        result = _decode_row(row, latest_seconds)
        if isinstance(result, Run):
            page.runs.append(result)
        else:
            page.invalid.append(result)
    return page


def _built(page: msgspec.Struct) -> list[Any]:
    return list(filter(None, msgspec.structs.astuple(page)))


def _rows(body: bytes | bytearray) -> Iterable[memoryview]:
    with contextlib.suppress(*_REFUSED):
        return map(memoryview, _built(_ROWS.decode(body)))
    if not _looks_like_rows(body):
        raise BadAnswerError(describe(body))
    return cutting.items(body)


def _decode_row(row: memoryview, latest_seconds: float) -> Run | InvalidRun:
    if len(row) <= ROW_AT_ONCE_BYTES:
        with contextlib.suppress(*_REFUSED):
            run = _RUN.decode(row)
            if _are_plain([run], bytes(row), latest_seconds):
                return run
    if bytes(row[:1]) != b"{":
        return InvalidRun(None, "row", digest_of(row))
    try:
        result = loose.read_run(row, latest_seconds)
    except SpoiledPageError:
        begin = bytes(row[:IDENTITY_BYTES])
        return InvalidRun(identity_in(b"[" + begin), "undecodable", digest_of(row))
    if isinstance(result, Run):
        return result
    reason, run_id = result
    return InvalidRun(run_id, reason, digest_of(row))


def _are_plain(runs: Sequence[Run], body: bytes | bytearray, latest_seconds: float) -> bool:
    """Tell whether no decoded run needs a second look; then none keeps its page in memory.

    Whatever it can't tell at once, for all of a page, needs one. What most pages are like is told
    first: an idle org costs little more than this.
    """
    latest = datetime.fromtimestamp(min(latest_seconds, _LAST_SECONDS), UTC)
    try:
        if not (_is_plain(body) or _are_labels_plain(runs)):
            return False
        if not (_are_in_order(runs, latest) or _are_times_plain(runs, latest)):
            return False
    except TypeError:  # a time without an offset
        return False
    for run in runs:
        usage = run.usage
        if usage is not None:
            steps = usage.steps
            if len(steps) > MAX_STEPS_BYTES:
                return False
            usage.steps = steps.copy()  # here it points into the page
    return True


def _is_plain(body: bytes | bytearray) -> bool:
    """Tell whether no text in it is escaped, or would be (`escape`).

    Of the control characters msgspec refuses those below a blank; those above 0x7f begin with 0xc2.
    """
    return len(body) <= _SMALL_BYTES and not (b"\\" in body or b"\x7f" in body or b"\xc2" in body)


def _are_labels_plain(runs: Sequence[Run]) -> bool:
    labels = [f"{run.id}{run.org_id}{run.workflow_org_id}{run.workflow_id}" for run in runs]
    return not "".join(labels).encode().translate(None, _PLAIN_BYTES)


def _are_in_order(runs: Sequence[Run], latest: datetime) -> bool:
    """Tell whether each run has all its times, and they follow each other."""
    try:
        for run in runs:
            if not (
                _EARLIEST <= run.created_at <= run.started_at  # type: ignore[operator]
                and run.started_at <= run.ended_at <= run.updated_at <= latest  # type: ignore[operator]
            ):
                return False
    except TypeError:  # None
        return False
    return True


def _are_times_plain(runs: Sequence[Run], latest: datetime) -> bool:
    for run in runs:
        for time in (run.created_at, run.started_at, run.ended_at, run.updated_at):
            if time is not None and not _EARLIEST <= time <= latest:
                return False
    return True


_SMALL_BYTES = 2**18
"""A larger body takes longer to look through than its labels."""
_EARLIEST = datetime.fromtimestamp(EARLIEST_SECONDS, UTC)
_LAST_SECONDS = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_PLAIN_BYTES = bytes(code for code in range(ord(" "), ord("~") + 1) if code != ord("\\"))


_ROWS_BEGIN = re.compile(rb"\s*\[\s*(?:(?:null|true|false|-?[0-9][0-9.eE+-]*+)\s*+,\s*+){0,100}+\{")


def identity_in(body: bytes | bytearray) -> str | None:
    """Find the id of a page's first run, though the page is cut off or can't be decoded.

    The id tells whether the run was counted as invalid before; its content may have changed since.
    """
    begin = bytes(body[:IDENTITY_BYTES])
    first = _ROWS_BEGIN.match(begin)
    if first is not None:
        with contextlib.suppress(SpoiledPageError):
            for name, value in cutting.members(begin[first.end() - 1 :] + b"}"):
                if name == b'"id"':
                    return loose.read_label(loose.read_value(value)) or None
    return None


def _looks_like_rows(body: bytes | bytearray) -> bool:
    """Tell an array of objects with something wrong inside from what never was one, or is cut.

    A row before the first object may be no object itself: it is left out as any bad row is.
    """
    return _ROWS_BEGIN.match(body) is not None and bytes(body[-100:]).rstrip()[-1:] == b"]"


def describe(body: bytes | bytearray) -> str:
    """Say what came in place of a page, without showing what may be somebody's data."""
    if (kind := kind_of(body)) == "a JSON array":
        return f"the JSON array is cut off or malformed ({len(body)} bytes)"
    return f"the body is {kind}, expected a JSON array"
