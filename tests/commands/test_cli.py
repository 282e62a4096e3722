"""Flags, configuration and what stops a command before it has begun: `main`, without a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from invent_exporter import __version__
from invent_exporter.cli import main
from tests.process.harness import ROOT, clean_environment, make_config
from tests.process.traffic import KEY, quiet_api

NOWHERE = "sqlite:////nowhere/state.db"

Said = tuple[int, str, str]
"""Exit status, stdout, stderr."""
Run = Callable[..., Said]


@pytest.fixture(name="run")
def _run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    restored_logging: None,  # noqa: ARG001
) -> Iterator[Run]:
    """Run a command here, in a folder of its own; leave signals and logging as they were."""
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str) -> Said:
        status = main(arguments)
        return status, *capsys.readouterr()

    yield run
    for number, handler in signals.items():
        signal.signal(number, handler)


def the_line(said: Said, status: int = 2) -> str:
    """Return the one line of stderr that an error is; nothing else was said."""
    line = said[2]
    assert said == (status, "", line)
    assert line.count("\n") == 1, line
    assert line.startswith("invent-exporter: "), line
    return line


@pytest.mark.parametrize("command", [(), ("serve",), ("check",), ("demo",), ("simulate",)])
def test_version(run: Run, command: tuple[str, ...]) -> None:
    """`--version` names the program and its version, with every command."""
    status, said, errors = run(*command, "--version")
    assert (status, errors) == (0, "")
    assert said.startswith(f"invent-exporter, version {__version__} ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--help", ("\n    serve ", "\n    check ", "\n    simulate ", "\n    backfill ")),
        ("serve -h", ("--config.file", "--web.listen-address", "(default info)", ":10480)")),
    ],
)
def test_help_lists_commands_and_flags(
    capsys: pytest.CaptureFixture[str], arguments: str, named: tuple[str, ...]
) -> None:
    """`--help` lists the commands; that of a command its flags, with their defaults."""
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    said, errors = capsys.readouterr()
    assert (ended.value.code, errors) == (0, "")
    assert [name for name in named if name not in said] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nonsense",), "--nonsense"),
        (("serve", "--config.fil=x"), "--config.fil"),
        (("fetch",), "fetch"),
        (("migrate", "--from=sqlite:///state.db"), "--to"),
        (("migrate", "--from=sqlite://", "--to=sqlite:///state.db"), "--from: sqlite:// keeps"),
        (("migrate", "--from=sqlite:///a.db", "--to=sqlite:///a.db"), "the same as --from"),
        (("migrate", "--from=mysql://a/b", "--to=sqlite:///a.db"), "--from: not a known kind"),
        (("--log.level=loud",), "--log.level"),
        (("--web.listen-address=here",), "--web.listen-address"),
        (("--web.listen-address=here", "--config.check", "--web.listen-address=:0"), "'here'"),
        (("--web.telemetry-path=metrics",), "--web.telemetry-path"),
        (("--web.telemetry-path=/-/healthy",), "--web.telemetry-path"),
        (("--web.config.file=",), "--web.config.file: the path is empty"),
        (("--web.health-address=:10482",), "--web.health-address: ':10482' is not only for this"),
        (("backfill",), "--output"),
        (("--config.file=/nowhere/config.yaml",), "/nowhere/config.yaml"),
        (("--config.file=",), "--config.file: the path is empty"),
        ((), "no API key"),
        (("simulate", "--order=random"), "--order"),
        (("simulate", "--rate-limit=many"), "expected 0 or more"),
        (("demo", "--simulator.listen-address=0.0.0.0:0"), "expected a loopback address"),
        (("simulate", "--listen-address=[::]:0"), "expected a loopback address"),
    ],
)
def test_bad_flags_end_with_2_and_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """A flag that is wrong, not supported yet or missing is named in one line; exit status 2."""
    assert the_line(run(*arguments)).count(said) == 1


@pytest.mark.parametrize("proxy", ["", "http://user:PASS/W0RD@proxy:1"])
def test_bad_configuration_ends_with_2_before_anything_is_opened(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str
) -> None:
    """One line, without a key or a password; `serve`, `--config.check` and `check` say the same."""
    monkeypatch.setenv("https_proxy", proxy)
    file = tmp_path / "config.yaml"
    interval = "30s" if proxy else "soon"
    file.write_text(
        f"{{api: {{key: {KEY}}}, poll_interval: {interval}, state: {{url: {NOWHERE}}}}}"
    )
    commands = (("serve",), ("serve", "--config.check"), ("check",))
    (line,) = {the_line(run(*command, f"--config.file={file}")) for command in commands}
    expected = "https_proxy: not the URL of a proxy; expected " if proxy else ": poll_interval: "
    assert expected in line
    assert not [secret for secret in (KEY, "W0RD") if secret in line]


@pytest.mark.parametrize("command", [(), ("--config.check",)])
def test_bad_web_configuration_ends_with_2_and_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Before anything is opened; `--config.check` reads it as well, and the files that it names."""
    monkeypatch.setenv("INVENT_API_KEY", KEY)
    monkeypatch.setenv("INVENT_STATE_URL", NOWHERE)
    file = tmp_path / "web.yaml"
    for text, said in (
        ("\nbasic_auth: {}\n", f"{file}:2: basic_auth: unknown key: did you mean"),
        ("tls_server_config: {cert_file: no.crt, key_file: no.key}", "no.crt: no such file"),
    ):
        file.write_text(text)
        assert said in the_line(run(*command, f"--web.config.file={file}"))


def test_config_check_touches_nothing(run: Run, tmp_path: Path) -> None:
    """`--config.check` says `ok` without a request, a port or a state file."""
    with quiet_api() as simulator, socket.create_server(("127.0.0.1", 0)) as busy:
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(make_config(simulator.url, tmp_path)))
        address = f"--web.listen-address=127.0.0.1:{busy.getsockname()[1]}"
        assert run("--config.check", f"--config.file={file}", address) == (0, "ok\n", "")
        assert simulator.requests == ()
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("program", ["exporter.py", "-m invent_exporter"])
@pytest.mark.parametrize(("arguments", "status"), [("--version", 0), ("--nonsense", 2)])
def test_the_file_and_the_module_are_one_program(program: str, arguments: str, status: int) -> None:
    """Both hand the exit status on, and call themselves by the same name."""
    command = [sys.executable, *program.split(), arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert (done.stdout + done.stderr).startswith("invent-exporter")


@pytest.mark.parametrize("arguments", ["check", "--version", "--help", "serve --config.check"])
def test_an_output_that_cannot_be_written_is_one_line_and_status_1(arguments: str) -> None:
    """A full disk: what was found did not arrive, which is no success and no bug."""
    environment = {
        "INVENT_API_KEY": KEY,
        "INVENT_API_URL": "http://127.0.0.1:9",
        "PYTHONUNBUFFERED": "",  # as for users: the error comes with the flush
    }
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "exporter.py", *arguments.split()],
            cwd=ROOT,
            env=clean_environment() | environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    expected = "invent-exporter: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, expected)
