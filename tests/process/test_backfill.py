"""The command `backfill` as users run it: against the simulated API, beside a running `serve`."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from invent_exporter.commands.backfill import backfill as run_backfill
from invent_exporter.commands.backfill_plan import Plan
from invent_exporter.commands.backfill_spool import Spool
from invent_exporter.config.load import load_config
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Fault, Order, SimulatorServer, Usage
from invent_exporter.simulator.truth import TrueRun, Truth
from tests.commands.backfilling import (
    DAY,
    HOUR,
    TARGET,
    Past,
    add_past,
    arguments,
    backfill,
    grew,
    samples_of,
)
from tests.effort import cases
from tests.process.expected import expected_of
from tests.process.harness import (
    ROOT,
    Exporter,
    Labels,
    clean_environment,
    make_config,
    run_command,
    wait_for,
)
from tests.process.traffic import quiet_api

SUBMITTED = "invent_runs_submitted_total"
OF_ENDED = (
    "invent_runs_finished_total",
    "invent_credits_total",
    "invent_run_credits_count",
    "invent_run_duration_seconds_count",
    "invent_run_duration_seconds_sum",
    "invent_run_duration_seconds_bucket",
    "invent_run_queue_seconds_count",
    "invent_run_queue_seconds_sum",
)


def expected(runs: list[TrueRun], name: str) -> dict[Labels, float]:
    """Sum runs up as one series each, without those that are 0."""
    truth = Truth(at=0, since=None, finished=(), submitted=(), runs=tuple(runs))
    return {
        labels: pytest.approx(value)  # type: ignore[misc]
        for (of, labels), value in expected_of(truth).items()
        if of == name and value
    }


def differences(past: Past, runs: list[TrueRun], period: float, periods: int) -> list[str]:
    """Compare what each series grew by in each period with the runs that ended, or came, then."""
    end = max(at for samples in past.values() for at, _ in samples)
    last = end // period * period
    different = []
    for since in (last - number * period for number in range(periods + 1)):
        until = min(since + period, end)  # what ended later is no past
        ended = [run for run in runs if run.ended_at and since < run.ended_at <= until]
        came = [run for run in runs if since < run.created_at <= until]
        for name, chosen in (*((name, ended) for name in OF_ENDED), (SUBMITTED, came)):
            if grew(past, name, since, until) != expected(chosen, name):
                different.append(f"{name} from {since}")
    return different


@pytest.mark.parametrize("order", cases(get_args(Order), quick=["created", "mixed"]))
def test_each_hour_has_the_runs_that_ended_in_it(tmp_path: Path, order: Order) -> None:
    """Whatever the order of the listing: counts, credits, durations, queue times, submissions."""
    with quiet_api(order) as simulator:
        add_past(simulator.world, runs=600, seconds=5 * HOUR)
        past = samples_of(backfill(simulator.url, tmp_path, "--since=1d"))
        assert differences(past, list(simulator.world.truth().runs), HOUR, 9) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om"]


def test_what_ended_before_the_window_is_not_in_it(tmp_path: Path) -> None:
    """By the end, not by the beginning: a run of long ago that ended yesterday is."""
    with quiet_api() as simulator:
        world, now = simulator.world, simulator.world.clock()
        for ended, name in ((now - 3 * DAY, "wf-before"), (now - DAY / 2, "wf-within")):
            world.add_run(
                workflow_id=name, status="FAILED", created_at=now - 9 * DAY, ended_at=ended
            )
        past = samples_of(backfill(simulator.url, tmp_path, "--since=1d"))
    finished = grew(past, "invent_runs_finished_total", 0, now + DAY)
    assert {dict(labels)["workflow_id"] for labels in finished} == {"wf-old", "wf-within"}
    assert {dict(labels)["workflow_id"] for labels in grew(past, SUBMITTED, 0, now + DAY)} == {
        "wf-old"
    }


def test_names_labels_and_types_are_those_of_metrics(tmp_path: Path) -> None:
    """Every series of the past is one of /metrics, and each family has the same header.

    The last moment alone is read by a parser that holds the format's rules.
    """
    with quiet_api() as simulator:
        add_past(simulator.world, runs=200, seconds=HOUR)
        config = make_config(simulator.url, tmp_path, lookback="30d", state={"url": "sqlite://"})
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            live = exporter.get("/metrics", accept="application/openmetrics-text").text
        text = backfill(simulator.url, tmp_path, "--since=1d", state={"url": "sqlite://"})
    past = samples_of(text)
    served = set(exporter_series(live))
    assert set(past) - served == {key for key in past if key[0] == "invent_workflow_info"} - served
    names = {name for name, _ in past}
    assert names == {
        *OF_ENDED,
        SUBMITTED,
        *("invent_run_queue_seconds_bucket", "invent_run_credits_bucket", "invent_run_credits_sum"),
        "invent_workflow_last_finished_timestamp_seconds",
        "invent_workflow_consecutive_failures",
        *("invent_workflow_info", "invent_org_info"),
    }
    of_workflows = {key for key in served if key[0] in names} - set(past)
    assert {name for name, _ in of_workflows} <= {"invent_workflow_info"}
    headers = [line for line in text.splitlines() if line.startswith("# ")]
    assert headers[-1] == "# EOF"
    assert set(headers) <= set(live.splitlines())
    end = max(at for samples in past.values() for at, _ in samples)
    ending = f" {str(end).removesuffix('.0')}"
    last = [line for line in text.splitlines() if line.startswith("#") or line.endswith(ending)]
    assert len(list(text_string_to_metric_families("\n".join(last) + "\n"))) == len(headers) // 2  # type: ignore[no-untyped-call]


def exporter_series(text: str) -> list[tuple[str, Labels]]:
    """List the series of a scrape."""
    return [
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    ]


def test_over_the_seam_nothing_is_lost_and_nothing_added(tmp_path: Path) -> None:
    """The past and the live counters together have each run once, while `serve` runs.

    Also once the ledger has forgotten what it counted: the time of contact tells.
    """
    with quiet_api() as simulator:
        world = simulator.world
        add_past(world, runs=150, seconds=HOUR)
        before = world.clock() - 10
        open_runs = [
            world.add_run(status="RUNNING", workflow_id="wf-a", created_at=before - 60)
            for _ in range(3)
        ]
        with Exporter(tmp_path, make_config(simulator.url, tmp_path)) as exporter:
            exporter.wait_until_up()
            world.finish_run(open_runs[0], "FAILED", usage=Usage(2.0, 1.0))
            world.finish_run(open_runs[1], at=before)
            for number in range(5):
                world.add_run(workflow_id=f"wf-new-{number % 2}", status="COMPLETED")
            exporter.wait_for(
                "all are counted",
                lambda samples: samples.total("invent_runs_finished_total") == 7,
            )
            files = {path.name for path in tmp_path.iterdir()}
            text = backfill(simulator.url, tmp_path, "--since=1d")
            assert {path.name for path in tmp_path.iterdir()} - files == {"history.om"}
            live = exporter.scrape(openmetrics=True)
            assert exporter.stop() == 0
        runs = list(world.truth().runs)
        assert sums(samples_of(text), live) == {
            name: expected([run for run in runs if run.finished], name) for name in OF_ENDED
        }
        submitted = sums(samples_of(text), live, SUBMITTED)[SUBMITTED]
        assert submitted == expected(runs, SUBMITTED)
        with closing(sqlite3.connect(tmp_path / "state.db")) as state:
            state.execute("DELETE FROM run WHERE final = 1")
            state.commit()
        (tmp_path / "history.om").unlink()
        again = samples_of(backfill(simulator.url, tmp_path, "--since=1d"))
    pruned = Counter(dict(run_counts(again)))
    known = Counter(dict(run_counts(samples_of(text))))
    # But for the one that had ended, by its times, before it was seen open at contact.
    assert (pruned - known).total() == 1
    assert known - pruned == Counter()


def run_counts(past: Past) -> dict[Labels, int]:
    """Tell the last value of each series of finished runs."""
    return {
        labels: int(samples[-1][1])
        for (name, labels), samples in past.items()
        if name == "invent_runs_finished_total"
    }


def sums(
    past: Past, live: Mapping[tuple[str, Labels], float], *names: str
) -> dict[str, dict[Labels, float]]:
    """Add up what a series of counters has at the end of the past, and live."""
    found: dict[str, dict[Labels, float]] = {}
    for name in names or OF_ENDED:
        total: Counter[Labels] = Counter()
        for (of, labels), samples in past.items():
            if of == name:
                total[labels] += samples[-1][1]  # type: ignore[assignment]
        for (of, labels), value in live.items():
            if of == name:
                total[labels] += value  # type: ignore[assignment]
        found[name] = {labels: value for labels, value in total.items() if value}
    return found


def test_a_break_and_going_on_make_the_same_file(tmp_path: Path) -> None:
    """Killed while it reads, it goes on where it was, and reads no page again but one."""
    with quiet_api() as simulator:
        add_past(simulator.world, runs=400, seconds=HOUR)
        with Exporter(tmp_path, make_config(simulator.url, tmp_path)) as exporter:
            exporter.wait_until_up()  # so that both have the same end
            assert exporter.stop() == 0
        broken, whole = tmp_path / "broken", tmp_path / "whole"
        for folder in (broken, whole):
            folder.mkdir()
        config = {**make_config(simulator.url, tmp_path), "api": api_of(simulator, page_size=10)}
        command = arguments(simulator.url, broken, "--since=1d", **config)
        simulator.forget_requests()
        simulator.add_faults(Fault(kind="slow", seconds=60, skip=25))
        process = subprocess.Popen(
            [sys.executable, ROOT / "exporter.py", *command],
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for("it is in the middle", lambda: len(simulator.requests) > 25)
        finally:
            process.kill()
            process.wait()
        assert not (broken / "history.om").exists()
        simulator.faults.clear()
        simulator.forget_requests()
        with Spool(broken / "history.om.spool") as spool:
            task = spool.task()
        assert task is not None
        done = run_command(*command)
        assert done.returncode == 0, done.stderr
        assert "goes on with what " in done.stdout
        first, *others = [
            (int(it.query["page"]) - 1) * int(it.query["take"]) for it in simulator.requests
        ]
        assert first == 0  # it is asked how much there is
        assert min(others) > 100
        plan = Plan(whole / "history.om", "1d", task.start_ms, 60_000, TARGET)
        run_backfill(load_config(broken / "config.yaml", {}), Redactor(), plan, lambda _line: None)
    assert (broken / "history.om").read_bytes() == (whole / "history.om").read_bytes()
    assert list(whole.iterdir()) == [whole / "history.om"]


def api_of(simulator: SimulatorServer, *, page_size: int) -> dict[str, object]:
    """Configure the API."""
    api = {"url": simulator.url, "key": "key-main", "requests_per_minute": 60_000}
    return {**api, "page_size": page_size}


def test_what_can_not_be_read_costs_itself_alone(tmp_path: Path) -> None:
    """A row that is no run is left out and said; an odd field costs no run; 429 is waited for."""
    with quiet_api() as simulator:
        world, now = simulator.world, simulator.world.clock()
        add_past(world, runs=120, seconds=HOUR)
        lost = world.add_run(status="FAILED", ended_at=now - 4000, created_at=now - 5000)
        world.spoil_run(lost, "null_id")
        odd = world.add_run(status="FAILED", ended_at=now - 3000, created_at=now - 5000)
        world.set_fields(odd, {"usage": ["?"], "started_at": "soon"})
        simulator.add_faults(
            Fault(kind="rate_limited", retry_after="seconds", seconds=1, skip=1, count=1)
        )
        done = run_command(*arguments(simulator.url, tmp_path, "--since=1d"))
        assert done.returncode == 0, done.stderr
        assert "1 runs can't be read and are left out" in done.stdout
        counts = run_counts(samples_of((tmp_path / "history.om").read_text()))
    assert sum(counts.values()) == 122  # with the one that gives the org its name


def test_an_api_that_refuses_to_list_far_back_is_asked_by_status(tmp_path: Path) -> None:
    """Each status has a depth of its own; from which row on nothing was listed is said."""
    with quiet_api() as simulator:
        add_past(simulator.world, runs=300, seconds=HOUR)
        simulator.add_faults(
            *(
                Fault(kind="status", status=400, query={"status": "ALL", "page": str(page)})
                for page in range(11, 32)
            )
        )
        config = {"api": api_of(simulator, page_size=10)}
        done = run_command(*arguments(simulator.url, tmp_path, "--since=1d", **config))
        assert done.returncode == 0, done.stderr
        counts = run_counts(samples_of((tmp_path / "history.om").read_text()))
    assert sum(counts.values()) == 301
    assert re.search(r"c: the API lists nothing from row \d+ on: runs may be missing", done.stdout)


def test_runs_of_several_orgs_stand_with_one(tmp_path: Path) -> None:
    """A run that a parent lists too is its own org's."""
    with quiet_api() as simulator:
        world, now = simulator.world, simulator.world.clock()
        world.add_run(org_id="org-sub", also_in=("org-main",), status="FAILED", ended_at=now - 100)
        config = {"orgs": [{"id": "c"}, {"id": "org-sub"}]}
        past = samples_of(backfill(simulator.url, tmp_path, "--since=1d", **config))
    finished = grew(past, "invent_runs_finished_total", 0, now + DAY)
    assert Counter(dict(labels)["org_id"] for labels in finished) == {"org-main": 1, "org-sub": 1}


