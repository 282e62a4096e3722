"""How many rows to ask an org for at once, learned from how its answers come."""

from __future__ import annotations

GOOD_ANSWERS_TO_GROW = 3


class PageSize:
    """The page size of one org, shared by its walks across polls."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._good = 0
        self.current = maximum
        self.proved = 0  # so many rows the server gives at once, as was seen

    def halve(self, asked: int) -> None:
        """After an answer for so many rows was too slow or too large: ask for half of them."""
        self.current = max(1, min(self.current, asked) // 2)
        self._good = 0

    def good(self, asked: int) -> None:
        """Count a good answer; three in a row to about the current size double it."""
        if asked <= self.current // 2:  # asked for less for another reason: says nothing
            return
        self._good += 1
        if self._good >= GOOD_ANSWERS_TO_GROW:
            self._good = 0
            self.current = min(self._maximum, self.current * 2)
