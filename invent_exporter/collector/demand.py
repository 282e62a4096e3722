"""How often orgs can be polled within the request limit."""

from __future__ import annotations

from invent_exporter.api.ratelimit import RECONCILE_SHARE, lasting_per_minute
from invent_exporter.log import get_logger

ORDINARY_REQUESTS = 4
"""So many a poll may need that catches up with nothing: all runs, and the open ones by status."""
_ENOUGH = 0.9
"""So far the demand must fall before the limit passes for enough again."""

log = get_logger(__package__)


def for_polls_per_minute(requests_per_minute: float) -> float:
    """Tell how many requests of a limit polls may make: what lasts, less the look back's share."""
    return lasting_per_minute(requests_per_minute) - requests_per_minute * RECONCILE_SHARE


class Demand:
    """What the polls of all orgs ask of the request limit; where it is too much, all slow down.

    Otherwise their requests would queue, and each wait for those of all others. An org that catches
    up counts as any other: it takes what is left, a request at a time.
    """

    def __init__(self, requests_per_minute: float) -> None:
        self._requests_per_second: dict[str, float] = {}
        self._is_too_much = False
        self.apply(requests_per_minute)

    def apply(self, requests_per_minute: float) -> None:
        """Share this limit from now on."""
        self._polls_per_minute = for_polls_per_minute(requests_per_minute)

    def note(self, org_id: str, requests: int, interval_seconds: float) -> float:
        """Take note of a poll; return by what all intervals are to be multiplied, 1 or more.

        `interval_seconds` is the org's own, before that.
        """
        per_poll = min(max(requests, 1), ORDINARY_REQUESTS)
        self._requests_per_second[org_id] = per_poll / interval_seconds
        wanted_per_minute = 60 * sum(self._requests_per_second.values())
        stretch = wanted_per_minute / self._polls_per_minute
        if self._is_too_much != (stretch > (_ENOUGH if self._is_too_much else 1.0)):
            self._is_too_much = not self._is_too_much
            self._say(wanted_per_minute)
        return max(1.0, stretch)

    def forget(self, org_id: str) -> None:
        """Leave out an org that is not polled any more."""
        self._requests_per_second.pop(org_id, None)

    def _say(self, wanted_per_minute: float) -> None:
        numbers = {
            "orgs": len(self._requests_per_second),
            "polls_want_per_minute": round(wanted_per_minute),
            "polls_get_per_minute": round(self._polls_per_minute),
        }
        if self._is_too_much:
            log.warning("the request limit is too low for all polls; they are stretched", **numbers)
        else:
            log.info("the request limit is enough for all polls again", **numbers)
