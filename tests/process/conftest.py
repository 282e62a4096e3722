"""The simulated API that most tests here need, and exporters that read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from invent_exporter.simulator import SimulatorServer
from tests.process.harness import Exporter, make_config
from tests.process.traffic import quiet_api


class Start(Protocol):
    """Starts an exporter of the simulated API; it ends with the test."""

    def __call__(self, *arguments: str, **config: Any) -> Exporter:  # noqa: ANN401 - JSON
        """Give it flags, and what its configuration has other than the default."""


@pytest.fixture
def simulator() -> Iterator[SimulatorServer]:
    """Serve an API where nothing happens by itself."""
    with quiet_api() as server:
        yield server


@pytest.fixture
def start(simulator: SimulatorServer, tmp_path: Path) -> Iterator[Start]:
    """Return what starts an exporter with its state in the test's folder."""
    with ExitStack() as stack:

        def begin(*arguments: str, **config: Any) -> Exporter:  # noqa: ANN401 - JSON
            made = make_config(simulator.url, tmp_path, **config)
            return stack.enter_context(Exporter(tmp_path, made, arguments=arguments))

        yield begin
