"""The metrics as bytes: encoded when numbers changed, swapped in whole, served from memory.

prometheus_client encodes each view once for each form that is asked for; the pieces are kept by
family and joined at publish. Each published snapshot has a number, its generation: what that is
good for says docs/how-it-counts.md, "The first event is seen".
"""

from __future__ import annotations

import asyncio
import math
import re
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import exposition as text_format
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from invent_exporter.metrics.families import FAMILIES

_GZIP_LEVEL = 1
"""Level 6 makes answers a fifth smaller and takes three times as long."""
_GZIP_WINDOW = 31
_QUALITY = re.compile(r"q=[01](\.[0-9]*)?")
_EXEMPLAR = re.compile(rb' # \{run_id="(?:[^"\\]|\\.)*"\} \S+(?: \S+)?$', re.MULTILINE)
_LIVE_SECONDS = 1.0
_FORGET_SECONDS = 600.0
"""A form that nobody asked for so long is not made any more."""


class View(Protocol):
    """Something that was committed, as metrics."""

    def metrics(self) -> list[Metric]:
        """Build the series."""


@dataclass(frozen=True)
class Answer:
    """Metrics in one form; `generation` numbers the published snapshot they were made of."""

    generation: int
    content_type: str
    content_encoding: str | None
    body: bytes


@dataclass(frozen=True)
class _Format:
    """A text format, and how prometheus_client makes it."""

    content_type: str
    generate: Callable[[Collector], bytes]
    ending: bytes

    def encode(self, metrics: Collector) -> bytes:
        """Write the metrics without the ending."""
        return self.generate(metrics).removesuffix(self.ending)


_TEXT = _Format("text/plain; version=0.0.4; charset=utf-8", text_format.generate_latest, b"")
_OPENMETRICS = _Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
    openmetrics.generate_latest,
    b"# EOF\n",
)


@dataclass(frozen=True)
class _Form:
    """What can be asked for: a format, compressed or not."""

    format: _Format
    is_gzip: bool


@dataclass
class _Body:
    """One generation in one form, without the live metrics and the end."""

    generation: int
    content: bytes
    compressor: zlib._Compress | None
    answer: Answer | None = None
    live: bytes = b""


@dataclass
class _Chunks:
    """One view, encoded by format and family as far as it was asked for."""

    view: View
    encoded: dict[_Format, dict[str, bytes]] = field(default_factory=dict)
    text_bytes: int = 0


@dataclass(frozen=True)
class _Registry:
    """The one method of a registry that prometheus_client's encoders use."""

    metric: Metric

    def collect(self) -> list[Metric]:
        return [self.metric]


class _WithoutOrgs(Collector):
    """What a process that may serve no org says: no state of one, but what itself counted."""

    def __init__(self, own: Collector) -> None:
        self._own = own

    def collect(self) -> Iterator[Metric]:
        for metric in self._own.collect():
            if metric.type != "gauge" or not any("org_id" in one.labels for one in metric.samples):
                yield metric


