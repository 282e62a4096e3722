"""The past of a scene as `backfill` writes it, of runs that a simulated API lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

from drill.traffic import Traffic
from grafana.pictures.history import TARGET, Scene
from invent_exporter.commands.backfill import backfill
from invent_exporter.commands.backfill_plan import Plan
from invent_exporter.config.load import ApiConfig, Config, Key, OrgConfig
from invent_exporter.ledger.counts import Bounds
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Org, Settings, SimulatorServer, World

_KEY: Final = "key-of-all"
_STEP_MS: Final = 60_000
_LEDGER: Final = LedgerSettings(Bounds((), (), ()), 1, False, 86_400.0)  # noqa: FBT003 (no steps)


def write(scene: Scene, folder: Path, say: Callable[[str], None] = lambda _line: None) -> Path:
    """Let the scene's runs come and go, and write its past; return the file."""
    played: list[Traffic] = []
    world = World(clock=lambda: played[0].now if played else float(scene.begin))
    names = dict.fromkeys(habit.org_id for habit in scene.habits)
    for org_id in names:
        world.add_org(Org(id=org_id, name=org_id.title(), key=f"{_KEY}-{org_id}"))
    traffic = Traffic(world, scene.habits, Random(scene.seed), 60, scene.begin)  # noqa: S311
    played.append(traffic)
    traffic.schedule()
    traffic.play_until(scene.end)
    output = folder / "history.om"
    with SimulatorServer(world=world, settings=Settings(rate_limit_per_minute=None)) as server:
        config = Config(
            api=ApiConfig(url=server.url, requests_per_minute=100_000),
            orgs=tuple(
                OrgConfig(id=org_id, name=org_id.title(), key=Key.literal(f"{_KEY}-{org_id}"))
                for org_id in names
            ),
            state_url=f"sqlite:///{folder}/state.db",
        )
        asyncio.run(_contact(config, scene.end))
        plan = Plan(output, "the scene's beginning", scene.begin * 1000, _STEP_MS, TARGET)
        backfill(config, Redactor(), plan, say)
    return output


async def _contact(config: Config, contact_seconds: float) -> None:
    """Let the ledger have met the orgs at the scene's end, which is where their past ends."""
    ledger = Ledger(open_database(config.state_url), _LEDGER)
    for each in config.orgs:
        org = await ledger.load(each.id, walk_floor=contact_seconds)
        await ledger.complete(org, org.scan, absent=(), contact_seconds=contact_seconds)
    ledger.close()


def lines(scene: Scene, folder: Path) -> Iterator[str]:
    """Yield the file's lines, and leave none behind."""
    path = write(scene, folder)
    with path.open() as file:
        yield from file
    for left in (path, *folder.glob("state.db*")):
        left.unlink()
