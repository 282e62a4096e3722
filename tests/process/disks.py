"""Disks that are small, and full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.programs import require


@contextmanager
def tmpfs(folder: Path, size: str = "6m") -> Iterator[Path]:
    """Mount a disk; of 6 MiB SQLite's log alone may take 4."""
    folder.mkdir()
    mount = (require("mount"), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    done = subprocess.run(mount, capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([require("umount"), "-l", folder], check=True)


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
