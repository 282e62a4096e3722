"""Write the dashboards and rules: `python -m grafana.generate`, after each change of a source."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import exporter, overview, rules, workflow

ROOT = Path(__file__).parent
DASHBOARDS = {"overview": overview, "workflow": workflow, "exporter": exporter}


def dashboards() -> dict[str, str]:
    """Return the JSON of each dashboard by the name of its file."""
    return {f"{name}.json": _encode(module.build().build()) for name, module in DASHBOARDS.items()}


def panel_id(kind: str, title: str) -> int:
    """Make a panel's id of what it is: one that is added leaves the links to it as they were."""
    return crc32(f"{kind} {title}".encode()) % 1_000_000


def _encode(board: object) -> str:
    document = json.loads(JSONEncoder().encode(board))
    for panel in document["panels"]:
        panel["id"] = panel_id(panel["type"], panel["title"])
    for link in document["links"]:
        del link["placement"]  # the library's default hides it in a menu
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write every generated file."""
    for name, text in dashboards().items():
        (ROOT / "dashboards" / name).write_text(text)
    for name, text in rules.render(ROOT).items():
        (ROOT / "rules" / name).write_text(text)


if __name__ == "__main__":
    main()
