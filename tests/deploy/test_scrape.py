"""The shipped scrape configurations, in a real Prometheus: series go on across pods."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from invent_exporter.simulator import SimulatorServer
from tests.deploy.chart import CHART, ROOT, helm_test_command, only, render
from tests.deploy.processes import Server, exporter, prometheus
from tests.process.harness import wait_for
from tests.programs import run

pytestmark = pytest.mark.system

PROMETHEUS = ROOT / "deploy" / "prometheus"
LEDGER_SERIES = re.compile(r"invent_(runs?|credits?|step_credits|workflows?|org)_.+")
PROCESS_SERIES = re.compile(
    r"invent_(up|poll|api|listing|ledger|reconcile|config|exporter|exposition|replica|leases)(_.+)?"
    r"|(process|python|scrape)_.+|up"
)


def _from_file(name: str) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]
    rules: list[dict[str, Any]] = job["metric_relabel_configs"]
    return rules


def _from_service_monitor() -> list[dict[str, Any]]:
    """Return the relabelings as the operator hands them to Prometheus."""
    monitor = only(render(sets=("serviceMonitor.enabled=true",)), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return [
        {names.get(key, key): value for key, value in rule.items()}
        for rule in endpoint["metricRelabelings"]
    ]


def test_service_monitor_and_files_relabel_the_same_metrics() -> None:
    """Each of the four picks the ledger's series by the expression of these tests."""
    files = ("prometheus.yml", "prometheus.ha.yml", "kubernetes.yml")
    jobs = (*map(_from_file, files), _from_service_monitor())
    expressions = {rule["regex"].replace("?:", "") for job in jobs for rule in job}
    assert expressions == {LEDGER_SERIES.pattern}
    assert len(_from_file("kubernetes.yml")) == len(_from_service_monitor()) == 2


