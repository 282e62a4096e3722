"""The scenes that are drawn: the drill's situations, and installations of other sizes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final, get_args

from drill.incidents import EXPORTER, RUNS, Theater, quiet_habits
from drill.traffic import Habit
from grafana.pictures.history import Purse, Scene
from invent_exporter.simulator import Fault
from invent_exporter.simulator.runs import Origin

END: Final = 1795748400
"""2026-11-27, 3 a.m. UTC: what a screen shows to whoever is woken up."""
HOUR: Final = 3600
QUIET: Final = Scene(END - 10 * HOUR, END, quiet_habits())
_BEGIN: Final = {one.name: one.begin for one in (*RUNS, *EXPORTER)}
_MINUTES_AGO: Final = {
    "A workflow starts to fail": 45,
    "A new workflow's first run fails": 9,
    "A storm of webhooks": 18,
    "A run hangs": 66,
    "The queue jams": 45,
    "A loop burns credits": 25,
    "A workflow is not triggered any more": 70,
    "Durations leak slowly": 120,
    "The key is revoked": 14,
    "The API throttles": 30,
    "The API is down": 12,
    "The exporter is killed": 6,
}

_AT_ONCE: Final = {
    "A workflow starts to fail": 52,
    "The queue jams": 45,
    "A loop burns credits": 25,
    "The key is revoked": 14,
}

DRILL: Final = {
    "A quiet day": QUIET,
    **{name: replace(QUIET, acts=((at, _BEGIN[name]),)) for name, at in _MINUTES_AGO.items()},
}
"""The quiet day and the twelve incidents, by the drill's names, some time after each began."""


def _new_version(theater: Theater) -> None:
    theater.habit("wf-invoices").version = 2


def hundred_orgs(hours: float = 6, orgs: int = 100) -> Scene:
    """Return orgs with 20 workflows each, of which a few are in trouble."""
    random = Random(7)  # noqa: S311 (it makes times)
    habits = tuple(
        Habit(
            f"wf-{org:03d}-{number:02d}",
            f"org-{org:03d}",
            get_args(Origin)[number % 3],
            random.choice((3, 5, 10, 15, 30, 60)),
            random.choice((0.3, 1, 2, 5, 20)),
            random.choice((0.5, 1, 2, 5)),
            failing=0.005 if number % 7 == 0 else 0.0,
        )
        for org in range(orgs)
        for number in range(20)
    )

    def fail(theater: Theater) -> None:
        for org in range(1, orgs, 30):
            theater.habit(f"wf-{org:03d}-07").failing = 0.8

    acts = (
        (120, lambda theater: theater.fault(Fault(kind="status", status=503, org="org-017"))),
        (100, lambda theater: theater.clear_faults()),
        (90, fail),
        (40, lambda theater: theater.fault(Fault(kind="status", status=401, org="org-042"))),
    )
    return Scene(END - int(hours * HOUR), END, habits, acts)


def agency(*, is_quiet: bool) -> Scene:
    """Return a parent with eleven sub-orgs on three replicas; two of them run dry at night."""
    orgs = ("agency", *(f"client-{number:02d}" for number in range(1, 12)))
    tasks: tuple[tuple[str, Origin, float, float], ...] = (
        ("mail", "TRIGGER", 6, 1),
        ("chat", "WEBHOOK", 4, 0.5),
        ("agent", "WORKFLOW", 10, 3),
    )
    habits = tuple(
        Habit(f"{org}-{task}", org, origin, every_minutes, 1, burned)
        for org in orgs
        for task, origin, every_minutes, burned in tasks
    )
    purses = {org: Purse(balance=5000.0 + 500 * number) for number, org in enumerate(orgs[1:])}
    purses["client-02"] = Purse(promo=100, cap=9000, used=4000)
    purses["client-03"] = Purse(balance=8000, promo=250, cap=9000, used=3000)
    quiet = Scene(END - 10 * HOUR, END, habits, purses=purses, replicas=3)
    if is_quiet:
        return quiet
    purses |= {
        "client-04": Purse(balance=600),
        "client-07": Purse(balance=6000, cap=5000, used=4700),
    }
    return replace(quiet, purses=purses, pauses=((57, 55), (38, 36), (20, 18)))


SIZES: Final = {
    "an incident": replace(
        QUIET,
        acts=(
            *((at, _BEGIN[name]) for name, at in _AT_ONCE.items()),
            (45, _new_version),
            (103, _BEGIN["The exporter is killed"]),
            (100, lambda theater: theater.start_exporter()),
        ),
        has_odd_runs=True,
        purses={"acme": Purse(balance=30000, promo=100, cap=40000, used=15000)},
    ),
    "the exporter is dead": replace(QUIET, acts=((1.5, _BEGIN["The exporter is killed"]),)),
    "one org": replace(QUIET, habits=QUIET.habits[:3]),
    "a backfilled day": replace(
        QUIET,
        habits=(replace(QUIET.habits[0], failing=0.2), *QUIET.habits[1:]),
        is_backfilled=True,
    ),
    "nothing installed": replace(QUIET, habits=()),
    "an agency on a quiet day": agency(is_quiet=True),
    "an agency at night": agency(is_quiet=False),
}
