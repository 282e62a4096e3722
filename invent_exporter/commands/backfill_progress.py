"""How far a long work is: a bar with rate and time left, plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from invent_exporter.errors import ApiError

_LINE_SECONDS = 10.0


class Bar:
    """Shows on stderr how much of some total is done."""

    def __init__(
        self, what: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin at 0; `what` names what is counted, `total` is None when nobody knows it."""
        self._what = what
        self._clock = clock
        self._first: int | None = None
        self._done: dict[int, int] = {}
        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(what, said="")
        self.begin(total)

    def begin(self, total: int | None) -> None:
        """Take the time from now on, to so many."""
        self._total = total
        self._began = self._said = self._clock()
        self._bar.update(self._task, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say the last of it."""
        if self._console.is_terminal:
            self._bar.stop()
        else:
            self._console.print(self._line())

    def passed(self, part: int, count: int) -> None:
        """Take note that so many of a part are done."""
        self._done[part] = max(count, self._done.get(part, 0))
        if self._first is None:  # what was done before a break says nothing of the rate
            self._first = sum(self._done.values())
        done = sum(self._done.values())
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, said=f"{done:,}, {self._rate():,.0f}/s")
        elif self._clock() - self._said >= _LINE_SECONDS:
            self._said = self._clock()
            self._console.print(self._line())

    def advance(self, count: int) -> None:
        """Take note that so many more are done."""
        self.passed(0, self._done.get(0, 0) + count)

    def waits(self, seconds: float, error: ApiError) -> None:
        """Say why nothing happens for a while."""
        self._console.print(f"waits {seconds:.0f} s: {error.reason}: {error.message}")

    def _rate(self) -> float:
        seconds = max(self._clock() - self._began, 1e-3)
        return (sum(self._done.values()) - (self._first or 0)) / seconds

    def _line(self) -> str:
        done, rate = sum(self._done.values()), self._rate()
        if self._total is None:
            return f"{done:,} {self._what}, {rate:,.0f}/s"
        line = f"{done:,} of {self._total:,} {self._what}, {rate:,.0f}/s"
        left = self._total - done
        return f"{line}, {left / rate / 60:,.0f} min left" if left > 0 and rate > 0 else line
