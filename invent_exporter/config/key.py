"""API keys: from a text or a file, never shown."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from invent_exporter.errors import ConfigError, escaped, why_unreadable
from invent_exporter.redaction import Redactor

MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""A bound against files that are not meant as keys."""


@dataclass(slots=True, repr=False, unsafe_hash=True)
class Key:
    """One API key, which neither `repr` nor `str` shows; made by `literal` or `from_file`.

    A key from a file is read again when the file changes. Two keys are equal when they come from
    the same text or the same path.
    """

    _secret: str | None
    _path: Path | None = None
    _where: str = field(default="", compare=False)
    _has_folder: bool = field(default=False, compare=False)
    _cached: tuple[tuple[int, ...], str] | None = field(default=None, compare=False)

    @classmethod
    def literal(cls, secret: str, where: str = "key") -> Self:
        """Make a key from its text; `where` names it in errors.

        Raises:
            ConfigError: the text can't stand in a header.

        """
        return cls(_checked_key(secret, where))

    @classmethod
    def from_file(cls, path: Path, where: str = "key_file", base: Path | None = None) -> Self:
        """Make a key that is read from a file, relative to `base`; nothing is read yet.

        Errors show the path only when it leads somewhere: else it may be a key given by mistake.
        """
        return cls(None, path if base is None else base / path, where, len(path.parts) > 1)

    def read(self) -> str:
        """Return the key as it is now; the next call after an error tries again.

        Raises:
            ConfigError: its file can't be read, is empty, or holds what can't stand in a header.

        """
        if self._path is None:
            return self._secret or ""
        try:
            status = self._path.stat()
            of_file = (status.st_dev, status.st_ino, status.st_size)
            version = (*of_file, status.st_mtime_ns, status.st_ctime_ns)
            if self._cached is not None and self._cached[0] == version:
                return self._cached[1]
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(None, "not a regular file")  # noqa: TRY301 - told like the others
                raw = file.read(MAX_KEY_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            expected = "expected a file that holds the API key"
            raise ConfigError(f"{self._place}: {why_unreadable(error)}: {expected}") from None
        if len(raw) > MAX_KEY_FILE_BYTES:
            raise ConfigError(f"{self._place}: the file is too large for a key")
        self._cached = (version, _checked_key(raw.decode("utf-8", "replace"), self._place))
        return self._cached[1]

    @property
    def _place(self) -> str:
        path = self._path
        if path and (os.path.lexists(path) or (self._has_folder and path.parent.is_dir())):
            return f"{self._where}: {escaped(str(path))}"
        return f"{self._where}: the path (not shown, it may be a key)"

    def __repr__(self) -> str:
        """Say where the key comes from, not what it is: a path may be a key given by mistake."""
        return f"Key({'literal' if self._path is None else 'file'})"


def read_secret(key: Key, redactor: Redactor) -> str:
    """Read a key, which is a secret from then on; raises ConfigError as `Key.read` does."""
    secret = key.read()
    redactor.add(secret)
    return secret


def _checked_key(text: str, where: str) -> str:
    """Strip a key and check that it can stand in a header (RFC 9110, 5.5); never show it."""
    secret = text.strip()
    if not secret:
        raise ConfigError(f"{where}: the key is empty: expected an API key")
    if not re.fullmatch(r"[!-~]+", secret):
        expected = "expected printable ASCII without white space"
        raise ConfigError(f"{where}: the key can't stand in a header: {expected}")
    return secret
