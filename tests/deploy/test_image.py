"""The image, built for real and run as a platform would: hardened, killed, started again."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from invent_exporter.simulator import SimulatorServer
from tests.deploy.chart import helm_test_command
from tests.deploy.image import (
    ROOT,
    build,
    buildah,
    copy_context,
    make_base,
    podman,
    podman_command,
    require_containers,
)
from tests.deploy.processes import DEADLINE_SECONDS, free_port, wait_for
from tests.programs import require

pytestmark = pytest.mark.system

MEBIBYTE = 1024 * 1024
USER_ID = 10001
"""Not the user of the image."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to build from, with the base image in place."""
    require_containers()
    make_base(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("context")
    copy_context(folder)
    return folder


def _build(context: Path) -> Iterator[str]:
    tag = f"localhost/invent-exporter:test-{uuid.uuid4().hex[:12]}"
    build(tag, context)
    yield tag
    buildah("rmi", "--force", tag)


@pytest.fixture(scope="module")
def image(context: Path) -> Iterator[str]:
    """Return the name of the freshly built image."""
    yield from _build(context)


@pytest.fixture
def image_built_again(image: str, context: Path) -> Iterator[str]:
    """Return the name of a second image, built after the first from the same files."""
    assert image
    yield from _build(context)


@pytest.fixture(scope="module")
def configuration(image: str) -> dict[str, Any]:
    """Return what the image says of itself."""
    docker: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]
    return docker


