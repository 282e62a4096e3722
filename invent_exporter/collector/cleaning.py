"""Takes API keys out of what a page says, before anybody looks at it (contract, promise 7).

An API may answer with the key that it was asked with, or with another org's. What becomes a label
or a key of the ledger is unreadable when it holds a whole one; of an error each part goes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from invent_exporter.api.decoding import InvalidRun, digest_of
from invent_exporter.redaction import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invent_exporter.api.listing import Chunk
    from invent_exporter.api.models import Run
    from invent_exporter.redaction import Redactor

ERROR_CHARACTERS = 4096
"""What of an error is looked at: nobody keeps more of it."""


def without_labels_that_hold_keys(chunk: Chunk, redactor: Redactor) -> Chunk:
    """Leave out runs whose id holds a key, and make such other labels unknown."""
    ids = [row.run_id or "" for row in chunk.invalid]
    # Hardly ever is there one: all labels of a page are looked at in one go.
    if not redactor.holds(
        "\n".join([*ids, *(text for run in chunk.runs for text in _labels(run))])
    ):
        return chunk
    runs, invalid = [], []
    for row in chunk.invalid:
        hides = row.run_id is not None and redactor.holds(row.run_id)
        invalid.append(replace(row, run_id=None) if hides else row)
    for run in chunk.runs:
        if redactor.holds(run.id):
            invalid.append(InvalidRun(None, "id", digest_of(run.id.encode())))
        else:
            runs.append(_without_labels(run, redactor))
    return replace(chunk, runs=runs, invalid=invalid)


def without_keys_in_error(run: Run, redactor: Redactor) -> Run:
    """Redact before anything shortens the error, stores it or shows it."""
    if not run.error:
        return run
    error = redactor.redact(run.error[:ERROR_CHARACTERS])
    return run if error == run.error else msgspec.structs.replace(run, error=error)


def _labels(run: Run) -> Iterator[str]:
    yield run.id
    for name in _LABELS:
        if isinstance(value := getattr(run, name), str):
            yield value
    if run.workflow_version is not None and isinstance(run.workflow_version.version, str):
        yield run.workflow_version.version
    if run.usage is not None:
        yield bytes(run.usage.steps).decode("utf-8", "replace")


_LABELS = ("org_id", "workflow_org_id", "workflow_id", "version")


def _without_labels(run: Run, redactor: Redactor) -> Run:
    def holds(value: object) -> bool:
        return isinstance(value, str) and redactor.holds(value)

    unknown = [name for name in _LABELS if holds(getattr(run, name))]
    changes: dict[str, object] = dict.fromkeys(unknown)
    if run.workflow_version is not None and holds(run.workflow_version.version):
        unknown.append("workflow_version")
        changes["workflow_version"] = None
    if run.usage is not None and any(map(holds, run.step_credits)):
        steps = {step: total for step, total in run.step_credits.items() if not holds(step)}
        raw = msgspec.Raw(msgspec.json.encode(steps))
        changes["usage"] = msgspec.structs.replace(run.usage, steps=raw)
    if not changes:
        return run
    changes["unreadable"] = run.unreadable | dict.fromkeys(unknown, REDACTED)
    return msgspec.structs.replace(run, **changes)
