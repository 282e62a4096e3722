"""What a web configuration asks of clients, over real connections."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from structlog.testing import capture_logs

from invent_exporter.errors import ConfigError, ListenError
from invent_exporter.web.connection import Bounds
from invent_exporter.web.guard import WebFile
from invent_exporter.web.listening import parse_health_address
from invent_exporter.web.server import Server
from tests.web.certificates import Authority, Pair
from tests.web.running import (
    BODY,
    GET_METRICS,
    LARGE,
    Running,
    read_answer,
    read_to_end,
    serving,
    until,
)

HEALTHCHECK = Path(__file__).parents[2] / "deploy" / "image" / "healthcheck.py"
PASSWORD = "open sesame"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
USERS = {"basic_auth_users": {"alice": HASH}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make one for all tests."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """Return the server's certificate."""
    return authority.issue("server")


def write(folder: Path, **config: object) -> Path:
    """Write a web configuration; the other is there until it is whole."""
    path = folder / "web.yaml"
    path.with_suffix(".new").write_text(json.dumps(config))
    return path.with_suffix(".new").replace(path)


def tls(pair: Pair, **more: object) -> dict[str, Any]:
    """Name a certificate."""
    files = {"cert_file": str(pair.certificate), "key_file": str(pair.key)}
    return {"tls_server_config": files | more}


class Clock:
    """A clock that tests turn."""

    now = 0.0

    def __call__(self) -> float:
        """Go on by a minute: files are looked at with each request."""
        self.now += 60.0
        return self.now


def at_once(path: Path) -> WebFile:
    """Read a web configuration; a change is seen with the next request."""
    return WebFile(path, Clock())


def port(running: Running) -> int:
    """Tell where it is."""
    return running.server.addresses[0][1]


# TLS


def test_tls_changes_nothing(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """Over TLS too an answer counts when it was handed over, and not when it was broken off."""
    trusting = authority.trusting()
    with serving(body=LARGE, file=WebFile(write(tmp_path, **tls(pair)))) as running:
        with trusting.wrap_socket(running.connect(), server_hostname="localhost") as raw:
            raw.sendall(GET_METRICS)
            assert read_answer(raw).endswith(LARGE)
            until(lambda: running.acknowledged == [7], "acknowledgement")
            protocol = getattr(running.only_connection().transport, "_ssl_protocol")  # noqa: B009
            assert len(protocol._ssl_buffer) <= 32 * 1024  # asyncio's own are 256 KiB
        with trusting.wrap_socket(running.connect(), server_hostname="localhost") as raw:
            raw.sendall(GET_METRICS)
            raw.recv(1)
        running.until_gone()
        assert running.acknowledged == [7]


def test_handshakes_are_connections_of_their_peer(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    """Who begins and does not go on gives way to who comes, and ends with the server."""
    file = WebFile(write(tmp_path, **tls(pair)))
    with serving(Bounds(connections_of_one_peer=2), file=file) as running:
        with running.connect() as first, running.connect(b"\x16\x03\x01") as second:
            until(lambda: len(running.server._connections.by_age) == 2, "handshakes to begin")
            url = f"https://localhost:{port(running)}/-/ready"
            assert httpx.get(url, verify=authority.trusting()).text == "Ready.\n"
            assert read_to_end(first) == b""
            running.call(running.server.stop())
            assert read_to_end(second) == b""
        running.until_gone()


def test_certificates_may_stand_in_the_file(
    tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    """As PEM, instead of the paths of files."""
    inline = {"cert": pair.certificate.read_text(), "key": pair.key.read_text()}
    with serving(file=WebFile(write(tmp_path, tls_server_config=inline))) as running:
        url = f"https://localhost:{port(running)}/-/ready"
        assert httpx.get(url, verify=authority.trusting()).text == "Ready.\n"


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ("NoClientCert", []),
        ("RequestClientCert", []),
        ("VerifyClientCertIfGiven", ["stranger"]),
        ("RequireAndVerifyClientCert", ["nobody", "stranger"]),
    ],
)
def test_client_certificates_follow_the_policy(
    tmp_path: Path, authority: Authority, pair: Pair, policy: str, refused: list[str]
) -> None:
    """A client without one, with one of another authority, and with one of ours."""
    client_ca = {"client_ca_file": str(authority.own.certificate)} if "V" in policy else {}
    config = tls(pair, client_auth_type=policy, **client_ca)
    clients = {
        "nobody": None,
        "stranger": Authority(tmp_path, "another").issue("stranger"),
        "friend": authority.issue("friend"),
    }
    with serving(file=WebFile(write(tmp_path, **config))) as running:
        url = f"https://localhost:{port(running)}/metrics"
        for name, client in clients.items():
            if name in refused:
                with pytest.raises(httpx.TransportError):
                    httpx.get(url, verify=authority.trusting(client))
            else:
                assert httpx.get(url, verify=authority.trusting(client)).content == BODY


@pytest.mark.parametrize(
    ("names", "comes_through"),
    [
        ("DNS:prometheus.example", True),
        ("IP:2001:db8::1", True),
        ("URI:spiffe://example/prometheus", True),
        ("email:ops@example.com,DNS:other.example", True),
        ("DNS:prometheus.example.com", False),
    ],
)
def test_only_clients_with_an_allowed_name_come_through(
    tmp_path: Path, authority: Authority, pair: Pair, names: str, *, comes_through: bool
) -> None:
    """The connection ends when no name of the certificate is in the list, exactly."""
    config = tls(
        pair,
        client_auth_type="RequireAndVerifyClientCert",
        client_ca_file=str(authority.own.certificate),
        client_allowed_sans=[
            *("prometheus.example", "2001:db8::1", "ops@example.com"),
            "spiffe://example/prometheus",
        ],
    )
    trusting = authority.trusting(authority.issue("client", names))
    with serving(file=WebFile(write(tmp_path, **config))) as running:
        url = f"https://localhost:{port(running)}/metrics"
        if comes_through:
            assert httpx.get(url, verify=trusting).content == BODY
        else:
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=trusting)


