"""The chart as Helm renders it: valid, restricted, and the same for every supported version."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

import invent_exporter
from helm import generate
from tests.deploy.chart import (
    CHART,
    HELMS,
    NEWEST_KUBERNETES,
    OLDEST_KUBERNETES,
    ROOT,
    VALUES_FILES,
    Manifest,
    by_name,
    helm,
    kinds,
    only,
    parent_chart,
    pod_specs,
    render,
    render_many,
)
from tests.deploy.cluster import operator_definitions
from tests.deploy.restricted import violations
from tests.programs import require

pytestmark = pytest.mark.system

OPERATOR_API = "monitoring.coreos.com/v1"

every_values_file = pytest.mark.parametrize(
    "values_file", VALUES_FILES, ids=lambda path: path.name.removesuffix("-values.yaml")
)
every_helm = pytest.mark.parametrize("program", HELMS)


@every_helm
@every_values_file
def test_lint_is_strict_and_clean(program: str, values_file: Path) -> None:
    """`helm lint --strict` finds nothing with any of the values files."""
    done = helm(
        *(program, "lint", "--strict", "--quiet", str(CHART), "--values", str(values_file)),
        *("--kube-version", NEWEST_KUBERNETES),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def values_of_files() -> list[Manifest]:
    """Return what each of the values files says."""
    return [yaml.safe_load(path.read_text()) or {} for path in VALUES_FILES]


@pytest.mark.parametrize("kubernetes", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_every_object_is_valid(kubernetes: str, values_of_files: list[Manifest]) -> None:
    """Kubernetes' own schemas accept each object, unknown fields refused."""
    distinct = {
        json.dumps(item): item
        for manifests in render_many(values_of_files, kubernetes=kubernetes)
        for item in manifests
        if item["apiVersion"] != OPERATOR_API
    }
    assert len(distinct) >= 2 * len(values_of_files)
    for item in distinct.values():
        kubernetes_validate.validate(item, kubernetes, strict=True)


def test_the_check_of_objects_sees_an_unknown_field() -> None:
    """The schemas above are strict: a misspelt field is an error."""
    deployment = yaml.safe_load(yaml.safe_dump(only(render(), "Deployment")))
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST_KUBERNETES, strict=True)


def test_both_helms_render_the_same(values_of_files: list[Manifest]) -> None:
    """Helm 3 and Helm 4 make the same objects."""
    third, fourth = (list(render_many(values_of_files, program)) for program in HELMS)
    assert third == fourth


def test_below_a_parent_chart_the_same_is_made(values_of_files: list[Manifest]) -> None:
    """What a parent chart's values say makes the objects that a release of its own would have."""
    for path, manifests in zip(VALUES_FILES, render_many(values_of_files), strict=True):
        assert by_name(manifests) == by_name(render("helm4", path)), path


@pytest.fixture(scope="module")
def operator_schemas() -> dict[str, Any]:
    """Return the operator's schemas by kind, made to refuse unknown fields."""
    schemas = {}
    for definition in operator_definitions():
        version = definition["spec"]["versions"][0]
        assert version["name"] == "v1"
        schema = version["schema"]["openAPIV3Schema"]
        _close(schema["properties"]["spec"])
        schemas[definition["spec"]["names"]["kind"]] = schema
    return schemas


def _close(schema: Any) -> None:  # noqa: ANN401 - a schema nests lists and objects at will
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if "(?i)" in str(schema.get("pattern")):  # Go takes it anywhere, Python at the start only
            schema["pattern"] = "(?i)" + schema["pattern"].replace("(?i)", "")
        for child in schema.values():
            _close(child)
    elif isinstance(schema, list):
        for child in schema:
            _close(child)


@every_values_file
def test_operator_objects_fit_its_schemas(
    values_file: Path, operator_schemas: dict[str, Any]
) -> None:
    """ServiceMonitor and PrometheusRule are what the Prometheus Operator's CRDs describe."""
    for item in render("helm4", values_file):
        if item["apiVersion"] == OPERATOR_API:
            jsonschema.validate(item, operator_schemas[item["kind"]])


def test_the_operator_schemas_see_an_unknown_field(operator_schemas: dict[str, Any]) -> None:
    """The schemas above are strict: a field that the operator would drop is an error."""
    monitor = only(render("helm4", CHART / "ci" / "monitoring-values.yaml"), "ServiceMonitor")
    endpoint = {**monitor["spec"]["endpoints"][0], "relabeling": []}
    wrong = {**monitor, "spec": {**monitor["spec"], "endpoints": [endpoint]}}
    with pytest.raises(jsonschema.ValidationError, match="relabeling"):
        jsonschema.validate(wrong, operator_schemas["ServiceMonitor"])


