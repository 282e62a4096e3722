"""One simulated run and its JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec

from invent_exporter.simulator.spoil import SpoilKind, spoil

Status = Literal["PENDING", "RUNNING", "CANCELED", "COMPLETED", "SKIPPED", "FAILED"]
Origin = Literal["WORKFLOW", "TRIGGER", "WEBHOOK"]
FINAL: frozenset[str] = frozenset(get_args(Status)) - {"PENDING", "RUNNING"}


class StepTotal(msgspec.Struct, frozen=True):
    """The object form of a step's credits; the service does not say which form it uses."""

    total: float


class Call(msgspec.Struct, frozen=True):
    """Credits of one call inside a run, with the calls that it made."""

    id: str
    total: float
    ai_total: float
    calls: tuple[Call | None, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Credits of a run; `ai_total` is a part of `total`."""

    total: float
    ai_total: float = 0.0
    steps: dict[str, float | StepTotal] = {}
    calls: tuple[Call, ...] = ()


class Shape(msgspec.Struct, frozen=True):
    """The large part of a run's JSON, the same for all runs of one workflow version."""

    done: bytes
    """The end of the object, outputs included, for a COMPLETED run."""
    undone: bytes
    """The end of the object for every other run."""


class Run(msgspec.Struct, kw_only=True):
    """A run. Times are seconds since the epoch, in whole milliseconds; names are the API's."""

    id: str
    status: Status
    origin: Origin
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    updated_at: float
    org_id: str
    workflow_id: str | None
    version: int = 1
    error: str | None = None
    usages: tuple[Usage, ...] = ()
    """Each usage that the run ever had; the last one is listed."""
    listed_in: tuple[str, ...]
    """The orgs whose listings hold the run."""
    hidden: bool = False
    fields: dict[str, object] = {}
    """What the listing says instead: field name to any JSON value, or UNSET to leave it out."""
    spoiled: SpoilKind | None = None
    spoiled_mebibytes: float = 32.0
    shape: Shape
    sequence: int
    first_final: Status | None = None
    """The first final status, which is the one that counts."""
    final_at: float | None = None
    """When the world made it final; `ended_at` is only what the listing says."""
    removed_at: float | None = None
    encoded: bytes | None = None

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.status in FINAL

    def json(self) -> tuple[bytes, ...]:
        """Give the run's JSON in pieces to be joined; the small piece is made once a change."""
        tail = self.shape.done if self.status == "COMPLETED" else self.shape.undone
        if self.encoded is None:
            self.encoded = _ENCODER.encode(_body(self))[:-1]
        if not self.fields and self.spoiled is None:
            return self.encoded, tail
        document = msgspec.json.decode(self.encoded + tail) | self.fields
        document = {name: value for name, value in document.items() if value is not msgspec.UNSET}
        if self.spoiled is None:
            return (_ENCODER.encode(document),)
        return (spoil(document, self.spoiled, self.spoiled_mebibytes),)


class _Body(msgspec.Struct, omit_defaults=True):
    id: str
    status: str
    origin: str
    created_at: str
    started_at: str | None
    ended_at: str | None
    updated_at: str
    org_id: str
    workflow_org_id: str
    workflow_id: str | None
    version: int
    error: str | msgspec.UnsetType = msgspec.UNSET
    usage: Usage | msgspec.UnsetType = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()


def _body(run: Run) -> _Body:
    return _Body(
        id=run.id,
        status=run.status,
        origin=run.origin,
        created_at=time_text(run.created_at),
        started_at=None if run.started_at is None else time_text(run.started_at),
        ended_at=None if run.ended_at is None else time_text(run.ended_at),
        updated_at=time_text(run.updated_at),
        org_id=run.org_id,
        workflow_org_id=run.org_id,
        workflow_id=run.workflow_id,
        version=run.version,
        error=msgspec.UNSET if run.error is None else run.error,
        usage=run.usages[-1] if run.usages else msgspec.UNSET,
    )


def time_text(seconds: float) -> str:
    """Write a time as the API does: RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + (
        f"{round(seconds * 1000) % 1000:03d}Z"
    )


def make_shape(workflow_id: str | None, *, steps: int, output_bytes: int, version: int) -> Shape:
    """Make the definition and the outputs that the runs of one workflow version carry."""
    definition = {
        "id": f"{workflow_id}-v{version}",
        "workflow_id": workflow_id,
        "description": "simulated",
        "version": version,
        "notes": "",
        "created_at": "2026-01-05T08:00:00.000Z",
        "created_by": {"id": "user-1", "name": "Ada", "avatar": ""},
        "steps": [_step(number, steps) for number in range(steps)],
    }
    head = b',"workflow_version_draft":null,"workflow_version":' + _ENCODER.encode(definition)
    outputs = _ENCODER.encode({"text": ("lorem ipsum \u00fc\n" * (output_bytes // 14 + 1))})
    return Shape(
        done=head + b',"result":{"ok":true},"outputs":' + outputs + b"}",
        undone=head + b',"result":null,"outputs":{}}',
    )


def _step(number: int, steps: int) -> dict[str, object]:
    return {
        "type": "action",
        "key": f"step_{number + 1}",
        "input": {"prompt": "Summarise {{ steps.previous.output }} " * 4, "retries": 2},
        "display": "expanded",
        "throw_on_error": True,
        "start_connected": number == 0,
        "destinations": [f"step_{number + 2}"] if number + 1 < steps else [],
        "position": [120 * number, 80],
        "size": [101, 1],
        "definitions": [{"path": "input.prompt", "definition": {"type": "string"}}],
        "auto": {"model": "standard", "temperature": 0.2},
    }
