"""The lines of a series with their times: one when it changed, and one every four minutes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from invent_exporter.commands.backfill_plan import KEEP_MS


def lines(names: Sequence[str], points: Iterable[tuple[int, str]], until_ms: int) -> Iterator[str]:
    """Yield the lines of each sample together; the last sample is at `until_ms`.

    `names` are the beginnings of the lines, `points` when (milliseconds) which numbers stand there.
    """
    before: tuple[int, str] | None = None
    for point in points:
        if before is not None:
            times = range(before[0], min(point[0], until_ms + 1), KEEP_MS)
            yield from _at(times, names, before[1])
        before = point
    if before is not None:
        times = range(before[0], until_ms + 1, KEEP_MS)
        yield from _at(times, names, before[1])
        if times and times[-1] != until_ms:
            yield from _at([until_ms], names, before[1])


def _at(times: Iterable[int], names: Sequence[str], numbers: str) -> Iterator[str]:
    beginnings = [f"{name} {number} " for name, number in zip(names, numbers.split(), strict=True)]
    for at_ms in times:
        ending = f"{seconds_text(at_ms)}\n"
        yield ending.join(beginnings) + ending


def seconds_text(at_ms: int) -> str:
    """Write a time as OpenMetrics has it."""
    seconds, rest = divmod(at_ms, 1000)
    return f"{seconds}.{rest:03d}" if rest else str(seconds)
