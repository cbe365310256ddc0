"""The layout and queries of a panel, so that `dashboard.py` lists only what is on the dashboard.

In queries `{P}` picks the processes that are chosen above the dashboard, `{T}` the targets as well;
further labels may follow, as in `{P, outcome="shed"}`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, FieldColorModeId, Threshold

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Whichever is chosen above the dashboard."""
_PROCESSES: Final = 'job=~"$job", instance=~"$instance"'
_TARGETS: Final = f'{_PROCESSES}, target=~"$target"'
_GRAPH_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
_STATS_IN_A_ROW: Final = 8
_GRID: Final = 24

Panel: TypeAlias = stat.Panel | timeseries.Panel
_Panel = TypeVar("_Panel", stat.Panel, timeseries.Panel)


class Query(NamedTuple):
    """A query for Prometheus, and the name of a line of its result.

    Attributes:
        expr: PromQL, with `{P}` and `{T}`.
        legend: with labels, as in `{{instance}}`.
    """

    expr: str
    legend: str = ""


class Limits(NamedTuple):
    """What is good, worth a look and bad.

    Attributes:
        warn: from which value on it is worth a look.
        bad: from which value on it is bad.
        least: below which value it is bad.
    """

    warn: float | None = None
    bad: float | None = None
    least: float | None = None


def number(
    title: str,
    about: str,
    expr: str,
    *,
    unit: str = "short",
    limits: Limits,
    alert: str = "",
    decimals: int | None = None,
) -> stat.Panel:
    """Return a panel with one figure, green while it is within its limits.

    Args:
        title: what it is.
        about: what it means, for people who see it for the first time.
        expr: the query; it has one result also when nothing is wrong.
        unit: of Grafana's units.
        limits: where it changes its colour.
        alert: whose section of the runbook says what to do.
        decimals: how many to show.
    """
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.BACKGROUND)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(limits))
        .height(_STAT_HEIGHT)
        .span(_GRID // _STATS_IN_A_ROW)
    )
    if decimals is not None:
        panel.decimals(decimals)
    return _described(panel, [Query(expr)], title=title, about=about, unit=unit, alert=alert)


def graph(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "short",
    limits: Limits | None = None,
    alert: str = "",
    stacked: bool = False,
    below_zero: bool = False,
    most: float | None = None,
    width: int = 8,
) -> timeseries.Panel:
    """Return a panel of lines over time.

    Args:
        title: what they are.
        about: what they mean, for people who see them for the first time.
        queries: what the lines are.
        unit: of Grafana's units.
        limits: where to draw a line across.
        alert: whose section of the runbook says what to do.
        stacked: whether the lines make a whole.
        below_zero: whether there may be such values.
        most: the upper end of the scale.
        width: of the dashboard's 24.
    """
    panel = (
        timeseries.Panel()
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(30 if stacked else 5)
        .show_points(VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True))
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
        .height(_GRAPH_HEIGHT)
        .span(width)
    )
    if not below_zero:
        panel.min(0)
    if most is not None:
        panel.max(most)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if limits:
        panel.thresholds(_thresholds(limits))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    return _described(panel, queries, title=title, about=about, unit=unit, alert=alert)


def _described(
    panel: _Panel, queries: Sequence[Query], *, title: str, about: str, unit: str, alert: str
) -> _Panel:
    panel.title(title).description(about).datasource(DATASOURCE).unit(unit)
    for ref_id, query in zip("ABCDEFGH", queries, strict=False):
        asked = prometheus.Dataquery().ref_id(ref_id).datasource(DATASOURCE)
        panel.with_target(asked.expr(picked(query.expr)).legend_format(query.legend))
    if alert:
        url = f"${{runbook}}#{alert.lower()}"
        panel.links([dashboard.DashboardLink(f"Runbook: {alert}").url(url).target_blank(True)])
    return panel


def picked(expr: str) -> str:
    """Return a query with the selection that is made above the dashboard."""
    return expr.replace("{P", f"{{{_PROCESSES}").replace("{T", f"{{{_TARGETS}")


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    steps = [Threshold(None, "green")]
    if limits.least is not None:
        steps = [Threshold(None, "red"), Threshold(limits.least, "green")]
    if limits.warn is not None:
        steps.append(Threshold(limits.warn, "orange"))
    if limits.bad is not None:
        steps.append(Threshold(limits.bad, "red"))
    return dashboard.ThresholdsConfig().steps(steps)
