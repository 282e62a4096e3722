"""Panels that more than one dashboard has, each from the series that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana.frame import AGE_LIMITS
from grafana.panels import (
    FINAL_COLORS,
    KIND_COLORS,
    OPEN_COLORS,
    QUANTILE_COLORS,
    critical,
    lines,
    now,
    query,
    tile,
    warmth,
)
from grafana.queries import age_of_the_data, orgs_not_read, quantile, rise

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder

    from grafana.panels import Place

QUANTILES = ((0.5, "p50", "A"), (0.95, "p95", "B"), (0.99, "p99", "C"))


def orgs_not_read_tile(place: Place) -> Builder[Any]:
    """Count the orgs that are not read."""
    return tile(
        "Orgs not read",
        "Orgs whose last poll was not complete, or that no exporter serves any more. What happens "
        "to their runs is not seen, and sums here go on without them. Normal: 0.",
        place,
        now(orgs_not_read()),
        limits=critical(1),
    )


def age_tile(place: Place) -> Builder[Any]:
    """Show how old the oldest data is."""
    return tile(
        "Age of the data",
        "Time since the last complete poll, of the org that waits longest; it goes on rising when "
        "the exporter is gone. Normal: below two poll intervals, so a minute.",
        place,
        now(age_of_the_data()),
        unit="s",
        decimals=0,
        limits=AGE_LIMITS,
    )


def _dots(metric: str) -> tuple[bool, str]:
    """Return whether a metric has exemplars, and what is to be said of them."""
    if ":" in metric:
        return False, ""  # what a rule recorded
    return True, "Dots are runs: a data source with a link for run_id leads to them. "


def finished(place: Place, metric: str, selector: str) -> Builder[Any]:
    """Draw how many runs ended how, those that failed at the bottom."""
    has_dots, dots = _dots(metric)
    failed = f'{selector}, status="FAILED"'
    others = f'{selector}, status!="FAILED"'
    return lines(
        "Runs finished",
        "Runs by final status, in each step; failed ones stand at the bottom, where they are "
        f"compared at a glance. {dots}Normal: the usual rhythm, little or no red.",
        place,
        query(f"sum by (status) ({rise(metric, failed)})", "{{status}}").exemplar(has_dots),
        query(f"sum by (status) ({rise(metric, others)})", "{{status}}", "B"),
        bars=True,
        colors=FINAL_COLORS,
    )


def open_runs(place: Place, metric: str, selector: str) -> Builder[Any]:
    """Draw how many runs wait and run."""
    return lines(
        "Open runs",
        "Runs that wait (PENDING) or run, the most at once in each step; orgs that are not read "
        "are left out. Normal: PENDING near 0. A line of it that rises is a jammed queue.",
        place,
        query(
            f"max_over_time(sum by (status) ({metric}{{{selector}}})[$__interval:])", "{{status}}"
        ),
        steps=True,
        colors=OPEN_COLORS,
    )


def percentiles(
    title: str, text: str, place: Place, buckets: str, selector: str, *, unit: str = "s"
) -> Builder[Any]:
    """Draw percentiles of the last hour: enough runs that they mean something."""
    return lines(
        f"{title}, over an hour",
        text,
        place,
        *(
            query(quantile(share, buckets, selector), name, ref).interval_factor(1)
            for share, name, ref in QUANTILES
        ),
        unit=unit,
        log=True,
        colors=QUANTILE_COLORS,
    )


def durations(place: Place, buckets: str, selector: str) -> Builder[Any]:
    """Draw how many runs took how long."""
    has_dots, dots = _dots(buckets)
    return warmth(
        "Durations of runs",
        f"How many runs took how long, in each step. {dots}Normal: bands that stay where they "
        "are; one that climbs is a leak.",
        place,
        query(f"sum by (le) ({rise(buckets, selector)})", "{{le}}").exemplar(has_dots),
    )


def credits_by_kind(place: Place, metric: str, selector: str) -> Builder[Any]:
    """Draw what burned credits."""
    return lines(
        "Credits by kind",
        "What AI burned, and everything else, in each step. Normal: the usual rhythm.",
        place,
        query(f"sum by (kind) ({rise(metric, selector)})", "{{kind}}"),
        bars=True,
        fractions=True,
        colors=KIND_COLORS,
    )


def credits_wasted(place: Place, metric: str, selector: str) -> Builder[Any]:
    """Draw credits that bought nothing."""
    wasted = f'{selector}, status=~"FAILED|CANCELED"'
    return lines(
        "Credits wasted",
        "Credits of runs that FAILED or were CANCELED, in each step. Normal: little.",
        place,
        query(f"sum by (status) ({rise(metric, wasted)})", "{{status}}"),
        bars=True,
        fractions=True,
        colors={status: FINAL_COLORS[status] for status in ("FAILED", "CANCELED")},
    )
