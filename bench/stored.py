"""State files with many runs, written without the ledger's own code path."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import insert

from invent_exporter.ledger.counts import Bounds
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.ledger.schema import run

if TYPE_CHECKING:
    from pathlib import Path

    from invent_exporter.ledger.org import OrgLedger

SETTINGS = LedgerSettings(
    Bounds(
        (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400),
        (0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 7200),
        (0.1, 1, 2, 5, 10, 20, 50, 100, 500, 1000),
    ),
    1000,
    False,  # noqa: FBT003 (no credits by step)
    86400.0,
)


def run_id(number: int) -> str:
    """Make an id; ids come in no order, which is the worst case for an index."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:08x}"


def store(path: Path, org_id: str, runs: int) -> None:
    """Make a state file that knows so many finished runs of an org."""
    now = time.time()
    ledger = Ledger(open_database(f"sqlite:///{path}"), SETTINGS)

    async def contact() -> OrgLedger:
        org = await ledger.load(org_id, walk_floor=now - 86400)
        await ledger.complete(org, org.scan, absent=(), contact_seconds=now - 86400)
        return org

    org = asyncio.run(contact())
    with ledger.transaction(org) as connection:
        for first in range(0, runs, 10_000):
            connection.execute(
                insert(run),
                [
                    {
                        "run_id": run_id(number),
                        "org": org.key,
                        "workflow_id": f"workflow-{number % 50:06d}",
                        "origin": "WEBHOOK",
                        "status": "FAILED" if number % 20 == 0 else "COMPLETED",
                        "final": 1,
                        "owned": 1,
                        "counted": 1,
                        "walk": 1,
                        "created": now - 80_000 + number / runs * 70_000,
                        "since": now - 80_000 + number / runs * 70_000,
                        "updated": now - 80_000 + number / runs * 70_000,
                        "seen": now,
                        "absent": 0,
                        "credits_ai": 0.5,
                        "credits_other": 1.5,
                    }
                    for number in range(first, min(runs, first + 10_000))
                ],
            )
    ledger.close()
