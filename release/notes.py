"""Print what CHANGELOG.md says of a version: python -m release.notes VERSION."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def notes(changelog: str, version: str) -> str:
    """Return the text of a version's section. Raises ValueError when it is missing or empty."""
    heading = rf"^## \[{re.escape(version)}\][^\n]*\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section [{version}] with text: expected one")
    return found[1].strip() + "\n"


if __name__ == "__main__":
    try:
        print(notes(Path("CHANGELOG.md").read_text(), sys.argv[1]), end="")
    except ValueError as error:
        sys.exit(str(error))
