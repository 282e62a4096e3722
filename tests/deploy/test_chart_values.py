"""Each value of the chart does what its comment says, and nothing unknown is taken."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import generate
from invent_exporter.config import values as rules
from invent_exporter.config.load import MetricsConfig
from invent_exporter.config.schema import KEYS
from invent_exporter.config.yaml_nodes import Value
from invent_exporter.errors import ConfigError
from invent_exporter.web.routes import check_telemetry_path
from tests.deploy.chart import (
    CHART,
    HELMS,
    ROOT,
    VALUES_FILES,
    helm,
    kinds,
    only,
    refusal,
    render,
    render_many,
    render_with,
)

pytestmark = pytest.mark.system

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
SHA256 = "sha256:" + "0" * 64
PEER = [{"podSelector": {"matchLabels": {"a": "b"}}}]
NETWORK_POLICY = "networkPolicy.enabled=true"
MONITOR = "serviceMonitor.enabled=true"
NODE_PORT = 'service.type="NodePort"'
LOAD_BALANCER = 'service.type="LoadBalancer"'
RULE = "prometheusRule.enabled=true"
DASHBOARDS = "dashboards.enabled=true"

# Another value for each key of values.yaml, with what must be switched on for it to matter.
OTHER_VALUES: list[tuple[str, object, str | None]] = [
    ("replicas", 0, None),
    ("image.registry", "images.example", None),
    ("image.repository", "mirror/exporter", None),
    ("image.tag", "9.9.9", None),
    ("image.digest", SHA256, None),
    ("image.pullPolicy", "Always", None),
    ("imagePullSecrets", [{"name": "pull"}], None),
    ("nameOverride", "other", None),
    ("fullnameOverride", "other", None),
    ("namespaceOverride", "other", None),
    ("commonLabels", {"team": "a"}, None),
    ("commonAnnotations", {"a": "b"}, None),
    ("openshift", True, None),
    ("keys.existingSecret", "other", None),
    ("keys.entry", "other", None),
    ("keys.create", {"api-key": "not-a-real-key"}, None),
    ("config", {"poll_interval": "1m"}, None),
    ("log.level", "debug", None),
    ("log.format", "json", None),
    ("telemetryPath", "/other", None),
    ("port", 9999, None),
    ("extraArgs", ["--log.level=debug"], None),
    ("extraEnv", [{"name": "A", "value": "b"}], None),
    ("extraEnvFrom", [{"secretRef": {"name": "a"}}], None),
    ("extraVolumes", [{"name": "a", "emptyDir": {}}], None),
    ("extraVolumeMounts", [{"name": "a", "mountPath": "/a"}], None),
    ("extraContainers", [{"name": "a", "image": "b"}], None),
    ("initContainers", [{"name": "a", "image": "b"}], None),
    ("extraObjects", [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}], None),
    ("persistence.enabled", False, None),
    ("persistence.existingClaim", "other", None),
    ("persistence.storageClass", "fast", None),
    ("persistence.accessModes", ["ReadWriteOncePod"], None),
    ("persistence.size", "2Gi", None),
    ("persistence.keep", False, None),
    ("persistence.annotations", {"a": "b"}, None),
    ("persistence.volumeName", "other", None),
    ("persistence.selector", {"matchLabels": {"a": "b"}}, None),
    ("persistence.dataSource", {"kind": "PersistentVolumeClaim", "name": "other"}, None),
    ("serviceAccount.create", False, None),
    ("serviceAccount.name", "other", None),
    ("serviceAccount.annotations", {"a": "b"}, None),
    ("service.type", "NodePort", None),
    ("service.port", 80, None),
    ("service.targetPort", "https", None),
    ("service.nodePort", 30480, NODE_PORT),
    ("service.ipFamilyPolicy", "PreferDualStack", None),
    ("service.ipFamilies", ["IPv6"], None),
    ("service.loadBalancerClass", "example.com/other", LOAD_BALANCER),
    ("service.annotations", {"a": "b"}, None),
    ("service.labels", {"a": "b"}, None),
    ("serviceMonitor.enabled", True, None),
    ("serviceMonitor.namespace", "other", MONITOR),
    ("serviceMonitor.labels", {"a": "b"}, MONITOR),
    ("serviceMonitor.annotations", {"a": "b"}, MONITOR),
    ("serviceMonitor.interval", "15s", MONITOR),
    ("serviceMonitor.scrapeTimeout", "5s", MONITOR),
    ("serviceMonitor.instance", "other", MONITOR),
    ("serviceMonitor.jobLabel", "app.kubernetes.io/instance", MONITOR),
    ("serviceMonitor.targetLabels", ["a"], MONITOR),
    ("serviceMonitor.scheme", "https", MONITOR),
    ("serviceMonitor.tlsConfig", {"insecureSkipVerify": True}, MONITOR),
    ("serviceMonitor.basicAuth", {"password": {"name": "a", "key": "b"}}, MONITOR),
    ("serviceMonitor.scrapeClass", "other", MONITOR),
    ("serviceMonitor.limits", {"sampleLimit": 1}, MONITOR),
    ("podMonitor.enabled", True, None),
    ("serviceMonitor.relabelings", [{"action": "labeldrop", "regex": "endpoint"}], MONITOR),
    ("serviceMonitor.metricRelabelings", [{"action": "labeldrop", "regex": "x"}], MONITOR),
    ("prometheusRule.enabled", True, None),
    ("prometheusRule.namespace", "other", RULE),
    ("prometheusRule.labels", {"a": "b"}, RULE),
    ("prometheusRule.annotations", {"a": "b"}, RULE),
    ("prometheusRule.alertLabels", {"a": "b"}, RULE),
    ("prometheusRule.onlyRelease", "apps/other", RULE),
    ("prometheusRule.alerts", {"InventRunFailed": {"for": "1m"}}, RULE),
    ("prometheusRule.disabled", ["InventRunFailed"], RULE),
    ("prometheusRule.disabledGroups", ["invent-credits"], RULE),
    ("prometheusRule.additionalGroups", [{"name": "mine", "rules": []}], RULE),
    ("prometheusRule.thresholds", {"run_failed_window": "20m"}, RULE),
    ("dashboards.enabled", True, None),
    ("dashboards.onlyRelease", "apps/other", DASHBOARDS),
    ("dashboards.namespace", "other", DASHBOARDS),
    ("dashboards.labels", {"a": "b"}, DASHBOARDS),
    ("dashboards.annotations", {"a": "b"}, DASHBOARDS),
    ("networkPolicy.enabled", True, None),
    ("networkPolicy.ingress.from", PEER, NETWORK_POLICY),
    ("networkPolicy.egress.dns", PEER, NETWORK_POLICY),
    ("networkPolicy.egress.dnsPorts", [5353], NETWORK_POLICY),
    ("networkPolicy.egress.https", PEER, NETWORK_POLICY),
    ("networkPolicy.egress.extra", [{"ports": [{"port": 3128}]}], NETWORK_POLICY),
    ("helmTest.enabled", False, None),
    ("deploymentAnnotations", {"a": "b"}, None),
    ("deploymentLabels", {"a": "b"}, None),
    ("podAnnotations", {"a": "b"}, None),
    ("podLabels", {"a": "b"}, None),
    ("terminationGracePeriodSeconds", 30, None),
    ("revisionHistoryLimit", 1, None),
    ("priorityClassName", "high", None),
    ("runtimeClassName", "gvisor", None),
    ("hostUsers", False, None),
    ("dnsPolicy", "Default", None),
    ("dnsConfig", {"nameservers": ["192.0.2.53"]}, None),
    ("hostAliases", [{"ip": "192.0.2.7", "hostnames": ["a"]}], None),
    ("nodeSelector", {"a": "b"}, None),
    ("tolerations", [{"operator": "Exists"}], None),
    ("affinity", {"podAffinity": {}}, None),
    (
        "topologySpreadConstraints",
        [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        None,
    ),
    ("podSecurityContext", {"runAsUser": 10001}, None),
    ("securityContext", {"runAsUser": 10001}, None),
    ("resources", {"requests": {"cpu": "1"}}, None),
    ("startupProbe", {"failureThreshold": 9}, None),
    ("livenessProbe", {"failureThreshold": 9}, None),
    ("readinessProbe", {"failureThreshold": 9}, None),
    ("global.imageRegistry", "images.example", None),
    ("global.imagePullSecrets", ["pull"], None),
]
FOR_PARENT_CHARTS = {"enabled"}


def test_readme_is_made_from_the_values() -> None:
    """README.md is what `python -m helm.generate` would write."""
    text = (CHART / "README.md").read_text()
    assert generate.readme(text, (CHART / "values.yaml").read_text()) == text


def test_readme_needs_a_description_of_each_value() -> None:
    """A value without its comment is an error that names it."""
    with pytest.raises(ValueError, match=r"line 3: a\.c has no"):
        list(generate.rows("a:\n  # -- known\n  c: 1\n".replace("# -- known", "# plain")))


def test_every_value_is_tried() -> None:
    """The list of this module has every key of values.yaml, so a new one can't be forgotten."""
    keys = {name for name, _, _ in generate.rows((CHART / "values.yaml").read_text())}
    assert {path for path, _, _ in OTHER_VALUES} == keys - FOR_PARENT_CHARTS


