"""Configuration: a YAML file, the environment and secret files become one frozen `Config`.

Every mistake is a `ConfigError` of one line: where (file, line, dotted key or variable), what is
wrong, what is expected. The YAML is read from its node tree, not from loaded values, because only
the nodes know the lines, and because YAML 1.1 turns text such as `yes` or `123` into other types
without a word. No message shows the text of a key or of a URL, which may hold a password.

The environment is enough alone for one org. `INVENT_API_KEY`, `INVENT_API_KEY_FILE`,
`INVENT_API_URL` and `INVENT_STATE_URL` go over `api.key` and `api.key_file`, `api.url` and
`state.url` of the file; `INVENT_ORG_ID` is used only when the file names no orgs. An empty or
blank variable counts as not set. An org's own key goes over both.

Longer than most modules: nothing of the package may be imported here, and the rules of one file
format are best read in one place. Types first, then the rules of each key, then the YAML.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import stat
import string
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

DEFAULT_API_URL: Final = "https://api.useinvent.com"
DEFAULT_STATE_URL: Final = "sqlite:///invent-exporter.db"
DEFAULT_ORG_ID: Final = "c"

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_KEY_FILE_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 16
"""Bounds against files that are not meant as configuration or as keys."""

MAX_DURATION_SECONDS: Final = 3650 * 86400.0
"""Ten years: far above any use, and safe to subtract from any date."""

MAX_SIZE_BYTES: Final = 1024**3


class ConfigError(Exception):
    """A mistake in the configuration; `str()` is one line that says where, what and what is due."""


class Key:
    """One API key, which neither `repr` nor `str` shows.

    A key from a file is read again when the file changes. Two keys are equal when they come from
    the same text or the same path.
    """

    __slots__ = ("_cached", "_is_path", "_path", "_secret", "_where")

    def __init__(self, secret: str | None, path: Path | None, where: str) -> None:
        """Use `literal` or `from_file` instead."""
        self._secret = secret
        self._path = path
        self._where = where
        self._is_path = False
        self._cached: tuple[tuple[int, ...], str] | None = None

    @classmethod
    def literal(cls, secret: str, where: str = "key") -> Key:
        """Make a key from its text; `where` names it in errors.

        Raises ConfigError when the text can't stand in a header.
        """
        return cls(_checked_key(secret, where), None, where)

    @classmethod
    def from_file(cls, path: Path, where: str = "key_file", base: Path | None = None) -> Key:
        """Make a key that is read from a file, relative to `base`; nothing is read yet.

        Errors show the path only when it leads somewhere: else it may be a key given by mistake.
        """
        key = cls(None, path if base is None else base / path, where)
        key._is_path = len(path.parts) > 1
        return key

    def read(self) -> str:
        """Return the key as it is now.

        Raises ConfigError when its file can't be read, is empty, or holds what can't stand in a
        header. The next call tries again.
        """
        if self._path is None:
            return self._secret or ""
        try:
            version = _file_version(self._path.stat())
            if self._cached is not None and self._cached[0] == version:
                return self._cached[1]
            version, raw = _read_key_file(self._path)
        except (OSError, ValueError) as error:
            message = f"{self._where}: {self._shown_path()}: {_reason(error)}"
            raise ConfigError(f"{message}: expected a file that holds the API key") from None
        if len(raw) > MAX_KEY_FILE_BYTES:
            message = f"{self._where}: {self._shown_path()}: the file is too large for a key"
            raise ConfigError(message)
        text = raw.decode("utf-8", "replace")
        secret = _checked_key(text, f"{self._where}: {self._shown_path()}")
        self._cached = (version, secret)
        return secret

    def _shown_path(self) -> str:
        path = self._path
        if path is None or not (os.path.lexists(path) or (self._is_path and path.parent.is_dir())):
            return "the path (not shown, it may be a key)"
        return _escaped(str(path))

    def __repr__(self) -> str:
        """Say where the key comes from, not what it is: a path may be a key given by mistake."""
        return f"Key({'literal' if self._path is None else 'file'})"

    def __eq__(self, other: object) -> bool:
        """Compare the sources of two keys."""
        if not isinstance(other, Key):
            return NotImplemented
        return (self._secret, self._path) == (other._secret, other._path)

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash((self._secret, self._path))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """How the API is reached; `url` has no trailing slash."""

    url: str = DEFAULT_API_URL
    timeout_seconds: float = 30.0
    requests_per_minute: float = 300.0
    page_size: int = 100
    max_response_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgConfig:
    """One org to poll, with the key that reads it."""

    id: str
    name: str | None = None
    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """How runs become series; buckets are upper bounds without +Inf."""

    duration_buckets: tuple[float, ...] = (
        *(1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
        *(1800.0, 3600.0, 7200.0, 21600.0, 86400.0),
    )
    queue_buckets: tuple[float, ...] = (0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
    credit_buckets: tuple[float, ...] = (
        *(0.1, 1.0, 2.0, 5.0, 10.0),
        *(20.0, 50.0, 100.0, 500.0, 1000.0),
    )
    newborn_hold_seconds: float = 65.0
    max_workflows: int = 1000
    step_credits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that can be set. `run_link` is a template: fill its fields with URL-quoted values."""

    api: ApiConfig = ApiConfig()
    orgs: tuple[OrgConfig, ...]
    poll_interval_seconds: float = 30.0
    lookback_seconds: float = 86400.0
    reconcile_interval_seconds: float = 900.0
    reconcile_window_seconds: float = 86400.0
    state_url: str = DEFAULT_STATE_URL
    metrics: MetricsConfig = MetricsConfig()
    workflow_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    run_link: str | None = None


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration file, if any, and the environment; see the module for which wins.

    A relative `key_file` is relative to the configuration file, as in Prometheus' own files; a
    relative `INVENT_API_KEY_FILE` and a relative path in `state.url`, to the working directory.
    Every key file is read once, so that a missing one is known now. Raises ConfigError.
    """
    top = _Section(None if path is None else _parse(path), _KEYS[""])
    api = _Section(top.get("api"), _KEYS["api"])
    state = _Section(top.get("state"), _KEYS["state"])
    links = _Section(top.get("links"), _KEYS["links"])
    defaults = Config(orgs=())
    api_config = _read_api(api, _variable(environ, "INVENT_API_URL"))
    state_url = state.read("url", lambda value: _state_url(value.text()), defaults.state_url)
    variable = _variable(environ, "INVENT_STATE_URL")
    return Config(
        api=api_config,
        orgs=_read_orgs(top.get("orgs"), environ, _read_key(api)),
        poll_interval_seconds=top.read(
            "poll_interval", partial(_duration, least=0.1), defaults.poll_interval_seconds
        ),
        lookback_seconds=top.read("lookback", _duration, defaults.lookback_seconds),
        reconcile_interval_seconds=top.read(
            "reconcile_interval", _duration, defaults.reconcile_interval_seconds
        ),
        reconcile_window_seconds=top.read(
            "reconcile_window", _duration, defaults.reconcile_window_seconds
        ),
        state_url=state_url if variable is None else _state_url(variable),
        metrics=_read_metrics(_Section(top.get("metrics"), _KEYS["metrics"])),
        workflow_names=_read_names(top.get("workflow_names")),
        run_link=links.read("run", lambda value: _run_link(value.text()), None),
    )


_KEYS: Final = {
    "": (
        *("api", "orgs", "poll_interval", "lookback", "reconcile_interval", "reconcile_window"),
        *("state", "metrics", "workflow_names", "links"),
    ),
    "api": (
        *("url", "key", "key_file", "timeout", "requests_per_minute", "page_size"),
        "max_response",
    ),
    "orgs[]": ("id", "name", "key", "key_file", "sub_orgs"),
    "state": ("url",),
    "metrics": (
        *("duration_buckets", "queue_buckets", "credit_buckets", "newborn_hold"),
        *("max_workflows", "step_credits"),
    ),
    "links": ("run",),
}
"""The known keys of each section."""


# --- The sections ---------------------------------------------------------------------------------


def _read_api(section: _Section, variable: _Text | None) -> ApiConfig:
    defaults = ApiConfig()
    url = section.read("url", lambda value: _api_url(value.text()), defaults.url)
    return ApiConfig(
        url=url if variable is None else _api_url(variable),
        timeout_seconds=section.read("timeout", _duration, defaults.timeout_seconds),
        requests_per_minute=section.read(
            "requests_per_minute", _positive, defaults.requests_per_minute
        ),
        page_size=section.read("page_size", partial(_whole, most=100), defaults.page_size),
        max_response_bytes=section.read("max_response", _size, defaults.max_response_bytes),
    )


def _read_metrics(section: _Section) -> MetricsConfig:
    defaults = MetricsConfig()
    return MetricsConfig(
        duration_buckets=section.read("duration_buckets", _buckets, defaults.duration_buckets),
        queue_buckets=section.read("queue_buckets", _buckets, defaults.queue_buckets),
        credit_buckets=section.read("credit_buckets", _buckets, defaults.credit_buckets),
        newborn_hold_seconds=section.read(
            "newborn_hold", partial(_duration, least=0.0), defaults.newborn_hold_seconds
        ),
        max_workflows=section.read("max_workflows", _whole, defaults.max_workflows),
        step_credits=section.read("step_credits", _switch, defaults.step_credits),
    )


def _read_orgs(
    value: _Value | None, environ: Mapping[str, str], file_key: Key | None
) -> tuple[OrgConfig, ...]:
    api_key = _environment_key(environ) or file_key
    if value is None or value.is_null:
        if api_key is None:
            message = "no API key: set api.key_file or api.key in the configuration file"
            raise ConfigError(f"{message}, or INVENT_API_KEY or INVENT_API_KEY_FILE")
        variable = _variable(environ, "INVENT_ORG_ID")
        org_id = DEFAULT_ORG_ID if variable is None else _org_id(variable)
        api_key.read()
        return (OrgConfig(id=org_id, key=api_key),)
    items = value.items()
    if not items:
        raise value.error("the list is empty: expected at least one org, or no key `orgs` at all")
    first_seen: dict[str, str] = {}
    orgs = []
    for item in items:
        section = _Section(item, _KEYS["orgs[]"])
        id_value, sub_orgs = section.get("id"), section.get("sub_orgs")
        if id_value is None:
            raise item.error("`id` is missing: expected the id of an org, or c for the key's own")
        org_id = _org_id(id_value.text())
        if org_id in first_seen:
            message = f"the same org as {first_seen[org_id]}: expected each org once"
            raise id_value.error(message)
        first_seen[org_id] = id_value.key
        if sub_orgs is not None and _switch(sub_orgs):
            raise sub_orgs.error("true is not supported yet: expected false")
        name = section.read("name", lambda value: value.text().value, None)
        key = _read_key(section) or api_key
        if key is None:
            raise item.error(
                f"no API key for this org: set {item.key}.key_file or {item.key}.key, "
                "or api.key_file or api.key, or INVENT_API_KEY or INVENT_API_KEY_FILE"
            )
        key.read()
        orgs.append(OrgConfig(id=org_id, name=name, key=key))
    return tuple(orgs)


def _read_key(section: _Section) -> Key | None:
    literal, file = section.get("key"), section.get("key_file")
    if literal is not None and file is not None:
        raise file.error(f"{literal.key} is given as well: expected one of the two")
    if literal is not None:
        text = literal.text(is_secret=True)
        return Key.literal(text.value, text.where)
    if file is not None:
        text = file.text(is_secret=True)
        if not text.value.strip():
            raise text.error("the path is empty: expected the path of a file that holds the key")
        return Key.from_file(Path(text.value), text.where, file.file.parent)
    return None


def _environment_key(environ: Mapping[str, str]) -> Key | None:
    literal = _variable(environ, "INVENT_API_KEY")
    file = _variable(environ, "INVENT_API_KEY_FILE")
    if literal is not None and file is not None:
        raise ConfigError("INVENT_API_KEY and INVENT_API_KEY_FILE are both set: expected one")
    if literal is not None:
        return Key.literal(literal.value, literal.where)
    return None if file is None else Key.from_file(Path(file.value), file.where)


def _read_names(value: _Value | None) -> dict[str, str]:
    if value is None or value.is_null:
        return {}
    return {key: item.text().value for key, item in value.members(is_free=True).items()}


# --- The rules of single values -------------------------------------------------------------------

_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,12})([KMG]iB)")
_SIZE_UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17})?([eE][+-]?[0-9]{1,3})?")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")
_INFINITY = re.compile(r"[+-]?\.?inf(inity)?", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9._])?")
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")


def _duration(value: _Value, least: float | None = None) -> float:
    """Seconds; above 0, or at least `least`."""
    text = value.text(is_any=True)
    match = _DURATION.fullmatch(text.value)
    if match is None:
        shown = _shown(text.value)
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


def _size(value: _Value) -> int:
    text = value.text(is_any=True)
    match = _SIZE.fullmatch(text.value)
    if match is None:
        shown = _shown(text.value)
        if _NUMBER.fullmatch(text.value):
            raise text.error(f"{shown} has no unit: expected a size such as 512KiB or 16MiB")
        raise text.error(f"{shown} is not a size: expected such as 512KiB or 16MiB")
    size = int(match[1]) * _SIZE_UNITS[match[2]]
    if not 0 < size <= MAX_SIZE_BYTES:
        raise text.error(f"{text.value} is out of range: expected 1KiB to 1GiB")
    return size


def _number(value: _Value) -> float:
    """Read a finite number, `1e3` too, which YAML 1.1 takes for text."""
    text = value.text(is_any=True)
    if value.is_quoted:
        raise text.error("text in quotes: expected a number, without the quotes")
    if _INFINITY.fullmatch(text.value):
        raise text.error(f"{_shown(text.value)} is not finite: expected a finite number")
    if _NUMBER.fullmatch(text.value) is None:
        raise text.error(f"{_shown(text.value)} is not a number: expected such as 10 or 0.5")
    number = float(text.value)
    if not math.isfinite(number):
        raise text.error(f"{_shown(text.value)} is not finite: expected a finite number")
    return number


def _positive(value: _Value) -> float:
    number = _number(value)
    if number <= 0:
        raise value.error(f"{number:g} is too small: expected more than 0")
    return number


def _whole(value: _Value, most: int | None = None) -> int:
    """Read a whole number from 1 to `most`."""
    expected = "1 or more" if most is None else f"1 to {most}"
    number = _number(value)
    text = value.text(is_any=True).value
    if _WHOLE.fullmatch(text) is None or number < 1 or (most is not None and number > most):
        raise value.error(f"{_shown(text)} does not fit: expected a whole number, {expected}")
    return int(text)


def _switch(value: _Value) -> bool:
    text = value.text(is_any=True)
    if value.is_quoted or text.value.lower() not in ("true", "false"):
        raise text.error(f"{_shown(text.value)} is not a switch: expected true or false")
    return text.value.lower() == "true"


def _buckets(value: _Value) -> tuple[float, ...]:
    items = value.items()
    if not items:
        raise value.error("the list is empty: expected at least one bound")
    bounds: list[float] = []
    for item in items:
        if item.is_plain and _INFINITY.fullmatch(item.text(is_any=True).value):
            raise item.error("+Inf is there by itself: expected finite bounds alone")
        bound = _positive(item)
        if bounds and bound <= bounds[-1]:
            message = f"{bound:.15g} is not above {bounds[-1]:.15g}: expected increasing bounds"
            raise item.error(message)
        bounds.append(bound)
    return tuple(bounds)


def _org_id(text: _Text) -> str:
    _check_printable(text)
    if not text.value:
        raise text.error("the id is empty: expected the id of an org, or c for the key's own")
    if text.value in (".", "..") or re.search(r"[/?#%\\\s]", text.value):
        message = "not an id: expected no white space and none of / ? # % \\"
        raise text.error(message)
    return text.value


def _check_printable(text: _Text) -> None:
    if not text.value.isprintable():
        raise text.error("line breaks or control characters: expected one line of plain text")


def _split_url(text: _Text) -> SplitResult:
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


def _api_url(text: _Text) -> str:
    url = _split_url(text)
    if "?" in text.value or "#" in text.value:
        raise text.error("a query or fragment is not allowed here: expected the base URL alone")
    host = (url.hostname or "").lower()
    address = _address(host)
    loopback = (
        address in _LOOPBACK
        if isinstance(address, IPv4Address)
        else host == "localhost" or address == IPv6Address("::1")
    )
    if url.scheme == "http" and not loopback:
        raise text.error("http:// would send the key in the clear: expected https://")
    return text.value.rstrip("/")


def _state_url(text: _Text) -> str:
    _check_printable(text)
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


def _run_link(text: _Text) -> str:
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
            raise text.error(f"{{{_shown(name)}}} is not a known field: {expected}")
    return text.value


def _checked_key(text: str, where: str) -> str:
    """Strip a key and check that it can stand in a header (RFC 9110, 5.5); never show it."""
    secret = text.strip()
    if not secret:
        raise ConfigError(f"{where}: the key is empty: expected an API key")
    if not re.fullmatch(r"[!-~]+", secret):
        message = "the key can't stand in a header: expected printable ASCII without white space"
        raise ConfigError(f"{where}: {message}")
    return secret


# --- Files, YAML and where things stand -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    """A piece of text and where it stands."""

    value: str = field(repr=False)
    where: str

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.where}: {message}")


@dataclass(frozen=True, slots=True)
class _Value:
    """A YAML node, the key that leads to it, and its file."""

    node: yaml.Node
    key: str
    file: Path

    @property
    def is_null(self) -> bool:
        return self.is_plain and self.node.tag == "tag:yaml.org,2002:null"

    @property
    def is_plain(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is None

    @property
    def is_quoted(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is not None

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self._where}: {message}")

    @property
    def _where(self) -> str:
        place = f"{_escaped(str(self.file))}:{self.node.start_mark.line + 1}"
        return f"{place}: {self.key}" if self.key else place

    def child(self, name: str) -> _Value:
        return _Value(self.node, f"{self.key}.{name}" if self.key else name, self.file)

    def items(self) -> list[_Value]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"{self._kind}: expected a list")
        items = enumerate(self.node.value)
        return [_Value(node, f"{self.key}[{index}]", self.file) for index, node in items]

    def members(self, *, is_free: bool = False) -> dict[str, _Value]:
        """Return the members of a mapping, each name once and each of it text.

        Unless the names are free, one that does not look like the name of a key is not shown: it
        may be an API key, as in `{key:SECRET}`, where a space is missing.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"{self._kind}: expected a mapping (`key: value` lines)")
        members: dict[str, _Value] = {}
        for key_node, value_node in self.node.value:
            at = _Value(key_node, self.key, self.file)
            if not isinstance(key_node, yaml.ScalarNode):
                raise at.error("a list or mapping stands where a key is due: expected text")
            name: str = key_node.value
            is_shown = is_free or _NAME.fullmatch(name) is not None
            at = at.child(_shown(name) if is_shown else "(name not shown)")
            if is_free:
                at.text()
            if name in members:
                first = members[name].node.start_mark.line + 1
                raise at.error(f"given twice, first in line {first}: expected once")
            members[name] = _Value(value_node, at.key, self.file)
        return members

    def text(self, *, is_any: bool = False, is_secret: bool = False) -> _Text:
        """Return the text of a scalar; unless `is_any`, what YAML takes for text.

        Raises ConfigError, which does not show a secret.
        """
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"{self._kind}: expected a single value")
        if self.is_null:
            raise self.error("no value: expected one, or leave it out")
        text: str = self.node.value
        kind = _NOT_TEXT.get(self.node.tag)
        if kind is not None and not is_any:
            example = "" if is_secret else f', "{_shown(text)}"'
            raise self.error(f"YAML reads this as {kind}: expected text, put it in quotes{example}")
        found = _Text(text, self._where)
        if not is_secret:
            _check_printable(found)
        return found

    @property
    def _kind(self) -> str:
        if isinstance(self.node, yaml.SequenceNode):
            return "this is a list"
        if isinstance(self.node, yaml.MappingNode):
            return "this is a mapping"
        return "no value" if self.is_null else "this is a single value"


