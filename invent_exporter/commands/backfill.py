"""The `backfill` command: past runs as OpenMetrics with timestamps, up to first contact.

The listing is read into a spool beside the output; from there each workflow's past is replayed into
samples, and these are written family by family, as the format wants them.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from invent_exporter import __version__
from invent_exporter.api.listing import Chunk, RunsApi
from invent_exporter.api.transport import Transport
from invent_exporter.clocks import SystemClocks, contact_seconds
from invent_exporter.commands.backfill_ledger import KnownOrg, read_ledger
from invent_exporter.commands.backfill_placing import Window
from invent_exporter.commands.backfill_plan import Plan, Task, TaskOrg, notes, size, utc
from invent_exporter.commands.backfill_progress import Bar
from invent_exporter.commands.backfill_reading import PastReader, Source
from invent_exporter.commands.backfill_spool import Spool
from invent_exporter.commands.backfill_writing import PastWriter, forecast_of, real_id
from invent_exporter.commands.sub_orgs import find_orgs
from invent_exporter.config.key import read_secret
from invent_exporter.config.load import Config, OrgConfig
from invent_exporter.errors import BackfillError
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry

Say = Callable[[str], None]
"""Tells the user a line."""


def backfill(config: Config, redactor: Redactor, plan: Plan, say: Say) -> None:
    """Write the past; what an earlier run of the command has read is not read again.

    Raises:
        BackfillError: it broke off.
        StateError: the ledger can't be read.

    """
    if any(org.sub_orgs for org in config.orgs):
        config = replace(config, orgs=asyncio.run(_with_sub_orgs(config, redactor)))
    path = plan.output.with_name(f"{plan.output.name}.spool")
    known = [] if path.exists() else read_ledger(config.state_url)
    with Spool(path) as spool:
        task = spool.task()
        if task is None:
            task = _new_task(config, plan, known)
        else:
            _check_same(task, config, plan, path)
            say(f"goes on with what {path} holds: {spool.runs():,} runs")
        plan = msgspec.structs.replace(plan, start_ms=task.start_ms)
        try:
            _Backfill(config, redactor, plan, spool, task, say).run()
        except (BackfillError, KeyboardInterrupt, sqlite3.Error) as error:
            what = redactor.redact(str(error)) or "interrupted"
            raise BackfillError(f"{what}; the same command goes on from here") from error
        spool.remove()


async def _with_sub_orgs(config: Config, redactor: Redactor) -> tuple[OrgConfig, ...]:
    telemetry = Telemetry(CollectorRegistry())
    transport = Transport(config.api, telemetry, SystemClocks(), redactor, __version__)
    try:
        asked = await find_orgs(config, transport, redactor)
    finally:
        await transport.aclose()
    for each in asked:
        if each.problem:
            raise BackfillError(f"{each.org.id}: {each.problem}")
    return tuple(each.org for each in asked)


def _new_task(config: Config, plan: Plan, known: Sequence[KnownOrg]) -> Task:
    orgs = []
    for org in config.orgs:
        found = next((one for one in known if org.id in (one.alias, one.org_id)), None)
        if found is None:
            orgs.append(TaskOrg(org.id, None if org.id == "c" else org.id, None))
            continue
        if found.contact_seconds * 1000 <= plan.start_ms:
            raise BackfillError(
                f"{found.org_id}: first contact was at {utc(found.contact_seconds)}, before "
                f"--since {plan.since}: all since then is counted live"
            )
        orgs.append(
            TaskOrg(
                org.id,
                found.org_id,
                found.contact_seconds,
                found.live,
                found.history,
                found.met,
                found.workflows,
                found.folded,
            )
        )
    read = {org.org_id for org in orgs}
    others = {one.org_id: one.contact_seconds for one in known if one.org_id not in read}
    return Task(config.api.url, plan.since, plan.start_ms, orgs, others)


def _check_same(task: Task, config: Config, plan: Plan, path: Path) -> None:
    begun = (task.api_url, task.since, [org.configured_id for org in task.orgs])
    if begun != (config.api.url, plan.since, [org.id for org in config.orgs]):
        raise BackfillError(
            f"{path} was begun with --since {task.since}, {task.api_url} and the orgs "
            f"{', '.join(begun[2])}: give the same, or remove the file to begin anew"
        )


@dataclass(frozen=True)
class _Backfill:
    """One task on its way: read, replayed, written."""

    config: Config
    redactor: Redactor
    plan: Plan
    spool: Spool
    task: Task
    say: Say

    def run(self) -> None:
        refused = asyncio.run(self._read())
        spool = self.spool
        spool.give_each_run_to_one_org()
        writer = PastWriter(spool, self.plan, self.config)
        self._look_for_room(writer)
        writer.replay(self.task.orgs)
        size_bytes = writer.write()
        self.say(f"{self.plan.output}: {size(size_bytes)}, {spool.finished():,} runs that ended")
        if invalid := spool.invalid():
            self.say(f"{invalid:,} runs can't be read and are left out")
        for org_id, row in refused.items():
            self.say(f"{org_id}: the API lists nothing from row {row:,} on: runs may be missing")

    # -- reading

    async def _read(self) -> Mapping[str, int]:
        """Read every org; return from which row on the API refused to list, by org."""
        clocks = SystemClocks()
        telemetry = Telemetry(CollectorRegistry())
        transport = Transport(self.config.api, telemetry, clocks, self.redactor, __version__)
        api = RunsApi(transport, self.config.api.page_size)

        sources = [
            Source(number, org.id, partial(read_secret, org.key, self.redactor), self.redactor)
            for number, org in enumerate(self.config.orgs)
        ]
        refused = {}
        try:
            with Bar("runs read") as bar:
                readers = [PastReader(each, api, self.spool, clocks, bar) for each in sources]
                firsts = [await each.first_page() for each in readers]
                for org, first in zip(self.task.orgs, firsts, strict=True):
                    if org.end is None:
                        times = (run.first_time for run in first.runs)
                        org.end = contact_seconds(first.date_seconds, first.asked_seconds, *times)
                self.spool.put_task(self.task)
                self._say_before(firsts)
                counts = [first.count for first in firsts if first.count is not None]
                bar.begin(sum(counts) if len(counts) == len(firsts) else None)
                for number, each in enumerate(readers):
                    row = await each.read(self._window(number))
                    if row is not None:
                        refused[self.task.orgs[number].configured_id] = row
            return refused
        finally:
            await transport.aclose()

    def _window(self, number: int) -> Window:
        org, start = self.task.orgs[number], self.plan.start_ms / 1000
        ends = dict(self.task.others)
        ends |= {self._real_id(place): one.end or 0.0 for place, one in enumerate(self.task.orgs)}
        ends.pop(self._real_id(number))
        known = org.live, org.history, org.met
        return Window(start, org.end or 0.0, ends, *known, workflows=self.config.workflows)

    def _real_id(self, number: int) -> str:
        return real_id(self.spool, number, self.task.orgs[number])

    # -- what is said

    def _say_before(self, firsts: Sequence[Chunk]) -> None:
        """Say what is to be read and how large the file may become."""
        writer = PastWriter(self.spool, self.plan, self.config)
        ends, size_bytes, workflows, runs = {}, 0, 0, 0
        for number, (org, first) in enumerate(zip(self.task.orgs, firsts, strict=True)):
            ends[self._real_id(number)] = org.end or 0.0
            seen = {*org.workflows, *(run.workflow_label for run in first.runs)}
            count = len(first.runs) if first.count is None else first.count
            size_bytes += self._size_bytes(writer, number, len(seen), count)
            workflows, runs = workflows + len(seen), runs + count
        pages = -(-runs // self.config.api.page_size)
        minutes = pages / self.config.api.requests_per_minute
        self.say(f"{runs:,} runs are listed: {pages:,} requests, {minutes:,.0f} min at least")
        self.say(f"forecast: at most {size(size_bytes)} for the {workflows} workflows known so far")
        for line in notes(self.plan, ends, time.time()):
            self.say(line)

    def _look_for_room(self, writer: PastWriter) -> None:
        """Say how large the file becomes, now that all is known, and refuse what has no room."""
        size_bytes = workflows = 0
        for number in range(len(self.task.orgs)):
            names = writer.workflows(number)
            size_bytes += self._size_bytes(writer, number, len(names), self.spool.runs())
            workflows += len(names)
        folder = self.plan.output.parent
        free = shutil.disk_usage(folder).free
        self.say(f"forecast: at most {size(size_bytes)} for {workflows} workflows")
        if size_bytes > free:
            what = f"--output: {folder} has {size(free)} free, and {size(size_bytes)} may be needed"
            raise BackfillError(f"{what}; make room, or give a longer --step")

    def _size_bytes(self, writer: PastWriter, number: int, workflows: int, runs: int) -> int:
        forecast = forecast_of(writer.workflow(self._real_id(number), "w" * 24), self.plan)
        window_ms = round((self.task.orgs[number].end or 0.0) * 1000) - self.plan.start_ms
        return forecast.size_bytes(workflows, runs, window_ms, self.plan.step_ms)
