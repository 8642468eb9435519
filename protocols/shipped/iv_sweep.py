"""`xbar run iv-sweep`: current-voltage curves of single cells, SET and RESET, with a compliance.

The tester biases the array so that other cells see a third of the voltage at most. That can still move one, so all
cells are read before and after each curve, and what has moved is in the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Record
from analysis.results.iv_sweep import IVResults, iv_results
from instruments.roles.interfaces import LimitError
from instruments.roles.quantities import Compliance, Duration, Volts
from mapping.dies.array_cells import cells_of
from mapping.writing.iv_sweep import IVSweep, Switching, switching_of
from protocols.bench.bench import Bench, Die
from protocols.bench.checks import check_read_voltage
from protocols.bench.conductances import read_ranging
from protocols.sequencer.run import Run
from protocols.source.marks import protocol, step
from protocols.steps.characterise import check_contact

#: Another cell has moved if its reading differs by this share (assumed: far above read noise).
MOVED = 0.05
#: Conductance (S) whose range is tried first (assumed: within that of cells in use, so one reading serves most).
TYPICAL = 100e-6
#: The loop, by its turning points.
HALVES = ("SET", "RESET")
#: What is said of each half, of `mapping.writing.iv_sweep.Switching`.
SAID = ("g_before", "g_after", "v_switch", "i_max", "switched")


@protocol
def iv_sweep(
    run: Run,
    *,
    cells: str = "diagonal",
    v_set: Volts = 1.4,
    v_reset: Volts = -1.5,
    i_set: Compliance = 1e-3,
    i_reset: Compliance = 10e-3,
    points: int = 250,
    t_sweep: Duration = 10.0,
) -> Callable[[Record], IVResults]:
    """Take the current-voltage loop of some cells of every die: 0, SET, 0, RESET, 0.

    Parameters
    ----------
    cells : str
        ``diagonal``, ``all``, or rows and columns: ``"3,4 0,7"``.
    v_set, v_reset : float
        Where the loop turns (V).
    i_set, i_reset : float
        Compliances (A): where a half of the loop turns back earlier.
    points : int
        Of the whole loop.
    t_sweep : float
        Duration of the loop (s).
    """
    settings = IVSweep(v_set, v_reset, i_set, i_reset, points, t_sweep)
    survey = run.survey()
    if not survey.attrs.get("sweeps"):
        raise LimitError(
            "this station takes no current-voltage curves: its tester has no compliance. Use a rack (docs/rack.md), "
            "simulated: --lot tio2-8x8@rack"
        )
    chosen = cells_of(cells, survey.attrs["geometry"]["rows"], survey.attrs["geometry"]["columns"])
    check_read_voltage(survey, settings.v_read)
    check_peaks(survey, settings)
    for die in run.dies():
        with run.attempt(die):
            if run.step(check_contact, die).attrs["verdict"] != "pass":
                continue
            for row, column in chosen:
                run.step(sweep_cell, die, row=row, column=column, settings=settings)
    return iv_results


def check_peaks(survey: xr.Dataset, settings: IVSweep) -> None:
    """Refuse a loop beyond what the station puts out, before anything moves.

    Raises
    ------
    LimitError
        Naming the setting.
    """
    limits = survey.attrs["limits"]
    for name, value in (("v_set", settings.v_set), ("v_reset", settings.v_reset)):
        if not limits["v_min"] <= value <= limits["v_max"]:
            raise LimitError(
                f"{name} of {value:g} V: this station puts out {limits['v_min']:g} to {limits['v_max']:g} V; lower it, "
                "or see pulse_limit in the station file"
            )


@step(step_names.SWEEP_CELL)
def sweep_cell(bench: Bench, die: Die, *, row: int, column: int, settings: IVSweep) -> xr.Dataset:
    """Take the loop of one cell, reading all cells before, between and after.

    Returns
    -------
    xarray.Dataset
        `voltage` ``[half, point]`` (V) and `current` ``[half, way, point]`` (A; NaN where the loop had turned back), of
        SET and RESET, there and back; `g` ``[moment, kernel, row, column]`` (S) before, between and after, the last of
        them also as `g_swept` ``[kernel, row, column]``. Of each half
        ``[half]``: `g_before`, `g_after`, `v_switch`, `i_max` (`mapping.writing.iv_sweep.Switching`), `switched`,
        `turned` and `leak_change` (`instruments.roles.interfaces.SweptCell`). Attributes: `cell`, and `moved`: how many
        other cells have moved. Verdict ``fail`` if the cell switched in neither half.

    Raises
    ------
    LimitError
        If the tester cannot do it; the cell saw no more than a reading.
    """
    for peak, compliance in settings.halves:
        bench.array.check_sweep(settings.voltages(peak), compliance, settings.dwell)
    g, curves = [_read_all(bench, settings)], []
    for number, (peak, compliance) in enumerate(settings.halves):
        bench.report(f"{HALVES[number]} [{row}, {column}]", number / len(HALVES))
        batch, curve = bench.array.sweep(
            0, row, column, settings.voltages(peak), compliance=compliance, dwell=settings.dwell
        )
        g.append(_read_all(bench, settings))
        bench.array.keep_readings(batch, g[-1])
        curves.append(curve)
    found = [switching_of(curve.voltage, curve.current, settings.v_read) for curve in curves]
    finite = [np.where(np.isfinite(each), each, np.nan) for each in g]
    return xr.Dataset(
        {
            "voltage": (("half", "point"), np.stack([curve.voltage for curve in curves]), {"units": "V"}),
            "current": (("half", "way", "point"), np.stack([curve.current for curve in curves]), {"units": "A"}),
            "g": (("moment", "kernel", "row", "column"), np.stack(finite), {"units": "S"}),
            "g_swept": (("kernel", "row", "column"), finite[-1], {"units": "S"}),
            **{name: ("half", [getattr(each, name) for each in found]) for name in SAID},
            "turned": ("half", [curve.turned for curve in curves]),
            "leak_change": ("half", [curve.leak_change for curve in curves]),
        },
        attrs={
            **_verdict(row, column, found),
            "cell": [row, column],
            "moved": _moved(g, row, column),
            "settings": json.dumps(asdict(settings)),
        },
    )


def _read_all(bench: Bench, settings: IVSweep) -> np.ndarray:
    caps = bench.array.capabilities()
    everything = np.ones((caps.kernels, caps.rows, caps.columns), bool)
    return read_ranging(bench.array, settings.v_read, everything, expected=TYPICAL)


def _moved(g: list[np.ndarray], row: int, column: int) -> int:
    """Other cells whose reading after the loop differs from that before."""
    before, after = np.maximum(g[0], 1e-7), np.maximum(g[-1], 1e-7)
    moved = ~(np.abs(after / before - 1) < MOVED) & np.isfinite(before)
    moved[0, row, column] = False
    return int(np.count_nonzero(moved))


def _verdict(row: int, column: int, found: list[Switching]) -> dict[str, str]:
    """A cell that was in the state already switches in one half only; one that does in none is stuck."""
    if any(each.switched for each in found):
        return {"verdict": "pass"}
    return {"verdict": "fail", "reason": f"cell [{row}, {column}] did not switch"}