def test_every_value_changes_something() -> None:
    """Each value, changed alone, changes the rendered objects."""
    switches = sorted({switch for _, _, switch in OTHER_VALUES if switch is not None})
    without = [_values(switch) for switch in (None, *switches)]
    changed = [_values(switch, path, value) for path, value, switch in OTHER_VALUES]
    rendered = list(render_many([*without, *changed]))
    before = dict(zip((None, *switches), rendered, strict=False))
    for (path, _, switch), after in zip(OTHER_VALUES, rendered[len(without) :], strict=True):
        assert after != before[switch], path


def _values(switch: str | None, path: str = "", value: object = None) -> dict[str, Any]:
    """Make values of a switch, as `key=JSON`, and of one value at a dotted path."""
    values: dict[str, Any] = {}
    if path:
        _put(values, path, value)
    if switch is not None:
        name, text = switch.split("=")
        _put(values, name, json.loads(text))
    return values


def _put(values: dict[str, Any], path: str, value: object) -> None:
    *sections, key = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[key] = value


# --- What is refused ------------------------------------------------------------------------------


def _objects(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _objects(schema["items"], f"{path}[]")


FREE_OBJECTS = {
    *(".extraEnv[]", ".extraEnvFrom[]", ".extraVolumes[]", ".extraVolumeMounts[]"),
    *(".extraContainers[]", ".initContainers[]", ".prometheusRule.additionalGroups[]"),
    *(".affinity.nodeAffinity", ".affinity.podAffinity", ".affinity.podAntiAffinity"),
    *(".networkPolicy.egress.extra[]", ".global"),
}
"""What is Kubernetes' own to check, or a parent chart's."""


def test_every_object_of_the_schema_is_closed() -> None:
    """Nowhere is an unknown key taken, but in maps of text and in what Kubernetes checks itself."""
    open_objects = set()
    for path, schema in _objects(SCHEMA, ""):
        rest = schema.get("additionalProperties", True)
        if rest is not False and not isinstance(rest, dict):
            open_objects.add(path)
    assert open_objects == FREE_OBJECTS


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("replica", 1, "replica"),
        ("image", {"repo": "x"}, "repo"),
        ("config", {"poll_intervall": "30s"}, "poll_intervall"),
        ("config", {"api": {"key": "secret"}}, "key"),
        ("config", {"poll_interval": 30}, "poll_interval"),
        ("config", {"poll_interval": "30"}, "poll_interval"),
        ("config", {"orgs": [{"id": "c", "keyfile": "x"}]}, "keyfile"),
        ("config", {"state": {"url": "sqlite://"}}, "state"),
        ("config", {"api": {"url": "http://api.example"}}, "url"),
        ("config", {"links": {"run": "https://app.example/{run}"}}, "run"),
        ("prometheusRule", {"thresholds": {"failure_ratio": 1}}, "failure_ratio"),
        ("prometheusRule", {"enabled": True, "disabled": ["NoSuchAlert"]}, "NoSuchAlert"),
        ("log", {"level": "verbose"}, "level"),
        ("port", "http", "port"),
        ("livenessProbe", {"periodSecond": 3}, "periodSecond"),
    ],
)
def test_a_wrong_value_is_refused(program: str, name: str, value: object, says: str) -> None:
    """A typo or a wrong type ends the installation with its name."""
    assert says in refusal(program, **{name: value})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("api", "url", "https://api.example"),
        ("api", "url", "https://api.example:8443/v1/"),
        ("api", "url", "http://127.0.0.1:9000"),
        ("api", "url", "http://localhost"),
        ("api", "url", "http://[::1]:9000/v1"),
        ("api", "url", "http://api.example"),
        ("api", "url", "http://localhost.example"),
        ("api", "url", "http://127.0.0.1.example"),
        ("api", "url", "https://user@api.example"),
        ("api", "url", "https://api.example?x=1"),
        ("api", "url", "https://api.example#x"),
        ("api", "url", "https:// api.example"),
        ("api", "url", "https://api.example/a@b"),
        ("api", "url", "https://api.example/a\\b"),
        ("api", "url", "https://[fd00::1]:8443/v1"),
        ("api", "url", "https://"),
        ("api", "url", "https:///v1"),
        ("api", "url", "https://-api.example"),
        ("api", "url", "https://api.example:0"),
        ("api", "url", "https://api.example:999999"),
        ("api", "url", "ftp://api.example"),
        ("api", "url", ""),
        ("links", "run", "http://app.example/runs"),
        ("links", "run", "https://app.example/{org_id}/{workflow_id}/{run_id}?a=1#b"),
        ("links", "run", "https://app.example/{{{run_id}}}"),
        ("links", "run", "https://app.example:8443?run={run_id}"),
        ("links", "run", "https://app.example/a@b/{run_id}"),
        ("links", "run", "https://{org_id}.app.example/{run_id}"),
        ("links", "run", "https://u@app.example/{run_id}"),
        ("links", "run", "https://app.example:x/{run_id}"),
        ("links", "run", "https://app.example/{run}"),
        ("links", "run", "https://app.example/{run_id"),
        ("links", "run", "https://app.example/run_id}"),
        ("links", "run", "https://app.example/{run_id:>9}"),
        ("links", "run", "https://app.example/{}"),
        ("links", "run", "app.example/{run_id}"),
    ],
)
def test_the_schema_takes_the_urls_that_the_exporter_takes(
    section: str, key: str, value: str
) -> None:
    """What one refuses the other refuses, so that no pod is started to end at once."""
    rule = {"url": rules.api_url, "run": rules.run_link}[key]
    pattern = SCHEMA["properties"]["config"]["properties"][section]["properties"][key]["pattern"]
    try:
        rule(Value(yaml.ScalarNode("tag:yaml.org,2002:str", value), key))
    except ConfigError:
        assert not re.search(pattern, value)
    else:
        assert re.search(pattern, value)


