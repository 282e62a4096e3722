"""The scenes that are drawn: the drill's situations, and installations of other sizes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from drill.incidents import ACME, NEWBORN, UMBRELLA, quiet_habits
from grafana.pictures.history import ORIGINS, Change, Habit, Scene, Trouble

END: Final = 1795748400
"""2026-11-27, 3 a.m. UTC: what a screen shows to whoever is woken up."""
MINUTE, HOUR = 60, 3600
HABITS: Final = tuple(
    Habit(
        one.org_id,
        one.workflow_id,
        one.origin,
        one.every_minutes,
        one.duration_minutes,
        one.credits,
    )
    for one in quiet_habits()
)
QUIET: Final = Scene(END - 10 * HOUR, END, HABITS)


def _change(workflow_id: str, minutes_ago: float, **habits: float | bool) -> Change:
    return Change(END - minutes_ago * MINUTE, ACME, workflow_id, habits)


def _trouble(
    minutes: float, reason: str, code: str, org_id: str | None = None, share: float = 1.0
) -> Trouble:
    return Trouble(END - minutes * MINUTE, END + HOUR, reason, code, share, org_id)


def _changed(*changes: Change) -> Scene:
    return replace(QUIET, changes=changes)


FAILS = _change("wf-invoices", 40, failing=1.0)
JAMS = _change("wf-payroll", 45, waiting=True)
BURNS = _change("wf-agent", 25, every_minutes=1, credits=20)
REVOKED = _trouble(14, "unauthorized", "401", UMBRELLA)

DRILL: Final = {
    "A quiet day": QUIET,
    "A workflow starts to fail": _changed(FAILS),
    "A new workflow's first run fails": replace(
        QUIET, one_offs=(Habit(ACME, NEWBORN, "WEBHOOK", 10 * 60 - 9, 1),)
    ),
    "A storm of webhooks": _changed(
        _change("wf-orders", 22, every_minutes=1 / 30, duration_minutes=0.2),
        _change("wf-orders", 4, every_minutes=4, duration_minutes=0.5),
    ),
    "A run hangs": _changed(
        _change("wf-shipping", 66, duration_minutes=1e5),
        _change("wf-shipping", 60, duration_minutes=2),
    ),
    "The queue jams": _changed(JAMS),
    "A loop burns credits": _changed(BURNS),
    "A workflow is not triggered any more": _changed(_change("wf-reports", 70, paused=True)),
    "Durations leak slowly": _changed(_change("wf-search", 120, growth=1.08)),
    "The key is revoked": replace(QUIET, troubles=(REVOKED,)),
    "The API throttles": replace(
        QUIET, troubles=(_trouble(30, "rate_limited", "429", UMBRELLA, 0.5),)
    ),
    "The API is down": replace(QUIET, troubles=(_trouble(12, "server_error", "503"),)),
    "The exporter is killed": replace(QUIET, killed_at=END - 6 * MINUTE),
}
"""The quiet day and the twelve incidents, by the drill's names, some time after each began."""


def hundred_orgs(hours: float = 6, orgs: int = 100) -> Scene:
    """Return orgs with 20 workflows each, of which a few are in trouble."""
    random = Random(7)  # noqa: S311 (it makes times)
    habits = tuple(
        Habit(
            f"org-{org:03d}",
            f"wf-{org:03d}-{number:02d}",
            ORIGINS[number % 3],
            random.choice((3, 5, 10, 15, 30, 60)),
            random.choice((0.3, 1, 2, 5, 20)),
            random.choice((0.5, 1, 2, 5)),
            failing=0.005 if number % 7 == 0 else 0.0,
        )
        for org in range(orgs)
        for number in range(20)
    )
    failing = tuple(
        Change(END - 90 * MINUTE, one.org_id, one.workflow_id, {"failing": 0.8})
        for one in habits
        if one.workflow_id.endswith("-07") and int(one.org_id[-3:]) % 30 == 1
    )
    troubles = (
        _trouble(40, "unauthorized", "401", "org-042"),
        Trouble(END - 2 * HOUR, END - 100 * MINUTE, "server_error", "503", 1, "org-017"),
    )
    return Scene(END - int(hours * HOUR), END, habits, failing, troubles)


SIZES: Final = {
    "an incident": replace(QUIET, changes=(FAILS, JAMS, BURNS), troubles=(REVOKED,)),
    "the exporter is dead": replace(QUIET, killed_at=END - 90),
    "one org": replace(QUIET, habits=HABITS[:3]),
    "nothing installed": replace(QUIET, habits=()),
}
