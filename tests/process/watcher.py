"""Looks at every scrape of an exporter, and remembers what no scraper may ever see."""

from __future__ import annotations

_DURABLE = (
    "invent_runs_finished_total{",
    "invent_runs_submitted_total{",
    "invent_credits_total{",
    "invent_run_credits_",
    "invent_run_duration_seconds_",
    "invent_run_queue_seconds_",
    "invent_step_credits_total{",
)


class Watcher:
    """Takes scrapes, across restarts; `wrong` says what went back or was born above 0.

    Being told of each scrape that there is, it does not depend on how often it gets to look. It
    reads lines, not families, to be quick; series are told apart by their text, which is written
    the same each time.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.wrong: list[str] = []
        self.scrapes = 0
        self._last: dict[str, float] = {}

    def take(self, text: str, *, is_known: bool = False) -> None:
        """Compare a scrape with all that came before it; `is_known`: it was not born here."""
        now = _durable_series(text)
        for series, value in now.items():
            before = self._last.get(series)
            if before is None and value != 0 and not is_known:
                self.wrong.append(f"first seen at {value}, not at 0: {series}")
            elif before is not None and value < before:
                self.wrong.append(f"went back from {before} to {value}: {series}")
        self._last.update(now)
        self.scrapes += 1


def _durable_series(text: str) -> dict[str, float]:
    """Choose the series whose values must never go back."""
    series = {}
    for line in text.splitlines():
        if line.startswith(_DURABLE):
            name, _, value = line.rpartition(" ")
            series[name] = float(value)
    return series
