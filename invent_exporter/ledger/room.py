"""How much of /metrics as text there is room for: near the limit new workflows are folded.

It is known before anything is encoded, and whether or not anybody scrapes: a workflow is as large
as one that was just born, and what those that are served have grown by comes on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_NEAR = 0.9
"""What is known goes on to grow: longer numbers, late series."""


@dataclass
class TextRoom:
    """What is left of `most_bytes`.

    A workflow that was just born has `base_bytes` of text, and `lines` times its labels on top.
    `grown_bytes` is what /metrics has beyond that.
    """

    most_bytes: float = math.inf
    base_bytes: int = 0
    lines: int = 0
    grown_bytes: int = 0

    def newborn_bytes(self, org_id: str | None, workflow_id: str) -> int:
        """Tell how large a workflow is when it is born."""
        return self.base_bytes + self.lines * len(f"{org_id or ''}{workflow_id}".encode())

    def left_bytes(self, taken_bytes: int) -> float:
        """Tell how much may be born when the workflows of all orgs take so much."""
        return _NEAR * self.most_bytes - self.grown_bytes - taken_bytes
