"""API keys: from a text or a file, never shown."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from invent_exporter.errors import ConfigError, escaped, why_unreadable

MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""A bound against files that are not meant as keys."""


class Key:
    """One API key, which neither `repr` nor `str` shows.

    A key from a file is read again when the file changes. Two keys are equal when they come from
    the same text or the same path.
    """

    __slots__ = ("_cached", "_is_path", "_path", "_secret", "_where")

    def __init__(self, secret: str | None, path: Path | None, where: str) -> None:
        """Use `literal` or `from_file` instead."""
        self._secret = secret
        self._path = path
        self._where = where
        self._is_path = False
        self._cached: tuple[tuple[int, ...], str] | None = None

    @classmethod
    def literal(cls, secret: str, where: str = "key") -> Key:
        """Make a key from its text; `where` names it in errors.

        Raises ConfigError when the text can't stand in a header.
        """
        return cls(_checked_key(secret, where), None, where)

    @classmethod
    def from_file(cls, path: Path, where: str = "key_file", base: Path | None = None) -> Key:
        """Make a key that is read from a file, relative to `base`; nothing is read yet.

        Errors show the path only when it leads somewhere: else it may be a key given by mistake.
        """
        key = cls(None, path if base is None else base / path, where)
        key._is_path = len(path.parts) > 1
        return key

    def read(self) -> str:
        """Return the key as it is now.

        Raises ConfigError when its file can't be read, is empty, or holds what can't stand in a
        header. The next call tries again.
        """
        if self._path is None:
            return self._secret or ""
        try:
            version = _file_version(self._path.stat())
            if self._cached is not None and self._cached[0] == version:
                return self._cached[1]
            version, raw = _read_key_file(self._path)
        except (OSError, ValueError) as error:
            message = f"{self._where}: {self._shown_path()}: {why_unreadable(error)}"
            raise ConfigError(f"{message}: expected a file that holds the API key") from None
        if len(raw) > MAX_KEY_FILE_BYTES:
            message = f"{self._where}: {self._shown_path()}: the file is too large for a key"
            raise ConfigError(message)
        text = raw.decode("utf-8", "replace")
        secret = _checked_key(text, f"{self._where}: {self._shown_path()}")
        self._cached = (version, secret)
        return secret

    def _shown_path(self) -> str:
        path = self._path
        if path is None or not (os.path.lexists(path) or (self._is_path and path.parent.is_dir())):
            return "the path (not shown, it may be a key)"
        return escaped(str(path))

    def __repr__(self) -> str:
        """Say where the key comes from, not what it is: a path may be a key given by mistake."""
        return f"Key({'literal' if self._path is None else 'file'})"

    def __eq__(self, other: object) -> bool:
        """Compare the sources of two keys."""
        if not isinstance(other, Key):
            return NotImplemented
        return (self._secret, self._path) == (other._secret, other._path)

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash((self._secret, self._path))


def _checked_key(text: str, where: str) -> str:
    """Strip a key and check that it can stand in a header (RFC 9110, 5.5); never show it."""
    secret = text.strip()
    if not secret:
        raise ConfigError(f"{where}: the key is empty: expected an API key")
    if not re.fullmatch(r"[!-~]+", secret):
        message = "the key can't stand in a header: expected printable ASCII without white space"
        raise ConfigError(f"{where}: {message}")
    return secret


def _file_version(status: os.stat_result) -> tuple[int, ...]:
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


def _read_key_file(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Read a key file and the version that was read; a pipe is refused, it would block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a regular file")
        return _file_version(status), file.read(MAX_KEY_FILE_BYTES + 1)
