"""What one run adds to the series of its workflow, and how buckets change (contract 5)."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from invent_exporter.ledger.counts import Bounds, Histogram, WorkflowCounts
from tests.proof.runs import BOUNDS, NOW, run

bounds_of_any_kind = st.lists(
    st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 3600.0]), min_size=1, unique=True
).map(lambda bounds: tuple(sorted(bounds)))


def cumulative(histogram: Histogram) -> dict[float, int]:
    """Show a histogram as it is served."""
    bounds = [*histogram.bounds, float("inf")]
    return dict(zip(bounds, accumulate(histogram.counts), strict=True))


def test_a_value_on_a_bound_is_below_it() -> None:
    """`le` means less or equal."""
    histogram = Histogram.empty((1.0, 10.0))
    for value in (0.0, 1.0, 1.5, 10.0, 11.0):
        histogram.observe(value, "run", None)
    assert cumulative(histogram) == {1.0: 2, 10.0: 4, float("inf"): 5}
    assert histogram.total == 23.5


def test_a_new_bound_starts_at_the_largest_old_one_at_or_below_it() -> None:
    """The contract's rule; a bound below all old ones starts at 0."""
    histogram = Histogram.empty((1.0, 10.0, 60.0))
    for value in (0.5, 5.0, 5.0, 30.0, 100.0):
        histogram.observe(value, "run", None)
    moved = histogram.rebucket((0.5, 10.0, 20.0, 600.0))
    assert cumulative(moved) == {0.5: 0, 10.0: 3, 20.0: 3, 600.0: 4, float("inf"): 5}
    assert moved.total == histogram.total


@given(
    old=bounds_of_any_kind,
    new=bounds_of_any_kind,
    values=st.lists(st.floats(0, 5000, allow_nan=False), max_size=30),
)
def test_no_bound_goes_back_and_none_overtakes_the_next(
    old: tuple[float, ...], new: tuple[float, ...], values: list[float]
) -> None:
    """Whatever the change: kept bounds keep their count, and all stay in order."""
    histogram = Histogram.empty(old)
    for value in values:
        histogram.observe(value, "run", None)
    before, after = cumulative(histogram), cumulative(histogram.rebucket(new))
    assert all(after[bound] == before[bound] for bound in after if bound in before)
    assert list(after.values()) == sorted(after.values())


def test_exemplars_move_to_the_bucket_of_their_value() -> None:
    """An exemplar must lie within its bucket; of two the newest stays."""
    histogram = Histogram.empty((1.0, 10.0))
    histogram.observe(0.5, "old", 1.0)
    histogram.observe(5.0, "new", 2.0)
    moved = histogram.rebucket((20.0,))
    assert [exemplar.run_id for exemplar in moved.exemplars.values()] == ["new"]
    assert list(moved.exemplars) == [0]


def test_the_exemplar_is_the_newest_run() -> None:
    """By the time at which it ended, not at which it was seen."""
    counts = WorkflowCounts.empty(BOUNDS)
    counts.finish(run("newest", ended=9.0))
    counts.finish(run("older", ended=5.0))
    assert counts.finished_exemplars["TRIGGER/COMPLETED"].run_id == "newest"


def test_changed_bounds_are_told_and_the_same_ones_are_not() -> None:
    """Only what changed is written."""
    counts = WorkflowCounts.empty(BOUNDS)
    assert not counts.rebucket(BOUNDS)
    assert counts.rebucket(Bounds((1.0,), (1.0,), (1.0,)))


def test_late_series_are_groups_of_their_own() -> None:
    """The base is born whole; UNKNOWN and steps come later and are held by themselves."""
    counts = WorkflowCounts.empty(BOUNDS)
    assert counts.unreleased() == [""]
    counts.released = [""]
    counts.finish(run())
    assert counts.unreleased() == []
    counts.submit(run(origin="MANUAL"))
    counts.finish(run(status="ARCHIVED"))
    counts.spend_step("a", 1.0)
    assert set(counts.unreleased()) == {
        "submitted:UNKNOWN",
        "finished:TRIGGER/UNKNOWN",
        "step:a",
    }


def test_the_last_result_is_the_newest() -> None:
    """By status; an older one that turns up later changes nothing."""
    counts = WorkflowCounts.empty(BOUNDS)
    counts.conclude(run("a", ended=9.0))
    counts.conclude(run("b", ended=5.0))
    counts.conclude(run("c", "SKIPPED", ended=None, updated=7.0))
    assert counts.last_finished == {"COMPLETED": NOW + 9, "SKIPPED": NOW + 7}
