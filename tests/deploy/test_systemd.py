"""The systemd unit, as systemd itself reads it."""

import re
import subprocess
from pathlib import Path

from tests.deploy.chart import ROOT
from tests.programs import require

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
    done = subprocess.run(
        [require("systemd-analyze"), "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_unit_is_hardened_as_documented() -> None:
    """`systemd-analyze security` gives the score that docs/deploy.md names."""
    done = subprocess.run(
        [require("systemd-analyze"), "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for invent-exporter.service: ([0-9.]+) ", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 1.5
    assert f"exposure level of {found[1]}" in (ROOT / "docs" / "deploy.md").read_text()
