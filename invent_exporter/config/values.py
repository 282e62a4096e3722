"""The rules of single values: what text becomes, and what is wrong with it."""

from __future__ import annotations

import math
import re
import string
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from invent_exporter.config.yaml_nodes import check_printable
from invent_exporter.errors import excerpt

if TYPE_CHECKING:
    from invent_exporter.config.yaml_nodes import Text, Value

MAX_DURATION_SECONDS: Final = 3650 * 86400.0
"""Ten years: far above any use, and safe to subtract from any date."""

MAX_SIZE_BYTES: Final = 1024**3

_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,12})([KMG]iB)")
_SIZE_UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17})?([eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
_INFINITY = re.compile(r"[+-]?\.?inf(inity)?", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9._])?")
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")


def read_duration(value: Value, least: float | None = None) -> float:
    """Seconds; above 0, or at least `least`."""
    text = value.text(is_any=True)
    match = _DURATION.fullmatch(text.value)
    if match is None:
        shown = excerpt(text.value)
        if _NUMBER.fullmatch(text.value):
            raise text.error(f"{shown} has no unit: expected a duration such as {shown}s")
        raise text.error(f"{shown} is not a duration: expected such as 500ms, 30s, 15m, 24h or 7d")
    seconds = int(match[1]) * _DURATION_UNITS[match[2]]
    if least is None and seconds <= 0:
        raise text.error(f"{text.value} is too short: expected more than 0s")
    if least is not None and seconds < least:
        raise text.error(f"{text.value} is too short: expected at least {least * 1000:g}ms")
    if seconds > MAX_DURATION_SECONDS:
        raise text.error(f"{text.value} is too long: expected at most 3650d")
    return seconds


def read_size(value: Value) -> int:
    """Read a size in bytes."""
    text = value.text(is_any=True)
    match = _SIZE.fullmatch(text.value)
    if match is None:
        shown = excerpt(text.value)
        if _NUMBER.fullmatch(text.value):
            raise text.error(f"{shown} has no unit: expected a size such as 512KiB or 16MiB")
        raise text.error(f"{shown} is not a size: expected such as 512KiB or 16MiB")
    size = int(match[1]) * _SIZE_UNITS[match[2]]
    if not 0 < size <= MAX_SIZE_BYTES:
        raise text.error(f"{text.value} is out of range: expected 1KiB to 1GiB")
    return size


def _number(value: Value) -> float:
    """Read a finite number, `1e3` too, which YAML 1.1 takes for text."""
    text = value.text(is_any=True)
    if value.is_quoted:
        raise text.error("text in quotes: expected a number, without the quotes")
    if _INFINITY.fullmatch(text.value):
        raise text.error(f"{excerpt(text.value)} is not finite: expected a finite number")
    if _NUMBER.fullmatch(text.value) is None:
        raise text.error(f"{excerpt(text.value)} is not a number: expected such as 10 or 0.5")
    number = float(text.value)
    if not math.isfinite(number):
        raise text.error(f"{excerpt(text.value)} is not finite: expected a finite number")
    return number


def read_positive(value: Value) -> float:
    """Read a finite number above 0."""
    number = _number(value)
    if number <= 0:
        raise value.error(f"{number:g} is too small: expected more than 0")
    return number


def read_whole(value: Value, most: int | None = None) -> int:
    """Read a whole number from 1 to `most`."""
    expected = "1 or more" if most is None else f"1 to {most}"
    number = _number(value)
    text = value.text(is_any=True).value
    if _WHOLE.fullmatch(text) is None or number < 1 or (most is not None and number > most):
        raise value.error(f"{excerpt(text)} does not fit: expected a whole number, {expected}")
    return int(text)


def read_switch(value: Value) -> bool:
    """Read true or false."""
    text = value.text(is_any=True)
    if value.is_quoted or text.value.lower() not in ("true", "false"):
        raise text.error(f"{excerpt(text.value)} is not a switch: expected true or false")
    return text.value.lower() == "true"


def read_buckets(value: Value) -> tuple[float, ...]:
    """Read rising, finite bounds above 0."""
    items = value.items()
    if not items:
        raise value.error("the list is empty: expected at least one bound")
    bounds: list[float] = []
    for item in items:
        if item.is_plain and _INFINITY.fullmatch(item.text(is_any=True).value):
            raise item.error("+Inf is there by itself: expected finite bounds alone")
        bound = read_positive(item)
        if bounds and bound <= bounds[-1]:
            message = f"{bound:.15g} is not above {bounds[-1]:.15g}: expected increasing bounds"
            raise item.error(message)
        bounds.append(bound)
    return tuple(bounds)


def read_org_id(text: Text) -> str:
    """Read what can stand in a URL's path as an org's id."""
    check_printable(text)
    if not text.value:
        raise text.error("the id is empty: expected the id of an org, or c for the key's own")
    if text.value in (".", "..") or re.search(r"[/?#%\\\s]", text.value):
        message = "not an id: expected no white space and none of / ? # % \\"
        raise text.error(message)
    return text.value


def _split_url(text: Text) -> SplitResult:
    """Take an http(s) URL apart; its text is never shown, because it may hold a password."""
    if not re.fullmatch(r"[!-~]+", text.value) or "\\" in text.value:
        raise text.error("not a URL: expected printable ASCII without white space or backslash")
    try:
        url = urlsplit(text.value)
        port = url.port
    except ValueError:
        raise text.error("not a URL: expected such as https://host:port/path") from None
    if url.scheme not in ("http", "https"):
        raise text.error("not an http URL: expected such as https://host/path")
    if "@" in url.netloc:
        raise text.error("a user name or password is not allowed here: expected none in the URL")
    host = url.hostname or ""
    if port == 0 or not (_HOST.fullmatch(host) or isinstance(_address(host), IPv6Address)):
        raise text.error("the URL has no valid host: expected such as https://host:port/path")
    return url


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone, without asking for its address."""
    address = _address(host)
    if isinstance(address, IPv4Address):
        return address in _LOOPBACK
    return host.lower() == "localhost" or address == IPv6Address("::1")


def read_api_url(text: Text) -> str:
    """Read a base URL; http:// is refused except for loopback addresses."""
    url = _split_url(text)
    if "?" in text.value or "#" in text.value:
        raise text.error("a query or fragment is not allowed here: expected the base URL alone")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise text.error("http:// would send the key in the clear: expected https://")
    return text.value.rstrip("/")


def read_state_url(text: Text) -> str:
    """Read a `state.url` of a kind that is supported."""
    check_printable(text)
    scheme, separator, rest = text.value.partition("://")
    expected = "expected sqlite:///FILE, or sqlite:// to keep nothing"
    if re.match(r"postgres", scheme) and separator:
        raise text.error(f"postgresql:// is not supported yet: {expected}")
    if scheme != "sqlite" or not separator:
        raise text.error(f"not a known kind of state: {expected}")
    if rest == "":
        return text.value
    if not rest.startswith("/"):
        raise text.error(f"a host is named, or a slash is missing: {expected}")
    if rest.endswith("/") or rest == "/:memory:":
        raise text.error(f"no file is named: {expected}")
    if "?" in rest or "#" in rest:
        raise text.error(f"? and # are not allowed here: {expected}")
    return text.value


def read_run_link(text: Text) -> str:
    """Read a URL template with known fields."""
    _split_url(text)
    expected = "expected only {org_id}, {workflow_id} and {run_id}"
    try:
        parts = list(string.Formatter().parse(text.value))
    except ValueError:
        raise text.error(f"a brace is not closed or not opened: {expected}") from None
    for _, name, spec, conversion in parts:
        if name is not None and (
            name not in ("org_id", "workflow_id", "run_id") or spec or conversion
        ):
            raise text.error(f"{{{excerpt(name)}}} is not a known field: {expected}")
    return text.value
