"""The orgs of a world, who may read whom, and what their runs cost them."""

from __future__ import annotations

import msgspec


class Org(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An org; amounts are credits. Without a cap, `spending_cap` is None."""

    id: str
    name: str
    key: str
    parent: str | None = None
    plan: str = "pro"
    balance: float = 1000.0
    promo_balance: float = 0.0
    spending_cap_used: float = 0.0
    spending_cap: float | None = None
    use_parent_balance: bool = False


class Orgs:
    """The orgs that are there now, in the order in which they were added."""

    def __init__(self) -> None:
        """Start with none."""
        self._by_id: dict[str, Org] = {}
        self._by_key: dict[str, str] = {}

    def put(self, org: Org) -> None:
        """Add an org, or replace the one with its id."""
        self._by_id[org.id] = org
        if self.of_key(org.key) is None:
            self._by_key[org.key] = org.id

    def remove(self, org_id: str) -> None:
        """Let an org be gone; its runs stay, in case it comes back.

        Raises:
            KeyError: there is none.

        """
        del self._by_id[org_id]

    def all(self) -> tuple[Org, ...]:
        """Return all of them."""
        return tuple(self._by_id.values())

    def get(self, org_id: str) -> Org | None:
        """Find an org."""
        return self._by_id.get(org_id)

    def of_key(self, key: str) -> Org | None:
        """Find the org that a key was made in."""
        org = self.get(self._by_key.get(key, ""))
        return org if org is not None and org.key == key else None

    def charge(self, org_id: str, amount: float) -> None:
        """Take credits, as far as there are any, from an org or its parent; promotional ones first.

        A revision downward gives credits back.
        """
        org = self.get(org_id)
        if org is None:
            return
        if org.spending_cap is not None:
            org = self._replace(org, spending_cap_used=org.spending_cap_used + amount)
        payer = self.get(org.parent or "") if org.use_parent_balance else org
        if payer is not None:
            of_promo = max(0.0, min(amount, payer.promo_balance))
            self._replace(
                payer,
                promo_balance=payer.promo_balance - of_promo,
                balance=max(min(0.0, payer.balance), payer.balance - (amount - of_promo)),
            )

    def _replace(self, org: Org, **changes: float) -> Org:
        rounded = {name: round(amount, 6) for name, amount in changes.items()}
        changed = msgspec.structs.replace(org, **rounded)
        self.put(changed)
        return changed
