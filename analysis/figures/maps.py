"""The figures of the report, in Bokeh.

All figures that show dies share one data source: a die that is clicked in one of them stays lit in all.
Colours are from sets that colour-blind readers can tell apart (Okabe and Ito for trainings, Tol for classes of cells),
and each training also has its own marker.
"""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.layouts import column
from bokeh.model import Model
from bokeh.models import (
    CDSView,
    ColumnDataSource,
    CustomJS,
    FixedTicker,
    GroupFilter,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
    TapTool,
)
from bokeh.models.annotations import ColorBar, Legend, LegendItem, Span
from bokeh.models.widgets import Select
from bokeh.palettes import interp_palette
from bokeh.plotting import figure
from numpy.typing import NDArray

from analysis.results.lot import FloatArray, LotResults
from analysis.results.summary import TRAININGS
from mapping.dies.die_record import CellClass

#: Colours and upper limit of maps of what classifiers deviate by, those of the paper (arXiv:2305.18495).
SPREAD_PALETTE = interp_palette(("#FFFFFF", "#FEE391", "#FE9929", "#CC4C02", "#662506"), 256)
SPREAD_TOP = 0.4

TRAINING_COLOURS = {
    "unaware": "#D55E00",
    "unaware_guarded": "#56B4E9",
    "unaware_calibrated": "#7F7F7F",
    "die_aware": "#0072B2",
    "die_aware_moved": "#CC79A7",
    "statistics_aware": "#009E73",
    "calibrated": "#E69F00",
}
MARKERS = {
    "unaware": "triangle",
    "unaware_guarded": "hex",
    "unaware_calibrated": "plus",
    "die_aware": "circle",
    "die_aware_moved": "inverted_triangle",
    "statistics_aware": "square",
    "calibrated": "diamond",
}
#: Trainings that know of the defects they meet; close to software when they work.
KNOWING = ("die_aware", "statistics_aware", "calibrated")
CLASS_COLOURS = {
    CellClass.GOOD: "#8C8C8C",
    CellClass.SHORT: "#CC3311",
    CellClass.OPEN: "#332288",
    CellClass.STUCK_P: "#33A0DD",
    CellClass.STUCK_AP: "#C9A227",
    CellClass.WEAK: "#44AA99",
    CellClass.DEAD_LINE: "#222222",
}
CLASS_WORDS = {kind: kind.name.lower().replace("_", " ") for kind in CellClass} | {
    CellClass.STUCK_P: "stuck P",
    CellClass.STUCK_AP: "stuck AP",
}
#: Light is good, dark is bad.
ERROR_PALETTE = interp_palette(("#FFFBE6", "#FEE391", "#FE9929", "#CC4C02", "#662506", "#3A1303"), 256)
COUNT_PALETTE = interp_palette(("#F7FBFF", "#C6DBEF", "#6BAED6", "#2171B5", "#08306B", "#041B3D"), 256)

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, FAINT, GRID = "#222222", "#666666", "#E4E4E4"
#: Above this many defective cells in a lot the map of one die is all that goes into the report (size of the file).
MAX_MAP_CELLS = 150_000
_BLOCK_GAP = 13


def figures(results: LotResults) -> dict[str, Model]:
    """Every figure the results have data for, by name; wafer maps are ``wafer_<training>`` and ``wafer_defects``."""
    out: dict[str, Model] = {}
    source = die_source(results)
    names = run_trainings(results)
    if names:
        out["strip"] = strip_and_box(results, source, names)
        knowing = [name for name in names if name in KNOWING]
        if knowing and len(knowing) < len(names):
            out["strip_close"] = strip_and_box(results, source, knowing, from_zero=False)
    if results.sites.size:
        out |= wafer_maps(results, source)
    if results.defects.size and names:
        out["defects"] = error_against_defects(results, source)
    if np.isfinite(results.moved_emulated).any() and len(results.dies) > 1:
        out["transfer"] = transfer_matrix(results)
        if results.moved_measured:
            out["moved"] = moved_against_emulation(results)
    if results.sensitivity:
        out["sensitivity"] = sensitivity(results)
    if results.g_p.size:
        out["conductances"] = conductances(results)
    if results.cell_class.size:
        out["map"] = defect_map(results)
    return out


