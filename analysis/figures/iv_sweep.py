"""Figures of current-voltage loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.models.annotations import Legend, LegendItem, Span
from bokeh.palettes import Category10_10

from analysis.figures.maps import INK, _plot

#: Smallest current that is drawn (A).
FLOOR = 1e-8


def loops(title: str, cells: Mapping[tuple[int, int], xr.Dataset], limits: tuple[float, float]) -> Any:
    """Current (A, size) against voltage of the loops of one die; dashed: compliances of SET and RESET (A)."""
    plot = _plot(height=420, title=title, x_axis_label="voltage (V)", y_axis_label="current (A)", y_axis_type="log")
    items = []
    for number, ((row, column), data) in enumerate(cells.items()):
        line = plot.line("v", "i", source=_source(data), color=Category10_10[number % 10], line_width=1.5)
        items.append((f"[{row}, {column}]", line))
        plot.add_tools(HoverTool(renderers=[line], tooltips=[("cell", f"[{row}, {column}]"), ("V", "@v{0.000}"),
                                                             ("A", "@i{0.00e+0}"), ("", "@way")]))  # fmt: skip
    if len(items) <= 10:
        legend = Legend(items=[LegendItem(label=name, renderers=[line]) for name, line in items], title="cell")
        plot.add_layout(legend, "right")
    for limit in sorted(set(limits)):
        plot.add_layout(Span(location=limit, dimension="width", line_color=INK, line_dash="dashed", line_width=1))
    top = max([*limits, *(float(np.nanmax(np.abs(each["current"].values))) for each in cells.values())])
    plot.y_range = Range1d(start=FLOOR * 10, end=2 * top)
    return plot


def _source(data: xr.Dataset) -> ColumnDataSource:
    """The loop in the order in which it was measured; a gap where nothing was."""
    v, i, way = [], [], []
    for half, name in enumerate(("SET", "RESET")):
        steps, current = data["voltage"].values[half], np.abs(data["current"].values[half])
        v += [*steps, *steps[::-1], np.nan]
        i += [*current[0], *current[1][::-1], np.nan]
        way += [f"{name}, there"] * steps.size + [f"{name}, back"] * steps.size + [""]
    values = np.array(i)
    return ColumnDataSource({"v": np.array(v), "i": np.where(values >= FLOOR, values, np.nan), "way": way})


def switching(found: Iterable[tuple[float, float]]) -> Any:
    """RESET against SET voltage of every loop that did both."""
    plot = _plot(height=420, title="switching voltages", x_axis_label="V of SET", y_axis_label="V of RESET")
    points = [(a, b) for a, b in found if np.isfinite(a) and np.isfinite(b)]
    plot.scatter([a for a, _ in points], [b for _, b in points], size=9, color="#0072B2", fill_alpha=0.6)
    return plot
