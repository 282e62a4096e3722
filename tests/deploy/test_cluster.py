"""The chart on a real Kubernetes API server that enforces `restricted`, with both Helms."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.chart import (
    CHART,
    HELMS,
    ROOT,
    VALUES_FILES,
    Manifest,
    only,
    parent_chart,
    pod_specs,
    render,
)
from tests.deploy.cluster import ApiServer, cluster
from tests.deploy.odd_values import ODD_NAMES, ODD_TEXTS, with_odd_texts

pytestmark = pytest.mark.system

FIRST_CHART: Final = Path(__file__).parent / "data" / "invent-exporter-0.1.0.tgz"
"""The chart of 0.1.0 as `helm package` made it."""

NAME: Final = "invent-invent-exporter"
CHOSEN_ONCE: Final = ("claim-values.yaml", "names-values.yaml", "persistence-values.yaml")
"""What a claim is bound to, what objects are called, and a size, which no class here lets grow."""

every_helm = pytest.mark.parametrize("program", HELMS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Return a running API server."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """Return the name of a new namespace."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    server.make_namespace(name)
    return name


def _helm(server: ApiServer, program: str, *arguments: str | Path) -> str:
    """Run Helm; it must succeed, and the server must not warn."""
    done = server.helm(program, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "PodSecurity" not in done.stderr
    return done.stdout


def _admit_pods(server: ApiServer, manifests: tuple[Manifest, ...], namespace: str) -> None:
    """Ask the server whether it would take the pods, which no controller makes here."""
    for spec in pod_specs(manifests).values():
        # Classes are objects that only a cluster's owner makes.
        known = {
            k: v for k, v in spec.items() if k not in ("priorityClassName", "runtimeClassName")
        }
        pod = {"metadata": {"generateName": "pod-"}, "spec": {**known, "restartPolicy": "Always"}}
        server.make(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)


def _installed(
    server: ApiServer, program: str, release: str, namespace: str
) -> tuple[Manifest, ...]:
    text = _helm(server, program, "get", "manifest", release, "--namespace", namespace)
    return tuple(item for item in yaml.safe_load_all(text) if item is not None)


@every_helm
@pytest.mark.parametrize("values_file", VALUES_FILES, ids=lambda path: path.name)
def test_every_values_file_is_installed(
    program: str, values_file: Path, server: ApiServer, namespace: str
) -> None:
    """Objects are taken, their pods admitted, and an upgrade to the same changes none of them.

    With Helm 4 a release of the default values becomes it: it changes nothing that must not change.
    """
    for other in ("apps", "other"):
        server.make_namespace(other)
    release = f"r{uuid.uuid4().hex[:8]}"
    if program == "helm4" and values_file.name not in CHOSEN_ONCE:
        _helm(server, program, "install", release, CHART, "--namespace", namespace)
    command = (release, CHART, "--namespace", namespace, "--values", values_file)
    _helm(server, program, "upgrade", "--install", *command)
    manifests = tuple(
        {**item, "metadata": {"namespace": namespace, **item["metadata"]}}
        for item in _installed(server, program, release, namespace)
    )
    assert len(manifests) >= 3
    _admit_pods(server, manifests, namespace)
    before = server.stored(manifests)
    _helm(server, program, "upgrade", *command)
    assert server.stored(manifests) == before
    _helm(server, program, "uninstall", release, "--namespace", namespace)


@every_helm
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_releases_and_namespaces(program: str, name: str, server: ApiServer) -> None:
    """Release, namespace, Secret, claim, class and account may be called 123, true or null."""
    server.make_namespace(name)
    values = {
        "keys": {"existingSecret": name, "entry": name},
        "serviceAccount": {"name": name},
        "persistence": {"existingClaim": name},
        "priorityClassName": name,
        "web": {"existingSecret": name, "entry": name, "tlsSecret": name},
        "telemetryPath": "/a:",
    }
    sets = [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]
    _helm(server, program, "install", name, CHART, "--namespace", name, *sets)
    (deployment,) = server.objects("Deployment", name).values()
    pod = deployment["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
    arguments = pod["containers"][0]["args"]
    flags = {"--web.telemetry-path=/a:", f"--web.config.file=/run/secrets/invent-web/{name}"}
    assert flags <= set(arguments)
    (web,) = [volume for volume in pod["volumes"] if volume["name"] == "web"]
    assert [one["secret"]["name"] for one in web["projected"]["sources"]] == [name, name]
    state = {"existingSecret": name, "entry": name}
    sets += [f"--set-json=state={json.dumps(state)}", "--set-json=persistence.existingClaim=null"]
    _helm(server, program, "upgrade", name, CHART, "--namespace", name, *sets)
    (deployment,) = server.objects("Deployment", name).values()
    (url,) = deployment["spec"]["template"]["spec"]["containers"][0]["env"][:1]
    assert url["valueFrom"]["secretKeyRef"] == {"name": name, "key": name}
    _helm(server, program, "uninstall", name, "--namespace", name)


@every_helm
@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_odd_texts(
    program: str, odd: str, server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    """Every value that may be such a text, all at once."""
    for name in ODD_NAMES:
        server.make_namespace(name)
    values, paths = with_odd_texts(odd)
    assert len(paths) > (30 if " " in odd else 50)
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    release = f"r{uuid.uuid4().hex[:8]}"
    command = (release, CHART, "--namespace", namespace, "--values", tmp_path / "values.yaml")
    _helm(server, program, "install", *command)
    (deployment,) = server.objects("Deployment", namespace).values()
    assert deployment["metadata"]["annotations"]["odd"] == odd
    assert deployment["spec"]["template"]["metadata"]["annotations"]["odd"] == odd
    _helm(server, program, "uninstall", release, "--namespace", namespace)


@every_helm
@pytest.mark.parametrize("values_file", ["default", "monitoring", "scheduling", "created-keys"])
def test_upgrade_from_the_first_chart_and_back(
    program: str, values_file: str, server: ApiServer, namespace: str
) -> None:
    """0.1.0 becomes this chart and comes back; the claim is the same all the time, and stays."""
    file = CHART / "ci" / f"{values_file}-values.yaml"
    place = ("--namespace", namespace)
    _helm(server, program, "install", "invent", FIRST_CHART, *place, "--values", file)
    first = server.objects("Deployment", namespace)[NAME]["spec"]
    claim = server.objects("PersistentVolumeClaim", namespace)[NAME]["metadata"]["uid"]
    _helm(server, program, "upgrade", "invent", CHART, *place, "--values", file)
    second = server.objects("Deployment", namespace)[NAME]["spec"]
    assert second["selector"] == first["selector"]
    assert second["template"] != first["template"]
    _helm(server, program, "rollback", "invent", "1", *place)
    assert server.objects("Deployment", namespace)[NAME]["spec"] == first
    _helm(server, program, "uninstall", "invent", *place)
    assert not server.objects("Deployment", namespace)
    _helm(server, program, "install", "invent", CHART, *place, "--values", file)
    kept = server.objects("PersistentVolumeClaim", namespace)
    assert [item["metadata"]["uid"] for item in kept.values()] == [claim]


@every_helm
def test_a_release_becomes_replicas_and_one_again(
    program: str, server: ApiServer, namespace: str
) -> None:
    """The strategy changes both ways, and the claim with the old ledger stays meanwhile."""
    place = ("--namespace", namespace)
    replicas = ("--values", CHART / "ci" / "replicas-values.yaml")
    _helm(server, program, "install", "invent", CHART, *place)
    first = server.objects("Deployment", namespace)[NAME]["spec"]
    claim = server.objects("PersistentVolumeClaim", namespace)[NAME]["metadata"]["uid"]
    _helm(server, program, "upgrade", "invent", CHART, *place, *replicas)
    spec = server.objects("Deployment", namespace)[NAME]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (3, "RollingUpdate")
    assert set(server.objects("PodDisruptionBudget", namespace)) == {NAME}
    _helm(server, program, "upgrade", "invent", CHART, *place, "--reset-values")
    assert server.objects("Deployment", namespace)[NAME]["spec"] == first
    assert not server.objects("PodDisruptionBudget", namespace)
    kept = server.objects("PersistentVolumeClaim", namespace)
    assert [item["metadata"]["uid"] for item in kept.values()] == [claim]


def test_the_job_that_moves_a_ledger_is_admitted(server: ApiServer, namespace: str) -> None:
    """It stands in docs/deploy.md; what it mounts is what a release of that name has."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    (found,) = re.findall(r"```yaml\n(apiVersion: batch/v1\n.*?)```", text, re.DOTALL)
    job = yaml.safe_load(found)
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All&fieldValidation=Strict"
    answer = server.ask("POST", path, job)
    assert answer.is_success, answer.text
    assert "Warning" not in answer.headers
    spec = job["spec"]["template"]["spec"]
    usual = only(render(release="invent-exporter"), "Deployment")["spec"]["template"]["spec"]
    assert spec["volumes"][0] in usual["volumes"]
    assert usual["containers"][0]["image"].startswith(
        spec["containers"][0]["image"].removesuffix("VERSION")
    )


@every_helm
def test_a_claim_that_would_be_left_behind_ends_the_upgrade(
    program: str, server: ApiServer, namespace: str
) -> None:
    """Other names are refused with the claim that holds the counters; it can be named."""
    command = ("upgrade", "invent", CHART, "--namespace", namespace)
    _helm(server, program, *command, "--install")
    for value in ("nameOverride=other", "fullnameOverride=other", "namespaceOverride=apps"):
        done = server.helm(program, *command, "--set", value)
        assert done.returncode != 0, done.stdout
        assert f"are in the claim {NAME} of namespace {namespace}" in done.stderr
    named = ("--set", f"nameOverride=other,persistence.existingClaim={NAME}")
    _helm(server, program, *command, *named)
    (deployment,) = server.objects("Deployment", namespace).values()
    volumes = {
        volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]
    }
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": NAME}


@every_helm
def test_a_second_exporter_of_a_parent_chart_is_no_other_name(
    program: str, server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    """An alias that comes later has a claim of its own, and no claim is left behind by it.

    The first runs as on OpenShift: a parent chart's values can't unset a default in Helm 4.
    """
    parent = parent_chart(tmp_path / "parent", ["first", "second"], condition="")
    chart = yaml.safe_load((parent / "Chart.yaml").read_text())
    for dependency in chart["dependencies"]:
        dependency["condition"] = f"{dependency['alias']}.enabled"
    (parent / "Chart.yaml").write_text(json.dumps(chart))
    values = {"first": {"openshift": True}, "second": {"enabled": False}}
    (parent / "values.yaml").write_text(json.dumps(values))
    command = ("upgrade", "all", parent, "--install", "--namespace", namespace)
    _helm(server, program, *command)
    deployment = server.objects("Deployment", namespace)["all-first"]
    assert "runAsUser" not in deployment["spec"]["template"]["spec"]["securityContext"]
    _helm(server, program, *command, "--set", "second.enabled=true")
    claims = server.objects("PersistentVolumeClaim", namespace)
    assert set(claims) == {"all-first", "all-second"}


@pytest.mark.parametrize("values_file", VALUES_FILES, ids=lambda path: path.name)
def test_applied_twice_nothing_drifts(values_file: Path, server: ApiServer, namespace: str) -> None:
    """Server-side apply takes each object strictly, and the second time there is nothing to do."""
    manifests = tuple(
        _moved(item, namespace) for item in render("helm4", values_file) if item["kind"] != "Pod"
    )
    for item in manifests:
        applied = server.apply(item)
        assert server.apply(item) == applied
        assert _missing(item, applied) == []


def _moved(item: Manifest, namespace: str) -> Manifest:
    return {**item, "metadata": {**item["metadata"], "namespace": namespace}}


def _missing(asked: Any, stored: Any, path: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Return where what is stored is not what was asked for: a tool would see it as drift."""
    if isinstance(asked, dict) and isinstance(stored, dict):
        return [
            found
            for key, value in asked.items()
            for found in _missing(value, stored.get(key), f"{path}.{key}")
        ]
    if isinstance(asked, list) and isinstance(stored, list) and len(asked) == len(stored):
        return [
            found
            for index, (one, other) in enumerate(zip(asked, stored, strict=True))
            for found in _missing(one, other, f"{path}[{index}]")
        ]
    # Of a quantity such as `cpu: 1` the API keeps the text, which every such tool knows.
    return [] if stored in (asked, str(asked)) else [f"{path}: {asked!r} became {stored!r}"]


@every_helm
def test_a_pod_that_is_not_restricted_is_seen(
    program: str, server: ApiServer, namespace: str
) -> None:
    """The server above enforces `restricted`: values that break it are warned of and refused."""
    root = '--set-json=podSecurityContext={"runAsUser": 0}'
    done = server.helm(program, "install", "invent", CHART, "--namespace", namespace, root)
    assert "would violate PodSecurity" in done.stderr
    (pod,) = pod_specs(
        (only(_installed(server, program, "invent", namespace), "Deployment"),)
    ).values()
    answer = server.ask(
        "POST",
        f"/api/v1/namespaces/{namespace}/pods?dryRun=All",
        {"metadata": {"name": "a"}, "spec": pod},
    )
    assert answer.json()["reason"] == "Forbidden"
