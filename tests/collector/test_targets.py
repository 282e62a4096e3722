"""What is to be polled: the configuration, and the sub-orgs that are known."""

from __future__ import annotations

from dataclasses import replace

from invent_exporter.api.orgs import NO_FINANCES, Finances
from invent_exporter.collector.target import Target
from invent_exporter.collector.targets import STALE_INTERVALS, targets_of
from invent_exporter.config.load import Config, Key, OrgConfig
from invent_exporter.ledger.schema import SubOrgRow
from invent_exporter.ledger.sub_orgs import SubOrgRows

NOW = 1_800_000_000.0
KEYS = {name: Key.literal(f"key-{name}") for name in ("c", "org-a", "org-b")}


def parent(org_id: str = "c", *, sub_orgs: bool = True, name: str | None = None) -> OrgConfig:
    """Configure an org."""
    return OrgConfig(id=org_id, name=name, key=KEYS[org_id], sub_orgs=sub_orgs)


def row(listed_by: str, org_id: str, *, age: float = 1.0) -> SubOrgRow:
    """Make what an org lists; the balance tells who listed it."""
    name = f"{org_id} of {listed_by}"
    return SubOrgRow(listed_by, org_id, NOW - age, name, balance_credits=float(len(listed_by)))


def targets(orgs: list[OrgConfig], *rows: SubOrgRow, alias: str | None = None) -> list[Target]:
    """Compute them."""
    return list(targets_of(Config(orgs=tuple(orgs)), SubOrgRows(rows, alias), NOW))


def brief(found: list[Target]) -> list[tuple[str, str | None, str | None, Key]]:
    """Say who is polled, by which name, for whom, and with which key."""
    return [(each.id, each.name, each.parent, each.key) for each in found]


def test_sub_orgs_are_polled_with_the_key_of_their_parent() -> None:
    """Behind all that is configured, with the intervals of all; their own are not looked for."""
    found = targets([parent(), parent("org-b", sub_orgs=False)], row("c", "org-1"))
    assert brief(found) == [
        ("c", None, None, KEYS["c"]),
        ("org-b", None, None, KEYS["org-b"]),
        ("org-1", "org-1 of c", "c", KEYS["c"]),
    ]
    assert [each.sub_orgs_interval_seconds for each in found] == [600.0, None, None]
    assert len({each.poll_interval_seconds for each in found}) == 1


def test_only_those_of_who_wants_them_are_polled() -> None:
    """Rows of a parent whose switch is off, or which left the configuration, wait."""
    rows = row("org-a", "org-1"), row("org-b", "org-2")
    assert [each.id for each in targets([parent("org-a", sub_orgs=False)], *rows)] == ["org-a"]
    assert [each.id for each in targets([parent("org-b")], *rows)] == ["org-b", "org-2"]


def test_c_has_the_sub_orgs_of_the_org_that_it_is() -> None:
    """Noted by its real id, or before that was known; not those of what it was before."""
    rows = row("c", "org-1"), row("org-main", "org-2"), row("org-before", "org-3")
    found = targets([parent()], *rows, alias="org-main")
    assert [(each.id, each.parent) for each in found[1:]] == [
        ("org-1", "org-main"),
        ("org-2", "org-main"),
    ]


def test_what_is_configured_as_well_is_polled_as_configured() -> None:
    """Once, with its own key and name; its credits come from the listing all the same."""
    rows = row("c", "org-a"), row("c", "org-b"), row("c", "org-1")
    orgs = [parent(), parent("org-a", sub_orgs=False), parent("org-b", name="Bee", sub_orgs=False)]
    found = targets(orgs, *rows)
    assert brief(found) == [
        ("c", None, None, KEYS["c"]),
        ("org-a", "org-a of c", None, KEYS["org-a"]),
        ("org-b", "Bee", None, KEYS["org-b"]),
        ("org-1", "org-1 of c", "c", KEYS["c"]),
    ]
    assert found[2].finances == Finances(1.0)


def test_a_parent_in_its_own_list_is_no_sub_org() -> None:
    """Nor is `c` under its real id, once that is known."""
    rows = row("org-main", "org-main"), row("org-main", "org-1")
    found = targets([parent()], *rows, alias="org-main")
    assert [each.id for each in found] == ["c", "org-1"]
    assert found[0].finances == Finances(8.0)
    found = targets([parent("org-a")], row("org-a", "org-a"))
    assert [each.id for each in found] == ["org-a"]


def test_parents_that_list_each_other_are_polled_once_each() -> None:
    """A circle is no trouble: nobody's sub-orgs are looked for but those of the configuration."""
    rows = row("org-a", "org-b"), row("org-b", "org-a"), row("org-b", "org-1")
    found = targets([parent("org-a"), parent("org-b")], *rows)
    assert [(each.id, each.parent) for each in found] == [
        ("org-a", None),
        ("org-b", None),
        ("org-1", "org-b"),
    ]


def test_what_two_parents_list_goes_with_the_first() -> None:
    """In the order of the configuration."""
    rows = row("org-a", "org-1"), row("org-b", "org-1")
    found = targets([parent("org-b"), parent("org-a")], *rows)
    assert brief(found)[2:] == [("org-1", "org-1 of org-b", "org-b", KEYS["org-b"])]


def test_credits_that_were_not_read_for_long_are_not_known() -> None:
    """The org is polled all the same: nobody withdrew it."""
    stale = STALE_INTERVALS * 600.0
    rows = row("c", "org-1", age=stale - 1), row("c", "org-2", age=stale + 1)
    fresh, old = targets([parent()], *rows)[1:]
    assert (fresh.finances, old.finances) == (Finances(1.0), NO_FINANCES)


def test_what_is_only_said_of_an_org_needs_no_poll() -> None:
    """Name, parent and credits are served at once; key and intervals are polled by."""
    (target,) = targets([parent("org-a")])
    said = replace(target, name="other", parent="org-b", finances=Finances(3.0))
    assert said.is_polled_as(target)
    assert not replace(target, poll_interval_seconds=1.0).is_polled_as(target)
    assert not replace(target, key=KEYS["org-b"]).is_polled_as(target)
