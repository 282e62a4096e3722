"""A mistake in the configuration, and how its one line shows what a user wrote."""

from __future__ import annotations

import json


class ConfigError(Exception):
    """A mistake in the configuration; `str()` is one line that says where, what and what is due."""


def why_unreadable(error: Exception) -> str:
    """Say in a few words why a file can't be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "this is a directory"
    if isinstance(error, PermissionError):
        return "not readable for this user"
    return (isinstance(error, OSError) and error.strerror) or "not readable"


def escaped(text: str) -> str:
    """Make text of a user fit for one line: escaped and shortened."""
    short = text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in short)


def excerpt(text: str) -> str:
    """Make a value of a user fit for a message."""
    short = text if len(text) <= 24 else f"{text[:24]}..."  # noqa: PLR2004
    return escaped(short) or '""'
