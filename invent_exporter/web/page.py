"""The page for people: how each org is doing, for someone woken at 3 a.m., on a phone.

One self-contained document: nothing is fetched, no script runs, and every word that came from
outside is escaped. State is said in words first; colour only repeats it.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

REFRESH_SECONDS = 60
ERROR_CHARACTERS = 160
"""How much of an error is shown before it is unfolded."""
ERROR_CHARACTERS_MAX = 4000
"""How much of an error is shown at all."""
FAILED_OPEN = 5
"""How many of the failed runs are shown before the rest is unfolded."""
MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class OpenRuns:
    """Open runs of one workflow in one status; since when the oldest is in it."""

    workflow: str
    status: str
    count: int
    oldest_timestamp_seconds: float | None


@dataclass(frozen=True)
class FailedRun:
    """One failed run; `link` is shown when it is http or https."""

    run_id: str
    workflow_id: str
    workflow_name: str | None
    ended_timestamp_seconds: float | None
    error: str | None
    link: str | None


@dataclass(frozen=True)
class OrgView:
    """One org: `up` is None until its first poll has ended, `error` says why the last one failed.

    `open_runs` is None while it is not known; failed runs come newest first.
    """

    org_id: str
    name: str | None
    up: bool | None
    last_poll_timestamp_seconds: float | None
    last_success_timestamp_seconds: float | None
    poll_interval_seconds: float
    error: str | None
    open_runs: tuple[OpenRuns, ...] | None
    failed: tuple[FailedRun, ...]


@dataclass(frozen=True)
class PageView:
    """All that the page shows, as of `now` (seconds since the epoch)."""

    version: str
    orgs: tuple[OrgView, ...]
    telemetry_path: str
    now: float


STYLE = Path(__file__).with_name("page.css").read_text("utf-8")

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Only the style above, by its hash: markup that slipped in could neither run nor load."""


def render(view: PageView) -> str:
    """Write the page; what needs a person comes first."""
    urgency = {False: 0, None: 1, True: 2}
    by_urgency = sorted(view.orgs, key=lambda org: urgency[org.up])
    orgs = "".join(_org(org, view.now) for org in by_urgency)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        f"<title>{escape(_title(view))}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>Invent exporter <small>{escape(view.version)}</small></h1><nav>"
        f'<a href="{escape(view.telemetry_path)}">Metrics</a>'
        '<a href="/-/healthy">Health</a><a href="/-/ready">Readiness</a></nav></header>'
        f'<main><p class="sum">{escape(_summary(view.orgs))}</p>{orgs}</main>'
        f"<footer>As of {_utc(view.now)}. Refreshes itself every {REFRESH_SECONDS} s."
        "</footer></body></html>\n"
    )


def _down(orgs: tuple[OrgView, ...]) -> int:
    return sum(org.up is False for org in orgs)


def _title(view: PageView) -> str:
    down = _down(view.orgs)
    return f"{down} down - Invent exporter" if down else "Invent exporter"


def _summary(orgs: tuple[OrgView, ...]) -> str:
    if not orgs:
        return "No org is polled yet."
    up, down = sum(org.up is True for org in orgs), _down(orgs)
    waiting = len(orgs) - up - down
    counts = ((down, "down"), (up, "up"), (waiting, "not polled yet"))
    said = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"{len(orgs)} {'org' if len(orgs) == 1 else 'orgs'}: {said}."


def _org(org: OrgView, now: float) -> str:
    kind, state = {True: ("good", "up"), False: ("bad", "down"), None: ("wait", "not polled yet")}[
        org.up
    ]
    name = f"{escape(org.name)} <code>{escape(org.org_id)}</code>" if org.name else ""
    return (
        f'<section class="{kind}"><h2><span>{name or escape(org.org_id)}</span>'
        f'<span class="state">{state}</span></h2>{_polls(org, now)}'
        f"<h3>Open runs</h3>{_open_runs(org, now)}"
        f"<h3>Newest failed runs</h3>{_failed_runs(org.failed, now)}</section>"
    )


