"""What linters say of workflows, manifests, Dockerfile and YAML: nothing, but for what is meant.

Each exception stands here or in the file that it is about, with its reason beside it.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.chart import CHART, ROOT, helm
from tests.programs import run

pytestmark = pytest.mark.system

WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))

KUBE_SCORE_EXCEPTIONS: Final = {
    "Container Resources": "no CPU limit: throttling would make scrapes late, memory is limited",
    "Container Image Pull Policy": "a tag of a release never moves; Always needs the registry",
    "Container Ephemeral Storage Request and Limit": "both emptyDirs have a sizeLimit; the root is"
    " read-only",
}
KUBE_SCORE_SQLITE: Final = {
    "Deployment Replicas": "the state is one SQLite file, which one process owns",
    "Deployment Strategy": "Recreate: the old pod lets go of that file first",
}
KUBE_SCORE_REPLICAS: Final = {
    "Deployment has host PodAntiAffinity": "topologySpreadConstraints keep them apart, zones too",
}
KUBE_SCORE_POD_OF_TEST: Final = {
    "Pod NetworkPolicy": "it lives for seconds and serves nothing; where all is denied by default"
    " its owner lets it out",
}
CHECKOV_EXCEPTIONS: Final = {
    "CKV_K8S_11": "no CPU limit: throttling would make scrapes late, memory is limited",
    "CKV_K8S_15": "a tag of a release never moves; Always needs the registry at each start",
    "CKV_K8S_43": "image.digest pins it; the default names the release",
}
CHECKOV_REPLICAS: Final = {
    "CKV_K8S_35": "the URL of the database is a variable, as its operators' Secrets have it",
}
CHECKOV_POD_OF_TEST: Final = {
    "CKV_K8S_8": "it runs once: there is nothing to restart",
    "CKV_K8S_9": "it runs once: no traffic is sent to it",
    "CKV2_K8S_6": "it lives for seconds and serves nothing",
}
CHECKOV_REPOSITORY: Final = {
    "CKV_DOCKER_7": "the release pins the base by digest: PYTHON_IMAGE",
}


def _run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(program, *arguments, cwd=ROOT, env={"NO_COLOR": "1"})


def _rendered(folder: Path, *names: str) -> Path:
    values = (CHART / "ci" / f"{name}-values.yaml" for name in names)
    arguments = [argument for file in values for argument in ("--values", str(file))]
    done = helm("helm4", "template", "invent", str(CHART), "--namespace", "apps", *arguments)
    assert done.returncode == 0, done.stderr
    path = folder / "manifests.yaml"
    path.write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the chart's objects, the NetworkPolicy and the monitoring among them."""
    return _rendered(tmp_path_factory.mktemp("manifests"), "network-policy", "rules")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the objects of several replicas."""
    return _rendered(tmp_path_factory.mktemp("replicas"), "replicas")


def test_actionlint_accepts_the_workflows() -> None:
    """Syntax, expressions and references of the workflows are right."""
    done = _run("actionlint", "-shellcheck=", *WORKFLOWS)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    """Not even as a pedant; what is ignored says why on its line."""
    done = _run("zizmor", "--offline", "--persona", "pedantic", "--no-progress", ".github")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No findings" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("hadolint", "Dockerfile"), ("yamllint", "--strict", ".")])
def test_linters_that_are_python_packages_have_nothing_to_say(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the Dockerfile, and of all YAML; .yamllint says what is asked of it."""
    # They lie beside this Python.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    done = _run(*command)
    assert done.returncode == 0, done.stdout


def _kube_score(manifests: Path) -> dict[str, set[str]]:
    done = _run("kube-score", "score", "--output-format", "json", manifests)
    found: dict[str, set[str]] = {"Deployment": set(), "Pod": set()}
    for item in json.loads(done.stdout):
        for check in item["checks"]:
            if not check["skipped"] and check["grade"] < 10:
                found.setdefault(item["type_meta"]["kind"], set()).add(check["check"]["name"])
    return found


def test_kube_score_finds_what_is_meant(manifests: Path, replicas: Path) -> None:
    """Nothing beside the exceptions above, and each of them is still needed."""
    shared = set(KUBE_SCORE_EXCEPTIONS)
    pod = shared | set(KUBE_SCORE_POD_OF_TEST)
    assert _kube_score(manifests) == {"Deployment": shared | set(KUBE_SCORE_SQLITE), "Pod": pod}
    assert _kube_score(replicas) == {"Deployment": shared | set(KUBE_SCORE_REPLICAS), "Pod": pod}


def _checkov(*arguments: str | Path) -> list[dict[str, Any]]:
    """Return what checkov found, without asking its vendor's servers anything."""
    done = _run("checkov", "--skip-download", "--output", "json", "--quiet", *arguments)
    reports = json.loads(done.stdout)
    failed: list[dict[str, Any]] = []
    for report in reports if isinstance(reports, list) else [reports]:
        assert report["summary"]["parsing_errors"] == 0
        failed += report["results"]["failed_checks"]
    return failed


def test_checkov_finds_what_is_meant_in_the_manifests(manifests: Path, replicas: Path) -> None:
    """Nothing beside the exceptions above, and each of them is still needed."""
    found: dict[str, set[str]] = {}
    for check in _checkov("--framework", "kubernetes", "--file", manifests, "--file", replicas):
        found.setdefault(check["resource"].split(".")[0], set()).add(check["check_id"])
    assert found == {
        "Deployment": set(CHECKOV_EXCEPTIONS) | set(CHECKOV_REPLICAS),
        "Pod": set(CHECKOV_EXCEPTIONS) | set(CHECKOV_POD_OF_TEST),
    }


def test_checkov_finds_what_is_meant_in_dockerfile_and_workflows() -> None:
    """Nothing beside the exceptions above, and each of them is still needed."""
    found = _checkov("--framework", "dockerfile", "--file", "Dockerfile")
    found += _checkov("--framework", "github_actions", "--directory", ".github")
    assert {check["check_id"] for check in found} == set(CHECKOV_REPOSITORY)


def test_the_helm_of_the_release_is_one_that_is_tested() -> None:
    """The release packages the chart with a version that .ci/install-tools installs."""
    text = (ROOT / ".ci" / "install-tools").read_text()
    tested = set(re.findall(r"^helm\d_version=(.+)$", text, re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yaml").read_text())
    used = {
        step["with"]["version"]
        for step in workflow["jobs"]["chart"]["steps"]
        if step.get("uses", "").startswith("azure/setup-helm@")
    }
    assert used
    assert used <= tested
