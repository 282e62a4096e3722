"""The overview for people: what it says, and that nothing from outside becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invent_exporter import __version__
from invent_exporter.api.orgs import Finances
from invent_exporter.collector.status import (
    FailedRow,
    Hour,
    OpenRow,
    OrgElsewhere,
    OrgStatus,
    SubOrgsStatus,
)
from invent_exporter.web.api_status import encode, schema
from invent_exporter.web.overview import CONTENT_SECURITY_POLICY, Chosen, render

ROOT = Path(__file__).parents[2]
NOW = 1_795_489_881.0  # 2026-11-24 03:11:21 UTC
ORG = OrgStatus(
    org_id="org_1",
    name="Acme",
    up=True,
    last_poll_timestamp_seconds=NOW - 12,
    next_poll_timestamp_seconds=NOW + 18,
    last_success_timestamp_seconds=NOW - 12,
    lag_seconds=12.0,
    poll_interval_seconds=30.0,
    listing_order="newest first",
    rate_limit_share=0.006,
    owner="host-1",
    error=None,
    open_runs=(),
    failed=(),
    hours=(),
)
LINK = "https://x.example/1?a&b"
FAILED = FailedRow("run_1", "wf_1", "Order sync", "WEBHOOK", NOW - 132, 75.0, 2.5, "HTTP 502", LINK)
VOID = {"meta", "link", "br", "img", "input", "hr", "base"}


class Reader(HTMLParser):
    """Reads HTML into its text and tags, and insists that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it is the one to close."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text, without the style."""
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(" ".join(self.words).split())


def read(
    *orgs: OrgStatus,
    telemetry_path: str = "/metrics",
    chosen: Chosen = Chosen(),  # noqa: B008 - frozen
) -> Reader:
    """Render and read."""
    reader = Reader()
    reader.feed(render(orgs, telemetry_path=telemetry_path, now=NOW, chosen=chosen))
    reader.close()
    assert not reader._open
    return reader


def links(reader: Reader) -> list[str | None]:
    """List where its links lead."""
    return [attributes["href"] for tag, attributes in reader.tags if tag == "a"]


DOWN = replace(ORG, up=False, error="timeout: no answer", last_success_timestamp_seconds=NOW - 4000)
NEVER_UP = replace(DOWN, last_success_timestamp_seconds=None, error=None, open_runs=None)
FRESH = replace(
    NEVER_UP,
    org_id="c",
    name=None,
    up=None,
    listing_order="not learned",
    last_poll_timestamp_seconds=None,
    next_poll_timestamp_seconds=None,
    lag_seconds=None,
    rate_limit_share=None,
)
SUB_ORG = replace(
    ORG,
    parent="org_p",
    finances=Finances(0.0, spending_cap_credits=1000.0, spending_cap_used_credits=1.5),
)
OPEN = (
    OpenRow("wf_1", "Order sync", "RUNNING", 3, NOW - 95),
    OpenRow("wf_2", "wf_2", "PENDING", 1, NOW),
)


@pytest.mark.parametrize("org_id", ["org_1", "a b/c", '"><b>%41#é'])
def test_an_org_is_found_by_its_id(org_id: str) -> None:
    """Dashboards link to `/#org-ID`, percent-encoded: browsers decode it and look for that id."""
    reader = read(replace(ORG, org_id=org_id))
    assert [named["id"] for _, named in reader.tags if "id" in named] == [f"org-{org_id}"]


