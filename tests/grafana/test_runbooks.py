"""Hold the runbooks: whoever is woken up looks at panels, queries and log lines that there are."""

import re

import pytest

from grafana.generate import all_panels
from tests.grafana.promql import selectors
from tests.grafana.sources import BOARDS, RECORDED, ROOT, THRESHOLDS, family_name, family_types

PAGES = {path.stem: path.read_text() for path in (ROOT / "docs/runbooks").glob("Invent*.md")}
SHOWN = {
    *(panel["title"] for board in BOARDS.values() for panel in all_panels(board)),
    *(mark["name"] for board in BOARDS.values() for mark in board["annotations"]["list"]),
}
CODE = "".join(path.read_text() for path in (ROOT / "invent_exporter").rglob("*.py"))

pages = pytest.mark.parametrize("name", sorted(PAGES))


def _look_first(name: str) -> str:
    return PAGES[name].partition("## Look first")[2].partition("## What to do")[0]


@pages
def test_panels_exist(name: str) -> None:
    """A panel that was renamed is searched for in vain."""
    assert set(re.findall("«([^»]+)»", PAGES[name])) <= SHOWN


@pages
def test_log_lines_exist(name: str) -> None:
    """What is to be searched for in the log is what the code writes."""
    for message in re.findall('msg="([^"]+)"', PAGES[name]):
        assert f'"{message}"' in CODE


@pages
def test_queries_can_be_pasted(name: str) -> None:
    """There is one at least; it parses, and reads what is served or recorded."""
    quoted = re.findall("`([^`]+)`", _look_first(name))
    queries = [text for text in quoted if re.search(r"\binvent_\w+|\bup\b", text)]
    assert queries
    known = set(family_types()) | {"up"}
    for query in queries:
        for found in selectors(query):
            assert found.metric in RECORDED or family_name(found.metric) in known


@pages
def test_the_first_look_is_at_a_panel_or_a_log_line(name: str) -> None:
    """Whoever is half asleep begins with a picture, or with the words of the program."""
    assert re.search("«|[Ll]og|targets' page", _look_first(name))


@pages
def test_knobs_and_reasons_exist(name: str) -> None:
    """A threshold, key or reason that is named is one that there is."""
    for word in re.findall(r"`([a-z]+_[a-z_]+)(?:: [^`]*)?`", PAGES[name]):
        assert word in THRESHOLDS or word in CODE or family_name(word) in family_types()
