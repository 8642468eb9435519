"""The report of current-voltage loops: one HTML file that opens anywhere, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.figures import iv_sweep as drawn
from analysis.figures.page import page, write_whole
from analysis.figures.table import duration
from analysis.results.iv_sweep import LEAK_MOVED, IVResults, numbers

#: Dies that are shown.
SHOWN = 9
TIMES = {"wall_s": "wall time", "station_s": "station time", "sweeping_s": "taking loops"}


def write_iv_report(results: IVResults, path: Path) -> Path:
    """Write the report to `path`, whole or not at all, and return it."""
    return write_whole(path, render(results))


def render(results: IVResults) -> str:
    """The report as HTML; it holds everything it needs."""
    found = numbers(results)
    limits = results.settings["i_set"], results.settings["i_reset"]
    shown = list(results.loops)[:SHOWN]
    figures: dict[str, Any] = {f"loops_{die}": drawn.loops(f"die {die}", results.loops[die], limits) for die in shown}
    every = [data for loops in results.loops.values() for data in loops.values()]
    figures["switching"] = drawn.switching(tuple(data["v_switch"].values) for data in every)
    rows = [(die, cell, loop_row(loop)) for die, loops in found["dies"].items() for cell, loop in loops.items()]
    return page(
        "iv.html", figures, numbers=found, headline=headline(found), rows=rows, shown=shown, details=details(found)
    )


def headline(found: dict[str, Any]) -> list[str]:
    """The answer in sentences."""
    said = []
    for name in ("set", "reset"):
        half = found[name]
        text = f"{name.upper()}: {half['switched']} of {found['loops']} loops switched"
        if half["v_switch"] is not None:
            low, middle, high = half["v_switch"]
            text += f" at {middle:.2f} V (quartiles {min(low, high, key=abs):.2f} and {max(low, high, key=abs):.2f} V)"
            text += f", to {1e6 * half['g_after'][1]:.0f} uS"
        said.append(f"{text}; {half['turned']} turned back at the compliance (*).")
    moved, spoilt = found["others_moved"], _spoilt(found)
    if moved:
        others = "another cell" if moved == 1 else f"{moved} other cells"
        said.append(
            f"{others} moved on seeing a third of the voltage: write what matters after the loops, or turn earlier "
            "(v_set, v_reset)."
        )
    if spoilt:
        said.append(
            f"In {spoilt} {'half' if spoilt == 1 else 'halves'} the current of the row's other cells changed by more "
            f"than {LEAK_MOVED:.0%}: near the turning point such a curve is off by that share of what they carry."
        )
    return said


def _spoilt(found: dict[str, Any]) -> int:
    halves = [loop[name] for loops in found["dies"].values() for loop in loops.values() for name in ("set", "reset")]
    return sum(abs(half["leak_change"]) > LEAK_MOVED for half in halves)


def loop_row(loop: dict[str, Any]) -> list[str]:
    """The numbers of a loop in words: of each half voltage, conductances, largest current; then other cells."""
    row = []
    for name in ("set", "reset"):
        half = loop[name]
        g = [f"{1e6 * half[key]:.0f}" if half[key] is not None else "-" for key in ("g_before", "g_after")]
        volts = "-" if half["v_switch"] is None else f"{half['v_switch']:.2f}"
        amperes = "-" if half["i_max"] is None else f"{1e3 * half['i_max']:.2f}"
        row += [volts, "→".join(g), amperes + (" *" if half["turned"] else "")]
    return [*row, str(loop["moved"])]


def details(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings, time and source as pairs of name and value."""
    units = {"v_set": "V", "v_reset": "V", "i_set": "A", "i_reset": "A", "t_sweep": "s", "v_read": "V"}
    rows = [(name, f"{value:g} {units.get(name, '')}".strip()) for name, value in found["settings"].items()]
    rows += [(words, duration(found["time"][key])) for key, words in TIMES.items()]
    return [*rows, ("seed", str(found["seed"])), *found["provenance"].items()]
