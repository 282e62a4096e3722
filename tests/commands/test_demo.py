"""The demo command when something is in its way."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "exporter.py", "demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_demo_on_a_busy_simulator_port_ends_in_one_line() -> None:
    """A port that another program has is named with its flag, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = _demo(f"--simulator.listen-address={address}", "--web.listen-address=127.0.0.1:0")
    expected = f"invent-exporter: --simulator.listen-address: {address}: Address already in use\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)


def test_demo_on_a_busy_port_names_no_address_to_open() -> None:
    """The page there would be another program's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = _demo(f"--web.listen-address={address}", "--simulator.listen-address=127.0.0.1:0")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert address in ended.stderr
