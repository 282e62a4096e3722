"""The lock beside a state file: one process at a time, also when somebody takes the lock away.

Why two can't both commit: docs/how-it-counts.md, "A run counts once".
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from invent_exporter.errors import StateError
from invent_exporter.ledger.place import Place

Identity = tuple[int, int]


class Lock:
    """`FILE.lock`, held: advisory, ended by the kernel with the process, however that ends."""

    def __init__(self, place: Place) -> None:
        """Hold it.

        Raises:
            StateError: another process does, or it can't be made.

        """
        self.place = place
        self._descriptor: int | None
        self._path = str(place.beside(".lock"))
        try:
            self._descriptor, self._identity = self._take()
        except BlockingIOError as error:
            raise StateError(
                f"state.url: {place} is held by another process; "
                "stop that one, or give each exporter a file of its own"
            ) from error
        except OSError as error:
            raise StateError(
                f"state.url: {place}: {self._path}: {error.strerror}; "
                "a file in a writable directory is expected"
            ) from error
        self._was_away = False
        self._version: object = None

    def _take(self) -> tuple[int, Identity]:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(descriptor)
                taken = status.st_dev, status.st_ino
                if identity(self._path) == taken:
                    return descriptor, taken
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # removed between the two: it keeps nobody out

    def keep(self) -> None:
        """Hold what is at the lock's path now, if that is another file than before.

        Raises:
            OSError: another process holds it, or has written.

        """
        if self._descriptor is None:
            raise OSError(
                f"{self.place} may have been written by another process while its lock "
                f"{self._path} was removed; restart this one, which commits nothing any more"
            )
        if identity(self._path) == self._identity:
            return
        self._was_away = True
        try:
            descriptor, taken = self._take()
        except BlockingIOError as error:
            raise OSError(
                f"{self.place} is held by another process since its lock {self._path} was "
                "removed; stop one of the two: this one commits nothing meanwhile"
            ) from error
        os.close(self._descriptor)
        self._descriptor, self._identity = descriptor, taken

    def begin(self, connection: sqlite3.Connection) -> None:
        """Note what a connection that was just made has to find unchanged.

        Raises:
            OSError: the lock is away, or was and it is not known whether another process wrote.

        """
        self._version = _version(connection)
        if self._was_away or identity(self._path) != self._identity:
            self.release()
            self.keep()

    def confirm(self, connection: sqlite3.Connection) -> None:
        """Let nobody else have written since `begin`, if the lock was away meanwhile.

        Before a commit it is asked in the transaction: SQLite lets nobody else write by then.

        Raises:
            OSError: another process has. What this one knows is old, for good: it lets go. Or the
                file can't be read.

        """
        if not self._was_away:
            return
        try:
            version = _version(connection)
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        if version != self._version:
            self.release()
            self.keep()
        self._was_away = False

    def release(self) -> None:
        """Let the next process have the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Keep other processes from opening a file, which is not touched itself.

    Raises:
        StateError: one has it open.

    """
    lock = Lock(place)
    try:
        yield
    finally:
        lock.release()


def identity(path: str) -> Identity | None:
    """Tell which file this is now; None for one that is missing."""
    try:
        status = os.stat(path)  # noqa: PTH116 (thrice for each look: no Path is made)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _version(connection: sqlite3.Connection) -> object:
    """Return what changes when another connection has committed, and not by this one."""
    return connection.execute("PRAGMA data_version").fetchone()
