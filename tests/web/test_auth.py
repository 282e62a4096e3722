"""Logins: right ones are cheap, wrong ones are dear, and nobody learns which users there are."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from unittest.mock import patch

import bcrypt
import pytest

from invent_exporter.web import auth
from invent_exporter.web.auth import Logins, TooManyLoginsError

USERS = {
    name: bcrypt.hashpw(f"password of {name}".encode(), bcrypt.gensalt(4))
    for name in ("alice", "böb")
}


def header(name: str, password: str) -> str:
    """Write what a client sends."""
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


@pytest.fixture
def checked() -> Iterator[list[bytes]]:
    """Return the hashes that passwords are compared with."""
    hashes: list[bytes] = []

    def check(password: bytes, password_hash: bytes) -> bool:
        hashes.append(password_hash)
        return bcrypt.checkpw(password, password_hash)

    with patch("invent_exporter.web.auth._fits", check):
        yield hashes


async def at_once(_seconds: float) -> None:
    """Let a failure cost no time."""


async def test_right_password_is_checked_once(checked: list[bytes]) -> None:
    """A scrape pays bcrypt the first time; every user, whatever letters the name has."""
    logins = Logins(at_once)
    for name in USERS:
        for _ in range(3):
            assert await logins.lets_in(header(name, f"password of {name}"), USERS, "")
    assert checked == list(USERS.values())


async def test_what_was_right_is_forgotten_with_the_hash(checked: list[bytes]) -> None:
    """The old password of a user lets nobody in."""
    logins = Logins(at_once)
    login = header("alice", "password of alice")
    assert await logins.lets_in(login, USERS, "")
    assert not await logins.lets_in(login, {"alice": USERS["böb"]}, "")
    assert not await logins.lets_in(login, {"böb": USERS["böb"]}, "")
    assert await logins.lets_in(login, USERS, "")
    assert len(checked) == 3


async def test_unknown_user_costs_what_the_dearest_known_one_does(checked: list[bytes]) -> None:
    """So time tells nothing; and no password is right, not even that of the one compared with."""
    dear = bcrypt.hashpw(b"dear", bcrypt.gensalt(5))
    users = {**USERS, "carol": dear}
    assert not await Logins(at_once).lets_in(header("nobody", "dear"), users, "")
    assert checked == [dear]


@pytest.mark.parametrize(
    "authorization", ["", "Basic", "Basic !", "Basic YWxpY2U=", "Bearer YTpi", "Basic YTp"]
)
async def test_what_is_no_login_costs_nothing(checked: list[bytes], authorization: str) -> None:
    """No name and password, no check."""
    assert not await Logins(at_once).lets_in(authorization, USERS, "")
    assert checked == []


@pytest.mark.parametrize(
    ("password", "is_right"), [("x" * 72 + "more", True), ("x" * 71, False), ("nul\0", False)]
)
async def test_long_and_odd_passwords_are_taken_as_go_takes_them(
    password: str, *, is_right: bool
) -> None:
    """What bcrypt does not look at is left away; nothing ends in an error."""
    users = {"alice": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).replace(b"$2b$", b"$2y$")}
    assert await Logins(at_once).lets_in(header("alice", password), users, "") == is_right


async def test_guesses_are_checked_one_after_the_other_and_held_up() -> None:
    """So many a second as the pause of one failure allows, however many clients guess."""
    under_way: list[str] = []

    async def pause(seconds: float) -> None:
        assert seconds == auth.FAILURE_SECONDS
        under_way.append("pause")
        await asyncio.sleep(0)
        assert under_way[-1] == "pause"

    def check(_password: bytes, _hash: bytes) -> bool:
        under_way.append("check")
        return False

    with patch("invent_exporter.web.auth._fits", check):
        logins = Logins(pause)
        guesses = [logins.lets_in(header("alice", str(n)), USERS, str(n)) for n in range(3)]
        assert not any(await asyncio.gather(*guesses))
    assert under_way == ["check", "pause"] * 3


async def test_only_so_many_wait_for_their_turn() -> None:
    """Of one peer, and of all: who guesses does not keep out for long who is new."""
    ended = asyncio.Event()
    logins = Logins(lambda _seconds: ended.wait())
    login = header("alice", "wrong")

    async def refused(peers: list[str]) -> list[str]:
        logging_in = [logins.lets_in(login, USERS, peer) for peer in peers]
        waiting.extend(map(asyncio.create_task, logging_in))
        await asyncio.sleep(0)
        return [
            peer
            for peer, task in zip(peers, waiting[-len(peers) :], strict=True)
            if task.done() and isinstance(task.exception(), TooManyLoginsError)
        ]

    waiting: list[asyncio.Task[bool]] = []
    assert await refused(["a"] * 6) == ["a"] * 2
    assert await refused([str(n) for n in range(40)]) == [str(n) for n in range(28, 40)]
    ended.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await logins.lets_in(header("alice", "password of alice"), USERS, "a")
