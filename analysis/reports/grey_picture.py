"""The report of dies that a picture was written into: one HTML file that opens anywhere, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures import grey_picture as drawn
from analysis.figures.analog import pulses_per_cell
from analysis.figures.page import page, write_whole
from analysis.figures.table import duration, percent
from analysis.results.grey_picture import PUBLISHED, PictureResults, functional, numbers, relative_error

#: Dies that are shown.
SHOWN = 9
TIMES = {
    "wall_s": "wall time",
    "station_s": "station time",
    "measuring_s": "finding stuck cells",
    "writing_s": "writing",
}


#: Share of the cells that must work for the error of these to be held against that of a published array (assumed).
COMPARABLE = 0.95


def write_picture_report(results: PictureResults, path: Path) -> Path:
    """Write the report to `path`, whole or not at all, and return it."""
    return write_whole(path, render(results))


def render(results: PictureResults) -> str:
    """The report as HTML; it holds everything it needs."""
    found = numbers(results)
    return page(
        "picture.html",
        figures(results),
        numbers=found,
        headline=headline(found),
        rows=[(die, die_row(each)) for die, each in found["dies"].items()],
        black=f"{1e6 * results.scale[0]:.0f} uS",
        white=f"{1e6 * results.scale[1]:.0f} uS",
        shown=list(results.written)[:SHOWN],
        details=detail_rows(found),
    )


def figures(results: PictureResults) -> dict[str, Any]:
    """Figures by name; those of dies have its name at their end."""
    out: dict[str, Any] = {"wanted": drawn.picture("wanted", results.wanted, results.scale)}
    for die in list(results.written)[:SHOWN]:
        data, good = results.written[die], functional(results, die)[0]
        error = relative_error(results, die)[0]
        out[f"held_{die}"] = drawn.picture(
            f"on die {die}", np.nan_to_num(data["achieved"].values[0]), results.scale, good
        )
        out[f"error_{die}"] = drawn.error_map(error, good)
    if results.written:
        good = {die: functional(results, die) for die in results.written}
        errors = [relative_error(results, die)[good[die]] for die in results.written]
        pulses = [data["pulses"].values[good[die]] for die, data in results.written.items()]
        settings = next(iter(results.written.values())).attrs["settings"]
        out["histogram"] = drawn.error_histogram(np.concatenate(errors), drawn.tolerance_of(settings))
        out["pulses"] = pulses_per_cell(np.concatenate(pulses))
    return out


def headline(found: dict[str, Any]) -> list[str]:
    """The answer in sentences."""
    if not found["dies"]:
        return ["No die was written."]
    took = found["programming"]
    below = found["mean_error"] is not None and found["mean_error"] < PUBLISHED
    compared = "below" if below else "NOT below"
    if found["functional"] < COMPARABLE:
        compared = "too few of the cells work to compare this with"
    return [
        f"Mean relative error {percent(found['mean_error'], 2)} (worst cell {percent(found['worst_error'], 0)}) of the "
        f"{found['functional']:.1%} of the cells that work, {len(found['dies'])} "
        f"{'die' if len(found['dies']) == 1 else 'dies'}: {compared} the {PUBLISHED:.0%} of Kim 2021 "
        "(64 x 64, about 99 % functional).",
        f"{percent(took['within_tolerance'])} of all cells are in tolerance when the whole array is finished, "
        f"{took['known_broken']} of {took['cells']} were known as broken; {took['pulses_per_cell'] or 0:.1f} pulses a "
        f"cell that works, {took['gave_up']} cells given up, {took['passes']} passes.",
    ]


def die_row(each: dict[str, Any]) -> list[str]:
    """The numbers of a die in words."""
    return [
        f"{each['functional']:.1%}", percent(each["mean_error"], 2), percent(each["worst_error"], 0),
        f"{each['mean_error_all_cells']:.2%}", percent(each["within_tolerance"]), str(each["gave_up"]),
        str(each["passes"]), f"{each['pulses_per_cell']:.1f}",
    ]  # fmt: skip


def detail_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Picture, reasons, time and source as pairs of name and value."""
    reasons = ", ".join(f"{count} {words}" for words, count in found["programming"]["reasons"].items()) or "-"
    rows = [("picture", found["picture"]), ("given up", reasons)]
    rows += [(f"die {die} not written", why) for die, why in found["not_written"].items()]
    rows += [(words, duration(found["time"][key])) for key, words in TIMES.items()]
    return [*rows, ("seed", str(found["seed"])), *found["provenance"].items()]
