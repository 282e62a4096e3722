"""Any interleaving of what may happen ends in the truth (promises 1 to 4).

Each of these deliberate bugs turned this test red:

1. Counts: counting a run again when it is read again; counting history; publishing a draft before
   its commit; dropping a revision of usage; pruning open runs.
2. Misses: settling the rows of a walk that broke off; stopping at the first page; not looking at
   the lists of open runs, or not searching ALL for those that left them; taking an idle answer for
   the whole while runs are open; not seeing that rows slipped by between two pages; a
   reconciliation that ends after a page.
3. First events: releasing a newborn series before it was scraped at 0, or before its hold was over;
   taking an acknowledgement for the newest generation's; a release that is not stored; a late
   series that is shown at once.
"""

from __future__ import annotations

import pytest

from tests.effort import Effort
from tests.soak import BATCH, run_batch

SEED = 20261124


@pytest.mark.parametrize("part", range(4))
def test_after_any_sequence_the_served_numbers_are_those_of_the_model(
    effort: Effort, part: int
) -> None:
    """And no counter went back, and each first event was preceded by a scraped 0."""
    batches = effort.choose(1, 5)
    for number in range(SEED + part * batches, SEED + (part + 1) * batches):
        batch = run_batch(number, effort.choose(15, BATCH), shrinks=False)
        again = f"python -m tests.soak --seed {number} --sequences {batch.sequences}"
        assert batch.failure is None, f"{batch.failure}\nfor a shorter sequence: {again}"
