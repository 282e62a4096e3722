"""What single values make of the chart, where it takes more than that something changes."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import bcrypt
import httpx
import pytest
import yaml

from invent_exporter.simulator import SimulatorServer
from tests.deploy.chart import (
    CHART,
    ROOT,
    Manifest,
    by_name,
    kinds,
    only,
    refusal,
    render,
    render_many,
)
from tests.deploy.odd_values import SCHEMA
from tests.process.harness import free_port, wait_for
from tests.programs import run
from tests.web.certificates import Authority

pytestmark = pytest.mark.system

CI: Final = CHART / "ci"


def _ci(name: str) -> tuple[Manifest, ...]:
    return render("helm4", CI / f"{name}-values.yaml")


def _pod(manifests: tuple[Manifest, ...]) -> Manifest:
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def _exporter(manifests: tuple[Manifest, ...]) -> Manifest:
    container: Manifest = _pod(manifests)["containers"][0]
    return container


def _values_of(*names: str) -> list[tuple[Manifest, ...]]:
    """Render one release for each of the values, which are JSON."""
    return list(render_many([json.loads(name) for name in names]))


# --- Replicas -------------------------------------------------------------------------------------


def test_replicas_share_what_a_database_holds() -> None:
    """They have no volume, never less pods than asked for, and lie as far apart as can be."""
    manifests = _ci("replicas")
    assert "PersistentVolumeClaim" not in kinds(manifests)
    deployment = only(manifests, "Deployment")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert "data" not in {volume["name"] for volume in _pod(manifests)["volumes"]}
    own = deployment["selector"]["matchLabels"].items()
    spread = _pod(manifests)["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}
    for one in spread:
        assert one["labelSelector"]["matchLabels"].items() <= own
    budget = only(manifests, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": "50%", "selector": deployment["selector"]}


def test_the_url_of_the_database_is_read_from_its_secret() -> None:
    """It may hold a password: no object but the Secret has it, and only the exporter's pod."""
    manifests = _ci("replicas")
    (first, *_) = _exporter(manifests)["env"]
    reference = {"secretKeyRef": {"name": "ledger-app", "key": "uri"}}
    assert first == {"name": "INVENT_STATE_URL", "valueFrom": reference}
    text = only(manifests, "ConfigMap")["data"]["config.yaml"]
    assert yaml.safe_load(text)["state"] == {"lease": "20s"}
    assert "ledger-app" not in json.dumps(only(manifests, "Pod"))
    (first, *_) = _exporter(_ci("postgresql"))["env"]
    assert first["valueFrom"] == {"secretKeyRef": {"name": "invent-state", "key": "url"}}


