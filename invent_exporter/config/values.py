"""The rules of single values: what a value becomes, and what is wrong with it."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from invent_exporter.config.key import Key
from invent_exporter.config.yaml_nodes import Value
from invent_exporter.errors import excerpt

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17})?([eE][+-]?[0-9]{1,3})?")
_INFINITY = re.compile(r"[+-]?\.?inf(inity)?", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9._])?")


def duration(value: Value, least: float | None = None) -> float:
    """Read seconds: above 0, or at least `least`, and safe to subtract from any date."""
    text, such = value.text(is_any=True), "500ms, 30s, 15m, 24h or 7d"
    seconds = _quantity(value, "duration", _DURATION_UNITS, such, f"{excerpt(text)}s")
    if seconds < (least or 0.0) or (least is None and seconds == 0):
        bound = "more than 0s" if least is None else f"at least {least * 1000:g}ms"
        raise value.error(f"{text} is too short: expected {bound}")
    if seconds > 3650 * 86400:
        raise value.error(f"{text} is too long: expected at most 3650d")
    return seconds


def size(value: Value) -> int:
    """Read a size in bytes."""
    such = "512KiB or 16MiB"
    size_bytes = int(_quantity(value, "size", _SIZE_UNITS, such, such))
    if not 0 < size_bytes <= 1024**3:
        raise value.error(f"{value.text()} is out of range: expected 1KiB to 1GiB")
    return size_bytes


def _quantity(
    value: Value, kind: str, units: Mapping[str, float], such: str, with_unit: str
) -> float:
    """Read a whole number with its unit behind it."""
    text = value.text(is_any=True)
    match = re.fullmatch(r"([0-9]{1,12})([A-Za-z]+)", text)
    if match is not None and match[2] in units:
        return int(match[1]) * units[match[2]]
    if _NUMBER.fullmatch(text):
        raise value.error(f"{excerpt(text)} has no unit: expected a {kind} such as {with_unit}")
    raise value.error(f"{excerpt(text)} is not a {kind}: expected such as {such}")


def _number(value: Value) -> float:
    """Read a finite number, `1e3` too, which YAML 1.1 takes for text."""
    text = value.text(is_any=True)
    if not value.is_plain:
        raise value.error("text in quotes: expected a number, without the quotes")
    is_number = _NUMBER.fullmatch(text) is not None
    if _INFINITY.fullmatch(text) or (is_number and math.isinf(float(text))):
        raise value.error(f"{excerpt(text)} is not finite: expected a finite number")
    if not is_number:
        raise value.error(f"{excerpt(text)} is not a number: expected such as 10 or 0.5")
    return float(text)


def positive(value: Value) -> float:
    """Read a finite number above 0."""
    number = _number(value)
    if number <= 0:
        raise value.error(f"{number:g} is too small: expected more than 0")
    return number


def whole(value: Value, most: int | None = None) -> int:
    """Read a whole number from 1 to `most`."""
    number, text = _number(value), value.text(is_any=True)
    if not re.fullmatch("[1-9][0-9]{0,8}", text) or (most is not None and number > most):
        expected = "1 or more" if most is None else f"1 to {most}"
        raise value.error(f"{excerpt(text)} does not fit: expected a whole number, {expected}")
    return int(text)


def switch(value: Value) -> bool:
    """Read true or false."""
    text = value.text(is_any=True)
    if not value.is_plain or text.lower() not in ("true", "false"):
        raise value.error(f"{excerpt(text)} is not a switch: expected true or false")
    return text.lower() == "true"


def logged_runs(value: Value) -> str:
    """Read which finished runs have a log line."""
    text = value.text(is_any=True)
    if text not in ("failed", "all", "none"):
        raise value.error(f"{excerpt(text)} is not known: expected failed, all or none")
    return text


def buckets(value: Value) -> tuple[float, ...]:
    """Read rising, finite bounds above 0."""
    bounds: list[float] = []
    for item in value.items():
        if item.is_plain and _INFINITY.fullmatch(item.text(is_any=True)):
            raise item.error("+Inf is there by itself: expected finite bounds alone")
        bound = positive(item)
        if bounds and bound <= bounds[-1]:
            message = f"{bound:.15g} is not above {bounds[-1]:.15g}: expected increasing bounds"
            raise item.error(message)
        bounds.append(bound)
    if not bounds:
        raise value.error("the list is empty: expected at least one bound")
    return tuple(bounds)


def org_id(value: Value) -> str:
    """Read what can stand in a URL's path as an org's id."""
    text = value.text()
    if not text:
        raise value.error("the id is empty: expected the id of an org, or c for the key's own")
    if not is_org_id(text):
        raise value.error("not an id: expected no white space and none of / ? # % \\")
    return text


def is_org_id(text: str) -> bool:
    """Tell whether a text is an id that can stand in a URL's path, or `c`."""
    return text not in ("", ".", "..") and not re.search(r"[/?#%\\\s]", text)