def _polls(org: OrgView, now: float) -> str:
    interval = f"polls every {_length(org.poll_interval_seconds)}"
    if org.last_poll_timestamp_seconds is None:
        line = f"No poll has ended yet; {interval}."
    else:
        line = f"Last poll {_ago(org.last_poll_timestamp_seconds, now)}; {interval}."
    parts = [f"<p>{line}</p>"]
    if org.up is False:
        why = f"The last poll failed: {org.error}" if org.error else "The last poll failed."
        parts.append(f'<p class="why">{escape(why[:ERROR_CHARACTERS_MAX])}</p>')
        if org.last_success_timestamp_seconds is None:
            parts.append("<p>No poll has succeeded since the start.</p>")
        else:
            since = _ago(org.last_success_timestamp_seconds, now)
            parts.append(f"<p>Last success {since}; counters stay as they were then.</p>")
    return "".join(parts)


def _open_runs(org: OrgView, now: float) -> str:
    if org.open_runs is None or org.up is None:
        return '<p class="dim">Not known now.</p>'
    as_of = "" if org.up else '<p class="dim">As of the last success:</p>'
    if not org.open_runs:
        return f'{as_of}<p class="dim">None: nothing is pending or running.</p>'
    rows = "".join(
        f"<tr><td>{escape(each.workflow)}</td><td>{escape(each.status)}</td>"
        f'<td class="n">{each.count}</td><td>{_age(each.oldest_timestamp_seconds, now)}</td></tr>'
        for each in org.open_runs
    )
    return (
        f'{as_of}<table><thead><tr><th>Workflow</th><th>Status</th><th class="n">Runs</th>'
        f"<th>Oldest for</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _failed_runs(failed: tuple[FailedRun, ...], now: float) -> str:
    if not failed:
        return '<p class="dim">No failed run is known.</p>'
    shown = f"<ol>{''.join(_failed_run(run, now) for run in failed[:FAILED_OPEN])}</ol>"
    rest = failed[FAILED_OPEN:]
    if rest:
        more = "".join(_failed_run(run, now) for run in rest)
        shown += f"<details><summary>{len(rest)} more</summary><ol>{more}</ol></details>"
    return shown


def _failed_run(run: FailedRun, now: float) -> str:
    ended = run.ended_timestamp_seconds
    when = "time not known" if ended is None else _ago(ended, now)
    run_id = f"<code>{escape(run.run_id)}</code>"
    if run.link is not None and _is_web_link(run.link):
        run_id = f'<a href="{escape(run.link)}" rel="noopener noreferrer">{run_id}</a>'
    workflow = escape(run.workflow_name or run.workflow_id)
    return f"<li><p><b>{workflow}</b><span>{when}</span></p><p>{run_id}</p>{_error(run.error)}</li>"


def _error(error: str | None) -> str:
    words = " ".join((error or "").split())
    if not words:
        return '<p class="dim">No error was given.</p>'
    if len(words) <= ERROR_CHARACTERS:
        return f"<p>{escape(words)}</p>"
    whole = (error or "").strip()
    if len(whole) > ERROR_CHARACTERS_MAX:
        whole = f"{whole[:ERROR_CHARACTERS_MAX]}… ({len(whole)} characters in all)"
    return (
        f"<details><summary>{escape(words[:ERROR_CHARACTERS])}…</summary>"
        f"<pre>{escape(whole)}</pre></details>"
    )


def _is_web_link(link: str) -> bool:
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _ago(timestamp_seconds: float, now: float) -> str:
    return f"{_length(max(0.0, now - timestamp_seconds))} ago {_utc(timestamp_seconds)}"


def _age(timestamp_seconds: float | None, now: float) -> str:
    if timestamp_seconds is None:
        return "not known"
    return f"{_length(max(0.0, now - timestamp_seconds))}"


def _utc(timestamp_seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(timestamp_seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return "(at no time that a calendar has)"
    return f"<time>{moment:%Y-%m-%d %H:%M:%S} UTC</time>"


def _length(seconds: float) -> str:
    """Say a time span in its two largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return _two(whole, MINUTE, "min", 1, "s")
    if whole < DAY:
        return _two(whole, HOUR, "h", MINUTE, "min")
    return _two(whole, DAY, "d", HOUR, "h")


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large} {large_name}" + (f" {rest} {small_name}" if rest else "")
