"""Basic authentication with bcrypt: paid once by a scraper, dear for those who guess."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import bcrypt

FAILURE_SECONDS = 0.25
"""How long a wrong password holds up those behind it: so few guesses a second, of all clients."""
WAITING_MAX, WAITING_MAX_OF_ONE_PEER = 32, 4
"""Behind so many logins nobody is asked to wait."""
_PASSWORD_BYTES = 72
"""What bcrypt looks at. Go's takes what is longer by this beginning, Python's refuses it."""


class TooManyLoginsError(Exception):
    """As many logins as may wait to be checked."""


class Logins:
    """Lets those in who know a password."""

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._salt = os.urandom(16)
        self._known: dict[str, bytes] = {}
        self._waiting: Counter[str | bytes] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "bcrypt")

    async def lets_in(
        self, authorization: str, users: Mapping[str, bytes], peer: str | bytes
    ) -> bool:
        """Check a header of a peer against users and the hashes of their passwords.

        What was right is remembered: a scrape costs one digest. All else is checked by a thread,
        one after the other, and an unknown user costs as much as a known one.

        Raises:
            TooManyLoginsError: too many are waiting, of this peer or of all.

        """
        login = _read(authorization)
        if login is None:
            return False
        name, password = login
        password_hash = users.get(name)
        proof = b"\0".join((name.encode(), password_hash or b"", password))
        digest = hashlib.blake2b(proof, key=self._salt).digest()
        if password_hash and hmac.compare_digest(self._known.get(name, b""), digest):
            return True
        waiting = self._waiting
        if waiting.total() >= WAITING_MAX or waiting[peer] >= WAITING_MAX_OF_ONE_PEER:
            raise TooManyLoginsError
        waiting[peer] += 1
        try:
            async with self._one_at_a_time:
                against = password_hash or max(users.values(), key=_cost)
                loop = asyncio.get_running_loop()
                is_right = await loop.run_in_executor(self._thread, _fits, password, against)
                if is_right and password_hash:
                    self._known[name] = digest
                    return True
                await self._sleep(FAILURE_SECONDS)
                return False
        finally:
            waiting -= Counter([peer])  # and no 0 stays


def _read(authorization: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    with suppress(ValueError):
        if scheme.lower() == "basic":
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
            return (name.decode("utf-8", "replace"), password) if colon else None
    return None


def _fits(password: bytes, password_hash: bytes) -> bool:
    with suppress(ValueError):  # text that only looks like a hash, or a password with NUL
        return bcrypt.checkpw(password[:_PASSWORD_BYTES], password_hash)
    return False


def _cost(password_hash: bytes) -> bytes:
    return password_hash[4:6]
