"""A workflow run as the API lists it, and what it says about itself.

Only the fields that are used are decoded; everything else on a page (`result`, `outputs`, the steps
of a version) is skipped without being built. Times stay what the API said, in seconds since the
epoch, so that no clock of ours enters a number.

Longer than most modules: each reading of a run beside the others.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated

import msgspec

FINAL_STATUSES = ("CANCELED", "COMPLETED", "SKIPPED", "FAILED")
OPEN_STATUSES = ("PENDING", "RUNNING")
ORIGINS = ("WORKFLOW", "TRIGGER", "WEBHOOK")
TIMED_STATUSES = ("COMPLETED", "FAILED", "CANCELED")
"""Final statuses of runs whose duration and queue time mean something; SKIPPED ones did no work."""

UNKNOWN = "UNKNOWN"
NO_WORKFLOW = "__none__"
OTHER_WORKFLOW = "__other__"
OTHER_STEP = "__other__"
"""Label values that stand for what the API did not name, or what was folded together."""


INVALID_REASONS = ("id", "status", "time", "row", "undecodable", "too_large", "server_error")
"""Why a run was left out: the field without which there is none, or what its row is or does."""

READ_FIELDS = (
    *("origin", "created_at", "started_at", "ended_at", "updated_at", "org_id"),
    *("workflow_org_id", "workflow_id", "workflow_version", "version", "usage"),
)
"""The fields that may be unreadable without the run being lost; `error` always has a text."""

EARLIEST_SECONDS = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
"""Times before are zero times of some program, which mean that there is none."""

MAX_LABEL_BYTES = 256
"""Nothing longer becomes a label or a key."""

MAX_ERROR_CHARACTERS = 16 * 1024
"""Of a longer error only the beginning is read."""

MAX_STEPS_BYTES = 32 * 1024
"""Credits by step that take more are not read: a hundred such runs must fit into memory."""

NEVER_SECONDS = 0.0
"""Stands for the end of a final run of which the API tells no time at all."""

MAX_CREDITS = 1e12
"""Credits of one run above this are no credits: a few such sums reach infinity, which the ledger
can't hold, and one swallows the fractions of all others."""


# What a plain value is, as far as msgspec can tell, where it costs next to nothing. A row with any
# other value is read by `loose`.
_Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_BYTES // 4)]
_Needed = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_BYTES // 4)]
_Credits = Annotated[float, msgspec.Meta(ge=-MAX_CREDITS, le=MAX_CREDITS)]
_Error = Annotated[str, msgspec.Meta(max_length=MAX_ERROR_CHARACTERS)]
_Nothing = Annotated[dict[str, str], msgspec.Meta(max_length=0)]
_VersionText = Annotated[str, msgspec.Meta(pattern=r"^[ -\[\]-~]{0,64}\Z")]


class StepUsage(msgspec.Struct, frozen=True, gc=False):
    """The object form of one value of `usage.steps`."""

    total: float | None = None


class Usage(msgspec.Struct, gc=False):
    """Credits of one run; `ai_total` is a part of `total`.

    Not frozen: decoding lets `steps` leave the page, a hundred times a page.
    """

    total: _Credits | None = None
    ai_total: _Credits | None = None
    steps: msgspec.Raw = msgspec.Raw(b"null")


class Version(msgspec.Struct, frozen=True, gc=False):
    """The one field that is read of the workflow version that ran."""

    version: float | _VersionText | None = None


