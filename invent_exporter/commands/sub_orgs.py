"""The orgs that a command asks: those of the configuration, and the sub-orgs that they list now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from invent_exporter.api.orgs import NO_FINANCES, Finances, SubOrgsApi
from invent_exporter.api.transport import Transport
from invent_exporter.config.key import read_secret
from invent_exporter.config.load import Config, OrgConfig
from invent_exporter.errors import ApiError
from invent_exporter.redaction import Redactor


@dataclass
class Asked:
    """An org to ask; `problem` says what is wrong with the listing of its sub-orgs."""

    org: OrgConfig
    finances: Finances = NO_FINANCES
    problem: str = ""


async def find_orgs(config: Config, transport: Transport, redactor: Redactor) -> list[Asked]:
    """List the orgs to ask; what is configured and listed as well is asked as configured."""
    api = SubOrgsApi(transport)
    asked = {org.id: Asked(org) for org in config.orgs}
    for org in (each for each in config.orgs if each.sub_orgs):
        parent = asked[org.id]
        try:
            listed = await api.read(org.id, partial(read_secret, org.key, redactor))
        except ApiError as error:
            parent.problem = f"sub-orgs: {error.reason}: {error.message}"
            continue
        if listed.doubt is not None:
            parent.problem = f"sub-orgs: {listed.doubt}"
        for each in listed.orgs:
            if redactor.holds(each.org_id):
                continue
            name = redactor.redact_label(each.name) if each.name else None
            sub_org = replace(org, id=each.org_id, name=name, sub_orgs=False)
            asked.setdefault(each.org_id, Asked(sub_org)).finances = each.finances
    return list(asked.values())
