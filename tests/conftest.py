"""Give every test the same surroundings, and tell quick tests from long ones.

A test is `system` when it needs a program beside Python, or minutes: `make test` leaves those out,
`make test-system` runs them alone. A proof that takes the fixture `effort` is in both, in two
sizes: with `--long` it is `system` as well.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.effort import Effort
from tests.postgres import PostgresServer, postgres_server

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

_FOLDER = Path(__file__).parent
_LONGEST_FIRST = ("deploy/test_image.py", "ha", "process", "deploy", "grafana", "proof")
"""Where tests wait or work for seconds. A long one that begins last is waited for alone."""


_EACH_BY_ITSELF = ("tests/process/", "tests/proof/")
"""Tests there share nothing; those of another file may share servers, builds and data."""


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each worker a file, or one long test.

    xdist's own groups (3.8) are lost with pytest 9.2: they are written into node ids.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_EACH_BY_ITSELF) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Let files and long tests be what workers take."""
    return _Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let proofs be asked for in their long form."""
    parser.addoption("--long", action="store_true", help="proofs in their long form, as `system`")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run `async def` tests as the program runs."""
    return "asyncio"


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """Return the size that this proof should have."""
    return Effort.LONG if request.config.getoption("--long") else Effort.QUICK


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server, once for all tests that leave it running."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """Make an empty PostgreSQL database, and give its URL."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty state of each kind; those of PostgreSQL are `system`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark long proofs, and put the longest tests first."""

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(_FOLDER)
        parents = {str(place), *map(str, place.parents)}
        ranks = (number for number, name in enumerate(_LONGEST_FIRST) if name in parents)
        return next(ranks, len(_LONGEST_FIRST))

    for item in items:
        if config.getoption("--long") and "effort" in getattr(item, "fixturenames", ()):
            item.add_marker("system")
    items.sort(key=rank)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Leave structlog and the root logger as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a developer's own INVENT_* variables (a real key among them) out of the tests."""
    for name in tuple(os.environ):
        if name.startswith("INVENT_"):
            monkeypatch.delenv(name)
