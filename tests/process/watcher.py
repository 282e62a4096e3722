"""A scraper that looks all the time, and remembers what no scraper may ever see."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from types import TracebackType

_DURABLE = (
    "invent_runs_finished_total{",
    "invent_runs_submitted_total{",
    "invent_credits_total{",
    "invent_run_credits_",
    "invent_run_duration_seconds_",
    "invent_run_queue_seconds_",
    "invent_step_credits_total{",
)
_PAUSE_SECONDS = 0.2


class Watcher:
    """Scrapes from a thread, across restarts; `wrong` says what went back or was born above 0.

    It reads lines, not families, to be quick; series are told apart by their text, which is
    written the same each time.
    """

    def __init__(
        self, url: Callable[[], str], look: Callable[[str], str | None] | None = None
    ) -> None:
        """Scrape the address that `url` gives; `look` may find more that is wrong in a scrape."""
        self.wrong: list[str] = []
        self.scrapes = 0
        self.last: dict[str, float] = {}
        self.text = ""
        self._url = url
        self._look = look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.wait(_PAUSE_SECONDS):
                try:
                    answer = client.get(f"{self._url()}/metrics")
                except (httpx.TransportError, httpx.UnsupportedProtocol):
                    continue  # killed, or not there yet
                if answer.status_code != 200:
                    self.wrong.append(f"/metrics answered {answer.status_code}")
                self.take(answer.text)

    def take(self, text: str) -> None:
        """Compare a scrape with all that came before it."""
        now = durable_series(text)
        for series, value in now.items():
            before = self.last.get(series)
            if before is None and value != 0:
                self.wrong.append(f"first seen at {value}, not at 0: {series}")
            elif before is not None and value < before:
                self.wrong.append(f"went back from {before} to {value}: {series}")
        self.last.update(now)
        self.text = text
        self.scrapes += 1
        if self._look is not None:
            wrong = self._look(text)
            if wrong is not None:
                self.wrong.append(wrong)


def durable_series(text: str) -> dict[str, float]:
    """Choose the series whose values must never go back."""
    series = {}
    for line in text.splitlines():
        if line.startswith(_DURABLE):
            name, _, value = line.rpartition(" ")
            series[name] = float(value)
    return series
