"""Who takes and who hands over what: shares become even, and nothing moves more than it must."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invent_exporter.ledger.lease import share, to_hand_over, to_take


@given(st.integers(0, 500), st.integers(1, 20))
def test_shares_add_up(orgs: int, replicas: int) -> None:
    """Nobody has two more than another, and none is left over."""
    fair = share(orgs, replicas)
    assert fair.least * replicas <= orgs <= fair.most * replicas
    assert fair.most - fair.least <= 1


def settle(
    wanted: list[str], owners: dict[str, str], replicas: list[str], random: Random
) -> Counter[str]:
    """Let heartbeats come in random orders until nothing moves; return how often each org did."""
    moves: Counter[str] = Counter()
    for _ in range(200):
        before = dict(owners)
        for me in random.sample(replicas, len(replicas)):
            free = [key for key in wanted if key not in owners]
            due = to_take(me, wanted, owners, replicas)
            assert due <= len(free)
            owners |= dict.fromkeys(free[:due], me)
            moves.update(free[:due])
            for key in to_hand_over(me, wanted, owners, replicas):
                assert owners.pop(key) == me
        if owners == before:
            return moves
    raise AssertionError(f"it never ends: {owners}")


@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**32))
def test_from_any_beginning_shares_become_even(orgs: int, replicas: int, seed: int) -> None:
    """Each org is owned in the end, and none changed its owner more than once."""
    random = Random(seed)
    wanted, names = [f"org-{n}" for n in range(orgs)], [f"replica-{n}" for n in range(replicas)]
    owners = {key: random.choice(names) for key in wanted if random.random() < 0.8}
    moves = settle(wanted, owners, names, random)
    assert owners.keys() == {*wanted}
    counts = Counter(dict.fromkeys(names, 0))
    counts.update(owners.values())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert max(moves.values(), default=0) <= 1


@pytest.mark.parametrize("joined", [1, 4])
def test_few_orgs_are_without_an_owner_while_replicas_join(joined: int) -> None:
    """Half a share at a time, and the next only when the last has been taken."""
    wanted, names = [f"org-{n}" for n in range(60)], [f"replica-{n}" for n in range(1 + joined)]
    owners = dict.fromkeys(wanted, names[0])
    given_up = to_hand_over(names[0], wanted, owners, names)
    assert len(given_up) == share(60, 1 + joined).most / 2
    for key in given_up:
        del owners[key]
    assert not to_hand_over(names[0], wanted, owners, names)
    assert to_take(names[0], wanted, owners, names) == 0


def test_what_replicas_with_other_orgs_have_is_left_to_them() -> None:
    """While a configuration is rolled out, nothing is handed to who does not want it."""
    wanted = ["old-1", "old-2", "new-1", "new-2"]
    owners = {"old-1": "before", "old-2": "before"}
    assert to_take("after", wanted, owners, ["after"]) == 2
    assert not to_hand_over("before", wanted[:2], owners, ["before"])
