"""Write the generated parts of the chart: python -m helm.generate.

They are the table of values in README.md, from values.yaml; the thresholds that values.schema.json
knows, from grafana/thresholds.yaml; and the version in Chart.yaml, from the program.

A comment that begins with `# --` describes the key below it, as helm-docs has it. A key with a
description is one row, with its default as JSON; a key without one is a section of which each key
is a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from invent_exporter import __version__

CHART: Final = Path(__file__).parent / "invent-exporter"
BEGIN: Final = "<!-- values: written by python -m helm.generate -->\n"
DURATION: Final = re.compile(r"[0-9]+(ms|s|m|h|d|w)")
END: Final = "<!-- end of values -->\n"


def rows(values_text: str) -> Iterator[tuple[str, str, str]]:
    """Yield dotted key, default as JSON, and description. Raises ValueError for a bare leaf."""
    root = yaml.compose(values_text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise TypeError("values.yaml is no mapping")
    yield from _rows_below(root, "", values_text.splitlines())


def _rows_below(
    node: yaml.MappingNode, prefix: str, lines: list[str]
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = prefix + key.value
        description = _description_above(lines, key.start_mark.line)
        if description:
            default = yaml.SafeLoader("").construct_object(value, deep=True)
            # As helm-docs writes it.
            written = json.dumps(default, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            yield name, written, description
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows_below(value, f"{name}.", lines)
        else:
            message = f"values.yaml, line {key.start_mark.line + 1}: {name} has no `# --` comment"
            raise ValueError(message)


def _description_above(lines: list[str], line: int) -> str:
    """Return the comment that ends just above a line, or nothing when it is no description."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    text = " ".join(text.lstrip().removeprefix("#").strip() for text in lines[first:line])
    return text.removeprefix("--").strip() if text.startswith("--") else ""


def readme(text: str, values_text: str) -> str:
    """Return the README with its table made anew. Raises ValueError when a marker is missing."""
    head, table = text.split(BEGIN)
    tail = table.split(END)[1]
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    lines += [
        f"| `{name}` | `{default}` | {description} |"
        for name, default, description in rows(values_text)
    ]
    return head + BEGIN + "\n".join(lines) + "\n" + END + tail


def schema(text: str, thresholds_text: str) -> str:
    """Return the schema of the values with the thresholds of grafana/ as the only ones known."""
    whole: dict[str, Any] = json.loads(text)
    rule = whole["properties"]["prometheusRule"]["properties"]
    thresholds = yaml.safe_load(thresholds_text)
    rule["thresholds"]["properties"] = {
        name: _threshold_schema(value) for name, value in thresholds.items()
    }
    return json.dumps(whole, indent=2) + "\n"


def _threshold_schema(usual: float | str) -> dict[str, str]:
    if not isinstance(usual, str):
        return {"type": "number"}
    if DURATION.fullmatch(usual):
        return {"$ref": "#/definitions/prometheusDuration"}
    return {"type": "string"}


def chart(text: str, version: str) -> str:
    """Return Chart.yaml with another version, of the chart and of the program in it."""
    text = re.sub(r"^version: .*$", f"version: {version}", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=image: ghcr.io/invent-exporter/invent-exporter:).*", version, text)
    return re.sub(r"^appVersion: .*$", f'appVersion: "{version}"', text, flags=re.MULTILINE)


def main() -> None:
    """Write the generated parts anew."""
    values = (CHART / "values.yaml").read_text()
    thresholds = (CHART.parents[1] / "grafana" / "thresholds.yaml").read_text()
    readme_path = CHART / "README.md"
    readme_path.write_text(readme(readme_path.read_text(), values))
    schema_path = CHART / "values.schema.json"
    schema_path.write_text(schema(schema_path.read_text(), thresholds))
    chart_path = CHART / "Chart.yaml"
    chart_path.write_text(chart(chart_path.read_text(), __version__))


if __name__ == "__main__":
    main()
