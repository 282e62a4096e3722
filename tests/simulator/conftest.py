"""A quiet simulator over real HTTP, whose clock stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from invent_exporter.simulator import SimulatorServer, World, quiet_world

START = 1_790_000_000.0
"""A Monday of 2026, 13:33 UTC."""


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = START

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Iterator[SimulatorServer]:
    """Serve a quiet world."""
    with SimulatorServer(quiet_world(clock)) as server:
        yield server


@pytest.fixture
def world(simulator: SimulatorServer) -> World:
    """Give the world that is served."""
    return simulator.world


@pytest.fixture
def client(simulator: SimulatorServer) -> Iterator[httpx.Client]:
    """Give a client with the key of `org-main`."""
    headers = {"authorization": "Bearer key-main"}
    with httpx.Client(base_url=simulator.url, headers=headers, timeout=60.0) as client:
        yield client
