"""Connections to the API whose every answer begins within bounds.

httpcore reads interim answers (1xx) without end, and a whole buffer of them in one go; nobody else
has a turn meanwhile.
"""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Iterable
from importlib.util import find_spec

import httpcore
import httpx

if find_spec("sniffio") is None:
    # httpcore looks for it at each lock that it makes, each time on the disk.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

READ_BYTES = 2048
"""So much of a head is read before others have their turn."""
MAX_INTERIM_BYTES = 16 * 1024
_FINAL = re.compile(rb"(?:^|\n)HTTP/\d\.\d [2-9]")


class BoundedTransport(httpx.AsyncHTTPTransport):
    """httpx's own, over bounded connections, through a proxy as well."""

    def __init__(
        self, *, limits: httpx.Limits, proxy: httpx.Proxy | None, verify: ssl.SSLContext
    ) -> None:
        super().__init__(limits=limits, proxy=proxy, verify=verify, trust_env=False)
        # httpx has no argument for it; httpcore's argument is public.
        self._pool._network_backend = _Backend(self._pool._network_backend)  # noqa: SLF001


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, inner: httpcore.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._head: bytes | None = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._head is None:
            return await self._inner.read(max_bytes, timeout)
        data = await self._inner.read(READ_BYTES, timeout)
        self._head += data
        if _FINAL.search(self._head):
            self._head = None
        elif len(self._head) > MAX_INTERIM_BYTES:
            raise httpcore.RemoteProtocolError("interim answers without end")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._head = b""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
