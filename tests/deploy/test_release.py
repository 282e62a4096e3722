"""What a release ships as files: wheel, sdist and SBOM, built and used as a stranger would."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import invent_exporter
from tests.deploy.chart import ROOT
from tests.deploy.go_modules import run_program
from tests.deploy.processes import Server, free_port, wait_for
from tests.programs import require

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
VERSION = invent_exporter.__version__


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that `release/build` filled."""
    folder = tmp_path_factory.mktemp("dist")
    _run(require("bash"), "release/build", folder)
    return folder


def _empty_environment(folder: Path) -> Path:
    """Make an environment with nothing in it; return its Python."""
    _run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


@pytest.mark.system
def test_release_has_three_files(dist: Path) -> None:
    """Wheel, sdist and SBOM, under the one version."""
    assert {path.name for path in dist.iterdir()} == {
        f"invent_exporter-{VERSION}-py3-none-any.whl",
        f"invent_exporter-{VERSION}.tar.gz",
        "invent-exporter.cdx.json",
    }


@pytest.mark.system
def test_wheel_has_types_and_no_tests(dist: Path) -> None:
    """The wheel has the package alone, marked as typed, with what it reads beside its code."""
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "invent_exporter/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "invent_exporter",
        f"invent_exporter-{VERSION}.dist-info",
    }
    package = ROOT / "invent_exporter"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names


@pytest.mark.system
def test_wheel_runs_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """`pip install dist/*.whl` is enough for `invent-exporter demo`."""
    python = _empty_environment(tmp_path / "venv")
    (wheel,) = dist.glob("*.whl")
    _run(python, "-m", "pip", "install", "--quiet", wheel)
    program = python.parent / "invent-exporter"
    said = _run(program, "--version", cwd=tmp_path)
    assert said.startswith(f"invent-exporter, version {VERSION} ")
    port, api_port = free_port(), free_port()
    command = (
        *(program, "demo", f"--web.listen-address=127.0.0.1:{port}"),
        f"--simulator.listen-address=127.0.0.1:{api_port}",
    )
    with Server(command, port, "/-/ready", tmp_path / "demo.log") as demo:
        wait_for("runs", lambda: "\ninvent_runs_finished_total{" in demo.get("/metrics").text)
        assert f'version="{VERSION}"' in demo.get("/metrics").text
        assert demo.get("/").is_success


@pytest.mark.system
def test_sdist_makes_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    """A wheel built from the sdist is the released one, byte for byte."""
    python = _empty_environment(tmp_path / "venv")
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert f"invent_exporter-{VERSION}/LICENSE" in names
    _run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, sdist)
    (made,) = tmp_path.glob("*.whl")
    (released,) = dist.glob("*.whl")
    contents = [
        {item.filename: archive.read(item) for item in archive.infolist()}
        for archive in (zipfile.ZipFile(made), zipfile.ZipFile(released))
    ]
    assert contents[0] == contents[1]


@pytest.mark.system
def test_sbom_names_every_pinned_requirement(dist: Path) -> None:
    """The CycloneDX file has each requirement of the image with its version and licence."""
    bom: dict[str, Any] = json.loads((dist / "invent-exporter.cdx.json").read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"]["name"] == "invent-exporter"
    assert bom["metadata"]["component"]["version"] == VERSION
    components = {
        (re.sub(r"[-_.]+", "-", item["name"]).lower(), item["version"]): item
        for item in bom["components"]
    }
    lock = (ROOT / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", lock, re.MULTILINE))
    assert set(components) - {("invent-exporter", VERSION)} == pinned
    for item in components.values():
        assert item["purl"].startswith("pkg:pypi/") or item["name"] == "invent-exporter"
    assert str(ROOT) not in json.dumps(bom)


@pytest.mark.system
def test_actionlint_accepts_the_workflows() -> None:
    """Syntax, expressions and references of the workflows are right."""
    files = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
    done = run_program(ACTIONLINT, "-shellcheck=", *files, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


WORKFLOWS = {path.name: path for path in (ROOT / ".github" / "workflows").glob("*.yaml")}


def _jobs(name: str) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(WORKFLOWS[name].read_text())["jobs"]
    return jobs


@pytest.mark.parametrize("name", ["release.yaml", "test.yaml"])
def test_workflows_may_only_read_unless_a_job_says_more(name: str) -> None:
    """Each workflow says what it may do, and how long; its steps can't push with git."""
    assert yaml.safe_load(WORKFLOWS[name].read_text())["permissions"] == {"contents": "read"}
    for job in _jobs(name).values():
        if "steps" not in job:
            assert job["uses"] == "./.github/workflows/test.yaml"
            continue
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_actions_are_pinned() -> None:
    """An action is named by its commit, which no one can move, with the version beside it."""
    assert sorted(WORKFLOWS) == ["release.yaml", "test.yaml"]
    for path in WORKFLOWS.values():
        for used in re.findall(r"uses: (.+)", path.read_text()):
            if not used.startswith("./"):
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


def test_a_release_is_tested_first_and_attested() -> None:
    """Nothing is published before the tests passed; packages, image and chart are attested."""
    jobs = _jobs("release.yaml")
    needed = {name: set(_needs(jobs, name)) for name in jobs}
    for name in ("image", "chart", "packages"):
        assert {"version", "test"} <= needed[name]
        used = [step.get("uses", "") for step in jobs[name]["steps"]]
        assert [action for action in used if action.startswith("actions/attest-")], name
    assert {"image", "chart"} <= needed["packages"]


def _needs(jobs: dict[str, dict[str, Any]], name: str) -> Iterator[str]:
    direct = jobs[name].get("needs", [])
    for other in [direct] if isinstance(direct, str) else direct:
        yield other
        yield from _needs(jobs, other)


def test_every_python_that_is_named_is_tested() -> None:
    """The versions of pyproject.toml and those of the workflow are the same."""
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert _jobs("test.yaml")["python"]["strategy"]["matrix"]["version"] == named
