"""The page of `xbar simulate tio2-transfers`: figures and tables of the content of `transfers.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, HoverTool, LinearColorMapper, NumeralTickFormatter, Range1d
from bokeh.models.annotations import ColorBar, Span
from bokeh.transform import dodge

from analysis.figures.maps import FAINT, GRID, INK, SPREAD_PALETTE, SPREAD_TOP, _legend, _plot
from analysis.figures.page import page, write_whole
from analysis.studies.transfer_results import ALL, BAD_RATE, LEVELS, LOOP, METRICS, RATES, REGULAR
from analysis.studies.transfer_results import GRID as CELLS

COLOURS = {
    REGULAR: "#D55E00",
    "early-stopped": "#E69F00",
    "as published": "#CC79A7",
    ALL: "#0072B2",
    LOOP: "#009E73",
}
MARKERS = {
    REGULAR: "triangle",
    "early-stopped": "diamond",
    "as published": "inverted_triangle",
    ALL: "square",
    LOOP: "circle",
}
SOURCES = {"tuning": "tuning alone", "drift": "drift alone", "stuck": "stuck cells alone", "all": "all three"}


def told(number: dict[str, Any]) -> str:
    """Mean and range over seeds in words."""
    if len(number["per_seed"]) == 1:
        return f"{number['mean']:.3f}"
    return f"{number['mean']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def write_page(numbers: dict[str, Any], path: Path) -> Path:
    """Write the page of the content of `transfers.json` to `path`, whole or not at all, and return it."""
    return write_whole(path, render(numbers))


def render(numbers: dict[str, Any]) -> str:
    """The page as HTML; it holds everything it needs."""
    return page(
        "transfers.html",
        figures(numbers),
        numbers=numbers,
        conclusions=conclusions(numbers),
        checks={name: check_rows(found["checks"]) for name, found in numbers["maps"].items()},
        metrics=METRICS,
        bad_rate=BAD_RATE,
        told=told,
        sources=SOURCES,
        settings=settings_rows(numbers),
    )


def figures(numbers: dict[str, Any]) -> dict[str, Any]:
    """Figures by name, ``<map>_<figure>``."""
    out: dict[str, Any] = {}
    for name, found in numbers["maps"].items():
        out[f"{name}_curve"] = cumulative_curve(found)
        out[f"{name}_sources"] = sources(found)
        out[f"{name}_cliff"] = cliff(found)
        first = next(point for point in numbers["points"] if point["map"] == name)
        for number, (net, drawn) in enumerate(first["decision"].items()):
            out[f"{name}_decision_{number}"] = decision(f"{net}, seed {first['seed']}", drawn)
        if "loop" in found:
            out[f"{name}_loop"] = ablation(found)
    return out


def cumulative_curve(found: dict[str, Any]) -> Any:
    """Share of test points over the share of transfers that get them right."""
    plot = _plot(height=400, x_axis_label="right in at least this share of the transfers", y_axis_label="test points")
    plot.y_range = Range1d(start=0, end=1.02)
    keys = []
    for net, curve in found["curves"].items():
        line = plot.line(LEVELS, curve, line_color=COLOURS[net], line_width=2.5)
        keys.append((net, [line]))
    plot.add_layout(Span(location=0.95, dimension="height", line_color=FAINT, line_dash="dotted"))
    _as_percent(plot.xaxis, plot.yaxis)
    _legend(plot, keys)
    return plot


def sources(found: dict[str, Any]) -> Any:
    """f95 with one source of disturbance at a time."""
    names = list(SOURCES.values())
    plot = _plot(height=400, x_range=FactorRange(factors=names), y_axis_label="f95")
    plot.y_range = Range1d(start=0, end=1.02)
    width = 0.8 / len(found["sources"])
    keys = []
    for place, (net, by_source) in enumerate(found["sources"].items()):
        data = ColumnDataSource({"source": names, **{key: [by_source[source]["f95"][key] for source in SOURCES]
                                                     for key in ("mean", "low", "high")}})  # fmt: skip
        at = dodge("source", (place + 0.5) * width - 0.4, range=plot.x_range)
        bars = plot.vbar(x=at, top="mean", width=0.9 * width, source=data, color=COLOURS[net])
        plot.segment(x0=at, x1=at, y0="low", y1="high", source=data, line_color=INK)
        plot.add_tools(
            HoverTool(renderers=[bars], tooltips=[("f95", "@mean{0.000}"), ("seeds", "@low{0.000} to @high{0.000}")])
        )
        keys.append((net, [bars]))
    _as_percent(plot.yaxis)
    _legend(plot, keys)
    return plot


def cliff(found: dict[str, Any]) -> Any:
    """f95 over the rate of stuck cells."""
    plot = _plot(height=400, x_axis_label="stuck LRS, and as many stuck HRS (share of the devices)", y_axis_label="f95")
    plot.y_range = Range1d(start=0, end=1.02)
    curves = dict(found["cliff"]) | ({LOOP: found["loop"]["cliff"]} if "loop" in found else {})
    keys = []
    for net, curve in curves.items():
        data = {key: [at["f95"][key] for at in curve] for key in ("mean", "low", "high")}
        band = plot.varea(list(RATES), data["low"], data["high"], fill_color=COLOURS[net], fill_alpha=0.12)
        line = plot.line(list(RATES), data["mean"], line_color=COLOURS[net], line_width=2.5)
        dots = plot.scatter(list(RATES), data["mean"], marker=MARKERS[net], size=8, color=COLOURS[net])
        keys.append((net, [band, line, dots]))
    plot.add_layout(Span(location=0.005, dimension="height", line_color=FAINT, line_dash="dotted"))
    _as_percent(plot.yaxis)
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0] %")
    _legend(plot, keys)
    return plot


def decision(title: str, drawn: dict[str, list[int]]) -> Any:
    """Spread of the output over the plane (colour) and where its mean is one half (line)."""
    plot = _plot(height=330, title=title, x_axis_label="x0", y_axis_label="x1", match_aspect=True)
    plot.x_range, plot.y_range = Range1d(start=0, end=1), Range1d(start=0, end=1)
    spread, mean = (np.array(drawn[key], dtype=float).reshape(CELLS, CELLS) / 1000 for key in ("sd", "mean"))
    mapper = LinearColorMapper(palette=SPREAD_PALETTE, low=0, high=SPREAD_TOP)
    plot.image([spread], x=0, y=0, dw=1, dh=1, color_mapper=mapper)
    axis = (np.arange(CELLS) + 0.5) / CELLS
    plot.contour(axis, axis, mean, levels=[0.5], line_color=INK, line_width=2)
    plot.add_layout(ColorBar(color_mapper=mapper, width=10, title="spread"), "right")
    plot.grid.grid_line_color = None
    return plot


def ablation(found: dict[str, Any]) -> Any:
    """f95 and mean accuracy of the loop, measure by measure, with the ceiling."""
    loop = found["loop"]
    names = list(loop["ablation"])
    plot = _plot(height=420, y_range=FactorRange(factors=names[::-1]), x_axis_label="share")
    low = min(0.9, *(metrics["f95"]["low"] for metrics in loop["ablation"].values()))
    plot.x_range = Range1d(start=max(0.0, low - 0.05), end=1.0)
    keys = []
    for key, colour, marker in (("f95", COLOURS[LOOP], "circle"), ("mean", COLOURS[ALL], "square")):
        data = ColumnDataSource({"name": names, **{part: [loop["ablation"][n][key][part] for n in names]
                                                   for part in ("mean", "low", "high")}})  # fmt: skip
        whisker = plot.segment(x0="low", x1="high", y0="name", y1="name", source=data, line_color=colour, line_width=2)
        dots = plot.scatter("mean", "name", source=data, marker=marker, size=10, color=colour)
        keys.append((METRICS[key], [whisker, dots]))
    plot.add_layout(
        Span(location=loop["ceiling"]["f95"]["mean"], dimension="height", line_color=FAINT, line_dash="dashed")
    )
    plot.ygrid.grid_line_color = GRID
    _as_percent(plot.xaxis)
    _legend(plot, keys)
    return plot


def _as_percent(*axes: Any) -> None:
    for axis in axes:
        axis.formatter = NumeralTickFormatter(format="0 %")


def conclusions(numbers: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    for name, found in numbers["maps"].items():
        before, after = found["table"][REGULAR], found["table"][ALL]
        said.append(
            f"{name} map: f95 {told(before['f95'])} of the regular network becomes {told(after['f95'])} with all "
            f"techniques ({after['f95']['mean'] / max(before['f95']['mean'], 1e-9):.1f} times); mean accuracy "
            f"{before['mean']['mean']:.3f} becomes {after['mean']['mean']:.3f}, noise-free "
            f"{before['noise_free']['mean']:.3f} becomes {after['noise_free']['mean']:.3f}."
        )
        if "loop" in found:
            said += _loop_said(found)
    return said


def _loop_said(found: dict[str, Any]) -> list[str]:
    loop, device = found["loop"], found["device"]
    whole, ceiling = loop["ablation"][LOOP], loop["ceiling"]
    metrics = device["metrics"]
    return [
        f"Closed loop: f95 {told(whole['f95'])}, mean accuracy {told(whole['mean'])}. The same networks without stuck "
        f"cells (ceiling): f95 {told(ceiling['f95'])}. Half of the way there, with a mean accuracy of 0.95, is reached "
        f"with {sum(loop['reached'])} of {len(loop['reached'])} seeds.",
        f"Closed loop on the array device, {device['dies']} dies: f95 {told(metrics['f95'])}, mean accuracy "
        f"{told(metrics['mean'])}, noise-free {told(metrics['noise_free'])}; {device['within_tolerance']:.1%} of the "
        f"cells, stuck ones among them, are in tolerance when the whole array is finished, "
        f"{device['pulses_per_cell']:.0f} pulses a cell.",
    ]


def check_rows(checks: dict[str, dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """What should hold, its numbers in words, and whether it does."""
    return [(what, _numbers(check["value"]), check["holds"]) for what, check in checks.items()]


def _numbers(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:.3f}" for key, number in value.items())
    if isinstance(value, list):
        return ", ".join(f"{number:.3f}" for number in value)
    return f"{value:.3f}"


def settings_rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """What the results come from, as pairs of name and value."""
    settings, source = numbers["settings"], numbers["provenance"]
    train, check, test = settings["points"]
    packages = ", ".join(f"{name} {version}" for name, version in source["packages"].items() if version)
    return [
        ("points", f"{settings['moons']}; {train} to train with, {check} to validate, {test} to test"),
        ("transfers", f"{settings['transfers']:,} of each network; the loop meets {settings['dies']:,} dies"),
        ("source", f"{source['git']}, modules {settings['source']}"),
        ("python", source["python"]),
        ("packages", packages),
    ]
