"""Trouble with the disk: the numbers stay old or become new, and it recovers by itself.

In each test /metrics keeps answering and `invent_poll_errors_total{reason="storage"}` counts.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.process.counting import Case, counting
from tests.process.disks import fill, tmpfs
from tests.process.harness import DEADLINE_SECONDS, wait_for
from tests.programs import require


@contextmanager
def _case(folder: Path, state: Path, environment: dict[str, str] | None = None) -> Iterator[Case]:
    """Start an exporter with its state in a folder, and let it count."""
    with counting(folder, f"sqlite:///{state}/state.db", environment) as case:
        yield case


@pytest.mark.system
@pytest.mark.parametrize("end", [SIGTERM, SIGKILL])
def test_start_on_a_full_disk(tmp_path: Path, end: int) -> None:
    """What can be read is served, the log says why no more; it counts again when there is room."""
    with tmpfs(tmp_path / "disk") as disk, _case(tmp_path, disk) as case:
        before = case.exporter.scrape().total("invent_runs_finished_total")
        case.exporter.stop(end)
        case.happen()
        fill(disk)
        case.exporter.start()
        case.wait_for_storage_errors()
        assert case.exporter.scrape().total("invent_runs_finished_total") == before == 20
        assert "the state can't be written: database or disk is full" in case.exporter.log
        (disk / "filler").unlink()
        case.wait_until_exact()
        case.die_and_go_on()


@pytest.mark.system
def test_disk_full(tmp_path: Path) -> None:
    """Nothing is lost while nothing can be written, and all is there when there is room again.

    The same process goes on then, and so does the next one when it was killed meanwhile.
    """
    with tmpfs(tmp_path / "disk") as disk, _case(tmp_path, disk) as case:
        for is_killed in (False, True):
            fill(disk)
            case.happen(500)
            case.wait_for_storage_errors()
            if is_killed:
                case.exporter.kill()
            (disk / "filler").unlink()
            if is_killed:
                case.exporter.start()
            case.wait_until_exact()


@pytest.mark.system
def test_database_locked(tmp_path: Path) -> None:
    """Another connection holds the write lock for longer than the exporter waits.

    The numbers stay as they are until it lets go; and it does not hold up the end.
    """
    state = tmp_path / "state.db"
    with (
        _case(tmp_path, tmp_path) as case,
        closing(sqlite3.connect(state, timeout=DEADLINE_SECONDS, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        case.happen()
        case.wait_for_storage_errors(1)  # each waits as long as SQLite does for a lock
        other.execute("ROLLBACK")
        case.wait_until_exact()
        other.execute("BEGIN IMMEDIATE")
        case.happen()
        case.simulator.forget_requests()
        wait_for("a page that can't be recorded", lambda: case.simulator.requests)
        assert case.exporter.stop() == 0
        other.execute("ROLLBACK")
        case.exporter.start()
        case.wait_until_exact()


@pytest.mark.system
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_state_file_taken_away(tmp_path: Path, replaced: bool) -> None:  # noqa: FBT001
    """What can't be found again by the next process is not served; the file is put back in full.

    The numbers stay old until they are safe in the file that the path names, whether the file was
    removed or another (here: an older copy) was put in its place; then they go on from there.
    """
    state = tmp_path / "state.db"
    with _case(tmp_path, tmp_path) as case:
        if replaced:
            with closing(sqlite3.connect(state)) as source:
                source.execute("VACUUM INTO ?", [str(tmp_path / "old.db")])
        case.happen()
        case.wait_until_exact()
        for file in tmp_path.glob("state.db*"):
            if file.suffix != ".lock":
                file.unlink(missing_ok=True)  # the exporter may be putting them back already
        if replaced:
            (tmp_path / "old.db").rename(state)
        case.happen()
        case.exporter.wait_for("a storage error", case.errors)
        case.wait_until_exact()
        case.die_and_go_on()


_FAULTY_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static int is_broken(const char *what, int error) {
    char path[4096];
    snprintf(path, sizeof path, "%s/broken-%s", getenv("FAULTY_DISK"), what);
    if (access(path, F_OK)) return 0;
    errno = error;
    return 1;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
int fsync(int fd) { return is_broken("fsync", EIO) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return is_broken("fsync", EIO) ? -1 : REAL(fdatasync)(fd); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return is_broken("write", EROFS) ? -1 : REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return is_broken("write", EROFS) ? -1 : REAL(pwrite64)(fd, data, size, at);
}
"""


@pytest.mark.system
@pytest.mark.parametrize("what", ["fsync", "write"])
def test_disk_fails(tmp_path: Path, what: str) -> None:
    """A disk that can't promise to keep what it took, and one that turned read-only after errors.

    Both are what the kernel then says to SQLite's calls. Nothing that they concern is served.
    """
    compiler = require("cc")
    source, library = tmp_path / "disk.c", tmp_path / "disk.so"
    source.write_text(_FAULTY_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    flag = tmp_path / f"broken-{what}"
    environment = {"LD_PRELOAD": os.fspath(library), "FAULTY_DISK": os.fspath(tmp_path)}
    with _case(tmp_path, tmp_path, environment) as case:
        flag.touch()
        case.happen()
        case.wait_for_storage_errors()
        flag.unlink()
        case.wait_until_exact()
        case.die_and_go_on()
