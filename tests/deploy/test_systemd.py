"""The systemd unit, as systemd itself reads it."""

import re
from pathlib import Path

import pytest

from invent_exporter.cli import EXIT_USAGE
from tests.deploy.chart import ROOT
from tests.programs import run

pytestmark = pytest.mark.system

UNIT = ROOT / "deploy" / "systemd" / "invent-exporter.service"


def test_unit_is_valid(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, once the program is where docs/deploy.md puts it."""
    program = tmp_path / "invent-exporter"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text().replace("/opt/invent-exporter/bin/invent-exporter", str(program))
    )
    done = run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_unit_is_hardened_as_documented() -> None:
    """`systemd-analyze security` gives the score that docs/deploy.md names."""
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    found = re.search(r"exposure level for invent-exporter.service: ([0-9.]+) ", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 1.5
    documented = re.search(
        r"of systemd (\d+) gives the\s+unit an exposure level of ([0-9.]+) ",
        (ROOT / "docs" / "deploy.md").read_text(),
    )
    assert documented
    # Other versions weigh other settings.
    if f"systemd {documented[1]} " in run("systemd-analyze", "--version").stdout:
        assert found[1] == documented[2]


def test_a_reload_sends_what_the_exporter_reloads_at() -> None:
    """`systemctl reload` is a hang-up, to the exporter alone."""
    assert "\nExecReload=kill -HUP $MAINPID\n" in UNIT.read_text()


def test_a_wrong_configuration_is_not_tried_again() -> None:
    """The exit status of the exporter for it is the one that systemd does not restart after."""
    assert f"RestartPreventExitStatus={EXIT_USAGE}\n" in UNIT.read_text()
