"""The page of `xbar simulate`: error over defect rate, short and selector for every method, with what it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Span

from analysis.figures.maps import FAINT, INK, MARKERS, TRAINING_COLOURS, _legend, _plot
from analysis.figures.page import page, write_whole
from analysis.figures.table import NOTHING, counted, percent, points
from analysis.results.summary import CLOSE, TRAININGS

#: The closer figure of a sweep ends this far above software.
CLOSER = 0.10


def write_page(numbers: dict[str, Any], path: Path) -> Path:
    """Write the page of the content of `lots.json` to `path`, whole or not at all, and return it.

    It holds everything it needs (Bokeh's scripts too).
    """
    return write_whole(path, render(numbers))


def render(numbers: dict[str, Any]) -> str:
    """The page as HTML; text is escaped by Jinja and Bokeh."""
    return page(
        "lots.html",
        curves(numbers["sweeps"]),
        numbers=numbers,
        settings=settings_rows(numbers),
        conclusions=conclusions(numbers),
        tables={name: rows(sweep) for name, sweep in numbers["sweeps"].items()},
        trainings=TRAININGS,
        colours=TRAINING_COLOURS,
    )


def curves(sweeps: dict[str, Any]) -> dict[str, Any]:
    """Figures by name: one for every sweep, and ``<sweep>_close`` for what is near software."""
    out = {}
    for name, sweep in sweeps.items():
        if sweep["points"]:
            out[name] = curve(sweep)
            out[f"{name}_close"] = curve(sweep, close=True)
    return out


def curve(sweep: dict[str, Any], *, close: bool = False) -> Any:
    """Mean error of every method over the swept value (logarithmic), bands for 80 % of the dies, line of software.

    `close`: the part of the error axis around software.
    """
    found = sweep["points"]
    values = [point["value"] for point in found]
    software = [100 * point["methods"]["software"]["mean"] for point in found]
    plot = _plot(height=430, x_axis_type="log", x_axis_label=sweep["axis"], y_axis_label="emulated error (%)")
    plot.xaxis.ticker = FixedTicker(ticks=values)
    plot.xaxis.major_label_overrides = {value: f"{value:,g}" for value in values}
    low, high = _error_range(found, close)
    plot.y_range = Range1d(start=low, end=high)
    keys = [(label, _method(plot, name, values, found)) for name, label in TRAININGS.items()]
    line = plot.line(values, software, line_color=INK, line_dash="dashed", line_width=1.5)
    plot.add_layout(Span(location=sweep["default"], dimension="height", line_color=FAINT, line_dash="dotted"))
    _legend(plot, [(f"software, {software[0]:.1f} %", [line]), *keys])
    return plot


def _error_range(found: list[dict[str, Any]], close: bool) -> tuple[float, float]:
    """Ends of the error axis (%): from zero to above every band; close, from below all to `CLOSER` above software."""
    methods = [point["methods"][name] for point in found for name in TRAININGS]
    software = [point["methods"]["software"]["mean"] for point in found]
    highest = 1.08 * max(method["high"] for method in methods)
    if not close:
        return 0.0, 100 * highest
    lowest = min(software + [method["low"] for method in methods])
    return max(0.0, 100 * lowest - 1), 100 * min(max(software) + CLOSER, highest)


def _method(plot: Any, name: str, values: list[float], found: list[dict[str, Any]]) -> list[Any]:
    """Line, markers and band of one method, with hover."""
    numbers, colour = [point["methods"][name] for point in found], TRAINING_COLOURS[name]
    data = ColumnDataSource({key: [100 * n[key] for n in numbers] for key in ("mean", "low", "high", "worst")})
    data.data["value"] = values
    data.data["recovered"] = [_recovered(n) for n in numbers]
    band = plot.varea("value", "low", "high", source=data, fill_color=colour, fill_alpha=0.10)
    line = plot.line("value", "mean", source=data, line_color=colour, line_width=2.5)
    dots = plot.scatter("value", "mean", source=data, marker=MARKERS[name], size=9, color=colour)
    tips = [("method", TRAININGS[name]), ("at", "@value{0,0.[00]}"), ("mean error", "@mean{0.0} %")]
    tips += [("80 % of dies", "@low{0.0} to @high{0.0} %"), ("worst die", "@worst{0.0} %")]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[*tips, ("recovered", "@recovered")]))
    return [line, dots, band]


def conclusions(numbers: dict[str, Any]) -> list[str]:
    """What the curves say, in sentences."""
    sweep = numbers["sweeps"]["defect_rate"]
    said = [f"{_named(name, sweep['leaves_software'][name])}." for name in TRAININGS] if sweep["points"] else []
    at_one = next((p for p in sweep["points"] if p["value"] == 1.0), None)
    if at_one is not None:
        said.append(_at_own_rate(at_one))
    return said


def _named(name: str, left: dict[str, Any]) -> str:
    """At which rate a method leaves software."""
    label, by, value = TRAININGS[name], f"{100 * CLOSE:.0f} points", left["value"]
    if left["found"] == "at":
        return f"{label}: {by} above software at {value:.2g} times the lot's defect rate"
    if left["found"] == "below":
        return f"{label}: more than {by} above software already at {value:g} times the lot's defect rate, the lowest"
    return f"{label}: less than {by} above software up to {value:g} times the lot's defect rate, the highest"


def _at_own_rate(point: dict[str, Any]) -> str:
    methods = point["methods"]
    told = [f"{TRAININGS[name]} {percent(methods[name]['mean'])}" for name in TRAININGS]
    return (
        f"At the lot's own rate ({point['defective_cells']:,.0f} defective cells a die, dead lines included): software "
        f"{percent(methods['software']['mean'])}, {', '.join(told)}."
    )


def rows(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of a sweep: text of every method at every value."""
    return [
        {
            "value": f"{point['value']:,g}",
            "defects": f"{point['defective_cells']:,.0f}",
            "software": percent(point["methods"]["software"]["mean"]),
            "cells": [_cell(name, point["methods"][name]) for name in TRAININGS],
        }
        for point in sweep["points"]
    ]


def _cell(name: str, numbers: dict[str, Any]) -> dict[str, str]:
    sd = NOTHING if numbers["sd"] is None else f"{100 * numbers['sd']:.1f}"
    halves = ""
    if "unseen_half" in numbers:
        halves = f"fitted {percent(numbers['fit_half']['mean'])}, unseen {percent(numbers['unseen_half']['mean'])}"
    return {
        "mean": percent(numbers["mean"]),
        "spread": f"sd {sd}, worst {percent(numbers['worst'])}",
        "halves": halves,
        "difference": points(numbers["minus_software"]),
        "recovered": "" if name == "unaware" or numbers["recovered"] is None else f"recovers {_recovered(numbers)}",
    }


def _recovered(numbers: dict[str, Any]) -> str:
    """Share of the loss of the unaware network that a method takes back."""
    share = numbers["recovered"]
    return NOTHING if share is None else f"{100 * share:.0f} %".replace("-", "−")


def settings_rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """What the results come from, as pairs of name and value."""
    settings, source = numbers["settings"], numbers["provenance"]
    epochs = ", ".join(f"{name.replace('_', '-')} {recipe['epochs']}" for name, recipe in settings["recipes"].items())
    packages = ", ".join(f"{name} {version}" for name, version in source["packages"].items() if version)
    return [
        ("lot", f"{settings['lot']}, {counted(settings['dies'], 'die')} drawn at every point"),
        ("seeds", _listed(numbers["seeds"])),
        ("data", f"{settings['data']}; {settings['test_images']:,} test images"),
        ("epochs", epochs),
        ("source", f"{source['git']}, training and emulation {settings['source']}"),
        ("python", source["python"]),
        ("packages", packages),
    ]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