BARE = FailedRow("run_2", "wf_2", "wf_2", "UNKNOWN", None, None, None, "", None)
AGES = [  # in two units; a time in the future is now
    *((-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min 59 s")),
    *((3600, "1 h"), (86399, "23 h 59 min"), (90000, "1 d 1 h")),
]


@pytest.mark.parametrize(
    ("org", "said"),
    [
        (SUB_ORG, "A sub-org of org_p . Credits: balance 0, spent 1.5 of at most 1,000."),
        (
            replace(ORG, sub_orgs=SubOrgsStatus(3, NOW - 60, None)),
            "Polled by host-1. 3 sub-orgs; looked for 1 min ago",
        ),
        (
            replace(ORG, sub_orgs=SubOrgsStatus(1, NOW - 60, "HTTP 403 <b>")),
            "1 sub-org; looked for 1 min ago 2026-11-24 03:10:21 UTC .",
        ),
        (
            replace(ORG, sub_orgs=SubOrgsStatus(1, NOW - 60, "HTTP 403 <b>")),
            "The last look for sub-orgs failed: HTTP 403 <b>",
        ),
        (
            replace(ORG, sub_orgs=SubOrgsStatus(None, None, None)),
            "Sub-orgs are not known yet. Open",
        ),
        (None, f"Invent exporter {__version__}"),
        (None, "As of 2026-11-24 03:11:21 UTC"),
        (None, "No org is polled yet."),
        (ORG, "1 org: 1 up."),
        (ORG, "Acme org_1 up Last poll 12 s ago 2026-11-24 03:11:09 UTC ; polls every 30 s,"),
        (ORG, "polls every 30 s, next in 18 s. Numbers are 12 s old. Listing: newest first."),
        (ORG, "Takes 0.6% of the rate limit. Polled by host-1."),
        (ORG, "Open runs None: nothing is pending or running."),
        (ORG, "Newest failed runs No failed run is known."),
        (DOWN, "Acme org_1 down"),
        (DOWN, "The last poll failed: timeout: no answer"),
        (DOWN, "Last success 1 h 6 min ago 2026-11-24 02:04:41 UTC ; counters stay"),
        (DOWN, "Open runs As of the last success: None"),
        (NEVER_UP, "The last poll failed. No poll has succeeded since the start."),
        (NEVER_UP, "Open runs Not known now."),
        (FRESH, "c not polled yet No poll has ended yet; polls every 30 s."),
        (FRESH, "Open runs Not known now."),
        (
            replace(ORG, open_runs=OPEN),
            "Workflow Status Runs Oldest for Order sync RUNNING 3 1 min 35 s wf_2 PENDING 1 0 s",
        ),
        (
            replace(ORG, failed=(FAILED,)),
            "Order sync 2 min 12 s ago 2026-11-24 03:09:09 UTC run_1 WEBHOOK, took 1 min 15 s,",
        ),
        (
            replace(ORG, failed=(FAILED,)),
            "took 1 min 15 s, 2.5 credits HTTP 502",
        ),
        (
            replace(ORG, failed=(replace(BARE, error=""),)),
            "wf_2 time not known run_2 UNKNOWN No error was given.",
        ),
        (
            replace(ORG, failed=(replace(BARE, error=None),)),
            "run_2 UNKNOWN Errors are not shown (web.show_errors).",
        ),
        (  # years that datetime cannot say
            replace(ORG, failed=(replace(FAILED, ended_timestamp_seconds=1e300),)),
            "(at no time that a calendar has)",
        ),
        *(
            (replace(ORG, last_poll_timestamp_seconds=NOW - age), f"Last poll {ago} ago 20")
            for age, ago in AGES
        ),
    ],
)
def test_overview_says_in_words(org: OrgStatus | None, said: str) -> None:
    """State, why and since when, ages and times; and nothing is claimed before it is known."""
    assert said in read(*([] if org is None else [org])).text


def test_links_lead_to_the_routes_and_to_failed_runs() -> None:
    """To the metrics where they are."""
    overview = read(replace(ORG, failed=(FAILED,)), telemetry_path="/m")
    of_page = ["/m", "/api/status", "/-/healthy", "/-/ready"]
    assert links(overview) == [*of_page, "/?org=org_1", "/?org=org_1&workflow=wf_1", LINK]


def test_orgs_that_are_down_come_first() -> None:
    """Whoever was woken reads the reason first; the title and the summary count them."""
    orgs = [replace(ORG, org_id=f"org_{up}", name=None, up=up) for up in (True, None, False)]
    overview = read(*orgs).text
    assert overview.index("org_False") < overview.index("org_None") < overview.index("org_True")
    assert "3 orgs: 1 down, 1 up, 1 not polled yet." in overview
    assert overview.startswith("1 down - Invent exporter")


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        " javascript:x",
        "data:text/html,x",
        "//x",
        "/x",
        "",
        "http:",
        "http:///x",
    ],
)
def test_only_web_links_are_links(link: str) -> None:
    """A link that is not http or https, with a host, is left out; the run stays."""
    overview = read(replace(ORG, failed=(replace(FAILED, link=link),)))
    assert len(links(overview)) == 6
    assert "run_1" in overview.text


def test_long_error_is_shortened_and_folded() -> None:
    """The start is shown, more is unfolded, megabytes are cut."""
    error = "word " * 1_000_000
    overview = read(replace(ORG, failed=(replace(FAILED, error=error),)))
    assert "details" in {tag for tag, _ in overview.tags}
    assert len(overview.text) < 2 * 4000
    assert "(4999999 characters in all)" in overview.text
    overview = read(replace(ORG, failed=(replace(FAILED, error="x" * 160),)))
    assert "details" not in {tag for tag, _ in overview.tags}


def test_many_failed_runs_are_folded() -> None:
    """The newest are open, the rest is one touch away."""
    failed = tuple(replace(FAILED, run_id=f"run_{number}") for number in range(12))
    overview = read(replace(ORG, failed=failed)).text
    assert overview.index("run_4") < overview.index("7 more") < overview.index("run_5")
    assert "run_11" in overview


