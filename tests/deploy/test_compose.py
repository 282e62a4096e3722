"""compose.yaml and what it mounts, as far as it goes without a registry of images."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from invent_exporter.simulator import DEMO_KEY, SimulatorServer, demo_world
from tests.deploy.chart import ROOT
from tests.deploy.go_modules import run_program
from tests.deploy.processes import Server, exporter, prometheus
from tests.process.harness import free_port, wait_for
from tests.programs import require, run

pytestmark = pytest.mark.system

LOADER = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
"""What docker compose itself reads its files with."""

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Return the project as docker compose reads it: merged, interpolated, checked."""
    done = run_program(LOADER, "--format", "json", "compose.yaml", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_tls_and_a_login_lie_over_the_project() -> None:
    """Prometheus asks as it is told to, and the health check knows no password."""
    done = run_program(
        LOADER, "--format", "json", "compose.yaml", "deploy/compose.tls.yaml", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    for name in ("demo", "real"):
        service = services[name]
        place = "unix:///tmp/health.sock"
        assert f"--web.health-address={place}" in service["command"]
        assert place in str(service["environment"])
        assert "--web.config.file=/etc/invent-exporter/web/web.yaml" in service["command"]
        targets = [volume["target"] for volume in service["volumes"]]
        assert "/etc/invent-exporter/web" in targets
    assert services["demo"]["command"][:2] == [
        "serve",
        "--config.file=/etc/invent-exporter/config.yaml",
    ]
    (config,) = [
        volume["source"]
        for volume in services["prometheus"]["volumes"]
        if volume["target"] == "/etc/prometheus/prometheus.yml"
    ]
    plain, secured = (
        yaml.safe_load(path.read_text())
        for path in (DEPLOY / "prometheus" / "prometheus.yml", Path(config))
    )
    (job,) = secured["scrape_configs"]
    assert (job.pop("scheme"), job.pop("basic_auth")["username"]) == ("https", "prometheus")
    assert job.pop("tls_config").keys() == {"ca_file"}
    assert secured == plain


def test_profiles_share_all_but_the_exporter(project: dict[str, Any]) -> None:
    """`demo`, the default, polls the simulator; `ha` does it with replicas; `real` polls an org."""
    profiles = {name: service["profiles"] for name, service in project["services"].items()}
    all_three = ["demo", "real", "ha"]
    assert profiles == {
        "simulator": ["demo", "ha"],
        "demo": ["demo"],
        "real": ["real"],
        **{name: ["ha"] for name in ("replica-a", "replica-b", "postgresql", "prometheus-ha")},
        "prometheus": ["demo", "real"],
        "alertmanager": all_three,
        "grafana": all_three,
    }
    assert "COMPOSE_PROFILES=demo\n" in (ROOT / ".env").read_text()


def test_the_profile_is_chosen_by_what_replaces_the_default() -> None:
    """The variable goes over .env; a flag may be added to it, and the demo would start as well."""
    for path in (ROOT / "compose.yaml", ROOT / ".env", ROOT / "docs" / "deploy.md"):
        assert "COMPOSE_PROFILES=real docker compose up" in path.read_text(), path
        assert "--profile real up" not in path.read_text(), path


def test_ledgers_live_as_long_as_what_they_count(project: dict[str, Any]) -> None:
    """A real org's ledger is kept; the demo's goes with the simulator, whose runs come again."""
    (ledger,) = [
        volume["target"]
        for volume in project["services"]["real"]["volumes"]
        if volume["type"] == "volume"
    ]
    assert ledger == "/data"
    demo = yaml.safe_load((DEPLOY / "demo.yaml").read_text())
    (memory,) = project["services"]["demo"]["tmpfs"]
    assert demo["state"]["url"].startswith(f"sqlite:///{memory}/")
    assert project["services"]["demo"]["depends_on"]["simulator"]["restart"] is True


def test_every_service_is_hardened(project: dict[str, Any]) -> None:
    """Read-only, without capabilities, on the loopback only, with a fixed version."""
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        tag = service["image"].rsplit(":", 1)[1]
        assert tag == "local" or re.fullmatch(r"v?\d+(\.\d+)+", tag), name


def test_every_mounted_file_is_there(project: dict[str, Any]) -> None:
    """What is mounted from the checkout exists and can't be changed from inside."""
    mounted = set()
    for service in project["services"].values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume["source"]
                assert volume["read_only"] is True
                mounted.add(Path(volume["source"]).relative_to(ROOT).as_posix())
    assert {"grafana/rules", "grafana/dashboards", "deploy/demo.yaml"} <= mounted


def test_home_dashboard_is_there(project: dict[str, Any]) -> None:
    """Grafana opens with a dashboard that is in the mounted folder."""
    grafana = project["services"]["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    provider = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "invent.yaml").read_text()
    )
    assert provider["providers"][0]["options"]["path"] == str(home.parent)
    assert (ROOT / "grafana" / "dashboards" / home.name).exists()


def test_the_key_of_the_real_org_is_a_file(project: dict[str, Any]) -> None:
    """The key is a secret, not a variable, and git ignores the file."""
    service = project["services"]["real"]
    assert [secret["source"] for secret in service["secrets"]] == ["invent-api-key"]
    assert "INVENT_API_KEY" not in service["environment"]
    file = Path(project["secrets"]["invent-api-key"]["file"])
    ignored = run("git", "check-ignore", "--quiet", "--no-index", file, cwd=ROOT)
    assert ignored.returncode == 0


def test_replicas_are_all_scraped_and_told_apart(project: dict[str, Any]) -> None:
    """They share a database and the simulator's network, where each has a port that is scraped."""
    services = project["services"]
    replicas = [services["replica-a"], services["replica-b"]]
    urls = {service["environment"]["INVENT_STATE_URL"] for service in replicas}
    assert urls == {"postgresql://invent:invent@postgresql/invent"}
    for service in replicas:
        assert service["network_mode"] == "service:simulator"
        assert service["depends_on"]["postgresql"]["condition"] == "service_healthy"
    assert replicas[1]["command"][-1].endswith(":" + replicas[1]["environment"]["HEALTHCHECK_PORT"])
    usual, shared = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for name in ("prometheus.yml", "prometheus.ha.yml")
    )
    done = run(
        *(sys.executable, ROOT / "exporter.py", "--config.check", "--config.file=deploy/ha.yaml"),
        cwd=ROOT,
        env={"INVENT_STATE_URL": urls.pop()},
    )
    assert done.returncode == 0, done.stderr
    (job,) = shared["scrape_configs"]
    (static,) = job["static_configs"]
    ports = {f"exporter:{port['published']}" for port in services["simulator"]["ports"]}
    assert set(static["targets"]) == ports
    static["targets"] = ["exporter:10480"]
    assert shared == usual


def test_alertmanager_accepts_its_configuration() -> None:
    """A real amtool reads it."""
    done = run("amtool", "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stack_works_with_real_servers(tmp_path: Path) -> None:
    """The demo's exporter, Prometheus and Alertmanager find each other and the rules run.

    Hosts and paths of containers are replaced; all else is as compose mounts it.
    """
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    demo = yaml.safe_load((DEPLOY / "demo.yaml").read_text())
    assert demo["api"]["key"] == DEMO_KEY
    with SimulatorServer(demo_world(1)) as simulator:
        demo["api"]["url"] = simulator.url
        demo["state"] = {"url": "sqlite://"}
        alerts = free_port()
        with exporter(tmp_path, demo) as served, _alertmanager(tmp_path, alerts):
            for old, new in {
                "exporter:10480": f"127.0.0.1:{served.port}",
                "alertmanager:9093": f"127.0.0.1:{alerts}",
                "/etc/prometheus/rules/": f"{ROOT}/grafana/rules/",
                "scrape_interval: 15s": "scrape_interval: 1s",
                "evaluation_interval: 15s": "evaluation_interval: 1s",
            }.items():
                assert old in text
                text = text.replace(old, new)
            with prometheus(tmp_path, yaml.safe_load(text)) as server:
                query = (
                    'invent_runs_finished_total{job="invent-exporter",instance="invent-exporter"}'
                )
                wait_for("runs", lambda: bool(server.data("/api/v1/query", query=query)["result"]))

                def is_up() -> bool:
                    up = server.data("/api/v1/query", query='up{job="invent-exporter"}')["result"]
                    return [sample["value"][1] for sample in up] == ["1"]

                def has_alertmanager() -> bool:
                    managers = server.data("/api/v1/alertmanagers")["activeAlertmanagers"]
                    url = f"http://127.0.0.1:{alerts}/api/v2/alerts"
                    return [item["url"] for item in managers] == [url]

                wait_for("the exporter is up", is_up)
                wait_for("the Alertmanager is found", has_alertmanager)
                wait_for("the rules are evaluated and well", lambda: _are_rules_well(server))


def _are_rules_well(server: Server) -> bool:
    """Whether the rules of all groups with the usual, short interval were evaluated; none fails."""
    groups = server.data("/api/v1/rules")["groups"]
    health = [(group["interval"], rule) for group in groups for rule in group["rules"]]
    assert not [rule for _, rule in health if rule["health"] == "err"]
    usual = [rule["health"] for interval, rule in health if interval == 1]
    return len(usual) > 0 and set(usual) == {"ok"}


def _alertmanager(folder: Path, port: int) -> Server:
    command = (
        require("prometheus-alertmanager"),
        f"--config.file={DEPLOY}/alertmanager/alertmanager.yml",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    )
    return Server(command, port, "/-/ready", folder / "alertmanager.log")
