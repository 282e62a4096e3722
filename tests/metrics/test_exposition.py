"""What is served is one generation, whole, in the form that was asked for."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import product
from random import Random
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.registry import Collector

from invent_exporter.metrics import exposition
from invent_exporter.metrics.exposition import Answer, Exposition
from invent_exporter.metrics.families import FINISHED
from invent_exporter.metrics.groups import View
from tests.proof.process import FakeClocks

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@dataclass(frozen=True)
class Finished:
    """A view of one series; it notes in which threads it is built."""

    workflow_id: str
    value: float
    threads: list[threading.Thread] = field(default_factory=list)

    def metrics(self) -> list[Metric]:
        """Build it."""
        self.threads.append(threading.current_thread())
        metric = FINISHED.metric()
        labels = {"org_id": "o", "origin": "TRIGGER", "status": "FAILED"}
        metric.add_metric(FINISHED.values({**labels, "workflow_id": self.workflow_id}), self.value)
        return [metric]


class _OfOrgs(CollectorRegistry):
    """All of it may have changed each time."""

    def changed(self) -> list[Collector]:
        """List all."""
        return [self]


class Stand:
    """An exposition with one live gauge of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.live = Gauge("live", "The exporter's own.", registry=registry)
        self.of_orgs = _OfOrgs()
        self.clocks = FakeClocks()
        self.exposition = Exposition(registry, self.clocks.monotonic, of_orgs=self.of_orgs)

    async def answer(self, accept: str = "text/plain", encoding: str = "") -> Answer:
        """Ask for metrics."""
        return await self.exposition.answer(accept, encoding)

    async def lines(self, accept: str = "text/plain", encoding: str = "") -> list[str]:
        """Ask for metrics, and leave the comments out."""
        answer = await self.answer(accept, encoding)
        body = gzip.decompress(answer.body) if answer.content_encoding else answer.body
        return [line for line in body.decode().splitlines() if not line.startswith("#")]


@pytest.fixture
def stand() -> Iterator[Stand]:
    """Set up a fresh exposition."""
    fresh = Stand()
    yield fresh
    fresh.exposition.close()


async def test_before_anything_is_published_the_own_metrics_are_served(stand: Stand) -> None:
    """A scrape is answered from the start."""
    answer = await stand.answer()
    assert answer.generation == 0
    assert b"live 0.0" in answer.body


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_what_is_published_is_in_every_form_at_once(
    stand: Stand, accept: str, encoding: str
) -> None:
    """When `publish` returns, no answer is of an earlier generation."""
    await stand.answer(accept, encoding)
    for value in (1.0, 2.0, 3.0):
        generation = await stand.exposition.publish({"a": Finished("wf", value)})
        answer = await stand.answer(accept, encoding)
        assert answer.generation == generation
        lines = await stand.lines(accept, encoding)
        assert sum(line.endswith(f" {value}") and "wf" in line for line in lines) == 1


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_nothing_is_encoded_in_the_event_loops_thread_and_nothing_for_a_scrape(
    stand: Stand, encoding: str
) -> None:
    """Promise 5: neither joining nor compressing either, once a form was asked for."""
    view = Finished("wf", 1.0)
    await stand.answer("text/plain", encoding)
    await stand.exposition.publish({"a": view})
    assert view.threads
    assert threading.current_thread() not in view.threads
    make = stand.exposition._make
    with patch.object(stand.exposition, "_make", wraps=make) as made:
        for _ in range(5):
            stand.clocks.now += 2.0
            await stand.answer("text/plain", encoding)
    made.assert_not_called()


async def test_a_view_is_replaced_and_taken_away_by_its_key(stand: Stand) -> None:
    """Others stay as they are."""
    await stand.exposition.publish({"a": Finished("wf-a", 1), "b": Finished("wf-b", 2)})
    await stand.exposition.publish({"a": Finished("wf-a", 5)})
    lines = "\n".join(await stand.lines())
    assert 'workflow_id="wf-a"} 5.0' in lines
    assert 'workflow_id="wf-b"} 2.0' in lines
    await stand.exposition.publish({"a": None, "never-there": None})
    lines = "\n".join(await stand.lines())
    assert "wf-a" not in lines
    assert 'workflow_id="wf-b"} 2.0' in lines


async def test_whatever_comes_and_goes_each_form_has_what_is_there(stand: Stand) -> None:
    """More views than one piece holds, in both formats, compressed or not, with their lengths."""
    random = Random(7)
    there: dict[int, str | None] = {}
    for step in range(60):
        changes: dict[Hashable, View | None] = {}
        for name in random.sample(range(50), 6):
            is_there = random.random() < 0.7
            changes[name] = Finished(f"wf-{name}", step) if is_there else None
            there[name] = f'"wf-{name}"}} {step}.0' if is_there else None
        await stand.exposition.publish(changes)
        expected = sorted(filter(None, there.values()))
        for accept, encoding in product(("text/plain", OPENMETRICS), ("", "gzip")):
            lines = await stand.lines(accept, encoding)
            assert sorted(line.split("workflow_id=")[1] for line in lines[:-1]) == expected
            answer = await stand.answer(accept, encoding)
            assert answer.size_bytes == len(answer.body)


