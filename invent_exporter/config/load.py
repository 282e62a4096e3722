"""Configuration: a YAML file, the environment and secret files become one frozen `Config`.

Every mistake is a `ConfigError` of one line: where (file, line, dotted key or variable), what is
wrong, what is expected. No message shows the text of a key or of a URL, which may hold a password.

The environment is enough alone for one org. A variable goes over its key of the file, but for
`INVENT_ORG_ID`, which is used only when the file names no orgs; a blank one counts as not set. An
org's own key goes over `api.key` and its variables.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Final, TypeVar

from invent_exporter.config.key import Key
from invent_exporter.config.schema import KEYS, ApiConfig, Config, MetricsConfig, OrgConfig, Setting
from invent_exporter.config.state import passwords
from invent_exporter.config.yaml_nodes import Value, parse
from invent_exporter.errors import ConfigError, escaped
from invent_exporter.redaction import Redactor

__all__ = ["ApiConfig", "Config", "Key", "MetricsConfig", "OrgConfig", "load_config"]

T = TypeVar("T")

_KEY_PLACE: Final = re.compile(r"(?:api|orgs\[[0-9]+\])\.key")


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    redactor: Redactor | None = None,
    running: Config | None = None,
) -> Config:
    """Read the configuration file, if any, and the environment; see the module for which wins.

    `redactor` learns all keys, those of a file with a mistake among them. What is `running` can't
    change in everything.

    Raises:
        ConfigError: a mistake in them, or a key file that can't be read.

    """
    redactor = redactor or Redactor()
    try:
        return _load(path, environ, redactor, running)
    except ConfigError as error:
        raise ConfigError(redactor.redact(str(error))) from None


def _load(
    path: Path | None, environ: Mapping[str, str], redactor: Redactor, running: Config | None
) -> Config:
    file = None if path is None else parse(path)
    leaves = [] if file is None else [*file.leaves()]
    for value in leaves:
        if _KEY_PLACE.fullmatch(value.key):
            redactor.add(value.node.value.strip())
    redactor.add(environ.get("INVENT_API_KEY", "").strip())
    # libpq's own variable; a password file (`passfile`, PGPASSFILE) is read by libpq alone.
    redactor.add(environ.get("PGPASSWORD", ""))
    given = find_values(file, KEYS)
    api = build(ApiConfig, given, environ)
    orgs = _orgs(given.get("orgs"), environ, api.key)
    for org in orgs:
        redactor.add(org.key.read())
    for value in leaves:
        if not _KEY_PLACE.match(value.key) and redactor.holds(value.node.value):
            raise value.error("an API key stands here: expected it as `key`, or in a `key_file`")
    config = build(Config, given, environ, api=api, orgs=orgs)
    for password in passwords(config.state_url):
        redactor.add(password)
    if path is not None and running is not None:
        for before, after in ((running, config), (running.metrics, config.metrics)):
            for key in _fixed_that_changed(before, after):
                where = given[key].where if key in given else f"{escaped(str(path))}: {key}"
                expected = "expected what the exporter started with, or a restart"
                raise ConfigError(f"{where}: can't change while the exporter runs: {expected}")
    return config


def _fixed_that_changed(before: object, after: object) -> Iterator[str]:
    for each in fields(before):  # type: ignore[arg-type]
        about = each.metadata.get(Setting)
        has_changed = getattr(before, each.name) != getattr(after, each.name)
        if about is not None and about.is_fixed and has_changed:
            yield about.keys[0]


def find_values(value: Value | None, keys: Collection[str], section: str = "") -> dict[str, Value]:
    """Find the values of the known keys of a section; an absent or empty one has none."""
    found: dict[str, Value] = {}
    below = [key.removeprefix(section) for key in keys if key.startswith(section)]
    names = list(dict.fromkeys(key.partition(".")[0].removesuffix("[]") for key in below))
    members = {} if value is None or value.is_null else value.members()
    for name, member in members.items():
        key = f"{section}{name}"
        if name not in names:
            raise member.error(f"unknown key: {_suggestion(name, names, keys)}")
        found |= {key: member} if key in keys else find_values(member, keys, f"{key}.")
    return found


def _suggestion(name: str, names: list[str], keys: Collection[str]) -> str:
    """Say the nearest known name here, the same name elsewhere, or all that are known here."""
    likely = difflib.get_close_matches(name, names, n=1)
    likely += [key for key in keys if key.rpartition(".")[2] == name]
    likely += [name for key in keys if key.replace("[]", "").startswith(f"{name}.")]
    return f"did you mean `{likely[0]}`?" if likely else f"expected one of {', '.join(names)}"


def build(
    kind: type[T], given: Mapping[str, Value], environ: Mapping[str, str], **defaults: object
) -> T:
    """Make a section of what is given for its settings."""
    read = defaults
    for each in fields(kind):  # type: ignore[arg-type]
        if is_dataclass(each.default) and each.name not in read:
            read[each.name] = build(type(each.default), given, environ)
        if (about := each.metadata.get(Setting)) is not None:
            variables = [Value.of_variable(environ, name) for name in about.env]
            for values in ([given.get(key) for key in about.keys], variables):
                found = [value for value in values if value is not None]
                if len(found) > 1:
                    message = f"{found[0].key} is given as well: expected one of the two"
                    raise found[1].error(message)
                if found:
                    read[each.name] = about.rule(found[0])
    return kind(**read)


def _orgs(
    value: Value | None, environ: Mapping[str, str], api_key: Key | None
) -> tuple[OrgConfig, ...]:
    if value is None or value.is_null:
        if api_key is None:
            message = "no API key: set api.key_file or api.key in the configuration file"
            raise ConfigError(f"{message}, or INVENT_API_KEY or INVENT_API_KEY_FILE")
        return (build(OrgConfig, {}, environ, key=api_key),)
    orgs: dict[str, OrgConfig] = {}
    for item in value.items():
        given = find_values(item, KEYS, "orgs[].")
        if "orgs[].id" not in given:
            raise item.error("`id` is missing: expected the id of an org, or c for the key's own")
        if api_key is None and not {"orgs[].key", "orgs[].key_file"} & given.keys():
            raise item.error(
                f"no API key for this org: set {item.key}.key_file or {item.key}.key, "
                "or api.key_file or api.key, or INVENT_API_KEY or INVENT_API_KEY_FILE"
            )
        org = build(OrgConfig, given, {}, key=api_key)
        if org.id in orgs:
            first = f"orgs[{list(orgs).index(org.id)}].id"
            raise given["orgs[].id"].error(f"the same org as {first}: expected each org once")
        orgs[org.id] = org
    if not orgs:
        raise value.error("the list is empty: expected at least one org, or no key `orgs` at all")
    return tuple(orgs.values())
