"""What 0.1.0 counted under labels that are too long moves into `__other__`; so does too much.

No number is lost on the way: the sums over all workflows stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import msgspec
import pytest
from sqlalchemy import func, select

from invent_exporter.api.models import Run
from invent_exporter.ledger import schema
from invent_exporter.ledger.room import TextRoom
from tests.ledger.test_ledger import Book
from tests.proof.runs import NOW, run, running, usage

LONG = "w" * 257
SPENT = usage(9.0, 3.0, a=1.0)


@pytest.fixture
def book(state_url: str) -> Iterator[Book]:
    """Give a ledger past its first contact."""
    book = Book(state_url)
    book.contact()
    yield book
    book.ledger.close()


def _sums(book: Book) -> dict[str, float]:
    """Add up what all workflows say."""
    sums: defaultdict[str, float] = defaultdict(float)
    for counts in book.org.workflows.values():
        for name in ("finished", "submitted", "credits_ai", "credits_other"):
            for key, value in getattr(counts, name).items():
                sums[f"{name} {key}"] += value
        histograms = (*counts.duration.values(), counts.queue, counts.run_credits)
        sums["observed"] += sum(sum(each.counts) for each in histograms)
        sums["total"] += sum(each.total for each in histograms)
        sums["steps"] += sum(counts.steps.values())
    return sums


def _lengths(book: Book) -> list[int]:
    """Measure the longest label of each table."""
    columns = schema.workflow.c.workflow_id, schema.run.c.workflow_id
    with book.ledger.engine.connect() as connection:
        longest = (select(func.max(func.length(column))) for column in columns)
        return [connection.execute(query).scalar_one() for query in longest]


@pytest.mark.parametrize("is_known", ["known", ""], ids=["beside an old one", "as the first"])
def test_long_workflows_move_and_the_sums_stay(book: Book, is_known: str) -> None:
    """With all that is known of their runs, once; and what was shown stays shown."""
    runs = [run("r1", workflow_id=LONG), run("r2", "FAILED", workflow_id=LONG + "x"), run("r3")]
    book.record(*(msgspec.structs.replace(each, usage=SPENT) for each in runs))
    book.record(running("r4", workflow_id=LONG))
    if is_known:
        book.record(run("r5", workflow_id="__other__", credits_used=SPENT))
    book.wf.steps["s" * 257] = 2.0  # as 0.1.0 read it
    book.ledger.release(book.org, {LONG: [""], "wf": [""]})
    before = _sums(book)
    for _ in range(2):
        book.reopen()
        assert set(book.org.workflows) == {"wf", "__other__"}
        assert _sums(book) == before
        assert book.org.workflows["wf"].steps == {"a": 1.0, "__other__": 2.0}
        assert "" in book.org.workflows["__other__"].released
        assert _lengths(book) == [9, 9]
    (group,) = book.ledger.open_groups(book.org)
    assert group.workflow_id == "__other__"
    # The API's own long id can't be read any more: the run ends without one.
    book.record(
        run("r4", workflow_id=None), run("r1", workflow_id=None, credits_used=usage(10.0, 0.0))
    )
    assert sum(_sums(book)[f"finished TRIGGER/{name}"] for name in ("COMPLETED", "FAILED")) == (
        5 if is_known else 4
    )
    assert book.org.workflows["__other__"].credits_other["TRIGGER/COMPLETED"] >= 10.0


@pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)  # where 0.1.0 kept such ids
def test_a_megabyte_of_an_id_costs_no_start(book: Book) -> None:
    """Nothing of it is kept, neither in memory nor in the rows that pages are compared with."""
    for number in range(10):
        wide = f"{number}" * 1_000_000
        failed = run(f"r{number}" + "i" * 1_000_000, "FAILED", workflow_id=wide, error="x")
        book.record(msgspec.structs.replace(failed, version="v" * 1_000_000))
    book.reopen()
    kept = msgspec.json.encode((book.org.workflows, book.org.counts))
    assert len(kept) < 20_000
    assert _lengths(book) == [9, 9]
    assert book.org.workflows["__other__"].finished == {"TRIGGER/FAILED": 10}


def test_a_label_that_only_its_escapes_make_long_stays(book: Book) -> None:
    """256 bytes of the API's may be four times as many here."""
    book.record(run(workflow_id="\\x00" * 256))
    book.reopen()
    assert len(book.org.workflows) == 1
    assert "__other__" not in book.org.workflows


def test_near_the_limit_of_the_exposition_new_workflows_are_folded(book: Book) -> None:
    """Known ones go on; all orgs share the room, and what the known ones grew by counts."""
    book.ledger.ledger.room = TextRoom(most_bytes=1000, base_bytes=100, lines=10)
    book.record(*(_of(name) for name in "abcdef"))  # each 160: five of them are 800
    assert set(book.org.workflows) == {"a", "b", "c", "d", "e", "__other__"}
    other = book.other(contact=True)
    book.ledger.record(other, [_of("g")], [], now=NOW)
    assert set(other.workflows) == {"__other__"}
    book.record(_of("a"), _of("g"))
    assert book.org.workflows["a"].finished == {"TRIGGER/COMPLETED": 2}
    assert book.org.folded == {"f", "g"}


def test_what_is_served_has_grown_by_leaves_less_room(book: Book) -> None:
    """Longer numbers, late series."""
    book.ledger.ledger.room = TextRoom(1000, 100, 10, grown_bytes=700)
    book.record(_of("a"), _of("b"))
    assert set(book.org.workflows) == {"a", "__other__"}


_numbers = count()


def _of(workflow_id: str) -> Run:
    return run(f"run {next(_numbers):03d}", workflow_id=workflow_id)
