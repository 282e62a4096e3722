"""The metrics as bytes: encoded when numbers changed, swapped in whole, served from memory.

What is published is served as compressed pieces: one for each family and some views, made anew
only when a line of it changed (metrics/pieces.py has how they join). Each
published snapshot has a number, its generation: what that is good for says docs/how-it-counts.md,
"The first event is seen". What is not compressed is decompressed while it is sent.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, TypeAlias, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from invent_exporter.metrics.families import FAMILIES
from invent_exporter.metrics.formats import TEXT, Format, choose
from invent_exporter.metrics.groups import Groups, View
from invent_exporter.metrics.lines import Lines, lines_of
from invent_exporter.metrics.pieces import Joined, Piece, join, piece

_T = TypeVar("_T")
_Collected: TypeAlias = Sequence[tuple[Metric, bytes]]
"""The lines of metrics."""

_LIVE_SECONDS = 1.0
_GIVE_WAY_SECONDS = 0.25
"""So long in all a publish lets answers be sent first: both need the interpreter's lock."""
_FORGET_SECONDS = 600.0
"""A format that nobody asked for so long is not made any more."""


@dataclass(frozen=True)
class Answer:
    """Metrics in one form; `generation` numbers the published snapshot they were made of."""

    generation: int
    content_type: str
    content_encoding: str | None
    size_bytes: int
    parts: Callable[[], Iterator[bytes]]
    """The body, from its beginning at each call."""

    @property
    def body(self) -> bytes:
        """All of it; a large one is better sent in its parts."""
        return b"".join(self.parts())


@dataclass
class _Body:
    """One generation in one format, without the live metrics and the end."""

    generation: int
    joined: Joined
    without_orgs: _Body | None = None
    """What may be served by a process that may serve no org: what itself counted."""
    answers: dict[bool, Answer] = field(default_factory=dict)
    """By whether they are compressed."""
    live: bytes = b""


class OfOrgs(Protocol):
    """Families with a series for each org, which change at polls."""

    def changed(self) -> Iterable[Collector]:
        """List those that changed since they were last listed, each until it is gone through."""


