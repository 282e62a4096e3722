"""The HTTP client for the API: which proxy it takes and whom it trusts, as the environment says.

Read here and not by httpx, which ends in a traceback at what it can't parse, IPv6 networks in
`NO_PROXY` among it, and shows a part of a password in it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from http.cookiejar import CookieJar
from urllib.parse import SplitResult, urlsplit
from urllib.request import (  # type: ignore[attr-defined] # the stubs lack the second
    getproxies_environment,
    proxy_bypass_environment,
)

import httpx

from invent_exporter.api.connections import BoundedTransport
from invent_exporter.errors import ConfigError, escaped, why_unreadable

_PORT_MAX = 65535


class _NoCookies(CookieJar):
    """Stays empty: a cookie of one org must not go out with another's key."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Take none."""


def make_client(
    base_url: str, *, version: str = "dev", timeout_seconds: float = 30.0
) -> httpx.AsyncClient:
    """Make a client for one API; no message shows a proxy's URL, which may hold a password.

    Raises:
        ConfigError: a variable of the environment that counts for this API can't be used.

    """
    url = urlsplit(base_url)
    # Plain http is for loopback addresses alone: no certificates, and proxies are for the way out.
    proxy, tls = None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if url.scheme == "https":
        proxy, tls = _proxy(url), _tls()
    return httpx.AsyncClient(
        headers={
            "User-Agent": f"invent-exporter/{version}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        },
        timeout=httpx.Timeout(timeout_seconds),  # connect, read, write and pool, each
        transport=BoundedTransport(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            proxy=proxy,
            verify=tls,
        ),
        cookies=_NoCookies(),
        follow_redirects=False,  # a redirect would take the key to another place
        trust_env=False,
    )


def _proxy(url: SplitResult) -> httpx.Proxy | None:
    proxies = getproxies_environment()
    kind = "https" if proxies.get("https") else "all"
    value = proxies.get(kind, "").strip()
    # NO_PROXY may name the host, or the host with its port; IPv6 with or without brackets.
    with_port = url.netloc if url.port else f"{url.netloc}:443"
    hosts = (url.hostname or "", with_port)
    if not value or any(proxy_bypass_environment(host, proxies) for host in hosts):
        return None
    variable = f"{kind}_proxy" if os.environ.get(f"{kind}_proxy") else f"{kind}_proxy".upper()
    scheme, separator, _ = value.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        is_socks = "socks" in scheme.lower()
        what = "SOCKS proxies are not supported" if is_socks else "this scheme is unknown"
        raise ConfigError(f"{variable}: {what}; expected http:// or https://")
    with contextlib.suppress(ValueError, httpx.InvalidURL):
        if not separator and "/" in value:
            raise ValueError
        proxy = httpx.Proxy(value if separator else f"http://{value}")
        # What follows a / ? # in a password is taken for what follows a host.
        at = proxy.url
        is_complete = at.host and (at.port is None or 0 < at.port <= _PORT_MAX)
        if is_complete and "@" not in f"{at.path}{at.query.decode()}{at.fragment}":
            return proxy
    raise ConfigError(
        f"{variable}: not the URL of a proxy; expected http://HOST:PORT or"
        " http://USER:PASSWORD@HOST:PORT, with / ? # @ : in the password as %2F %3F %23 %40 %3A"
    )


def _tls() -> ssl.SSLContext:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")  # Python itself opens the last
    file, folders, keys = map(os.environ.get, names)
    try:
        if folders and not file:
            each = folders.split(os.pathsep)
            # OpenSSL would take a list of which no folder can be read, and trust nobody.
            if not any(path and os.access(f"{path}/", os.R_OK) for path in each):
                os.scandir(each[0]).close()  # raises what is wrong
        return httpx.create_ssl_context()  # it reads the first two as well
    except OSError as error:
        name, expected = "SSL_CERT_DIR", "a folder of CA certificates"
        if keys and error.filename == keys:
            name, expected = "SSLKEYLOGFILE", "a file that can be written"
        elif file:
            name, expected = "SSL_CERT_FILE", "a PEM file of CA certificates"
        where = f"{name}: {escaped(os.environ.get(name, ''))}"
        why = "no certificate in it" if isinstance(error, ssl.SSLError) else why_unreadable(error)
        raise ConfigError(f"{where}: {why}; expected {expected}") from error
