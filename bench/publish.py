"""Measure what it costs to publish when 1 of 500 workflows changed, of 102,000 samples.

Against encoding everything once, gzip included; and the same with 1 to 1,000 orgs, whose polls' own
series are written anew each time. Prometheus' form alone is asked for here, and made.
"""

from __future__ import annotations

import asyncio
import random
import time
from statistics import median
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from bench.client import OPENMETRICS, samples_in
from bench.table import Row, Size, ms
from invent_exporter.ledger.counts import BASE_KEYS, Bounds, WorkflowCounts
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.families import WorkflowView
from invent_exporter.metrics.groups import View
from invent_exporter.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Hashable

# With steps and 33 bounds more than by default a workflow has 204 samples: 500 have 102,000.
_BOUNDS = Bounds(
    (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, *range(7200, 7200 + 10)),
    (0.5, 1, 5, 10, 30, 60, *range(300, 300 + 10)),
    (0.1, 1, 2, 5, 10, 20, 50, *range(100, 100 + 10)),
)
_STEPS = 45
_WORKFLOWS_OF_AN_ORG = 5


def rows(size: Size) -> list[Row]:
    """Measure."""
    return [*asyncio.run(_rows(size)), *asyncio.run(_rows_of_orgs(size))]


async def _rows(size: Size) -> list[Row]:
    workflows = size.of(500, 50)
    views: dict[Hashable, View | None] = {number: _view(number) for number in range(workflows)}
    whole: list[float] = []
    one: list[float] = []
    chunks: list[int] = []
    samples = 0
    for _ in range(size.of(5, 2)):
        exposition = Exposition(CollectorRegistry(), time.monotonic)
        await exposition.publish({})
        await exposition.answer(OPENMETRICS, "gzip")
        began = time.perf_counter()
        await exposition.publish(views)
        whole.append(time.perf_counter() - began)
        for _ in range(10):
            before = exposition.encoded_chunks
            began = time.perf_counter()
            await exposition.publish({7: _view(7)})
            one.append(time.perf_counter() - began)
            chunks.append(exposition.encoded_chunks - before)
        plain = await exposition.answer(OPENMETRICS, "")
        samples = samples_in(plain.body.decode())
        exposition.close()
    return [
        Row(
            f"publishing 1 changed of {workflows} workflows, {samples:,} samples, gzip",
            f"{ms(one)}, {median(chunks):.0f} chunk encoded",
            f"everything anew: {ms(whole)}",
            f"1/{median(whole) / median(one):.0f}",
            "under 1/20",
            median(one) * 20 < median(whole),
        )
    ]


async def _rows_of_orgs(size: Size) -> list[Row]:
    return [await _row_of_orgs(orgs) for orgs in ((1, 10) if size.is_small else (1, 10, 100, 1000))]


async def _row_of_orgs(orgs: int) -> Row:
    telemetry = Telemetry(CollectorRegistry(), CollectorRegistry())
    changes: dict[Hashable, View | None] = {}
    counts = _view(0).counts
    for org in (f"org-{number}" for number in range(orgs)):
        telemetry.declare_org(org)
        telemetry.request_done(org, "200", 0.1)
        telemetry.poll_succeeded(org, 0.1, 1.7e9)
        telemetry.set_poll_interval(org, 30.0)
        for name in (f"workflow-{number}" for number in range(_WORKFLOWS_OF_AN_ORG)):
            changes[org, name] = WorkflowView(org, name, name, counts, ())
    exposition = Exposition(CollectorRegistry(), time.monotonic, of_orgs=telemetry)
    await exposition.answer(OPENMETRICS, "gzip")
    await exposition.publish(changes)
    took: list[float] = []
    for number in range(10):
        began = time.perf_counter()
        await exposition.publish({("org-0", "workflow-0"): _view(number)})
        took.append(time.perf_counter() - began)
    exposition.close()
    return Row(
        f"publishing 1 changed workflow, {orgs:,} orgs of {_WORKFLOWS_OF_AN_ORG}",
        ms(took),
        "",
        f"{median(took) * 1e6 / orgs:,.0f} us an org",
        "",
        is_met=True,
    )


def _view(number: int) -> WorkflowView:
    counts = WorkflowCounts.empty(_BOUNDS)
    for step in range(_STEPS):
        counts.steps[f"step-{step}"] = random.random() * 1000
    for key in BASE_KEYS:
        counts.finished[key] = random.randrange(10_000)
        counts.credits_ai[key] = random.random() * 1000
    for histogram in [*counts.duration.values(), counts.queue, counts.run_credits]:
        for run in range(50):
            histogram.observe(random.random() * 3600, f"run-{number}-{run}", 1.7e9 + run)
    counts.released = counts.groups()
    return WorkflowView("org", f"workflow-{number}", f"Workflow {number}", counts, ())
