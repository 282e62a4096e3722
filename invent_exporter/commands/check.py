"""The `check` command: ask each org, look at this machine, say what is wrong and what to do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from invent_exporter import __version__
from invent_exporter.api.listing import Chunk, Listing, RunsApi
from invent_exporter.api.models import Run
from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import SystemClocks
from invent_exporter.commands.backfill_plan import utc
from invent_exporter.commands.check_machine import Line, look_at
from invent_exporter.commands.sub_orgs import Asked, find_orgs
from invent_exporter.config.key import read_secret
from invent_exporter.config.load import Config
from invent_exporter.errors import ApiError
from invent_exporter.redaction import Redactor
from invent_exporter.scan.order import judge, unknown_rows
from invent_exporter.telemetry import Telemetry

_DEEP_ROWS = 10_000
"""How far back it is tried whether the API lists: far enough for a busy day."""
_CLOCKS_APART_SECONDS = 60.0
_REFUSALS = ("bad_request", "not_found", "server_error")


class OrgFound(msgspec.Struct, frozen=True):
    """What one org answered; None is what could not be learned.

    `runs` is what the API counts, `deepest_row` the row up to which it was seen to list, or from
    which on it refuses to; `clock_ahead_seconds` how far the API's clock is before ours;
    `finances` are a sub-org's credits.
    """

    org: str
    ok: bool
    problem: str = ""
    first_page_runs: int = 0
    runs: int | None = None
    names_orgs: list[str] = []
    order: str = ""
    deepest_row: int | None = None
    deep_refused: bool = False
    clock_ahead_seconds: float | None = None
    newest_run: str | None = None
    seconds: float | None = None
    finances: Finances = NO_FINANCES

    @property
    def cells(self) -> tuple[str, ...]:
        """What a row of the table says; the columns are `COLUMNS`."""
        if not self.ok:
            nothing = ("" for _ in COLUMNS[4:])
            return (self.org, "failed", *nothing, self.finances.shown, self.problem)
        count = "no count header" if self.runs is None else str(self.runs)
        deep = "one page" if self.deepest_row is None else f"to row {self.deepest_row}"
        if self.deep_refused:
            deep = f"refused from row {self.deepest_row}"
        ahead = self.clock_ahead_seconds
        return (
            self.org,
            "ok",
            f"{count}, {self.first_page_runs} on the first page",
            self.order,
            deep,
            "no date" if ahead is None else f"{ahead:+.0f} s",
            ", ".join(self.names_orgs),
            self.newest_run or "",
            "" if self.seconds is None else f"{self.seconds:.2f}",
            self.finances.shown,
            self.problem,
        )


_CREDITS = "credits"
COLUMNS = (
    *("org", "answer", "runs", "order", "lists", "API's clock", "runs name org", "newest run"),
    *("seconds", _CREDITS, "problem"),
)


class Report(msgspec.Struct, frozen=True):
    """All that was found. `version` is of this form: it rises when a field changes or goes."""

    version: Literal[1]
    exporter_version: str
    orgs: list[OrgFound]
    machine: list[Line]

    @property
    def ok(self) -> bool:
        """Tell whether each org answered."""
        return all(org.ok for org in self.orgs)


async def check(config: Config, redactor: Redactor) -> Report:
    """Ask each org, and each sub-org, for a first and a deep page, and look at this machine."""
    telemetry = Telemetry(CollectorRegistry())
    transport = Transport(config.api, telemetry, SystemClocks(), redactor, __version__)
    api = RunsApi(transport, config.api.page_size)
    runs: list[Run] = []
    try:
        asked = await find_orgs(config, transport, redactor)
        orgs = [await _ask(api, each, redactor, runs) for each in asked]
    finally:
        await transport.aclose()
    everything = replace(config, orgs=tuple(each.org for each in asked))
    return Report(1, __version__, orgs, look_at(everything, runs))


def shown(report: Report, redactor: Redactor) -> str:
    """Draw what was found as tables, as wide as the terminal."""
    rows = [
        [*map(redactor.redact_label, org.cells[:-1]), redactor.redact(org.cells[-1])]
        for org in report.orgs
    ]
    of_machine = [(line.what, line.found, line.advice or "") for line in report.machine]
    columns: tuple[str, ...] = COLUMNS
    if not any(org.finances.shown for org in report.orgs):
        at = columns.index(_CREDITS)
        columns = (*columns[:at], *columns[at + 1 :])
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    tables = (_drawn(columns, rows), _drawn(("machine", "found", "what to do"), of_machine))
    return "\n".join(tables)


def as_json(report: Report, redactor: Redactor) -> str:
    """Write what was found for programs; docs/check.schema.json describes it."""
    return redactor.redact(msgspec.json.format(msgspec.json.encode(report)).decode())


def schema() -> bytes:
    """Describe the report as JSON Schema (2020-12)."""
    described = msgspec.json.encode(msgspec.json.schema(Report), order="sorted")
    return msgspec.json.format(described, indent=2) + b"\n"


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table; where the terminal is too narrow for it, a line for each cell."""
    plain = [[_plain(cell) for cell in row] for row in rows]
    # A pipe gets the whole table, however wide.
    width = None if sys.stdout.isatty() else 250
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False)
    table = Table(*columns)
    for row in plain:
        table.add_row(*row)
    widths = [max(map(len, cells)) for cells in zip(columns, *plain, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 > console.width:
        widest = max(map(len, columns))
        named = (filter(all, zip(columns, row, strict=True)) for row in plain)
        lines = ("\n".join(f"{name:{widest}} {cell}" for name, cell in row) for row in named)
        return "\n\n".join(lines) + "\n"
    with console.capture() as drawn:
        console.print(table)
    return drawn.get().rstrip("\n")


def _plain(text: str) -> str:
    """Make text of the API fit for a terminal, which obeys control characters."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


async def _ask(api: RunsApi, asked: Asked, redactor: Redactor, runs: list[Run]) -> OrgFound:
    org, key = asked.org, partial(read_secret, asked.org.key, redactor)
    began = time.monotonic()
    try:
        chunk = await api.listing(org.id, key).read(0)
    except ApiError as error:
        problem = f"{error.reason}: {error.message}"
        return OrgFound(org.id, ok=False, problem=problem, finances=asked.finances)
    seconds = time.monotonic() - began
    runs += chunk.runs
    deepest, is_refused = await _look_deep(api.listing(org.id, key), chunk)
    ahead = None if chunk.date_seconds is None else chunk.date_seconds - chunk.asked_seconds
    # By the seconds: a time that came without an offset can't be compared with one that has it.
    newest = max(chunk.runs, key=lambda run: run.created or 0.0, default=None)
    created_at = None if newest is None else newest.created_at
    return OrgFound(
        org.id,
        ok=not asked.problem,
        problem="; ".join(
            filter(None, (asked.problem, *_problems(chunk, ahead, is_refused=is_refused)))
        ),
        first_page_runs=len(chunk.runs),
        runs=chunk.count,
        names_orgs=sorted({run.org_id for run in chunk.runs if run.org_id})[:3],
        order=_order_of(chunk.runs),
        deepest_row=deepest,
        deep_refused=is_refused,
        clock_ahead_seconds=ahead,
        newest_run=None if created_at is None else created_at.isoformat(timespec="seconds"),
        seconds=seconds,
        finances=asked.finances,
    )


async def _look_deep(listing: Listing, first: Chunk) -> tuple[int | None, bool]:
    """Tell how far the API was seen to list, and whether it refused to; None: all on one page."""
    if first.at_end:
        return None, False
    rows = min(_DEEP_ROWS, first.end + 1 if first.count is None else first.count)
    offset = (rows - 1) // max(1, first.end) * first.end
    try:
        deep = await listing.read(offset)
    except ApiError as error:
        return offset, error.reason in _REFUSALS
    return deep.end, False


def _problems(chunk: Chunk, ahead: float | None, *, is_refused: bool) -> Iterable[str]:
    if chunk.invalid:
        yield f"{len(chunk.invalid)} runs can't be read"
    if ahead is not None and abs(ahead) > _CLOCKS_APART_SECONDS:
        ours = chunk.asked_seconds
        both = f"says {utc(ours + ahead)}, ours {utc(ours)}"
        yield f"the API's clock {both}: set this machine's clock"
    if is_refused:
        yield "what lies deeper is read by status and origin"
    if chunk.count is None and not chunk.at_end:
        yield "without a count an unordered listing is walked whole at each poll"


def _order_of(runs: Sequence[Run]) -> str:
    order = judge(unknown_rows(runs))
    if not order.learned:
        return "not clear from one page"
    return "newest first" if order.newest_first else "oldest first"
