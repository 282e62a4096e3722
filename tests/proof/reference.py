"""What the numbers must be, by the contract's words alone and with nothing but dicts.

It is told which rows were committed, page by page, and keeps what each run added. Whether every run
was seen at all is another question, asked by comparing with the service.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from invent_exporter.api.models import FINAL_STATUSES, OPEN_STATUSES, ORIGINS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.proof.service import Run

TIMED = ("COMPLETED", "FAILED", "CANCELED")


@dataclass
class Seen:
    """What was committed of one run."""

    workflow_id: str
    origin: str
    status: str
    seen_open: bool
    is_final: bool = False
    counted: bool = False
    submitted: bool = False
    ended: float = 0.0
    run_id: str = ""
    duration: float | None = None
    queue: float | None = None
    first_credits: float | None = None
    credits: tuple[float, float] | None = None
    revised: bool = False
    steps: dict[str, float] = field(default_factory=dict)


@dataclass
class Reference:
    """The numbers of one org."""

    contacted: bool = False
    contact: float = 0.0
    floor: float = 0.0
    runs: dict[str, Seen] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    credits: defaultdict[tuple[str, str, str, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    steps: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    corrections: float = 0.0
    revised: int = 0
    unreadable: set[str] = field(default_factory=set)

    def see(self, rows: Iterable[Run], unreadable: Iterable[str]) -> None:
        """Take in the rows of one committed page, and the ids of those that can't be read."""
        self.unreadable.update(unreadable)
        for row in rows:
            self._see(row)

    def _see(self, row: Run) -> None:
        if row.org_id:
            self.named.add(row.org_id)
        seen = self.runs.get(row.run_id)
        if seen is None:
            times = [t for t in (row.created, row.started, row.ended, row.updated) if t is not None]
            if row.is_final and times and max(times) < self.floor:
                return
            seen = self.runs[row.run_id] = Seen(
                row.workflow_id or "__none__",
                row.origin if row.origin in ORIGINS else "UNKNOWN",
                row.status,
                not row.is_final,
                run_id=row.run_id,
            )
            is_news = self.contacted and not self.is_history(row)
            seen.submitted = is_news
            if row.is_final:
                self._finish(seen, row, counted=is_news)
        elif not seen.is_final and row.is_final:
            self._finish(seen, row, counted=True)
        elif seen.is_final and not row.is_final and not seen.counted:
            seen.is_final = False  # history that goes on: it counts when it ends
        elif seen.is_final:
            if seen.counted and row.is_final and _label(row.status) != seen.status:
                self.revised += not seen.revised
                seen.revised = True
            self._spend(seen, row)

    def is_history(self, row: Run) -> bool:
        """Tell whether a run that was not seen before ended before first contact."""
        first = [t for t in (row.created, row.started, row.ended, row.updated) if t is not None]
        told = [t for t in (row.ended, row.created, row.started, row.updated) if t is not None]
        return first[0] < self.floor or told[0] <= self.contact

    def _finish(self, seen: Seen, row: Run, *, counted: bool) -> None:
        seen.is_final = True
        seen.counted = counted
        seen.status = _label(row.status)
        ended = row.ended if row.ended is not None else row.updated
        seen.ended = ended or 0.0
        if row.status in TIMED:
            if row.started is not None and row.ended is not None:
                seen.duration = max(0.0, row.ended - row.started)
            if row.started is not None and row.created is not None:
                seen.queue = max(0.0, row.started - row.created)
        self._spend(seen, row)

    def _spend(self, seen: Seen, row: Run) -> None:
        if not seen.counted or row.usage is None or row.usage.get("total") is None:
            return
        total, told_ai = float(row.usage["total"]), row.usage.get("ai_total")  # type: ignore[arg-type]
        known_ai = 0.0 if seen.credits is None else seen.credits[0]
        ai = known_ai if told_ai is None else float(told_ai)  # type: ignore[arg-type]
        now = (max(0.0, ai), max(0.0, total - max(0.0, ai)))
        if seen.credits is None:
            seen.first_credits = max(0.0, total)
        for kind, old, new in zip(("ai", "other"), seen.credits or (0.0, 0.0), now, strict=True):
            if new >= old:
                self.credits[seen.workflow_id, seen.origin, seen.status, kind] += new - old
            else:
                self.corrections += old - new
        seen.credits = now
        steps = row.usage.get("steps") or {}
        assert isinstance(steps, dict)
        for step, value in steps.items():
            added = value - seen.steps.get(step, 0.0)
            if added > 0:
                self.steps[seen.workflow_id, step] += added
                seen.steps[step] = value

    # -- the numbers

    def finished(self) -> Counter[tuple[str, str, str]]:
        """Count finished runs by workflow, origin and status."""
        return Counter(
            (seen.workflow_id, seen.origin, seen.status)
            for seen in self.runs.values()
            if seen.counted
        )

    def submitted(self) -> Counter[tuple[str, str]]:
        """Count submitted runs by workflow and origin."""
        return Counter(
            (seen.workflow_id, seen.origin) for seen in self.runs.values() if seen.submitted
        )

    def values(self, name: str, *labels: str) -> dict[tuple[str, ...], list[float]]:
        """List what counted runs have in a field, by labels."""
        values = defaultdict(list)
        for seen in self.runs.values():
            value = getattr(seen, name)
            if seen.counted and value is not None:
                values[tuple(getattr(seen, label) for label in labels)].append(value)
        return values

    def streaks(self) -> dict[str, int]:
        """Count FAILED runs behind the last COMPLETED one, by workflow."""
        ended = [seen for seen in self.runs.values() if seen.is_final]
        streaks: Counter[str] = Counter()
        for seen in sorted(ended, key=lambda seen: (seen.ended, seen.run_id)):
            if seen.status == "FAILED":
                streaks[seen.workflow_id] += 1
            elif seen.status == "COMPLETED":
                streaks[seen.workflow_id] = 0
        return streaks

    def last_finished(self) -> dict[tuple[str, str], float]:
        """Tell when the newest run ended, by workflow and status."""
        last: dict[tuple[str, str], float] = {}
        for seen in self.runs.values():
            if seen.is_final:
                key = (seen.workflow_id, seen.status)
                last[key] = max(last.get(key, seen.ended), seen.ended)
        return last


def _label(status: str) -> str:
    return status if status in (*FINAL_STATUSES, *OPEN_STATUSES) else "UNKNOWN"
