"""A YAML file as values that know their lines and keys.

Read from the node tree, not from loaded values, because only the nodes know the lines, and because
YAML 1.1 turns text such as `yes` or `123` into other types without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import yaml

from invent_exporter.errors import ConfigError, escaped, excerpt, why_unreadable

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 16
"""Bounds against files that are not meant as configuration."""

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


@dataclass(frozen=True, slots=True)
class Value:
    """A YAML node, the key that leads to it and its file; or a variable's text, without a file."""

    node: yaml.Node = field(repr=False)
    key: str
    file: Path | None = None

    @classmethod
    def of_variable(cls, environ: Mapping[str, str], name: str) -> Self | None:
        """Take a variable of the environment; an empty or blank one counts as not set."""
        text = environ.get(name, "").strip()
        return cls(yaml.ScalarNode(f"{_TAG}str", text, style='"'), name) if text else None

    @property
    def is_plain(self) -> bool:
        """A single value without quotes."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.style is None

    @property
    def is_null(self) -> bool:
        """YAML reads nothing here."""
        return self.is_plain and self.node.tag == f"{_TAG}null"

    @property
    def where(self) -> str:
        """The place to name in a message."""
        if self.file is None:
            return self.key
        place = f"{escaped(str(self.file))}:{self.node.start_mark.line + 1}"
        return f"{place}: {self.key}" if self.key else place

    def error(self, message: str) -> ConfigError:
        """Say where the mistake is."""
        return ConfigError(f"{self.where}: {message}")

    def items(self) -> list[Value]:
        """Return the members of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"{self._kind}: expected a list")
        items = enumerate(self.node.value)
        return [Value(node, f"{self.key}[{index}]", self.file) for index, node in items]

    def members(self, *, is_free: bool = False) -> dict[str, Value]:
        """Return the members of a mapping, each name once and each of it text.

        Unless the names are free, one that does not look like the name of a key is not shown: it
        may be an API key, as in `{key:SECRET}`, where a space is missing.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"{self._kind}: expected a mapping (`key: value` lines)")
        members: dict[str, Value] = {}
        for key_node, value_node in self.node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                message = "a list or mapping stands where a key is due: expected text"
                raise Value(key_node, self.key, self.file).error(message)
            name: str = key_node.value
            is_shown = is_free or _NAME.fullmatch(name) is not None
            shown = excerpt(name) if is_shown else "(name not shown)"
            at = Value(key_node, f"{self.key}.{shown}" if self.key else shown, self.file)
            if is_free:
                at.text()
            if name in members:
                first = members[name].node.start_mark.line + 1
                raise at.error(f"given twice, first in line {first}: expected once")
            members[name] = Value(value_node, at.key, self.file)
        return members

    def text(self, *, is_any: bool = False, is_secret: bool = False) -> str:
        """Return the text of a scalar, one line; unless `is_any`, what YAML takes for text.

        A secret may be any text, and no error shows it.
        """
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"{self._kind}: expected a single value")
        if self.is_null:
            raise self.error("no value: expected one, or leave it out")
        text: str = self.node.value
        if not is_any and (kind := _NOT_TEXT.get(self.node.tag)) is not None:
            example = "" if is_secret else f', "{excerpt(text)}"'
            raise self.error(f"YAML reads this as {kind}: expected text, put it in quotes{example}")
        if not is_secret and not text.isprintable():
            raise self.error("line breaks or control characters: expected one line of plain text")
        return text

    def leaves(self) -> Iterator[Value]:
        """Walk over all single values below this one, names too, whatever they are."""
        if isinstance(self.node, yaml.ScalarNode):
            yield self
        elif isinstance(self.node, yaml.SequenceNode):
            for item in self.items():
                yield from item.leaves()
        else:
            for name, node in self.node.value:
                below = str(name.value) if isinstance(name, yaml.ScalarNode) else ""
                place = f"{self.key}.{excerpt(below)}".removeprefix(".")
                if below:
                    yield Value(name, place, self.file)
                yield from Value(node, place, self.file).leaves()

    @property
    def _kind(self) -> str:
        if isinstance(self.node, yaml.CollectionNode):
            kind = "list" if isinstance(self.node, yaml.SequenceNode) else "mapping"
            return f"this is a {kind}"
        return "no value" if self.is_null else "this is a single value"


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


def read(path: Path) -> bytes:
    """Read a file that may be a configuration.

    Raises:
        ConfigError: it can't be read, or is too large.

    """
    name = escaped(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        message = f"{name}: {why_unreadable(error)}: expected a readable YAML file"
        raise ConfigError(message) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: the file is too large: expected at most 1 MiB")
    return raw


def parse(path: Path) -> Value | None:
    """Read a YAML file to its node tree; None for an empty one.

    Raises:
        ConfigError: it can't be read, or is no YAML without tags and aliases.

    """
    name, raw = escaped(str(path)), read(path)
    try:
        text = raw.decode("utf-8-sig")
        node = _Loader(text).get_single_node()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8: expected a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}"
        problem = error.problem or error.context or "not readable"
        if error.problem and (error.context or "").startswith("expected"):
            problem = f"{error.context}, {error.problem}"
        # These alone quote more than one character of the file, which can be a piece of a key.
        problem = re.sub(r"(tag handle|anchor|alias) .*", r"\1", problem)
        raise ConfigError(f"{place}: invalid YAML: {escaped(problem)}") from None
    except yaml.reader.ReaderError as error:
        line = raw.decode("utf-8-sig").count("\n", 0, error.position) + 1
        message = "a character that YAML does not allow: expected printable text"
        raise ConfigError(f"{name}:{line}: invalid YAML: {message}") from None
    return None if node is None else Value(node, "", path)