@pytest.mark.parametrize("program", HELMS)
def test_several_replicas_are_refused(program: str) -> None:
    """More than one replica is refused, with the reason and what to do."""
    said = refusal(program, replicas=2)
    assert "one SQLite file" in said
    assert "Use replicas: 1" in said


def test_a_scrape_interval_above_the_newborn_hold_is_refused() -> None:
    """A scrape that could miss the first 0 of a workflow is refused, a longer hold mends it."""
    monitor = {"enabled": True, "interval": "2m"}
    assert "newborn_hold (65s)" in refusal(serviceMonitor=monitor)
    hold = 'config={"metrics": {"newborn_hold": "120s"}}'
    assert only(render(sets=(f"serviceMonitor={json.dumps(monitor)}", hold)), "ServiceMonitor")


def test_a_scrape_timeout_above_the_interval_is_refused() -> None:
    """The operator would leave such a ServiceMonitor out, and nothing would be scraped."""
    monitor = {"enabled": True, "interval": "5s", "scrapeTimeout": "10s"}
    assert "serviceMonitor.scrapeTimeout: 10s is longer" in refusal(serviceMonitor=monitor)


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_a_section_that_is_taken_away_is_refused(name: str) -> None:
    """A null, which removes the default, is named instead of failing inside of a template."""
    values: dict[str, Any] = {name: None}
    assert name in refusal(**values)


