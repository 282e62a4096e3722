"""Any interleaving of what may happen ends in the truth (promises 1 to 4).

tests/deliberate_bugs.yaml lists bugs that turn this test red.
"""

from __future__ import annotations

import pytest

from tests.effort import Effort
from tests.postgres import make_empty
from tests.proof.machine import Machine
from tests.soak import BATCH, run_batch

SEED = 20261124


@pytest.mark.parametrize("part", range(4))
def test_after_any_sequence_the_served_numbers_are_those_of_the_model(
    effort: Effort, part: int
) -> None:
    """And no counter went back, and each first event was preceded by a scraped 0."""
    batches = effort.choose(1, 5)
    for number in range(SEED + part * batches, SEED + (part + 1) * batches):
        batch = run_batch(number, effort.choose(8, BATCH), shrinks=False)
        again = f"python -m tests.soak --seed {number} --sequences {batch.sequences}"
        assert batch.failure is None, f"{batch.failure}\nfor a shorter sequence: {again}"


@pytest.mark.system
def test_the_same_holds_in_postgresql(postgres_url: str) -> None:
    """Also when a commit is done and its answer lost."""

    class PostgresMachine(Machine):
        """Has its state there."""

        state_url = postgres_url

        def __init__(self) -> None:
            super().__init__()
            make_empty(postgres_url)

        def lose_state(self) -> None:
            make_empty(postgres_url)

    batch = run_batch(SEED, 30, shrinks=False, kind=PostgresMachine)
    assert batch.failure is None, batch.failure
