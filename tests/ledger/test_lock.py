"""The lock of a state file, taken away while it is held: one process counts, no run is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from invent_exporter.errors import StateError, StorageError
from invent_exporter.ledger.lock import Lock
from invent_exporter.ledger.place import place_of
from invent_exporter.ledger.schema import SCHEMA_VERSION
from tests.ledger.blocking import BlockingLedger
from tests.ledger.test_upgrade import rows
from tests.ledger.writing import FINISHED, count, open_ledger, run_writer

HELD = (
    r"state\.db is held by another process since its lock .*state\.db\.lock was removed; stop one"
)
WRITTEN = r"state\.db may have been written by another process .*; restart this one"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Name a state file."""
    return tmp_path / "state.db"


@pytest.fixture
def lock(state: Path) -> Path:
    """Name its lock."""
    return Path(f"{state}.lock")


@pytest.fixture
def first(state: Path) -> Iterator[BlockingLedger]:
    """Give a ledger that has counted a run, and has its file open."""
    ledger = open_ledger(state)
    assert count(ledger, "r1") == 1
    yield ledger
    ledger.close()


def test_a_lock_that_was_removed_is_taken_anew(
    first: BlockingLedger, state: Path, lock: Path
) -> None:
    """By the next transaction, which goes on; from then on a second process is refused again."""
    for number in range(2, 4):
        lock.unlink()
        assert count(first, f"r{number}") == number
        assert "held by another process" in run_writer(state, "r9").stderr
    lock.replace(f"{lock}.moved")
    lock.touch()
    assert count(first, "r4") == 4
    assert "held by another process" in run_writer(state, "r9").stderr


def test_who_has_the_lock_counts_and_the_other_says_so(
    first: BlockingLedger, state: Path, lock: Path
) -> None:
    """With the file and what to do; and when the other ends without a word, this one goes on."""
    lock.unlink()
    second = open_ledger(state)
    for _ in range(2):
        with pytest.raises(StorageError, match=HELD):
            count(first, "r2")
    second.close()
    assert count(first, "r2") == 2


@pytest.mark.parametrize("end", [0, signal.SIGKILL])
def test_what_another_process_counted_is_never_written_over(
    first: BlockingLedger, state: Path, lock: Path, end: int
) -> None:
    """This one's numbers are old for good: it commits none, and lets others have the file."""
    lock.unlink()
    assert run_writer(state, "r1", "r2", end=end).returncode == -end
    for _ in range(2):
        with pytest.raises(StorageError, match=WRITTEN):
            count(first, "r2", "r3")
    assert rows(state, FINISHED) == [(2,)]
    third = open_ledger(state)
    assert count(third, "r2", "r3") == 3
    first.close()
    assert count(third, "r4") == 4
    third.close()


def test_a_process_that_comes_between_begin_and_commit_is_seen(
    first: BlockingLedger, state: Path, lock: Path
) -> None:
    """It has the lock, and waits for SQLite's: what it reads then is without this transaction."""
    others = []

    def change() -> None:
        with first.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE meta SET schema_version = 999")
            lock.unlink()
            place = place_of(f"sqlite:///{state}")
            assert place is not None
            others.append(Lock(place))

    with pytest.raises(OSError, match=HELD):
        change()
    others[0].release()
    assert rows(state, "SELECT schema_version FROM meta") == [(SCHEMA_VERSION,)]
    assert count(first, "r2") == 2


def test_a_file_made_anew_by_another_process_is_left_to_it(
    first: BlockingLedger, state: Path
) -> None:
    """All was removed, lock and file: nothing is put back into the place of one that is in use."""
    for file in state.parent.iterdir():
        file.unlink()
    second = open_ledger(state)
    for _ in range(2):
        with pytest.raises(StorageError, match=HELD):
            count(first, "r2")
    assert count(second, "r1", "r2", "r3") == 3
    second.close()
    assert rows(state, FINISHED) == [(3,)]


def test_all_that_was_removed_is_put_back(first: BlockingLedger, state: Path) -> None:
    """Where nobody else came."""
    for file in state.parent.iterdir():
        file.unlink()
    with pytest.raises(StorageError, match="removed or replaced"):
        count(first, "r2")
    assert count(first, "r2") == 2
    assert "held by another process" in run_writer(state, "r9").stderr


def test_a_file_that_another_process_counted_in_is_not_put_back(
    first: BlockingLedger, state: Path, lock: Path
) -> None:
    """It is gone for the same reason as the lock, but this one's numbers are not what it says."""
    lock.unlink()
    assert run_writer(state, "r1", "r2", end=signal.SIGKILL).returncode == -signal.SIGKILL
    state.unlink()
    with pytest.raises(StorageError, match=WRITTEN):
        count(first, "r3")
    assert not state.exists()


def test_a_lock_that_cannot_be_taken_is_a_storage_error(first: BlockingLedger, lock: Path) -> None:
    """Until it can."""
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StorageError, match=r"state\.db\.lock"):
        count(first, "r2")
    lock.rmdir()
    assert count(first, "r2") == 2


def test_a_lock_removed_at_the_start_keeps_no_two_in(state: Path, lock: Path) -> None:
    """Both have the file open before either has read it."""
    first = open_ledger(state)
    lock.unlink()
    second = open_ledger(state)
    assert count(second, "r1") == 1
    with pytest.raises(StorageError):
        count(first, "r2")
    with pytest.raises(StateError, match="held by another process"):
        open_ledger(state)
    assert count(second, "r2") == 2
    for ledger in (first, second):
        ledger.close()
