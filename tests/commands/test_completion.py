"""Completion, asked of the shells themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from invent_exporter.cli import main
from tests.programs import run

BASH = """source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
_invent_exporter
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What bashcompinit does around a function of bash.
ZSH = f"autoload -Uz compinit && compinit -D; setopt ksharrays\n{BASH}"

TYPED = [
    (("led",), {"ledger"}),
    (("check", "--lo"), {"--log.level", "--log.format"}),
    (("--config.c",), {"--config.check"}),
    (("--config.check", "--config.f"), {"--config.file"}),
    (("check", "--log.level", ""), {"debug", "info", "warn", "error"}),
    (("ledger", "ba"), {"backup"}),
    (("completion", "f"), {"fish"}),
    (("simulate", "--ord"), {"--order"}),
]


@pytest.fixture
def script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Path:
    """Write down what `completion` prints for the shell."""
    assert main(["completion", request.param]) == 0
    path = tmp_path / "completion"
    path.write_text(capsys.readouterr().out)
    return path


def _said(shell: str, code: str, *arguments: str | Path) -> set[str]:
    done = run(shell, "-c", code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return {line.partition("\t")[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize(("typed", "expected"), [*TYPED, (("--log.level", "=", "d"), {"debug"})])
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes(script: Path, typed: tuple[str, ...], expected: set[str]) -> None:
    """Commands, their flags, those of `serve` without it, and values that are known."""
    assert _said("bash", BASH, "-", script, "invent-exporter", *typed) == expected


@pytest.mark.system
@pytest.mark.parametrize(("typed", "expected"), TYPED)
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_completes(script: Path, typed: tuple[str, ...], expected: set[str]) -> None:
    """The same, by the function that bashcompinit calls; zsh takes what fits of its words."""
    found = _said("zsh", ZSH, "-", script, "invent-exporter", *typed)
    assert {word for word in found if word.startswith(typed[-1])} == expected


@pytest.mark.system
@pytest.mark.parametrize(("typed", "expected"), TYPED)
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish_completes(script: Path, typed: tuple[str, ...], expected: set[str]) -> None:
    """The same, by fish's own answer to a line."""
    code = 'source $argv[1]; complete -C "$argv[2]"'
    line = " ".join(("invent-exporter", *typed))
    found = {word for word in _said("fish", code, script, line) if word.startswith(typed[-1])}
    assert found == expected