@every_values_file
def test_every_pod_is_restricted(values_file: Path) -> None:
    """The pod security level `restricted` admits every pod, `helm test` too."""
    pods = pod_specs(render("helm4", values_file))
    assert len(pods) == (1 if values_file.name.startswith("sidecar") else 2)
    for name, pod in pods.items():
        assert violations(pod) == [], name
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("securityContext.capabilities", {"drop": []}, "does not drop ALL"),
        ("securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
        ("podSecurityContext.runAsNonRoot", False, "runAsNonRoot"),
        ("podSecurityContext.runAsUser", 0, "runs as root"),
        ("podSecurityContext.seccompProfile", {"type": "Unconfined"}, "no seccomp profile"),
        ("extraVolumes", [{"name": "host", "hostPath": {"path": "/"}}], "is a hostPath"),
    ],
)
def test_the_check_of_restricted_sees(path: str, value: object, says: str) -> None:
    """Values that break `restricted` are seen by the check above."""
    pods = pod_specs(render(sets=(f"{path}={json.dumps(value)}",)))
    found = [what for pod in pods.values() for what in violations(pod)]
    assert any(says in what for what in found), found


@pytest.mark.parametrize(
    "values_file",
    # What a claim is bound to and what objects are called is chosen once.
    [path for path in VALUES_FILES if path.name not in ("claim-values.yaml", "names-values.yaml")],
    ids=lambda path: path.name,
)
def test_upgrade_keeps_immutable_fields(values_file: Path) -> None:
    """An upgrade from the default to any feature changes nothing that Kubernetes refuses to."""
    before, after = by_name(render()), by_name(render("helm4", values_file))
    assert ("Deployment", "invent-invent-exporter") in before.keys() & after.keys()
    for name in before.keys() & after.keys():
        assert _immutable(before[name]) == _immutable(after[name]), name


def _immutable(item: Manifest) -> object:
    """Return what of an object an update must not change."""
    if item["kind"] == "Deployment":
        return item["spec"]["selector"]
    if item["kind"] == "PersistentVolumeClaim":
        return {key: value for key, value in item["spec"].items() if key != "resources"}
    if item["kind"] == "Service":
        return item["spec"].get("clusterIP")
    return item.get("type")


def test_default_objects() -> None:
    """The default makes what an exporter needs, and nothing of what must be asked for."""
    assert kinds(render()) == [
        *("ConfigMap", "Deployment", "PersistentVolumeClaim", "Pod", "Service", "ServiceAccount"),
    ]


def test_selectors_find_the_pod() -> None:
    """Deployment, Service and NetworkPolicy select the exporter's pod, not the one of the test."""
    manifests = render("helm4", CHART / "ci" / "network-policy-values.yaml")
    deployment = only(manifests, "Deployment")
    pod_labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    test_labels = only(manifests, "Pod")["metadata"]["labels"].items()
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        only(manifests, "Service")["spec"]["selector"],
        only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= pod_labels
        assert not selector.items() <= test_labels


def test_chart_and_program_have_one_version() -> None:
    """Chart.yaml names the version that invent_exporter/__init__.py defines."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == invent_exporter.__version__


def test_the_version_of_the_chart_is_written_by_generate() -> None:
    """`python -m helm.generate` puts the program's version into Chart.yaml, and nothing else."""
    text = (CHART / "Chart.yaml").read_text()
    assert generate.chart(text, invent_exporter.__version__) == text
    other = yaml.safe_load(generate.chart(text, "1.2.3"))
    (image,) = yaml.safe_load(other["annotations"].pop("artifacthub.io/images"))
    assert image["image"].endswith(":1.2.3")
    before = yaml.safe_load(text)
    del before["annotations"]["artifacthub.io/images"]
    assert other == {**before, "version": "1.2.3", "appVersion": "1.2.3"}