def test_what_an_org_counts_that_is_not_read_is_left_out(tmp_path: Path) -> None:
    """The ledger knows it, and a parent lists its runs."""
    with quiet_api() as simulator:
        orgs = [{"id": "c"}, {"id": "org-sub"}]
        config = make_config(simulator.url, tmp_path, orgs=orgs)
        with Exporter(tmp_path, config) as exporter:
            exporter.wait_until_up()
            exporter.wait_until_up("org-sub")
            assert exporter.stop() == 0
        with closing(sqlite3.connect(tmp_path / "state.db")) as state:  # the sub-org came before
            state.execute("UPDATE org SET contact = contact - 100 WHERE org_id = 'org-sub'")
            state.commit()
        now = simulator.world.clock()
        for ended_at in (now - 50, now - 500):
            simulator.world.add_run(
                org_id="org-sub",
                also_in=("org-main",),
                status="FAILED",
                created_at=ended_at - 1,
                ended_at=ended_at,
            )
        counts = run_counts(samples_of(backfill(simulator.url, tmp_path, "--since=1d")))
    assert sum(count for labels, count in counts.items() if ("status", "FAILED") in labels) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--since=soon",), "--since: soon is not a duration"),
        (("--step=5m",), "--step: 5m is too long: expected at most 4m"),
        (("--label=job",), "--label: job is no label: expected NAME=VALUE"),
        (("--label=status=x",), "--label: status is a label of the metrics"),
        (("--output=/nowhere/history.om",), "--output: /nowhere is no folder"),
        (("--output=config.yaml",), "--output: config.yaml is there already"),
    ],
)
def test_bad_flags_are_named(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    """One line, exit status 2, and nothing is asked."""
    command = arguments("http://127.0.0.1:9", tmp_path, *flags)
    done = run_command(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"invent-exporter: {said}")
    assert done.stderr.count("\n") == 1


def test_an_api_that_does_not_answer_ends_it_with_what_to_do(tmp_path: Path) -> None:
    """A refused key: exit status 1, one line, without the key, and the spool is kept."""
    with quiet_api() as simulator:
        simulator.add_faults(Fault(kind="status", status=401))
        done = run_command(*arguments(simulator.url, tmp_path))
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert line.startswith("invent-exporter: c: unauthorized: HTTP 401")
    assert line.endswith("; the same command goes on from here")
    assert "key-main" not in done.stderr
    assert (tmp_path / "history.om.spool").exists()


def test_a_signal_ends_it_and_says_how_to_go_on(tmp_path: Path) -> None:
    """SIGTERM: exit status 1, for the file is not there."""
    with quiet_api() as simulator:
        simulator.add_faults(Fault(kind="slow", seconds=60))
        with subprocess.Popen(
            [sys.executable, ROOT / "exporter.py", *arguments(simulator.url, tmp_path)],
            env=clean_environment(),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_for("it asks", lambda: simulator.requests)
            process.terminate()
            _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    line = "invent-exporter: interrupted; the same command goes on from here"
    assert said.splitlines()[-1] == line


def test_another_task_does_not_go_on_with_a_spool(tmp_path: Path) -> None:
    """What was read for 30 days does not hold the past of 60."""
    with quiet_api() as simulator:
        simulator.add_faults(Fault(kind="status", status=401, skip=1))
        add_past(simulator.world, runs=150, seconds=HOUR)
        assert run_command(*arguments(simulator.url, tmp_path)).returncode == 1
        done = run_command(*arguments(simulator.url, tmp_path, "--since=60d"))
    assert done.returncode == 1
    assert "was begun with --since 30d" in done.stderr


def test_steps_and_buckets_are_as_configured(tmp_path: Path) -> None:
    """A sample stands at a whole step; `step_credits` and bounds are those of the live series."""
    with quiet_api() as simulator:
        now = simulator.world.clock()
        usage = Usage(3.0, 1.0, {"s1": 2.0, "s2": 1.0})
        simulator.world.add_run(
            status="COMPLETED", created_at=now - 500, ended_at=now - 400, usage=usage
        )
        metrics = {"step_credits": True, "duration_buckets": [50, 150]}
        text = backfill(simulator.url, tmp_path, "--since=1d", "--step=30s", metrics=metrics)
    past = samples_of(text)
    steps = {
        dict(labels)["step"]: [value for _, value in samples]
        for (name, labels), samples in past.items()
        if name == "invent_step_credits_total"
    }
    assert {step: (values[0], values[-1]) for step, values in steps.items()} == {
        "s1": (0, 2),
        "s2": (0, 1),
    }
    bounds = {dict(labels).get("le") for name, labels in past if "duration_seconds_b" in name}
    assert bounds == {"50.0", "150.0", "+Inf"}
    end = max(at for samples in past.values() for at, _ in samples)
    firsts = {
        samples[0][0]
        for (name, labels), samples in past.items()
        if name == SUBMITTED and ("workflow_id", "wf-manual") in labels
    }
    assert all(at % 30 == 0 and at < end for at in firsts)


def test_workflows_are_named_labelled_and_left_out_as_they_are_live(tmp_path: Path) -> None:
    """What is excluded is read and not written."""
    with quiet_api() as simulator:
        config = {
            "workflow_names": {"wf-old": "old"},
            "workflow_labels": {"wf-old": {"team": "payments"}},
            "workflows": {"exclude": ["wf-a*"]},
        }
        at = simulator.world.clock() - 60
        for name in ("wf-a", "wf-b"):
            simulator.world.add_run(workflow_id=name, status="FAILED", created_at=at, ended_at=at)
        past = samples_of(backfill(simulator.url, tmp_path, "--since=1d", **config))
    infos = [dict(labels) for name, labels in past if name == "invent_workflow_info"]
    assert {info["workflow_id"] for info in infos} == {"wf-old", "wf-b"}
    (old,) = (info for info in infos if info["workflow_id"] == "wf-old")
    assert (old["workflow_name"], old["team"]) == ("old", "payments")


def test_workflows_are_folded_as_they_are_live(tmp_path: Path) -> None:
    """Beyond `max_workflows` the later ones are one."""
    with quiet_api() as simulator:
        now = simulator.world.clock()
        for number in range(5):
            at = now - 1000 + number
            simulator.world.add_run(
                workflow_id=f"wf-{number}", status="FAILED", created_at=at, ended_at=at + 100
            )
        metrics = {"max_workflows": 3}
        text = backfill(simulator.url, tmp_path, "--since=1d", metrics=metrics)
    counts = Counter[str]()
    for labels, count in run_counts(samples_of(text)).items():
        counts[dict(labels)["workflow_id"]] += count
    assert counts == {"wf-0": 1, "wf-1": 1, "wf-2": 1, "__other__": 3}
