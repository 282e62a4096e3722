"""Some views together: the lines of each, and the compressed pieces that these make.

A publish writes the views that changed, and makes the pieces anew in which a line of theirs is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from prometheus_client.core import Metric

from invent_exporter.metrics.formats import Format
from invent_exporter.metrics.lines import Lines, Packed, lines_of, without_exemplars
from invent_exporter.metrics.pieces import Piece, piece


class View(Protocol):
    """Something that was committed."""

    def metrics(self) -> list[Metric]:
        """Build the series."""


@dataclass
class _Chunk:
    """One view, and its lines as they were last written."""

    view: View
    packed: Packed


_NOTHING = Packed(Lines({}, 0))
_GROUP_VIEWS = 16
"""Smaller groups make a change cheaper, larger ones what is joined and sent."""


class _Group:
    """Some views, and their pieces by format and family; None: to be made anew."""

    def __init__(self) -> None:
        self.chunks: dict[Hashable, _Chunk] = {}
        self.text_bytes = 0
        self._changed: set[Hashable] = set()
        self._pieces: dict[Format, dict[str, Piece | None]] = {}

    def put(self, key: Hashable, view: View) -> None:
        """Take a view in, in the place of the one that it replaces."""
        known = self.chunks.get(key)
        self.chunks[key] = _Chunk(view, _NOTHING if known is None else known.packed)
        self._changed.add(key)

    def remove(self, key: Hashable) -> None:
        """Take a view away."""
        self._replace(self.chunks.pop(key).packed, Lines({}, 0))
        self._changed.discard(key)

    def write(self, give_way: Callable[[], None]) -> int:
        """Write what changed; tell how many views that were."""
        for key in self._changed:
            give_way()
            chunk = self.chunks[key]
            lines = lines_of(chunk.view.metrics())
            self._replace(chunk.packed, lines)
            chunk.packed = Packed(lines)
        written = len(self._changed)
        self._changed.clear()
        return written

    def _replace(self, old: Packed, new: Lines) -> None:
        self.text_bytes += new.text_bytes - old.text_bytes
        before, after = old.by_family(), new.by_family
        changed = [
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        ]
        for pieces in self._pieces.values():
            pieces.update(dict.fromkeys(changed))

    def pieces(self, text: Format) -> Mapping[str, Piece | None]:
        """Make the pieces of a format, as far as they are not there."""
        pieces = self._pieces.get(text)
        if pieces is not None and None not in pieces.values():
            return pieces
        views = [chunk.packed.by_family() for chunk in self.chunks.values()]
        if pieces is None:
            pieces = self._pieces[text] = dict.fromkeys(chain.from_iterable(views))
        for name in [name for name, made in pieces.items() if made is None]:
            lines = b"".join([by_family.get(name, b"") for by_family in views])
            if lines:
                pieces[name] = piece(lines if text.has_exemplars else without_exemplars(lines))
            else:
                del pieces[name]
        return pieces

    def keep(self, formats: Sequence[Format]) -> None:
        """Drop the pieces of all other formats."""
        self._pieces = {text: self._pieces[text] for text in formats if text in self._pieces}


class Groups:
    """All views, some together."""

    def __init__(self) -> None:
        self._places: dict[Hashable, _Group] = {}
        self._groups: dict[_Group, None] = {}
        self._roomy: dict[_Group, None] = {}

    @property
    def text_bytes(self) -> int:
        """What was written, without exemplars."""
        return sum(group.text_bytes for group in self._groups)

    def place(self, key: Hashable, view: View | None) -> None:
        """Take a view in, or away."""
        group = self._places.get(key)
        if view is not None:
            if group is None:
                group = self._places[key] = next(iter(self._roomy), None) or _Group()
            group.put(key, view)
        elif group is not None:
            del self._places[key]
            group.remove(key)
        else:
            return
        for known, is_one in (
            (self._groups, bool(group.chunks)),
            (self._roomy, 0 < len(group.chunks) < _GROUP_VIEWS),
        ):
            if is_one:
                known[group] = None
            else:
                known.pop(group, None)

    def write(self, give_way: Callable[[], None]) -> int:
        """Write what changed; tell how many views that were."""
        return sum(group.write(give_way) for group in self._groups)

    def pieces(self, text: Format) -> list[Mapping[str, Piece | None]]:
        """Make the pieces of a format, as far as they are not there."""
        return [group.pieces(text) for group in self._groups]

    def keep(self, formats: Sequence[Format]) -> None:
        """Drop the pieces of all other formats."""
        for group in self._groups:
            group.keep(formats)