class Run(msgspec.Struct, frozen=True, dict=True):
    """One run. Field names and meanings are the API's; a property is our reading of them.

    What is asked for again and again is read once: turning times into seconds is most of what
    counting a run costs. For the rest the lock of Python 3.11's `cached_property` would cost more.
    """

    id: _Needed
    status: _Needed
    origin: _Label | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime | None = None
    org_id: _Label | None = None
    workflow_org_id: _Label | None = None
    workflow_id: _Label | None = None
    workflow_version: Version | None = None
    version: float | _VersionText | None = None
    error: _Error | None = None
    usage: Usage | None = None
    unreadable: _Nothing = msgspec.field(default_factory=dict, name="$unreadable")
    """What of `READ_FIELDS` is there and could not be read, as it is. No field of the API's."""

    @cached_property
    def status_label(self) -> str:
        """The status as the API spells it, or UNKNOWN for one that is not in its documentation."""
        status = self.status.upper()
        return status if status in FINAL_STATUSES or status in OPEN_STATUSES else UNKNOWN

    @cached_property
    def origin_label(self) -> str:
        """The origin as the API spells it, or UNKNOWN."""
        origin = (self.origin or "").upper()
        return origin if origin in ORIGINS else UNKNOWN

    @property
    def workflow_label(self) -> str:
        """The workflow's id; `__none__` for a run without one."""
        return self.workflow_id or NO_WORKFLOW

    @cached_property
    def is_final(self) -> bool:
        """A known status alone decides; an unknown one is final when the run has ended."""
        if self.status_label in OPEN_STATUSES:
            return False
        return self.status_label in FINAL_STATUSES or self.ended_at is not None

    @cached_property
    def created(self) -> float | None:
        """When the run was created, in seconds since the epoch."""
        return seconds(self.created_at)

    @cached_property
    def started(self) -> float | None:
        """When the run started."""
        return seconds(self.started_at)

    @cached_property
    def updated(self) -> float | None:
        """When the run was last changed."""
        return seconds(self.updated_at)

    @cached_property
    def ended(self) -> float | None:
        """When the run ended; where the API does not say, when it was last changed."""
        return self.updated if self.ended_at is None else seconds(self.ended_at)

    @cached_property
    def first_time(self) -> float | None:
        """When the run came to be, as well as it can be known: its first time that is not null."""
        return self.ended if (time := self._begun) is None else time

    @property
    def told_time(self) -> float | None:
        """The time by which it is told from history: its end, else as well as it can be known."""
        if self.ended_at is not None or (time := self._begun) is None:
            return self.ended
        return time

    @property
    def _begun(self) -> float | None:
        return self.started if self.created is None else self.created

    @property
    def concluded(self) -> float:
        """When the run ended, as well as it can be known; `NEVER_SECONDS` without any time."""
        time = self.first_time if self.ended is None else self.ended
        return NEVER_SECONDS if time is None else time

    @property
    def duration_seconds(self) -> float | None:
        """How long the run worked; None unless it started and ended. Clock skew reads as 0."""
        return None if self.ended_at is None else difference(self.started, self.ended)

    @property
    def queue_seconds(self) -> float | None:
        """How long the run waited to start; None unless it did. Clock skew reads as 0."""
        return difference(self.created, self.started)

    @property
    def credits(self) -> tuple[float, float] | None:
        """Credits as (ai, other), each at least 0; None when the usage is not known yet."""
        if self.usage is None or self.usage.total is None:
            return None
        ai = max(0.0, self.usage.ai_total or 0.0)
        return ai, max(0.0, self.usage.total - ai)

    @property
    def credits_total(self) -> float | None:
        """`usage.total`, at least 0; None when it is not known yet."""
        if self.usage is None or self.usage.total is None:
            return None
        return max(0.0, self.usage.total)

    @property
    def step_credits(self) -> dict[str, float]:
        """Credits by step, without values that are neither a number nor an object with `total`.

        The documentation does not say what the values are, so both forms are read. The names are
        as the API writes them: they are escaped where they become labels.
        """
        return {} if self.usage is None else _read_steps(self.usage.steps)

    @property
    def version_label(self) -> str:
        """The version of the workflow that ran, without a trailing `.0`; empty when not known."""
        version = self.version
        if version in (None, "") and self.workflow_version is not None:
            version = self.workflow_version.version
        if version is None:
            return ""
        return version if isinstance(version, str) else f"{version:.15g}"


_NEEDS_ESCAPE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\\\\]")


def escape(text: str) -> str:
    r"""Write what no label, log line or database carries, and the backslash, as `\x00`.

    No two texts become the same one.
    """
    return _NEEDS_ESCAPE.sub(lambda match: _escaped(match[0]), text)


_ESCAPED = re.compile(r"\\(\\|x..|u....)")


def is_too_long(label: str) -> bool:
    """Tell whether what `escape` made is of a text that is too long to become a label."""
    if len(label) * 4 <= MAX_LABEL_BYTES or len(label.encode()) <= MAX_LABEL_BYTES:
        return False
    return len(_ESCAPED.sub("?", label).encode()) > MAX_LABEL_BYTES


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    return f"\\x{ord(character):02x}" if character < "\u0100" else f"\\u{ord(character):04x}"


def seconds(time: datetime | None) -> float | None:
    """Turn a time into seconds since the epoch; one without an offset is taken as UTC."""
    if time is None:
        return None
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def difference(start: float | None, end: float | None) -> float | None:
    """Seconds from start to end, 0 when the end is before the start; None without both."""
    if start is None or end is None:
        return None
    return max(0.0, end - start)


_STEPS = msgspec.json.Decoder(dict[str, msgspec.Raw] | None, strict=False)
_STEP_VALUE = msgspec.json.Decoder(float | StepUsage | None, strict=False)


def _read_steps(raw: msgspec.Raw) -> dict[str, float]:
    try:
        values = _STEPS.decode(raw) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    steps = {}
    for step, value in values.items():
        try:
            decoded = _STEP_VALUE.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        total = decoded.total if isinstance(decoded, StepUsage) else decoded
        if not 0 < len(step.encode()) <= MAX_LABEL_BYTES:
            continue
        if total is not None and 0 < total <= MAX_CREDITS:
            steps[step] = total
    return steps
