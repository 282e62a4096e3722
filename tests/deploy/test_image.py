"""The image, built for real and run as a platform would: hardened, killed, started again."""

import json
import os
import re
import shlex
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import invent_exporter
from invent_exporter.simulator import SimulatorServer
from tests.deploy.chart import CHART, helm_test_command, only, render
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
from tests.deploy.processes import Server
from tests.postgres import postgres_server
from tests.process.harness import DEADLINE_SECONDS, free_port, parse, wait_for
from tests.programs import run

pytestmark = pytest.mark.system

MEBIBYTE = 1024 * 1024
USER_ID = 10001
"""Not the user of the image."""

SERVE = ("serve", "--config.file=/etc/invent-exporter/config.yaml")
HARDENED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")


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


class Exporter(Server):
    """A container of the image, hardened as far as a container can be, on the host's network."""

    def __init__(
        self,
        image: str,
        folder: Path,
        arguments: tuple[str, ...],
        options: Sequence[str] | None = None,
    ) -> None:
        """Prepare; `options` replace hardening and the mounts of what is in `folder`."""
        hardened = (
            *(*HARDENED, "--user", f"{USER_ID}:{USER_ID}"),
            *("--volume", f"{folder}/state:/data"),
            *("--volume", f"{folder}/config.yaml:/etc/invent-exporter/config.yaml:ro"),
            *("--volume", f"{folder}/key:/run/secrets/invent/api-key:ro"),
        )
        port = free_port()
        self.name = f"invent-exporter-test-{uuid.uuid4().hex[:12]}"
        command = podman_command(
            *("run", "--rm", "--name", self.name, "--network", "host"),
            # The health check is run by hand: its timer would be systemd's.
            *("--health-interval", "disable"),
            # Above what the machine allows, runc refuses to start.
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
            *(hardened if options is None else options),
            *("--env", f"HEALTHCHECK_PORT={port}"),
            *(image, *arguments, f"--web.listen-address=127.0.0.1:{port}"),
        )
        super().__init__(command, port, "/-/ready", folder / f"{self.name}.log")

    def __exit__(self, *_: object) -> None:
        """Kill it when it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def finished(self) -> dict[str, int]:
        """Return how many runs it counted, by status."""
        found: Counter[str] = Counter()
        samples = parse(self.get("/metrics").text).among("invent_runs_finished_total")
        for labels, value in samples.items():
            found[dict(labels)["status"]] += int(value)
        return dict(+found)

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


def configure(
    folder: Path, api_url: str, state_url: str = "sqlite:////data/invent-exporter.db"
) -> None:
    """Write a configuration that polls often and holds no newborn."""
    api = {"url": api_url, "key_file": "/run/secrets/invent/api-key", "requests_per_minute": 6000}
    config = {
        "api": api,
        "poll_interval": "200ms",
        "metrics": {"newborn_hold": "0s"},
        "state": {"url": state_url},
    }
    (folder / "config.yaml").write_text(json.dumps(config))


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
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in config["Labels"].items()}
    assert labels["version"] == "1.2.3"
    assert labels["revision"] == "0a1b2c3"
    assert labels["created"] == "2026-11-27T12:00:00Z"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == "docker.io/library/python:3.13-slim"
    assert labels["base.digest"] == f"sha256:{'0' * 64}"
    assert labels["url"].startswith("https://")
    assert labels["vendor"]


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
        open_run = world.add_run(status="RUNNING")
        with Exporter(image, folder, SERVE) as exporter:
            for _ in range(7):
                world.add_run(status="COMPLETED")
            world.add_run(status="FAILED")
            wait_for("8 runs", lambda: exporter.finished() == {"COMPLETED": 7, "FAILED": 1})
            exporter.kill()
        world.finish_run(open_run, "FAILED")
        for _ in range(150):
            world.add_run(status="COMPLETED")
        with Exporter(image, folder, SERVE) as exporter:
            exporter.kill()
        with Exporter(image, folder, SERVE) as exporter:
            expected = {"COMPLETED": 157, "FAILED": 2}
            wait_for("all runs", lambda: exporter.finished() == expected)
            assert exporter.stop() == 0
        with Exporter(image, folder, SERVE) as exporter:
            assert exporter.finished() == expected


def test_replicas_of_it_share_a_database(image: str, folder: Path) -> None:
    """PostgreSQL's driver is inside: when one is told to end, the other goes on where it was."""
    with postgres_server() as server, server.database() as url, SimulatorServer() as simulator:
        configure(folder, simulator.url, url)
        running = [simulator.world.add_run(status="RUNNING") for _ in range(2)]
        with Exporter(image, folder, SERVE) as first, Exporter(image, folder, SERVE) as second:
            simulator.world.finish_run(running[0])

            def has_counted() -> bool:
                return first.finished() | second.finished() == {"COMPLETED": 1}

            wait_for("a run", has_counted)
            owner, other = (first, second) if first.finished() else (second, first)
            assert other.finished() == {}
            assert owner.stop() == 0
            simulator.world.finish_run(running[1])
            wait_for("another run", lambda: other.finished() == {"COMPLETED": 2})
    assert list((folder / "state").iterdir()) == []


