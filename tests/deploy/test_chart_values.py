"""Each value of the chart does what its comment says, and nothing unknown is taken."""

import base64
import json
import re
import shutil
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
from tests.deploy.odd_values import SCHEMA, resolve
from tests.programs import run

pytestmark = pytest.mark.system

NETWORK_POLICY = "networkPolicy.enabled=true"
MONITOR = "serviceMonitor.enabled=true"
RULE = "prometheusRule.enabled=true"
DASHBOARDS = "dashboards.enabled=true"

# A value in the place of the default, where none can be made of its type and pattern.
OTHER_VALUES: dict[str, object] = yaml.safe_load("""
replicas: 0
imagePullSecrets: [{name: pull}]
keys.create: {api-key: not-a-real-key}
config: {poll_interval: 1m}
extraArgs: [--log.level=debug]
extraEnv: [{name: A, value: b}]
extraEnvFrom: [{secretRef: {name: a}}]
extraVolumes: [{name: a, emptyDir: {}}]
extraVolumeMounts: [{name: a, mountPath: /a}]
extraContainers: [{name: a, image: b}]
initContainers: [{name: a, image: b}]
extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}]
persistence.accessModes: [ReadWriteOncePod]
persistence.selector: {matchLabels: {a: b}}
persistence.dataSource: {kind: PersistentVolumeClaim, name: other}
service.ipFamilies: [IPv6]
serviceMonitor.interval: 15s
serviceMonitor.targetLabels: [a]
serviceMonitor.tlsConfig: {insecureSkipVerify: true}
serviceMonitor.basicAuth: {password: {name: a, key: b}}
serviceMonitor.limits: {sampleLimit: 1}
serviceMonitor.relabelings: [{action: labeldrop, regex: endpoint}]
serviceMonitor.metricRelabelings: [{action: labeldrop, regex: x}]
prometheusRule.alerts: {InventRunFailed: {for: 1m}}
prometheusRule.disabled: [InventRunFailed]
prometheusRule.disabledGroups: [invent-credits]
prometheusRule.additionalGroups: [{name: mine, rules: []}]
prometheusRule.thresholds: {run_failed_window: 20m}
networkPolicy.ingress.from: [{podSelector: {matchLabels: {a: b}}}]
networkPolicy.egress.dns: [{podSelector: {matchLabels: {a: b}}}]
networkPolicy.egress.dnsPorts: [5353]
networkPolicy.egress.postgresql: [{podSelector: {matchLabels: {a: b}}}]
networkPolicy.egress.https: [{podSelector: {matchLabels: {a: b}}}]
networkPolicy.egress.extra: [{ports: [{port: 3128}]}]
hostUsers: false
dnsConfig: {nameservers: [192.0.2.53]}
hostAliases: [{ip: 192.0.2.7, hostnames: [a]}]
tolerations: [{operator: Exists}]
affinity: {podAffinity: {}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
podSecurityContext: {runAsUser: 10001}
securityContext: {runAsUser: 10001}
resources: {requests: {cpu: "1"}}
startupProbe: {failureThreshold: 9}
livenessProbe: {failureThreshold: 9}
readinessProbe: {failureThreshold: 9}
global.imagePullSecrets: [pull]
""")
TEXTS = ("other", "9s", "2Gi", "/other", "apps/other", "sha256:" + "0" * 64)
SWITCHED_ON: dict[str, dict[str, Any]] = yaml.safe_load("""
web.entry: {web: {existingSecret: web}}
web.tlsSecret: {web: {existingSecret: web}}
state.entry: {state: {existingSecret: state}}
podDisruptionBudget: {state: {existingSecret: state}, replicas: 2}
networkPolicy.egress.postgresql: {state: {existingSecret: state}, networkPolicy: {enabled: true}}
serviceMonitor.tlsConfig: {serviceMonitor: {enabled: true, scheme: https}}
service.nodePort: {service: {type: NodePort}}
service.loadBalancerClass: {service: {type: LoadBalancer}}
""")
"""What lets a value matter, by how its path begins."""


def _other(path: str, default: object) -> object:
    """Return a value that is not the default, and that the schema takes in its place."""
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, dict):
        return {"a": "b"}
    described = resolve(SCHEMA)
    for key in path.split("."):
        described = resolve(described["properties"][key])
    texts = described.get("enum", TEXTS)
    pattern = described.get("pattern", "")
    return next(text for text in texts if text and text != default and re.search(pattern, text))


