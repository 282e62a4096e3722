"""The `demo` and `simulate` commands: a simulated Invent API, and a configuration for it."""

from __future__ import annotations

from typing import Literal

from invent_exporter.config.load import ApiConfig, Config, Key, MetricsConfig, OrgConfig
from invent_exporter.simulator import (
    DEMO_KEY,
    Settings,
    SimulatorServer,
    demo_world,
    run_simulator,
)

_LABS_KEY = "demo-labs-key"
_LABS_ORG = "org-aurora-labs"


def start_simulator(
    host: str,
    port: int,
    *,
    seed: int,
    order: Literal["created", "updated", "oldest", "mixed"],
    send_count: bool,
    requests_per_minute: int,
) -> SimulatorServer:
    """Prepare a simulator with a day of history; it serves while it is entered."""
    settings = _settings(order, send_count=send_count, requests_per_minute=requests_per_minute)
    return SimulatorServer(demo_world(seed), settings=settings, host=host, port=port)


def simulate(
    host: str,
    port: int,
    *,
    seed: int,
    order: Literal["created", "updated", "oldest", "mixed"],
    send_count: bool,
    requests_per_minute: int,
) -> None:
    """Serve the simulated API alone until SIGTERM or SIGINT; raises OSError for a busy port."""
    settings = _settings(order, send_count=send_count, requests_per_minute=requests_per_minute)
    run_simulator(host, port, seed=seed, settings=settings)


def _settings(
    order: Literal["created", "updated", "oldest", "mixed"],
    *,
    send_count: bool,
    requests_per_minute: int,
) -> Settings:
    return Settings(
        order=order, count=send_count, rate_limit_per_minute=requests_per_minute or None
    )


def demo_config(api_url: str) -> Config:
    """Poll both orgs of the simulated API at a pace to watch; keep nothing."""
    return Config(
        api=ApiConfig(url=api_url),
        orgs=(
            OrgConfig(id="c", name="Aurora Foods", key=Key.literal(DEMO_KEY)),
            OrgConfig(id=_LABS_ORG, name="Aurora Labs", key=Key.literal(_LABS_KEY)),
        ),
        poll_interval_seconds=2.0,
        state_url="sqlite://",
        metrics=MetricsConfig(newborn_hold_seconds=5.0, step_credits=True),
    )
