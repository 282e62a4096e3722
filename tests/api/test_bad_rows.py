"""Rows that their page fails for: searched once, passed over with proof, asked for again rarely."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invent_exporter.api.bad_rows import RETRY_SECONDS, BadRows
from invent_exporter.api.decoding import InvalidRun
from invent_exporter.api.listing import Listing
from invent_exporter.api.page_size import PageSize
from invent_exporter.api.transport import Answer
from invent_exporter.errors import ApiError

NOW = 1_800_000_000.0


@dataclass
class Api:
    """A listing of ids; a page with a bad one answers 500, or what nobody can take apart."""

    ids: list[str]
    bad: set[str] = field(default_factory=set)
    is_spoiled: bool = False
    now: float = NOW
    asked: int = 0
    failed: int = 0
    known: BadRows = field(default_factory=BadRows)
    sizes: PageSize = field(default_factory=lambda: PageSize(10))

    async def fetch(self, page: int, take: int) -> Answer:
        """Answer for one page."""
        self.asked += 1
        ids = self.ids[(page - 1) * take : page * take]
        rows = [
            {"id": each, "status": "FAILED", "created_at": "2026-11-20T10:00:00Z"} for each in ids
        ]
        body = json.dumps(rows).encode()
        if not self.bad.isdisjoint(ids):
            self.failed += 1
            if not self.is_spoiled:
                raise ApiError("server_error", "HTTP 500", status=500)
            body = body.replace(b', "status"', b' "status"')
        return Answer(200, {}, body, self.now)

    async def walk(self, *, forward: bool = True) -> tuple[list[str], int]:
        """Read all pages; return the ids that came, in their order, and how many rows were bad."""
        self.sizes.suspects_a_row = True  # an outage is another story
        self.asked = self.failed = 0
        listing = Listing(self.fetch, self.sizes, self.known)
        seen: dict[int, str] = {}
        bad: set[int] = set()
        offset = 0 if forward else len(self.ids) - 1
        while offset >= 0:
            chunk = await listing.read(offset, forward=forward)
            # Where the bad ones stand among the others nothing says, but that they have a place.
            places = set(range(chunk.start, chunk.end))
            rows = [self.ids[place] for place in sorted(places)]
            assert len(rows) == len(chunk.runs) + len(chunk.invalid)
            assert [run.id for run in chunk.runs] == [each for each in rows if each not in self.bad]
            seen |= {place: self.ids[place] for place in places if self.ids[place] not in self.bad}
            bad |= {place for place in places if self.ids[place] in self.bad}
            offset = chunk.end if forward else chunk.start - 1
            if forward and chunk.at_end:
                break
        return [seen[place] for place in sorted(seen)], len(bad)


def listed(count: int, name: str = "run") -> list[str]:
    """Make ids."""
    return [f"{name}-{number}" for number in range(count)]


@pytest.mark.parametrize("is_spoiled", [True, False])
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    "bad", [{0}, {1}, {17}, {39}, {17, 18, 19}, {0, 1}, {3, 17, 30}, {38, 39}, {9, 10}]
)
async def test_a_row_is_searched_once(bad: set[int], *, forward: bool, is_spoiled: bool) -> None:
    """Later walks meet no page that fails."""
    api = Api(listed(40), {f"run-{number}" for number in bad}, is_spoiled)
    good = [each for each in api.ids if each not in api.bad]
    assert await api.walk() == (good, len(bad))
    assert api.failed > 0
    for _ in range(3):
        assert await api.walk(forward=forward) == (good, len(bad))
        if forward or bad.isdisjoint({0, 39}):
            assert api.failed == 0


@pytest.mark.parametrize("come", [1, 2, 9, 17, 25, 60])
async def test_it_is_found_again_where_new_runs_pushed_it(come: int) -> None:
    """By what stood ahead of it, or because all that is read is new."""
    api = Api(listed(40), {"run-17"})
    await api.walk()
    for number in range(3):
        api.ids = [*listed(come, f"new-{number}"), *api.ids]
        good = [each for each in api.ids if each not in api.bad]
        assert await api.walk() == (good, 1)
        assert api.failed == 0


@pytest.mark.parametrize("forward", [True, False])
async def test_it_is_asked_for_again_after_an_hour_and_no_sooner(*, forward: bool) -> None:
    """Once, while it stays as it is; when it can be read the same walk brings it, as any run."""
    api = Api(listed(40), {"run-17"})
    await api.walk()
    for seconds, failed in ((RETRY_SECONDS - 1, 0), (2.0, 1), (60.0, 0), (RETRY_SECONDS, 1)):
        api.now += seconds
        await api.walk()
        assert api.failed == failed
    api.bad = set()
    api.now += RETRY_SECONDS
    assert await api.walk(forward=forward) == (api.ids, 0)


async def test_of_many_bad_rows_a_few_are_asked_for_at_a_time() -> None:
    """In turn, so that one that heals among others is found."""
    api = Api(listed(40), {f"run-{number}" for number in range(10, 18)})
    await api.walk()
    api.bad.discard("run-15")
    for _ in range(3):
        api.now += RETRY_SECONDS
        with suppress(AssertionError):  # it is passed over until then
            await api.walk()
    assert await api.walk() == ([each for each in api.ids if each not in api.bad], 7)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["come", "go", "spoil", "walk", "back", "turn"]), st.integers(0, 100)
    ),
    max_size=30,
)


@example(rows=1, bad={0}, changes=[("walk", 0), ("come", 0), ("come", 0)])
@example(
    rows=3,
    bad={0, 2},
    changes=[("come", 1), ("come", 0), ("spoil", 23), ("walk", 0), ("turn", 0), ("back", 0)],
)
@given(rows=st.integers(0, 60), bad=st.sets(st.integers(0, 59), max_size=4), changes=CHANGES)
async def test_no_good_row_is_passed_over_whatever_comes_and_goes(
    rows: int, bad: set[int], changes: list[tuple[str, int]]
) -> None:
    """And each bad one has its place in every walk."""
    api = Api(listed(rows), {f"run-{number}" for number in bad if number < rows})
    for number, (kind, index) in enumerate([*changes, ("walk", 0)]):
        if kind == "come":
            api.ids.insert(index % (len(api.ids) + 1), f"new-{number}")
        elif kind == "turn":
            api.ids.reverse()
        elif kind == "go":
            # Of good ones: what takes the very place of a bad one is passed over for an hour.
            api.ids = [each for each in api.ids if each in api.bad or each != f"run-{index}"]
        elif api.ids and kind == "spoil" and len(api.bad) < 6:
            api.bad.add(api.ids[index % len(api.ids)])
        elif kind in {"walk", "back"}:
            good = [each for each in api.ids if each not in api.bad]
            with suppress(ApiError):  # the three rows that are asked for are bad, too
                assert await api.walk(forward=kind == "walk") == (good, len(api.ids) - len(good))


def test_rows_that_a_page_has_shown_to_be_good_can_be_forgotten_again() -> None:
    """Whoever asked for that page has still to say what it thinks of them."""
    rows = BadRows()
    rows.met(3, InvalidRun(None, "server_error", ""), NOW)
    span = rows.spans[0]
    rows.saw(0, [f"run-{number}" for number in range(6)])
    rows.forget(span)
    assert rows.spans == []