def run_trainings(results: LotResults) -> list[str]:
    """Trainings with at least one measured die, in the order in which they are told."""
    return [name for name in TRAININGS if np.isfinite(results.error(name)).any()]


def die_source(results: LotResults) -> ColumnDataSource:
    """One row per die: name, place, defects, and for each training the error in per cent and the ink on its colour."""
    count = len(results.dies)
    defects = results.defects if results.defects.size else np.full(count, np.nan)
    lines = [", ".join(faults) or "none" for faults in results.line_faults] or ["not known"] * count
    data: dict[str, Any] = {"die": list(results.dies), "short": list(results.short_names), "defects": defects}
    data |= {"lines": [line if len(line) < 80 else line[:79] + "…" for line in lines]}
    data |= {"ink_defects": _ink(defects, _top(defects)), "text_defects": _texts(defects, "{:.0f}")}
    if results.sites.size:
        data |= {"column": results.sites[:, 0], "row": results.sites[:, 1]}
    top = error_top(results)
    for name in run_trainings(results):
        error = 100 * results.error(name)
        data |= {name: error, f"ink_{name}": _ink(error, top), f"text_{name}": _texts(error, "{:.1f}")}
    return ColumnDataSource(data=data)


def error_top(results: LotResults) -> float:
    """Upper end of the error scale that all wafer maps share, in per cent, a multiple of 5."""
    errors = [100 * results.error(name) for name in run_trainings(results)]
    return max(5.0, 5 * np.ceil(np.nanmax(errors) / 5)) if errors else 5.0


def strip_and_box(results: LotResults, source: ColumnDataSource, names: list[str], from_zero: bool = True) -> figure:
    """Error of every die for some trainings: points over box (quartiles, median) and whiskers (5 and 95 %)."""
    plot = _plot(height=430, y_axis_label="misclassification error (%)")
    offset = 0.4 * ((np.arange(len(results.dies)) * 0.618034 + 0.5) % 1 - 0.5)
    for place, name in enumerate(names):
        error = 100 * results.error(name)
        _box(plot, place, error[np.isfinite(error)], TRAINING_COLOURS[name])
        column_name = f"strip_{len(names)}_{name}"
        source.data[column_name] = place + offset
        _dots(plot, source, column_name, name, 8)
    _software_line(plot, results)
    plot.x_range = Range1d(start=-0.6, end=len(names) - 0.4)
    if from_zero:
        plot.y_range.start = 0
    plot.xaxis.ticker = FixedTicker(ticks=list(range(len(names))))
    plot.xaxis.major_label_overrides = {place: TRAININGS[name].replace(", ", ",\n") for place, name in enumerate(names)}
    plot.xgrid.visible = False
    return plot


def _box(plot: Any, place: int, error: FloatArray, colour: str) -> None:
    if error.size < 5:
        return
    low, first, median, third, high = np.percentile(error, [5, 25, 50, 75, 95])
    plot.segment([place, place], [low, third], [place, place], [first, high], line_color=colour, line_width=1.5)
    plot.vbar(place, 0.5, third, first, fill_color=colour, fill_alpha=0.15, line_color=colour, line_width=1.5)
    plot.segment(place - 0.25, median, place + 0.25, median, line_color=colour, line_width=3)


def _dots(plot: Any, source: ColumnDataSource, x: str, name: str, size: int) -> Any:
    """The dies as points of one training, with hover."""
    size += 4 if MARKERS[name] == "diamond" else 0
    dots = plot.scatter(
        x, name, source=source, marker=MARKERS[name], size=size, fill_color=TRAINING_COLOURS[name], fill_alpha=0.75,
        line_color="white", line_width=0.6, nonselection_fill_alpha=0.12, selection_line_color="black",
        selection_line_width=1.5, selection_fill_alpha=1.0,
    )  # fmt: skip
    plot.add_tools(_die_hover(dots, name))
    return dots


def _die_hover(renderer: Any, name: str) -> HoverTool:
    tips = [("die", "@die"), (f"error, {TRAININGS[name]}", f"@{name}{{0.0}} %")]
    return HoverTool(
        renderers=[renderer], tooltips=[*tips, ("defective cells", "@defects{0,0}"), ("dead lines", "@lines")]
    )


