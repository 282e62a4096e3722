"""Panels, variables, links and annotations, as every dashboard here has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.cog.builder import Builder

DATA_SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
YELLOW, RED, BLUE, PURPLE, GREY = "yellow", "red", "blue", "purple", "#8e8e8e"
"""A warning, what is critical, and what is neither. Yellow and red differ in lightness too, and
blue from both, for who does not tell red from green; green says nothing here."""
NOTHING = "transparent"
FINAL_COLORS = {"FAILED": RED, "CANCELED": YELLOW, "SKIPPED": GREY, "COMPLETED": BLUE}
OPEN_COLORS = {"PENDING": YELLOW, "RUNNING": BLUE}
ORIGIN_COLORS = {"WORKFLOW": "dark-blue", "TRIGGER": "blue", "WEBHOOK": "super-light-blue"}
QUANTILE_COLORS = {"p50": "super-light-blue", "p95": BLUE, "p99": "dark-blue"}
KIND_COLORS = {"ai": PURPLE, "other": BLUE}
"""Shades, which differ for every eye and mean nothing good or bad."""

P = TypeVar("P", bound=Any)
Limits: TypeAlias = tuple[tuple[float | None, str], ...]
"""At each limit the color changes; the first, None, holds below all others."""


@dataclass(frozen=True)
class State:
    """What a value stands for."""

    text: str
    color: str


@dataclass(frozen=True)
class Place:
    """Where a panel lies in the grid of 24 columns."""

    x: int
    y: int
    w: int
    h: int

    def grid_pos(self) -> models.GridPos:
        """Return the place as Grafana has it."""
        return models.GridPos(h=self.h, w=self.w, x=self.x, y=self.y)


def query(expr: str, legend: str = "", ref: str = "A") -> prometheus.Dataquery:
    """Ask for a range."""
    asked = prometheus.Dataquery().expr(expr).ref_id(ref).range().datasource(DATA_SOURCE)
    return asked.legend_format(legend) if legend else asked


def now(expr: str, legend: str = "", ref: str = "A") -> prometheus.Dataquery:
    """Ask for the newest value alone."""
    return query(expr, legend, ref).instant()


def rows(expr: str, ref: str) -> prometheus.Dataquery:
    """Ask for the newest values as rows of a table."""
    return now(expr, "", ref).format(PromQueryFormat.TABLE)


def _dress(
    panel: P, title: str, text: str, place: Place, *queries: prometheus.Dataquery, limits: Limits
) -> P:
    panel.title(title).description(text).grid_pos(place.grid_pos()).datasource(DATA_SOURCE)
    panel.thresholds(_thresholds(limits))
    for asked in queries:
        panel.with_target(asked)
    return panel


CALM: Final = ((None, NOTHING),)
"""The limits of a number that is neither good nor bad by itself."""


def warning(limit: float) -> Limits:
    """Turn yellow at a limit."""
    return ((None, NOTHING), (limit, YELLOW))


def critical(limit: float) -> Limits:
    """Turn red at a limit."""
    return ((None, NOTHING), (limit, RED))


def low(limit: float) -> Limits:
    """Be red below a limit."""
    return ((None, RED), (limit, NOTHING))


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in limits])
    )


def _unknown(text: str = "no data", color: str = GREY) -> models.SpecialValueMap:
    # Whatever the limits: what is not known is neither well nor bad.
    return models.SpecialValueMap(
        options=models.DashboardSpecialValueMapOptions(
            match=models.SpecialValueMatch.NULL_AND_NAN,
            result=models.ValueMappingResult(text=text, color=color),
        )
    )


def tile(
    title: str,
    text: str,
    place: Place,
    *queries: prometheus.Dataquery,
    unit: str = "none",
    limits: Limits = CALM,
    decimals: int | None = None,
    month: bool = False,
    names_only: bool = False,
    units: dict[str, str] | None = None,
    colors: dict[str, Limits] | None = None,
) -> stat.Panel:
    """Show a number without color until it passes a limit.

    `units` and `colors` are those of single series; `month` computes the number over the month so
    far instead of the chosen time.
    """
    panel = _dress(stat.Panel(), title, text, place, *queries, limits=limits).unit(unit)
    panel.color_mode(common_models.BigValueColorMode.BACKGROUND_SOLID)
    panel.graph_mode(common_models.BigValueGraphMode.NONE).mappings([_unknown()])
    is_small = len(queries) > 1 or place.w < 3  # noqa: PLR2004 (columns of the grid)
    panel.text(common.VizTextDisplayOptions().title_size(12).value_size(18 if is_small else 26))
    if len(queries) > 1:
        panel.text_mode(common_models.BigValueTextMode.VALUE_AND_NAME)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if names_only:
        panel.text_mode(common_models.BigValueTextMode.NAME)
    if decimals is not None:
        panel.decimals(decimals)
    if month:
        panel.time_from("now/M")
    for name, of_series in (colors or {}).items():
        panel.override_by_name(name, [_property("thresholds", _steps(of_series))])
    for name, of_unit in (units or {}).items():
        panel.override_by_name(name, [_property("unit", of_unit)])
    return panel


def _property(name: str, value: object) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)


def _steps(limits: Limits) -> dict[str, object]:
    steps = [{"value": value, "color": color} for value, color in limits]
    return {"mode": "absolute", "steps": steps}


BAR_INTERVAL = "5m"


def lines(
    title: str,
    text: str,
    place: Place,
    *queries: prometheus.Dataquery,
    unit: str = "none",
    bars: bool = False,
    area: bool = False,
    steps: bool = False,
    fractions: bool = False,
    shades: str = BLUE,
    empty: str = "",
    log: bool = False,
    limits: Limits = CALM,
    colors: dict[str, str] | None = None,
) -> timeseries.Panel:
    """Draw series over time, a limit as a dashed line.

    `bars` stacks what happened in each step of five minutes or more, `area` stacks levels, and
    `steps` draws the former as lines, to compare. `log` is for times, of which seconds and hours
    are to be seen in one picture. `fractions` are for credits. Colors that are not named are
    shades of one.
    """
    panel = _dress(timeseries.Panel(), title, text, place, *queries, limits=limits).unit(unit)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
    )
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(common_models.TooltipDisplayMode.MULTI)
        .sort(common_models.SortOrder.DESCENDING)
    )
    panel.show_points(common_models.VisibilityMode.NEVER).line_width(1)
    if log:
        scale = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG)
        panel.scale_distribution(scale.log(10))
    else:
        panel.min(0).axis_soft_max(1)
    if bars or area:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
        panel.fill_opacity(85 if bars else 40)
    if steps or area:
        panel.interval(BAR_INTERVAL)
    if (steps or bars or area) and unit == "none" and not fractions:
        panel.decimals(0)
    if bars:
        panel.draw_style(common_models.GraphDrawStyle.BARS).line_width(0).bar_width_factor(0.9)
        # A bar ends at its time: it stands for the step before.
        panel.bar_alignment(common_models.BarAlignment.BEFORE).interval(BAR_INTERVAL)
    if len(limits) > 1:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    scheme = dashboard.FieldColor()
    panel.color_scheme(scheme.mode(models.FieldColorModeId.SHADES).fixed_color(shades))
    if empty:
        panel.no_value(empty)
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [fixed_color(color)])
    return panel


def fixed_color(color: str) -> models.DynamicConfigValue:
    """Give a series a color of its own."""
    return _property("color", {"mode": "fixed", "fixedColor": color})


def worst(
    title: str,
    text: str,
    place: Place,
    asked: prometheus.Dataquery,
    *,
    unit: str,
    limits: Limits,
    most: float | None = None,
    empty: str = "",
) -> bargauge.Panel:
    """Show the newest values side by side, the first of them on top, on a scale up to `most`."""
    calm = ((None, BLUE), *limits[1:])
    panel = _dress(bargauge.Panel(), title, text, place, asked, limits=calm).unit(unit)
    panel.orientation(common_models.VizOrientation.HORIZONTAL).min(0)
    if most is not None:
        panel.max(most)
    if empty:
        panel.no_value(empty)
    panel.display_mode(common_models.BarGaugeDisplayMode.BASIC)
    panel.mappings([_unknown()])
    panel.text(common.VizTextDisplayOptions().title_size(12).value_size(14))
    panel.name_placement(common_models.BarGaugeNamePlacement.LEFT)
    panel.sizing(common_models.BarGaugeSizing.MANUAL).min_viz_height(14).max_viz_height(28)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def states(
    title: str, text: str, place: Place, asked: prometheus.Dataquery, shown: dict[str, State]
) -> statetimeline.Panel:
    """Draw how a state changed over time, one line for each series."""
    panel = _dress(statetimeline.Panel(), title, text, place, asked, limits=CALM)
    panel.mappings([_mapping(shown)]).unit("short")
    panel.show_value(common_models.VisibilityMode.NEVER).row_height(0.8).line_width(0)
    panel.fill_opacity(80)
    return panel.legend(common.VizLegendOptions().show_legend(show_legend=False))


def _mapping(shown: dict[str, State]) -> models.ValueMap:
    return models.ValueMap(
        options={
            value: models.ValueMappingResult(text=state.text, color=state.color, index=index)
            for index, (value, state) in enumerate(shown.items())
        }
    )


def warmth(title: str, text: str, place: Place, asked: prometheus.Dataquery) -> heatmap.Panel:
    """Draw a histogram of seconds over time."""
    asked.format(PromQueryFormat.HEATMAP)
    panel = _dress(heatmap.Panel(), title, text, place, asked, limits=CALM).unit("short")
    panel.calculate(calculate=False).interval(BAR_INTERVAL)
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Blues")
        .steps(64)
    )
    panel.y_axis(heatmap.YAxisConfig().unit("s"))
    return panel


@dataclass(frozen=True)
class Column:
    """One column of a table: the field it shows, under a title, in a unit.

    `link` is a title and an address; `width` is in pixels.
    """

    field: str
    title: str
    unit: str = ""
    limits: Limits = ()
    link: tuple[str, str] | None = None
    width: int | None = None
    states: dict[str, State] | None = None


def listing(
    title: str,
    text: str,
    place: Place,
    queries: list[prometheus.Dataquery],
    columns: list[Column],
    *,
    sort: dict[str, bool],
    empty: str = "",
) -> table.Panel:
    """Show one row for each set of labels, with one column for each query.

    `sort` says by which titles, and whether downwards; fields without a column serve links alone.
    """
    panel = _dress(table.Panel(), title, text, place, *queries, limits=CALM)
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {column.field: index for index, column in enumerate(columns)},
                "renameByName": {column.field: column.title for column in columns},
            },
        )
    )
    panel.sort_by(
        [
            common.TableSortByFieldState().display_name(by).desc(desc=down)
            for by, down in sort.items()
        ]
    )
    panel.cell_height(common_models.TableCellHeight.SM)
    if empty:
        panel.no_value(empty)
    for column in columns:
        properties = [_property(name, value) for name, value in _column_properties(column)]
        if properties:
            panel.override_by_name(column.title, properties)
    shown = {column.field for column in columns}
    for field in ("job", "org_id", "workflow_id", "Value #A", "Value"):
        if field not in shown:
            panel.override_by_name(field, [_property("custom.hideFrom.viz", value=True)])
    return panel


def _column_properties(column: Column) -> list[tuple[str, object]]:
    properties: list[tuple[str, object]] = [("noValue", "-")]
    if column.unit:
        properties.append(("unit", column.unit))
        if column.unit == "none":
            properties.append(("decimals", 0))
    if column.width:
        properties.append(("custom.width", column.width))
    if column.limits:
        limits = ((at, "text" if color == NOTHING else color) for at, color in column.limits)
        properties.append(("thresholds", _steps(tuple(limits))))
        properties.append(("custom.cellOptions", {"type": "color-text"}))
        properties.append(("mappings", [_unknown("-", "text")]))
    if column.states:
        properties.append(("mappings", [_mapping(column.states)]))
        options = {"type": "color-background", "mode": "basic"}
        properties.append(("custom.cellOptions", options))
    if column.link:
        title, url = column.link
        properties.append(("links", [{"title": title, "url": url}]))
    return properties


def row(title: str, y: int, panels: Sequence[Builder[Any]] = ()) -> dashboard.Row:
    """Head a part of the dashboard; with its panels it is closed, and asks nothing until opened."""
    head = dashboard.Row(title).grid_pos(models.GridPos(h=1, w=24, x=0, y=y))
    if panels:
        head.collapsed(collapsed=True)
    for panel in panels:
        head.with_panel(panel)
    return head


def variable(
    name: str,
    label: str,
    asked: str,
    regex: str = "",
    *,
    all_at_first: bool = True,
    all_value: str = ".+",
) -> dashboard.QueryVariable:
    """Choose among what a query finds; All, the default, also takes what appears later."""
    chosen = (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": asked, "refId": name})
        .definition(asked)
        .regex(regex)
        .datasource(DATA_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(multi=True)
    )
    if all_at_first:
        everything = models.VariableOption(text=["All"], value=["$__all"], selected=True)
        chosen.include_all(include_all=True).all_value(all_value).current(everything)
    return chosen


def annotation(name: str, asked: str, title: str, color: str, *, on: bool) -> Builder[Any]:
    """Mark the moments at which a query returns something."""
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATA_SOURCE)
        .enable(enable=on)
        .icon_color(color)
        .title_format(title)
        .target(query(asked, ref="Anno"))
    )