def test_readme_is_made_from_the_values() -> None:
    """README.md is what `python -m helm.generate` would write."""
    text = (CHART / "README.md").read_text()
    assert generate.readme(text, (CHART / "values.yaml").read_text()) == text


ROWS_OF_HELM_DOCS = """| key | default | meaning |
| --- | --- | --- |
{{ range .Values -}}
| `{{ .Key }}` | {{ .Default | replace "nil" "null" }} | {{ .AutoDescription }} |
{{ end -}}
"""


def test_helm_docs_writes_the_same_readme(tmp_path: Path) -> None:
    """What the tool that other charts use makes of the comments, to the last byte."""
    copy = tmp_path / "invent-exporter"
    shutil.copytree(CHART, copy)
    text = (CHART / "README.md").read_text()
    head, rest = text.split(generate.BEGIN)
    tail = rest.split(generate.END)[1]
    template = head + generate.BEGIN + ROWS_OF_HELM_DOCS + generate.END + tail
    (copy / "README.md.gotmpl").write_text(template)
    (copy / "README.md").unlink()
    done = run("helm-docs", "--chart-search-root", tmp_path, "--sort-values-order", "file")
    assert done.returncode == 0, done.stderr
    assert (copy / "README.md").read_text() == text


def test_readme_needs_a_description_of_each_value() -> None:
    """A value without its comment is an error that names it."""
    with pytest.raises(ValueError, match=r"line 3: a\.c has no"):
        list(generate.rows("a:\n  # -- known\n  c: 1\n".replace("# -- known", "# plain")))


def test_every_value_changes_something() -> None:
    """Each key of values.yaml, changed alone, changes the rendered objects."""
    rows = generate.rows((CHART / "values.yaml").read_text())
    defaults = {path: json.loads(default) for path, default, _ in rows}
    del defaults["enabled"]  # for parent charts
    switched = [_switched_on(path, defaults) for path in defaults]
    changed = [
        _with(values, path, _other(path, default))
        for values, (path, default) in zip(switched, defaults.items(), strict=True)
    ]
    rendered = list(render_many([*switched, *changed]))
    pairs = zip(rendered[: len(defaults)], rendered[len(defaults) :], strict=True)
    for path, (before, after) in zip(defaults, pairs, strict=True):
        assert after != before, path


def _switched_on(path: str, defaults: dict[str, object]) -> dict[str, Any]:
    """Return the values that let another one at a dotted path matter."""
    section = path.split(".", maxsplit=1)[0]
    for beginning, values in SWITCHED_ON.items():
        if path.startswith(beginning):
            return values
    is_off = defaults.get(f"{section}.enabled") is False and path != f"{section}.enabled"
    return {section: {"enabled": True}} if is_off else {}