def _software_line(plot: Any, results: LotResults) -> None:
    """Software baseline across the whole figure, named in a legend above it."""
    if not results.software_correct.size:
        return
    level = 100 * float((~results.software_correct).mean())
    plot.add_layout(Span(location=level, dimension="width", line_color=INK, line_dash="dashed", line_width=1.5))
    key = plot.line([1, 1], [level, level], line_color=INK, line_dash="dashed", line_width=1.5)
    _legend(plot, [(f"software, {level:.1f} %", [key])])


def wafer_maps(results: LotResults, source: ColumnDataSource) -> dict[str, Model]:
    """The lot on its wafer, one map per training on a shared scale of errors, and one of defect counts."""
    top = error_top(results)
    maps: dict[str, Model] = {}
    for name in run_trainings(results):
        plot, sites = _wafer(results, source, name, f"error (%), {TRAININGS[name]}", ERROR_PALETTE, top)
        plot.add_tools(_die_hover(sites, name))
        maps[f"wafer_{name}"] = plot
    if results.defects.size:
        high = _top(results.defects)
        plot, sites = _wafer(results, source, "defects", "defective cells", COUNT_PALETTE, high)
        tips = [("die", "@die"), ("defective cells", "@defects{0,0}"), ("dead lines", "@lines")]
        plot.add_tools(HoverTool(renderers=[sites], tooltips=tips))
        maps["wafer_defects"] = plot
    return maps


def _wafer(
    results: LotResults, source: ColumnDataSource, shown: str, title: str, palette: tuple[str, ...], top: float
) -> tuple[figure, Any]:
    (left, lower), (right, upper) = results.sites.min(axis=0), results.sites.max(axis=0)
    plot = _plot(height=370, title=title, x_axis_label="wafer column", y_axis_label="wafer row")
    plot.x_range, plot.y_range = Range1d(start=left - 0.6, end=right + 0.6), Range1d(start=lower - 0.6, end=upper + 0.6)
    mapper = LinearColorMapper(palette=palette, low=0, high=top, nan_color="#F2F2F2")
    sites = plot.rect(
        "column", "row", 0.94, 0.94, source=source, fill_color={"field": shown, "transform": mapper},
        line_color="#AAAAAA", line_width=0.5, nonselection_fill_alpha=0.2, selection_line_color="black",
        selection_line_width=3,
    )  # fmt: skip
    if max(right - left, upper - lower) < 10:
        plot.text(
            "column", "row", text=f"text_{shown}", source=source, text_color=f"ink_{shown}", text_align="center",
            text_baseline="middle", text_font_size="11px", text_font=value(FONT), nonselection_text_color=INK,
            nonselection_text_alpha=0.5,
        )  # fmt: skip
    worst = int(np.nanargmax(np.asarray(source.data[shown], float)))
    place = [results.sites[worst, 0]], [results.sites[worst, 1]]
    plot.rect(*place, 0.96, 0.96, fill_color=None, line_color="#0072B2", line_width=3)
    plot.grid.visible = False
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker.desired_num_ticks = 6
        axis.ticker.min_interval = 1
    return plot, sites


def error_against_defects(results: LotResults, source: ColumnDataSource) -> figure:
    """Error of every die over its count of defective cells; the axis is logarithmic where counts span decades."""
    defects = results.defects
    wide = defects.min() > 0 and defects.max() > 20 * defects.min()
    plot = _plot(
        height=430, x_axis_type="log" if wide else "linear", x_axis_label="defective cells on the die",
        y_axis_label="misclassification error (%)",
    )  # fmt: skip
    plot.y_range.start = 0
    if wide:
        plot.x_range = Range1d(start=defects.min() / 1.3, end=defects.max() * 1.3)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    names = run_trainings(results)
    keys = [(TRAININGS[name], [_dots(plot, source, "defects", name, 9)]) for name in names]
    _software_line(plot, results)
    _legend(plot, keys)
    return plot


