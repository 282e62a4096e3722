"""The `check` command: ask each org for one page, and say what was found."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from invent_exporter import __version__
from invent_exporter.api.listing import RunsApi
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import SystemClocks
from invent_exporter.config.load import Config, OrgConfig
from invent_exporter.errors import ApiError
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry


class Found(NamedTuple):
    """What one org answered: a row of the table, whose columns bear the names of the fields."""

    org: str
    answer: str = "ok"
    runs: str = ""
    runs_name_org: str = ""
    newest_run: str = ""
    seconds: str = ""
    problem: str = ""


async def ask(config: Config, redactor: Redactor) -> list[Found]:
    """Ask each org for one page."""
    telemetry = Telemetry(CollectorRegistry())
    transport = Transport(config.api, telemetry, SystemClocks(), redactor, __version__)
    api = RunsApi(transport, config.api.page_size)
    try:
        return [await _ask(api, org, redactor) for org in config.orgs]
    finally:
        await transport.aclose()


def table_of(found: list[Found], redactor: Redactor) -> str:
    """Draw a table of what each org answered, as wide as the terminal."""
    # A pipe gets the whole table, however wide.
    width = None if sys.stdout.isatty() else 200
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False)
    table = Table(*(name.replace("_", " ") for name in Found._fields))
    for one in found:
        *others, problem = one
        table.add_row(*map(_shown, [*map(redactor.redact_label, others), redactor.redact(problem)]))
    with console.capture() as drawn:
        console.print(table)
    return drawn.get().rstrip("\n")


def _shown(text: str) -> str:
    """Make text of the API fit for a terminal, which obeys control characters."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


async def _ask(api: RunsApi, org: OrgConfig, redactor: Redactor) -> Found:
    def read_key() -> str:
        secret = org.key.read()
        redactor.add(secret)
        return secret

    began = time.monotonic()
    try:
        chunk = await api.listing(org.id, read_key).read(0)
    except ApiError as error:
        return Found(org.id, "failed", problem=f"{error.reason}: {error.message}")
    runs = f"{len(chunk.runs)} on the first page"
    if chunk.count is not None:
        runs = f"{chunk.count}, {runs}"
    named = sorted({run.org_id for run in chunk.runs if run.org_id})
    # By the seconds: a time that came without an offset can't be compared with one that has it.
    newest = max(chunk.runs, key=lambda run: run.created or 0.0, default=None)
    created_at = None if newest is None else newest.created_at
    return Found(
        org.id,
        runs=runs,
        runs_name_org=", ".join(named[:3]),
        newest_run="" if created_at is None else created_at.isoformat(timespec="seconds"),
        seconds=f"{time.monotonic() - began:.2f}",
        problem=f"{len(chunk.invalid)} runs can't be read" if chunk.invalid else "",
    )