async def test_only_what_changed_is_encoded_anew(stand: Stand) -> None:
    """Encoding is slow; a poll that changes one workflow costs one workflow."""
    views: dict[Hashable, View | None] = {
        number: Finished(f"wf-{number}", number) for number in range(20)
    }
    await stand.exposition.publish(views)
    await stand.answer()
    before = stand.exposition.encoded_chunks
    await stand.exposition.publish({3: Finished("wf-3", 100)})
    await stand.answer()
    assert stand.exposition.encoded_chunks == before + 1


async def test_an_acknowledgement_moves_forward_only(stand: Stand) -> None:
    """Answers may arrive in any order."""
    calls = []
    stand.exposition.on_acknowledge = lambda: calls.append(stand.exposition.acknowledged)
    for generation in (2, 1, 2, 5):
        stand.exposition.acknowledge(generation)
    assert stand.exposition.acknowledged == 5
    assert calls == [2, 5]


async def test_answers_while_views_are_published_never_go_back(stand: Stand) -> None:
    """Whatever the moment, an answer is of one generation, and its numbers are that one's."""

    async def publish() -> None:
        for value in range(1, 30):
            views: dict[Hashable, View | None] = {
                name: Finished(name, value) for name in ("wf-a", "wf-b")
            }
            await stand.exposition.publish(views)

    publishing = asyncio.create_task(publish())
    seen = []
    while not publishing.done():
        answer = await stand.answer()
        counts = [
            float(line.rpartition(" ")[2])
            for line in answer.body.decode().splitlines()
            if line.startswith("invent_runs_finished_total")
        ]
        assert counts == [answer.generation] * len(counts)
        seen.append(answer.generation)
        await asyncio.sleep(0)
    await publishing
    assert seen == sorted(seen)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_the_own_metrics_are_refreshed_once_a_second(
    stand: Stand, accept: str, encoding: str
) -> None:
    """Behind the published ones, which stay as they are."""
    await stand.exposition.publish({"a": Finished("wf", 1)})
    await stand.answer(accept, encoding)
    stand.live.set(7)
    assert "live 0.0" in await stand.lines(accept, encoding)
    stand.clocks.now += 1.0
    lines = await stand.lines(accept, encoding)
    assert "live 7.0" in lines
    assert any("wf" in line for line in lines)


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("text/plain;version=0.0.4", False),
        (OPENMETRICS, True),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.6", False),
        ("application/openmetrics-text;q=0.6,text/plain;q=0.6", True),
        ("application/openmetrics-text;q=0", False),
        ("Application/OpenMetrics-Text ; Q=1.0", True),
        ("application/openmetrics-text;q=none,text/plain", False),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5,*/*;q=0.1",
            True,
        ),
        ("*/*;q=1,application/openmetrics-text;q=0.1", False),
        ("text/*,application/openmetrics-text;q=0.1", False),
        ("application/openmetrics-text,*/*", True),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.1,text/*;q=0.9,*/*", True),
        ("application/openmetrics-text;q=0.5,text/*;q=0.1,*/*", True),
        ("application/openmetrics-text;q=0.1,application/*", True),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
    ],
)
async def test_the_form_follows_accept(stand: Stand, accept: str, *, is_openmetrics: bool) -> None:
    """By quality; a malformed one counts as 0. A wildcard means text, unless text is named too."""
    answer = await stand.answer(accept)
    assert answer.content_type.startswith("application/openmetrics-text") == is_openmetrics
    assert answer.body.endswith(b"# EOF\n") == is_openmetrics


@pytest.mark.parametrize(
    ("encoding", "is_gzip"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate", True),
        ("gzip;q=0", False),
        ("*", True),
        ("br", False),
        ("identity", False),
    ],
)
async def test_gzip_follows_accept_encoding(stand: Stand, encoding: str, *, is_gzip: bool) -> None:
    """And is one valid member."""
    await stand.exposition.publish({"a": Finished("wf", 1)})
    answer = await stand.answer("text/plain", encoding)
    assert (answer.content_encoding == "gzip") == is_gzip
    body = gzip.decompress(answer.body) if is_gzip else answer.body
    assert b'workflow_id="wf"} 1.0' in body
    assert b"live 0.0" in body


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_past_its_time_no_answer_has_the_state_of_an_org(stand: Stand, accept: str) -> None:
    """What was published and what polls said is left out; what the process counted stays."""
    of_orgs = stand.of_orgs
    Counter("errors", "Of an org.", ["org_id"], registry=of_orgs).labels(org_id="o").inc()
    Gauge("up", "Of an org.", ["org_id"], registry=of_orgs).labels(org_id="o").set(1)
    await stand.exposition.publish({"o": Finished("w", 3)})
    whole = await stand.lines(accept)
    stand.exposition.serving_until = stand.clocks.monotonic() + 1
    assert await stand.lines(accept) == whole
    stand.clocks.now += 1
    counted = [line for line in whole if line.startswith(("live", "errors"))]
    assert await stand.lines(accept) == counted
    assert len(counted) < len(whole) - 1
    stand.exposition.serving_until += 1
    assert await stand.lines(accept) == whole