@every_helm
def test_package_holds_what_grafana_holds(program: str, tmp_path: Path) -> None:
    """The packaged chart has the dashboards, rules and thresholds of grafana/, byte for byte."""
    done = helm(program, "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    packed: dict[str, bytes] = {}
    with tarfile.open(package) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None, f"{member.name} is no file"
            packed[member.name.removeprefix("invent-exporter/")] = file.read()
    grafana = ROOT / "grafana"
    expected = {"thresholds.yaml": (grafana / "thresholds.yaml").read_bytes()}
    for path in (grafana / "rule_templates").glob("*.yaml"):
        expected[f"rules/{path.name}"] = path.read_bytes()
    for path in (grafana / "dashboards").glob("*.json"):
        expected[f"dashboards/{path.name}"] = path.read_bytes()
    shared = ("dashboards/", "rules/", "thresholds.yaml")
    assert {name: text for name, text in packed.items() if name.startswith(shared)} == expected
    assert not [name for name in packed if name.startswith("ci/")]


def test_rendered_dashboards_are_those_of_grafana() -> None:
    """Each dashboard is one ConfigMap for the sidecar, unchanged, and below etcd's limit."""
    manifests = render(sets=("dashboards.enabled=true",))
    rendered = {}
    for item in manifests:
        if item["metadata"].get("labels", {}).get("grafana_dashboard"):
            ((name, text),) = item["data"].items()
            rendered[name] = json.loads(text)
            assert len(text.encode()) < 1_000_000
    files = (ROOT / "grafana" / "dashboards").glob("*.json")
    assert rendered == {path.name: json.loads(path.read_text()) for path in files}
    assert rendered


@every_helm
@pytest.mark.parametrize(
    ("value", "link", "missing"),
    [
        ("dashboards.enabled", "dashboards", "dashboards/*.json"),
        ("prometheusRule.enabled", "rules", "rules/*.yaml"),
        ("prometheusRule.enabled", "thresholds.yaml", "thresholds.yaml"),
    ],
)
def test_a_copy_that_lost_its_links_is_refused(
    program: str, value: str, link: str, missing: str, tmp_path: Path
) -> None:
    """Rules or dashboards that are wanted and not there are named, not left out in silence."""
    copy = tmp_path / "invent-exporter"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns(link))
    command = ("template", "invent", str(copy), "--kube-version", NEWEST_KUBERNETES)
    for left in (None, f"../../grafana/{link}"):  # Git without links leaves where they led to
        if left is not None:
            (copy / link).write_text(left)
        assert helm(program, *command).returncode == 0
        done = helm(program, *command, "--set", f"{value}=true")
        assert done.returncode != 0, done.stdout
        assert f"{value}: this copy of the chart has no {missing}, which" in done.stderr


def test_rendered_rules_are_those_of_grafana() -> None:
    """With the usual thresholds the PrometheusRule says what grafana/rules says."""
    rule = only(render(sets=("prometheusRule.enabled=true",)), "PrometheusRule")
    files = sorted((ROOT / "grafana" / "rules").glob("*.yaml"))
    expected = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert rule["spec"]["groups"] == expected
    assert expected


@pytest.mark.parametrize("values_file", [None, CHART / "ci" / "monitoring-values.yaml"])
def test_promtool_accepts_the_rendered_rules(values_file: Path | None, tmp_path: Path) -> None:
    """A real promtool reads the rules of the PrometheusRule, with other thresholds too."""
    rule = only(render("helm4", values_file, ("prometheusRule.enabled=true",)), "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [require("promtool"), "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@every_helm
def test_works_below_a_parent_chart(program: str, tmp_path: Path) -> None:
    """A parent chart may depend on it, with a condition and values that all charts share."""
    parent = parent_chart(tmp_path / "parent", condition="invent-exporter.enabled")
    values = {"global": {"anything": True}, "invent-exporter": {"enabled": True}}
    (parent / "values.yaml").write_text(yaml.safe_dump(values))
    command = ("template", "all", str(parent), "--kube-version", NEWEST_KUBERNETES)
    on = helm(program, *command)
    assert "kind: Deployment" in on.stdout, on.stderr
    off = helm(program, *command, "--set", "invent-exporter.enabled=false")
    assert off.returncode == 0, off.stderr
    assert "kind: Deployment" not in off.stdout


@every_helm
@pytest.mark.parametrize(
    ("name", "thresholds", "job"),
    [("", {}, "flows"), ("runs", {}, "runs"), ("", {"exporter_job": "mine"}, "mine")],
)
def test_alerts_know_the_job_that_an_alias_makes(
    program: str, name: str, thresholds: dict[str, str], job: str, tmp_path: Path
) -> None:
    """The name of the chart is then the alias; a name or a job of one's own goes over it."""
    parent = parent_chart(tmp_path / "parent", alias="flows")
    values = {
        "nameOverride": name,
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "thresholds": thresholds},
    }
    (parent / "values.yaml").write_text(yaml.safe_dump({"flows": values}))
    done = helm(program, "template", "all", str(parent), "--kube-version", NEWEST_KUBERNETES)
    assert done.returncode == 0, done.stderr
    manifests = tuple(item for item in yaml.safe_load_all(done.stdout) if item is not None)
    label = only(manifests, "ServiceMonitor")["spec"]["jobLabel"]
    assert only(manifests, "Service")["metadata"]["labels"][label] == (name or "flows")
    groups = only(manifests, "PrometheusRule")["spec"]["groups"]
    text = yaml.safe_dump(groups, width=1000)
    assert set(re.findall(r"up\{job=~\\?\"([^\"\\]+)", text)) == {job}
