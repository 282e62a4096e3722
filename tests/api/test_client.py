"""The way to the API: which proxy it takes, and what of the environment is refused."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from invent_exporter.api.client import make_client
from invent_exporter.errors import ConfigError
from tests.raw_server import RawServer, always, answer


def _asks_proxy(url: str, variable: str = "HTTPS_PROXY", without: str = "", **environ: str) -> bool:
    """Tell whether a request to this address, where nobody listens, comes to the proxy."""

    async def ask() -> bool:
        async with RawServer(always(answer(b"", status="502 Bad Gateway"))) as proxy:
            variables = {variable: proxy.url.removeprefix(without), **environ}
            async with make_client(url, environ=variables) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(url)
            return bool(proxy.requests)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "no_proxy",
    [
        "10.0.0.0/8,fd00::/8,.svc",
        "fd00:10:96::/112",
        "[fd00::]/8",
        "[::1]",
        "[::1]:1",
        "::1/128",
        "https://[",
        "example.com:bad,,host name",
        "calhost",
    ],
)
def test_no_proxy_of_other_hosts_changes_nothing(no_proxy: str) -> None:
    """Whatever it holds: the client is made, and takes the proxy."""
    assert _asks_proxy("https://localhost:1", NO_PROXY=no_proxy)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("https://localhost:1", "fd00::/8, LOCALHOST"),
        ("https://localhost:1", "localhost:1"),
        ("https://api.localhost:1", ".localhost"),
        ("https://localhost:1", "x,*"),
        ("https://127.0.0.1:1", "127.0.0.0/8"),
        ("https://127.0.0.1:1", "127.0.0.1:1"),
        ("https://[::1]:1", "::1"),
        ("https://[::1]:1", "[::1]"),
        ("https://[::1]:1", "10.0.0.0/8,::/64"),
        ("https://[::1]:1", "[::1]:1"),
        ("https://localhost:1", "https://localhost"),
        ("https://api.localhost:1", "*.localhost"),
    ],
)
def test_no_proxy_names_hosts_domains_addresses_and_networks(url: str, no_proxy: str) -> None:
    """IPv6 too, with or without brackets; a host of them is asked directly."""
    assert not _asks_proxy(url, NO_PROXY=no_proxy)


def test_small_letters_go_first_and_all_proxy_is_the_last_resort() -> None:
    """An empty variable counts as not set."""
    assert _asks_proxy("https://localhost:1", no_proxy="other", NO_PROXY="localhost")
    assert _asks_proxy("https://localhost:1", "ALL_PROXY", HTTPS_PROXY="")


def test_a_proxy_without_a_scheme_is_asked_over_http() -> None:
    """As curl does."""
    assert _asks_proxy("https://localhost:1", without="http://")


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("https://localhost:1", {"HTTP_PROXY": "socks5://proxy"}),
        ("https://localhost:1", {"HTTPS_PROXY": "socks5://proxy", "NO_PROXY": "localhost"}),
        ("https://localhost:1", {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}),
        ("https://xn--a..example.com", {"NO_PROXY": "example.com"}),  # the first request fails
        ("http://127.0.0.1:1", {"HTTPS_PROXY": "socks5://proxy", "SSL_CERT_FILE": "/nowhere"}),
    ],
)
def test_a_variable_that_does_not_count_is_not_looked_at(url: str, environ: dict[str, str]) -> None:
    """What is meant for other programs does not stop this one."""
    asyncio.run(make_client(url, environ=environ).aclose())


def test_ssl_cert_dir_is_a_list_of_which_one_folder_is_enough(tmp_path: Path) -> None:
    """As OpenSSL reads it."""
    environ = {"SSL_CERT_DIR": f"/nowhere::{tmp_path}"}
    asyncio.run(make_client("https://localhost:1", environ=environ).aclose())


BAD_VARIABLES = [
    ("HTTPS_PROXY", "socks5://user:PASSW0RD@proxy:1", "SOCKS proxies are not supported"),
    ("HTTPS_PROXY", "ftp://user:PASSW0RD@proxy:1", "expected http:// or https://"),
    ("HTTPS_PROXY", "http://user:PASS/W0RD@proxy:1", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://user:12/PASSW0RD@proxy:1", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://user:PASS#W0RD@proxy:1", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://user:12#PASSW0RD@proxy:1", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://user:12?PASSW0RD@proxy:1", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://xn--PASSW0RD:1", "not the URL of a proxy"),
    ("https_proxy", "http://proxy:PASSW0RD", "not the URL of a proxy"),
    ("ALL_PROXY", "http://:3128", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://proxy:99999", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http://proxy:0", "not the URL of a proxy"),
    ("HTTPS_PROXY", "http:/proxy", "not the URL of a proxy"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem", "/nowhere/ca.pem: no such file; expected a PEM file"),
    ("SSL_CERT_FILE", "/", "/: this is a directory; expected a PEM file"),
    ("SSL_CERT_FILE", "/dev/null", "/dev/null: no certificate in it; expected a PEM file"),
    ("SSL_CERT_DIR", "/nowhere", "/nowhere: no such file; expected a folder"),
    ("SSL_CERT_DIR", "/nowhere:/no", "/nowhere:/no: no such file; expected a folder"),
]


@pytest.mark.parametrize(("variable", "value", "said"), BAD_VARIABLES)
def test_a_variable_that_cannot_be_used_is_one_line_without_secrets(
    variable: str, value: str, said: str
) -> None:
    """It names the variable, what is wrong and what is expected; a proxy's URL is not shown."""
    with pytest.raises(ConfigError) as caught:
        make_client("https://api.example.com", environ={variable: value})
    line = str(caught.value)
    assert line.startswith(f"{variable}: ")
    assert said in line
    assert "\n" not in line
    assert "W0RD" not in line


def test_a_file_for_tls_secrets_that_cannot_be_opened_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python opens it for whatever certificates; the error must not name those."""
    monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
    with pytest.raises(ConfigError, match=r"^SSLKEYLOGFILE: /nowhere/keys: no "):
        make_client(
            "https://api.example.com",
            environ={
                "SSLKEYLOGFILE": "/nowhere/keys",
                "SSL_CERT_FILE": ssl.get_default_verify_paths().openssl_cafile,
            },
        )
    asyncio.run(make_client("http://127.0.0.1:1").aclose())  # no TLS, no such file
