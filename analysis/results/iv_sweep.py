"""From the record of current-voltage loops to their results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis.record.assumed import assumed
from analysis.record.record import Record
from analysis.record.step_names import SWEEP_CELL
from analysis.results.analog import history, times

PROTOCOL = "iv-sweep"
KINDS = {"sweeping_s": (SWEEP_CELL,)}
#: The row's other cells have moved if their current differs by this share: the curve is off by as much of it (assumed).
LEAK_MOVED = 0.02

ASSUMED = (
    "the loop's 250 points lie on all four ways of it together, and take 10 s together",
    "a cell has switched if the current on the way back differs by 10 %; the switching voltage is where half of the "
    "change has happened, on a logarithmic scale",
    "what the other cells of the row carry is measured alone, before and after, and subtracted",
)


@dataclass(frozen=True, eq=False)
class IVResults:
    """A lot.

    Attributes
    ----------
    loops : dict
        Results of `sweep_cell` by die in route order and cell.
    settings : dict
        Of the sweep.
    """

    loops: dict[str, dict[tuple[int, int], xr.Dataset]]
    settings: dict[str, Any]
    seed: int
    time: dict[str, float]
    provenance: dict[str, str]
    assumed: tuple[str, ...] = ASSUMED


def iv_results(record: Record, protocol: str = PROTOCOL) -> IVResults:
    """Results of the newest history of `protocol` in a record, finished or not; of each cell the last loop.

    Raises
    ------
    NothingMeasuredError
        If no loop was taken.
    """
    found = history(record, protocol, SWEEP_CELL)
    loops = {name: {_cell(data): data for data in each} for name, each in found.dies.items()}
    last = list(found.dies.values())[-1][-1]
    return IVResults(
        loops=loops,
        settings=json.loads(last.attrs["settings"]),
        seed=found.seed,
        time=times(record, protocol, KINDS),
        provenance=found.provenance,
        assumed=assumed(record, found.run, ASSUMED),
    )


def _cell(data: xr.Dataset) -> tuple[int, int]:
    row, column = data.attrs["cell"]
    return int(row), int(column)


def of_loop(data: xr.Dataset) -> dict[str, Any]:
    """The numbers of one loop, of SET and RESET; None where nothing can be said."""
    halves = {}
    for at, name in enumerate(("set", "reset")):
        halves[name] = {key: _number(data[key].values[at]) for key in ("g_before", "g_after", "v_switch", "i_max")} | {
            "switched": bool(data["switched"].values[at]),
            "turned": bool(data["turned"].values[at]),
            "leak_change": float(data["leak_change"].values[at]),
        }
    return halves | {"moved": int(data.attrs["moved"])}


def numbers(results: IVResults) -> dict[str, Any]:
    """What ``--json`` writes: plain dictionaries, lists, numbers and None."""
    dies = {
        die: {f"{row},{column}": of_loop(data) for (row, column), data in loops.items()}
        for die, loops in results.loops.items()
    }
    every = [loop for loops in dies.values() for loop in loops.values()]
    return {
        "loops": len(every),
        "set": _spread([loop["set"] for loop in every]),
        "reset": _spread([loop["reset"] for loop in every]),
        "others_moved": sum(loop["moved"] for loop in every),
        "dies": dies,
        "settings": dict(results.settings),
        "time": dict(results.time),
        "seed": results.seed,
        "assumed": list(results.assumed),
        "provenance": dict(results.provenance),
    }


def _spread(halves: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and quartiles of what switched, and how many did."""
    done = [half for half in halves if half["switched"]]
    found: dict[str, Any] = {"switched": len(done), "turned": sum(half["turned"] for half in halves)}
    for key in ("v_switch", "g_after", "i_max"):
        values = [half[key] for half in done if half[key] is not None]
        found[key] = [float(each) for each in np.quantile(values, (0.25, 0.5, 0.75))] if values else None
    return found


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
