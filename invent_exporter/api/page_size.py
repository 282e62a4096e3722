"""How many rows to ask an org for at once, learned from how its answers come."""

from __future__ import annotations

GOOD_ANSWERS_TO_GROW = 3
MOST_ANSWERS_TO_GROW = 192


class PageSize:
    """The page size of one org, shared by its walks across polls."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._good = 0
        self._needed = GOOD_ANSWERS_TO_GROW
        self._has_grown = False
        self.current = maximum
        self.suspects_a_row = False  # a server error was the last that came, or was a row's fault
        self.proved = 0  # so many rows the server gives at once, as was seen

    def halve(self, asked: int) -> None:
        """After an answer for so many rows was too slow or too large: ask for half of them."""
        if self._has_grown and asked > self.current // 2:
            # What this grew to is still too much: each try costs a request, so wait for longer.
            self._needed = min(2 * self._needed, MOST_ANSWERS_TO_GROW)
        self._has_grown = False
        self.current = max(1, min(self.current, asked) // 2)
        self._good = 0

    def good(self, asked: int) -> None:
        """Count a good answer; three in a row double the size, more where that was too much."""
        if asked <= self.current // 2:  # asked for less for another reason: says nothing
            return
        self._good += 1
        if self._has_grown and self._good >= GOOD_ANSWERS_TO_GROW:
            self._has_grown = False  # the size that was grown to holds
            self._needed = GOOD_ANSWERS_TO_GROW
        if self._good >= self._needed and self.current < self._maximum:
            self._good = 0
            self._has_grown = True
            self.current = min(self._maximum, self.current * 2)
