"""The text formats, how prometheus_client writes them, and which one a request asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import exposition as text_format
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

_NAMES_OF_TEXT = ("text/plain", "text/*", "*/*")
_QUALITY = re.compile(r"q=[01](\.[0-9]*)?")


@dataclass(frozen=True)
class _Registry:
    """The one method of a registry that prometheus_client's encoders use."""

    metric: Metric

    def collect(self) -> list[Metric]:
        return [self.metric]


@dataclass(frozen=True)
class Format:
    """A text format, and how prometheus_client makes it of other lines than ours."""

    content_type: str
    generate: Callable[[Collector], bytes]
    ending: bytes
    has_exemplars: bool

    def encode(self, metrics: Collector) -> bytes:
        """Write the metrics without the ending."""
        return self.generate(metrics).removesuffix(self.ending)

    def header(self, metric: Metric) -> bytes:
        """Write what stands before a family's samples."""
        bare = Metric(metric.name, metric.documentation, metric.type)
        return self.encode(_Registry(bare))


TEXT = Format(
    "text/plain; version=0.0.4; charset=utf-8",
    text_format.generate_latest,
    ending=b"",
    has_exemplars=False,
)
OPENMETRICS = Format(
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
    openmetrics.generate_latest,
    ending=b"# EOF\n",
    has_exemplars=True,
)


def choose(accept: str, accept_encoding: str) -> tuple[Format, bool]:
    """Choose by quality; OpenMetrics where it is asked for by name, at least as much as text.

    Text is also what a wildcard means; of several names for it the narrowest counts.
    """
    qualities = _qualities(accept)
    by_name = qualities.get("application/openmetrics-text", 0.0)
    text = next((qualities[name] for name in _NAMES_OF_TEXT if name in qualities), 0.0)
    is_openmetrics = by_name > 0 and by_name >= text
    encodings = _qualities(accept_encoding)
    is_gzip = encodings.get("gzip", encodings.get("*", 0.0)) > 0
    return (OPENMETRICS if is_openmetrics else TEXT), is_gzip


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
