"""Make docs/metrics.md and docs/configuration.md from the code: `python -m docs.reference`.

Defaults and meanings of keys come from the whole example in README, which a test holds against
the code; a key that is not in it, or a rule without words here, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry

from invent_exporter.config import state
from invent_exporter.config import values as read
from invent_exporter.config.load import Config, OrgConfig
from invent_exporter.config.schema import Setting
from invent_exporter.config.yaml_nodes import Value
from invent_exporter.metrics.families import FAMILIES
from invent_exporter.telemetry import POLL_ERROR_REASONS, Telemetry

FOLDER: Final = Path(__file__).parent
_MADE: Final = "<!-- made by `python -m docs.reference`: change the code, not this page -->"

_SUFFIXES: Final = {"counter": "_total", "info": "_info"}
"""What a type adds to a family's name in every format."""

_RULES: Final[dict[Any, str]] = {
    Value.text: "text",
    read.api_url: "an `https://` URL without query; `http://` for loopback addresses",
    read.duration: "a duration such as `500ms`, `30s`, `15m`, `24h` or `7d`, up to `3650d`",
    read.positive: "a number above 0",
    read.whole: "a whole number from 1 on",
    read.size: "a size such as `512KiB` or `16MiB`, up to `1GiB`",
    read.org_id: "text without white space and `/ ? # % \\`",
    read.switch: "`true` or `false`",
    read.buckets: "a list of rising numbers above 0",
    state.state_url: "`sqlite:///FILE`, `sqlite://`, or a URL of PostgreSQL's libpq",
    read.names: "a mapping of ids to names",
    read.labels: "a mapping of ids to labels and their values",
    read.globs: "a list of globs",
    read.run_link: "a URL with `{org_id}`, `{workflow_id}` and `{run_id}` in it",
    read.logged_runs: "`failed`, `all` or `none`",
}
_LIMITS: Final = {"least": "at least {:g} s", "most": "at most {}"}


class Served(NamedTuple):
    """A family as it is served."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def of_ledger() -> Iterator[Served]:
    """List the families that the ledger's numbers have."""
    for family in FAMILIES:
        kind = family.metric().type
        name = family.name + _SUFFIXES.get(kind, "")
        yield Served(name, kind, family.labels, family.documentation)


def of_process() -> Iterator[Served]:
    """List the families that start with the process."""
    registry = CollectorRegistry()
    Telemetry(registry).set_build("", "", "")
    # Direct instrumentation knows its labels, an info those that were set.
    for collector in registry._collector_to_names:  # noqa: SLF001
        each: Any = collector
        labels = each._value if each._type == "info" else each._labelnames  # noqa: SLF001
        name = each._name + _SUFFIXES.get(each._type, "")  # noqa: SLF001
        yield Served(name, each._type, tuple(labels), each._documentation)  # noqa: SLF001


def metrics_page() -> str:
    """Write docs/metrics.md."""
    reasons = ", ".join(f"`{reason}`" for reason in POLL_ERROR_REASONS)
    return f"""{_MADE}
# Metrics

`org_id` is the id of the org that was polled; `c` is replaced by the real id as soon as a run names
it. `workflow_id` is `__none__` for runs without a workflow and `__other__` for those beyond
`metrics.max_workflows` or `metrics.max_exposition`. A run id is never a label: it is in exemplars
(OpenMetrics only) and in the log. [How it counts](how-it-counts.md) says how runs become numbers.

## Of runs, from the ledger

They outlive the process: counters start at 0 at first contact and go on after a restart.

{_table(("name", "type", "labels", "meaning"), map(_family, of_ledger()))}

`invent_workflow_info` has the labels of `workflow_labels` too.

## Of the exporter

Counters start with the process.

{_table(("name", "type", "labels", "meaning"), map(_family, of_process()))}

`reason` of `invent_poll_errors_total` is one of {reasons}
([what to do](../README.md#troubleshooting)). `process_*` and `python_*` are prometheus-client's.
"""


def configuration_page() -> str:
    """Write docs/configuration.md."""
    said = dict(_said((FOLDER.parent / "README.md").read_text("utf-8")))
    rows = []
    for field in _settings():
        about: Setting = field.metadata[Setting]
        has_default = field.default not in (MISSING, None) or field.default_factory is not MISSING
        for key in about.keys:
            value, meaning = said[key]
            default = f"`{value}`" if has_default else ""
            rows.append((f"`{key}`", _rule(about, key), default, meaning, _others(about)))
    return f"""{_MADE}
# Configuration

Every key of the YAML file that `--config.file` names. [README](../README.md#configuration) shows it
as one file, and says what holds for all keys; [there](../README.md#flags-and-environment) are the
flags and variables as well. The file of `--web.config.file` is in
[deployment](deploy.md#tls-and-passwords). A key that is marked *restart* can't change while the
exporter runs; all others count after a reload. Without `orgs` the one org `c` is polled.

{_table(("key", "expected", "default", "meaning", ""), rows)}
"""


def _table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _family(family: Served) -> tuple[str, str, str, str]:
    return f"`{family.name}`", family.kind, ", ".join(family.labels), family.help


def _settings() -> Iterator[Field[Any]]:
    pending: list[Any] = [*fields(Config), *fields(OrgConfig)]
    while pending:
        each = pending.pop(0)
        if is_dataclass(each.default):
            pending = [*fields(each.default), *pending]
        elif each.metadata:
            yield each


def _said(readme: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each key of README's example, with its value and meaning."""
    example = readme.split("```yaml\napi:", 1)[1].split("```", 1)[0]
    section = "api"
    line = r"(?:#(?= ))?( *)(?:- )?(?:# )?( *)([a-z_]+):(?: +(.*?))??(?: +# (.*))?"
    for match in re.finditer(line + "$", example, re.MULTILINE):
        before, inside, key, value, meaning = match.groups(default="")
        if len(before + inside) > 1:
            yield f"{section}.{key}", (value, meaning)
        else:
            section = "orgs[]" if key == "orgs" else key
            yield key, (value, meaning)


def _rule(about: Setting, key: str) -> str:
    rule: Any = about.rule
    if rule is read.key:
        return "the path of a file that holds the key" if key.endswith("_file") else "text"
    if not isinstance(rule, partial):
        return _RULES[rule]
    limits = (_LIMITS[name].format(value) for name, value in rule.keywords.items())
    return f"{_RULES[rule.func]}; {', '.join(limits)}"


def _others(about: Setting) -> str:
    return ", ".join([f"`{name}`" for name in about.env] + ["*restart*"] * about.is_fixed)


if __name__ == "__main__":
    for name, page in (("metrics", metrics_page()), ("configuration", configuration_page())):
        (FOLDER / f"{name}.md").write_text(page, "utf-8")
