"""The way to the API: which proxy it takes, and what of the environment is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from invent_exporter.api.client import make_client
from invent_exporter.errors import ConfigError
from tests.raw_server import RawServer, always, answer


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set these variables, and none that the machine has of their kind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(os.environ):
            if name.lower().endswith("_proxy") or name.startswith("SSL"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def _make(url: str, **variables: str) -> None:
    """Make a client, and let go of it."""
    with _environment(**variables):
        asyncio.run(make_client(url).aclose())


def _asks_proxy(url: str, variable: str = "HTTPS_PROXY", without: str = "", **environ: str) -> bool:
    """Tell whether a request to this address, where nobody listens, comes to the proxy."""

    async def ask() -> bool:
        async with RawServer(always(answer(b"", status="502 Bad Gateway"))) as proxy:
            with _environment(**{variable: proxy.url.removeprefix(without), **environ}):
                client = make_client(url)
            async with client:
                with pytest.raises(httpx.TransportError):
                    await client.get(url)
            return bool(proxy.requests)

    return asyncio.run(ask())


OTHERS = [
    ("https://localhost:1", "10.0.0.0/8,fd00::/8,.svc"),
    ("https://localhost:1", "[fd00::]/8"),
    ("https://localhost:1", "[::1]:1"),
    ("https://localhost:1", "https://["),
    ("https://localhost:1", "example.com:bad,,host name"),
    ("https://localhost:1", "calhost"),
    ("https://localhost:1", "localhost:2"),
    ("https://localhost:1", "https://localhost"),  # names alone, and no wildcard in them
    ("https://api.localhost:1", "*.localhost"),
    ("https://localhost:1", "x,*"),
    ("https://127.0.0.1:1", "127.0.0.0/8"),  # and no networks
    ("https://[::1]:1", "::/64"),
]
DIRECT = [
    ("https://localhost:1", "fd00::/8, LOCALHOST"),
    ("https://localhost:1", "localhost:1"),
    ("https://api.localhost:1", ".localhost"),
    ("https://api.localhost:1", "localhost"),
    ("https://localhost:1", "*"),
    ("https://127.0.0.1:1", "127.0.0.1"),
    ("https://127.0.0.1:1", "127.0.0.1:1"),
    ("https://[::1]:1", "::1"),
    ("https://[::1]:1", "[::1]"),
    ("https://[::1]:1", "[::1]:1"),
    ("https://localhost", "localhost:443"),
]


@pytest.mark.parametrize(
    ("url", "no_proxy", "asks"),
    [(*case, True) for case in OTHERS] + [(*case, False) for case in DIRECT],
)
def test_no_proxy_names_hosts_domains_and_addresses(url: str, no_proxy: str, *, asks: bool) -> None:
    """As the standard library reads it, IPv6 with or without brackets; others take the proxy."""
    assert _asks_proxy(url, NO_PROXY=no_proxy) == asks


def test_small_letters_go_first_and_all_proxy_is_the_last_resort() -> None:
    """An empty variable counts as not set; in small letters it takes the place of the other."""
    assert _asks_proxy("https://localhost:1", no_proxy="other", NO_PROXY="localhost")
    assert _asks_proxy("https://localhost:1", no_proxy="", NO_PROXY="localhost")
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
    _make(url, **environ)


def test_ssl_cert_dir_is_a_list_of_which_one_folder_is_enough(tmp_path: Path) -> None:
    """As OpenSSL reads it."""
    _make("https://localhost:1", SSL_CERT_DIR=f"/nowhere::{tmp_path}")


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
    ("SSL_CERT_DIR", "/nowhere:", "/nowhere:: no such file; expected a folder"),
    ("SSL_CERT_DIR", "/nowhere:/no", "/nowhere:/no: no such file; expected a folder"),
]


@pytest.mark.parametrize(("variable", "value", "said"), BAD_VARIABLES)
def test_a_variable_that_cannot_be_used_is_one_line_without_secrets(
    variable: str, value: str, said: str
) -> None:
    """It names the variable, what is wrong and what is expected; a proxy's URL is not shown."""
    with pytest.raises(ConfigError) as caught:
        _make("https://api.example.com", **{variable: value})
    line = str(caught.value)
    assert line.startswith(f"{variable}: ")
    assert said in line
    assert "\n" not in line
    assert "W0RD" not in line


def test_a_file_for_tls_secrets_that_cannot_be_opened_is_named() -> None:
    """Python opens it for whatever certificates; the error must not name those."""
    variables = {
        "SSLKEYLOGFILE": "/nowhere/keys",
        "SSL_CERT_FILE": ssl.get_default_verify_paths().openssl_cafile,
    }
    with pytest.raises(ConfigError, match=r"^SSLKEYLOGFILE: /nowhere/keys: no "):
        _make("https://api.example.com", **variables)
    _make("http://127.0.0.1:1", **variables)  # no TLS, no such file
