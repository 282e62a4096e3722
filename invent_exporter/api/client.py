"""The HTTP client for the API: which proxy it takes and whom it trusts, as the environment says.

Read here and not by httpx, which ends in a traceback at what it can't parse, IPv6 networks in
`NO_PROXY` among it, and shows a part of a password in it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from invent_exporter.errors import ConfigError, escaped, why_unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

_PORT_MAX = 65535


def make_client(
    base_url: str,
    *,
    version: str = "dev",
    timeout_seconds: float = 30.0,
    environ: Mapping[str, str] = os.environ,
) -> httpx.AsyncClient:
    """Make a client for one API; no message shows a proxy's URL, which may hold a password.

    Raises:
        ConfigError: a variable of the environment that counts for this API can't be used.

    """
    url = urlsplit(base_url)
    # Plain http is for loopback addresses alone: no certificates, and proxies are for the way out.
    proxy, tls = None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if url.scheme == "https":
        proxy = None if _goes_directly(url, environ) else _proxy(environ)
        tls = _tls(environ)
    return httpx.AsyncClient(
        headers={
            "User-Agent": f"invent-exporter/{version}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        },
        timeout=httpx.Timeout(timeout_seconds),  # connect, read, write and pool, each
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        follow_redirects=False,  # a redirect would take the key to another place
        proxy=proxy,
        verify=tls,
        trust_env=False,
    )


def _first_set(environ: Mapping[str, str], *variables: str) -> tuple[str, str]:
    """Find the first variable that is not empty, in lower case first, as other programs do."""
    for variable in variables:
        for spelling in (variable.lower(), variable):
            value = environ.get(spelling, "").strip()
            if value:
                return spelling, value
    return "", ""


def _proxy(environ: Mapping[str, str]) -> httpx.Proxy | None:
    variable, value = _first_set(environ, "HTTPS_PROXY", "ALL_PROXY")
    if not value:
        return None
    scheme, separator, _ = value.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        what = (
            "SOCKS proxies are not supported"
            if "socks" in scheme.lower()
            else "this scheme is unknown"
        )
        raise ConfigError(f"{variable}: {what}; expected http:// or https://")
    with contextlib.suppress(ValueError, httpx.InvalidURL):
        if not separator and "/" in value:
            raise ValueError
        proxy = httpx.Proxy(value if separator else f"http://{value}")
        # What follows a / ? # in a password is taken for what follows a host.
        url = proxy.url
        is_complete = url.host and (url.port is None or 0 < url.port <= _PORT_MAX)
        if is_complete and "@" not in f"{url.path}{url.query.decode()}{url.fragment}":
            return proxy
    raise ConfigError(
        f"{variable}: not the URL of a proxy; expected http://HOST:PORT or"
        " http://USER:PASSWORD@HOST:PORT, with / ? # @ : in the password as %2F %3F %23 %40 %3A"
    )


def _goes_directly(url: SplitResult, environ: Mapping[str, str]) -> bool:
    _, value = _first_set(environ, "NO_PROXY")
    return any(_covers(item.strip().lower(), url) for item in value.split(","))


def _covers(item: str, url: SplitResult) -> bool:
    """Tell whether an item of NO_PROXY is this host, or a domain or network that it is in."""
    host = url.hostname or ""
    if item == "*":
        return True
    item = item.rpartition("://")[2].removeprefix("*")
    bracketed, has_port, port = item.rpartition("]:")
    if has_port and port == str(url.port or 443):
        item = bracketed
    with contextlib.suppress(ValueError):  # IPv6 may stand in brackets, as in a URL
        network = ip_network(item.translate({ord("["): None, ord("]"): None}), strict=False)
        return ip_address(host) in network
    name = item.lstrip(".")
    hosts = (host, f"{host}:{url.port or 443}")
    return any(name and f".{each}".endswith(f".{name}") for each in hosts)


def _check_folders(folders: str) -> None:
    """Fail where no folder of a list can be read: OpenSSL would take it, and trust nobody."""
    failed: OSError | None = None
    for folder in filter(None, folders.split(os.pathsep)):
        try:
            next(Path(folder).iterdir(), None)
        except OSError as error:
            failed = error
        else:
            return
    if failed is not None:
        raise failed


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    try:
        if file:
            return ssl.create_default_context(cafile=file)
        if folder:
            _check_folders(folder)
            return ssl.create_default_context(capath=folder)
        return httpx.create_ssl_context(trust_env=False)
    except OSError as error:
        keys = environ.get("SSLKEYLOGFILE")  # Python itself opens it for each context
        if keys and error.filename == keys:
            where, expected = f"SSLKEYLOGFILE: {escaped(keys)}", "a file that can be written"
        elif file:
            where, expected = f"SSL_CERT_FILE: {escaped(file)}", "a PEM file of CA certificates"
        else:
            where, expected = (
                f"SSL_CERT_DIR: {escaped(folder or '')}",
                "a folder of CA certificates",
            )
        why = "no certificate in it" if isinstance(error, ssl.SSLError) else why_unreadable(error)
        raise ConfigError(f"{where}: {why}; expected {expected}") from error
