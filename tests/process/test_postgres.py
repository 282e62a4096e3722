"""The ledger in PostgreSQL: what `serve` counts is exact, whatever becomes of the server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGQUIT

import psycopg
import pytest

from tests.postgres import PostgresServer, postgres_server, prepared_server
from tests.process.counting import counting
from tests.process.disks import fill, tmpfs
from tests.process.harness import run_command, wait_for
from tests.process.tcp_proxy import TcpProxy
from tests.web.certificates import Authority

pytestmark = pytest.mark.system

PASSWORD = "p%40ss-w0rd-of-nobody"


@contextmanager
def through_proxy(url: str) -> Iterator[tuple[TcpProxy, str]]:
    """Reach a database over a network that can be made worse."""
    port = url.rpartition("@")[2].partition("/")[0].partition(":")[2]
    with TcpProxy(int(port)) as proxy:
        yield proxy, url.replace(f":{port}/", f":{proxy.port}/")


def with_password(url: str, password: str = PASSWORD) -> str:
    """Put a password into a URL; a server that trusts everybody does not ask for it."""
    return url.replace("postgres@", f"postgres:{password}@")


def test_a_start_goes_on_where_the_last_one_was(tmp_path: Path, postgres_url: str) -> None:
    """After a kill, and after a stop: what was served is what it finds."""
    with counting(tmp_path, postgres_url) as case:
        for end in (case.exporter.kill, case.exporter.stop):
            end()
            case.happen()
            case.exporter.start()
            case.wait_until_exact()
        case.exporter.wait_for(
            "its size is known",
            lambda samples: (samples.find("invent_ledger_size_bytes") or 0) > 1e6,
        )
        assert case.exporter.stop() == 0


def test_a_password_is_shown_nowhere(tmp_path: Path, postgres_url: str) -> None:
    """Neither as it stands in the URL nor as it is meant; not while it works, not when it fails."""
    url = with_password(postgres_url)
    with counting(tmp_path, url) as case:
        process = case.exporter.process
        assert process is not None
        pages = [case.exporter.get(path).text for path in ("/", "/api/status", "/metrics")]
        title = Path(f"/proc/{process.pid}/cmdline").read_text()
        said = "\n".join([*pages, title, case.exporter.log])
        assert case.exporter.stop() == 0
    failed = run_command(
        environment={
            "INVENT_API_KEY": "k",
            "INVENT_STATE_URL": url.replace("@127.0.0.1", "@127.0.0.2"),
        }
    )
    assert failed.returncode == 1
    assert "postgresql://postgres:***@127.0.0.2:" in failed.stderr
    assert failed.stderr.count("\n") == 1
    said += failed.stdout + failed.stderr
    for secret in (PASSWORD, "p@ss-w0rd", "ss-w0rd-"):
        assert secret not in said


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Give a server that a test may stop."""
    with postgres_server() as server:
        server.execute("CREATE DATABASE ledger")
        yield server


@pytest.mark.parametrize("number", [SIGINT, SIGQUIT], ids=["fast", "immediate"])
def test_a_server_that_restarts_is_found_again(
    tmp_path: Path, server: PostgresServer, number: int
) -> None:
    """Polls fail as long as it is away, with the numbers that were committed."""
    with counting(tmp_path, server.url("ledger")) as case:
        for _ in range(3):
            server.stop(number)
            case.happen()
            case.wait_for_storage_errors()
            server.start(wait=False)
            case.wait_until_exact()


def test_connections_that_are_cut_are_made_anew(tmp_path: Path, postgres_url: str) -> None:
    """At any moment of a poll, again and again."""
    with through_proxy(postgres_url) as (proxy, url), counting(tmp_path, url) as case:
        for _ in range(10):
            case.happen()
            proxy.cut()
            proxy.mend()
        proxy.cut()
        case.wait_for_storage_errors()
        proxy.mend()
        case.wait_until_exact()


def test_a_network_that_goes_silent_is_given_up(tmp_path: Path, postgres_url: str) -> None:
    """Neither end hears of it; /metrics goes on, and so does a stop."""
    with through_proxy(postgres_url) as (proxy, url), counting(tmp_path, url) as case:
        case.happen()
        proxy.go_silent()
        case.wait_for_storage_errors(1)
        proxy.mend()
        case.wait_until_exact()
        proxy.go_silent()
        case.happen()
        case.wait_for_storage_errors(1)
        assert case.exporter.stop() == 0  # in 5 s, where the machine has nothing else to do


def test_a_commit_whose_answer_is_lost_counts_once(tmp_path: Path, postgres_url: str) -> None:
    """Whether it happened nobody knows: what is there decides."""
    with through_proxy(postgres_url) as (proxy, url), counting(tmp_path, url) as case:
        proxy.lose_every = 3
        for _ in range(10):
            before = proxy.lost
            case.happen()
            while proxy.lost < before + 2:
                case.exporter.scrape()
        assert case.errors(case.exporter.scrape()) > 0
        proxy.lose_every = None
        case.wait_until_exact()


