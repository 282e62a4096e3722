"""Write the dashboards and rules: `python -m grafana.generate`, after each change of a source."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import exporter, overview, rules, workflow

ROOT = Path(__file__).parent
DASHBOARDS = {"overview": overview, "workflow": workflow, "exporter": exporter}


def dashboards() -> dict[str, str]:
    """Return the JSON of each dashboard by the name of its file."""
    return {f"{name}.json": _encode(module.build().build()) for name, module in DASHBOARDS.items()}


def _encode(board: object) -> str:
    document = json.loads(JSONEncoder().encode(board))
    # Links to a panel and filters of annotations name its id: by the order on the screen.
    for number, panel in enumerate(document["panels"], 1):
        panel["id"] = number
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
