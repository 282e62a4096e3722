"""Say which tags an image gets: git tag | python -m release.tags VERSION.

Its version, and `latest` when that is the newest stable one: neither a release candidate nor a fix
of an older line moves it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

_STABLE = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


def image_tags(version: str, released: Iterable[str]) -> list[str]:
    """Return the tags of a version; `released` are git's tags, this one's among them or not."""
    own = _stable(version)
    others = [found for tag in released if (found := _stable(tag)) is not None]
    is_newest = own is not None and all(own >= other for other in others)
    return [version, "latest"] if is_newest else [version]


def _stable(tag: str) -> tuple[int, ...] | None:
    found = _STABLE.fullmatch(tag.strip())
    return None if found is None else tuple(map(int, found.groups()))


if __name__ == "__main__":
    print(*image_tags(sys.argv[1], sys.stdin))