def test_one_replica_has_no_budget() -> None:
    """It would stop every drain; and what the values say of topology replaces what is usual."""
    spread = [{"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
    state: dict[str, object] = {"state": {"existingSecret": "state"}}
    one, own, none = render_many(
        [
            {**state, "replicas": 1},
            {**state, "replicas": 2, "topologySpreadConstraints": spread},
            {**state, "replicas": 2, "podDisruptionBudget": {"enabled": False}},
        ]
    )
    assert "topologySpreadConstraints" not in _pod(one)
    assert [item["topologyKey"] for item in _pod(own)["topologySpreadConstraints"]] == ["rack"]
    budgets = ["PodDisruptionBudget" in kinds(manifests) for manifests in (one, own, none)]
    assert budgets == [False, True, False]


# --- Names and other texts that YAML takes for something else -------------------------------------


def test_the_values_of_the_rows_are_taken_as_they_are() -> None:
    """The file of odd names: each is where it belongs, as a text."""
    manifests = _ci("names")
    pod = _pod(manifests)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "123"
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == "789"
    assert pod["serviceAccountName"] == "1"
    assert "--web.telemetry-path=/a:" in pod["containers"][0]["args"]
    assert only(manifests, "ServiceAccount")["metadata"]["annotations"] == {
        "example.com/owner": "true"
    }


@pytest.mark.parametrize(
    ("given", "rendered"), [("-", ""), ("123", "123"), ("true", "true"), ("", None)]
)
def test_storage_classes(given: str, rendered: str | None) -> None:
    """`-` is no class at all, as in other charts; nothing is the cluster's default."""
    claim = only(render(sets=(f'persistence.storageClass="{given}"',)), "PersistentVolumeClaim")
    assert claim["spec"].get("storageClassName") == rendered


def test_a_name_of_ones_own_is_taken_whole() -> None:
    """63 characters, as long as a Service's name may be; one that Kubernetes refuses is refused."""
    name = "a" * 63
    manifests = render(sets=(f'fullnameOverride="{name}"', 'keys.create={"api-key": "x"}'))
    assert only(manifests, "Service")["metadata"]["name"] == name
    assert only(manifests, "Secret")["metadata"]["name"] == f"{name}-keys"
    for wrong in ("a" * 64, "1a", "a.b"):
        assert "fullnameOverride" in refusal(fullnameOverride=wrong)


# --- Keys and configuration -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vault", "csi", "environment-key"])
def test_keys_from_elsewhere_need_no_secret(name: str) -> None:
    """Without a Secret named there is no volume for one, and the configuration names no entry."""
    manifests = _ci(name)
    pod = _pod(manifests)
    assert "keys" not in {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts <= {volume["name"] for volume in pod["volumes"]}
    configured = only(manifests, "ConfigMap")["data"]["config.yaml"]
    assert "/run/secrets/invent" not in configured
    api = yaml.safe_load(configured).get("api", {})
    assert api.get("key_file") == ("/vault/secrets/invent-api-key" if name == "vault" else None)


def test_a_configmap_of_ones_own() -> None:
    """It is mounted in the place of the chart's; state and key are the chart's all the same."""
    manifests = _ci("existing-config")
    assert "ConfigMap" not in kinds(manifests)
    pod = _pod(manifests)
    (volume,) = [one for one in pod["volumes"] if one["name"] == "config"]
    assert volume["configMap"] == {"name": "invent-config"}
    assert pod["containers"][0]["env"] == [
        {"name": "INVENT_STATE_URL", "value": "sqlite:////data/invent-exporter.db"},
        {"name": "INVENT_API_KEY_FILE", "value": "/run/secrets/invent/api-key"},
    ]
    metadata = only(manifests, "Deployment")["metadata"]
    assert metadata["annotations"] == {"reloader.stakater.com/auto": "true"}
    assert metadata["labels"]["tier"] == "backend"


@pytest.mark.parametrize("reload", [True, False])
def test_the_checksum_of_the_configuration(reload: bool) -> None:  # noqa: FBT001 - a parameter
    """Without it a change replaces no pod; the mounted folder follows the ConfigMap."""
    manifests = _ci("reload" if reload else "default")
    template = only(manifests, "Deployment")["spec"]["template"]
    assert ("annotations" not in template["metadata"]) is reload
    container = _exporter(manifests)
    assert ("--web.enable-lifecycle" in container["args"]) is reload
    assert "--config.file=/etc/invent-exporter/config.yaml" in container["args"]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "config"]
    assert mount == {"name": "config", "mountPath": "/etc/invent-exporter", "readOnly": True}


def test_a_web_configuration_lies_beside_the_certificate() -> None:
    """Two Secrets in one folder, for the exporter alone; no pod asks that knows no login."""
    manifests = _ci("web")
    (volume,) = [one for one in _pod(manifests)["volumes"] if one["name"] == "web"]
    secrets = [{"secret": {"name": name}} for name in ("invent-web", "invent-exporter-tls")]
    assert volume["projected"] == {"defaultMode": 0o440, "sources": secrets}
    assert "Pod" not in kinds(manifests)
    program = json.dumps(_exporter(manifests)["livenessProbe"]["exec"]["command"][:2])
    assert f"CMD {program}\n" in (ROOT / "Dockerfile").read_text()
    assert '"test"' not in json.dumps(only(manifests, "NetworkPolicy"))
    users = (
        'web.existingSecret="users"',
        "podMonitor.enabled=true",
        'serviceMonitor.scheme="http"',
    )
    (endpoint,) = only(render(sets=users), "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "http"


def test_with_a_web_configuration_the_probes_know_no_login(tmp_path: Path) -> None:
    """What the chart starts asks for TLS and a login; what it lets the kubelet run does not."""
    authority, port = Authority(tmp_path), free_port()
    pair = authority.issue("tls")
    web = {
        "tls_server_config": {"cert_file": "tls.pem", "key_file": "tls.key"},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"open", bcrypt.gensalt(4)).decode()},
    }
    assert pair.certificate.parent == tmp_path
    (tmp_path / "web.yaml").write_text(json.dumps(web))
    (tmp_path / "api-key").write_text("key-main")
    places = {
        **dict.fromkeys(("/etc/invent-exporter", "/run/secrets/invent-web"), str(tmp_path)),
        **dict.fromkeys(("/run/secrets/invent", "/data"), str(tmp_path)),
        "/tmp": str(tmp_path),  # noqa: S108 - of the container
        ":10480": f"127.0.0.1:{port}",
        "/usr/bin/python": sys.executable,
        "/app": str(ROOT / "deploy" / "image"),
    }

    def placed(text: str) -> str:
        return re.sub("|".join(places), lambda found: places[found[0]], text)

    with SimulatorServer() as simulator:
        manifests = render("helm4", CI / "web-values.yaml", (f'config.api.url="{simulator.url}"',))
        configured = placed(only(manifests, "ConfigMap")["data"]["config.yaml"])
        (tmp_path / "config.yaml").write_text(configured)
        container = _exporter(manifests)
        env = {one["name"]: placed(one["value"]) for one in container["env"]}
        command = [sys.executable, str(ROOT / "exporter.py"), *map(placed, container["args"])]

        def is_well(probe: str) -> bool:
            asked = map(placed, container[f"{probe}Probe"]["exec"]["command"])
            return run(*asked, env=env).returncode == 0

        with subprocess.Popen(command, env=os.environ | env) as process:
            try:
                for probe in ("startup", "liveness", "readiness"):
                    wait_for(f"the {probe} probe", lambda probe=probe: is_well(probe))  # type: ignore[misc]
                url = f"https://127.0.0.1:{port}"
                with httpx.Client(verify=authority.trusting(), base_url=url) as client:
                    assert client.get("/-/ready").status_code == 401
                    answer = client.get("/metrics", auth=("prometheus", "open"))
                    assert answer.status_code == 200
            finally:
                process.terminate()


# --- Where and how it runs ------------------------------------------------------------------------


def test_on_openshift_the_users_are_the_namespaces() -> None:
    """No user, no group, DNS where OpenShift has it; below a parent chart too."""
    standalone = _ci("openshift")
    values = yaml.safe_load((CI / "openshift-values.yaml").read_text())
    (below,) = render_many([values])
    for manifests in (standalone, below):
        for pod in (_pod(manifests), only(manifests, "Pod")["spec"]):
            assert pod["securityContext"] == {
                "runAsNonRoot": True,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            }
        dns = only(manifests, "NetworkPolicy")["spec"]["egress"][0]
        (peer,) = dns["to"]
        assert peer["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": "openshift-dns"
        }
        assert {port["port"] for port in dns["ports"]} == {5353}


POLICIES: Final = """
default:
  - ports: [{port: metrics, protocol: TCP}]
    from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}, TEST]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  - ports: [{port: 443, protocol: TCP}]
network-policy:
  - ports: [{port: metrics, protocol: TCP}]
    from:
      - namespaceSelector:
          matchExpressions:
            - key: kubernetes.io/metadata.name
              operator: In
              values: [monitoring, observability]
        podSelector: {matchLabels: {app.kubernetes.io/name: prometheus}}
      - TEST
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
    ports:
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
      - {port: 5353, protocol: UDP}
      - {port: 5353, protocol: TCP}
  - ports: [{port: 443, protocol: TCP}]
    to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]
  - ports: [{port: 3128, protocol: TCP}]
replicas:
  - ports: [{port: metrics, protocol: TCP}]
    from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}, test]
  - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
    to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
  - ports: [{port: 443, protocol: TCP}]
  - ports: [{port: 5432, protocol: TCP}]
    to: [{podSelector: {matchLabels: {cnpg.io/cluster: ledger}}}]
"""


@pytest.mark.parametrize("name", ["default", "network-policy", "replicas"])
def test_the_whole_rule_of_the_network_policy(name: str) -> None:
    """In: who the values say and the pod of `helm test`. Out: DNS, 443 and what is added."""
    chart = {"app.kubernetes.io/name": "invent-exporter", "app.kubernetes.io/instance": "invent"}
    exporter, test = (
        {"matchLabels": {**chart, "app.kubernetes.io/component": part}}
        for part in ("exporter", "test")
    )
    ingress, *egress = yaml.safe_load(POLICIES)[name]
    ingress["from"][-1] = {"podSelector": test}
    file = CI / f"{name}-values.yaml"
    policy = only(render("helm4", file, ("networkPolicy.enabled=true",)), "NetworkPolicy")
    assert policy["spec"] == {
        "podSelector": exporter,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [ingress],
        "egress": egress,
    }


def test_whoever_may_scrape() -> None:
    """An empty list lets everyone in, to the port of the metrics alone."""
    anyone = render(sets=("networkPolicy.enabled=true", "networkPolicy.ingress.from=[]"))
    assert only(anyone, "NetworkPolicy")["spec"]["ingress"] == [
        {"ports": [{"port": "metrics", "protocol": "TCP"}]}
    ]


def test_the_pod_of_the_test_runs_where_the_exporter_may() -> None:
    """Both pods have the same settings of scheduling, names and identity."""
    for name in ("scheduling", "network", "global"):
        manifests = _ci(name)
        exporter, test = _pod(manifests), only(manifests, "Pod")["spec"]
        for key in exporter.keys() & {
            *("affinity", "dnsConfig", "dnsPolicy", "hostAliases", "hostUsers", "imagePullSecrets"),
            *("nodeSelector", "priorityClassName", "runtimeClassName", "tolerations"),
        }:
            assert test[key] == exporter[key], key
    assert _pod(_ci("global"))["hostUsers"] is False
    assert "hostUsers" not in _pod(render())


def test_what_parent_charts_share() -> None:
    """Registry and pull secrets of `global`: a slash at the end and a name given twice are well."""
    pod = _pod(_ci("global"))
    image = "images.example/invent-exporter/invent-exporter:"
    assert pod["containers"][0]["image"].startswith(image)
    assert pod["imagePullSecrets"] == [{"name": "mirror"}, {"name": "other"}]
    (own,) = _values_of('{"image": {"registry": "images.example/team/"}}')
    assert _exporter(own)["image"].startswith("images.example/team/invent-exporter/")


def test_a_proxy_in_front() -> None:
    """Service, policy and scrape lead to the port of the proxy, by the names of both."""
    manifests = _ci("sidecar")
    (port,) = only(manifests, "Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (443, "https")
    policy = only(manifests, "NetworkPolicy")["spec"]
    assert policy["ingress"][0]["ports"] == [{"port": "https", "protocol": "TCP"}]
    assert "app.kubernetes.io/component" not in json.dumps(policy["ingress"])
    (endpoint,) = only(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["scheme"]) == ("metrics", "https")
    assert endpoint["tlsConfig"]["serverName"] == "invent-exporter.apps.svc"
    assert endpoint["basicAuth"]["password"] == {"name": "invent-scrape", "key": "password"}
    pod = _pod(manifests)
    assert [container["name"] for container in pod["containers"]] == ["exporter", "proxy"]
    assert [container["name"] for container in pod["initContainers"]] == ["wait"]
    assert "Pod" not in kinds(manifests)


def test_ports_of_the_service() -> None:
    """The Service's port is its own; the test and the notes ask it there."""
    manifests = _ci("network")
    spec = only(manifests, "Service")["spec"]
    (port,) = spec["ports"]
    assert (port["port"], port["nodePort"], port["targetPort"]) == (80, 30480, "metrics")
    assert spec["loadBalancerClass"] == "example.com/internal"
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("PreferDualStack", ["IPv4"])
    (container,) = only(manifests, "Pod")["spec"]["containers"]
    assert container["command"][-1] == "http://invent-invent-exporter.apps.svc:80/metrics"


def test_extra_objects_are_templates() -> None:
    """As YAML and as text, with the chart's own names filled in."""
    extra = by_name(_ci("extra-objects"))
    assert extra["ConfigMap", "invent-invent-exporter-extra"]["data"] == {"release": "invent"}
    assert extra["ConfigMap", "invent-invent-exporter-text"]["metadata"]["namespace"] == "apps"


def test_common_annotations_are_everywhere() -> None:
    """On every object; the chart's own win; the pod's are its own."""
    (manifests,) = _values_of(
        '{"commonAnnotations": {"a": "b", "helm.sh/hook-delete-policy": "x"},'
        ' "dashboards": {"enabled": true}, "keys": {"create": {"api-key": "x"}}}'
    )
    for item in manifests:
        assert item["metadata"]["annotations"]["a"] == "b", item["kind"]
    assert only(manifests, "Pod")["metadata"]["annotations"]["helm.sh/hook-delete-policy"] != "x"
    template = only(manifests, "Deployment")["spec"]["template"]["metadata"]
    assert "a" not in template["annotations"]


# --- Scrapes and rules ----------------------------------------------------------------------------


def test_a_pod_monitor_scrapes_as_the_service_monitor_does() -> None:
    """The same endpoint, but for the port's name being the pod's."""
    service, pod = _values_of(
        '{"serviceMonitor": {"enabled": true}}', '{"podMonitor": {"enabled": true}}'
    )
    (of_service,) = only(service, "ServiceMonitor")["spec"]["endpoints"]
    (of_pod,) = only(pod, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert of_pod == of_service
    spec = only(_ci("pod-monitor"), "PodMonitor")["spec"]
    assert (spec["podTargetLabels"], spec["scrapeClass"]) == (["team"], "istio")
    assert (spec["sampleLimit"], spec["bodySizeLimit"]) == (100000, "64MB")


@pytest.mark.parametrize(
    ("values", "job", "found"),
    [
        ("{}", "invent-exporter", ".*invent-exporter.*"),
        ("{nameOverride: flows}", "flows", "flows"),
        ("{serviceMonitor: {jobLabel: app.kubernetes.io/instance}}", "invent", "invent"),
        ("{serviceMonitor: {jobLabel: nowhere}}", "NAME", "NAME"),
        ("{prometheusRule: {thresholds: {exporter_job: mine}}}", None, "mine"),
    ],
)
@pytest.mark.parametrize("kind", ["serviceMonitor", "podMonitor"])
def test_alerts_know_the_job_of_the_scrape(
    kind: str, values: str, job: str | None, found: str
) -> None:
    """The operator takes the label's value, or without it the name of the Service or PodMonitor."""
    switches = (f"{kind}.enabled=true", "prometheusRule.enabled=true")
    given = tuple(f"{key}={json.dumps(value)}" for key, value in yaml.safe_load(values).items())
    manifests = render(sets=(*given, *switches))
    text = json.dumps(only(manifests, "PrometheusRule"))
    name = ("apps/" if kind == "podMonitor" else "") + "invent-invent-exporter"
    assert set(re.findall(r'up\{job=~\\"([^"\\]+)', text)) == {found.replace("NAME", name)}
    monitor = only(manifests, kind[0].upper() + kind[1:])["spec"]
    of = only(manifests, "Service" if kind == "serviceMonitor" else "Deployment")
    labels = (of["spec"].get("template") or of)["metadata"]["labels"]
    assert job in (None, labels.get(monitor["jobLabel"], "NAME"))


def test_alerts_know_the_job_that_an_alias_makes() -> None:
    """Below a parent chart the chart's name is the alias."""
    monitored = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    (manifests,) = render_many([{**monitored, "nameOverride": ""}])
    label = only(manifests, "ServiceMonitor")["spec"]["jobLabel"]
    assert only(manifests, "Service")["metadata"]["labels"][label] == "alias0"
    text = json.dumps(only(manifests, "PrometheusRule"))
    assert set(re.findall(r'up\{job=~\\"([^"\\]+)', text)) == {"alias0"}


def test_rules_of_ones_own_taste() -> None:
    """Labels for all alerts win over the rules' own, those of one alert over both; groups go."""
    spec = only(_ci("rules"), "PrometheusRule")["spec"]
    groups = {group["name"]: group["rules"] for group in spec["groups"]}
    assert "invent-credits" not in groups
    assert groups["mine"][0]["record"] == "invent:finished:rate5m"
    alerts = {rule["alert"]: rule for rules in groups.values() for rule in rules if "alert" in rule}
    failed = alerts.pop("InventRunFailed")
    assert failed["for"] == "10m"
    assert failed["annotations"]["summary"] == "A run failed"
    assert failed["annotations"]["runbook_url"]
    assert failed["labels"] == {"severity": "critical", "team": "operations", "component": "runs"}
    assert {alert["labels"]["severity"] for alert in alerts.values()} == {"info"}
    assert {alert["labels"]["team"] for alert in alerts.values()} == {"operations"}


def test_rules_once() -> None:
    """Of releases that share their values only the one that is named makes rules and dashboards."""
    file = CI / "shared-values.yaml"
    for release, makes in (("first", True), ("second", False)):
        found = kinds(render("helm4", file, release=release))
        assert ("PrometheusRule" in found) is makes
        assert (found.count("ConfigMap") == 4) is makes


@pytest.mark.parametrize("path", ["docs/deploy.md", "helm/invent-exporter/README.md"])
def test_the_values_in_the_documents_work(path: str) -> None:
    """Each example of values is taken, as it stands."""
    blocks = re.findall(r"(?m)^( *)```yaml\n(.*?)^ *```", (ROOT / path).read_text(), re.DOTALL)
    examples = [yaml.safe_load(textwrap.dedent(text)) for _, text in blocks]
    values = [one for one in examples if one.keys() <= SCHEMA["properties"].keys()]
    assert len(values) >= (4 if path.startswith("docs") else 1)
    for manifests in render_many(values):
        assert only(manifests, "Deployment")
