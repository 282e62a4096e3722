"""Trouble with the disk: the numbers stay old or become new, and it recovers by itself.

In each test /metrics keeps answering and `invent_poll_errors_total{reason="storage"}` counts.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from invent_exporter.simulator import SimulatorServer
from tests.process.expected import differences
from tests.process.harness import Exporter, Samples, make_config
from tests.process.traffic import quiet_api
from tests.process.watcher import Watcher
from tests.programs import require


class _Case:
    """An exporter that has counted some runs, and a scraper that looks on."""

    def __init__(
        self, simulator: SimulatorServer, exporter: Exporter, since: float, watcher: Watcher
    ) -> None:
        self.simulator = simulator
        self.exporter = exporter
        self.since = since
        self.watcher = watcher
        self.finished = 0

    def happen(self, runs: int = 20) -> None:
        """Let runs finish, of a workflow that is known and of one that is new."""
        self.finished += runs
        for number in range(runs):
            new = f"wf-{self.finished}"
            self.simulator.world.add_run(
                status="FAILED", workflow_id=new if number % 2 else "wf-old", error="x" * 250
            )

    def wait_for_storage_errors(self, more: int = 2) -> None:
        """Wait for polls that fail, with the old numbers served all the while."""
        old = self._counted(self.exporter.scrape())
        before = self.errors(self.exporter.scrape())
        samples = self.exporter.wait_for(
            "storage errors", lambda now: self.errors(now) >= before + more
        )
        assert self._counted(samples) == old
        assert samples.find("invent_up", org_id="org-main") == 0

    def wait_until_exact(self) -> None:
        """Wait until all is counted, each once."""

        def is_exact(samples: Samples) -> bool:
            return not differences(samples, self.simulator.world.truth(self.since))

        self.exporter.wait_for("exact", is_exact)
        self.exporter.wait_for_reconciliation()
        assert is_exact(self.exporter.wait_until_up())
        assert self.watcher.wrong == []

    @staticmethod
    def _counted(samples: Samples) -> float:
        return samples.total("invent_runs_finished_total")

    @staticmethod
    def errors(samples: Samples) -> float:
        """Count the polls that failed because of the storage."""
        return samples.total("invent_poll_errors_total", org_id="org-main", reason="storage")


@contextmanager
def _case(folder: Path, state: Path, environment: dict[str, str] | None = None) -> Iterator[_Case]:
    """Start an exporter with its state in a folder, and let it count."""
    with quiet_api() as simulator:
        config = make_config(
            simulator.url, state, reconcile_interval="500ms", metrics={"newborn_hold": "1s"}
        )
        with (
            Exporter(folder, config, environment=environment) as exporter,
            Watcher(lambda: exporter.url) as watcher,
        ):
            exporter.wait_until_up()
            case = _Case(simulator, exporter, time.time() - 0.002, watcher)
            case.happen()
            case.wait_until_exact()
            yield case


def _mount(folder: Path, options: str) -> None:
    mount = require("mount")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", folder],
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")


@contextmanager
def _tmpfs(folder: Path) -> Iterator[Path]:
    """Mount a disk of 2 MiB."""
    folder.mkdir()
    _mount(folder, "size=2m")
    try:
        yield folder
    finally:
        subprocess.run([require("umount"), "-l", folder], check=True)


def test_disk_full(tmp_path: Path) -> None:
    """Nothing is lost while nothing can be written, and all is there when there is room again."""
    with _tmpfs(tmp_path / "disk") as disk, _case(tmp_path, disk) as case:
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        case.happen(500)
        case.wait_for_storage_errors()
        case.exporter.kill()
        # Not even the start may harm the state; with no room it may fail, but cleanly.
        filler.unlink()
        case.exporter.start()
        case.wait_until_exact()
        filler.write_bytes(b"\0" * 1024 * 1024)
        filler.unlink()
        case.happen()
        case.wait_until_exact()


def test_disk_full_recovers_without_a_restart(tmp_path: Path) -> None:
    """The same process goes on when there is room again."""
    with _tmpfs(tmp_path / "disk") as disk, _case(tmp_path, disk) as case:
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        case.happen(500)
        case.wait_for_storage_errors()
        filler.unlink()
        case.wait_until_exact()


def test_disk_read_only(tmp_path: Path) -> None:
    """A disk that turns read-only, and back."""
    with _tmpfs(tmp_path / "disk") as disk, _case(tmp_path, disk) as case:
        # Open files keep a real disk from it; a forced read-only is what an error of it brings.
        done = subprocess.run(
            ["mount", "-o", "remount,ro", disk], capture_output=True, check=False, text=True
        )
        if done.returncode:
            pytest.skip(f"files open for writing keep the disk writable: {done.stderr.strip()}")
        case.happen()
        case.wait_for_storage_errors()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        case.wait_until_exact()


def test_database_locked(tmp_path: Path) -> None:
    """Another connection holds the write lock for longer than the exporter waits."""
    with _case(tmp_path, tmp_path) as case:
        with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            case.happen()
            case.wait_for_storage_errors()
            other.execute("ROLLBACK")
        case.wait_until_exact()


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_state_file_taken_away(tmp_path: Path, replaced: bool) -> None:  # noqa: FBT001
    """What can't be found again by the next process is not served; the file is put back in full.

    The numbers stay old until they are safe in the file that the path names, whether the file was
    removed or another (here: an older copy) was put in its place; then they go on from there.
    """
    state = tmp_path / "state.db"
    with _case(tmp_path, tmp_path) as case:
        old = tmp_path / "old"
        old.mkdir()
        if replaced:
            with closing(sqlite3.connect(state)) as source, closing(
                sqlite3.connect(old / "state.db")
            ) as copy:
                source.backup(copy)
        case.happen()
        case.wait_until_exact()
        for file in tmp_path.glob("state.db*"):
            if file.suffix != ".lock":
                file.unlink()
        if replaced:
            shutil.move(old / "state.db", state)
        case.happen()
        case.exporter.wait_for("a storage error", case.errors)
        case.wait_until_exact()
        # What was served is what a restart finds.
        case.exporter.kill()
        case.happen()
        case.exporter.start()
        case.wait_until_exact()


_BROKEN_FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int broken(void) {
    const char *flag = getenv("BROKEN_FSYNC");
    if (flag && access(flag, F_OK) == 0) { errno = EIO; return 1; }
    return 0;
}
int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return broken() ? -1 : real(fd);
}
int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return broken() ? -1 : real(fd);
}
"""


def test_fsync_fails(tmp_path: Path) -> None:
    """A disk that takes bytes but can't promise to keep them: nothing of it is served."""
    compiler = require("cc")
    source, library = tmp_path / "fsync.c", tmp_path / "fsync.so"
    source.write_text(_BROKEN_FSYNC)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    flag = tmp_path / "broken"
    environment = {"LD_PRELOAD": os.fspath(library), "BROKEN_FSYNC": os.fspath(flag)}
    with _case(tmp_path, tmp_path, environment) as case:
        flag.touch()
        case.happen()
        case.wait_for_storage_errors()
        flag.unlink()
        case.wait_until_exact()
        case.exporter.kill()
        case.happen()
        case.exporter.start()
        case.wait_until_exact()
