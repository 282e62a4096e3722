"""A database behind a network: a commit whose answer is lost, and others who were first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError

from invent_exporter.errors import StateError, StorageError
from invent_exporter.ledger import schema
from invent_exporter.ledger.database import open_database
from invent_exporter.ledger.ledger import Ledger
from invent_exporter.ledger.schema import SCHEMA_VERSION
from invent_exporter.scan.poll import ScanState
from tests.ledger.blocking import BlockingLedger
from tests.ledger.test_ledger import DAY, SETTINGS, Book, book, new_book
from tests.postgres import PostgresServer
from tests.proof.runs import NOW, run

__all__ = ["book", "new_book"]


def once(does: Callable[[Any], None]) -> Callable[..., None]:
    """Let a listener do something the first time alone."""
    todo = [does]
    return lambda connection, *_more: todo.pop()(connection) if todo else None


def lose_answer(connection: Any) -> None:  # noqa: ANN401 (SQLAlchemy's)
    """Commit, and say that the connection was lost."""
    connection.connection.driver_connection.commit()
    raise OperationalError("made to fail", None, OSError("connection lost"))


def test_nothing_is_done_with_an_org_whose_last_commit_is_in_doubt(book: Book) -> None:
    """What is in memory may be behind what is committed: it is loaded anew, and counts on once."""
    book.record(run("r1"))
    book.ledger.ledger._database.is_shared = True
    event.listen(book.ledger.engine, "commit", once(lose_answer))
    with pytest.raises(StorageError, match="connection lost"):
        book.record(run("r1"), run("r2"))
    with pytest.raises(StorageError, match="loaded anew"):
        book.record(run("r3"))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    del book.org
    assert book.wf.finished == {"TRIGGER/COMPLETED": 2}
    book.record(run("r2"), run("r3"))
    assert book.wf.finished == {"TRIGGER/COMPLETED": 3}


@pytest.mark.system
@pytest.mark.parametrize("state_url", ["postgresql"], indirect=True)
def test_a_step_that_meets_another_process_runs_again(book: Book) -> None:
    """It sees what that one committed, and what it reads and writes is of one moment."""

    def be_first(_connection: object) -> None:
        with psycopg.connect(book.url) as other:
            other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            other.execute("UPDATE org SET settled_walk = settled_walk + 1")

    assert book.org.settled_walk == 1
    event.listen(book.ledger.engine, "after_cursor_execute", once(be_first))
    book.record(run())
    assert not book.org.is_stale
    assert book.wf.finished == {"TRIGGER/COMPLETED": 1}
    with book.ledger.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT settled_walk FROM org").scalar() == 2


@pytest.mark.system
@pytest.mark.parametrize("state_url", ["postgresql"], indirect=True)
def test_two_processes_that_make_the_same_org_have_the_same(book: Book) -> None:
    """Whoever comes second finds it."""
    other = Book(book.url)

    def be_first(_connection: object) -> None:
        other.other("org-2")

    event.listen(book.ledger.engine, "after_cursor_execute", once(be_first))
    assert book.other("org-2").key == other.other("org-2").key
    other.ledger.close()


@pytest.mark.system
@pytest.mark.parametrize("state_url", ["postgresql"], indirect=True)
def test_a_page_reads_no_whole_table_that_others_write_to(book: Book) -> None:
    """Else each replica would meet every other one, whatever orgs they have."""
    book.record(*(run(f"r{number}") for number in range(30)))
    locked: list[str] = []

    def look(connection: Any) -> None:  # noqa: ANN401 (SQLAlchemy's)
        found = connection.exec_driver_sql(
            "SELECT relation::regclass::text FROM pg_locks "
            "WHERE mode = 'SIReadLock' AND locktype = 'relation' AND pid = pg_backend_pid()"
        )
        locked.extend(found.scalars())

    event.listen(book.ledger.engine, "commit", look)
    book.record(*(run(f"r{number}") for number in range(25, 55)))
    assert locked == []


@pytest.mark.system
def test_a_run_that_two_replicas_meet_at_once_counts_once(postgres_url: str) -> None:
    """It stands under both their orgs: whoever commits first has it. And no step runs twice."""
    barrier = Barrier(2)

    def count(number: int) -> tuple[int, int]:
        database = open_database(postgres_url)
        barrier.wait()
        with psycopg.connect(postgres_url) as connection:
            lease = (f"org-{number}", f"host/{number}", number, NOW * 2)
            connection.execute("INSERT INTO lease VALUES (%s, %s, %s, %s)", lease)
        ledger = BlockingLedger(Ledger(database, SETTINGS, replica=f"host/{number}"))
        org = ledger.load(f"org-{number}", walk_floor=NOW - DAY, lease=number)
        ledger.complete(org, ScanState(), absent=(), contact_seconds=NOW - DAY)
        statements: list[object] = []
        event.listen(database.engine, "begin", statements.append)
        for page in range(20):
            runs = [run(f"r{page}-{each}") for each in range(30)]
            barrier.wait()
            ledger.record(org, runs[:: 1 - 2 * number], [], now=NOW)  # in another order
        ledger.close()
        return org.workflows["wf"].finished["TRIGGER/COMPLETED"], len(statements)

    with ThreadPoolExecutor(2) as pool:
        counted, steps = zip(*pool.map(count, (0, 1)), strict=True)
    assert sum(counted) == 600
    assert steps == (20, 20)


@pytest.mark.system
def test_tables_that_are_not_ours_are_left_alone(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """Those of another program, of a newer version, and a database in another encoding."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE run (mine int)")
    with pytest.raises(StateError, match="another program's"):
        open_database(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TABLE run")
    database = open_database(postgres_url)
    with database.engine.begin() as connected:
        connected.execute(update(schema.meta).values(schema_version=SCHEMA_VERSION + 1))
    database.close()
    with pytest.raises(StateError, match=f"schema version {SCHEMA_VERSION + 1}, this program"):
        open_database(postgres_url)
    postgres.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with pytest.raises(StateError, match="LATIN1, expected UTF8"):
        open_database(postgres.url("latin"))
    postgres.execute("DROP DATABASE latin")


@pytest.mark.system
def test_a_user_who_may_not_make_tables_is_told(
    postgres: PostgresServer, postgres_url: str
) -> None:
    """In one line, with the server's words."""
    postgres.execute("DROP ROLE IF EXISTS reader")
    postgres.execute("CREATE ROLE reader LOGIN")
    name = postgres_url.rpartition("/")[2]
    with pytest.raises(StateError, match="permission denied for schema public") as raised:
        open_database(postgres.url(name, user="reader"))
    assert "\n" not in str(raised.value)
