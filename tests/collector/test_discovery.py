"""Looks for sub-orgs: what is sure comes and goes, and no sick listing takes anybody away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from invent_exporter.api.orgs import MAX_SUB_ORGS, NO_FINANCES, SubOrg, SubOrgs, SubOrgsApi
from invent_exporter.api.transport import Transport
from invent_exporter.collector.discovery import Discovery
from invent_exporter.collector.target import Shared, Target
from invent_exporter.config.load import ApiConfig, Key
from invent_exporter.errors import StorageError
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.recorder import LedgerSettings
from invent_exporter.redaction import Redactor
from invent_exporter.simulator import Fault, Org, Settings, SimulatorServer, World, quiet_world
from invent_exporter.simulator.service import Request
from invent_exporter.telemetry import Telemetry
from tests.proof.process import FakeClocks
from tests.proof.runs import BOUNDS

PARENT = "org-main"


class Clocks(FakeClocks):
    """Let all waits be over at once."""

    async def sleep(self, seconds: float) -> None:
        """Let fake time pass."""
        self.now += seconds
        await asyncio.sleep(0)


class Desk:
    """Looks for the sub-orgs of `org-main`, over real HTTP, into a real ledger."""

    def __init__(self, server: SimulatorServer, state_url: str) -> None:
        self.server = server
        self.registry = CollectorRegistry()
        telemetry = Telemetry(self.registry)
        self.redactor = Redactor()
        clocks = Clocks()
        self.config = ApiConfig(
            url=server.url, requests_per_minute=1e6, max_response_bytes=256 * 1024
        )
        self.transport = Transport(self.config, telemetry, clocks, self.redactor)
        self.ledger = Ledger(
            open_database(state_url),
            LedgerSettings(BOUNDS, 1000, step_credits=True, reconcile_window_seconds=86400.0),
        )
        self.retarget = asyncio.Event()
        self.shared = SimpleNamespace(
            ledger=self.ledger,
            sub_orgs=SubOrgsApi(self.transport),
            telemetry=telemetry,
            clocks=clocks,
            read_key=Key.read,
            redactor=self.redactor,
            retarget=self.retarget,
        )
        self.target = Target(
            id="c",
            key=Key.literal("key-main"),
            poll_interval_seconds=30.0,
            lookback_seconds=1.0,
            reconcile_interval_seconds=1.0,
            sub_orgs_interval_seconds=600.0,
        )
        self.label = PARENT
        shared = cast("Shared", self.shared)
        self.discovery = Discovery(shared, lambda: self.target, lambda: self.label)

    @property
    def world(self) -> World:
        """The truth."""
        return self.server.world

    async def look(self) -> list[str]:
        """Look once; return who is known then. Whatever came of it, the targets are made anew."""
        self.retarget.clear()
        await self.discovery.look()
        assert self.retarget.is_set()
        return await self.known()

    async def wait_for_answers(self, seconds: float) -> None:
        """Give up a request after so long, from now on."""
        async with self.transport.changing(replace(self.config, timeout_seconds=seconds)):
            pass

    async def known(self) -> list[str]:
        """List who is known."""
        return [row.org_id for row in (await self.ledger.sub_orgs()).rows]

    def errors(self, reason: str) -> float:
        """Tell how often looks failed for this reason."""
        labels = {"org_id": self.label, "reason": reason}
        return self.registry.get_sample_value("invent_poll_errors_total", labels) or 0.0

    def all_errors(self) -> float:
        """Tell how often looks failed."""
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "invent_poll_errors_total"
        )

    def add(self, *org_ids: str, **fields: Any) -> None:  # noqa: ANN401 - of an org
        """Let orgs appear in the parent's list."""
        for org_id in org_ids:
            name = fields.get("name", org_id.title())
            more = {**fields, "name": name}
            self.world.add_org(Org(id=org_id, key=f"key-{org_id}", parent=PARENT, **more))

    def before_page(self, number: int, change: Callable[[], None], *, times: int = 1) -> None:
        """Change the world before page so-and-so is answered, so many times."""
        left = [times]

        def hook(request: Request) -> None:
            if request.query.get("page") == str(number) and left[0]:
                left[0] -= 1
                change()

        self.server.service.before_answer = hook


@asynccontextmanager
async def looking(state_url: str) -> AsyncIterator[Desk]:
    """Serve a parent whose one sub-org, `org-sub`, was found."""
    with SimulatorServer(quiet_world(), settings=Settings(rate_limit_per_minute=None)) as server:
        desk = Desk(server, state_url)
        try:
            assert await desk.look() == ["org-sub"]
            yield desk
        finally:
            await desk.transport.aclose()
            desk.ledger.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Keep nothing."""
    async with looking("sqlite://") as desk:
        yield desk


@pytest.fixture
async def kept(state_url: str) -> AsyncIterator[Desk]:
    """Keep what was found in a state of each kind."""
    async with looking(state_url) as desk:
        yield desk


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return what is logged, which is shown nowhere."""
    with capture_logs() as lines:
        yield lines


