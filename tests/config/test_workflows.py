"""Which workflows are left out."""

from __future__ import annotations

import pytest

from invent_exporter.config.workflows import Workflows


@pytest.mark.parametrize(
    ("include", "exclude", "left_out"),
    [
        (("*",), (), set()),
        (("wf-*",), (), {"__none__", "other", "WF-1"}),
        (("*",), ("wf-dev-*", "__none__"), {"wf-dev-1", "__none__"}),
        (("wf-*",), ("wf-dev-?",), {"wf-dev-1", "__none__", "other", "WF-1"}),
        ((), (), {"wf-1", "wf-dev-1", "__none__", "other", "WF-1"}),
    ],
)
def test_globs_choose_by_id_and_exclusion_goes_first(
    include: tuple[str, ...], exclude: tuple[str, ...], left_out: set[str]
) -> None:
    """Case counts, and what has no workflow is `__none__`."""
    workflows = Workflows(include=include, exclude=exclude)
    ids = ("wf-1", "wf-dev-1", "__none__", "other", "WF-1")
    assert {each for each in ids if workflows.leave_out(each)} == left_out
