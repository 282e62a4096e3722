"""Count runs in a ledger, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from invent_exporter.errors import StateError
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.scan.poll import ScanState
from tests.ledger.blocking import BlockingLedger
from tests.ledger.test_ledger import SETTINGS
from tests.proof.runs import NOW, run

ROOT: Final = Path(__file__).parents[2]
FINISHED: Final = "SELECT count(*) FROM run WHERE counted"


def open_ledger(path: Path) -> BlockingLedger:
    """Open the ledger in a file."""
    return BlockingLedger(Ledger(open_database(f"sqlite:///{path}"), SETTINGS))


def count(ledger: BlockingLedger, *run_ids: str) -> int:
    """Count failed runs that ended now; return how many the workflow's series say there were."""
    org = ledger.load("org-1", walk_floor=NOW)
    if not org.contacted:
        ledger.complete(org, ScanState(), absent=(), contact_seconds=NOW - 1)
    ledger.record(org, [run(run_id, "FAILED") for run_id in run_ids], [], now=NOW)
    return sum(org.workflows["wf"].finished.values())


def run_writer(path: Path, *run_ids: str, end: int = 0) -> subprocess.CompletedProcess[str]:
    """Count runs in a process of its own, which the signal `end` ends, or else itself."""
    arguments = [str(path), str(end), *run_ids]
    return subprocess.run(
        [sys.executable, "-m", "tests.ledger.writing", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def _main() -> None:
    path, end, *run_ids = sys.argv[1:]
    try:
        ledger = open_ledger(Path(path))
    except StateError as error:
        sys.exit(str(error))
    count(ledger, *run_ids)
    if int(end):
        os.kill(os.getpid(), int(end))
    ledger.close()


if __name__ == "__main__":
    _main()
