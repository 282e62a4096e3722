"""Write the dashboards and rules: `python -m grafana.generate`, after each change of a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import exporter, managed, overview, rules, workflow

ROOT = Path(__file__).parent
MANAGED = ROOT / "managed-alerts.yaml"
DASHBOARDS = {"overview": overview, "workflow": workflow, "exporter": exporter}


def dashboards() -> dict[str, str]:
    """Return the JSON of each dashboard by the name of its file."""
    return {f"{name}.json": _encode(module.build().build()) for name, module in DASHBOARDS.items()}


def all_panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, those of closed rows too."""
    return [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", ()))]


def panel_id(kind: str, title: str) -> int:
    """Make a panel's id of what it is: one that is added leaves the links to it as they were."""
    return crc32(f"{kind} {title}".encode()) % 1_000_000


def _encode(board: object) -> str:
    document = json.loads(JSONEncoder().encode(board))
    for panel in all_panels(document):
        panel["id"] = panel_id(panel["type"], panel["title"])
    for link in document["links"]:
        del link["placement"]  # the library's default hides it in a menu
    # What the library writes and Grafana's own types do not know.
    for variable in document["templating"]["list"]:
        for field in ("auto", "auto_count", "auto_min"):
            variable.pop(field, None)
    for panel in all_panels(document):
        panel.get("options", {}).pop("footer", None)
        # What Grafana takes by itself.
        panel.pop("transparent", None)
        panel.pop("repeatDirection", None)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write every generated file."""
    for name, text in dashboards().items():
        (ROOT / "dashboards" / name).write_text(text)
    made = rules.render(ROOT)
    for name, text in made.items():
        (ROOT / "rules" / name).write_text(text)
    MANAGED.write_text(managed.render(made.values()))


if __name__ == "__main__":
    main()
