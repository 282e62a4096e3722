"""Show whether the exporter is well, and what it asks of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import AGE_LIMITS, EXPORTERS, instance, job, mark_restarts, org, start
from grafana.panels import CALM, GREEN, ORANGE, RED, Place, lines, now, query, row, tile
from grafana.queries import EXPORTER, JOB, ORG, increase, last_success, quantile, rate

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard

WAITING_LIMITS = ((None, GREEN), (0.5, ORANGE), (2, RED))


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        EXPORTERS,
        "Invent / Exporter",
        "Is the exporter well? Its polls, its requests to the API, its ledger and its process.",
        [job(), instance(), org()],
    )
    mark_restarts(board)
    _tiles(board)
    _polls(board)
    _api(board)
    _ledger(board)
    _process(board)
    return board


def _tiles(board: dashboard.Dashboard) -> None:
    # `up` belongs to every target: only those that were seen to be exporters.
    known = f"last_over_time(invent_exporter_build_info{{{EXPORTER}}}[$__range])"
    throttled = rate("invent_api_throttled_seconds_total", EXPORTER, "10m")
    board.with_panel(
        tile(
            "Orgs not read",
            "Orgs whose last poll was not complete.",
            Place(0, 0, 4, 4),
            now(f"sum(max by (job, org_id) (invent_up{{{ORG}}}) == bool 0)"),
            unit="short",
            limits=((None, GREEN), (1, RED)),
        )
    )
    board.with_panel(
        tile(
            "Age of the data",
            "Time since the last complete poll of the org that waits longest.",
            Place(4, 0, 4, 4),
            now(f"time() - min({last_success()})"),
            unit="s",
            limits=AGE_LIMITS,
        )
    )
    board.with_panel(
        tile(
            "Exporters up",
            "Instances that Prometheus reaches, of those that were exporters in the chosen time.",
            Place(8, 0, 4, 4),
            now(f"sum(up{{{EXPORTER}}} and on (job, instance) {known}) or vector(0)"),
            unit="short",
            limits=((None, RED), (1, GREEN)),
        )
    )
    board.with_panel(
        tile(
            "Failed polls",
            "In the chosen time.",
            Place(12, 0, 4, 4),
            now(f"sum({increase('invent_poll_errors_total', ORG, '$__range')})"),
            unit="short",
            decimals=0,
            limits=((None, GREEN), (0.5, ORANGE)),
        )
    )
    board.with_panel(
        tile(
            "Throttled",
            "Share of the last ten minutes that requests waited for the own rate limit or for "
            "Retry-After; above 100% when several wait at once.",
            Place(16, 0, 4, 4),
            now(f"sum({throttled})"),
            unit="percentunit",
            decimals=1,
            limits=WAITING_LIMITS,
        )
    )
    board.with_panel(
        tile(
            "Version",
            "Of the exporters that run.",
            Place(20, 0, 4, 4),
            now(f"group by (version) (invent_exporter_build_info{{{EXPORTER}}})", "{{version}}"),
            unit="short",
            limits=CALM,
            text_of="version",
        )
    )


def _polls(board: dashboard.Dashboard) -> None:
    board.with_row(row("Polls", 4))
    panels = (
        (
            "Up",
            "1: the last poll was complete.",
            f"max by (org_id) (invent_up{{{ORG}}})",
            "short",
            ((None, RED), (1, GREEN)),
        ),
        (
            "Age of the data",
            "Time since the last complete poll.",
            f"time() - max by (org_id) (invent_poll_last_success_timestamp_seconds{{{ORG}}})",
            "s",
            AGE_LIMITS,
        ),
        (
            "Duration of polls",
            "Of the last poll.",
            f"max by (org_id) (invent_poll_duration_seconds{{{ORG}}})",
            "s",
            CALM,
        ),
        (
            "Poll interval",
            "As it is now: it is stretched where a poll must walk all pages.",
            f"max by (org_id) (invent_poll_interval_seconds{{{ORG}}})",
            "s",
            CALM,
        ),
    )
    for index, (title, text, expr, unit, limits) in enumerate(panels):
        asked = query(expr, "{{org_id}}")
        board.with_panel(
            lines(title, text, Place(index * 6, 5, 6, 7), asked, unit=unit, limits=limits)
        )


def _api(board: dashboard.Dashboard) -> None:
    board.with_row(row("API", 12))
    board.with_panel(
        lines(
            "Requests",
            "By status code; `error` is no answer at all. The API takes 500 a minute from one "
            "address; of its own the exporter makes 300 at most.",
            Place(0, 13, 6, 8),
            query(f"sum by (code) ({rate('invent_api_requests_total', ORG)}) * 60", "{{code}}"),
            unit="rpm",
            stack=True,
            limits=((None, GREEN), (300, ORANGE), (500, RED)),
        )
    )
    board.with_panel(
        lines(
            "Duration of requests",
            "Of one try, body included.",
            Place(6, 13, 6, 8),
            *(
                query(quantile(share, "invent_api_request_duration_seconds", EXPORTER), name, ref)
                for share, name, ref in ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))
            ),
            unit="s",
        )
    )
    board.with_panel(
        lines(
            "Waiting",
            "Seconds in a second that requests waited for the rate limit or for Retry-After.",
            Place(12, 13, 6, 8),
            query(
                f"sum by (instance) ({rate('invent_api_throttled_seconds_total', EXPORTER)})",
                "{{instance}}",
            ),
            unit="percentunit",
            limits=WAITING_LIMITS,
        )
    )
    board.with_panel(
        lines(
            "Failed polls",
            "By reason.",
            Place(18, 13, 6, 8),
            query(f"sum by (reason) ({increase('invent_poll_errors_total', ORG)})", "{{reason}}"),
            unit="short",
            stack=True,
        )
    )


def _ledger(board: dashboard.Dashboard) -> None:
    board.with_row(row("Ledger", 21))
    kinds = ("recovered", "vanished", "revised")
    board.with_panel(
        lines(
            "Runs with a story",
            "Recovered: only a reconciliation found it. Vanished: it left the API unfinished. "
            "Revised: its status changed after it was counted.",
            Place(0, 22, 6, 8),
            *(
                query(f"sum({increase(f'invent_runs_{kind}_total', ORG)})", kind, ref)
                for kind, ref in zip(kinds, "ABC", strict=True)
            ),
            unit="short",
        )
    )
    board.with_panel(
        lines(
            "Invalid runs",
            "Runs that could not be read and were left out, by reason.",
            Place(6, 22, 6, 8),
            query(f"sum by (reason) ({increase('invent_runs_invalid_total', ORG)})", "{{reason}}"),
            unit="short",
            stack=True,
        )
    )
    board.with_panel(
        lines(
            "Time since the reconciliation",
            "The deeper look back for runs that polls missed.",
            Place(12, 22, 6, 8),
            query(
                "time() - max by (org_id)"
                f" (invent_reconcile_last_success_timestamp_seconds{{{ORG}}})",
                "{{org_id}}",
            ),
            unit="s",
            limits=((None, GREEN), (7200, RED)),
        )
    )
    board.with_panel(
        lines(
            "Workflows folded",
            "Workflows behind __other__: more than metrics.max_workflows.",
            Place(18, 22, 3, 8),
            query(f"max by (org_id) (invent_workflows_folded{{{ORG}}})", "{{org_id}}"),
            unit="short",
            limits=((None, GREEN), (1, ORANGE)),
        )
    )
    board.with_panel(
        lines(
            "Size of the ledger",
            "Of the state file, its write-ahead log included.",
            Place(21, 22, 3, 8),
            query(f"max by (instance) (invent_ledger_size_bytes{{{EXPORTER}}})", "{{instance}}"),
            unit="bytes",
        )
    )


def _process(board: dashboard.Dashboard) -> None:
    board.with_row(row("Process", 30))
    # process_* and scrape_* belong to every target: only those of exporters.
    ours = f" and on (job, instance) invent_exporter_build_info{{{JOB}}}"
    panels = (
        ("Memory", "Resident.", f"process_resident_memory_bytes{{{EXPORTER}}}", "bytes"),
        ("CPU", "Cores used.", rate("process_cpu_seconds_total", EXPORTER), "short"),
        (
            "Duration of scrapes",
            "As Prometheus sees it.",
            f"scrape_duration_seconds{{{EXPORTER}}}",
            "s",
        ),
        (
            "Samples in a scrape",
            "About 110 for each workflow.",
            f"scrape_samples_scraped{{{EXPORTER}}}",
            "short",
        ),
    )
    for index, (title, text, expr, unit) in enumerate(panels):
        board.with_panel(
            lines(
                title,
                text,
                Place(index * 6, 31, 6, 7),
                query(f"{expr}{ours}", "{{instance}}"),
                unit=unit,
            )
        )
