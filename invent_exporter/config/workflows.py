"""What teams say of workflows: names, more labels, and which are left out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate

EVERY = ("*",)


@dataclass(frozen=True, slots=True)
class Workflows:
    """Names and labels by workflow id; globs of the ids that count, and of those that don't."""

    names: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    include: tuple[str, ...] = EVERY
    exclude: tuple[str, ...] = ()

    @property
    def leave_out_any(self) -> bool:
        """Tell whether there may be a workflow that is left out."""
        return self.include != EVERY or bool(self.exclude)

    def leave_out(self, workflow_id: str) -> bool:
        """Tell whether the runs of a workflow are read, and not counted."""
        if not self.leave_out_any:
            return False
        return not _matches(self.include, workflow_id) or _matches(self.exclude, workflow_id)

    def name_of(self, workflow_id: str) -> str:
        """Return the workflow's name; its id where nobody gave it one."""
        return self.names.get(workflow_id, workflow_id)

    def shown(self, workflow_id: str) -> tuple[str, Mapping[str, str], bool]:
        """Return all that is served of it: two that are equal look the same."""
        labels = self.labels.get(workflow_id, {})
        return self.name_of(workflow_id), labels, self.leave_out(workflow_id)


def _matches(globs: tuple[str, ...], workflow_id: str) -> bool:
    # `re` keeps what it compiled.
    return any(re.match(translate(glob), workflow_id) for glob in globs)
