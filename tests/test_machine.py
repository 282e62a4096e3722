"""Any interleaving of what may happen ends in the truth (promises 1 to 4).

Of the promises, each of these deliberate bugs turns this test red: counting a run again when it is
read again; settling the rows of a walk that broke off; letting a poll stop at its first page;
publishing a draft before its commit; releasing a newborn series before it was scraped at 0;
forgetting the acknowledged generation; dropping a revision of usage.
"""

from __future__ import annotations

from tests.soak import soak

SEQUENCES = 500
SEED = 20261124


def test_after_any_sequence_the_served_numbers_are_those_of_the_model() -> None:
    """And no counter went back, and each first event was preceded by a scraped 0."""
    batches = soak(SEED, sequences=SEQUENCES, seconds=float("inf"), processes=2, is_loud=False)
    failures = [f"seed {batch.seed}:\n{batch.failure}" for batch in batches if batch.failure]
    assert not failures, "\n".join(failures)
    assert sum(batch.sequences for batch in batches) == SEQUENCES
