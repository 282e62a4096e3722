"""Faults to switch on: which requests they hit, and what they make of an answer. No HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FaultKind = Literal[
    "status",
    "rate_limited",
    "redirect",
    "html",
    "empty_body",
    "half_json",
    "not_a_list",
    "empty_page",
    "no_pagination",
    "padded",
    "gzip_bomb",
    "slow",
    "drip",
    "endless",
    "cut_off",
    "reset",
]
Manner = Literal["whole", "drip", "endless", "cut_off", "reset"]
_HTML = b"<!doctype html><html><head><title>Oops</title></head><body><h1>Oops</h1></body></html>"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, and how."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    body: bytes = b""
    wait_seconds: float = 0.0
    """Before the first byte."""
    manner: Manner = "whole"
    drip_seconds: float = 0.0
    """How long a dripping body takes."""
    sent_share: float = 0.5
    """How much of a body goes out before it is cut off."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. The first lines say which requests it hits, the rest what it does.

    - `status`: `status` with a `body`; `rate_limited`: 429 with `retry_after`
    - `redirect`: 307 to `location`; `html`: 200 with HTML; `empty_body`: 200 with nothing
    - `half_json`: a complete answer whose JSON breaks off; `not_a_list`: the list in an object
    - `empty_page`: `[]`; `no_pagination`: without the pagination headers
    - `padded`: the same JSON with `mebibytes` of blanks; `gzip_bomb`: the same, compressed
    - `slow`: after `seconds`; `drip`: spread over `seconds`; `endless`: never ends
    - `cut_off`: the connection closes after `share` of the promised body; `reset`: TCP reset
    """

    kind: FaultKind
    org: str | None = None
    """Only requests to this org, by its real id."""
    path: str = ""
    """Only requests whose path ends so: `/runs`, or `/orgs` for the listing of sub-orgs."""
    query: dict[str, str] = {}
    """Only requests with these parameters."""
    probability: float = 1.0
    skip: int = 0
    """So many matching requests pass first."""
    every: int = 1
    """Then each so-manyth is hit."""
    count: int | None = None
    """No more than so many are hit."""
    for_seconds: float | None = None
    """Only so long after it was set."""

    status: int = 500
    body: Literal["html", "json", "empty"] = "html"
    retry_after: str = "none"
    """`none`, `seconds`, `date`, or any other value to send as it is."""
    seconds: float = 1.0
    """Of Retry-After, of a slow answer, of a dripping one."""
    mebibytes: float = 20.0
    share: float = 0.5
    location: str = "https://elsewhere.invalid/"


class _Active:
    def __init__(self, fault: Fault, since: float) -> None:
        self.fault = fault
        self.since = since
        self.matched = 0
        self.hits = 0


class Faults:
    """The faults that are switched on, in order; the first that hits a request decides."""

    def __init__(self, seed: int = 0) -> None:
        """Start with none."""
        self._random = Random(f"{seed}:faults")
        self._active: list[_Active] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault, now: float = 0.0) -> None:
        """Switch faults on; `now` matters to `for_seconds` alone."""
        with self._lock:
            self._active += [_Active(fault, now) for fault in faults]

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._active.clear()

    @property
    def hits(self) -> tuple[tuple[Fault, int], ...]:
        """How often each fault hit."""
        with self._lock:
            return tuple((active.fault, active.hits) for active in self._active)

    def pick(
        self, org_id: str | None, path: str, query: Mapping[str, str], now: float
    ) -> Fault | None:
        """Choose the fault that hits this request, if one does."""

        def is_meant(fault: Fault) -> bool:
            is_place = fault.org in (None, org_id) and path.endswith(fault.path)
            return is_place and fault.query.items() <= query.items()

        with self._lock:
            meant = (active for active in self._active if is_meant(active.fault))
            return next((each.fault for each in meant if self._does_hit(each, now)), None)

    def _does_hit(self, active: _Active, now: float) -> bool:
        fault = active.fault
        if fault.for_seconds is not None and now >= active.since + fault.for_seconds:
            return False
        active.matched += 1
        is_due = active.matched > fault.skip and (active.matched - fault.skip) % fault.every == 0
        is_left = fault.count is None or active.hits < fault.count
        if not (is_due and is_left and self._random.random() < fault.probability):
            return False
        active.hits += 1
        return True


def apply_fault(fault: Fault, answer: Answer, now: float) -> Answer:
    """Turn a good answer into what the fault makes of it; `now` dates a Retry-After."""
    if fault.kind == "status":
        return error_answer(fault.status, "simulated", fault.body)
    if fault.kind == "rate_limited":
        return rate_limited(fault.retry_after, fault.seconds, now, fault.body)
    return msgspec.structs.replace(answer, **_CHANGES[fault.kind](fault, answer))


def _gzip_bomb(fault: Fault, answer: Answer) -> dict[str, object]:
    return {
        "headers": (*answer.headers, ("content-encoding", "gzip")),
        "body": gzip.compress(_padded(answer.body, fault.mebibytes), 1),
    }


_CHANGES: dict[FaultKind, Callable[[Fault, Answer], dict[str, object]]] = {
    "redirect": lambda f, _: {"status": 307, "headers": (("location", f.location),), "body": b""},
    "html": lambda _, __: {"headers": (("content-type", "text/html"),), "body": _HTML},
    "empty_body": lambda _, __: {"body": b""},
    "half_json": lambda _, a: {"body": a.body[: len(a.body) // 2 or 1]},
    "not_a_list": lambda _, a: {"body": b'{"data":' + a.body + b"}"},
    "empty_page": lambda _, __: {"body": b"[]"},
    "no_pagination": lambda _, a: {"headers": _without_pagination(a.headers)},
    "padded": lambda f, a: {"body": _padded(a.body, f.mebibytes)},
    "gzip_bomb": _gzip_bomb,
    "slow": lambda f, _: {"wait_seconds": f.seconds},
    "drip": lambda f, _: {"manner": "drip", "drip_seconds": f.seconds},
    "endless": lambda _, __: {"manner": "endless"},
    "cut_off": lambda f, _: {"manner": "cut_off", "sent_share": f.share},
    "reset": lambda _, __: {"manner": "reset"},
}
"""What a fault changes of a good answer."""


def error_answer(
    status: int, message: str, body: Literal["html", "json", "empty"] = "json"
) -> Answer:
    """Answer with an error; what the service's error bodies look like is not documented."""
    if body == "json":
        return Answer(
            status=status, body=msgspec.json.encode({"statusCode": status, "message": message})
        )
    return Answer(
        status=status,
        headers=(("content-type", "text/html"),),
        body=_HTML if body == "html" else b"",
    )


def rate_limited(
    retry_after: str, seconds: float, now: float, body: Literal["html", "json", "empty"] = "json"
) -> Answer:
    """Answer 429, with Retry-After as `seconds`, as a `date`, not at all (`none`) or as given."""
    value = {
        "none": None,
        "seconds": f"{seconds:.0f}",
        "date": formatdate(now + seconds, usegmt=True),
    }.get(retry_after, retry_after)
    answer = error_answer(429, "too many requests", body)
    if value is None:
        return answer
    return msgspec.structs.replace(answer, headers=(*answer.headers, ("retry-after", value)))


def _without_pagination(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(header for header in headers if not header[0].startswith("pagination-"))


def _padded(body: bytes, mebibytes: float) -> bytes:
    return body[:1] + b" " * round(mebibytes * 2**20) + body[1:]