class Exporter:
    """A container of the image, hardened as far as a container can be, on the host's network."""

    def __init__(
        self,
        image: str,
        folder: Path,
        arguments: tuple[str, ...],
        *,
        user: str = f"{USER_ID}:{USER_ID}",
        mount: bool = True,
    ) -> None:
        """Prepare; `folder` has config.yaml, key and state/, to mount or not."""
        mounts = (
            *("--volume", f"{folder}/state:/data"),
            *("--volume", f"{folder}/config.yaml:/etc/invent-exporter/config.yaml:ro"),
            *("--volume", f"{folder}/key:/run/secrets/invent/api-key:ro"),
        )
        self.port = free_port()
        self.name = f"invent-exporter-test-{uuid.uuid4().hex[:12]}"
        self._command = podman_command(
            *("run", "--rm", "--name", self.name, "--network", "host"),
            # The health check is run by hand: its timer would be systemd's.
            *("--health-interval", "disable"),
            *("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
            *("--user", user),
            # Above what the machine allows, runc refuses to start.
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
            *(mounts if mount else ()),
            *("--env", f"HEALTHCHECK_PORT={self.port}"),
            *(image, *arguments, f"--web.listen-address=127.0.0.1:{self.port}"),
        )
        self._log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_for("readiness", self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it when it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.get("/-/ready").status_code == HTTPStatus.OK
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        """Ask it."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, trust_env=False)

    def finished(self) -> dict[str, int]:
        """Return how many runs it counted, by status."""
        found: dict[str, int] = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == "invent_runs_finished_total":
                    status = sample.labels["status"]
                    found[status] = found.get(status, 0) + int(sample.value)
        return {status: count for status, count in found.items() if count}

    def run(self, *command: str) -> str:
        """Run a command inside and return what it printed; it must succeed."""
        return podman("exec", self.name, *command)

    def python(self, code: str) -> str:
        """Run Python code inside, as there is no shell, and return what it printed."""
        return self.run("/usr/bin/python", "-c", code)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end("KILL")

    def stop(self) -> int:
        """Ask it to end; return its exit status."""
        return self._end("TERM")

    def _end(self, signal: str) -> int:
        assert self._process is not None
        podman("kill", "--signal", signal, self.name)
        return self._process.wait(timeout=DEADLINE_SECONDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a key and an empty state, which only the container's user may write."""
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", USER_ID, USER_ID)
    (tmp_path / "key").write_text("key-main\n")
    return tmp_path


def configure(folder: Path, api_url: str) -> None:
    """Write a configuration that polls often and holds no newborn."""
    api = {"url": api_url, "key_file": "/run/secrets/invent/api-key", "requests_per_minute": 6000}
    config = {
        "api": api,
        "poll_interval": "200ms",
        "metrics": {"newborn_hold": "0s"},
        "state": {"url": "sqlite:////data/invent-exporter.db"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))


def test_dockerfile_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hadolint has nothing to say."""
    # It comes as a Python package, so it lies beside this Python.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    done = subprocess.run(
        [require("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_image_says_what_it_is(configuration: dict[str, Any]) -> None:
    """User, entry, signal, health and OCI labels are set."""
    config = configuration["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/usr/bin/python", "/app/exporter.py"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/python", "/app/healthcheck.py"]
    assert list(config["ExposedPorts"]) == ["10480/tcp"]
    assert list(config["Volumes"]) == ["/data"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "0a1b2c3"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_image_is_small(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is smaller than python:3.13-slim alone, and says how large."""
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    with capsys.disabled():
        sys.stdout.write(f"\nsize of the image: {size / MEBIBYTE:.0f} MiB\n")
    assert size < 110 * MEBIBYTE


def test_the_same_files_make_the_same_layer(image: str, image_built_again: str) -> None:
    """Two builds put the same file system into the image, to the last bit."""
    layers = [
        json.loads(podman("image", "inspect", "--format", "{{json .RootFS.Layers}}", name))
        for name in (image, image_built_again)
    ]
    assert layers[0] == layers[1]
    assert len(layers[0]) == 1


LIST_PROGRAMS = """
import os
names = [os.path.join(folder, name) for folder, _, names in os.walk("/") for name in names
         if not folder.startswith(("/proc", "/sys", "/dev"))]
print("\\n".join(path for path in names if os.access(path, os.X_OK)))
"""


def test_hardened_killed_and_started_again_it_counts_each_run_once(
    image: str, folder: Path
) -> None:
    """Read-only, without capabilities, as another user: kills lose no run and double none."""
    with SimulatorServer() as simulator:
        configure(folder, simulator.url)
        world = simulator.world
        serve = ("serve", "--config.file=/etc/invent-exporter/config.yaml")
        open_run = world.add_run(status="RUNNING")
        with Exporter(image, folder, serve) as exporter:
            for _ in range(7):
                world.add_run(status="COMPLETED")
            world.add_run(status="FAILED")
            wait_for("8 runs", lambda: exporter.finished() == {"COMPLETED": 7, "FAILED": 1})
            exporter.kill()
        world.finish_run(open_run, "FAILED")
        for _ in range(150):
            world.add_run(status="COMPLETED")
        with Exporter(image, folder, serve) as exporter:
            exporter.kill()
        with Exporter(image, folder, serve) as exporter:
            expected = {"COMPLETED": 157, "FAILED": 2}
            wait_for("all runs", lambda: exporter.finished() == expected)
            assert exporter.stop() == 0
        with Exporter(image, folder, serve) as exporter:
            assert exporter.finished() == expected


def test_commands_work_as_any_user(image: str, folder: Path) -> None:
    """`invent-exporter` is found inside; OpenShift's users, nameless and of group 0, need no more.

    The demo needs nothing mounted: the image's own /data can be written.
    """
    api = free_port()
    demo = ("demo", f"--simulator.listen-address=127.0.0.1:{api}")
    with Exporter(image, folder, demo, user="1000640000:0", mount=False) as exporter:
        wait_for("runs", lambda: bool(exporter.finished()))
        assert exporter.get("/").is_success
        assert exporter.python(TRY_TO_WRITE) == "['/data']"
        variables = (
            f"--env=INVENT_API_URL=http://127.0.0.1:{api}",
            "--env=INVENT_API_KEY=demo-key",
        )
        for terminal in ("--tty=false", "--tty"):
            table = podman("exec", terminal, *variables, exporter.name, "invent-exporter", "check")
            assert "org-aurora" in table
            assert "ok" in table
        # HTTPS needs authorities to trust and names to ask for.
        authorities, address, zone = exporter.python(LOOK_AROUND).split()
        assert int(authorities) > 100
        assert (address, zone) == ("127.0.0.1", "UTC")


def test_what_the_container_may_and_has(image: str, folder: Path) -> None:
    """No shell, pip or compiler inside; no capability; only /data can be written; it is healthy."""
    with SimulatorServer() as simulator:
        configure(folder, simulator.url)
        with Exporter(
            image, folder, ("--config.file=/etc/invent-exporter/config.yaml",)
        ) as exporter:
            status = dict(
                line.split(":\t") for line in exporter.python(READ_STATUS).splitlines() if line
            )
            assert status["Uid"].split() == [str(USER_ID)] * 4
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert exporter.python(TRY_TO_WRITE) == "['/data']"
            programs = {Path(path).name for path in exporter.python(LIST_PROGRAMS).splitlines()}
            forbidden = {"sh", "bash", "dash", "busybox", "pip", "pip3", "gcc", "cc", "apt", "dpkg"}
            assert "python3.13" in programs
            assert not programs & forbidden
            assert exporter.python("import importlib.util as u; print(u.find_spec('pip'))") == (
                "None"
            )
            podman("healthcheck", "run", exporter.name)
            exporter.run(*helm_test_command(f"127.0.0.1:{exporter.port}"))
            assert 'revision="0a1b2c3"' in exporter.get("/metrics").text


READ_STATUS = """
print("\\n".join(
    line for line in open("/proc/1/status").read().splitlines()
    if line.startswith(("Uid", "CapEff", "CapBnd", "NoNewPrivs"))
))
"""

LOOK_AROUND = """
import socket, sys, time
sys.path.insert(0, "/app")
import httpx
context = httpx.create_ssl_context()
print(len(context.get_ca_certs()), socket.gethostbyname("localhost"), time.tzname[0])
"""

TRY_TO_WRITE = """
import tempfile
written = []
for folder in ("/", "/app", "/data", "/etc", "/usr/bin"):
    try:
        tempfile.TemporaryFile(dir=folder).close()
        written.append(folder)
    except OSError:
        pass
print(written)
"""
