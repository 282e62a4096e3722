"""Run the exporter's own command, and kill it at one of the points that a poll goes through.

Not a test: `test_crash_points` starts it. Points are each statement that writes, each commit and
each publish, before it and (but for statements, where that is the next point) after it. The child
is forked from a process that has everything imported and neither threads nor a loop, so that a
hundred of them cost little.

Each line of the standard input is an order: `{"argv": [...], "log": path, "report": path,
"kill_at": n}`; `kill_at` 0 kills nowhere. The answer is a line with the child's `pid`, and one with
its exit `status`. The report gets a line of JSON for each point, and for each publish what is
served from then on, which counts as scraped: so no generation goes unseen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import sqlalchemy
from sqlalchemy import event

# What `serve` imports, so that a child need not.
from invent_exporter import cli
from invent_exporter.metrics.exposition import Exposition
from invent_exporter.metrics.groups import View

_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "BEGIN", "PRAGMA")


class _Points:
    """Counts the points, and ends the process at the wanted one."""

    def __init__(self, report: Path, kill_at: int) -> None:
        self._report = report.open("w")
        self._kill_at = kill_at
        self._number = 0
        self._lock = threading.Lock()

    def write(self, **line: str) -> None:
        """Add to the report."""
        self._report.write(json.dumps(line) + "\n")
        self._report.flush()

    def pass_by(self, name: str) -> None:
        """Note a point; this is the end when it is the one."""
        with self._lock:
            self._number += 1
            self.write(point=name)
            if self._number == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()


def _hook(points: _Points) -> None:
    def before(
        _connection: object, _cursor: object, statement: str, *_: object, **__: object
    ) -> None:
        if statement.startswith(_WRITES):
            points.pass_by(f"before {' '.join(statement.split()[:3])}")

    event.listen(sqlalchemy.Engine, "before_cursor_execute", before, named=False)
    dialect = sqlalchemy.create_engine("sqlite://").dialect.__class__
    do_commit = dialect.do_commit

    def commit_between(self: Any, connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
        points.pass_by("before COMMIT")
        do_commit(self, connection)
        points.pass_by("after COMMIT")

    dialect.do_commit = commit_between  # type: ignore[assignment]
    publish = Exposition.publish

    async def publish_between(self: Exposition, changes: Mapping[Hashable, View | None]) -> int:
        points.pass_by("before publish")
        generation = await publish(self, changes)
        answer = await self.answer("text/plain", "")
        points.write(scrape=answer.body.decode())
        points.pass_by("after publish")
        self.acknowledge(answer.generation)
        return generation

    Exposition.publish = publish_between  # type: ignore[method-assign]


def _run_child(order: dict[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _hook(_Points(Path(order["report"]), order["kill_at"]))
    os._exit(cli.main(order["argv"]))


def _answer(**line: int) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run a child for each order."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run_child(json.loads(line))
        _answer(pid=child)
        _, status = os.waitpid(child, 0)
        _answer(status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
