"""Hold the dashboards: generated, laid out without overlaps, complete, linked."""

import json
import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from grafana.generate import dashboards, panel_id

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "grafana/dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FILES}
FIRST_SCREEN_ROWS = 20
"""What a browser of 1080 lines shows of a dashboard below its variables: 38 lines for each row."""

boards = pytest.mark.parametrize("name", sorted(BOARDS))


def test_committed_dashboards_are_what_the_code_makes() -> None:
    """Nobody edits a generated file, and nobody forgets to generate."""
    assert {path.name: path.read_text() for path in FILES} == dashboards()


def test_uids_are_those_that_alerts_link_to() -> None:
    """An address that people keep does not change."""
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "overview": "invent-overview",
        "workflow": "invent-workflow",
        "exporter": "invent-exporter",
    }


@boards
def test_panels_have_ids_of_their_own(name: str) -> None:
    """Grafana finds a panel by its id, and people keep links to it: it moves with the panel."""
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in BOARDS[name]["panels"]:
        assert panel["id"] == panel_id(panel["type"], panel["title"])


@boards
def test_panels_lie_in_the_grid_and_do_not_overlap(name: str) -> None:
    """Grafana would move an overlapping panel, and the screen would not be the one intended."""
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["w"] > 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@boards
def test_panels_leave_no_holes(name: str) -> None:
    """Each row of the grid is filled from left to right: Grafana pulls panels up into holes."""
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    filled = {
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }
    bottom = max(place["y"] + place["h"] for place in places)
    assert filled == {(x, y) for x in range(24) for y in range(bottom)}


def test_the_first_screen_of_overview_ends_between_panels() -> None:
    """What tells of an incident is not cut off."""
    for panel in BOARDS["overview"]["panels"]:
        top, bottom = panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"]
        assert bottom <= FIRST_SCREEN_ROWS or top >= FIRST_SCREEN_ROWS


@boards
def test_each_panel_says_what_it_shows_in_which_unit(name: str) -> None:
    """Nobody guesses whether 0.3 is seconds, runs or a share."""
    for panel in BOARDS[name]["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        if panel["type"] != "table":
            assert defaults["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@boards
def test_variables_come_in_the_same_order_and_take_many_values(name: str) -> None:
    """A link from one dashboard to the next carries the choice on."""
    found = [variable["name"] for variable in BOARDS[name]["templating"]["list"]]
    order = ["datasource", "job", "instance", "org_id", "workflow_id", "origin"]
    assert found == [variable for variable in order if variable in found]
    for variable in BOARDS[name]["templating"]["list"][1:]:
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2


@boards
def test_links_keep_time_and_variables(name: str) -> None:
    """Whoever follows a link does not choose again."""
    [link] = BOARDS[name]["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["invent"])
    assert link["keepTime"]
    assert link["includeVars"]
    for url in re.findall(r'"url": "(/d/[^"]+)"', json.dumps(BOARDS[name])):
        assert "${__url_time_range}" in url
        assert "${job:queryparam}" in url
        assert "${datasource:queryparam}" in url
        assert "${origin:queryparam}" in url


@boards
def test_thresholds_rise(name: str) -> None:
    """Grafana takes the last step that fits."""
    for panel in BOARDS[name]["panels"]:
        steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {})
        for low, high in pairwise(steps.get("steps", [])):
            assert low["value"] is None or low["value"] < high["value"]


@boards
def test_variables_of_queries_exist(name: str) -> None:
    """A misspelt variable selects nothing."""
    known = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    text = json.dumps([BOARDS[name]["panels"], BOARDS[name]["annotations"]])
    used = set(re.findall(r'=~\\"\$(\w+)', text))
    assert used <= known


@boards
def test_lines_over_time_use_the_rate_interval(name: str) -> None:
    """Grafana knows the scrape interval; a fixed window would not fit every one."""
    excepted = {
        "Mean duration against last week": {"1h"},  # what is compared is an hour
        "Credits burned": {"$__range"},  # which workflows are drawn, not how
    }
    for panel in BOARDS[name]["panels"]:
        for target in panel.get("targets", ()):
            if not target.get("instant"):
                windows = set(re.findall(r"\[([^\]:]+)\]", target["expr"]))
                allowed = {"$__rate_interval"} | excepted.get(panel["title"], set())
                assert windows <= allowed, panel["title"]