def test_a_standby_that_takes_over_is_found(tmp_path: Path, server: PostgresServer) -> None:
    """With both addresses in the URL; what was committed is there, and goes on there."""
    with prepared_server() as standby:
        standby.initialize_as_standby_of(server)
        standby.settings["hot_standby"] = "on"
        standby.start()
        # From now on nothing is committed that the standby does not have.
        server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        server.execute("SELECT pg_reload_conf()")
        url = f"postgresql://postgres@127.0.0.1:{server.port},127.0.0.1:{standby.port}/ledger"
        with counting(tmp_path, url) as case:
            case.happen()
            server.stop(SIGQUIT)
            case.wait_for_storage_errors()
            standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.execute("SELECT pg_promote()")
            case.wait_until_exact()


def test_a_full_disk_at_the_server(tmp_path: Path) -> None:
    """The numbers stay as they are; with room again, and the server up again, all is counted."""
    with prepared_server() as shell, tmpfs(shell.folder / "disk", "90m") as disk:
        server = PostgresServer(disk)
        server.settings |= {"min_wal_size": "2MB", "max_wal_size": "4MB"}
        server.initialize("--wal-segsize=1")
        server.start()
        try:
            server.execute("CREATE DATABASE ledger")
            with counting(tmp_path, server.url("ledger")) as case:
                for _ in range(2):
                    fill(disk)
                    # Pages that are there have room for some rows.
                    case.happen(2000)
                    case.wait_for_storage_errors()
                    (disk / "filler").unlink()
                    wait_for("the server is up, or up again", partial(_is_up, server))
                    case.wait_until_exact()
        finally:
            server.stop()


def _is_up(server: PostgresServer) -> bool:
    """Start it when it has ended: it may still be about to."""
    if server.has_ended:
        server.start(wait=False)
    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def guarded(tmp_path: Path, server: PostgresServer) -> Authority:
    """Let the server ask for TLS and a password, with a certificate of an authority of ours."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", "DNS:localhost")
    for source, name in ((pair.certificate, "server.pem"), (pair.key, "server.key")):
        there = server.data / name
        there.write_bytes(source.read_bytes())
        there.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(there, "postgres")
    server.execute("CREATE ROLE exporter LOGIN PASSWORD 'p@ss-w0rd-of-nobody'")
    server.execute("GRANT ALL ON SCHEMA public TO exporter", "ledger")
    server.stop()
    (server.data / "pg_hba.conf").write_text(
        "host all postgres 127.0.0.1/32 trust\nhostssl ledger exporter 127.0.0.1/32 scram-sha-256\n"
    )
    server.settings |= {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
    server.start()
    return authority


def test_tls_and_password_as_the_url_says(
    tmp_path: Path, server: PostgresServer, guarded: Authority
) -> None:
    """It counts over TLS to the server that the certificate names, and to no other."""

    def url(host: str, ca: Path, password: str = PASSWORD, mode: str = "verify-full") -> str:
        at = f"exporter:{password}@{host}:{server.port}/ledger"
        return f"postgresql://{at}?sslmode={mode}&sslrootcert={ca}"

    right = guarded.own.certificate
    with counting(tmp_path, url("localhost", right)) as case:
        users = server.execute(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename='exporter'"
        )
        assert set(users) == {(True,)}
        assert case.exporter.stop() == 0
    wrong = Authority(tmp_path, "another").own.certificate
    for refused, words in (
        (url("localhost", wrong), "certificate verify failed"),
        (url("127.0.0.1", right), 'does not match host name "127.0.0.1"'),
        (url("localhost", right, "not-the-p%40ssword"), "password authentication failed"),
        (url("localhost", right, mode="disable"), "no encryption"),
    ):
        environment = {"INVENT_API_KEY": "k", "INVENT_STATE_URL": refused}
        failed = run_command(environment=environment)
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), failed.stderr
        assert words in failed.stderr
        assert "ssw" not in failed.stderr.replace("password", "")


def test_a_password_file_is_read(
    tmp_path: Path, server: PostgresServer, guarded: Authority
) -> None:
    """So that no URL needs to hold one."""
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:exporter:p@ss-w0rd-of-nobody\n")
    passwords.chmod(0o600)
    options = f"sslmode=verify-full&sslrootcert={guarded.own.certificate}&passfile={passwords}"
    url = f"postgresql://exporter@localhost:{server.port}/ledger?{options}"
    with counting(tmp_path, url) as case:
        assert case.exporter.stop() == 0
