"""The twelve incidents: what happens, which alert must come, and where Overview shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drill.traffic import Habit, Traffic
from invent_exporter.simulator import Fault

ACME, UMBRELLA = "acme", "umbrella"
NEWBORN = "wf-newborn"


def quiet_habits() -> tuple[Habit, ...]:
    """Return the workflows of a quiet day: none fails, one is rare, one is long."""
    return (
        Habit("wf-invoices", ACME, "WORKFLOW", 5, 1),
        Habit("wf-orders", ACME, "WEBHOOK", 4, 0.5),
        Habit("wf-shipping", ACME, "TRIGGER", 6, 2),
        Habit("wf-payroll", ACME, "TRIGGER", 6, 1),
        Habit("wf-agent", ACME, "WORKFLOW", 5, 3, credits=3, steps=("answer", "look up")),
        Habit("wf-reports", ACME, "TRIGGER", 10, 2),
        Habit("wf-search", ACME, "WEBHOOK", 4, 1),
        Habit("wf-archive", ACME, "TRIGGER", 60, 20),
        Habit("wf-orders", UMBRELLA, "WEBHOOK", 5, 1),
    )


@dataclass(frozen=True)
class Theater:
    """What an incident can reach."""

    traffic: Traffic
    fault: Callable[[Fault], None]
    """Let the API misbehave, from now on."""
    clear_faults: Callable[[], None]
    kill_exporter: Callable[[], None]
    """In the middle of whatever it does."""
    start_exporter: Callable[[], None]

    def habit(self, workflow_id: str) -> Habit:
        """Find a workflow, of acme where others have it too."""
        return next(habit for habit in self.traffic.habits if habit.workflow_id == workflow_id)


@dataclass(frozen=True)
class Incident:
    """One incident. `expected` must arrive; `allowed` may, for they follow from it."""

    name: str
    begin: Callable[[Theater], None]
    concerns: dict[str, str]
    """Labels of the alerts that belong to it."""
    expected: str
    allowed: frozenset[str]
    seen_at: str
    """Where Overview's first screen shows it."""
    end: Callable[[Theater], None] = lambda _: None


def _fail(theater: Theater) -> None:
    theater.habit("wf-invoices").failing = 0.8


def _newborn(theater: Theater) -> None:
    theater.traffic.begin(Habit(NEWBORN, ACME, "WEBHOOK", 60, 0, failing=1))


def _storm(theater: Theater) -> None:
    theater.traffic.storm(theater.habit("wf-orders"), 450, 15)


def _hang(theater: Theater) -> None:
    theater.traffic.hang(theater.habit("wf-shipping"))


def _jam(theater: Theater) -> None:
    theater.habit("wf-payroll").waiting = True


def _burn(theater: Theater) -> None:
    habit = theater.habit("wf-agent")
    habit.every_minutes, habit.credits = 1, 20


def _silence(theater: Theater) -> None:
    theater.habit("wf-reports").paused = True


def _leak(theater: Theater) -> None:
    theater.habit("wf-search").growth = 1.08


def _of(workflow_id: str) -> dict[str, str]:
    return {"org_id": ACME, "workflow_id": workflow_id}


RUNS = (
    Incident(
        "A workflow starts to fail",
        _fail,
        _of("wf-invoices"),
        "InventConsecutiveFailures",
        frozenset(
            {"InventRunFailed", "InventFailureRatioHigh", "InventNoSuccess", "InventCreditsWasted"}
        ),
        "Tiles «Alerts» and «Failing»; its row in «Alerts firing» and «Failing most, "
        "last hour»; red at the bottom of «Runs finished»",
    ),
    Incident(
        "A new workflow's first run fails",
        _newborn,
        _of(NEWBORN),
        "InventRunFailed",
        frozenset(),
        "Its row in «Alerts firing» and «Failing most, last hour»: 100 %, 1 in a row",
    ),
    Incident(
        "A storm of webhooks",
        _storm,
        _of("wf-orders"),
        "InventRunsSurge",
        frozenset({"InventCreditSpike"}),
        "Its row in «Alerts firing»; «Runs submitted»: WEBHOOK towers over the rest",
    ),
    Incident(
        "A run hangs",
        _hang,
        _of("wf-shipping"),
        "InventRunStuck",
        frozenset(),
        "Tile «Stuck or waiting»; its row in «Alerts firing»",
    ),
    Incident(
        "The queue jams",
        _jam,
        _of("wf-payroll"),
        "InventQueueBackingUp",
        frozenset({"InventNoSuccess"}),
        "Tile «Stuck or waiting»; its row in «Alerts firing»; «Open runs»: PENDING rises",
    ),
    Incident(
        "A loop burns credits",
        _burn,
        _of("wf-agent"),
        "InventCreditSpike",
        frozenset(),
        "Tile «Alerts»; its row in «Alerts firing»; «Credits an hour»: one workflow towers",
    ),
    Incident(
        "A workflow is not triggered any more",
        _silence,
        _of("wf-reports"),
        "InventNoSuccess",
        frozenset(),
        "Tile «Overdue»; its row in «Alerts firing»",
    ),
    Incident(
        "Durations leak slowly",
        _leak,
        _of("wf-search"),
        "InventRunsSlow",
        frozenset(),
        "Tile «Slow»; its row in «Alerts firing»",
    ),
)
"""Played at once: each has its own workflow, so its alerts can be told apart."""

EXPORTER = (
    Incident(
        "The key is revoked",
        lambda theater: theater.fault(Fault(kind="status", status=401, org=UMBRELLA)),
        {"org_id": UMBRELLA},
        "InventKeyRejected",
        frozenset({"InventOrgUnreadable", "InventPollStale"}),
        "Tiles «Alerts», «Orgs not read», «API errors, 10m»; then «Age of the data»",
        lambda theater: theater.clear_faults(),
    ),
    Incident(
        "The API throttles",
        lambda theater: theater.fault(
            Fault(kind="rate_limited", org=UMBRELLA, probability=0.5, retry_after="none")
        ),
        {"org_id": UMBRELLA},
        "InventRateLimited",
        frozenset({"InventOrgUnreadable", "InventPollStale"}),
        "Tile «API errors, 10m»; its row in «Alerts firing»",
        lambda theater: theater.clear_faults(),
    ),
    Incident(
        "The API is down",
        lambda theater: theater.fault(Fault(kind="status", status=503)),
        {},
        "InventOrgUnreadable",
        frozenset({"InventPollStale", "InventReconcileStale"}),
        "Tiles «Alerts», «Orgs not read» with all of them, «API errors, 10m»; then «Age of the "
        "data»",
        lambda theater: theater.clear_faults(),
    ),
    Incident(
        "The exporter is killed",
        lambda theater: theater.kill_exporter(),
        {},
        "InventExporterDown",
        frozenset({"InventMetricsAbsent"}),
        "Tile «Orgs not read» with all of them, at the next scrape; then «Alerts»; the bars end",
        lambda theater: theater.start_exporter(),
    ),
)
"""Played one after the other: they touch all that the exporter says."""