def test_a_longer_hold_is_the_default_of_the_program() -> None:
    """What the chart compares the interval with is what the exporter holds by default."""
    monitor = {"enabled": True, "interval": "10m"}
    hold = f"newborn_hold ({MetricsConfig().newborn_hold_seconds:g}s)"
    assert hold in refusal(serviceMonitor=monitor)


def test_the_schema_knows_the_keys_that_the_exporter_knows() -> None:
    """`config` takes every key of the configuration file but those that are the chart's to set."""
    sections = {key.rpartition(".")[0].removesuffix("[]") for key in KEYS}
    known = (sections | set(KEYS)) - {""}
    chart = {"api.key", "orgs[].key", "state", "state.url"}
    config_schema = SCHEMA["properties"]["config"]
    described = {
        f"{path}.{key}".removeprefix(".")
        for path, schema in _objects(config_schema, "")
        for key in schema.get("properties", {})
    }
    described = {key.removeprefix(".") for key in described}
    assert described == known - chart | {"existingConfigMap"}


def test_no_key_is_refused() -> None:
    """Without any Secret, or without the entry that is named, there is nothing to start."""
    assert "no API key: expected keys.existingSecret" in refusal(keys={"existingSecret": ""})
    assert 'no entry "api-key"' in refusal(keys={"create": {"other": "x"}})


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    ("config", "org"),
    [
        ({}, "c"),
        ({"orgs": [{"id": "acme", "key_file": "/run/secrets/invent/a"}, {"id": "other"}]}, "other"),
    ],
)
def test_an_org_without_a_key_is_refused(program: str, config: object, org: str) -> None:
    """No entry for all, no key of its own and none in the environment: the exporter would end."""
    others = [{"name": "HTTPS_PROXY", "value": "http://proxy.internal:3128"}]
    said = refusal(program, keys={"entry": ""}, config=config, extraEnv=others)
    assert f"config.orgs, {org}: no API key: expected keys.existingSecret" in said


