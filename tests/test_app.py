"""How the parts of `serve` start together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from invent_exporter.app import Exporter, serve
from invent_exporter.collector import Collector
from invent_exporter.config import ApiConfig, Config, Key, OrgConfig
from invent_exporter.log import Secrets
from invent_exporter.simulator import Settings, SimulatorServer, add_many, quiet_world

ORG = "org-main"


def test_the_first_answer_after_a_restart_has_every_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrape without them would end the series, and let an alert that waits begin anew."""
    world = quiet_world()
    add_many(world, 20, org_id=ORG, workflows=2, prefix="old")
    start = Collector.start

    async def start_slowly(collector: Collector) -> None:
        await asyncio.sleep(0.3)
        await start(collector)

    async def first_answer(config: Config) -> str:
        ports: asyncio.Queue[int] = asyncio.Queue()
        serving = asyncio.create_task(
            serve(
                config,
                Secrets(),
                host="127.0.0.1",
                port=0,
                telemetry_path="/metrics",
                on_listening=ports.put_nowait,
            )
        )
        try:
            port = await ports.get()
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def story(config: Config) -> None:
        exporter = Exporter(config, Secrets())
        await exporter.load()
        await exporter.collectors[0].poll()
        await exporter.close()
        monkeypatch.setattr(Collector, "start", start_slowly)
        assert "invent_runs_finished_total{" in await first_answer(config)

    with SimulatorServer(world, settings=Settings(rate_limit_per_minute=None)) as server:
        asyncio.run(
            story(
                Config(
                    api=ApiConfig(url=server.url),
                    orgs=(OrgConfig(id=ORG, key=Key.literal("key-main")),),
                    state_url=f"sqlite:///{tmp_path / 'state.db'}",
                )
            )
        )