def test_service_monitor_names_the_release() -> None:
    """`instance` is namespace and name of the release, or what the values say."""
    assert _from_service_monitor()[0]["replacement"] == "apps/invent-invent-exporter"
    monitoring = render("helm4", CHART / "ci" / "monitoring-values.yaml")
    (endpoint,) = only(monitoring, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["metricRelabelings"][0]["replacement"] == "invent"
    assert endpoint["metricRelabelings"][-1]["action"] == "drop"


_BY_THE_OPERATOR = [
    {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
    for source, label in (
        *(("namespace", "namespace"), ("service_name", "service"), ("pod_name", "pod")),
        ("endpointslice_port_name", "endpoint"),
    )
]
"""What the operator adds to a target, as far as it tells targets apart."""


def _series(server: Server, job: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = server.data("/api/v1/series", **{"match[]": f'{{job="{job}"}}'})
    return found


def test_increase_spans_the_replacement_of_a_pod(tmp_path: Path) -> None:
    """Counters of the ledger stay one series when another pod serves them; the process' do not."""
    (kubernetes,) = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())["scrape_configs"]
    jobs = {
        "kubernetes": (kubernetes["relabel_configs"], _from_file("kubernetes.yml")),
        "service-monitor": (_BY_THE_OPERATOR, _from_service_monitor()),
    }
    targets = tmp_path / "targets.json"
    scrape_configs = [
        {
            "job_name": name,
            "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
            "relabel_configs": target_rules,
            "metric_relabel_configs": rules,
        }
        for name, (target_rules, rules) in jobs.items()
    ]
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    with SimulatorServer() as simulator:
        config = {
            "api": {"url": simulator.url, "key": "key-main", "requests_per_minute": 6000},
            "poll_interval": "200ms",
            "state": {"url": f"sqlite:///{tmp_path}/ledger.db"},
            "metrics": {"newborn_hold": "0s"},
        }
        # What is open at first contact makes the workflow known, at 0.
        first = simulator.world.add_run(status="RUNNING")
        targets.write_text("[]")
        with prometheus(
            tmp_path, {"global": intervals, "scrape_configs": scrape_configs}
        ) as server:
            _serve_one_pod(server, targets, config, pod="a", failed=0)

            def finish() -> None:
                simulator.world.finish_run(first, "FAILED")

            _serve_one_pod(server, targets, config, pod="b", failed=1, act=finish)
            for job in jobs:
                _check_series(_series(server, job))
                failed = f'invent_runs_finished_total{{job="{job}",status="FAILED"}}'
                answer = server.data("/api/v1/query", query=f"sum(increase({failed}[10m])) > 0")
                assert answer["result"], "increase() does not see the failure"


def _serve_one_pod(
    server: Server,
    targets: Path,
    config: dict[str, Any],
    *,
    pod: str,
    failed: int,
    act: Callable[[], object] = lambda: None,
) -> None:
    """Run one pod until Prometheus has seen that many failed runs from it, for each job."""
    with exporter(targets.parent, config) as served:
        labels = {
            "__meta_kubernetes_pod_name": pod,
            "__meta_kubernetes_namespace": "apps",
            "__meta_kubernetes_service_name": "invent-invent-exporter",
            "__meta_kubernetes_service_label_app_kubernetes_io_name": "invent-exporter",
            "__meta_kubernetes_endpointslice_port_name": "metrics",
        }
        targets.write_text(
            json.dumps([{"targets": [f"127.0.0.1:{served.port}"], "labels": labels}])
        )
        act()

        def is_seen() -> bool:
            up = server.data("/api/v1/query", query=f'up{{pod="{pod}"}} == 1')["result"]
            query = 'sum by (job) (invent_runs_finished_total{status="FAILED"})'
            runs = server.data("/api/v1/query", query=query)["result"]
            return len(up) == 2 and [item["value"][1] for item in runs] == [str(failed)] * 2

        wait_for(f"{failed} failed runs seen from pod {pod}", is_seen)


def _check_series(series: list[dict[str, str]]) -> None:
    ledger = [labels for labels in series if LEDGER_SERIES.fullmatch(labels["__name__"])]
    process = [labels for labels in series if PROCESS_SERIES.fullmatch(labels["__name__"])]
    assert len(ledger) + len(process) == len(series)
    assert "invent_run_duration_seconds_bucket" in {labels["__name__"] for labels in ledger}
    assert {labels.get("pod") for labels in ledger} == {None}
    assert len({labels["instance"] for labels in ledger}) == 1
    assert {labels["service"] for labels in series} == {"invent-invent-exporter"}
    # Target labels of the process tell the pods apart.
    started = [item for item in process if item["__name__"] == "process_start_time_seconds"]
    assert {labels["pod"] for labels in started} == {"a", "b"}
    assert len({labels["instance"] for labels in started}) == 2


def test_every_metric_is_on_one_side(tmp_path: Path) -> None:
    """Each metric that the exporter serves is clearly the ledger's or the process's."""
    with SimulatorServer() as simulator:
        simulator.world.add_run(status="COMPLETED")
        config = {
            "api": {"url": simulator.url, "key": "key-main"},
            "poll_interval": "200ms",
            "state": {"url": "sqlite://"},
        }
        with exporter(tmp_path, config) as served:
            wait_for("runs", lambda: "\ninvent_runs_open{" in served.get("/metrics").text)
            text = served.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert "invent_workflow_info" in names
    for name in names:
        assert bool(LEDGER_SERIES.fullmatch(name)) != bool(PROCESS_SERIES.fullmatch(name)), name


@pytest.mark.parametrize(
    ("key", "status", "says"),
    [("key-main", 0, "orgs: {'org-main': '1.0'}"), ("wrong", 1, "not read: c: see the log")],
)
def test_helm_test_tells_whether_each_org_was_read(
    key: str, status: int, says: str, tmp_path: Path
) -> None:
    """The pod of `helm test` ends well when the API answers, and names the org that is not read."""
    with SimulatorServer() as simulator:
        simulator.world.add_run(status="COMPLETED")
        config = {"api": {"url": simulator.url, "key": key}, "state": {"url": "sqlite://"}}
        with exporter(tmp_path, config) as served:
            _, *rest = helm_test_command(f"127.0.0.1:{served.port}")
            done = run(sys.executable, *rest)
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr


def test_promtool_accepts_the_configuration_for_kubernetes(tmp_path: Path) -> None:
    """But for its discovery, which Debian's is built without; test_compose runs the other one."""
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]
    path = tmp_path / "kubernetes.yml"
    path.write_text(yaml.safe_dump(config))
    done = run("promtool", "check", "config", "--syntax-only", path)
    assert done.returncode == 0, done.stdout + done.stderr
