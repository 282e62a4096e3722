"""What recording a page brought: for the scan, for what is published, and for the log."""

from __future__ import annotations

import msgspec

from invent_exporter.api.models import Run
from invent_exporter.scan.order import RowFact


class InvalidRow(msgspec.Struct, frozen=True):
    """A run that could not be read: its id, else a digest of its bytes, and why."""

    key: str
    reason: str


class Recorded(msgspec.Struct):
    """What a page brought: facts for the scan, and what to publish and log.

    `changed` names the workflows whose numbers changed, `news` says whether any row did, `finished`
    lists the runs that were counted, `odd` those of them with fields that can't be read, `invalid`
    unreadable runs that were noted now, `timeless` those that no time tells from history.
    """

    facts: list[RowFact] = []
    finished: list[Run] = []
    history_failed: int = 0
    invalid: list[InvalidRow] = []
    timeless: list[str] = []
    odd: list[Run] = []
    changed: set[str] = set()
    news: bool = False