async def test_own_metrics_are_made_anew_when_orgs_may_not_be_served_any_more(stand: Stand) -> None:
    """They say how many orgs are; else they may be a second old."""
    exposition, clocks = stand.exposition, stand.clocks
    exposition.serving_until = clocks.monotonic() + 0.5
    stand.live.set_function(lambda: clocks.monotonic() < exposition.serving_until)
    assert "live 1.0" in await stand.lines("text/plain")
    clocks.now += 0.5
    assert "live 0.0" in await stand.lines("text/plain")
    exposition.serving_until += 0.1
    assert "live 1.0" in await stand.lines("text/plain")


async def test_what_polls_said_is_as_of_before_the_news(stand: Stand) -> None:
    """A poll that ends while these are gathered is not up yet; with the next publish it is."""
    up = Gauge("up", "Of an org.", ["org_id"], registry=stand.of_orgs).labels(org_id="o")
    for seen in (1, 0):  # what nobody has asked for is not made before the first scrape
        up.set(0)
        await stand.exposition.collect()
        up.set(1)
        await stand.exposition.publish({"o": Finished("w", 3)})
        assert f'up{{org_id="o"}} {seen}.0' in await stand.lines()
        await stand.exposition.publish({})
        assert 'up{org_id="o"} 1.0' in await stand.lines()


async def test_a_counter_of_polls_never_goes_back(stand: Stand) -> None:
    """Not for who asks for the first time between what is gathered and its publish, either."""
    counter = Counter("polls", "Of an org.", ["org_id"], registry=stand.of_orgs).labels(org_id="o")
    await stand.answer()
    await stand.exposition.collect()
    counter.inc()
    before = await stand.lines(OPENMETRICS)
    await stand.exposition.publish({})
    assert await stand.lines(OPENMETRICS) >= before


async def test_what_was_gathered_for_a_publish_that_failed_is_not_served(stand: Stand) -> None:
    """An org may have been withdrawn since; also when nobody asked for anything meanwhile."""
    up = Gauge("up", "Of an org.", ["org_id"], registry=stand.of_orgs)
    up.labels(org_id="o").set(1)
    await stand.answer()
    await stand.exposition.collect()
    up.remove("o")
    stand.clocks.now += 3600
    await stand.exposition.collect()
    await stand.answer()
    await stand.exposition.publish({})
    assert "up{" not in "".join(await stand.lines())


async def test_the_size_of_what_is_served_is_whole_while_it_is_made_anew(stand: Stand) -> None:
    """A scrape may come at any moment of a publish."""
    sizes: list[int] = []
    loop = asyncio.get_running_loop()

    class Scraped:
        def collect(self) -> Iterator[Metric]:
            yield from Gauge("first", "One.", registry=None).collect()
            if sizes:
                stand.clocks.now += 2.0
                asyncio.run_coroutine_threadsafe(stand.answer(), loop).result()
                sizes.append(stand.exposition.own_bytes)
            yield from Gauge("second", "Another.", registry=None).collect()

    stand.of_orgs.register(Scraped())
    await stand.answer()
    sizes.append(stand.exposition.own_bytes)
    await stand.exposition.publish({})
    assert sizes == [sizes[0]] * 2


async def test_of_what_polls_said_no_sample_is_kept(stand: Stand) -> None:
    """Those of 1,000 orgs are so many objects that collections of garbage begin."""
    gauge = Gauge("up", "Of an org.", ["org_id"], registry=stand.of_orgs)
    for number in range(1000):
        gauge.labels(org_id=f"org-{number}").set(1)
    await stand.lines()
    before = len(gc.get_objects())
    await stand.exposition.collect()
    assert len(gc.get_objects()) - before < 500


async def test_what_is_sent_goes_before_what_is_encoded(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both need the interpreter's lock; a client that never reads delays a publish a little."""
    await stand.answer()
    with monkeypatch.context() as patched, stand.exposition.sending():
        patched.setattr(exposition, "_GIVE_WAY_SECONDS", 600.0)
        with stand.exposition.sending():
            publishing = asyncio.create_task(stand.exposition.publish({"a": Finished("wf", 1)}))
            _, waiting = await asyncio.wait([publishing], timeout=0.1)
            assert waiting
        assert not publishing.done()
    assert await publishing == 1
    with stand.exposition.sending():
        assert await stand.exposition.publish({"a": Finished("wf", 2)}) == 2
