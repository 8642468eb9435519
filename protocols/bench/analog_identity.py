"""Whether a die of analog cells is the one that the record means: by what its cells held when they were last looked at.

Such cells have no scatter that stays: a write takes it away. But a die keeps what was written. So what the record last
knows of every cell is compared with a read on entering: the result of the newest measurement or write, and whatever was
read after later pulses, so that a write that was cut in the middle is no stranger. Cells that were pulsed and not read
since tell nothing. Dies that were given the same conductances cannot be told apart by this.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.record import Record

FloatArray = NDArray[np.float64]

#: Least correlation of the logarithms. A simulated die whose write was cut after 900 pulses, which pushed the cells
#: beside its own down by up to 44 %, still has 0.9; two dies with conductances anywhere in 100 to 500 uS have 0 +- 0.13
#: (64 cells).
SAME_DIE = 0.5
#: Fewer cells than this, or conductances that differ less (standard deviation of the logarithm), tell nothing.
ENOUGH, SPREAD = 32, 0.1
#: What a write, loops and a measurement are known by in the record, and their variable that says what cells hold.
HELD = {"achieved": "achieved", "g_swept": "g_swept", "g_initial": "g"}
_WITHIN = (20e-6, 2e-3)  # S; beyond, a read is noise, or a short


def last_known(record: Record, die: str) -> FloatArray | None:
    """What each cell of a die held (S) by the record, ``[kernel, row, column]``; NaN where it tells nothing.

    None if the die was never measured, written or swept as analog cells.
    """
    steps = [record.newest_step_with(die, variable) for variable in HELD]
    there = [step for step in steps if step is not None]
    if not there:
        return None
    newest = max(there, key=lambda step: step.id)
    data = record.load(newest)
    g = np.array(next(data[held].values for variable, held in HELD.items() if variable in data), dtype=np.float64)
    before = record.batch_before(die, newest.id)
    read: dict[int, list[xr.Dataset]] = {}
    for batch, readings in record.readings(die, after=before):
        read.setdefault(batch, []).append(readings)
    for batch, intents in groupby(record.intents(die, after=before), key=lambda intent: intent.batch):
        for intent in intents:
            if intent.fired is not False:
                g[intent.pulse.kernel][intent.pulse.mask] = np.nan  # until it was read
        for readings in read.get(batch, ()):
            _overlay(g, readings)
    return g


def _overlay(g: FloatArray, readings: xr.Dataset) -> None:
    """Put what was read after a batch over what was known."""
    if "g" not in readings or "kernel" not in readings.coords:
        return
    for kernel in readings["kernel"].values:
        read = readings["g"].sel(kernel=kernel).values
        g[int(kernel)] = np.where(np.isnan(read), g[int(kernel)], read)


def likeness(now: FloatArray, known: FloatArray) -> float | None:
    """Correlation of what the cells hold with what they held, -1..1; None if that would tell nothing.

    Of the logarithms: what writes do to cells beside them is a share of what these hold, and the same way for most.

    Parameters
    ----------
    now, known
        Conductances (S), ``[kernel, row, column]``. A cell counts if it held something sensible; what reads as nothing
        or as a short now counts as the end of that range.
    """
    low, high = _WITHIN
    sensible = (known > low) & (known < high) & ~np.isnan(now)
    if np.count_nonzero(sensible) < ENOUGH:
        return None
    held, holds = np.log(known[sensible]), np.log(np.clip(now[sensible], low, high))
    if held.std() < SPREAD:
        return None
    return float(np.corrcoef(held, holds)[0, 1]) if holds.std() else 0.0
