"""Every exception that leaves the module that raises it, and how messages show what a user wrote.

Exception
├── ConfigError            the configuration, the environment or a key file; exit status 2
│   └── UsageError         the flags
├── StateError             the state can't be used: exit status 1
├── StorageError           a transaction of the ledger failed: the reason `storage` of a poll
│   ├── NoRoomError        the disk is full
│   ├── ConflictError      another process was first, and the step has to run again
│   └── LeaseLostError     another replica polls the org
├── OutputError            standard output can't be written to: exit status 1
├── BackfillError          backfill broke off: exit status 1
├── ApiError               a request that failed for good, with a reason of the contract
│   ├── BadAnswerError     status 200, but no page of runs
│   ├── TooLargeError      broken off at the size limit
│   └── PausedError        not asked: the API wants a pause that is not over
├── SpoiledPageError       one run makes its whole page undecodable
├── BadBodyError           a body that is not encoded as its headers say
└── OSError
    ├── ListenError        an address can't be listened on
    └── StateGoneError     the open state file is not the one that its path names
"""

from __future__ import annotations

from http import HTTPStatus


class ConfigError(Exception):
    """A mistake in the configuration; `str()` is one line that says where, what and what is due."""


class UsageError(ConfigError):
    """A mistake in the flags; `str()` is one line that names the flag."""


class StateError(Exception):
    """The state can't be used; the text says which file, what is wrong and what to do."""


class StorageError(Exception):
    """A transaction failed; the text is the driver's, one line. In a file it changed nothing.

    In a shared database its commit may have happened all the same: `OrgLedger.is_stale`.
    """


class NoRoomError(StorageError):
    """There is no room on the disk; what can be read is served until there is."""


class ConflictError(StorageError):
    """Another process committed what this transaction goes by; nothing of it was committed."""


class LeaseLostError(StorageError):
    """The lease is another replica's, or another org's, by now; nothing was committed."""


class StateGoneError(OSError):
    """The file that is open is no longer the one that the path names."""


class ListenError(OSError):
    """The server cannot listen where it was told to; the message is one line for the user."""

    def __str__(self) -> str:
        """Leave the number out: the line says what it means."""
        return str(self.strerror)


class OutputError(Exception):
    """Standard output can't be written to; the text says why."""


class BackfillError(Exception):
    """Backfill broke off; the text is one line. What was read is kept."""


class ApiError(Exception):
    """A request that failed for good; `reason` is a label value of `invent_poll_errors_total`.

    `message` is one line, without the key. `retry_after_seconds` is what the API asked for, or what
    is left of a pause; `status` is the HTTP status, if one came.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.status = status


def brief(reason: str, status: int | None) -> str:
    """Say of an error what is no text of the API's, which may hold users' data."""
    return reason if status is None else f"{reason} (HTTP {status})"


class BadAnswerError(ApiError):
    """An answer with status 200 whose body is no page of runs; a smaller page may be one."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_response", message, status=HTTPStatus.OK)


class TooLargeError(ApiError):
    """An answer that was broken off at the size limit; `prefix` is its beginning."""

    def __init__(self, max_response_bytes: int, prefix: bytes, status: int) -> None:
        message = f"answer is larger than {max_response_bytes} bytes"
        super().__init__("invalid_response", message, status=status)
        self.prefix = prefix


class SpoiledPageError(Exception):
    """Bytes of one run make the whole page undecodable (a lone surrogate, too deep nesting)."""


class PausedError(ApiError):
    """The API asked for a pause that is not over."""

    def __init__(self, seconds: float) -> None:
        message = f"the API asked to wait {seconds:.0f} s more"
        super().__init__("rate_limited", message, retry_after_seconds=seconds)


class BadBodyError(Exception):
    """A body that is not encoded as its headers say."""


_UNREADABLE: dict[type[Exception], str] = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "this is a directory",
    PermissionError: "not readable for this user",
}


def why_unreadable(error: Exception) -> str:
    """Say in a few words why a file can't be read."""
    return _UNREADABLE.get(type(error)) or getattr(error, "strerror", None) or "not readable"


def escaped(text: str, characters: int = 200) -> str:
    """Make text of a user fit for one line: escaped and shortened."""
    short = text if len(text) <= characters else f"{text[:characters]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def excerpt(text: str) -> str:
    """Make a value of a user fit for a message."""
    return escaped(text, 24) or '""'