def test_policy_holds_the_hash_of_the_style_that_is_sent() -> None:
    """The browser applies the one style that the policy names."""
    style = re.search("<style>(.*?)</style>", render((), telemetry_path="/m", now=NOW), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert CONTENT_SECURITY_POLICY.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")


hostile = st.text(max_size=30) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=1>',
        "' onclick='x",
        "</pre></details>",
        "&lt;",
    ]
)


@settings(max_examples=40)
@given(words=st.lists(hostile, min_size=10, max_size=10), up=st.sampled_from([True, False, None]))
def test_nothing_from_outside_becomes_markup(words: list[str], up: bool | None) -> None:  # noqa: FBT001 -- a drawn case
    """Whatever the strings are, the overview has the tags and attributes of a tame one."""

    def overview_of(texts: list[str]) -> Reader:
        link, error = f"https://x/{texts[4]}", texts[3] or "x"
        run = replace(FAILED, run_id=texts[0], workflow=texts[1], error=error, link=link)
        named = replace(run, workflow_id=texts[1], origin=texts[2])
        open_runs = (OpenRow(texts[5], texts[5], texts[6], 1, NOW),)
        org = replace(ORG, org_id=texts[7], name=texts[8] or "x", owner=texts[2], error=texts[9])
        looks = SubOrgsStatus(1, NOW, texts[9] or "x")
        org = replace(org, parent=texts[6], sub_orgs=looks)
        return read(replace(org, up=up, open_runs=open_runs, failed=(named,)))

    def shape(overview: Reader) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in overview.tags]

    tame = overview_of(["word" if word.split() else word for word in words])
    assert shape(overview_of(words)) == shape(tame)


OTHER = replace(ORG, org_id="org_2", name=None, open_runs=OPEN, failed=(FAILED, BARE))


def test_links_choose_an_org_and_a_workflow() -> None:
    """Without a script: the page of the link shows that one alone, and leads back."""
    assert {"/?org=org_1", "/?org=org_2&workflow=wf_1"} <= set(links(read(ORG, OTHER)))
    one = read(ORG, OTHER, chosen=Chosen("org_2"))
    assert "Acme" not in one.text
    assert "Only org org_2 ." in one.text
    assert "/" in links(one)
    workflow = read(ORG, OTHER, chosen=Chosen("org_2", "wf_2")).text
    assert "Only workflow wf_2 of org org_2 ." in workflow
    assert [word in workflow for word in ("run_2", "run_1", "RUNNING")] == [True, False, False]


def test_plots_show_the_last_hours() -> None:
    """Runs by status, failed ones at the bottom, and credits; nothing where nothing ended."""
    begin = NOW // 3600 * 3600
    hours = (
        Hour(begin - 23 * 3600, {"COMPLETED": 4}, 0.0),
        Hour(begin, {"COMPLETED": 6, "FAILED": 2}, 2.5),
    )
    page = read(replace(ORG, hours=hours))
    drawn = [
        tuple(named[name] for name in ("class", "x", "y", "height"))
        for tag, named in page.tags
        if tag == "rect"
    ]
    assert drawn == [
        ("COMPLETED", "0", "30.0", "30.0"),
        ("FAILED", "230", "45.0", "15.0"),
        ("COMPLETED", "230", "0.0", "45.0"),
        ("credits", "230", "0.0", "60.0"),
    ]
    assert "03:00 UTC: 2 FAILED" in page.text
    assert "by the hour" not in read(ORG).text


def test_the_page_says_which_replica_serves_the_other_orgs() -> None:
    """And that one is served by nobody at the moment; without other replicas it says nothing."""
    others = (OrgElsewhere("org-7", "pod-b"), OrgElsewhere("<org-8>", None))
    html = render((), telemetry_path="/metrics", now=NOW, elsewhere=others)
    assert "No org is served here." in html
    assert "<tr><td>org-7</td><td>pod-b</td></tr>" in html
    assert "<tr><td>&lt;org-8&gt;</td><td>nobody at this moment</td></tr>" in html
    assert "Other replicas" not in read(ORG).text


def test_api_status_says_the_same_in_json() -> None:
    """It fits its schema, which docs has as the code makes it."""
    others = [OrgElsewhere("org-7", "pod-b"), OrgElsewhere("org-8", None)]
    document = json.loads(encode([DOWN, OTHER], now=NOW, elsewhere=others))
    assert document["elsewhere"][0] == {"org_id": "org-7", "owner": "pod-b"}
    described = schema()
    assert (ROOT / "docs" / "api-status.schema.json").read_bytes() == described
    jsonschema.validate(document, json.loads(described))
    assert (document["version"], document["timestamp_seconds"]) == (1, NOW)
    assert document["orgs"][1]["failed"][0]["error"] == "HTTP 502"