def transfer_matrix(results: LotResults) -> figure:
    """Emulated error of the network trained for die i (row) on die j (column); measured pairs are framed."""
    names = _distinct(results.short_names)
    count, values = len(names), 100 * results.moved_emulated
    measured = {(i, j): 100 * error for i, j, error in results.moved_measured}
    pairs = list(np.ndindex(values.shape))
    data = {
        "on": [j for _, j in pairs],
        "trained": [i for i, _ in pairs],
        "die_on": [results.dies[j] for _, j in pairs],
        "die_trained": [results.dies[i] for i, _ in pairs],
        "emulated": values.ravel(),
        "measured": [f"{measured[pair]:.1f} %" if pair in measured else "no" for pair in pairs],
    }
    plot = _plot(height=640, x_axis_label="on die", y_axis_label="network trained for die")
    plot.x_range, plot.y_range = Range1d(start=-0.5, end=count - 0.5), Range1d(start=count - 0.5, end=-0.5)
    top = max(5.0, float(np.nanmax(values)))
    mapper = LinearColorMapper(palette=ERROR_PALETTE, low=0, high=top, nan_color="#EEEEEE")
    fill = {"field": "emulated", "transform": mapper}
    cells = plot.rect("on", "trained", 1, 1, source=ColumnDataSource(data=data), fill_color=fill, line_color=None)
    if measured:
        _frame(plot, list(measured), "measured too")
    _name_axis(plot.xaxis, names, upright=True)
    _name_axis(plot.yaxis, names)
    tips = [
        ("trained for", "@die_trained"),
        ("on die", "@die_on"),
        ("emulated", "@emulated{0.0} %"),
        ("measured", "@measured"),
    ]
    plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
    bar = ColorBar(color_mapper=mapper, title="emulated error (%)", width=14, title_text_font=FONT, padding=8)
    bar.update(major_label_text_font=FONT, title_text_font_style="normal", title_text_font_size="12px")
    plot.add_layout(bar, "right")
    plot.grid.visible = False
    return plot


def _frame(plot: Any, pairs: list[tuple[int, int]], words: str) -> None:
    rows, columns = zip(*pairs, strict=True)
    frames = plot.rect(
        list(columns), list(rows), 0.86, 0.86, fill_color=None, line_color="#0072B2", line_width=2,
    )  # fmt: skip
    _legend(plot, [(words, [frames])])


def _name_axis(axis: Any, names: list[str], upright: bool = False) -> None:
    """Names of the dies as tick labels; every second, third ... where there are many."""
    step = max(1, -(-len(names) // 40))
    shown = range(0, len(names), step)
    axis.ticker = FixedTicker(ticks=list(shown))
    axis.major_label_overrides = {place: names[place] for place in shown}
    axis.major_label_text_font_size = "10px"
    if upright:
        axis.major_label_orientation = "vertical"


def moved_against_emulation(results: LotResults) -> figure:
    """Measured error of moved networks over the emulated error of the same pair; the line is equality."""
    pairs = [(i, j, e) for i, j, e in results.moved_measured if np.isfinite(results.moved_emulated[i, j])]
    emulated = [100 * results.moved_emulated[i, j] for i, j, _ in pairs]
    measured = [100 * error for *_, error in pairs]
    top = 1.08 * max([5.0, *emulated, *measured])
    plot = _plot(height=640, x_axis_label="emulated error (%)", y_axis_label="measured error (%)")
    plot.x_range, plot.y_range = Range1d(start=0, end=top), Range1d(start=0, end=top)
    equal = plot.line([0, top], [0, top], line_color=FAINT, line_dash="dashed")
    data = {
        "emulated": emulated,
        "measured": measured,
        "trained": [results.dies[i] for i, _, _ in pairs],
        "on": [results.dies[j] for _, j, _ in pairs],
    }
    dots = plot.scatter(
        "emulated", "measured", source=ColumnDataSource(data=data), marker=MARKERS["die_aware_moved"], size=9,
        fill_color=TRAINING_COLOURS["die_aware_moved"], line_color="white",
    )  # fmt: skip
    tips = [
        ("trained for", "@trained"),
        ("on die", "@on"),
        ("emulated", "@emulated{0.0} %"),
        ("measured", "@measured{0.0} %"),
    ]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips))
    _legend(plot, [("moved network", [dots]), ("equal", [equal])])
    return plot


def sensitivity(results: LotResults) -> figure:
    """Mean error and the band of 80 % of the draws over the defect rate, in multiples of the lot's own."""
    curves = results.sensitivity
    scale = np.asarray(curves["scale"], float)
    plot = _plot(height=430, x_axis_label="defect rate (multiple of this lot's)", y_axis_label="emulated error (%)")
    keys = []
    for name, draws in curves["error"].items():
        error, colour = 100 * np.asarray(draws, float), TRAINING_COLOURS.get(name, FAINT)
        low, high = np.percentile(error, [10, 90], axis=1)
        data = ColumnDataSource({"scale": scale, "mean": error.mean(axis=1), "low": low, "high": high})
        band = plot.varea("scale", "low", "high", source=data, fill_color=colour, fill_alpha=0.16)
        line = plot.line("scale", "mean", source=data, line_color=colour, line_width=2.5)
        dots = plot.scatter("scale", "mean", source=data, marker=MARKERS.get(name, "circle"), size=8, color=colour)
        label = TRAININGS.get(name, name)
        tips = [("training", label), ("defect rate", "@scale{0.00} x lot"), ("mean error", "@mean{0.0} %")]
        tips += [("80 % of draws", "@low{0.0} to @high{0.0} %")]
        if name in TRAININGS:
            plot.add_tools(HoverTool(renderers=[dots], tooltips=tips))
        keys.append((label, [line, dots, band]))
    plot.add_layout(Span(location=1, dimension="height", line_color=FAINT, line_dash="dotted"))
    plot.y_range.start = 0
    _software_line(plot, results)
    _legend(plot, keys)
    return plot


def conductances(results: LotResults) -> Model:
    """Histograms of all cells of the lot by class, read after writing P and after writing AP, on one axis."""
    good = results.cell_class_flat == CellClass.GOOD
    middle = float(np.median(results.g_ap[good])) if good.any() else float(np.median(np.abs(results.g_ap)))
    floor = max(middle, 1e-12) / 1000
    ceiling = max(float(np.nanmax(results.g_p)), float(np.nanmax(results.g_ap)), 10 * floor) * 1.2
    edges = np.geomspace(floor, ceiling, 161)
    plots: list[figure] = []
    for values, state in ((results.g_p, "P"), (results.g_ap, "AP")):
        plot = _histograms(values, results.cell_class_flat, edges, state)
        if plots:
            plot.x_range = plots[0].x_range
        plots.append(plot)
    plots[0].xaxis.axis_label = None
    return column(*plots, sizing_mode="stretch_width", spacing=4)


def _histograms(values: NDArray[np.float32], classes: NDArray[np.uint8], edges: FloatArray, state: str) -> figure:
    plot = _plot(
        height=350 if state == "P" else 290, x_axis_type="log", y_axis_type="log", x_axis_label="conductance (µS)",
        y_axis_label="cells per bin", title=f"read after writing {state}",
    )  # fmt: skip
    left, right, keys, highest = 1e6 * edges[:-1], 1e6 * edges[1:], [], 1
    for kind in CellClass:
        of_kind = values[classes == kind]
        if not of_kind.size:
            continue
        counts, _ = np.histogram(np.clip(of_kind, edges[0] * 1.0001, edges[-1]), edges)
        highest = max(highest, int(counts.max()))
        heights = np.maximum(counts, 0.5).astype(float)
        data = ColumnDataSource({"left": left, "right": right, "top": heights, "count": counts})
        fill = plot.quad(
            "left", "right", "top", 0.5, source=data, fill_color=CLASS_COLOURS[kind], fill_alpha=0.18, line_color=None
        )
        steps = plot.step(
            np.append(left, right[-1]),
            np.append(heights, 0.5),
            mode="after",
            line_color=CLASS_COLOURS[kind],
            line_width=1.8,
        )
        keys.append((f"{CLASS_WORDS[kind]} ({of_kind.size:,})", [steps, fill]))
    plot.y_range = Range1d(start=0.5, end=3.0 * highest)
    plot.x_range = Range1d(start=left[0], end=right[-1])
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0.[000]")
    if state == "P":
        _legend(plot, keys)
    return plot


def defect_map(results: LotResults) -> Model:
    """Every defective cell of one die, blocks side by side as on the die; a menu changes the die.

    It opens on the die with the worst error (statistics-aware where there is one) or else the most defects.
    """
    order = worst_first(results)
    if np.count_nonzero(results.cell_class) > MAX_MAP_CELLS:
        order = order[:1]
    shown = GroupFilter(column_name="die", group=int(order[0]))
    plot = _die_plot(results, order, shown)
    titles = {str(die): map_title(results, die) for die in order}
    plot.title.text = titles[str(order[0])]
    if len(order) == 1:
        return plot
    options: list[str | tuple[Any, str]] = [(str(die), titles[str(die)].splitlines()[0]) for die in order]
    menu = Select(title="die (worst first)", value=str(order[0]), options=options, width=420)
    code = "shown.group = Number(this.value); title.text = titles[this.value]"
    menu.js_on_change("value", CustomJS(args={"shown": shown, "title": plot.title, "titles": titles}, code=code))
    return column(menu, plot, sizing_mode="stretch_width")


def worst_first(results: LotResults) -> list[int]:
    """Dies by falling error of the most robust training that was run, or by falling defect count."""
    name = _judge(results)
    badness = results.error(name) if name else results.defects.astype(float)
    return [int(die) for die in np.argsort(-np.nan_to_num(badness, nan=-1.0), kind="stable")]


def order_words(results: LotResults) -> str:
    """What `worst_first` goes by, in words."""
    name = _judge(results)
    return f"{TRAININGS[name]} error" if name else "number of defective cells"


def _judge(results: LotResults) -> str | None:
    names = run_trainings(results)
    return next((name for name in ("statistics_aware", "calibrated", "die_aware", "unaware") if name in names), None)


def map_title(results: LotResults, die: int) -> str:
    """Name, errors, defects and dead lines of a die; the first line is short."""
    errors = {name: results.error(name)[die] for name in run_trainings(results)}
    told = [f"{TRAININGS[name]} {100 * error:.1f} %" for name, error in errors.items() if np.isfinite(error)]
    defects = f"{np.count_nonzero(results.cell_class[die]):,} defective cells"
    lines = results.line_faults[die] if results.line_faults else ()
    dead = wrap("dead lines: " + (", ".join(lines) or "none"), 110)
    return "\n".join([f"{results.dies[die]}: {defects}", *(wrap(", ".join(told), 80) if told else []), *dead[:3]])


def _die_plot(results: LotResults, order: list[int], shown: GroupFilter) -> Any:
    """The cells of all dies of `order`, of which `shown` lets one through."""
    _, blocks, rows, columns = results.cell_class.shape
    starts = np.arange(blocks) * (columns + _BLOCK_GAP)
    plot = _plot(height=640, y_axis_label="row", x_axis_label="column of the block")
    plot.x_range = Range1d(start=-_BLOCK_GAP, end=starts[-1] + columns + 1)
    plot.y_range = Range1d(start=rows + 1, end=-11)
    plot.rect(starts + columns / 2 - 0.5, rows / 2 - 0.5, columns, rows, fill_color="#F4F4F4", line_color="#999999")
    keys = []
    for kind in CellClass:
        if kind == CellClass.GOOD:
            continue
        data = _cells_of(results, order, kind, starts)
        view = CDSView(filter=shown)
        cells = plot.rect("x", "y", 1, 1, source=data, view=view, fill_color=CLASS_COLOURS[kind], line_color=None)
        tips = [("class", CLASS_WORDS[kind]), ("block", "@block"), ("row", "@y"), ("column", "@column")]
        plot.add_tools(HoverTool(renderers=[cells], tooltips=tips))
        keys.append((CLASS_WORDS[kind], [cells]))
    _label_lines(plot, results, order, shown, starts)
    ticks = [int(start + at) for start in starts for at in range(0, columns, 10)]
    plot.xaxis.ticker = FixedTicker(ticks=ticks)
    plot.xaxis.major_label_overrides = {tick: str(tick % (columns + _BLOCK_GAP)) for tick in ticks}
    plot.text(
        starts + columns / 2, -8.5, text=[f"block {block}" for block in range(blocks)], text_align="center",
        text_font=value(FONT), text_font_size="13px", text_baseline="middle", text_color=INK,
    )  # fmt: skip
    plot.grid.visible = False
    _legend(plot, keys)
    return plot


def _cells_of(results: LotResults, order: list[int], kind: CellClass, starts: NDArray[np.int64]) -> ColumnDataSource:
    """Cells of one class on all dies of `order`: die, block, row (y), column and place in the figure (x)."""
    die, block, row, col = (part.astype(np.int32) for part in np.nonzero(results.cell_class[order] == kind))
    die = np.asarray(order, np.int32)[die]
    data = {"die": die, "block": block, "y": row, "column": col, "x": (starts[block] + col).astype(np.int32)}
    return ColumnDataSource(data=data)