def names(value: Value) -> dict[str, str]:
    """Read a mapping of free names to texts."""
    members = {} if value.is_null else value.members(is_free=True)
    return {name: member.text() for name, member in members.items()}


_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN_LABELS: Final = (
    *("org_id", "workflow_id", "workflow_name", "workflow_org_id", "version"),
    *("job", "instance"),
)


def labels(value: Value) -> dict[str, dict[str, str]]:
    """Read a mapping of free names to labels."""
    members = {} if value.is_null else value.members(is_free=True)
    return {name: _labels(member) for name, member in members.items()}


def _labels(value: Value) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, member in value.members(is_free=True).items():
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise member.error("not a label: expected letters, digits and _, such as team")
        if name in _TAKEN_LABELS:
            raise member.error("a label that is there already: expected another name")
        found[name] = member.text()
    return found


def globs(value: Value) -> tuple[str, ...]:
    """Read globs of workflow ids."""
    return () if value.is_null else tuple(item.text() for item in value.items())


def key(value: Value) -> Key:
    """Read a key, or from `key_file` (in any case) the file that holds it; nothing is shown of it.

    A relative file of the configuration is relative to it, as in Prometheus' own files; one of the
    environment, to the working directory.
    """
    text = value.text(is_secret=True)
    if not value.key.lower().endswith("key_file"):
        return Key.literal(text, value.where)
    if not text.strip():
        raise value.error("the path is empty: expected the path of a file that holds the key")
    return Key.from_file(Path(text), value.where, None if value.file is None else value.file.parent)


def _url(value: Value) -> SplitResult:
    """Take an http(s) URL apart; its text is never shown, because it may hold a password."""
    if not re.fullmatch(r"[!-\[\]-~]+", value.text()):
        raise value.error("not a URL: expected printable ASCII without white space or backslash")
    try:
        url = urlsplit(value.text())
        host, port = url.hostname or "", url.port
    except ValueError:
        raise value.error("not a URL: expected such as https://host:port/path") from None
    if url.scheme not in ("http", "https"):
        raise value.error("not an http URL: expected such as https://host/path")
    if "@" in url.netloc:
        raise value.error("a user name or password is not allowed here: expected none in the URL")
    if port == 0 or not (_HOST.fullmatch(host) or isinstance(_address(host), IPv6Address)):
        raise value.error("the URL has no valid host: expected such as https://host:port/path")
    return url


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone, without asking for its address."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def api_url(value: Value) -> str:
    """Read a base URL; http:// is refused except for loopback addresses."""
    url, text = _url(value), value.text()
    if "?" in text or "#" in text:
        raise value.error("a query or fragment is not allowed here: expected the base URL alone")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise value.error("http:// would send the key in the clear: expected https://")
    return text.rstrip("/")


def run_link(value: Value) -> str:
    """Read a URL template with known fields."""
    _url(value)
    expected = "expected only {org_id}, {workflow_id} and {run_id}"
    try:
        parts = list(string.Formatter().parse(value.text()))
    except ValueError:
        raise value.error(f"a brace is not closed or not opened: {expected}") from None
    for _, name, spec, conversion in parts:
        if name not in (None, "org_id", "workflow_id", "run_id") or spec or conversion:
            raise value.error(f"{{{excerpt(name or '')}}} is not a known field: {expected}")
    return value.text()
