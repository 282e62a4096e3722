"""The `assets` command: write out the rules and dashboards that belong to this version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDERS: Final = ("dashboards", "rules")

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def write_assets(target: Path) -> list[Path]:
    """Write dashboards/*.json and rules/*.yaml below `target`; return the files, in order.

    What is there under the same name is replaced: it was of another version. Raises OSError.
    """
    # In the package when it is installed, else in the checkout.
    installed = _PACKAGE / "assets"
    root = installed if installed.is_dir() else _PACKAGE.parent / "grafana"
    sources = [file for name in FOLDERS for file in sorted((root / name).iterdir())]
    written = []
    for source in sources:
        if source.suffix not in (".json", ".yaml"):
            continue
        file = target / source.parent.name / source.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.read_bytes())
        written.append(file)
    return written