class Exposition:
    """Holds what is published, and answers scrapes."""

    def __init__(self, own: Collector, clock: Callable[[], float]) -> None:
        """Serve a registry, `own`, behind what is published; `clock` never goes back (seconds)."""
        self.generation = 0
        self.acknowledged = 0
        self.encoded_chunks = 0
        self.text_bytes = 0
        """What is published, as text; 0 until anybody asked for it."""
        self.own_bytes = 0
        """The own metrics behind it."""
        self.serving_until = math.inf
        """By the clock: an answer that begins later has no state of any org."""
        self.on_acknowledge: Callable[[], None] = lambda: None
        self._own = own
        self._clock = clock
        self._chunks: dict[Hashable, _Chunks] = {}
        self._bodies: dict[_Form, _Body] = {}
        self._asked: dict[_Form, float] = {}
        self._live: dict[_Format, tuple[float, bytes]] = {}
        self._lock = asyncio.Lock()
        self._encoder = ThreadPoolExecutor(1, "encoder")

    def close(self) -> None:
        """End the encoder's thread; an encoding under way is waited for."""
        self._encoder.shutdown(cancel_futures=True)

    async def publish(self, changes: Mapping[Hashable, View | None]) -> int:
        """Replace views (None takes one away); return the generation that holds them.

        When this returns, every answer is of this generation or a later one.
        """
        async with self._lock:
            for key, view in changes.items():
                if view is None:
                    self._chunks.pop(key, None)
                else:
                    self._chunks[key] = _Chunks(view)
            generation = self.generation + 1
            now = self._clock()
            wanted = [form for form, asked in self._asked.items() if now - asked < _FORGET_SECONDS]
            bodies = await self._made(wanted, generation)
            if None in changes.values():
                self._live.clear()  # what it says of an org that is withdrawn is not to be served
            self._bodies = bodies
            self.generation = generation
            return generation

    async def answer(self, accept: str, accept_encoding: str) -> Answer:
        """Answer in the form that these request headers ask for."""
        form = _choose(accept, accept_encoding)
        now = self._asked[form] = self._clock()
        if now >= self.serving_until:
            body = self._make([form], 0, [])[form]
            return self._finish(form, body, form.format.encode(_WithoutOrgs(self._own)))
        if form not in self._bodies:
            async with self._lock:
                if form not in self._bodies:
                    self._bodies |= await self._made([form], self.generation)
        return self._finish(form, self._bodies[form], self._live_metrics(form.format))

    def acknowledge(self, generation: int) -> None:
        """Note that an answer of this generation was delivered whole."""
        if generation > self.acknowledged:
            self.acknowledged = generation
            self.on_acknowledge()

    async def _made(self, forms: list[_Form], generation: int) -> dict[_Form, _Body]:
        return await asyncio.get_running_loop().run_in_executor(
            self._encoder, self._make, forms, generation, list(self._chunks.values())
        )

    # -- in the encoder's thread

    def _make(
        self, forms: list[_Form], generation: int, chunks: list[_Chunks]
    ) -> dict[_Form, _Body]:
        contents = {text: self._join(text, chunks) for text in {form.format for form in forms}}
        bodies = {}
        for form in forms:
            content, compressor = contents[form.format], None
            if form.is_gzip:
                compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
                content = compressor.compress(content)
            bodies[form] = _Body(generation, content, compressor)
        return bodies

    def _join(self, text: _Format, chunks: list[_Chunks]) -> bytes:
        for chunk in chunks:
            if text not in chunk.encoded:
                chunk.encoded[text] = _samples(text, chunk.view.metrics())
                chunk.text_bytes = sum(map(_text_bytes, chunk.encoded[text].values()))
                self.encoded_chunks += 1
        encoded = [chunk.encoded[text] for chunk in chunks]
        parts = []
        text_bytes = sum(chunk.text_bytes for chunk in chunks)
        for family in FAMILIES:
            samples = [by_family[family.name] for by_family in encoded if family.name in by_family]
            if samples:
                parts += [text.encode(_Registry(family.metric())), *samples]
                text_bytes += len(_TEXT.encode(_Registry(family.metric())))
        self.text_bytes = text_bytes
        return b"".join(parts)

    # -- the last step, for each answer that is not the same as the one before

    def _finish(self, form: _Form, body: _Body, live: bytes) -> Answer:
        if body.answer is None or body.live is not live:
            ending, encoding = live + form.format.ending, None
            if body.compressor is not None:
                compressor, encoding = body.compressor.copy(), "gzip"
                ending = compressor.compress(ending) + compressor.flush()
            content = body.content + ending
            body.answer = Answer(body.generation, form.format.content_type, encoding, content)
            body.live = live
        return body.answer

    def _live_metrics(self, text: _Format) -> bytes:
        now = self._clock()
        made, live = self._live.get(text, (now, b""))
        if not live or now - made >= _LIVE_SECONDS:
            live = text.encode(self._own)
            self._live[text] = (now, live)
            self.own_bytes = len(live)
        return live


def _samples(text: _Format, metrics: list[Metric]) -> dict[str, bytes]:
    """Encode the samples of each family, without the two lines of its header, HELP and TYPE."""
    sections = {metric.name: text.encode(_Registry(metric)) for metric in metrics}
    samples = {name: section.split(b"\n", 2)[2] for name, section in sections.items()}
    return {name: lines for name, lines in samples.items() if lines}


def _text_bytes(samples: bytes) -> int:
    """Tell how large samples of either format are as text, which has no exemplars."""
    return len(_EXEMPLAR.sub(b"", samples))


def newborn_text(view: View) -> tuple[int, int]:
    """Tell how many bytes and lines a view has as text."""
    samples = b"".join(_samples(_TEXT, view.metrics()).values())
    return len(samples), samples.count(b"\n")


def _choose(accept: str, accept_encoding: str) -> _Form:
    """Choose by quality; OpenMetrics where it is asked for by name, at least as much as text."""
    qualities = _qualities(accept)
    by_name = qualities.get("application/openmetrics-text", 0.0)
    is_openmetrics = by_name > 0 and by_name >= qualities.get("text/plain", 0.0)
    encodings = _qualities(accept_encoding)
    is_gzip = encodings.get("gzip", encodings.get("*", 0.0)) > 0
    return _Form(_OPENMETRICS if is_openmetrics else _TEXT, is_gzip)


def _qualities(header: str) -> dict[str, float]:
    """Read `a;x=y;q=0.5, b` as the highest quality of each name; what is malformed counts as 0."""
    qualities: dict[str, float] = {}
    for item in header.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                quality = float(parameter[2:]) if _QUALITY.fullmatch(parameter) else 0.0
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities
