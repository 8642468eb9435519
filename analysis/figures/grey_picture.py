"""Figures of pictures written into dies: the picture, where it is wrong, and how much."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper, NumeralTickFormatter, Range1d
from bokeh.models.annotations import ColorBar, Span
from bokeh.palettes import interp_palette
from numpy.typing import NDArray

from analysis.figures.maps import INK, _plot

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

GREYS = interp_palette(("#000000", "#FFFFFF"), 256)
ERRORS = interp_palette(("#0072B2", "#FFFFFF", "#D55E00"), 255)
#: Colour of broken cells: none of the greys.
BROKEN = "#CC79A7"


def tolerance_of(settings: str) -> float:
    """Half-width of the band that a write was made with, from its settings as JSON."""
    return float(json.loads(settings)["tolerance"])


def picture(title: str, g: FloatArray, scale: tuple[float, float], good: BoolArray | None = None) -> Any:
    """Conductances ``[row, column]`` (S) as greys, black and white at `scale` (S); broken cells in colour."""
    mapper = LinearColorMapper(palette=GREYS, low=1e6 * scale[0], high=1e6 * scale[1])
    plot = _square(title, 1e6 * g, mapper, [("conductance", "@image{0.0} uS")])
    _mark(plot, good)
    plot.add_layout(ColorBar(color_mapper=mapper, width=10, title="uS"), "right")
    return plot


def error_map(error: FloatArray, good: BoolArray) -> Any:
    """Relative error of every functional cell ``[row, column]``; the scale ends where 98 % of them do."""
    own = np.abs(error[good])
    end = max(0.01, float(np.quantile(own, 0.98))) if own.size else 0.01
    mapper = LinearColorMapper(palette=ERRORS, low=-end, high=end)
    plot = _square("relative error", np.where(good, error, 0.0), mapper, [("error", "@image{0.00 %}")])
    _mark(plot, good)
    bar = ColorBar(color_mapper=mapper, width=10, formatter=NumeralTickFormatter(format="0.0 %"))
    plot.add_layout(bar, "right")
    return plot


def error_histogram(error: FloatArray, tolerance: float) -> Any:
    """Relative errors of functional cells, with the band; what lies beyond four of it is in the outermost bins."""
    plot = _plot(height=360, x_axis_label="relative error", y_axis_label="cells", y_axis_type="log")
    edges = np.linspace(-4 * tolerance, 4 * tolerance, 81)
    count, _ = np.histogram(np.clip(error, edges[0], edges[-1]), edges)
    plot.quad(
        left=edges[:-1], right=edges[1:], bottom=0.5, top=np.maximum(count, 0.5), color="#0072B2", line_color="white"
    )
    for side in (-tolerance, tolerance):
        plot.add_layout(Span(location=side, dimension="height", line_color=INK, line_dash="dashed"))
    plot.y_range = Range1d(start=0.5, end=2 * max(1, int(count.max())))
    plot.xaxis.formatter = NumeralTickFormatter(format="0.0 %")
    return plot


def _square(title: str, values: FloatArray, mapper: LinearColorMapper, tips: list[tuple[str, str]]) -> Any:
    """An array as an image, row 0 at the top."""
    rows, columns = values.shape
    plot = _plot(height=380, title=title, x_axis_label="column", y_axis_label="row", aspect_ratio=1.2)
    plot.x_range, plot.y_range = Range1d(start=-0.5, end=columns - 0.5), Range1d(start=rows - 0.5, end=-0.5)
    image = plot.image([values], x=-0.5, y=-0.5, dw=columns, dh=rows, color_mapper=mapper)
    plot.add_tools(HoverTool(renderers=[image], tooltips=[("column, row", "$x{0}, $y{0}"), *tips]))
    plot.grid.grid_line_color = None
    return plot


def _mark(plot: Any, good: BoolArray | None) -> None:
    """Cover broken cells."""
    if good is None or good.all():
        return
    row, column = np.nonzero(~good)
    plot.rect("x", "y", 1, 1, source=ColumnDataSource({"x": column, "y": row}), color=BROKEN, line_color=None)
