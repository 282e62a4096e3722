"""The overview: how each org is doing, for someone woken at 3 a.m., on a phone.

One self-contained document: nothing is fetched, no script runs, and every word that came from
outside is escaped. State is said in words first; colour only repeats it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from jinja2 import Environment, StrictUndefined, Template

from invent_exporter import __version__
from invent_exporter.web import plot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from invent_exporter.collector.status import FailedRow, OpenRow, OrgElsewhere, OrgStatus

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

_SOURCE = Path(__file__).with_name("overview.html").read_text("utf-8")
_STYLE = "".join(re.findall(r"<style>(.*?)</style>", _SOURCE, re.DOTALL))
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Only the template's style, by its hash: markup that slipped in could neither run nor load."""


@dataclass(frozen=True)
class Chosen:
    """What of all is looked at; None: all of it."""

    org_id: str | None = None
    workflow_id: str | None = None

    def link(self, org_id: str, workflow_id: str | None = None) -> str:
        """Lead to one org, or to one of its workflows."""
        asked = {"org": org_id} | ({} if workflow_id is None else {"workflow": workflow_id})
        return f"/?{urlencode(asked)}"

    def of(self, statuses: Iterable[OrgStatus]) -> list[OrgStatus]:
        """Choose; what needs a person comes first."""
        orgs = [self._of(org) for org in statuses if self.org_id in (None, org.org_id)]
        return sorted(orgs, key=lambda org: (False, None, True).index(org.up))

    def _of(self, org: OrgStatus) -> OrgStatus:
        if self.workflow_id is None:
            return org
        open_runs = org.open_runs and tuple(filter(self._is_it, org.open_runs))
        return replace(org, open_runs=open_runs, failed=tuple(filter(self._is_it, org.failed)))

    def _is_it(self, row: OpenRow | FailedRow) -> bool:
        return row.workflow_id == self.workflow_id


def render(
    statuses: Iterable[OrgStatus],
    *,
    telemetry_path: str,
    now: float,
    chosen: Chosen = Chosen(),
    elsewhere: Sequence[OrgElsewhere] = (),
) -> str:
    """Write the overview as of `now` (seconds since the epoch), or what of it is chosen."""
    orgs = chosen.of(statuses)
    return _template().render(
        orgs=orgs,
        elsewhere=elsewhere,
        chosen=chosen,
        path=telemetry_path,
        now=now,
        version=__version__,
    )


@cache
def _template() -> Template:
    """Compile at the first look: most processes are only scraped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"utc": _utc, "span": _span}
    environment.globals["plot"] = plot
    environment.tests["web_link"] = lambda link: re.match("https?://[^/?#]", link or "")
    return environment.from_string(_SOURCE)


def _utc(timestamp_seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(timestamp_seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return "(at no time that a calendar has)"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    """Say a time span in its two largest units; one that is negative is none."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    rest = int(max(0.0, seconds))
    for (name, size), (small_name, small) in pairwise(_UNITS):
        if rest >= size:
            count = rest % size // small
            return f"{rest // size} {name}" + (f" {count} {small_name}" if count else "")
    return f"{rest} s"