class Exposition:
    """Holds what is published, and answers scrapes."""

    def __init__(
        self, own: Collector, clock: Callable[[], float], *, of_orgs: OfOrgs | None = None
    ) -> None:
        """Serve two kinds of metrics behind what is published; `clock` never goes back (seconds).

        `own` is made anew for a scrape, and of `of_orgs`, which grows with the orgs, at a publish
        what changed.
        """
        self.generation = 0
        self.acknowledged = 0
        self.encoded_chunks = 0
        self.text_bytes = 0
        """What is published, as text; 0 until anybody asked for it."""
        self.own_bytes = 0
        """The two behind it."""
        self.on_acknowledge: Callable[[], None] = lambda: None
        self.serving_until = math.inf
        """By the clock: an answer that begins later has no state of any org."""
        self._own = own
        self._of_orgs = of_orgs
        self._of_orgs_lines: dict[str, tuple[Metric, Lines]] = {}
        self._of_orgs_bytes = 0
        self._collected: _Collected | None = None
        self._clock = clock
        self._groups = Groups()
        self._headers: dict[tuple[Format, str], Piece] = {}
        self._bodies: dict[Format, _Body] = {}
        self._asked: dict[Format, float] = {}
        self._live: dict[tuple[Format, bool], tuple[float, bytes]] = {}
        """By whether orgs may be served: the own metrics say how many are."""
        self._lock = asyncio.Lock()
        self._sending = 0
        self._is_quiet = threading.Event()
        self._is_quiet.set()
        self._patience_seconds = 0.0
        self._encoder = ThreadPoolExecutor(1, "encoder")

    def close(self) -> None:
        """End the encoder's thread; an encoding under way is waited for."""
        self._encoder.shutdown(cancel_futures=True)

    async def collect(self) -> None:
        """Take what polls said of themselves, for the next publish, whose news are younger.

        Otherwise a poll that ends between the two would be seen to have ended without its numbers.
        """
        async with self._lock:
            wanted = self._wanted()
            self._collected = await self._in_thread(self._collect) if wanted else None

    async def publish(self, changes: Mapping[Hashable, View | None]) -> int:
        """Replace views (None takes one away); return the generation that holds them.

        When this returns, every answer is of this generation or a later one.
        """
        async with self._lock:
            generation, wanted = self.generation + 1, self._wanted()
            collected, self._collected = self._collected, None
            self._bodies = await self._in_thread(
                self._publish, changes, wanted, generation, collected
            )
            self.generation = generation
            return generation

    async def answer(self, accept: str, accept_encoding: str) -> Answer:
        """Answer in the form that these request headers ask for."""
        text, is_gzip = choose(accept, accept_encoding)
        self._asked[text] = self._clock()
        if text not in self._bodies:
            async with self._lock:
                if text not in self._bodies:
                    # Of what the next publish serves, if that is there: no counter goes back.
                    made = await self._in_thread(
                        self._make, [text], self.generation, self._collected
                    )
                    self._bodies |= made
        body = self._bodies[text]
        # Last, with nothing awaited since: the process may have stood still at any moment before.
        may_serve = self._clock() < self.serving_until
        if not may_serve:
            body = body.without_orgs or body
        return self._finish(
            text, body, self._live_metrics(text, may_serve=may_serve), is_gzip=is_gzip
        )

    def acknowledge(self, generation: int) -> None:
        """Note that an answer of this generation was delivered whole."""
        if generation > self.acknowledged:
            self.acknowledged = generation
            self.on_acknowledge()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Let an answer be sent meanwhile, and encode as little as can be."""
        self._sending += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._is_quiet.set()

    def _wanted(self) -> list[Format]:
        now = self._clock()
        return [text for text, asked in self._asked.items() if now - asked < _FORGET_SECONDS]

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoder, function, *arguments)

    # -- in the encoder's thread, which alone has the views

    def _publish(
        self,
        changes: Mapping[Hashable, View | None],
        formats: Sequence[Format],
        generation: int,
        collected: _Collected | None,
    ) -> dict[Format, _Body]:
        for key, view in changes.items():
            self._groups.place(key, view)
        self._groups.keep(formats)
        self._patience_seconds = _GIVE_WAY_SECONDS
        return self._make(formats, generation, collected)

    def _make(
        self, formats: Sequence[Format], generation: int, collected: _Collected | None = None
    ) -> dict[Format, _Body]:
        if not formats:
            return {}
        self.encoded_chunks += self._groups.write(self._give_way)
        of_orgs = self._collect() if collected is None else collected
        return {text: self._body(text, generation, of_orgs) for text in formats}

    def _collect(self) -> _Collected:
        for family in () if self._of_orgs is None else self._of_orgs.changed():
            for metric in family.collect():
                self._give_way()
                self._of_orgs_lines[metric.name] = metric, lines_of([metric])
                metric.samples.clear()  # of 1,000 orgs so many objects that collections begin
        known = self._of_orgs_lines.values()
        # At once: an answer adds it up meanwhile.
        self._of_orgs_bytes = sum(lines.text_bytes for _, lines in known)
        return [(metric, each) for metric, lines in known for each in lines.by_family.values()]

    def _give_way(self) -> None:
        if self._patience_seconds > 0 and not self._is_quiet.is_set():
            began = self._clock()
            is_quiet = self._is_quiet.wait(self._patience_seconds)
            self._patience_seconds -= self._clock() - began if is_quiet else math.inf

    def _body(self, text: Format, generation: int, of_orgs: _Collected) -> _Body:
        pieces: list[Piece] = []
        groups, text_bytes = self._groups.pieces(text), self._groups.text_bytes
        for family in FAMILIES:
            name, metric = family.name, family.metric()
            samples = [made for of_group in groups if (made := of_group.get(name)) is not None]
            if samples:
                pieces += [self._header(text, metric), *samples]
                text_bytes += self._header(TEXT, metric).text_bytes
        counted: list[Piece] = []
        for metric, lines in of_orgs:
            section = self._header(text, metric), piece(lines)
            pieces += section
            counted += section if metric.type == "counter" else ()
        self.text_bytes = text_bytes
        return _Body(generation, join(pieces), _Body(0, join(counted)))

    def _header(self, text: Format, metric: Metric) -> Piece:
        if (text, metric.name) not in self._headers:
            self._headers[text, metric.name] = piece(text.header(metric))
        return self._headers[text, metric.name]

    # -- the last step, for each answer that is not the same as the one before

    def _finish(self, text: Format, body: _Body, live: bytes, *, is_gzip: bool) -> Answer:
        if body.live is not live:
            body.answers.clear()
            body.live = live
        if is_gzip not in body.answers:
            body.answers[is_gzip] = _answer(text, body, is_gzip=is_gzip)
        return body.answers[is_gzip]

    def _live_metrics(self, text: Format, *, may_serve: bool) -> bytes:
        now = self._clock()
        made, live = self._live.get((text, may_serve), (now, b""))
        if not live or now - made >= _LIVE_SECONDS:
            live = text.encode(self._own)
            self._live[text, may_serve] = (now, live)
            self.own_bytes = self._of_orgs_bytes + len(live)
        return live


def _answer(text: Format, body: _Body, *, is_gzip: bool) -> Answer:
    joined, ending = body.joined, body.live + text.ending
    if is_gzip:
        parts = joined.gzip(ending)
        size = sum(map(len, parts))
        return Answer(body.generation, text.content_type, "gzip", size, parts.__iter__)
    size = joined.text_bytes + len(ending)
    return Answer(
        body.generation, text.content_type, None, size, lambda: chain(joined.text(), (ending,))
    )


def newborn_text(view: View) -> tuple[int, int]:
    """Tell how many bytes and lines a view has as text; it has no exemplars yet."""
    lines = lines_of(view.metrics())
    return lines.text_bytes, sum(each.count(b"\n") for each in lines.by_family.values())
