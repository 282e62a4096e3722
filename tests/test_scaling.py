"""The replica in virtual time, by whose numbers fleets are planned, does what a real one does."""

from __future__ import annotations

from bench.scaling import Case, Fleet, fitting_orgs, simulate

FLEET = Fleet(orgs=6, runs_per_second=0.6, workflows=2, requests_per_minute=100.0)


def test_a_replica_in_virtual_time_counts_each_run_within_a_poll() -> None:
    """All but those that ended since their org's last poll, or before the time that is told of."""
    seen = simulate(FLEET, Case("", 15.0, 3, reconcile_interval_seconds=1e6), 60.0)
    assert seen.failed_polls == 0
    assert min(seen.lags) > 0
    assert max(seen.lags) < 20
    assert abs(len(seen.lags) - seen.ended) <= 20 * 0.3 * 3
    assert 14.9 < seen.interval_seconds < 16
    assert seen.writes.rows > len(seen.lags)
    assert seen.samples > 3 * 2 * 100


def test_orgs_beyond_those_that_fit_are_polled_as_often_as_the_limit_allows() -> None:
    """The arithmetic of what fits is what the limiter lets through."""
    fits = fitting_orgs(FLEET, 10.0)
    seen = simulate(FLEET, Case("", 10.0, 3 * fits, reconcile_interval_seconds=1e6), 60.0)
    assert seen.interval_seconds > 15
    assert 0.6 * FLEET.requests_per_minute < seen.requests_per_minute <= FLEET.requests_per_minute
