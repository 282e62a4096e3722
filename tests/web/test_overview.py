"""The overview for people: what it says, and that nothing from outside becomes markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invent_exporter import __version__
from invent_exporter.collector.status import FailedRow, OpenRow, OrgStatus
from invent_exporter.web.overview import CONTENT_SECURITY_POLICY, render

NOW = 1_795_489_881.0  # 2026-11-24 03:11:21 UTC
ORG = OrgStatus(
    org_id="org_1",
    name="Acme",
    up=True,
    last_poll_timestamp_seconds=NOW - 12,
    last_success_timestamp_seconds=NOW - 12,
    poll_interval_seconds=30.0,
    error=None,
    open_runs=(),
    failed=(),
)
FAILED = FailedRow("run_1", "Order sync", NOW - 132, "HTTP 502", "https://x.example/1?a&b")
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


def read(*orgs: OrgStatus, telemetry_path: str = "/metrics") -> Reader:
    """Render and read."""
    reader = Reader()
    reader.feed(render(orgs, telemetry_path=telemetry_path, now=NOW))
    reader.close()
    assert not reader._open
    return reader


def links(reader: Reader) -> list[str | None]:
    """List where its links lead."""
    return [attributes["href"] for tag, attributes in reader.tags if tag == "a"]


DOWN = replace(ORG, up=False, error="timeout: no answer", last_success_timestamp_seconds=NOW - 4000)
NEVER_UP = replace(DOWN, last_success_timestamp_seconds=None, error=None, open_runs=None)
FRESH = OrgStatus("c", None, None, None, None, 30.0, None, None, ())
OPEN = (OpenRow("Order sync", "RUNNING", 3, NOW - 95), OpenRow("wf_2", "PENDING", 1, NOW))


@pytest.mark.parametrize("org_id", ["org_1", "a b/c", '"><b>%41#é'])
def test_an_org_is_found_by_its_id(org_id: str) -> None:
    """Dashboards link to `/#org-ID`, percent-encoded: browsers decode it and look for that id."""
    reader = read(replace(ORG, org_id=org_id))
    assert [named["id"] for _, named in reader.tags if "id" in named] == [f"org-{org_id}"]


AGES = [  # in two units; a time in the future is now
    *((-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min 59 s")),
    *((3600, "1 h"), (86399, "23 h 59 min"), (90000, "1 d 1 h")),
]


@pytest.mark.parametrize(
    ("org", "said"),
    [
        (None, f"Invent exporter {__version__}"),
        (None, "As of 2026-11-24 03:11:21 UTC"),
        (None, "No org is polled yet."),
        (ORG, "1 org: 1 up."),
        (ORG, "Acme org_1 up Last poll 12 s ago 2026-11-24 03:11:09 UTC ; polls every 30 s."),
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
            "Order sync 2 min 12 s ago 2026-11-24 03:09:09 UTC run_1 HTTP 502",
        ),
        (
            replace(ORG, failed=(FailedRow("run_2", "wf_2", None, "", None),)),
            "wf_2 time not known run_2 No error was given.",
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
    assert links(overview) == ["/m", "/-/healthy", "/-/ready", "https://x.example/1?a&b"]


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
    assert len(links(overview)) == 3
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
        run = FailedRow(texts[0], texts[1], NOW, texts[3] or "x", f"https://x/{texts[4]}")
        open_runs = (OpenRow(texts[5], texts[6], 1, NOW),)
        org = OrgStatus(texts[7], texts[8] or "x", up, NOW, NOW, 30.0, texts[9], open_runs, (run,))
        return read(org)

    def shape(overview: Reader) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in overview.tags]

    tame = overview_of(["word" if word.split() else word for word in words])
    assert shape(overview_of(words)) == shape(tame)
