"""The report of a lot of passive dies: one HTML file that opens anywhere, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.figures import analog as drawn
from analysis.figures.page import page, write_whole
from analysis.figures.table import duration, percent
from analysis.results.analog import defects, programming
from analysis.results.tio2_moons import MoonsResults, Written, numbers

FloatArray = NDArray[np.float64]

#: Dies of which a map is shown.
MAPS = 36
TIMES = {
    "wall_s": "wall time",
    "station_s": "station time",
    "measuring_s": "finding stuck cells",
    "training_s": "training and plans",
    "writing_s": "writing",
    "classifying_s": "classifying",
}


def write_moons_report(results: MoonsResults, path: Path) -> Path:
    """Write the report to `path`, whole or not at all, and return it."""
    return write_whole(path, render(results))


def render(results: MoonsResults) -> str:
    """The report as HTML; it holds everything it needs."""
    found = numbers(results)
    return page(
        "moons.html",
        figures(results),
        numbers=found,
        headline=headline(found),
        rows=metric_rows(found),
        dies=die_rows(results),
        programming=programming_rows(found),
        share=share,
    )


def figures(results: MoonsResults) -> dict[str, Any]:
    """Figures by name; those of written dies only if there are any."""
    out: dict[str, Any] = {}
    if results.of_dies:
        networks = np.stack([each.network for each in results.of_dies])
        out["decision"] = drawn.decision_map(networks, results.x, results.label, results.right.mean(axis=0))
        out["cumulative"] = drawn.cumulative_curve({"closed loop, measured": results.right, **results.others})
        out["achieved"] = drawn.target_and_achieved([(each.die, each.writes[-1]) for each in results.of_dies])
        out["pulses"] = drawn.pulses_per_cell(np.concatenate([pulses_of(each) for each in results.of_dies]))
        out["drift"] = drawn.drift_over_order([drift_of(each.writes[0]) for each in results.of_dies])
    held = {each.die: each.writes[-1]["achieved"].values[0] for each in results.of_dies}
    for die, data in list(results.measured.items())[:MAPS]:
        g = np.nan_to_num(held.get(die, data["g"].values[0]))
        out[f"die_{die}"] = drawn.die_map(die, g, data["cell_class"].values[0])
    return out


def pulses_of(written: Written) -> NDArray[np.int64]:
    """Pulses of each cell that had a target, over all writes of a die, ``[cell]``."""
    total = sum((data["pulses"].values.astype(np.int64) for data in written.writes), np.zeros(1, np.int64))
    chosen: NDArray[np.int64] = total[written.writes[0]["outcome"].values > 0]
    return chosen


def drift_of(data: xr.Dataset) -> tuple[FloatArray, FloatArray]:
    """Place in the first pass, and relative change from the end of the own write to the end of that pass."""
    order, written, after = (data[name].values.ravel() for name in ("order", "written", "after_pass"))
    there = (order >= 0) & np.isfinite(written) & np.isfinite(after) & (written > 0)
    return order[there].astype(float), after[there] / written[there] - 1


def headline(found: dict[str, Any]) -> list[str]:
    """The answer in sentences."""
    dies, took, accuracy = found["dies"], found["programming"], found["accuracy"]
    if not dies["written"]:
        return [f"{dies['measured']} dies were measured; none was written and classified."]
    said = [
        f"On {dies['written']} of {dies['measured']} dies: f95 {share(found['f95'])}, mean accuracy "
        f"{share(accuracy['mean'])}, noise-free {share(accuracy['noise_free'])}, worst point "
        f"{share(accuracy['worst'])}, measured by analog products.",
        f"{percent(took['within_tolerance'])} of {took['cells']} cells are in tolerance when the whole array is "
        f"finished, {took['known_broken']} were known as broken; {took['pulses_per_cell'] or 0:.1f} pulses a cell that "
        f"works, {took['gave_up']} cells given up, up to {took['passes']} passes.",
    ]
    for name, part in found["others"].items():
        said.append(
            f"Without the loop, {name}: f95 {share(part['f95'])}, mean accuracy {share(part['mean'])} "
            "(emulated from the maps of the same dies)."
        )
    return said


def metric_rows(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Networks, and their four numbers in words."""
    accuracy, free = found["accuracy"], share(found["accuracy"]["noise_free"])
    own = [found["f95"], accuracy["mean"], accuracy["worst"]]
    rows = [("closed loop, analog products", own, free)]
    rows += [("closed loop, by map", [found["by_map"][key] for key in ("f95", "mean", "worst")], free)]
    for name, part in found["others"].items():
        rows.append((f"{name}, without the loop (emulated)", [part[key] for key in ("f95", "mean", "worst")], "-"))
    out = [(name, [share(f95), share(mean), noise_free, share(worst)]) for name, (f95, mean, worst), noise_free in rows]
    drawn_lots = found["monte_carlo"]
    if drawn_lots is not None:
        told = [f"{p['mean']:.3f} ({p['low']:.3f} to {p['high']:.3f})" for p in
                (drawn_lots[key] for key in ("f95", "mean", "worst"))]  # fmt: skip
        lots = f"Monte Carlo, {drawn_lots['lots']} lots of {drawn_lots['dies']} drawn dies (lowest to highest)"
        out.append((lots, [told[0], told[1], "-", told[2]]))
    return out


def die_rows(results: MoonsResults) -> list[list[str]]:
    """A row of words for each die: name, broken cells, lines, in tolerance, given up, passes, pulses, accuracy."""
    done = {each.die: each for each in results.of_dies}
    why = numbers(results)["dies"]["not_written"]
    rows = []
    for die, data in results.measured.items():
        broken = defects(data)
        cells = ", ".join(f"{count} {name}" for name, count in broken["cells"].items()) or "-"
        row = [die, cells, ", ".join(broken["lines"]) or "-"]
        if die in done:
            took = programming([done[die].writes], whole=True)
            row += [percent(took["within_tolerance"]), str(took["gave_up"]), str(took["passes"])]
            row += [f"{took['pulses_per_cell'] or 0:.1f}", f"{done[die].right.mean():.1%}"]
        else:
            row += [f"not written: {why[die]}", "-", "-", "-", "-"]
        rows.append(row)
    return rows


def programming_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Programming, time and source as pairs of name and value."""
    took = found["programming"]
    reasons = ", ".join(f"{count} {words}" for words, count in took["reasons"].items()) or "none"
    rows = [("cells written", str(took["cells"])), ("given up in the end", str(took["gave_up"]))]
    rows += [("given up in all writes", reasons)]
    rows += [("dies with a second round", str(took["second_rounds"]))]
    rows += [(words, duration(found["time"][key])) for key, words in TIMES.items()]
    rows += [("points", found["data"]), ("seed", str(found["seed"]))]
    return rows + list(found["provenance"].items())


def share(value: float | None) -> str:
    """A share with three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"
