"""Hold the dashboards: generated, laid out without overlaps, complete, linked."""

import json
import re
from itertools import combinations, pairwise
from typing import Any

import pytest

from grafana.generate import all_panels, dashboards, panel_id
from tests.grafana.sources import BOARDS, GRAFANA

FIRST_SCREEN_ROWS = 20
"""What a browser of 1080 lines shows of a dashboard below its variables: 38 lines for each row."""

boards = pytest.mark.parametrize("name", sorted(BOARDS))


def _drawn(name: str) -> list[dict[str, Any]]:
    return [panel for panel in all_panels(BOARDS[name]) if panel["type"] != "row"]


def _grids(name: str) -> list[list[dict[str, int]]]:
    """Return the places of what lies side by side: the dashboard, and each closed row."""
    panels = BOARDS[name]["panels"]
    closed = [panel["panels"] for panel in panels if panel.get("panels")]
    return [[panel["gridPos"] for panel in group] for group in (panels, *closed)]


def test_committed_dashboards_are_what_the_code_makes() -> None:
    """Nobody edits a generated file, and nobody forgets to generate."""
    files = GRAFANA.glob("dashboards/*.json")
    assert {path.name: path.read_text() for path in files} == dashboards()


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
    ids = [panel["id"] for panel in all_panels(BOARDS[name])]
    assert len(set(ids)) == len(ids)
    for panel in all_panels(BOARDS[name]):
        assert panel["id"] == panel_id(panel["type"], panel["title"])


@boards
def test_panels_lie_in_the_grid_and_do_not_overlap(name: str) -> None:
    """Grafana would move an overlapping panel, and the screen would not be the one intended."""
    for places in _grids(name):
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
    for places in _grids(name):
        filled = {
            (x, y)
            for place in places
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        top = min(place["y"] for place in places)
        bottom = max(place["y"] + place["h"] for place in places)
        assert filled == {(x, y) for x in range(24) for y in range(top, bottom)}


def test_the_first_screen_of_overview_ends_between_panels() -> None:
    """What tells of an incident is not cut off."""
    for panel in BOARDS["overview"]["panels"]:
        top, bottom = panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"]
        assert bottom <= FIRST_SCREEN_ROWS or top >= FIRST_SCREEN_ROWS


@boards
def test_each_panel_says_what_it_shows_in_which_unit_and_what_is_normal(name: str) -> None:
    """Nobody guesses whether 0.3 is seconds, runs or a share, nor whether that is much."""
    for panel in _drawn(name):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert re.search(r"Normal: |Until its end|until its end", panel["description"]), panel
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        if panel["type"] != "table":
            assert defaults["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@boards
def test_what_is_not_known_is_grey(name: str) -> None:
    """No data in green would pass for all is well, in red for an incident."""
    for panel in _drawn(name):
        if panel["type"] in {"stat", "bargauge"}:
            [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
            assert mapping["type"] == "special"
            assert mapping["options"]["match"] == "null+nan"
            assert mapping["options"]["result"] == {"text": "no data", "color": "#8e8e8e"}


@boards
def test_no_number_is_colored_while_it_is_within_its_limits(name: str) -> None:
    """A calm screen has no color: green everywhere teaches the eye to look away."""
    for panel in _drawn(name):
        if panel["type"] == "stat":
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] == (
                "transparent"
            )
    assert '"green"' not in json.dumps(BOARDS[name])


@boards
def test_variables_come_in_the_same_order_and_take_many_values(name: str) -> None:
    """A link from one dashboard to the next carries the choice on."""
    found = [variable["name"] for variable in BOARDS[name]["templating"]["list"]]
    order = ["datasource", "job", "instance", "org_id", "team", "workflow_id", "origin"]
    order.append("exporter_url")
    assert found == [variable for variable in order if variable in found]
    for variable in BOARDS[name]["templating"]["list"][1:-1]:
        assert variable["multi"]
        assert variable["refresh"] == 2
        # All workflows together are what the overview shows.
        if variable["name"] != "workflow_id":
            assert variable["includeAll"]
            # A workflow may have no team.
            assert variable["allValue"] == (".*" if variable["name"] == "team" else ".+")


@boards
def test_links_keep_time_and_variables(name: str) -> None:
    """Whoever follows a link does not choose again."""
    others, page = BOARDS[name]["links"]
    assert (others["type"], others["tags"]) == ("dashboards", ["invent"])
    assert others["keepTime"]
    assert others["includeVars"]
    assert page["url"] == "${exporter_url}/#org-${org_id:percentencode}"
    for url in re.findall(r'"url": "(/d/[^"]+)"', json.dumps(BOARDS[name])):
        assert "${__url_time_range}" in url
        assert "${job:queryparam}" in url
        assert "${datasource:queryparam}" in url
        assert "var-org_id=" in url


def test_failed_runs_lead_to_the_errors_of_their_org() -> None:
    """The exporter's page has them, at the place of the org."""
    linked = {
        panel["title"]
        for panel in _drawn("overview")
        if '"${exporter_url}/#org-${__data.fields.org_id:percentencode}"' in json.dumps(panel)
    }
    assert linked == {"Failing most, last hour", "Orgs"}


@boards
def test_links_of_rows_find_their_fields(name: str) -> None:
    """A field that is left out of the table would leave the address empty."""
    for panel in _drawn(name):
        dropped = str(
            panel.get("transformations", [{}])[-1].get("options", {}).get("excludeByName")
        )
        for field in re.findall(r"__data\.fields\.(\w+)", json.dumps(panel)):
            assert field not in dropped


@boards
def test_thresholds_rise(name: str) -> None:
    """Grafana takes the last step that fits."""
    for panel in _drawn(name):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        for low, high in pairwise(steps):
            assert low["value"] is None or low["value"] < high["value"]


@boards
def test_variables_of_queries_exist(name: str) -> None:
    """A misspelt variable selects nothing."""
    known = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    text = json.dumps([BOARDS[name]["panels"], BOARDS[name]["annotations"]])
    used = set(re.findall(r'=~\\"\$(\w+)', text))
    assert used <= known


WINDOWS = {"1h": "hour", "10m": "10 minutes", "1d": "24 h"}


@boards
def test_windows_are_the_steps_of_the_panel_or_stand_in_its_words(name: str) -> None:
    """Nobody guesses of what time a number is; what is counted in steps adds up."""
    for panel in _drawn(name):
        for target in panel["targets"]:
            # The last known value or name is no window of the number.
            expr = re.sub(r"last_over_time\([^\[]+\[[^\]]+\]", "", target["expr"])
            expr = re.sub(r"(\w+_over_time|increase)\([^\[]+\[\$__range\] @ end\(\)\)", "", expr)
            windows = set(re.findall(r"\[([^\]]+)\]", expr))
            said = {
                window
                for window, words in WINDOWS.items()
                if words in panel["title"] + panel["description"] + json.dumps(panel["fieldConfig"])
            }
            allowed = {"$__rate_interval", "$__interval", "$__interval:"} | said
            if panel.get("timeFrom"):
                allowed |= {"$__range", "1d"}
            assert windows <= allowed, (panel["title"], windows)


@boards
def test_bars_count_in_steps_that_more_than_one_scrape_is_in(name: str) -> None:
    """In steps of a scrape a bar would be a run or none."""
    for panel in _drawn(name):
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        if custom.get("drawStyle") == "bars":
            assert panel["interval"] == "5m"
            assert custom["barAlignment"] == -1
            for target in panel["targets"]:
                assert "clamp_min(last_over_time(" in target["expr"]
