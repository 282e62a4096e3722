"""What the overview shows, as JSON for programs; docs/api-status.schema.json is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from invent_exporter import __version__
from invent_exporter.collector.status import OrgElsewhere, OrgStatus

API_STATUS_PATH = "/api/status"


class ApiStatus(msgspec.Struct, frozen=True):
    """How each org is that is polled here, and where the others are.

    `version` is of this form: it rises when a field changes or goes.
    """

    version: Literal[1]
    exporter_version: str
    timestamp_seconds: float
    orgs: list[OrgStatus]
    elsewhere: list[OrgElsewhere]


def encode(
    statuses: Iterable[OrgStatus], *, now: float, elsewhere: Iterable[OrgElsewhere] = ()
) -> bytes:
    """Write the document as of `now`, seconds since the epoch."""
    return msgspec.json.encode(ApiStatus(1, __version__, now, list(statuses), list(elsewhere)))


def schema() -> bytes:
    """Describe the document as JSON Schema (2020-12)."""
    described = msgspec.json.encode(msgspec.json.schema(ApiStatus), order="sorted")
    return msgspec.json.format(described, indent=2) + b"\n"