@pytest.mark.parametrize(
    ("more", "newest", "cipher"),
    [
        ({"max_version": "TLS12"}, "TLSv1_3", "ECDHE"),
        ({"min_version": "TLS13"}, "TLSv1_2", None),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "TLSv1_2", None),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "TLSv1_3", "TLS"),
        *(
            ({"cipher_suites": [f"TLS_ECDHE_ECDSA_WITH_{name}"]}, "TLSv1_2", f"ECDHE-ECDSA-{same}")
            for name, same in (
                ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
                ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
            )
        ),
        ({"curve_preferences": ["CurveP384"]}, "TLSv1_3", "TLS"),
        ({"prefer_server_cipher_suites": False}, "TLSv1_3", "TLS"),
    ],
)
def test_versions_and_ciphers_are_those_of_the_file(
    tmp_path: Path, authority: Authority, *, more: dict[str, Any], newest: str, cipher: str | None
) -> None:
    """A client that has only others is refused."""
    trusting = authority.trusting()
    trusting.maximum_version = ssl.TLSVersion[newest]
    config = tls(authority.issue("versions"), **more)
    with serving(file=WebFile(write(tmp_path, **config))) as running, running.connect() as raw:
        if cipher is None:
            with pytest.raises(ssl.SSLError):
                trusting.wrap_socket(raw, server_hostname="localhost")
        else:
            with trusting.wrap_socket(raw, server_hostname="localhost") as wrapped:
                name, _, _ = wrapped.cipher() or ("", "", 0)
                assert name.startswith(cipher)


