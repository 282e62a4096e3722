"""What README and docs show in a console is run, here or by the test that is named."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from invent_exporter import cli
from invent_exporter.config.load import load_config
from invent_exporter.simulator import DEMO_KEY
from tests.process.harness import Exporter, clean_environment
from tests.programs import require, run

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "grafana/*.md", "helm/*/README.md", "release/*.md")
    for path in sorted(ROOT.glob(pattern))
]

RUN_HERE = (
    "curl -s ",
    ".venv/bin/python exporter.py check",
    ".venv/bin/python exporter.py --config.file=config.yaml --config.check",
    "invent-exporter assets ",
    "invent-exporter backfill ",
    "promtool tsdb create-blocks-from openmetrics ",
)
"""How the commands begin that `test_commands_do_what_is_shown` runs."""

ELSEWHERE = {
    "make demo": "tests/process/test_commands.py::test_simulate_and_demo_end_by_signal",
    "invent-exporter demo": "tests/process/test_commands.py::test_simulate_and_demo_end_by_signal",
    "export INVENT_API_KEY_FILE=": "tests/process/test_commands.py::test_environment_is_enough",
    ".venv/bin/python exporter.py  # serves": (
        "tests/process/test_commands.py::test_environment_is_enough"
    ),
    "cat config.yaml": "what it shows is the configuration of the commands that are run here",
    ".venv/bin/python exporter.py --config.file=config.yaml": (
        "tests/process/test_commands.py::test_it_listens_on_every_address_that_it_is_given"
    ),
    ".venv/bin/python exporter.py explain": (
        "tests/process/test_explain.py::test_explain_says_why_a_run_counted_or_not"
    ),
    "invent-exporter migrate": (
        "tests/process/test_migrate.py::test_a_scraper_sees_nothing_of_the_move"
    ),
    "psql -c 'CREATE ROLE": "makes what the tests of PostgreSQL make by themselves",
    "pip install 'invent-exporter[postgresql]'": "needs a package index",
    "mv blocks/*": "tests/process/test_backfill_prometheus.py"
    "::test_prometheus_has_the_past_and_the_present_without_a_seam",
    "promtool tsdb create-blocks-from rules": "asks a Prometheus that has the past already",
    "kubectl ": "needs a cluster",
    "helm -n invent install": "tests/deploy/test_cluster.py::test_every_values_file_is_installed",
    "helm -n invent upgrade": (
        "tests/deploy/test_cluster.py::test_a_release_becomes_replicas_and_one_again"
    ),
    "helm install": "tests/deploy/test_cluster.py::test_every_values_file_is_installed",
    "helm -n invent test": "needs a cluster that runs pods",
    "helm test": "needs a cluster that runs pods",
    "docker compose up": "tests/deploy/test_compose.py::test_the_stack_works_with_real_servers",
    "install -": "copies a key to where the next command looks for it",
    "COMPOSE_PROFILES=real": (
        "tests/deploy/test_compose.py::test_the_profile_is_chosen_by_what_replaces_the_default"
    ),
    "COMPOSE_PROFILES=ha": (
        "tests/deploy/test_compose.py::test_replicas_are_all_scraped_and_told_apart"
    ),
    "docker run": "tests/deploy/test_image.py::test_the_documented_command_runs_it",
    "docker exec": "tests/deploy/test_image.py::test_commands_work_as_any_user",
    "pipx install": "tests/deploy/test_release.py::test_pipx_and_uv_install_it",
    "uv tool install": "tests/deploy/test_release.py::test_pipx_and_uv_install_it",
    "python3 -m venv": "tests/deploy/test_release.py::test_wheel_runs_in_an_empty_environment",
    "venv/bin/pip": "tests/deploy/test_release.py::test_wheel_runs_in_an_empty_environment",
    "/opt/invent-exporter/bin/pip": (
        "tests/deploy/test_release.py::test_wheel_runs_in_an_empty_environment"
    ),
    "echo 'poll_interval": "writes the least configuration, for the unit",
    "cp deploy/systemd": "tests/deploy/test_systemd.py::test_unit_is_valid",
    "systemctl enable": "needs systemd as process 1",
    "nomad ": "needs Nomad",
    "invent-exporter serve --config.file=config.yaml --web.config.file": (
        "tests/config/test_web.py::test_documented_example_is_taken"
    ),
    "sha256sum": "needs what a release has",
    "gh attestation": "needs what a release has",
    "cosign": "needs what a release has",
}
"""How other commands begin; the test that runs them or their like, or why none does."""


def commands() -> Iterator[str]:
    """Yield each command of each console, on one line, without its comment's blanks."""
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for block in re.findall(r"^ *```console\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            for command in re.findall(r"^ *[$#] (.+)$", block, re.MULTILINE):
                yield re.sub(r" {2,}", "  ", command)


def beginning(command: str) -> str | None:
    """Return the longest beginning that is known of a command."""
    return max(filter(command.startswith, (*RUN_HERE, *ELSEWHERE)), key=len, default=None)


def test_every_command_is_run_by_a_test_or_excepted() -> None:
    """No command is unknown, no exception is left over, and the tests that are named exist."""
    shown = list(commands())
    assert [command for command in shown if beginning(command) is None] == []
    used = {beginning(command) for command in shown}
    assert {*RUN_HERE, *ELSEWHERE} - used == set()
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        if name:
            assert f"def {name}(" in (ROOT / file).read_text("utf-8"), where


def lines() -> list[str]:
    """Find where `invent-exporter` is called, in consoles and sentences."""
    in_consoles = [re.sub(r".*exporter\.py", "invent-exporter", each) for each in commands()]
    text = "".join(page.read_text("utf-8") for page in PAGES).replace("\n", " ")
    told = re.findall(r"`(invent-exporter [a-z-]+ [^`]+)`", text)
    return [each for each in (*in_consoles, *told) if each.startswith("invent-exporter ")]


@pytest.mark.parametrize("line", dict.fromkeys(lines()))
def test_flags_of_every_call_are_known(line: str) -> None:
    """What stands in the place of a name or number is taken for one."""
    words = shlex.split(re.split(r"[|>]", line)[0], comments=True)[1:]
    if words and not words[0].startswith("-"):
        cli._parser().parse_args(words)
    else:
        cli._parser().parse_args(["serve", *words])


def yamls() -> list[tuple[str, str]]:
    """Find the examples of YAML, with the names of their pages."""
    found = []
    for page in PAGES:
        blocks = re.findall(
            r"^ *```yaml\n(.*?)^ *```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        found += [(str(page.relative_to(ROOT)), dedent(block)) for block in blocks]
    return found


def test_every_example_of_yaml_is_read() -> None:
    """What is no configuration or chart's values, which other tests take, is known here."""
    elsewhere = {"docs/deploy.md", "helm/invent-exporter/README.md"}
    keys = [(page, *yaml.safe_load(text)) for page, text in yamls() if page not in elsewhere]
    assert [names[:2] for names in keys] == [
        ("README.md", "scrape_configs"),
        ("README.md", "orgs"),
        ("README.md", "api"),
        ("docs/postgresql.md", "state"),
        ("grafana/README.md", "jsonData"),
    ]


def test_the_example_of_postgresql_is_a_configuration(tmp_path: Path) -> None:
    """As it stands, beside a key."""
    (example,) = (text for page, text in yamls() if page == "docs/postgresql.md")
    file = tmp_path / "config.yaml"
    file.write_text(example)
    config = load_config(file, {"INVENT_API_KEY": "key"})
    assert config.state_url.startswith("postgresql://exporter@db.internal/invent?sslmode=verify")


def test_the_example_of_sub_orgs_is_a_configuration(tmp_path: Path) -> None:
    """As it stands, beside a key."""
    file = tmp_path / "config.yaml"
    file.write_text(yamls()[1][1])
    config = load_config(file, {"INVENT_API_KEY": "key"})
    assert [(org.sub_orgs, org.sub_orgs_interval_seconds) for org in config.orgs] == [(True, 600.0)]


@pytest.mark.system
def test_prometheus_takes_the_scrape_configuration_of_readme(tmp_path: Path) -> None:
    """As it stands."""
    (tmp_path / "prometheus.yml").write_text(yamls()[0][1])
    done = run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Exporter]:
    """Serve the demo, with failed runs on its page and runs in its counters."""
    simulator = "--simulator.listen-address=127.0.0.1:0"
    with Exporter(tmp_path, None, command="demo", arguments=(simulator,)) as demo:
        demo.wait_for("a run counts", lambda now: now.total("invent_runs_finished_total") > 0)
        yield demo


def _program(path: Path, *command: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
    path.chmod(0o755)


@pytest.mark.system
def test_commands_do_what_is_shown(demo: Exporter, tmp_path: Path) -> None:
    """Each ends with 0 and says something, in a folder as the pages have it."""
    require("curl")
    require("promtool")
    place = tmp_path / "place"
    _program(place / ".venv/bin/python", sys.executable)
    _program(place / ".venv/bin/invent-exporter", sys.executable, ROOT / "exporter.py")
    (place / "exporter.py").symlink_to(ROOT / "exporter.py")
    shown = (ROOT / "README.md").read_text("utf-8").split("$ cat config.yaml\n")[1].split("$ ")[0]
    (place / "config.yaml").write_text(shown)
    (place / "invent-api-key").write_text(DEMO_KEY)
    simulated = re.search(r"simulated Invent API +(\S+)", demo.log)
    assert simulated is not None
    environment = {
        **clean_environment(),
        "PATH": f"{place / '.venv/bin'}:{os.environ['PATH']}",
        "INVENT_API_URL": simulated[1],
        "INVENT_API_KEY_FILE": "invent-api-key",
        "NO_PROXY": "*",
    }
    for command in commands():
        if beginning(command) in RUN_HERE:
            done = subprocess.run(
                [require("bash"), "-c", command.replace("http://localhost:10480", demo.url)],
                capture_output=True,
                check=False,
                text=True,
                cwd=place,
                env=environment,
                timeout=300,
            )
            assert done.returncode == 0, (command, done)
            assert done.stdout, command
            assert (done.stdout == "ok\n") == ("--config.check" in command)
