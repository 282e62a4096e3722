"""A world's traffic is the seed's alone, and its truth is what was done to it."""

from __future__ import annotations

import itertools
import statistics

import msgspec
import pytest

from invent_exporter.simulator import Org, Usage, Workflow, World, demo_world, quiet_world
from invent_exporter.simulator.spoil import ODD_KINDS
from invent_exporter.simulator.truth import Credits, TrueRun
from tests.simulator.conftest import START, Clock

HOUR = 3600.0


@pytest.fixture
def quiet(clock: Clock) -> World:
    """Give a quiet world without a server."""
    return quiet_world(clock)


def test_traffic_does_not_depend_on_how_often_it_is_looked_at(clock: Clock) -> None:
    """Two worlds of one seed are equal after an hour in one step and in many; seeds differ."""
    once, often, other = (demo_world(seed, clock, history_seconds=HOUR) for seed in (1, 1, 2))
    for step in range(1, 361):
        often.advance(START + step * 10)
    clock.now = START + HOUR
    once.advance()
    other.advance()
    assert once.truth() == often.truth()
    assert {run.id for run in once.truth().runs}.isdisjoint(run.id for run in other.truth().runs)


def test_times_in_whole_seconds_and_an_odd_field_in_every_tenth_run(clock: Clock) -> None:
    """As coarse and as odd as real APIs are: each kind in turn, of the world's own runs."""
    world = World(1, clock, resolution_seconds=1.0, odd_every=10)
    world.add_org(Org(id="o", name="O", key="k"))
    world.add_workflow(
        Workflow(id="w", name="W", org_id="o", runs_per_hour=36_000, duration_seconds=2)
    )
    clock.now += HOUR / 6
    world.advance()
    runs = world.truth().runs
    kinds = [run.spoiled for run in runs if run.spoiled]
    assert len(kinds) == len(runs) // 10
    assert set(kinds) == set(ODD_KINDS)
    times = (time for run in runs for time in (run.created_at, run.started_at, run.ended_at))
    assert all(time % 1 == 0 for time in times if time is not None)