def test_commands_work_as_any_user(image: str, folder: Path) -> None:
    """`invent-exporter` is found inside; OpenShift's users, nameless and of group 0, need no more.

    The demo needs nothing mounted: the image's own /data can be written.
    """
    api = free_port()
    demo = ("demo", f"--simulator.listen-address=127.0.0.1:{api}")
    options = (*HARDENED, "--user", "1000640000:0")
    with Exporter(image, folder, demo, options=options) as exporter:
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


def test_the_run_of_the_release_finds_it_well(image: str) -> None:
    """What the workflow runs before it publishes: hardened, as nobody's user, ended in time."""
    program = shlex.join(podman_command())
    limits = "--network host --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --no-healthcheck"
    command = (
        *(sys.executable, "-m", "release.run_image", image, "--port", str(free_port())),
        *("--containers", program, f"--run={limits}", "--stop-seconds=25"),
    )
    done = run(*command, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"{image}: well\n"), done.stdout + done.stderr
    # It sees what is wrong: this user may not write to /data.
    wrong = [*command, f"--run={limits} --user 1:1"]
    done = run(*wrong, cwd=ROOT)
    assert done.returncode == 1
    assert "can write to [], expected /data alone" in done.stdout


def test_the_documented_command_runs_it(image: str, folder: Path) -> None:
    """`docker run` as docs/deploy.md has it, but for the name of the image and the network."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    (found,) = re.findall(r"\$ docker run (--name .*?VERSION)\n", text, re.DOTALL)
    words = shlex.split(found.replace("\\\n", " "))
    for option in ("--name", "--publish"):  # on the host's network there is nothing to publish
        del words[words.index(option) : words.index(option) + 2]
    places = {"./api-key": f"{folder}/key", "invent-ledger:": f"{folder}/state:"}
    options = [re.sub("|".join(places), lambda old: places[old[0]], word) for word in words[:-1]]
    (folder / "state").chmod(0o777)
    with SimulatorServer() as simulator:
        simulator.world.add_run(status="COMPLETED")
        options += ["--env", f"INVENT_API_URL={simulator.url}"]
        with Exporter(image, folder, ("serve",), options) as exporter:
            text = exporter.get("/metrics").text
            assert re.search(r'(?m)^invent_up\{org_id="[^"]+"\} 1\.0$', text)
    assert (folder / "state" / "invent-exporter.db").exists()


def test_what_the_container_may_and_has(image: str, folder: Path) -> None:
    """No shell, pip or compiler inside; no capability; only /data can be written; it is healthy.

    The probes that the chart has beside a web configuration say so, too.
    """
    deployment = only(render("helm4", CHART / "ci" / "web-values.yaml"), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    (health,) = [one for one in container["args"] if one.startswith("--web.health-address=")]
    with SimulatorServer() as simulator:
        configure(folder, simulator.url)
        with Exporter(image, folder, (*SERVE, health)) as exporter:
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
            env = [f"--env={one['name']}={one['value']}" for one in container["env"]]
            for probe in ("startup", "liveness", "readiness"):
                asked = container[f"{probe}Probe"]["exec"]["command"]
                podman("exec", *env, exporter.name, *asked)
            exporter.run(*helm_test_command(f"127.0.0.1:{exporter.port}"))
            assert 'revision="0a1b2c3"' in exporter.get("/metrics").text
            _look_at_contents(json.loads(exporter.python(LIST_CONTENTS)))


def _look_at_contents(found: dict[str, Any]) -> None:
    """Its own license and name, those of each Python package, and Debian's copyright files."""
    assert found["license"] == (ROOT / "LICENSE").read_text()
    assert found["own"] == {
        "version": invent_exporter.__version__,
        "license": "Apache-2.0",
        "assets": 7,
    }
    locked = re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert set(found["distributions"]) == {*locked, "invent-exporter"}
    assert {"libc6", "libssl3t64"} <= set(found["debian"])
    assert found["debian"] == found["copyright"]


LIST_CONTENTS = """
import importlib.metadata as metadata, json, os, re, sys
sys.path.insert(0, "/app")
own = metadata.distribution("invent-exporter")
debian = sorted(set(os.listdir("/var/lib/dpkg/status.d")) - {"base-files"})
print(json.dumps({
    "license": open("/licenses/LICENSE").read(),
    "own": {
        "version": own.version,
        "license": own.metadata["License-Expression"],
        "assets": sum(len(files) for _, _, files in os.walk("/app/invent_exporter/assets")),
    },
    "distributions": sorted(
        re.sub("[-_.]+", "-", one.metadata["Name"]).lower() for one in metadata.distributions()
    ),
    "debian": debian,
    "copyright": [
        name for name in debian if os.path.getsize(f"/usr/share/doc/{name}/copyright") > 100
    ],
}))
"""

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
