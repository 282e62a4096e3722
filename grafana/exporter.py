"""Show whether the exporter is well, and what it asks of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.frame import EXPORTERS, ORG_LINK, instance, job, mark_restarts, org, start
from grafana.panels import (
    BLUE,
    NOTHING,
    PURPLE,
    QUANTILE_COLORS,
    RED,
    YELLOW,
    Column,
    Place,
    State,
    critical,
    lines,
    listing,
    now,
    query,
    row,
    rows,
    states,
    tile,
    warning,
    worst,
)
from grafana.parts import age_tile, orgs_not_read_tile
from grafana.queries import (
    BY_ORG,
    EXPORTER,
    JOB,
    ON_ORG,
    ORG,
    THRESHOLDS,
    increase,
    last_of_orgs,
    limit,
    org_named,
    quantile,
    rate,
    rise,
    rise_by,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import dashboard


def build() -> dashboard.Dashboard:
    """Build the dashboard."""
    board = start(
        EXPORTERS,
        "Invent / Exporter",
        "For whoever runs the exporter: is every org read, what does the API answer, and is the "
        "process well?",
        [job(), instance(), org()],
    )
    mark_restarts(board)
    _tiles(board)
    _orgs(board)
    _api(board)
    board.with_row(_ledger(21))
    board.with_row(_replicas(22))
    board.with_row(_process(23))
    return board


def _tiles(board: dashboard.Dashboard) -> None:
    # `up` belongs to every target: only those that were seen to be exporters.
    window = THRESHOLDS["org_vanished_window"]
    known = f"last_over_time(invent_exporter_build_info{{{EXPORTER}}}[{window}])"
    throttled = rate("invent_api_throttled_seconds_total", EXPORTER, "10m")
    board.with_panel(
        tile(
            "Instances down",
            "Instances that Prometheus does not reach, of those that were exporters in the last "
            f"{window}. Normal: 0.",
            Place(0, 0, 3, 3),
            now(f"sum((up{{{EXPORTER}}} == bool 0) and on (job, instance) {known})"),
            limits=critical(1),
        )
    )
    busiest = f"max by (job) (invent_replica_orgs{{{EXPORTER}}})"
    board.with_panel(
        tile(
            "Idle replicas",
            "Instances that serve no org while another serves "
            f"{limit('replica_idle_min_orgs'):g} or more: they would take none over. Normal: 0.",
            Place(3, 0, 3, 3),
            now(
                f"sum((invent_replica_orgs{{{EXPORTER}}} == bool 0) and on (job)"
                f" {busiest} >= {limit('replica_idle_min_orgs'):g})"
                f" or 0 * count(invent_replica_orgs{{{EXPORTER}}})"
            ),
            limits=warning(1),
        )
    )
    board.with_panel(orgs_not_read_tile(Place(6, 0, 3, 3)))
    board.with_panel(age_tile(Place(9, 0, 3, 3)))
    board.with_panel(
        tile(
            "Failed polls, last hour",
            "Polls that were not complete. Normal: 0, or few: each is made up for by the next.",
            Place(12, 0, 4, 3),
            now(f"round(sum({increase('invent_poll_errors_total', ORG, '1h')}))"),
        )
    )
    board.with_panel(
        tile(
            "Throttled, 10 minutes",
            "Share of the time that requests waited for the own rate limit or for Retry-After, "
            "above 100 % when several wait at once. Normal: 0 %.",
            Place(16, 0, 4, 3),
            now(f"sum({throttled})"),
            unit="percentunit",
            decimals=0,
            limits=warning(0.5),
        )
    )
    board.with_panel(
        tile(
            "Version",
            "Of the exporters that run. Normal: one.",
            Place(20, 0, 4, 3),
            now(f"group by (version) (invent_exporter_build_info{{{EXPORTER}}})", "{{version}}"),
            names_only=True,
        )
    )


def _orgs(board: dashboard.Dashboard) -> None:
    up = f"max {BY_ORG} (invent_up{{{ORG}}})"
    least = f"bottomk(12, max {BY_ORG} (avg_over_time(invent_up{{{ORG}}}[$__range] @ end())))"
    last = last_of_orgs("invent_poll_last_success_timestamp_seconds", "1d")
    board.with_row(row("Orgs", 3))
    board.with_panel(
        states(
            "Read or not",
            "Whether the last poll of an org was complete: the twelve orgs that were read least in "
            "the chosen time. Normal: blue from end to end. A gap is a time without any sample.",
            Place(0, 4, 9, 8),
            query(org_named(f"{up} and {ON_ORG} {least}"), "{{org_name}}"),
            {"0": State("not read", RED), "1": State("read", BLUE)},
        )
    )
    board.with_panel(
        worst(
            "Oldest data",
            "Time since the last complete poll, the ten orgs that wait longest. Normal: below two "
            "poll intervals, so a minute.",
            Place(9, 4, 5, 8),
            now(org_named(f"topk(10, time() - {last})"), "{{org_name}}"),
            unit="s",
            limits=critical(limit("poll_stale_seconds")),
            most=limit("poll_stale_seconds"),
        )
    )
    interval = f"max {BY_ORG} (invent_poll_interval_seconds{{{ORG}}})"
    took = f"max {BY_ORG} (invent_poll_duration_seconds{{{ORG}}})"
    board.with_panel(
        worst(
            "Longest polls",
            "How much of its interval the last poll took, the ten orgs with the most. Normal: a "
            "few percent.",
            Place(14, 4, 5, 8),
            now(org_named(f"topk(10, {took} / {interval})"), "{{org_name}}"),
            unit="percentunit",
            limits=warning(1),
            most=1,
        )
    )
    board.with_panel(
        worst(
            "Longest intervals",
            "Time from one poll to the next, the ten orgs with the most. It is stretched where the "
            "rate limit can't serve all orgs in time, or a poll must walk all pages. Normal: "
            "poll_interval, 30 seconds by default.",
            Place(19, 4, 5, 8),
            now(org_named(f"topk(10, {interval})"), "{{org_name}}"),
            unit="s",
            limits=warning(limit("poll_interval_max_seconds")),
            most=limit("poll_interval_max_seconds"),
        )
    )


def _api(board: dashboard.Dashboard) -> None:
    board.with_row(row("API", 12))
    asked = "invent_api_requests_total"
    not_ok, ok = f'{ORG}, code!="200"', f'{ORG}, code="200"'
    board.with_panel(
        lines(
            "Requests a minute",
            "By status code, what is not 200 at the bottom; `error` is no answer at all. Normal: "
            "even, all 200, and below 300: what the exporter allows itself. The API takes 500 a "
            "minute from one address.",
            Place(0, 13, 6, 8),
            query(f"60 * sum by (code) ({rate(asked, not_ok)})", "{{code}}"),
            query(f"60 * sum by (code) ({rate(asked, ok)})", "{{code}}", "B"),
            unit="reqpm",
            area=True,
            colors={"200": BLUE, "429": YELLOW, "error": RED, "401": RED, "503": PURPLE},
        )
    )
    buckets = "invent_api_request_duration_seconds_bucket"
    board.with_panel(
        lines(
            "Duration of requests",
            "Of one try, body included, over 10 minutes. Normal: level, and below a second.",
            Place(6, 13, 6, 8),
            *(
                query(quantile(share, buckets, EXPORTER, "10m"), name, ref)
                for share, name, ref in ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))
            ),
            unit="s",
            log=True,
            colors=QUANTILE_COLORS,
        )
    )
    board.with_panel(
        lines(
            "Throttled",
            "Share of the time that requests waited for the rate limit or for Retry-After, all "
            "instances. Normal: 0 %.",
            Place(12, 13, 6, 8),
            query(f"sum({rate('invent_api_throttled_seconds_total', EXPORTER)})", "waiting"),
            unit="percentunit",
        )
    )
    board.with_panel(
        lines(
            "Failed polls",
            "By reason, in each step. Normal: none, or single ones.",
            Place(18, 13, 6, 8),
            query(rise_by("reason", "invent_poll_errors_total", ORG), "{{reason}}"),
            bars=True,
            shades=RED,
            empty="No failed poll is known",
        )
    )


def _ledger(y: int) -> dashboard.Row:
    kinds = ("recovered", "vanished", "revised")
    reconciled = last_of_orgs("invent_reconcile_last_success_timestamp_seconds", "1d")
    return row(
        "Ledger",
        y,
        [
            lines(
                "Runs with a story",
                "Recovered: only a reconciliation found it. Vanished: it left the API unfinished. "
                "Revised: its status changed after it was counted. Normal: none, or few.",
                Place(0, y + 1, 5, 8),
                *(
                    query(f"sum({rise(f'invent_runs_{kind}_total', ORG)})", kind, ref)
                    for kind, ref in zip(kinds, "ABC", strict=True)
                ),
                bars=True,
                colors={"recovered": BLUE, "vanished": YELLOW, "revised": PURPLE},
            ),
            lines(
                "Invalid runs",
                "Runs that could not be read and were left out, by reason. Normal: none.",
                Place(5, y + 1, 5, 8),
                query(rise_by("reason", "invent_runs_invalid_total", ORG), "{{reason}}"),
                bars=True,
                shades=RED,
                empty="No invalid run is known",
            ),
            lines(
                "Unreadable fields",
                "Fields of runs that could not be read, by field; the runs count without them. "
                "Normal: none.",
                Place(10, y + 1, 5, 8),
                query(rise_by("field", "invent_run_fields_unreadable_total", ORG), "{{field}}"),
                bars=True,
                shades=YELLOW,
                empty="No unreadable field is known",
            ),
            worst(
                "Time since the reconciliation",
                "The deeper look back for runs that polls missed, the ten orgs that wait longest. "
                "Normal: below reconcile_interval, 15 minutes by default, and a little.",
                Place(15, y + 1, 5, 8),
                now(org_named(f"topk(10, time() - {reconciled})"), "{{org_name}}"),
                unit="s",
                limits=warning(limit("reconcile_stale_seconds")),
                most=limit("reconcile_stale_seconds"),
            ),
            tile(
                "Workflows folded",
                "Workflows behind __other__: more than metrics.max_workflows, or than "
                "metrics.max_exposition has room for. Normal: 0.",
                Place(20, y + 1, 4, 3),
                now(f"sum(max {BY_ORG} (invent_workflows_folded{{{ORG}}}))"),
                limits=warning(1),
            ),
            lines(
                "Size of the ledger",
                "Of the state file, its write-ahead log included. Normal: it grows for as long as "
                "ids are kept, then stays.",
                Place(20, y + 4, 4, 5),
                query(
                    f"max by (instance) (invent_ledger_size_bytes{{{EXPORTER}}})", "{{instance}}"
                ),
                unit="bytes",
            ),
        ],
    )


def _replicas(y: int) -> dashboard.Row:
    by_both = "by (job, org_id, instance)"
    # One whose leases ran out goes on to fail polls of orgs that others may serve by now.
    serves = f"and on (job, instance) invent_replica_orgs{{{EXPORTER}}} > 0"
    return row(
        "Replicas",
        y,
        [
            lines(
                "Orgs by replica",
                "How many orgs each instance serves. Normal: all together level, and the same for "
                "each; a replica that goes or comes moves the shares, not the sum.",
                Place(0, y + 1, 7, 9),
                query(f"sum by (instance) (invent_replica_orgs{{{EXPORTER}}})", "{{instance}}"),
                area=True,
            ),
            lines(
                "Leases lost, by replica",
                "Leases that others took over because they were not renewed in time, in each step. "
                "Normal: none. A replica that ends by itself loses none.",
                Place(7, y + 1, 7, 9),
                query(
                    f"sum by (instance) ({rise('invent_leases_lost_total', EXPORTER)})",
                    "{{instance}}",
                ),
                bars=True,
                shades=YELLOW,
            ),
            listing(
                "Who serves what",
                "Each org, the instance that serves it now, and how it reads it. Normal: each org "
                "once, and read.",
                Place(14, y + 1, 10, 9),
                [
                    rows(org_named(f"max {by_both} ({metric}{{{ORG}}}) {serves}"), ref)
                    for metric, ref in (("invent_up", "B"), ("invent_poll_interval_seconds", "C"))
                ],
                [
                    Column("org_name", "Org", link=ORG_LINK),
                    Column("instance", "Served by"),
                    Column(
                        "Value #B",
                        "Read",
                        states={"0": State("not read", RED), "1": State("read", NOTHING)},
                        width=85,
                    ),
                    Column("Value #C", "Interval", "s", width=85),
                ],
                sort={"Read": False, "Org": False},
                empty="No org is served",
            ),
        ],
    )


def _process(y: int) -> dashboard.Row:
    # process_* and scrape_* belong to every target: only those of exporters.
    ours = f" and on (job, instance) invent_exporter_build_info{{{JOB}}}"
    panels = (
        (
            "Memory",
            "Resident. Normal: level.",
            f"process_resident_memory_bytes{{{EXPORTER}}}",
            "bytes",
        ),
        (
            "CPU",
            "Cores used. Normal: a small part of one.",
            rate("process_cpu_seconds_total", EXPORTER),
            "none",
        ),
        (
            "Duration of scrapes",
            "As Prometheus sees it. Normal: far below the scrape timeout.",
            f"scrape_duration_seconds{{{EXPORTER}}}",
            "s",
        ),
        (
            "Samples in a scrape",
            "126 for each workflow, and a few. Normal: level.",
            f"scrape_samples_scraped{{{EXPORTER}}}",
            "short",
        ),
    )
    return row(
        "Process",
        y,
        [
            lines(
                title,
                text,
                Place(index * 6, y + 1, 6, 7),
                query(f"{expr}{ours}", "{{instance}}"),
                unit=unit,
            )
            for index, (title, text, expr, unit) in enumerate(panels)
        ],
    )
