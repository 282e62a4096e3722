"""Build the image for real and run it, with buildah and podman, as root and without a registry.

The base image is made on the spot: Debian with its own Python, under the official image's name.
It is kept below the user's cache folder, because making it takes a minute; the image itself is
built anew each time that tests run.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.programs import require, run

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invent-exporter-tests"
)
BASE: Final = "docker.io/library/python:3.13-slim"
DEBIAN: Final = "trixie"
"""The Debian that the official image is made of, with Python 3.13."""

DEBIAN_PACKAGES: Final = "python3,python3-venv,python3-pip,ca-certificates"


def _run(program: str, *arguments: str | Path) -> str:
    done = run(program, *arguments, seconds=900)
    assert done.returncode == 0, f"{program} {arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def require_containers() -> None:
    """End the test where containers can't be built and run: programs and root are needed."""
    for program in ("buildah", "podman", "runc", "debootstrap"):
        require(program)
    if os.geteuid() != 0:
        reason = "building and running an image takes root"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _storage() -> tuple[str, ...]:
    return (
        *("--root", str(CACHE / "storage"), "--runroot", str(CACHE / "run")),
        *("--storage-driver", "vfs"),
    )


def buildah(*arguments: str | Path) -> str:
    """Run buildah on the tests' own storage and return what it printed; it must succeed."""
    return _run("buildah", *_storage(), *arguments)


def podman_command(*arguments: str) -> list[str]:
    """Return the command that runs podman on the tests' own storage."""
    return [
        str(require("podman")),
        *_storage(),
        *("--runtime", str(require("runc")), "--cgroup-manager", "cgroupfs"),
        *arguments,
    ]


def podman(*arguments: str) -> str:
    """Run podman on the tests' own storage and return what it printed; it must succeed."""
    command = podman_command(*arguments)
    return _run("podman", *command[1:])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other runs of the tests from making the base at the same time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has(image: str) -> bool:
    return image in buildah("images", "--all", "--format", "{{.Name}}:{{.Tag}}").splitlines()


def make_base(temporary: Path) -> None:
    """Make the base image unless it is there."""
    with _alone():
        if _has(BASE):
            return
        folder = temporary / "base"
        _run(
            *("debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", DEBIAN),
            folder,
        )
        # The official image calls it python, too.
        (folder / "usr" / "bin" / "python").symlink_to("python3")
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, folder, "/")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        buildah("config", "--env", f"PATH={path}", container)
        buildah("commit", "--quiet", "--rm", container, BASE)


def build(tag: str, context: Path) -> None:
    """Build the Dockerfile in `context` as the image `tag`."""
    buildah(
        *("build", "--isolation", "chroot", "--pull-never", "--network", "host"),
        # OCI's own format has no HEALTHCHECK.
        *("--format", "docker", "--timestamp", "0"),
        # What this machine trusts, the build trusts: a package index may be behind a proxy.
        *("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"),
        *("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=0a1b2c3"),
        *("--build-arg", "CREATED=2026-11-27T12:00:00Z"),
        *("--build-arg", f"BASE_DIGEST=sha256:{'0' * 64}"),
        *("--tag", tag, context),
    )


def copy_context(folder: Path) -> None:
    """Copy what the Dockerfile takes, so that a change to the checkout can't split two builds."""
    files = (
        *("Dockerfile", ".dockerignore", "requirements.lock", "exporter.py", "pyproject.toml"),
        *("README.md", "LICENSE", "release/hatchling.lock"),
    )
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("invent_exporter", "deploy/image", "grafana/dashboards", "grafana/rules"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
