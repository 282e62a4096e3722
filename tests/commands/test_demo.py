"""The demo command when something is in its way."""

from __future__ import annotations

import socket

import pytest

from tests.process.harness import run_command


@pytest.mark.parametrize("taken", ["simulator", "web"])
def test_demo_on_a_busy_port_names_it_and_no_address_to_open(taken: str) -> None:
    """One line on stderr without a traceback: the page there would be another program's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {"simulator": 0, "web": 0, taken: server.getsockname()[1]}
        places = [f"--{name}.listen-address=127.0.0.1:{port}" for name, port in ports.items()]
        ended = run_command("demo", *places)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert f"127.0.0.1:{ports[taken]}: Address already in use" in ended.stderr
    assert (taken == "simulator") == ("--simulator.listen-address: " in ended.stderr)