@pytest.mark.parametrize(
    "given",
    [
        'config={"orgs": [{"id": "acme", "key_file": "/run/secrets/invent/acme"}]}',
        'extraEnv=[{"name": "INVENT_API_KEY_FILE", "value": "/run/secrets/invent/b"}]',
        'extraEnvFrom=[{"secretRef": {"name": "key"}}]',
        'extraArgs=["--config.file=/own/config.yaml"]',
    ],
)
def test_a_key_may_come_from_elsewhere(given: str) -> None:
    """From a file of the org, from the environment, or from a configuration of the user's own."""
    assert only(render(sets=('keys={"entry": ""}', given)), "Deployment")


@pytest.mark.parametrize("program", HELMS)
def test_what_the_exporter_would_refuse_is_refused(program: str) -> None:
    """Here it is one line at once, there a pod that does not start."""
    config = {"orgs": [{"id": "acme", "sub_orgs": True}]}
    assert "config.orgs, acme: sub_orgs: true is not supported yet" in refusal(
        program, config=config
    )
    for path in ("/-/healthy", "/-/ready", "/-/reload"):
        assert f"telemetryPath: {path} is taken" in refusal(program, telemetryPath=path)
    address = "--web.listen-address=0.0.0.0:10480"
    assert f"extraArgs: {address}: the chart gives" in refusal(program, extraArgs=[address])
    for path in ("/a%20b", "/a?b", "/a#b", "/a b", "/ä", "metrics"):
        assert "telemetryPath" in refusal(program, telemetryPath=path)


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/metrics", "/a/b-c_d.e~f", "/@:;=&$!"])
def test_paths_that_the_exporter_takes_are_taken(path: str) -> None:
    """The schema is no stricter than the program."""
    assert check_telemetry_path(path) == path
    arguments = only(render_with("telemetryPath", path), "Deployment")["spec"]["template"]["spec"]
    assert f"--web.telemetry-path={path}" in arguments["containers"][0]["args"]


# --- What is made ---------------------------------------------------------------------------------

LONGEST_RELEASE = "release-" + "x" * 45
"""Helm takes 53 characters."""


