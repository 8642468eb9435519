"""Write-verify on the host: read, pulse the cells that are wrong, read again, until they are right or given up."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record import step_names
from analysis.record.record import Pulse
from mapping.dies.die_record import HARD_DEFECTS, DieRecord
from mapping.placement.coding import AP, DONT_CARE, P
from mapping.writing.schedule import WriteSchedule
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_conductances
from protocols.sequencer.verdicts import PASSING_SHARE
from protocols.source.marks import step

#: Share of all cells of a schedule that may be wrong without being known as broken.
WRONG_SHARE = 1e-3
#: Share of the wrong cells in one row or column from which that line is named as the likely fault (assumed).
LINE_SHARE = 0.8


@step(step_names.PROGRAM)
def program(bench: Bench, die: Die, *, schedule: WriteSchedule, die_record: DieRecord, averages: int = 2) -> xr.Dataset:
    """Bring the cells of a schedule into their states; returns what each cell was found in and how many pulses it got.

    It reads before it pulses, so that a step cut in the middle and begun again never fires at a cell that is right.
    Cells that the die record holds for broken (short, open, stuck, on a dead line) are not pulsed: every pulse would
    be dose for nothing. A cell that stays wrong is given up after `attempts_max` pulses, so that a channel or relay
    that is stuck costs no more. Verdict ``pass`` if at least 95 % of all cells of the schedule are right and no more
    than 0.1 % of them are wrong without being known as broken, else ``fail`` with the reason, which names a line that
    most of the wrong cells lie on.

    Returns
    -------
    xarray.Dataset
        `wanted` and `states` int8 ``[kernel, row, column]`` (P 1, AP 0, -1 where no cell is wanted), the second as read
        at the end, `pulses` uint16, and the counts
        `cells`, `verified`, `gave_up` (wanted cells that are wrong at the end), `writable_wrong` (those among them that
        the record holds for good), `known_broken` (wanted cells that it holds for broken), `changed` (cells that
        needed a pulse at all) and their `pulses`.
    """
    wanted = schedule.states != DONT_CARE
    broken = np.isin(die_record.cell_class, HARD_DEFECTS)
    thresholds = schedule.verify.thresholds(die_record)
    pulses, dose = np.zeros(wanted.shape, np.uint16), bench.array.dose()
    states = states_of(_read(bench, schedule, wanted), thresholds)
    for attempt in range(schedule.pulse.attempts_max):
        wrong = wanted & (states != schedule.states) & ~broken & (dose + pulses < schedule.pulse.dose_limit)
        bench.report("write-verify", 1.0 - float(wrong.sum() / max(1, wanted.sum())))
        if not wrong.any():
            break
        batch = bench.array.fire(
            [
                Pulse(
                    b.kernel, b.mask & wrong[b.kernel], schedule.pulse.amplitude(b.state, attempt), schedule.pulse.width
                )
                for b in schedule.batches
            ]
        )
        pulses[wrong] += 1
        g = _read(bench, schedule, wrong)
        bench.array.keep_readings(batch, g)
        touched = wrong.any(axis=(1, 2))[:, None, None]
        states = np.where(touched, states_of(g, thresholds), states)
    return _outcome(schedule, states, pulses, wanted, broken)


def states_of(g: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int8]:
    """State of every cell by its conductance (S): P above its threshold, else AP."""
    return np.where(g > thresholds, P, AP).astype(np.int8)


def _read(bench: Bench, schedule: WriteSchedule, cells: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Conductance (S) of every cell of the kernels that `cells` touches, NaN in the others."""
    kernels = [int(kernel) for kernel in np.flatnonzero(cells.any(axis=(1, 2)))]
    return read_conductances(bench.array, schedule.verify.v_read, averages=schedule.verify.averages, kernels=kernels)


def _reason(wrong: NDArray[np.bool_], writable: int, pulses: NDArray[np.uint16]) -> str:
    """Why a write failed, in words; where wrong cells lie on one line of the tester, that line is the likely fault."""
    count = int(np.count_nonzero(wrong))
    said = f"{count} of {writable} writable cells are wrong after up to {int(pulses[wrong].max())} pulses each"
    for name, across in (("row", (0, 2)), ("column", (0, 1))):
        on_line = np.count_nonzero(wrong, axis=across)
        if on_line.max() >= max(3, LINE_SHARE * count):
            where = f"{name} {int(on_line.argmax())} of the kernels"
            return f"{said}, {int(on_line.max())} of them in {where}: check that {name}'s channel, relay and needles"
    return said


def _outcome(
    schedule: WriteSchedule,
    states: NDArray[np.int8],
    pulses: NDArray[np.uint16],
    wanted: NDArray[np.bool_],
    broken: NDArray[np.bool_],
) -> xr.Dataset:
    right = wanted & (states == schedule.states)
    wrong = wanted & ~right & ~broken
    cells, verified, writable_wrong = (int(np.count_nonzero(each)) for each in (wanted, right, wrong))
    known_broken = int(np.count_nonzero(wanted & broken))
    reasons = []
    if writable_wrong > WRONG_SHARE * cells:
        reasons.append(_reason(wrong, cells - known_broken, pulses))
    if not verified >= PASSING_SHARE * cells or not cells:
        reasons.append(f"{verified} of {cells} cells hold what was asked, {known_broken} are known as broken")
    attrs = {
        "verdict": "fail" if reasons else "pass",
        **({"reason": "; ".join(reasons)} if reasons else {}),
        "cells": cells,
        "verified": verified,
        "gave_up": cells - verified,
        "writable_wrong": writable_wrong,
        "known_broken": known_broken,
        "changed": int(np.count_nonzero(pulses)),
        "pulses": int(pulses.sum()),
    }
    dims = ("kernel", "row", "column")
    states = np.where(wanted, states, DONT_CARE).astype(np.int8)
    return xr.Dataset(
        {"wanted": (dims, schedule.states), "states": (dims, states), "pulses": (dims, pulses)}, attrs=attrs
    )