def _with(values: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of the values with another one at a dotted path."""
    key, _, rest = path.partition(".")
    return {**values, key: _with(values.get(key, {}), rest, value) if rest else value}


# --- What is refused ------------------------------------------------------------------------------


def _objects(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    schema = resolve(schema)
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


REFUSED = """
  # A typo, or a wrong type.
  - [{replica: 1}, replica]
  - [{image: {repo: x}}, repo]
  - [{config: {poll_intervall: 30s}}, poll_intervall]
  - [{config: {api: {key: secret}}}, key]
  - [{config: {poll_interval: 30}}, poll_interval]
  - [{config: {poll_interval: "30"}}, poll_interval]
  - [{config: {orgs: [{id: c, keyfile: x}]}}, keyfile]
  - [{config: {state: {url: "sqlite://"}}}, url]
  - [{podDisruptionBudget: {maxUnavailable: 0}}, maxUnavailable]
  - [{config: {api: {url: "http://api.example"}}}, url]
  - [{config: {links: {run: "https://app.example/{run}"}}}, run]
  - [{prometheusRule: {thresholds: {failure_ratio: 1}}}, failure_ratio]
  - [{prometheusRule: {enabled: true, disabled: [NoSuchAlert]}}, NoSuchAlert]
  - [{log: {level: verbose}}, level]
  - [{port: http}, port]
  - [{onConfigChange: nothing}, onConfigChange]
  - [{livenessProbe: {periodSecond: 3}}, periodSecond]
  - [{commonLabels: {team: "a: b"}}, team]
  - [{networkPolicy: {ingress: {namespaceSelector: {}}}}, namespaceSelector]
  # What would lose or double runs, or not be scraped.
  - [{replicas: 2}, "expected replicas: 1, or state.existingSecret with the URL"]
  - [{replicas: 2, persistence: {enabled: false}}, "replicas: 2: the state is one SQLite"]
  - [{serviceMonitor: {enabled: true, interval: 2m}}, newborn_hold (65s)]
  - [{serviceMonitor: {enabled: true, interval: 5s, scrapeTimeout: 6s}},
     "serviceMonitor.scrapeTimeout: 6s is longer"]
  - [{web: {existingSecret: a}, serviceMonitor: {enabled: true}},
     "serviceMonitor.scheme: web.existingSecret may ask for TLS"]
  - [{web: {existingSecret: a, tlsSecret: b}, podMonitor: {enabled: true},
      serviceMonitor: {scheme: http}}, 'serviceMonitor.scheme: "http": with web.tlsSecret']
  # No key: the exporter would end at once.
  - [{keys: {existingSecret: ""}}, "no API key: expected keys.existingSecret"]
  - [{keys: {create: {other: x}}}, 'no entry "api-key"']
  - [{keys: {entry: ""}}, "config.orgs, c: no API key: expected keys.existingSecret"]
  - [{keys: {entry: ""}, config: {orgs: [{id: a, key_file: /run/secrets/invent/a}, {id: other}]},
      extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.internal:3128"}]},
     "config.orgs, other: no API key: expected keys.existingSecret"]
  # What the exporter would refuse when it starts.
  - [{telemetryPath: /-/healthy}, "telemetryPath: /-/healthy is taken"]
  - [{telemetryPath: /-/ready}, "telemetryPath: /-/ready is taken"]
  - [{telemetryPath: /-/reload}, "telemetryPath: /-/reload is taken"]
  - [{telemetryPath: /a%20b}, telemetryPath]
  - [{telemetryPath: "/a?b"}, telemetryPath]
  - [{telemetryPath: "/a#b"}, telemetryPath]
  - [{telemetryPath: "/a b"}, telemetryPath]
  - [{telemetryPath: /ä}, telemetryPath]
  - [{telemetryPath: metrics}, telemetryPath]
  - [{extraArgs: ["--web.listen-address=0.0.0.0:10480"]},
     "extraArgs: --web.listen-address=0.0.0.0:10480: the chart gives"]
  - [{extraArgs: [--web.config.file=/a]},
     "--web.config.file=/a: the probes have to know it; expected web.existingSecret"]
  - [{extraArgs: ["--web.health-address=127.0.0.1:1"]}, the chart sets it where it is needed]
  - [{extraArgs: [--web.enable-lifecycle]}, it is a value; expected web.enableLifecycle]
  - [{extraArgs: [--web.telemetry-path=/a]}, expected telemetryPath]
  # What would have no effect.
  - [{config: {existingConfigMap: a, poll_interval: 1m}},
     "config.existingConfigMap: poll_interval has no effect"]
  - [{config: {api: {key_file: /vault/secrets/key}}},
     "config.api.key_file: keys.entry names the key as well"]
  - [{extraEnv: [{name: INVENT_API_KEY, value: x}]},
     "extraEnv: INVENT_API_KEY wins over keys.entry"]
  - [{extraEnv: [{name: INVENT_STATE_URL, value: "sqlite://"}]},
     "expected persistence or state.existingSecret"]
  - [{extraEnv: [{name: INVENT_API_URL, value: "https://a.example"}],
      config: {api: {url: "https://b.example"}}},
     "extraEnv: INVENT_API_URL wins over config.api.url"]
  - [{extraEnv: [{name: INVENT_ORG_ID, value: a}], config: {orgs: [{id: b}]}},
     "extraEnv: INVENT_ORG_ID has no effect beside config.orgs"]
  - [{web: {tlsSecret: a}}, "web.tlsSecret: a has no effect without web.existingSecret"]
  - [{serviceMonitor: {enabled: true, tlsConfig: {serverName: a}}},
     serviceMonitor.tlsConfig has no effect with http]
  - [{persistence: {enabled: false, existingClaim: a}}, persistence.existingClaim has no effect]
  - [{persistence: {existingClaim: a}, state: {existingSecret: b}},
     "persistence.existingClaim has no effect with state.existingSecret"]
  - [{config: {state: {lease: 20s}}}, config.state.lease has no effect]
  - [{service: {nodePort: 30480}}, "service.nodePort: a ClusterIP has none"]
  - [{service: {type: NodePort, loadBalancerClass: a}},
     "service.loadBalancerClass: NodePort has none"]
  - [{podMonitor: {enabled: true}, serviceMonitor: {enabled: true}},
     "podMonitor.enabled: serviceMonitor.enabled is true as well"]
  - [{prometheusRule: {enabled: true, disabledGroups: [invent-recording-usual]}},
     "which would be off: expected its group on"]
  - [{prometheusRule: {enabled: true, disabledGroups: [invent]}},
     'there is no group "invent": there are invent-credits']
  - [{prometheusRule: {enabled: true, alerts: {NoSuchAlert: {for: 1m}}}},
     'there is no alert "NoSuchAlert"']
"""


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(("values", "says"), yaml.safe_load(REFUSED))
def test_values_that_are_refused(program: str, values: dict[str, object], says: str) -> None:
    """What is wrong, or would have no effect, ends the installation with what to do instead."""
    assert says in refusal(program, **values)


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


def test_a_scrape_interval_goes_with_the_newborn_hold() -> None:
    """The hold that an interval is compared with is the program's default, or a longer one."""
    assert MetricsConfig().newborn_hold_seconds == 65
    hold = 'config={"metrics": {"newborn_hold": "120s"}}'
    assert only(render(sets=(MONITOR, 'serviceMonitor.interval="2m"', hold)), "ServiceMonitor")


@pytest.mark.parametrize("name", SCHEMA["required"])
def test_a_section_that_is_taken_away_is_refused(name: str) -> None:
    """A null, which removes the default, is named instead of failing inside of a template."""
    values: dict[str, Any] = {name: None}
    assert name in refusal(**values)


def test_the_schema_knows_the_keys_that_the_exporter_knows() -> None:
    """`config` takes every key of the configuration file but those that are the chart's to set."""
    sections = {key.rpartition(".")[0].removesuffix("[]") for key in KEYS}
    known = (sections | set(KEYS)) - {""}
    chart = {"api.key", "orgs[].key", "state.url"}
    config_schema = SCHEMA["properties"]["config"]
    described = {
        f"{path}.{key}".removeprefix(".")
        for path, schema in _objects(config_schema, "")
        for key in schema.get("properties", {})
    }
    described = {key.removeprefix(".") for key in described}
    assert described == known - chart | {"existingConfigMap"}


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


def test_thresholds_are_those_of_grafana() -> None:
    """The schema is what `python -m helm.generate` writes: grafana/'s thresholds, no others."""
    text = (CHART / "values.schema.json").read_text()
    thresholds = (ROOT / "grafana" / "thresholds.yaml").read_text()
    assert generate.schema(text, thresholds) == text


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
    """The pod carries a checksum of the configuration, which it reads when it starts.

    The old pod lets go of the ledger before the new one opens it.
    """
    slower = render_with("config.poll_interval", "1m")
    specs = [only(manifests, "Deployment")["spec"] for manifests in (render(), slower)]
    sums = [spec["template"]["metadata"]["annotations"]["checksum/config"] for spec in specs]
    assert sums[0] != sums[1]
    assert specs[0]["strategy"] == {"type": "Recreate"}


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
        if env.get("INVENT_STATE_URL") == "not-a-real-key":
            env["INVENT_STATE_URL"] = "postgresql://invent@127.0.0.1/invent"
        if "INVENT_API_KEY_FILE" in env:
            env["INVENT_API_KEY_FILE"] = str(key)
        mounted = ("--config.file=", "--web.config.file=")
        own = [one for one in arguments if not one.startswith(mounted)]
        flags = [*own, f"--config.file={file}", "--config.check"]
        done = run(sys.executable, ROOT / "exporter.py", *flags, env=env)
        assert done.returncode == 0, done.stderr
        assert "ok" in done.stdout


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((), "create secret generic invent-api-key --from-file=api-key=FILE"),
        (("persistence.enabled=false",), "each new pod is a new first contact"),
        ((MONITOR, 'serviceMonitor.scheme="https"'), "serviceMonitor.scheme is https, but the"),
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