def test_the_demo_has_workflows_that_differ(clock: Clock) -> None:
    """A day of it shows each habit: flaky, stuck, costly, nightly, canceled, skipped, nameless."""
    runs = demo_world(3, clock).truth().runs

    def of(workflow_id: str | None) -> list[TrueRun]:
        return [run for run in runs if run.workflow_id == workflow_id]

    def median_seconds(workflow_id: str) -> float:
        times = ((run.started_at, run.ended_at) for run in of(workflow_id))
        return statistics.median(end - start for start, end in times if start and end)

    assert 1_000 < len(runs) < 5_000
    flaky = [run.status for run in of("wf-crm-sync") if run.finished]
    assert 0.2 < flaky.count("FAILED") / len(flaky) < 0.6
    (stuck,) = (
        run
        for run in of("wf-inventory-watch")
        if not run.finished and run.created_at < START - HOUR
    )
    assert stuck.status == "RUNNING"
    assert median_seconds("wf-address-check") < 0.2
    assert median_seconds("wf-nightly-export") > HOUR
    assert {run.status for run in of("wf-invoice-approval")} > {"CANCELED", "SKIPPED", "COMPLETED"}
    assert {run.origin for run in runs} == {"WORKFLOW", "WEBHOOK", "TRIGGER"}
    assert {run.org_id for run in runs} == {
        *("org-aurora", "org-aurora-labs", "org-aurora-retail", "org-aurora-kitchens"),
    }
    assert of(None)
    assert not of("wf-new-pricing")
    costly = [run.usages[-1] for run in of("wf-research-report") if run.usages]
    assert statistics.median(usage.ai + usage.other for usage in costly) > 20
    orders = [int(run.created_at % 86_400 // HOUR) for run in of("wf-order-intake")]
    assert sum(10 <= hour < 16 for hour in orders) > 5 * sum(hour < 6 for hour in orders)


def test_the_demo_goes_on_visibly(clock: Clock) -> None:
    """A run every few seconds, a failure each minute, a newcomer whose first run fails."""
    world = demo_world(3, clock)
    clock.now += HOUR
    world.advance()
    runs = [run for run in world.truth().runs if run.created_at > START]
    assert HOUR / 10 < len(runs) < HOUR
    failures = sorted(run.ended_at or 0.0 for run in runs if run.status == "FAILED")
    # The time of a run is added to the even minute of the arrivals.
    failures = [START, *failures, START + HOUR]
    assert max(late - early for early, late in itertools.pairwise(failures)) < 75
    newcomers = sorted(
        (run for run in runs if run.workflow_id == "wf-new-pricing"), key=lambda run: run.created_at
    )
    assert newcomers[0].created_at == pytest.approx(START + 90)
    assert newcomers[0].status == "FAILED"


def test_usage_can_come_late(clock: Clock) -> None:
    """The costly workflow's credits appear some time after its run ended."""
    world = demo_world(3, clock)
    late = [
        run
        for run in world.truth().runs
        if run.workflow_id == "wf-research-report" and run.status == "COMPLETED"
    ]
    assert all(run.usages for run in late if START - (run.ended_at or START) > 20)
    updated = world.get_run(late[0].id).updated_at
    assert updated == pytest.approx((late[0].ended_at or 0) + 20, abs=0.01)


def test_traffic_stands_still_while_it_is_switched_off(clock: Clock) -> None:
    """Nothing happens in a pause, and everything after it is put off by its length."""
    paused, straight = (demo_world(1, clock, history_seconds=HOUR) for _ in range(2))
    paused.automatic = False
    before = paused.truth()
    clock.now += HOUR
    paused.advance()
    assert paused.truth().runs == before.runs
    paused.automatic = True
    straight.advance(START + 60)
    clock.now += 60
    paused.advance()
    assert [run.id for run in paused.truth().runs] == [run.id for run in straight.truth().runs]
    assert paused.truth().runs[-1].created_at == pytest.approx(
        straight.truth().runs[-1].created_at + HOUR, abs=0.002
    )


def test_the_truth_follows_a_run_by_hand(quiet: World, clock: Clock) -> None:
    """Start, end, credits and revisions; the first final status is the one that counts."""
    run_id = quiet.add_run(origin="TRIGGER", workflow_id="w")
    clock.now += 2
    quiet.start_run(run_id)
    clock.now += 3
    quiet.finish_run(run_id, "FAILED", usage=Usage(5.0, 2.0), error="boom")
    clock.now += 1
    quiet.finish_run(run_id, "COMPLETED")
    quiet.revise_usage(run_id, Usage(4.0, 3.0))

    truth = quiet.truth()

    (run,) = truth.runs
    assert (run.status, run.status_now, run.finished) == ("FAILED", "COMPLETED", True)
    assert (run.started_at, run.ended_at) == (START + 2, START + 5)
    assert run.usages == (Credits(ai=2.0, other=3.0), Credits(ai=3.0, other=1.0))
    (group,) = truth.finished
    assert (group.finished, group.credits_ai, group.credits_other) == (1, 3.0, 1.0)
    assert group.durations == (3.0,)
    assert truth.finished_counts == {("org-main", "w", "TRIGGER", "FAILED"): 1}
    assert truth.submitted[0].submitted == 1


def test_the_truth_since_a_contact(quiet: World, clock: Clock) -> None:
    """What was final at the contact is history; what was open counts, but was not submitted."""
    quiet.add_run(status="COMPLETED", workflow_id="history")
    opened = quiet.add_run(workflow_id="open")
    clock.now += 10
    contact = clock.now
    clock.now += 10
    quiet.finish_run(opened)
    quiet.add_run(status="SKIPPED", workflow_id="new")

    truth = quiet.truth(contact)

    assert {group.workflow_id for group in truth.finished} == {"open", "new"}
    assert {group.workflow_id for group in truth.submitted} == {"new"}
    assert {group.workflow_id for group in quiet.truth().finished} == {"history", "open", "new"}


def test_a_run_that_is_said_to_have_ended_earlier_was_open_until_now(
    quiet: World, clock: Clock
) -> None:
    """`ended_at` is what the listing says; when it became final is the world's own clock."""
    run_id = quiet.add_run()
    clock.now += 100
    quiet.finish_run(run_id, at=START + 1)
    assert quiet.truth(START + 50).finished
    assert not quiet.truth(START + 100).finished


def test_hidden_and_removed_runs_in_the_truth(quiet: World) -> None:
    """Hidden runs are in no sum until they are shown; removed ones are remembered."""
    hidden = quiet.add_run(status="COMPLETED", hidden=True)
    removed = quiet.add_run(status="COMPLETED")
    quiet.remove_run(removed)
    truth = quiet.truth()
    assert {run.id: run.state for run in truth.runs} == {hidden: "hidden", removed: "removed"}
    assert sum(truth.finished_counts.values()) == 1
    quiet.show_run(hidden)
    assert sum(quiet.truth().finished_counts.values()) == 2


def test_mistakes_of_a_test_are_errors(quiet: World) -> None:
    """An id twice, a run that is not there, and an end that is none."""
    quiet.add_run(run_id="r")
    with pytest.raises(ValueError, match="'r' already"):
        quiet.add_run(run_id="r")
    with pytest.raises(ValueError, match="RUNNING is not a final status"):
        quiet.finish_run("r", "RUNNING")
    with pytest.raises(KeyError):
        quiet.start_run("nobody")


def test_runs_cost_their_org_credits(clock: Clock) -> None:
    """Promotional ones go first, the cap fills, revisions count as well; the past costs nothing."""
    world = quiet_world(clock)
    sub = Org(id="org-sub", name="Sub", key="key-sub", parent="org-main", balance=10.0)
    sub = msgspec.structs.replace(sub, promo_balance=3.0, spending_cap=100.0)
    world.add_org(sub)
    run_id = world.add_run(org_id="org-sub", status="RUNNING")
    world.finish_run(run_id, usage=Usage(5.0, 1.0))
    world.revise_usage(run_id, Usage(6.0, 1.0))
    old = world.add_run(org_id="org-sub", status="RUNNING", created_at=START - HOUR)
    world.finish_run(old, usage=Usage(7.0, 1.0), at=START - HOUR)
    now = world.find_org("org-sub")
    assert now is not None
    assert (now.promo_balance, now.balance, now.spending_cap_used) == (0.0, 7.0, 6.0)
    world.add_org(msgspec.structs.replace(now, use_parent_balance=True))
    world.revise_usage(run_id, Usage(8.0, 1.0))
    main, now = world.find_org("org-main"), world.find_org("org-sub")
    assert main is not None
    assert now is not None
    assert (main.balance, now.balance, now.spending_cap_used) == (998.0, 7.0, 8.0)