def events(lines: list[MutableMapping[str, Any]]) -> list[str]:
    """Say what was said of orgs, and not of the server where the state is."""
    return [line["event"] for line in lines if "org_id" in line]


async def test_orgs_are_found_lost_and_found_again(
    kept: Desk, lines: list[MutableMapping[str, Any]]
) -> None:
    """Each with one look, and a line for it; a look without news says nothing."""
    desk = kept
    desk.add("org-1", "org-2", balance=3.5, spending_cap=10.0)
    assert await desk.look() == ["org-1", "org-2", "org-sub"]
    assert desk.discovery.found == 3
    row = (await desk.ledger.sub_orgs()).rows[0]
    assert (row.parent, row.name, row.balance_credits) == (PARENT, "Org-1", 3.5)
    assert (row.spending_cap_credits, row.spending_cap_used_credits) == (10.0, 0.0)
    desk.world.remove_org("org-1")
    desk.world.remove_org("org-sub")
    assert await desk.look() == ["org-2"]
    desk.add("org-1")
    assert await desk.look() == ["org-1", "org-2"]
    assert await desk.look() == ["org-1", "org-2"]
    found, gone = "sub-orgs were found", "sub-orgs are listed no longer"
    assert events(lines) == [found, found, gone, found]
    assert desk.all_errors() == 0
    assert desk.discovery.error is None


async def test_credits_are_read_with_each_look(kept: Desk) -> None:
    """What changed is committed, and what is not known any more is null again."""
    desk = kept
    desk.world.add_org(Org(id="org-sub", name="New name", key="k", parent=PARENT, balance=0.0))
    await desk.look()
    (row,) = (await desk.ledger.sub_orgs()).rows
    assert (row.name, row.balance_credits) == ("New name", 0.0)
    own = Org(id="org-sub", name="Sub", key="k", parent=PARENT, use_parent_balance=True)
    desk.world.add_org(own)
    await desk.look()
    (row,) = (await desk.ledger.sub_orgs()).rows
    assert row.balance_credits is None


async def test_the_parent_key_asks_and_the_requests_are_the_parents(desk: Desk) -> None:
    """Under its real id, though it is configured as `c`."""
    assert {seen.org for seen in desk.server.requests} == {PARENT}
    labels = {"org_id": PARENT, "code": "200"}
    assert desk.registry.get_sample_value("invent_api_requests_total", labels) == 1


SICK: dict[str, tuple[Fault, str]] = {
    "401": (Fault(kind="status", status=401), "unauthorized"),
    "403": (Fault(kind="status", status=403), "forbidden"),
    "404": (Fault(kind="status", status=404), "not_found"),
    "400": (Fault(kind="status", status=400), "bad_request"),
    "429": (Fault(kind="rate_limited"), "rate_limited"),
    "429 for an hour": (
        Fault(kind="rate_limited", retry_after="seconds", seconds=3600),
        "rate_limited",
    ),
    "500": (Fault(kind="status", status=500), "server_error"),
    "redirect": (Fault(kind="redirect"), "invalid_response"),
    "html": (Fault(kind="html"), "invalid_response"),
    "nothing": (Fault(kind="empty_body"), "invalid_response"),
    "half of it": (Fault(kind="half_json"), "invalid_response"),
    "no list": (Fault(kind="not_a_list"), "invalid_response"),
    "too large": (Fault(kind="padded", mebibytes=0.5), "invalid_response"),
    "a bomb": (Fault(kind="gzip_bomb", mebibytes=8.0), "invalid_response"),
    "without end": (Fault(kind="endless"), "invalid_response"),
    "slow": (Fault(kind="slow", seconds=5.0), "timeout"),
    "drip": (Fault(kind="drip", seconds=20.0), "timeout"),
    "cut off": (Fault(kind="cut_off"), "network"),
    "reset": (Fault(kind="reset"), "network"),
}


@pytest.mark.parametrize("case", SICK)
async def test_a_sick_listing_changes_nothing_and_is_said(
    desk: Desk, case: str, lines: list[MutableMapping[str, Any]]
) -> None:
    """Nobody is withdrawn, nobody added; it counts as an error of the parent. Then it is well."""
    fault, reason = SICK[case]
    desk.server.add_faults(fault)
    desk.add("org-1")
    desk.world.remove_org("org-sub")
    lines.clear()
    if reason == "timeout":
        await desk.wait_for_answers(0.5)
    assert await desk.look() == ["org-sub"]
    await desk.wait_for_answers(desk.config.timeout_seconds)
    assert (desk.errors(reason), desk.all_errors()) == (1, 1)
    (line,) = (each for each in lines if each["event"] == "sub-orgs can't be listed")
    assert (line["reason"], line["org_id"], line["log_level"]) == (reason, PARENT, "warning")
    assert desk.discovery.error == line["error"]
    assert re.fullmatch(rf"{reason}( \(HTTP \d{{3}}\))?", desk.discovery.brief_error or "")
    assert desk.discovery.found == 1
    desk.server.faults.clear()
    desk.shared.clocks.now += 4000
    assert await desk.look() == ["org-1"]
    assert (desk.discovery.error, desk.discovery.brief_error) == (None, None)


