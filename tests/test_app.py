"""How the parts of `serve` start together."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from invent_exporter.app import Exporter, serve
from invent_exporter.collector.loop import Collector
from invent_exporter.config.load import ApiConfig, Config, Key, OrgConfig
from invent_exporter.redaction import Redactor
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
        places: asyncio.Queue[Sequence[tuple[str, int]]] = asyncio.Queue()
        serving = asyncio.create_task(
            serve(
                config,
                Redactor(),
                addresses=[("127.0.0.1", 0)],
                telemetry_path="/metrics",
                on_listening=places.put_nowait,
            )
        )
        try:
            ((_, port),) = await places.get()
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def story(config: Config) -> None:
        exporter = Exporter(config, Redactor())
        await exporter.load()
        await exporter.supervisor.collectors[0].poll()
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


BUG = """
from invent_exporter import app, cli
from invent_exporter.api.listing import RunsApi

async def run(*_):
    raise KeyError("sk-hidden-0123456789")

def listing(_self, _org_id, read_key):
    raise KeyError(read_key())

app.Exporter.run, RunsApi.listing = run, listing
raise SystemExit(cli.main([*"{}".split(), "--log.format=json"]))
"""


@pytest.mark.parametrize("command", ["serve --web.listen-address=127.0.0.1:0", "check"])
def test_a_bug_that_ends_the_process_is_a_log_line_without_secrets(
    tmp_path: Path, command: str
) -> None:
    """With its traceback, in the format of the other lines; the exit status is 1."""
    ended = subprocess.run(
        [sys.executable, "-c", BUG.replace("{}", command)],
        env={
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "INVENT_API_KEY": "sk-hidden-0123456789",
            "INVENT_STATE_URL": f"sqlite:///{tmp_path / 'state.db'}",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[-1]["msg"] == "ended by a bug"
    assert "KeyError" in lines[-1]["exception"]
    assert "sk-hidden" not in ended.stderr
