"""A PostgreSQL server for tests: Debian's, on a port of its own, gone with the process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.process.harness import free_port, wait_for

_NEW_NAMES = count(1)
_USER = "postgres"  # the server refuses to run as root


def _program(name: str) -> Path:
    """Find a program of the server, which Debian keeps off PATH; skip or fail without it."""
    on_path = shutil.which(name)
    found = [on_path] if on_path else sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if found:
        return Path(found[-1])
    reason = f"{name} is missing: .ci/install-tools installs PostgreSQL on Debian"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _as_server(*command: str | Path) -> list[str | Path]:
    """Run as somebody who may run it, and end it (at once, but clean) with this process."""
    who: list[str | Path] = []
    if os.geteuid() == 0:
        who = ["--reuid", _USER, "--regid", _USER, "--init-groups"]
    return ["setpriv", *who, "--pdeathsig", "INT", "--", *command]


def _run(program: str, *arguments: str | Path) -> None:
    command = _as_server(_program(program), *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


class PostgresServer:
    """One server, with its data in a folder; it can be stopped, crashed and started again."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        """Prepare in a folder that is there, and empty or gone below `data`."""
        self.folder = folder
        self.data = folder / "data"
        self.port = port or free_port()
        self.log_file = folder / "log"
        self.settings = {"fsync": "off", "full_page_writes": "off"}
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(folder, _USER, _USER)

    def initialize(self, *options: str) -> None:
        """Make an empty data folder whose superuser is `postgres`, without a password."""
        usual = ("-A", "trust", "-N", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
        _run("initdb", *usual, *options, "-D", self.data)

    def initialize_as_standby_of(self, primary: PostgresServer) -> None:
        """Copy a server, and follow it until `pg_promote`."""
        url = primary.url("postgres")
        _run("pg_basebackup", "-D", self.data, "-d", url, "-R", "-X", "stream", "-c", "fast")

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **self.settings,
        }
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                _as_server(_program("postgres"), "-D", self.data, *given),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        if wait:
            wait_for("PostgreSQL answers", self.answers)

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text(errors="replace")[-2000:]
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def has_ended(self) -> bool:
        """Tell whether it has ended by itself, as it does when it can't go on."""
        return self._process is None or self._process.poll() is not None

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT cleanly, SIGQUIT as `pg_ctl stop -m immediate` does, without a word."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)

    def url(self, database: str, *, user: str = "postgres", more: str = "") -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{more}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement by itself, as the superuser; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, and return its URL."""
        name = f"test_{next(_NEW_NAMES)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def make_empty(url: str) -> None:
    """Drop all tables of a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@contextmanager
def prepared_server() -> Iterator[PostgresServer]:
    """Prepare a server of one's own, and end it."""
    # Not below pytest's own folder, which is closed to the server's user.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server of one's own."""
    with prepared_server() as server:
        server.initialize()
        server.start()
        yield server
