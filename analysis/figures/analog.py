"""Figures of dies of analog cells: decision map, cumulative curve, what was wanted and what arrived, pulses, drift."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper, NumeralTickFormatter, Range1d
from bokeh.models.annotations import ColorBar, Span
from bokeh.palettes import interp_palette
from numpy.typing import NDArray

from analysis.figures.maps import CLASS_COLOURS, FAINT, INK, SPREAD_PALETTE, SPREAD_TOP, _legend, _plot
from analysis.results.analog import CLASS_WORDS
from mapping.dies.die_record import CellClass
from mapping.training.transfer_metrics import cumulative, outputs
from mapping.writing.converge import Outcome

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Points on either axis of a decision map.
CELLS = 60
#: Shares of the dies at which the cumulative curve is given.
LEVELS = np.round(np.arange(0.5, 1.005, 0.01), 2)
COLOURS = ("#009E73", "#0072B2", "#D55E00", "#CC79A7")
CLASSES = ("#E69F00", "#0072B2")
#: Colours of broken cells that stand out of `G_PALETTE`.
BROKEN = CLASS_COLOURS | {CellClass.STUCK_LRS: "#D55E00", CellClass.STUCK_HRS: "#E69F00"}
G_PALETTE = interp_palette(("#FFFFFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B"), 256)


def decision_map(networks: FloatArray, x: FloatArray, label: NDArray[np.int64], right: FloatArray) -> Any:
    """Spread of the output over dies (colour), where its mean is one half (line), and the test points.

    Parameters
    ----------
    networks
        As read back from each die, ``[die, 33]``.
    x, label
        Test points.
    right
        Share of the dies that classify each right, ``[point]``; where it is below 1 the point is ringed.
    """
    plot = _plot(height=430, x_axis_label="x0", y_axis_label="x1", match_aspect=True)
    plot.x_range, plot.y_range = Range1d(start=0, end=1), Range1d(start=0, end=1)
    axis = (np.arange(CELLS) + 0.5) / CELLS
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mean, spread = (values.reshape(CELLS, CELLS) for values in outputs(networks, grid))
    mapper = LinearColorMapper(palette=SPREAD_PALETTE, low=0, high=SPREAD_TOP)
    plot.image([spread], x=0, y=0, dw=1, dh=1, color_mapper=mapper)
    plot.contour(axis, axis, mean, levels=[0.5], line_color=INK, line_width=2)
    for kind in (0, 1):
        of = label == kind
        data = ColumnDataSource({"x": x[of, 0], "y": x[of, 1], "right": right[of],
                                 "ring": np.where(right[of] < 1, INK, CLASSES[kind])})  # fmt: skip
        dots = plot.scatter("x", "y", source=data, size=6, color=CLASSES[kind], line_color="ring", line_width=1.5)
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("right on", "@right{0 %} of the dies")]))
        _legend(plot, [(f"class {kind}", [dots])])
    plot.add_layout(ColorBar(color_mapper=mapper, width=10, title="spread"), "right")
    plot.grid.grid_line_color = None
    return plot


def cumulative_curve(right: dict[str, BoolArray]) -> Any:
    """Share of test points over the share of dies that get them right, of each network ``[die, point]``."""
    plot = _plot(height=430, x_axis_label="right on at least this share of the dies", y_axis_label="test points")
    plot.y_range = Range1d(start=0, end=1.02)
    keys = []
    for colour, (name, bits) in zip(COLOURS, right.items(), strict=False):
        curve = cumulative(bits.mean(axis=0), LEVELS)
        keys.append((name, [plot.step(LEVELS, curve, mode="before", line_color=colour, line_width=2.5)]))
    plot.add_layout(Span(location=0.95, dimension="height", line_color=FAINT, line_dash="dotted"))
    plot.xaxis.formatter = plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    _legend(plot, keys)
    return plot


def target_and_achieved(writes: Sequence[tuple[str, xr.Dataset]]) -> Any:
    """Conductance of each cell when the whole array was finished over its target, by die."""
    plot = _plot(height=430, x_axis_label="target (uS)", y_axis_label="achieved (uS)")
    reached, missed = _cells(writes, good=True), _cells(writes, good=False)
    ends = [95.0, 505.0]
    plot.line(ends, ends, line_color=FAINT, line_dash="dotted")
    keys = []
    for words, colour, data in (("in tolerance", COLOURS[1], reached), ("given up", COLOURS[2], missed)):
        dots = plot.scatter("target", "achieved", source=data, size=5, color=colour, fill_alpha=0.6, line_color=None)
        tips = [("die", "@die"), ("row, column", "@row, @column"), ("target", "@target{0.0} uS"),
                ("achieved", "@achieved{0.0} uS"), ("pulses", "@pulses"), ("outcome", "@outcome")]  # fmt: skip
        plot.add_tools(HoverTool(renderers=[dots], tooltips=tips))
        keys.append((words, [dots]))
    _legend(plot, keys)
    return plot


def _cells(writes: Sequence[tuple[str, xr.Dataset]], *, good: bool) -> ColumnDataSource:
    """Cells with a target that reached it, or did not."""
    rows: dict[str, Any] = {name: [] for name in ("die", "row", "column", "target", "achieved", "pulses",
                                                        "outcome")}  # fmt: skip
    for die, data in writes:
        outcome = data["outcome"].values
        chosen = outcome == Outcome.REACHED if good else outcome > Outcome.REACHED
        for k, r, c in np.argwhere(chosen):
            rows["die"].append(die)
            rows["row"].append(int(r))
            rows["column"].append(int(c))
            rows["target"].append(1e6 * float(data["target"].values[k, r, c]))
            rows["achieved"].append(1e6 * float(np.nan_to_num(data["achieved"].values[k, r, c])))
            rows["pulses"].append(int(data["pulses"].values[k, r, c]))
            rows["outcome"].append(Outcome(int(outcome[k, r, c])).words)
    return ColumnDataSource(rows)


def pulses_per_cell(pulses: NDArray[np.int64]) -> Any:
    """Histogram of the pulses that each written cell took, ``[cell]``."""
    plot = _plot(height=360, x_axis_label="pulses", y_axis_label="cells")
    edges = np.linspace(0, max(1, int(pulses.max(initial=0))) + 1, 41)
    count, _ = np.histogram(pulses, edges)
    plot.quad(left=edges[:-1], right=edges[1:], bottom=0, top=count, color=COLOURS[1], line_color="white")
    mean = float(pulses.mean()) if pulses.size else 0.0
    plot.add_layout(Span(location=mean, dimension="height", line_color=INK, line_dash="dashed"))
    return plot


def drift_over_order(drifts: Sequence[tuple[FloatArray, FloatArray]]) -> Any:
    """Change of cells after their own first write until the first pass had ended, over their place in it.

    Parameters
    ----------
    drifts
        Place and relative change of the cells of each die.
    """
    plot = _plot(height=360, x_axis_label="place in the first pass", y_axis_label="change until its end")
    place = np.concatenate([each for each, _ in drifts]) if drifts else np.zeros(0)
    change = np.concatenate([each for _, each in drifts]) if drifts else np.zeros(0)
    dots = plot.scatter(place, change, size=4, color=COLOURS[1], fill_alpha=0.4, line_color=None)
    keys = [("cells", [dots])]
    if place.size:
        edges = np.linspace(0, place.max() + 1, 9)
        bins = [change[(place >= low) & (place < high)] for low, high in pairwise(edges)]
        middle = [0.5 * (low + high) for (low, high), own in zip(pairwise(edges), bins, strict=True) if own.size]
        spread = [float(own.std()) for own in bins if own.size]
        keys += [("standard deviation", [plot.line(middle, spread, line_color=COLOURS[2], line_width=2.5)])]
    plot.yaxis.formatter = NumeralTickFormatter(format="0.0 %")
    _legend(plot, keys)
    return plot


def die_map(title: str, g: FloatArray, cell_class: NDArray[np.uint8]) -> Any:
    """Conductances ``[row, column]`` (S) of a die, with the cells found broken marked by class."""
    rows, columns = g.shape
    plot = _plot(height=230, title=title, x_axis_label="column", y_axis_label="row", match_aspect=True)
    plot.x_range, plot.y_range = Range1d(start=-0.5, end=columns - 0.5), Range1d(start=rows - 0.5, end=-0.5)
    mapper = LinearColorMapper(palette=G_PALETTE, low=0, high=600)
    row, column = np.indices(g.shape)
    broken = cell_class != CellClass.GOOD
    words = ["good" if kind == CellClass.GOOD else CLASS_WORDS[CellClass(int(kind))] for kind in cell_class.ravel()]
    edge = [BROKEN[CellClass(int(kind))] if kind != CellClass.GOOD else "#FFFFFF" for kind in cell_class.ravel()]
    data = ColumnDataSource({"row": row.ravel(), "column": column.ravel(), "g": 1e6 * g.ravel(), "words": words,
                             "edge": edge, "width": np.where(broken.ravel(), 3.0, 0.5)})  # fmt: skip
    cells = plot.rect("column", "row", 0.9, 0.9, source=data, line_color="edge", line_width="width",
                      fill_color={"field": "g", "transform": mapper})  # fmt: skip
    tips = [("row, column", "@row, @column"), ("conductance", "@g{0.0} uS"), ("class", "@words")]
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
    plot.grid.grid_line_color = None
    return plot
