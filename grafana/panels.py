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
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder

DATA_SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"

P = TypeVar("P", bound=Any)
Limits: TypeAlias = tuple[tuple[float | None, str], ...]
"""At each limit the color changes; the first, None, holds below all others."""


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


CALM: Final = ((None, "text"),)
"""The limits of a number that is neither good nor bad by itself."""


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in limits])
    )


def tile(
    title: str,
    text: str,
    place: Place,
    asked: prometheus.Dataquery,
    *,
    unit: str,
    limits: Limits,
    decimals: int | None = None,
    month: bool = False,
    text_of: str | None = None,
) -> stat.Panel:
    """Show one number; `month` computes it over the month so far instead of the chosen time."""
    panel = _dress(stat.Panel(), title, text, place, asked, limits=limits).unit(unit)
    panel.color_mode(common_models.BigValueColorMode.BACKGROUND_SOLID)
    panel.graph_mode(common_models.BigValueGraphMode.NONE)
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    if text_of:
        panel.text_mode(common_models.BigValueTextMode.NAME)
    panel.reduce_options(reduce)
    if decimals is not None:
        panel.decimals(decimals)
    if month:
        panel.time_from("now/M")
    return panel


def lines(
    title: str,
    text: str,
    place: Place,
    *queries: prometheus.Dataquery,
    unit: str,
    stack: bool = False,
    limits: Limits = CALM,
    colors: dict[str, str] | None = None,
) -> timeseries.Panel:
    """Draw series over time; stacked ones as bars, limits as dashed lines."""
    panel = _dress(timeseries.Panel(), title, text, place, *queries, limits=limits)
    panel.unit(unit).min(0)
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
    panel.show_points(common_models.VisibilityMode.AUTO).line_width(1)
    if stack:
        panel.draw_style(common_models.GraphDrawStyle.BARS).fill_opacity(80)
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    else:
        panel.fill_opacity(8)
    if len(limits) > 1:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    for name, color in (colors or {}).items():
        panel.override_by_name(
            name,
            [
                models.DynamicConfigValue(
                    id_val="color", value={"mode": "fixed", "fixedColor": color}
                )
            ],
        )
    return panel


def bars(
    title: str,
    text: str,
    place: Place,
    asked: prometheus.Dataquery,
    *,
    unit: str,
    limits: Limits,
) -> bargauge.Panel:
    """Show the newest values side by side, the first of them on top."""
    panel = _dress(bargauge.Panel(), title, text, place, asked, limits=limits).unit(unit)
    panel.orientation(common_models.VizOrientation.HORIZONTAL).min(0)
    panel.display_mode(common_models.BarGaugeDisplayMode.BASIC)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def warmth(title: str, text: str, place: Place, expr: str, *, unit: str) -> heatmap.Panel:
    """Draw a histogram over time, with its exemplars."""
    asked = query(expr, "{{le}}").format(PromQueryFormat.HEATMAP).exemplar(exemplar=True)
    panel = _dress(heatmap.Panel(), title, text, place, asked, limits=CALM).unit(unit)
    panel.calculate(calculate=False)
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .steps(64)
    )
    panel.y_axis(heatmap.YAxisConfig().unit(unit))
    return panel


@dataclass(frozen=True)
class Column:
    """One column of a table: the field it shows, under a title, in a unit."""

    field: str
    title: str
    unit: str = ""
    limits: Limits = ()
    link: str = ""
    hidden: bool = False


def listing(
    title: str,
    text: str,
    place: Place,
    queries: list[prometheus.Dataquery],
    columns: list[Column],
    *,
    sort: str,
) -> table.Panel:
    """Show one row for each set of labels, with one column for each query."""
    panel = _dress(table.Panel(), title, text, place, *queries, limits=CALM)
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    shown = {column.field: index for index, column in enumerate(columns)}
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, "job": True},
                "indexByName": shown,
                "renameByName": {
                    column.field: column.title for column in columns if not column.hidden
                },
            },
        )
    )
    panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(desc=True)])
    for column in columns:
        properties = [
            models.DynamicConfigValue(id_val=name, value=value)
            for name, value in _column_properties(column)
        ]
        if properties:
            panel.override_by_name(column.field if column.hidden else column.title, properties)
    return panel


def _column_properties(column: Column) -> list[tuple[str, object]]:
    properties: list[tuple[str, object]] = []
    if column.unit:
        properties.append(("unit", column.unit))
    if column.hidden:
        properties.append(("custom.hidden", True))
    if column.limits:
        found = [{"value": value, "color": color} for value, color in column.limits]
        properties.append(("thresholds", {"mode": "absolute", "steps": found}))
        properties.append(("custom.cellOptions", {"type": "color-text"}))
    if column.link:
        properties.append(("links", [{"title": "Look at this workflow", "url": column.link}]))
    return properties


def row(title: str, y: int) -> dashboard.Row:
    """Head a part of the dashboard."""
    return dashboard.Row(title).grid_pos(models.GridPos(h=1, w=24, x=0, y=y))


def variable(name: str, label: str, asked: str, regex: str = "") -> dashboard.QueryVariable:
    """Choose among what a query finds; All, the default, also takes what appears later."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query({"query": asked, "refId": name})
        .definition(asked)
        .regex(regex)
        .datasource(DATA_SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(models.VariableOption(text=["All"], value=["$__all"], selected=True))
    )


def annotation(name: str, asked: str, title: str, color: str, *, on: bool) -> Builder[Any]:
    """Mark the moments at which a query returns something."""
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATA_SOURCE)
        .enable(enable=on)
        .icon_color(color)
        .expr(asked)
        .step("1m")
        .title_format(title)
        .target(query(asked, ref="Anno"))
    )
