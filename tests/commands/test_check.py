"""What `check` says of answers, over a real connection."""

from __future__ import annotations

import re
import time
from datetime import datetime
from email.utils import formatdate
from pathlib import Path

import pytest

from invent_exporter.commands.check import OrgFound, check
from invent_exporter.config.key import Key
from invent_exporter.config.load import Config
from invent_exporter.config.schema import ApiConfig, OrgConfig
from invent_exporter.redaction import Redactor
from tests.raw_server import RawServer, always, answer


async def found(folder: Path, *headers: str) -> OrgFound:
    """Check one org whose API lists nothing, with these headers."""
    async with RawServer(always(answer(b"[]", *headers))) as server:
        config = Config(
            api=ApiConfig(url=server.url),
            orgs=(OrgConfig(id="org-1", key=Key.literal("key-0123456789")),),
            state_url=f"sqlite:///{folder}/state.db",
        )
        (org,) = (await check(config, Redactor())).orgs
    return org


@pytest.mark.parametrize("days", [-3.0, 3.0, 1000.0])
async def test_clocks_that_are_apart_are_both_named(tmp_path: Path, days: float) -> None:
    """However far: which of them is wrong, only a person can tell."""
    ours = time.time()
    theirs = ours + days * 86400
    org = await found(tmp_path, f"Date: {formatdate(theirs, usegmt=True)}")
    assert org.ok
    assert abs((org.clock_ahead_seconds or 0.0) - days * 86400) < 60
    shown = re.findall(r"(?:says|ours) ([0-9-]+ [0-9:]+ UTC)", org.problem)
    said = [datetime.strptime(f"{each} +0000", "%Y-%m-%d %H:%M:%S UTC %z") for each in shown]
    for each, at in zip(said, (theirs, ours), strict=True):
        assert abs(each.timestamp() - at) < 60
    assert "no date" not in org.cells


async def test_clocks_that_agree_are_no_problem(tmp_path: Path) -> None:
    """Nor is an answer without a date, or with one that no clock shows."""
    assert (await found(tmp_path, f"Date: {formatdate(usegmt=True)}")).problem == ""
    for headers in ((), ("Date: Fri, 31 Dec 9999 23:59:59 GMT",)):
        org = await found(tmp_path, *headers)
        assert (org.problem, org.clock_ahead_seconds) == ("", None)
