"""Where to listen: addresses as people write them, and sockets for them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from invent_exporter.config.values import is_loopback
from invent_exporter.errors import ListenError

PORT_MAX = 65535
BUFFER_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 64 * 1024),
)
"""What the kernel keeps of one connection (it doubles the first two): requests are small, and what
a client does not read is not to be kept for it, neither sent nor unsent."""


def parse_listen_address(address: str) -> tuple[str, int]:
    """Split `host:port` into its parts; an empty host stands for all interfaces.

    Raises:
        ValueError: it is not of that form, in one line that says what is.

    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    valid_port = port.isascii() and port.isdigit() and int(port) <= PORT_MAX
    if not colon or not valid_port or (":" in host) != bracketed or " " in host or host == "[]":
        raise ValueError(
            f"{address!r} is not an address to listen on; expected HOST:PORT with a port from 0 to "
            f"{PORT_MAX}, such as :10480, 127.0.0.1:10480 or [::1]:10480"
        )
    return host.strip("[]"), int(port)


HealthPlace: TypeAlias = Path | tuple[str, int]
"""Where health is told without a login: a Unix socket, or host and port of this machine alone."""


def parse_health_address(address: str) -> HealthPlace:
    """Read `unix:///path` or a loopback address with a port.

    Raises:
        ValueError: it is neither, in one line that says what is.

    """
    if address.startswith("unix:///") and address.isprintable():
        return Path(address.removeprefix("unix://"))
    expected = "expected unix:///run/health.sock, or a loopback address such as 127.0.0.1:10482"
    with contextlib.suppress(ValueError):
        host, port = parse_listen_address(address)
        if is_loopback(host):
            return host, port
    raise ValueError(f"{address!r} is not only for this machine; {expected}")


def join_address(host: str, port: int) -> str:
    """Write an address as `parse_listen_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(
    host: str, port: int, opened: contextlib.ExitStack, flag: str = "--web.listen-address"
) -> list[socket.socket]:
    """Listen on all addresses of the host; none, or `::`, is every interface, IPv4 and IPv6.

    The sockets are closed with `opened`; a ListenError says which address can't be had, and why.
    """
    try:
        addresses = {"::": socket.AF_INET6, "0.0.0.0": socket.AF_INET}  # noqa: S104 -- asked for: no host
        if host:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            addresses = {str(address[0]): family for family, _, _, _, address in found}
        return _bind_each(addresses, port, opened)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that no DNS name can be
        raise _explained(error, f"{flag}: cannot listen on {join_address(host, port)}") from error


def bind_unix(path: Path, opened: contextlib.ExitStack) -> socket.socket:
    """Listen on a Unix socket that is for this user alone, and goes away with `opened`.

    One that a killed process left behind is replaced; a ListenError says what else is in the way.
    """
    listening = opened.enter_context(socket.socket(socket.AF_UNIX))
    umask = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX) as other:
            if path.is_socket() and other.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()
        listening.bind(str(path))
    except OSError as error:
        where = f"--web.health-address: cannot listen on unix://{path}"
        remedy = "expected a path in a folder that can be written to, where nothing is yet"
        raise ListenError(error.errno, f"{where}: {error.strerror or error}; {remedy}") from error
    finally:
        os.umask(umask)
    opened.callback(path.unlink, missing_ok=True)
    return listening


def _bind_each(
    addresses: Mapping[str, int], port: int, opened: contextlib.ExitStack
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for address, family in addresses.items():
        # The second address of a name gets the port that the system chose for the first.
        at = (address, port or (sockets[0].getsockname()[1] if sockets else 0))
        # `::` is every interface, as Go's programs have it; the system's own default may differ.
        is_dual = address == "::" and socket.has_dualstack_ipv6()
        try:
            each = socket.create_server(at, family=family, dualstack_ipv6=is_dual)
        except OSError as error:
            # `localhost` may name ::1, and a kernel know IPv6, where it is switched off.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error
            continue
        sockets.append(opened.enter_context(each))
        # Options are inherited by connections. Asyncio sets the first only if a socket names its
        # protocol; without it the end of an answer waits for the client's delayed acknowledgement.
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in BUFFER_OPTIONS:
            each.setsockopt(*option)
        if is_dual:
            break
    if not sockets and missing is not None:
        raise missing
    return sockets


def _explained(error: OSError | UnicodeError, where: str) -> ListenError:
    number = getattr(error, "errno", None) or 0
    if isinstance(error, socket.gaierror):  # a host that is not found has its own numbers
        reason = str(error.strerror)
    else:  # asyncio and socket put more words into strerror
        reason = os.strerror(number) if isinstance(error, OSError) else "this is no host name"
    remedy = {
        errno.EADDRINUSE: "another program or an address before has this port, choose a free one",
        errno.EACCES: "ports below 1024 need a privilege, choose a higher one",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address",
    }.get(number, "expected HOST:PORT, such as :10480")
    return ListenError(number, f"{where}: {reason}; {remedy}")
