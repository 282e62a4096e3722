"""The lock beside a state file: one process at a time."""

from __future__ import annotations

import fcntl
import os
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
        self._path = str(place.beside(".lock"))
        try:
            self._descriptor: int | None = self._take()
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

    def _take(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

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
        status = os.stat(path)  # noqa: PTH116 (twice for each look: no Path is made)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
