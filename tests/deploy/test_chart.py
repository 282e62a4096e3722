"""The chart as Helm renders it: valid, restricted, and the same for every supported version."""

import json
import shutil
import tarfile
from pathlib import Path

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
    pod_specs,
    render,
    render_many,
)
from tests.programs import run

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


@every_values_file
def test_every_pod_is_as_closed_as_it_can_be(values_file: Path) -> None:
    """Beyond `restricted`, which test_cluster holds: no token, no writable root, memory bounded."""
    pods = pod_specs(render("helm4", values_file))
    assert len(pods) == (1 if values_file.name.startswith(("sidecar", "web")) else 2)
    for pod in pods.values():
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


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


def test_promtool_accepts_rules_with_other_thresholds(tmp_path: Path) -> None:
    """A real promtool reads the rules of the PrometheusRule; the usual ones are grafana/'s."""
    rule = only(render("helm4", CHART / "ci" / "monitoring-values.yaml"), "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    done = run("promtool", "check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
