"""Who polls which org, where several replicas share a database: the decisions, without I/O.

A *lease* is the right to poll, commit and serve one org for a while. Each take has a number that no
other has, its *epoch*: what a replica knows of a lease is told by that alone. Why no run counts
twice and no org is served twice: docs/replicas.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

RENEWALS = 5
"""So often a lease is renewed while it lasts; the last such part of it nobody serves."""
_PARTS_OF_A_SHARE = 2
"""At most such a part of one is handed over at a time: so much is without an owner at once."""


class Heard(msgspec.Struct, frozen=True):
    """What a heartbeat learned, in one transaction; `sent_seconds` is our clock just before it.

    Only the wanted orgs count: `keys` leads from a target's id to the key of its lease (the org's
    id, `c` until that is known). `owners` has the leases that have not run out, of whomever.
    """

    sent_seconds: float
    keys: Mapping[str, str]
    owners: Mapping[str, str]
    replicas: Collection[str]
    """Those that live and want the same orgs."""
    mine: Mapping[int, str]
    """The keys of all leases that are ours, by epoch; also one that ran out and nobody took."""
    history_until: Mapping[str, float]
    """Of the orgs with a real id: until when what ended is not theirs (`OrgLedger`)."""
    listed: object = None
    """Another value when other sub-orgs, or more of them, were noted."""


class Share(msgspec.Struct, frozen=True):
    """How many orgs a replica should have: these two numbers differ by at most 1."""

    least: int
    most: int


def share(orgs: int, replicas: int) -> Share:
    """Divide evenly, so that nobody has two more than another and nothing is left over."""
    return Share(orgs // replicas, math.ceil(orgs / replicas))


class Shares(msgspec.Struct, frozen=True):
    """What replicas that want the same orgs have of them; what others have is not theirs to share.

    `owned` is how many each has, `mine` which are ours; `free` are the orgs that nobody owns.
    """

    owned: Mapping[str, int]
    mine: Sequence[str]
    free: Sequence[str]
    fair: Share


def look(
    me: str, wanted: Sequence[str], owners: Mapping[str, str], replicas: Collection[str]
) -> Shares:
    """Count; `replicas` are those that want the same, this one among them."""
    owned = Counter(dict.fromkeys(replicas, 0))
    owned.update(owners[key] for key in wanted if owners.get(key) in replicas)
    free = [key for key in wanted if key not in owners]
    mine = [key for key in wanted if owners.get(key) == me]
    return Shares(owned, mine, free, share(owned.total() + len(free), len(replicas)))


def to_take(
    me: str, wanted: Sequence[str], owners: Mapping[str, str], replicas: Collection[str]
) -> int:
    """Tell how many of the wanted orgs that nobody owns this replica should take.

    Up to the smaller share, and one more when it is none that another lacks.
    """
    shares = look(me, wanted, owners, replicas)
    least, have, free = shares.fair.least, len(shares.mine), len(shares.free)
    due = min(free, max(0, least - have))
    lacking = sum(max(0, least - n) for owner, n in shares.owned.items() if owner != me)
    is_spare = have + due < shares.fair.most and free - due > lacking
    return due + is_spare


def to_hand_over(
    me: str, wanted: Sequence[str], owners: Mapping[str, str], replicas: Collection[str]
) -> Sequence[str]:
    """Choose orgs that another replica should have: a few, and none while any has no owner.

    Those handed over before were not taken yet then, or a dead replica's wait to be taken.
    """
    shares = look(me, wanted, owners, replicas)
    least, most = shares.fair.least, shares.fair.most
    surplus = len(shares.mine) - most
    if surplus == 0 and min(shares.owned.values()) < least:
        surplus = most - least  # as many as anybody may have, while somebody has too few
    if shares.free or surplus <= 0:
        return ()
    return shares.mine[-min(surplus, math.ceil(most / _PARTS_OF_A_SHARE)) :]


class Standing:
    """What a replica holds, and until when it may serve it, by its own clock."""

    def __init__(self, lease_seconds: float) -> None:
        self._serve_seconds = lease_seconds * (1 - 1 / RENEWALS)
        self.serving_until = -math.inf
        """No answer with series of these orgs may begin later."""
        self.known: Mapping[int, str] = {}
        self.given_up: set[int] = set()
        """Leases that are withdrawn, or about to be, and then released: never ours again."""

    @property
    def held(self) -> dict[int, str]:
        """The keys of the orgs to poll and to serve, by epoch."""
        return {epoch: key for epoch, key in self.known.items() if epoch not in self.given_up}

    def lost(self, mine: Mapping[int, str]) -> list[int]:
        """List what is held, and not among the leases that were just told to be ours."""
        return [epoch for epoch in self.held if epoch not in mine]

    def keep_only(self, mine: Mapping[int, str]) -> None:
        """Hold no more what was lost; what is new is not held yet."""
        self.known = {epoch: mine[epoch] for epoch in self.known if epoch in mine}

    def renewed(self, heard: Heard) -> None:
        """Hold what was told to be ours; only after what was lost is served no more.

        The lease began in the database after `heard.sent_seconds`, so it ends later than this.
        """
        self.known = heard.mine
        self.given_up &= heard.mine.keys()
        self.serving_until = max(self.serving_until, heard.sent_seconds + self._serve_seconds)