@pytest.mark.parametrize("case", [case for case in SICK if case not in ("400", "404")])
async def test_a_listing_that_breaks_off_on_page_2_changes_nothing(desk: Desk, case: str) -> None:
    """Though page 1 named new ones, and lacked a known one."""
    fault, reason = SICK[case]
    for number in range(150):
        desk.add(f"org-a{number:03}")
    desk.world.remove_org("org-sub")
    desk.server.add_faults(msgspec.structs.replace(fault, query={"page": "2"}))
    if reason == "timeout":
        await desk.wait_for_answers(0.5)
    assert await desk.look() == ["org-sub"]
    assert desk.errors(reason) == 1


async def test_one_empty_answer_withdraws_nobody(desk: Desk) -> None:
    """Only two whole listings in a row do: an API that is starting up may list nothing at first."""
    for says_count in (True, False):
        desk.server.settings.count = says_count
        desk.server.add_faults(Fault(kind="empty_page", count=1))
        assert await desk.look() == ["org-sub"]
    assert desk.all_errors() == 0
    desk.server.faults.clear()
    desk.server.add_faults(Fault(kind="empty_page"))
    assert await desk.look() == []


async def test_nobody_is_lost_who_slipped_between_two_pages(desk: Desk) -> None:
    """One that goes before page 2 is asked for moves another to page 1, unseen."""
    names = [f"org-a{number:03}" for number in range(150)]
    desk.add(*names)
    assert await desk.look() == [*names, "org-sub"]
    for says_count in (True, False):
        desk.server.settings.count = says_count
        gone = names.pop(5)
        desk.before_page(2, lambda gone=gone: desk.world.remove_org(gone))  # type: ignore[misc]
        assert set(names) <= set(await desk.look())
        assert await desk.look() == [*names, "org-sub"]
    assert desk.all_errors() == 0


async def test_a_listing_in_doubt_adds_and_withdraws_nobody(
    desk: Desk, lines: list[MutableMapping[str, Any]]
) -> None:
    """A row that can't be read may be anybody's."""
    desk.add("org-1", "org-2", "org-3")
    await desk.look()
    desk.world.remove_org("org-1")
    desk.world.remove_org("org-2")
    desk.add("a/b", "org-new")
    lines.clear()
    assert await desk.look() == ["org-1", "org-2", "org-3", "org-new", "org-sub"]
    assert (desk.errors("invalid_response"), desk.all_errors()) == (1, 1)
    assert desk.discovery.found == 5
    error = "the listing is in doubt: 1 of 4 sub-orgs can't be read"
    assert desk.discovery.error == error
    assert [line["error"] for line in lines if "error" in line] == [error]
    desk.world.remove_org("a/b")
    assert await desk.look() == ["org-3", "org-new", "org-sub"]


async def test_no_key_becomes_an_id_or_a_name(desk: Desk) -> None:
    """An API may list the key that it was asked with."""
    desk.redactor.add("inv_secret_0123456789")
    desk.add("org-inv_secret_0123456789")
    desk.add("org-1", name="is inv_secret_0123456789")
    assert await desk.look() == ["org-1", "org-sub"]
    assert (await desk.ledger.sub_orgs()).rows[0].name is None
    assert desk.errors("invalid_response") == 1


def listing(*orgs: str, doubt: str | None = None) -> SubOrgs:
    """Make what a reading brings."""
    return SubOrgs(tuple(SubOrg(org, None, NO_FINANCES) for org in orgs), doubt)


