"""Files beside each other on a disk: private where we make them, copied whole, seen on the disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import cast

from sqlalchemy.engine import Engine


def create_private(path: Path) -> None:
    """Make an empty file for its owner alone; one that is there keeps the mode that it was given.

    What SQLite makes beside a database gets the mode of that.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@contextmanager
def driver(engine: Engine) -> Iterator[sqlite3.Connection]:
    """Lend the connection that the engine made, of which SQLAlchemy's typing knows nothing."""
    with closing(engine.raw_connection()) as pooled:
        yield cast("sqlite3.Connection", pooled.driver_connection)


def copy_to(engine: Engine, path: Path) -> None:
    """Copy the open file in place of what is there, and see it on the disk.

    Raises:
        OSError: it could not be written whole; nothing is left of it.

    """
    try:
        path.unlink(missing_ok=True)
        create_private(path)
        with driver(engine) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        sync(path)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error}") from error


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
