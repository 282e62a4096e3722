"""What a release ships as files, built and used as a stranger would; and the workflow that does."""

import json
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import invent_exporter
from release.notes import notes
from release.tags import image_tags
from tests.deploy.chart import ROOT
from tests.deploy.processes import Server
from tests.process.harness import free_port, wait_for
from tests.programs import require, run

VERSION = invent_exporter.__version__
ASSETS = {
    path.relative_to(ROOT / "grafana").as_posix(): path.read_bytes()
    for path in (*ROOT.glob("grafana/dashboards/*.json"), *ROOT.glob("grafana/rules/*.yaml"))
}


def _run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    own = {"PYTHON": sys.executable, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = run(*command, cwd=cwd, env={**own, **(env or {})})
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
def test_release_has_these_files(dist: Path) -> None:
    """Wheel, sdist and SBOM under the one version, requirements, and checksums of all."""
    assert {path.name for path in dist.iterdir()} == {
        f"invent_exporter-{VERSION}-py3-none-any.whl",
        f"invent_exporter-{VERSION}.tar.gz",
        "invent-exporter.cdx.json",
        "requirements.lock",
        "SHA256SUMS",
    }
    said = _run(require("sha256sum"), "--check", "SHA256SUMS", cwd=dist)
    assert said.count(": OK\n") == 4


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
    assets = [name for name in names if name.startswith("invent_exporter/assets/")]
    assert len(assets) == 7


@pytest.mark.system
def test_wheel_runs_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """Wheel and pinned requirements are enough for `invent-exporter demo`."""
    python = _empty_environment(tmp_path / "venv")
    (wheel,) = dist.glob("*.whl")
    lock = dist / "requirements.lock"
    _run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", lock)
    _run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    program = python.parent / "invent-exporter"
    _see_it_installed(program, tmp_path)
    port, api_port = free_port(), free_port()
    command = (
        *(program, "demo", f"--web.listen-address=127.0.0.1:{port}"),
        f"--simulator.listen-address=127.0.0.1:{api_port}",
    )
    with Server(command, port, "/-/ready", tmp_path / "demo.log") as demo:
        wait_for("runs", lambda: "\ninvent_runs_finished_total{" in demo.get("/metrics").text)
        assert f'version="{VERSION}"' in demo.get("/metrics").text
        assert demo.get("/").is_success


def _see_it_installed(program: Path, folder: Path) -> None:
    """Run the installed program away from the checkout."""
    said = _run(program, "--version", cwd=folder)
    assert said.startswith(f"invent-exporter, version {VERSION} ")
    written = _run(program, "assets", "--output", "assets", cwd=folder).splitlines()
    assert {name: (folder / "assets" / name).read_bytes() for name in ASSETS} == ASSETS
    assert len(written) == len(ASSETS)


@pytest.mark.system
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_wheel_runs_with_every_python_that_is_here(
    version: str, dist: Path, tmp_path: Path
) -> None:
    """`pip install` of the wheel alone; which Pythons a machine has is its own business."""
    found = shutil.which(f"python{version}") or ""
    # What is found may be a stand-in that only says where the real one is not.
    if not found or run(found, "-c", "").returncode:
        pytest.skip(f"python{version} is not on this machine; the workflow `test` has it")
    _run(found, "-m", "venv", tmp_path / "venv")
    (wheel,) = dist.glob("*.whl")
    _run(tmp_path / "venv" / "bin" / "pip", "install", "--quiet", wheel)
    _see_it_installed(tmp_path / "venv" / "bin" / "invent-exporter", tmp_path)


@pytest.mark.system
def test_pipx_and_uv_install_it(dist: Path, tmp_path: Path) -> None:
    """`pipx install` and `uv tool install` make the command, each in a place of its own."""
    tools = _empty_environment(tmp_path / "tools").parent
    _run(tools / "pip", "install", "--quiet", "pipx==1.8.0", "uv==0.9.9")
    (wheel,) = dist.glob("*.whl")
    places = {name: str(tmp_path / name.lower()) for name in ("PIPX_HOME", "PIPX_BIN_DIR")}
    places |= {name: str(tmp_path / name.lower()) for name in ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR")}
    places["UV_PYTHON"] = sys.executable
    _run(tools / "pipx", "install", "--python", sys.executable, wheel, env=places)
    _run(tools / "uv", "tool", "install", wheel, env=places)
    for bin_dir in ("PIPX_BIN_DIR", "UV_TOOL_BIN_DIR"):
        _see_it_installed(Path(places[bin_dir]) / "invent-exporter", tmp_path)


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


WORKFLOWS = {path.name: path for path in (ROOT / ".github" / "workflows").glob("*.yaml")}


def _jobs(name: str) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(WORKFLOWS[name].read_text())["jobs"]
    return jobs


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_only_read_unless_a_job_says_more(name: str) -> None:
    """Each workflow says what it may do, how often and how long; its steps can't push with git."""
    workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "cancel-in-progress" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        if "steps" not in job:
            assert job["uses"].startswith("./.github/workflows/")
            continue
        assert job["timeout-minutes"] <= (95 if job["name"].startswith("Debian 12") else 30)
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_actions_are_pinned() -> None:
    """An action is named by its commit, which no one can move, with the version beside it."""
    for path in WORKFLOWS.values():
        for used in re.findall(r"uses: (.+)", path.read_text()):
            if not used.startswith("./"):
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


def test_a_release_is_tested_approved_signed_and_attested() -> None:
    """Nothing is published before tests and trial passed and someone said so."""
    jobs = _jobs("release.yaml")
    needed = {name: set(_needs(jobs, name)) for name in jobs}
    for name in ("image", "chart", "packages", "pypi", "publish"):
        assert {"version", "test", "build", "audit", "approve"} <= needed[name]
    assert jobs["approve"]["environment"] == "release"
    for name in ("image", "chart", "packages"):
        used = [step.get("uses", "") for step in jobs[name]["steps"]]
        assert [action for action in used if action.startswith("actions/attest-")], name
    for name in ("image", "chart"):
        assert "cosign sign" in yaml.safe_dump(jobs[name]), name
    assert {"image", "chart", "packages", "pypi"} <= needed["publish"]


@pytest.mark.parametrize(
    ("status", "said", "ends", "says"),
    [
        (0, "No known vulnerabilities found", 0, "requirements.lock: nothing known"),
        (1, "Found 1 known vulnerability in 1 package\nh11 0.1", 1, "Found 1 known"),
        (1, "ERROR: could not connect", 0, "skipped, the advisories can't be reached: ERROR"),
        (
            0,
            "No known vulnerabilities found\nh11 could not be audited",
            0,
            "reached: h11 could not",
        ),
    ],
)
def test_a_known_weakness_stops_a_release(
    status: int, said: str, ends: int, says: str, tmp_path: Path
) -> None:
    """Not so an index that can't be reached, which is said."""
    audit = tmp_path / "pip-audit"
    audit.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}'\nexit {status}\n")
    audit.chmod(0o755)
    done = run("bash", "release/audit", cwd=ROOT, env={"PIP_AUDIT": str(audit)})
    assert done.returncode == ends, done.stdout
    assert says in done.stdout


@pytest.mark.system
def test_nothing_is_known_against_what_is_released() -> None:
    """The real pip-audit, where its advisories can be reached."""
    done = run("bash", "release/audit", cwd=ROOT, env={"PIP_AUDIT": str(require("pip-audit"))})
    assert done.returncode == 0, done.stdout
    if "skipped" in done.stdout:
        pytest.skip(done.stdout)


def test_what_builds_and_runs_the_image_can_write_nowhere() -> None:
    """The job that runs the Dockerfile has no right to push; the one that pushes builds nothing."""
    (build,) = _jobs("image.yaml").values()
    assert "permissions" not in build
    assert [one["arch"] for one in build["strategy"]["matrix"]["include"]] == ["amd64", "arm64"]
    steps = [step.get("uses", step.get("name", "")).split("@")[0] for step in build["steps"]]
    order = ["docker/build-push-action", "Run it", "Scan it", "actions/upload-artifact"]
    assert [step for step in steps if step in order or step.startswith("anchore/")] == [
        *(order[:2]),
        "anchore/scan-action",
        order[3],
    ]
    image = _jobs("release.yaml")["image"]
    assert "build-push-action" not in yaml.safe_dump(image)
    names = [step["name"] for step in image["steps"] if "name" in step]
    assert names == ["Push what was run, by its digests", "Sign it", "Tag it"]
    assert "cache" not in yaml.safe_dump(build).replace("cache-binary", "")


@pytest.mark.parametrize(
    ("version", "released", "tags"),
    [
        ("1.2.3", [], ["1.2.3", "latest"]),
        ("1.2.3", ["v1.2.3", "v1.2.2"], ["1.2.3", "latest"]),
        ("1.10.0", ["v1.9.0", "v1.10.0"], ["1.10.0", "latest"]),
        ("1.2.4", ["v1.3.0", "v1.2.4"], ["1.2.4"]),
        ("2.0.0rc1", ["v1.3.0"], ["2.0.0rc1"]),
        ("1.3.1", ["v1.3.0", "v2.0.0rc1", "nightly"], ["1.3.1", "latest"]),
    ],
)
def test_latest_is_the_newest_stable_version(
    version: str, released: list[str], tags: list[str]
) -> None:
    """Neither a release candidate nor a fix of an older line moves `latest`."""
    assert image_tags(version, released) == tags


def test_notes_are_the_section_of_the_version() -> None:
    """Its text alone; a section that is missing or empty stops the release."""
    text = "# Changelog\n\n## [Unreleased]\n\n## [1.10.0] - 2026-11-27\n\n### Added\n\n- A.\n\n"
    text += "## [1.1.0]\n\n- B.\n"
    assert notes(text, "1.10.0") == "### Added\n\n- A.\n"
    assert notes(text, "1.1.0") == "- B.\n"
    for version in ("Unreleased", "1.2.0", "1.1"):
        with pytest.raises(ValueError, match=re.escape(f"no section [{version}]")):
            notes(text, version)


def test_the_changelog_has_what_the_next_release_needs() -> None:
    """The version has a section, or the changes since are written down to become one."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    try:
        notes(changelog, VERSION)
    except ValueError:
        notes(changelog, "Unreleased")


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