def _label_lines(
    plot: Any, results: LotResults, order: list[int], shown: GroupFilter, starts: NDArray[np.int64]
) -> None:
    """Numbers of dead rows left of their block, of dead columns above it."""
    labels: list[tuple[Any, ...]] = []
    for die in order:
        dead = results.cell_class[die] == CellClass.DEAD_LINE
        for block, start in enumerate(starts):
            for first, last in _stretches(np.flatnonzero(dead[block].mean(axis=1) > 0.9)):
                labels.append((die, start - 1.5, (first + last) / 2, _span("row", first, last), "right"))
            for first, last in _stretches(np.flatnonzero(dead[block].mean(axis=0) > 0.9)):
                labels.append((die, start + (first + last) / 2, -2.5, _span("col", first, last), "center"))
    columns = zip(*labels, strict=True) if labels else ((),) * 5
    names = ("die", "x", "y", "text", "align")
    data: dict[str, Any] = {name: list(part) for name, part in zip(names, columns, strict=True)}
    plot.text(
        "x", "y", text="text", text_align="align", text_baseline="middle", source=ColumnDataSource(data=data),
        view=CDSView(filter=shown), text_font_size="11px", text_font=value(FONT), text_color=INK,
    )  # fmt: skip


def _stretches(places: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last of each run of neighbours."""
    if not places.size:
        return []
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(int(run[0]), int(run[-1])) for run in runs]


def _span(word: str, first: int, last: int) -> str:
    return f"{word} {first}" if first == last else f"{word}s {first}–{last}"


def _plot(height: int, **options: Any) -> Any:
    """A figure in the manner of this report: fills its column, no logo, quiet grid, one font.

    Typed as Any: Bokeh's annotations know fewer attributes than its figures have.
    """
    plot: Any = figure(
        height=height, sizing_mode="stretch_width", tools="pan,box_zoom,wheel_zoom,reset,save", active_scroll=None,
        toolbar_location="right", outline_line_color="#CCCCCC", background_fill_color="white",
        border_fill_color="white", **options,
    )  # fmt: skip
    plot.add_tools(TapTool())
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.title.update(text_font=FONT, text_font_size="13px", text_color=INK, text_font_style="bold")
    plot.grid.grid_line_color = GRID
    _style_axes(plot)
    return plot


def _style_axes(plot: Any) -> None:
    for axis in plot.axis:
        axis.update(
            axis_label_text_font=FONT, axis_label_text_font_style="normal", axis_label_text_font_size="13px",
            axis_label_text_color=INK, major_label_text_font=FONT, major_label_text_font_size="12px",
            major_label_text_color=INK, axis_line_color="#888888", major_tick_line_color="#888888",
            minor_tick_line_color=None,
        )  # fmt: skip


def _legend(plot: Any, items: Iterable[tuple[str, list[Any]]]) -> None:
    """A legend above the figure, or more entries for the one that is there; a click hides an entry.

    What draws nothing has no entry: its mark would be missing there.
    """
    drawn = [(label, renderers) for label, renderers in items if any(map(_draws, renderers))]
    entries = [LegendItem(label={"value": label}, renderers=renderers) for label, renderers in drawn]
    if not entries:
        return
    if plot.legend:
        plot.legend[0].items.extend(entries)
        return
    legend = Legend(
        items=entries, orientation="horizontal", click_policy="hide", label_text_font=FONT, label_text_font_size="12px",
        label_text_color=INK, border_line_color=None, margin=0, spacing=14, ncols=4, location="top_left",
    )  # fmt: skip
    plot.add_layout(legend, "above")


def _draws(renderer: Any) -> bool:
    """Whether there is anything in what a renderer draws."""
    columns = renderer.data_source.data
    return not columns or all(len(column) for column in columns.values())


def _ink(values: FloatArray | NDArray[np.int64], top: float) -> list[str]:
    """Black on light, white on dark, for text on the palettes."""
    return ["white" if np.isfinite(number) and number > 0.52 * top else INK for number in values]


def _top(values: FloatArray | NDArray[np.int64]) -> float:
    return max(1.0, float(np.nanmax(values))) if np.isfinite(values).any() else 1.0


def _texts(values: FloatArray | NDArray[np.int64], form: str) -> list[str]:
    return [form.format(number) if np.isfinite(number) else "–" for number in values]


def _distinct(names: Iterable[str]) -> list[str]:
    """Names short enough for an axis."""
    return [name if len(name) <= 14 else name[:13] + "…" for name in names]