@pytest.mark.parametrize("release", [LONGEST_RELEASE, "my.release"])
@pytest.mark.parametrize("name", ["", "n" * 63])
def test_names_are_names_for_kubernetes(release: str, name: str) -> None:
    """Whatever the release is called, names and values of labels are valid and not too long."""
    sets = (MONITOR, RULE, DASHBOARDS, f"nameOverride={json.dumps(name)}")
    manifests = render(sets=(*sets, 'keys.create={"api-key": "x"}'), release=release)
    assert len({(item["kind"], item["metadata"]["name"]) for item in manifests}) == len(manifests)
    for item in manifests:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", item["metadata"]["name"])
        for value in item["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value)


def test_a_label_stands_once() -> None:
    """A label that several values name is written once: the nearest wins, but not the chart's."""
    label = '{"team": "near", "app.kubernetes.io/name": "other"}'
    sets = ['commonLabels={"team": "far", "shared": "yes"}', MONITOR, RULE, DASHBOARDS]
    paths = ("podLabels", "service.labels", "serviceMonitor.labels", "prometheusRule.labels")
    sets += [f"{path}={label}" for path in (*paths, "dashboards.labels")]
    sets.append('podAnnotations={"checksum/config": "mine"}')
    manifests = render(sets=tuple(sets))
    labels = {item["kind"]: item["metadata"]["labels"] for item in manifests}
    pod = only(manifests, "Deployment")["spec"]["template"]["metadata"]
    for found in (pod["labels"], labels["Service"], labels["ServiceMonitor"]):
        assert found["team"] == "near"
        assert found["shared"] == "yes"
        assert found["app.kubernetes.io/name"] == "invent-exporter"
    assert labels["Deployment"]["team"] == "far"
    assert pod["annotations"]["checksum/config"] != "mine"


@pytest.mark.parametrize(("name", "job"), [("", "invent-exporter"), ("flows", "flows")])
def test_alerts_know_the_job_that_the_service_monitor_makes(name: str, job: str) -> None:
    """With another name the alerts about the exporter watch that job."""
    manifests = render(sets=(MONITOR, RULE, f"nameOverride={json.dumps(name)}"))
    monitor = only(manifests, "ServiceMonitor")["spec"]
    assert only(manifests, "Service")["metadata"]["labels"][monitor["jobLabel"]] == job
    groups = only(manifests, "PrometheusRule")["spec"]["groups"]
    exprs = {rule.get("record"): rule["expr"] for group in groups for rule in group["rules"]}
    found = re.search(r'up\{job=~"([^"]+)"', exprs["job:invent_exporter_up:max"])
    assert found is not None
    assert re.fullmatch(found[1], job)


def test_thresholds_are_those_of_grafana() -> None:
    """The schema is what `python -m helm.generate` writes: grafana/'s thresholds, no others."""
    text = (CHART / "values.schema.json").read_text()
    thresholds = (ROOT / "grafana" / "thresholds.yaml").read_text()
    assert generate.schema(text, thresholds) == text


def test_no_threshold_is_left_open() -> None:
    """Every marker of the rule templates is filled."""
    rule = only(render(sets=(RULE,)), "PrometheusRule")
    assert "@" not in yaml.safe_dump(rule).replace("@ ", "")


def test_thresholds_alert_labels_and_disabled_alerts() -> None:
    """A threshold of the values is in the rules, each alert has the label, a disabled is gone."""
    rule = only(render("helm4", CHART / "ci" / "monitoring-values.yaml"), "PrometheusRule")
    rules = [rule for group in rule["spec"]["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert "0.5" in alerts["InventFailureRatioHigh"]["expr"]
    assert "2419200" in yaml.safe_dump(rules)
    assert {alert["labels"]["team"] for alert in alerts.values()} == {"operations"}
    assert all(alert["labels"]["severity"] for alert in alerts.values())
    assert "InventRunFailed" not in alerts


def test_config_change_restarts_the_pod() -> None:
    """The pod carries a checksum of the configuration, which it reads when it starts."""
    deployments = [only(render(), "Deployment"), only(_slower(), "Deployment")]
    sums = [item["spec"]["template"]["metadata"]["annotations"] for item in deployments]
    assert sums[0]["checksum/config"] != sums[1]["checksum/config"]


def _slower() -> tuple[dict[str, Any], ...]:
    return render_with("config.poll_interval", "1m")


def test_strategy_recreate() -> None:
    """The old pod lets go of the ledger before the new one opens it."""
    assert only(render(), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_keys_are_files_that_others_cannot_read() -> None:
    """Keys are mounted as files, never put into the environment; the configuration names them."""
    manifests = render()
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [item for item in pod["volumes"] if item["name"] == "keys"]
    assert volume["secret"] == {"secretName": "invent-api-key", "defaultMode": 0o440}
    (container,) = pod["containers"]
    assert "env" not in container
    configured = yaml.safe_load(only(manifests, "ConfigMap")["data"]["config.yaml"])
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "keys"]
    assert configured["api"]["key_file"] == f"{mount['mountPath']}/api-key"


def test_created_keys_are_in_a_secret_only() -> None:
    """A key in the values ends up in the Secret and nowhere else."""
    manifests = render("helm4", CHART / "ci" / "created-keys-values.yaml")
    data = only(manifests, "Secret")["data"]
    assert {name: base64.b64decode(text, validate=True) for name, text in data.items()} == {
        "api-key": b"not-a-real-key"
    }
    others = [item for item in manifests if item["kind"] != "Secret"]
    assert "not-a-real-key" not in yaml.safe_dump(others)
    assert "bm90LWEtcmVhbC1rZXk" not in yaml.safe_dump(others)
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [item for item in pod["volumes"] if item["name"] == "keys"]
    assert volume["secret"]["secretName"] == only(manifests, "Secret")["metadata"]["name"]


def test_the_claim_survives_and_is_used() -> None:
    """The ledger's claim is kept by default, and mounted at /data; an own one replaces it."""
    claim = only(render(), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    existing = render("helm4", CHART / "ci" / "existing-claim-values.yaml")
    assert "PersistentVolumeClaim" not in kinds(existing)
    for manifests, name in ((render(), claim["metadata"]["name"]), (existing, "invent-ledger")):
        pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
        (volume,) = [item for item in pod["volumes"] if item["name"] == "data"]
        assert volume["persistentVolumeClaim"] == {"claimName": name}
        (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "data"]
        assert mount["mountPath"] == "/data"


def test_network_policy_opens_the_scrape_dns_and_443_only() -> None:
    """In: the metrics port. Out: DNS in kube-system, and 443."""
    policy = only(render(sets=(NETWORK_POLICY,)), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert ingress["from"][0] == {"namespaceSelector": monitoring}
    dns, https = policy["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    assert dns["to"] == [{"namespaceSelector": system}]
    assert https == {"ports": [{"port": 443, "protocol": "TCP"}]}


def test_probes_ask_the_paths_of_their_meaning() -> None:
    """Liveness and start ask for health, readiness for readiness, on the named port."""
    (container,) = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    health = {"path": "/-/healthy", "port": "metrics"}
    assert asked == {"startup": health, "liveness": health}
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "metrics"}


def _configured(values_file: Path) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return the configuration file, the arguments and the environment that the chart makes."""
    manifests = render("helm4", values_file)
    files = [item.get("data", {}) for item in manifests if item["kind"] == "ConfigMap"]
    (text,) = [file["config.yaml"] for file in files if "config.yaml" in file] or ["{}"]
    (container, *_) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    # The value from a Secret is not known here.
    env = {one["name"]: one.get("value", "not-a-real-key") for one in container.get("env", [])}
    return text, tuple(container["args"]), env


def test_the_exporter_accepts_the_rendered_config(tmp_path: Path) -> None:
    """The real `--config.check` takes each rendered file, its keys and state in reach."""
    distinct = {
        json.dumps(_configured(values_file)): _configured(values_file)
        for values_file in VALUES_FILES
    }
    assert len(distinct) >= 7
    for text, arguments, env in distinct.values():
        key, file = tmp_path / "key", tmp_path / "config.yaml"
        key.write_text("not-a-real-key\n")
        with_key = re.sub(r"key_file: .+", f"key_file: {key}", text)
        file.write_text(with_key.replace("sqlite:////data/", f"sqlite:///{tmp_path}/"))
        if "INVENT_API_KEY_FILE" in env:
            env["INVENT_API_KEY_FILE"] = str(key)
        own = [one for one in arguments if not one.startswith("--config.file=")]
        flags = [*own, f"--config.file={file}", "--config.check"]
        done = subprocess.run(
            [sys.executable, ROOT / "exporter.py", *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, **env},
        )
        assert done.returncode == 0, done.stderr
        assert "ok" in done.stdout


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((), "create secret generic invent-api-key --from-file=api-key=FILE"),
        (("persistence.enabled=false",), "each new pod is a new first contact"),
        (('keys.create={"api-key": "not-a-real-key"}',), "helm -n apps test invent"),
        ((), "serviceMonitor.enabled is false"),
    ],
)
def test_notes_say_what_to_do_next(values: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """What `helm install` prints names the Secret to make, and what is not kept."""
    # A dry run takes no --kube-version, and a Helm built from source believes in an old one. Helm 3
    # wants a cluster even for this.
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    described = yaml.safe_load((chart / "Chart.yaml").read_text())
    del described["kubeVersion"]
    (chart / "Chart.yaml").write_text(yaml.safe_dump(described))
    arguments = [argument for value in values for argument in ("--set-json", value)]
    command = ("install", "invent", str(chart), "--namespace", "apps", "--dry-run=client")
    done = helm("helm4", *command, *arguments)
    notes = done.stdout.split("NOTES:")[-1]
    assert says in notes, done.stdout + done.stderr
    assert "not-a-real-key" not in notes