async def test_no_more_are_kept_than_may_be(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings in doubt that name others each time would add up without end."""
    rounds = iter(range(10**6))

    async def read(*_: object, **__: object) -> SubOrgs:
        number = next(rounds)
        names = (f"org-{number}-{each}" for each in range(MAX_SUB_ORGS // 4))
        return listing(*names, doubt="odd")

    monkeypatch.setattr(SubOrgsApi, "read", read)
    known = await desk.look()
    assert MAX_SUB_ORGS / 2 < len(known) <= MAX_SUB_ORGS
    for _ in range(3):
        assert await desk.look() == known
    assert "more than 10000 sub-orgs were listed" in (desk.discovery.error or "")


async def test_what_was_noted_for_c_goes_with_its_name(kept: Desk) -> None:
    """Not before a whole listing under the name; nothing is known twice then."""
    desk = kept
    desk.label = "c"
    await desk.look()
    rows = (await desk.ledger.sub_orgs()).rows
    assert [(row.parent, row.org_id) for row in rows] == [("c", "org-sub"), (PARENT, "org-sub")]
    org = await desk.ledger.load("c", walk_floor=0.0)
    await desk.ledger.identify(org, PARENT, walk_floor=0.0)
    desk.label = PARENT
    desk.server.add_faults(Fault(kind="html"))
    await desk.look()
    assert len((await desk.ledger.sub_orgs()).rows) == 2
    desk.server.faults.clear()
    await desk.look()
    known = await desk.ledger.sub_orgs()
    assert [(row.parent, row.org_id) for row in known.rows] == [(PARENT, "org-sub")]
    assert known.alias == PARENT


async def test_parents_do_not_touch_each_others(kept: Desk) -> None:
    """Both may list the same org."""
    desk = kept
    desk.label, desk.target = "org-other", replace(desk.target, key=Key.literal("key-other"))
    desk.world.add_org(Org(id="org-x", name="X", key="key-x", parent="org-other"))
    assert await desk.look() == ["org-sub", "org-x"]
    desk.world.remove_org("org-x")
    assert await desk.look() == ["org-sub"]


async def test_what_was_wrong_stands_until_the_next_look_has_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page does not say that all is well while nobody knows."""
    seen: list[str | None] = []
    read = SubOrgsApi.read

    async def look_first(api: SubOrgsApi, *args: Any, **more: Any) -> SubOrgs:  # noqa: ANN401
        seen.append(desk.discovery.error)
        return await read(api, *args, **more)

    monkeypatch.setattr(SubOrgsApi, "read", look_first)
    desk.server.add_faults(Fault(kind="status", status=403, body="empty"))
    await desk.look()
    desk.server.faults.clear()
    await desk.look()
    assert seen == [None, "HTTP 403"]
    assert desk.discovery.error is None


@pytest.mark.parametrize("step", ["sub_orgs", "put_sub_orgs"])
async def test_a_ledger_that_fails_is_said(
    desk: Desk, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look is tried again as after any failure."""

    async def fail(*_: object, **__: object) -> None:
        raise StorageError("disk is full")

    desk.add("org-1")
    with monkeypatch.context() as patched:
        patched.setattr(desk.ledger, step, fail)
        await desk.discovery.look()
    assert desk.errors("storage") == 1
    assert desk.discovery.error == "the state can't be used: disk is full"
    assert await desk.look() == ["org-1", "org-sub"]


async def test_a_bug_does_not_end_the_looks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, with where it was."""
    with monkeypatch.context() as patched:
        patched.setattr(SubOrgsApi, "read", lambda *_, **__: 1 / 0)
        assert await desk.look() == ["org-sub"]
    assert desk.errors("invalid_response") == 1
    assert await desk.look() == ["org-sub"]


async def waits(desk: Desk, looks: int) -> list[float]:
    """Let the loop look so often; return how long it waited after each."""
    slept: list[float] = []
    is_over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == looks:
            is_over.set()
            await asyncio.Event().wait()

    desk.shared.clocks.sleep = sleep
    desk.shared.clocks.random = lambda: 0.0
    task = asyncio.create_task(desk.discovery.run())
    async with asyncio.timeout(60):
        await is_over.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return slept


async def test_looks_come_at_the_interval_and_sooner_after_a_failure(desk: Desk) -> None:
    """30 s, and twice as long each time, but never longer than the interval."""
    assert await waits(desk, 3) == [600.0] * 3
    desk.server.add_faults(Fault(kind="status", status=403))
    assert await waits(desk, 7) == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    desk.discovery._failures = 5000  # of weeks
    assert await waits(desk, 1) == [600.0]
    desk.target = replace(desk.target, sub_orgs_interval_seconds=5.0)
    assert await waits(desk, 2) == [5.0, 5.0]
    desk.server.faults.clear()
    assert await waits(desk, 1) == [5.0]


async def test_nobody_is_looked_for_until_it_is_wanted(desk: Desk) -> None:
    """A change of the target is seen at once; what was known of the looks is forgotten."""
    wanted = desk.target
    desk.target = replace(wanted, sub_orgs_interval_seconds=None)
    desk.server.forget_requests()
    task = asyncio.create_task(desk.discovery.run())
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert desk.discovery.found is None
        assert not desk.server.requests
        desk.target = wanted
        desk.retarget.clear()
        desk.discovery.change()
        async with asyncio.timeout(60):
            await desk.retarget.wait()
        assert desk.discovery.found == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