_TAG = "tag:yaml.org,2002:"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z_.-]{0,31}|[A-Za-z0-9_.-]{1,12}")
_NOT_TEXT: Final = {
    f"{_TAG}int": "a number",
    f"{_TAG}float": "a number",
    f"{_TAG}bool": "true or false",
    f"{_TAG}timestamp": "a date",
    f"{_TAG}merge": "a merge",
    f"{_TAG}value": "a default value",
    f"{_TAG}null": "nothing",
}
_KNOWN_TAGS: Final = {*_NOT_TEXT, f"{_TAG}str", f"{_TAG}seq", f"{_TAG}map"}


class _Section:
    """The members of one mapping with known keys; an absent or empty one has no members."""

    def __init__(self, value: _Value | None, known: tuple[str, ...]) -> None:
        self._members = {} if value is None or value.is_null else value.members()
        for name, member in self._members.items():
            if name not in known:
                raise member.error(f"unknown key: {_suggestion(name, known)}")

    def get(self, key: str) -> _Value | None:
        return self._members.get(key)

    def read(self, key: str, reader: Callable[[_Value], T], default: T) -> T:
        value = self._members.get(key)
        return default if value is None else reader(value)


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    """Name the nearest known key here, the same key elsewhere, or all that are known here."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    for section, keys in _KEYS.items():
        if name in keys:
            return f"did you mean `{section}.{name}`?".replace("`.", "`")
    return f"expected one of {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """Composes nodes: without aliases, which can make a small file huge, and not too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*) are not allowed: expected the value itself", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested too deep: expected at most {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and node.tag not in _KNOWN_TAGS:
            raise _refused("tags (!) are not allowed: expected plain values", event)
        return node


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    # The stubs of PyYAML know two kinds of marks, which differ in nothing that is used here.
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _parse(path: Path) -> _Value | None:
    """Read a YAML file to its node tree; None for an empty one."""
    name = _escaped(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        message = f"{name}: {_reason(error)}: expected a readable YAML file"
        raise ConfigError(message) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: the file is too large: expected at most 1 MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8: expected a text file in UTF-8") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}"
        problem = error.problem or error.context or "not readable"
        if error.problem and (error.context or "").startswith("expected"):
            problem = f"{error.context}, {error.problem}"
        # These alone quote more than one character of the file, which can be a piece of a key.
        problem = re.sub(r"(tag handle|anchor|alias) .*", r"\1", problem)
        raise ConfigError(f"{place}: invalid YAML: {_escaped(problem)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = "a character that YAML does not allow: expected printable text"
        raise ConfigError(f"{name}:{line}: invalid YAML: {message}") from None
    return None if node is None else _Value(node, "", path)


def _variable(environ: Mapping[str, str], name: str) -> _Text | None:
    text = environ.get(name, "").strip()
    return _Text(text, name) if text else None


def _file_version(status: os.stat_result) -> tuple[int, ...]:
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


def _read_key_file(path: Path) -> tuple[tuple[int, ...], bytes]:
    """Read a key file and the version that was read; a pipe is refused, it would block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a regular file")
        return _file_version(status), file.read(MAX_KEY_FILE_BYTES + 1)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "this is a directory"
    if isinstance(error, PermissionError):
        return "not readable for this user"
    return (isinstance(error, OSError) and error.strerror) or "not readable"


def _escaped(text: str) -> str:
    """Make text of a user fit for one line: escaped and shortened."""
    short = text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in short)


def _shown(text: str) -> str:
    """Make a value of a user fit for a message."""
    short = text if len(text) <= 24 else f"{text[:24]}..."  # noqa: PLR2004
    return _escaped(short) or '""'