def test_certificate_is_changed_under_load(tmp_path: Path) -> None:
    """New connections get the new one, none is dropped, and what is half written is not taken."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    trusting = authority.trusting()
    ended = threading.Event()
    failed: list[Exception] = []
    serials: set[str] = set()

    def serial(raw: ssl.SSLSocket) -> str:
        certificate = raw.getpeercert() or {}
        return str(certificate["serialNumber"])

    def connect(running: Running) -> str:
        with trusting.wrap_socket(running.connect(), server_hostname="localhost") as raw:
            raw.sendall(GET_METRICS)
            assert read_answer(raw).endswith(BODY)
            return serial(raw)

    def has_more_than(before: int) -> bool:
        return len(serials | {first}) > before

    def load(running: Running) -> None:
        while not ended.is_set():
            try:
                serials.add(connect(running))
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is a failure
                failed.append(error)

    with (
        capture_logs() as logs,
        serving(file=at_once(write(tmp_path, **tls(pair)))) as running,
        trusting.wrap_socket(running.connect(), server_hostname="localhost") as kept,
        ThreadPoolExecutor(2) as threads,
    ):
        first = serial(kept)
        threads.submit(load, running)
        threads.submit(load, running)
        try:
            for _ in range(5):
                before = len(serials | {first})
                authority.issue("server")
                until(partial(has_more_than, before), "connections with the new one")
            pair.key.write_text("half a ke")
            connect(running)
        finally:
            ended.set()
        kept.sendall(GET_METRICS)
        assert read_answer(kept).endswith(BODY)
        assert serial(kept) == first
    assert failed == []
    assert "server.pem" in logs[-1]["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"key_file": "nothing.key"}, r"web.yaml:1: tls_server_config.key_file: .*nothing.key: no"),
        ({"cert_file": "web.yaml"}, r"cert_file: .*web.yaml: .*: expected a certificate and the"),
        ({"client_ca_file": "web.yaml"}, r"client_ca_file: .*web.yaml: .*: expected certificates"),
        ({"client_ca": "\ud83d"}, r"client_ca: .*: expected certificates"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, pair: Pair, more: dict[str, str], said: str
) -> None:
    """With the key that names them; relative to the configuration."""
    config = tls(pair, client_auth_type="RequestClientCert")
    config["tls_server_config"] |= more
    with pytest.raises(ConfigError, match=said):
        WebFile(write(tmp_path, **config))


# Users


@pytest.mark.parametrize("path", ["/metrics", "/", "/api/status", "/-/ready", "/nothing"])
def test_every_path_asks_for_a_login(tmp_path: Path, path: str) -> None:
    """Without one, with a wrong one, and of nobody: the same answer."""
    with serving(file=WebFile(write(tmp_path, **USERS))) as running:
        wrong = (None, ("alice", "wrong"), ("bob", PASSWORD), ("", ""), ("alice", "open\0"))
        answers = [httpx.get(running.url + path, auth=login) for login in wrong]
        assert {answer.status_code for answer in answers} == {401}
        assert {answer.headers["www-authenticate"] for answer in answers} == {"Basic"}
        assert {answer.text for answer in answers} == {"Unauthorized.\n"}
        assert httpx.get(running.url + path, auth=("alice", PASSWORD)).status_code != 401
        assert httpx.post(f"{running.url}/-/reload").status_code == 401


def test_users_are_read_again_when_they_change(tmp_path: Path) -> None:
    """On connections that are there; a file that is wrong leaves those who were let in."""
    new_hash = bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()
    with capture_logs() as logs, serving(file=at_once(write(tmp_path, **USERS))) as running:

        def get(password: str) -> int:
            return client.get("/metrics", auth=("alice", password)).status_code

        with httpx.Client(base_url=running.url) as client:
            assert get(PASSWORD) == 200
            write(tmp_path, basic_auth_users={"alice": "no hash"})
            assert get(PASSWORD) == 200
            assert "basic_auth_users.alice: no hash of bcrypt" in logs[-1]["error"]
            write(tmp_path, basic_auth_users={"alice": new_hash})
            assert (get(PASSWORD), get("new")) == (401, 200)
            write(tmp_path, basic_auth_users={"bob": new_hash})
            assert get("new") == 401


def test_tls_does_not_end_while_it_runs(tmp_path: Path, authority: Authority, pair: Pair) -> None:
    """What is secret would travel in the clear; a restart is a decision."""
    with capture_logs() as logs, serving(file=at_once(write(tmp_path, **tls(pair)))) as running:
        write(tmp_path, **USERS)
        url = f"https://localhost:{port(running)}/metrics"
        assert httpx.get(url, verify=authority.trusting()).content == BODY
    assert "expected a restart" in logs[-1]["error"]


# Headers and rate


def test_headers_are_added_to_every_answer(tmp_path: Path) -> None:
    """To refusals too; those of the overview are stricter, and stay."""
    headers = {"Strict-Transport-Security": "max-age=9", "Content-Security-Policy": "img-src x"}
    config = write(tmp_path, http_server_config={"headers": headers, "http2": False}, **USERS)
    with serving(file=WebFile(config)) as running:
        login = ("alice", PASSWORD)
        refused, found, overview = (
            httpx.get(running.url),
            httpx.get(f"{running.url}/metrics", auth=login),
            httpx.get(running.url, auth=login),
        )
        for answer in (refused, found, overview):
            assert answer.headers["strict-transport-security"] == "max-age=9"
        assert found.headers["content-security-policy"] == "img-src x"
        assert overview.headers["content-security-policy"].startswith("default-src 'none'")


def test_rate_is_limited_as_the_file_says(tmp_path: Path) -> None:
    """A burst, and then one for each interval."""
    config = write(tmp_path, rate_limit={"interval": "1h", "burst": 3})
    with serving(file=WebFile(config)) as running:
        answers = [httpx.get(running.url).status_code for _ in range(5)]
        assert answers == [200, 200, 200, 429, 429]


# Health without a login


@pytest.fixture(params=["unix", "loopback"])
def health_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Name a place of either kind."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = found.getsockname()[1]
    return f"unix://{tmp_path}/health.sock" if request.param == "unix" else f"127.0.0.1:{free}"


def test_health_is_told_without_a_login_at_a_place_of_its_own(
    tmp_path: Path, pair: Pair, health_place: str
) -> None:
    """Also beside TLS, and nothing else is told there; the image's health check asks there."""
    place = parse_health_address(health_place)

    def check(*path: str) -> int:
        environment = os.environ | {"HEALTHCHECK_ADDRESS": health_place}
        return subprocess.run(
            [sys.executable, HEALTHCHECK, *path], env=environment, check=False
        ).returncode

    file = WebFile(write(tmp_path, **tls(pair), **USERS))
    with serving(file=file, health=place) as running:
        transport = httpx.HTTPTransport(uds=str(place) if isinstance(place, Path) else None)
        base = "http://localhost" if isinstance(place, Path) else f"http://{health_place}"
        with httpx.Client(transport=transport, base_url=base) as client:
            assert client.get("/-/healthy").text == "Healthy.\n"
            assert client.get("/-/ready").text == "Ready.\n"
            assert check() == check("/-/ready") == 0
            assert check("/-/elsewhere") == 1
            running.stalled = lambda: ("org-1",)
            assert client.get("/-/healthy").status_code == 503
            assert (check(), check("/-/ready")) == (1, 0)
            for path in ("/metrics", "/", "/api/status", "/-/reload"):
                assert client.get(path).status_code == 404
    assert not (tmp_path / "health.sock").exists()
    assert check() == 1


def test_socket_of_a_killed_process_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    """A socket is for this user alone; a file, and a socket in use, are left alone."""
    path, file = tmp_path / "health.sock", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with serving(health=path) as running:
        assert path.stat().st_mode & 0o777 == 0o600
        file.touch()
        for taken in (path, file, tmp_path / "no" / "folder"):
            with pytest.raises(ListenError, match=rf"^--web.health-address: .* unix://{taken}: "):
                Server(lambda *_: None, [], health=(lambda *_: None, taken))  # type: ignore[arg-type]
        # The attempt has connected: it is accepted before the next one, and gone.
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/-/ready").text == "Ready.\n"
        running.until_gone()
    assert file.exists()


@pytest.mark.parametrize(
    "address", ["", "unix://x", "unix:///\n", ":10482", "0.0.0.0:1", "example.com:1", "127.0.0.1"]
)
def test_health_is_told_to_this_machine_alone(address: str) -> None:
    """Whoever may reach it needs no password."""
    with pytest.raises(ValueError, match=r"expected unix:///run/health\.sock, or a loopback"):
        parse_health_address(address)
