"""How polls share a request limit that is too low for all of them."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from invent_exporter.collector.demand import ORDINARY_REQUESTS, Demand


def test_what_the_limit_can_not_serve_in_time_is_stretched_evenly_and_said_once() -> None:
    """Polls get what lasts, less what reconciliations may take: 210 requests of 300 a minute."""
    demand = Demand(300)
    with capture_logs() as lines:
        stretches = [demand.note(f"org-{number}", 1, 30.0) for number in range(240)]
        assert stretches[:105] == [1.0] * 105
        assert stretches[-1] == pytest.approx(480 / 210)
        assert demand.note("org-0", 1, 30.0) == pytest.approx(480 / 210)
        assert [line["log_level"] for line in lines] == ["warning"]
        for number in range(110, 240):
            demand.forget(f"org-{number}")
        assert demand.note("org-0", 1, 30.0) > 1  # it may fall for a moment only
        assert len(lines) == 1
        for number in range(80, 110):
            demand.forget(f"org-{number}")
        assert demand.note("org-0", 1, 30.0) == 1.0
        assert [line["log_level"] for line in lines] == ["warning", "info"]
    demand.apply(60)
    assert demand.note("org-0", 1, 30.0) == pytest.approx(80 * 2 / 42)


def test_an_org_that_catches_up_stretches_nobodys_interval() -> None:
    """It takes what is left, and counts as one whose poll has what any may need."""
    demand = Demand(300)
    demand.note("idle", 1, 30.0)
    assert demand.note("busy", 1000, 30.0) == 1.0
    few = Demand(10)
    many = Demand(10)
    assert few.note("org", ORDINARY_REQUESTS, 1.0) == many.note("org", 1000, 1.0) > 1
