"""The `demo` and `simulate` commands: a simulated Invent API, and a configuration for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from invent_exporter.config.load import ApiConfig, Config, Key, MetricsConfig, OrgConfig
from invent_exporter.config.values import is_loopback
from invent_exporter.errors import ListenError, UsageError
from invent_exporter.simulator import DEMO_KEY, Settings, SimulatorServer, demo_world
from invent_exporter.web.listening import join_address

SIMULATOR_FLAG = "--simulator.listen-address"


@contextlib.contextmanager
def simulator(address: tuple[str, int], seed: int, settings: Settings) -> Iterator[str]:
    """Serve the simulated API with a day of history, and give its URL.

    Raises:
        UsageError: the address can be reached from elsewhere.
        ListenError: the address can't be listened on.

    """
    host, port = address[0] or "127.0.0.1", address[1]
    place = join_address(host, port)
    if not is_loopback(host):
        # Whoever reaches it may change what it answers, and the key to it is no secret.
        not_here = f"{place!r} is not of this machine alone"
        raise UsageError(f"{SIMULATOR_FLAG}: {not_here}; expected a loopback address")
    server = SimulatorServer(demo_world(seed), settings=settings, host=host, port=port)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(server)
        except OSError as error:
            raise ListenError(error.errno, f"{SIMULATOR_FLAG}: {place}: {error.strerror}") from None
        yield server.url


def demo_config(api_url: str) -> Config:
    """Poll the orgs of the simulated API at a pace to watch; keep nothing."""
    return Config(
        api=ApiConfig(url=api_url),
        orgs=(
            OrgConfig(
                id="c",
                name="Aurora Foods",
                key=Key.literal(DEMO_KEY),
                sub_orgs=True,
                sub_orgs_interval_seconds=10.0,
            ),
        ),
        poll_interval_seconds=5.0,  # four orgs, and the limit of an ordinary account
        state_url="sqlite://",
        metrics=MetricsConfig(newborn_hold_seconds=5.0, step_credits=True),
    )


def places(addresses: Iterable[tuple[str, int]], telemetry_path: str, api_url: str) -> str:
    """List what there is to open, a line each."""
    lines = []
    for host, port in addresses:
        is_anywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not listened on
        url = f"http://{join_address('localhost' if is_anywhere else host, port)}"
        lines += [f"page for people        {url}/", f"metrics                {url}{telemetry_path}"]
    return "\n".join([*lines, f"simulated Invent API   {api_url}"])
