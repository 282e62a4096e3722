"""Configuration: a YAML file, the environment and secret files become one frozen `Config`.

Every mistake is a `ConfigError` of one line: where (file, line, dotted key or variable), what is
wrong, what is expected. No message shows the text of a key or of a URL, which may hold a password.

The environment is enough alone for one org. `INVENT_API_KEY`, `INVENT_API_KEY_FILE`,
`INVENT_API_URL` and `INVENT_STATE_URL` go over `api.key` and `api.key_file`, `api.url` and
`state.url` of the file; `INVENT_ORG_ID` is used only when the file names no orgs. An empty or
blank variable counts as not set. An org's own key goes over both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from invent_exporter.config.key import Key
from invent_exporter.config.values import (
    is_loopback,
    read_api_url,
    read_buckets,
    read_duration,
    read_org_id,
    read_positive,
    read_run_link,
    read_size,
    read_state_url,
    read_switch,
    read_whole,
)
from invent_exporter.config.yaml_nodes import Section, Text, Value, parse
from invent_exporter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ApiConfig",
    "Config",
    "ConfigError",
    "Key",
    "MetricsConfig",
    "OrgConfig",
    "is_loopback",
    "load_config",
]

DEFAULT_API_URL: Final = "https://api.useinvent.com"
DEFAULT_STATE_URL: Final = "sqlite:///invent-exporter.db"
DEFAULT_ORG_ID: Final = "c"


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
    top = Section(None if path is None else parse(path), "", _KEYS)
    api = Section(top.get("api"), "api", _KEYS)
    state = Section(top.get("state"), "state", _KEYS)
    links = Section(top.get("links"), "links", _KEYS)
    defaults = Config(orgs=())
    api_config = _read_api(api, _variable(environ, "INVENT_API_URL"))
    state_url = state.read("url", lambda value: read_state_url(value.text()), defaults.state_url)
    variable = _variable(environ, "INVENT_STATE_URL")
    return Config(
        api=api_config,
        orgs=_read_orgs(top.get("orgs"), environ, _read_key(api)),
        poll_interval_seconds=top.read(
            "poll_interval", partial(read_duration, least=0.1), defaults.poll_interval_seconds
        ),
        lookback_seconds=top.read("lookback", read_duration, defaults.lookback_seconds),
        reconcile_interval_seconds=top.read(
            "reconcile_interval", read_duration, defaults.reconcile_interval_seconds
        ),
        reconcile_window_seconds=top.read(
            "reconcile_window", read_duration, defaults.reconcile_window_seconds
        ),
        state_url=state_url if variable is None else read_state_url(variable),
        metrics=_read_metrics(Section(top.get("metrics"), "metrics", _KEYS)),
        workflow_names=_read_names(top.get("workflow_names")),
        run_link=links.read("run", lambda value: read_run_link(value.text()), None),
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


def _read_api(section: Section, variable: Text | None) -> ApiConfig:
    defaults = ApiConfig()
    url = section.read("url", lambda value: read_api_url(value.text()), defaults.url)
    return ApiConfig(
        url=url if variable is None else read_api_url(variable),
        timeout_seconds=section.read("timeout", read_duration, defaults.timeout_seconds),
        requests_per_minute=section.read(
            "requests_per_minute", read_positive, defaults.requests_per_minute
        ),
        page_size=section.read("page_size", partial(read_whole, most=100), defaults.page_size),
        max_response_bytes=section.read("max_response", read_size, defaults.max_response_bytes),
    )


def _read_metrics(section: Section) -> MetricsConfig:
    defaults = MetricsConfig()
    return MetricsConfig(
        duration_buckets=section.read("duration_buckets", read_buckets, defaults.duration_buckets),
        queue_buckets=section.read("queue_buckets", read_buckets, defaults.queue_buckets),
        credit_buckets=section.read("credit_buckets", read_buckets, defaults.credit_buckets),
        newborn_hold_seconds=section.read(
            "newborn_hold", partial(read_duration, least=0.0), defaults.newborn_hold_seconds
        ),
        max_workflows=section.read("max_workflows", read_whole, defaults.max_workflows),
        step_credits=section.read("step_credits", read_switch, defaults.step_credits),
    )


def _read_orgs(
    value: Value | None, environ: Mapping[str, str], file_key: Key | None
) -> tuple[OrgConfig, ...]:
    api_key = _environment_key(environ) or file_key
    if value is None or value.is_null:
        if api_key is None:
            message = "no API key: set api.key_file or api.key in the configuration file"
            raise ConfigError(f"{message}, or INVENT_API_KEY or INVENT_API_KEY_FILE")
        variable = _variable(environ, "INVENT_ORG_ID")
        org_id = DEFAULT_ORG_ID if variable is None else read_org_id(variable)
        api_key.read()
        return (OrgConfig(id=org_id, key=api_key),)
    items = value.items()
    if not items:
        raise value.error("the list is empty: expected at least one org, or no key `orgs` at all")
    first_seen: dict[str, str] = {}
    orgs = []
    for item in items:
        section = Section(item, "orgs[]", _KEYS)
        id_value, sub_orgs = section.get("id"), section.get("sub_orgs")
        if id_value is None:
            raise item.error("`id` is missing: expected the id of an org, or c for the key's own")
        org_id = read_org_id(id_value.text())
        if org_id in first_seen:
            message = f"the same org as {first_seen[org_id]}: expected each org once"
            raise id_value.error(message)
        first_seen[org_id] = id_value.key
        if sub_orgs is not None and read_switch(sub_orgs):
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


def _read_key(section: Section) -> Key | None:
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


def _read_names(value: Value | None) -> dict[str, str]:
    if value is None or value.is_null:
        return {}
    return {key: item.text().value for key, item in value.members(is_free=True).items()}


def _variable(environ: Mapping[str, str], name: str) -> Text | None:
    text = environ.get(name, "").strip()
    return Text(text, name) if text else None
