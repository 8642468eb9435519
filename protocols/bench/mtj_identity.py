"""The fingerprint of a die: the fixed pattern of its resistances, whatever is programmed on it.

Resistances of healthy junctions scatter by some percent from cell to cell and keep that scatter for good; the measured
scatter of a few kernels tells one die from any other, and from itself mirrored, in a few reads.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from instruments.roles.interfaces import ArrayReader
from instruments.roles.limits import applied_read_voltage
from mapping.dies.die_record import CellClass, DieRecord

#: Two reads of one die correlate above 0.9 at the default spread and noise, two dies at 0 +- 0.02 (2,500 cells).
SAME_DIE = 0.5


def kernels_of(kernels: int, wanted: int = 4) -> np.ndarray:
    """The kernels that carry the fingerprint, spread over the die."""
    return np.unique(np.linspace(0, kernels - 1, wanted).astype(int))


def fingerprint(record: DieRecord) -> xr.Dataset:
    """What of a die record is kept to recognise the die: both states (S) of the good cells of some kernels."""
    kernels = kernels_of(record.geometry.kernels)
    good = record.cell_class[kernels] == CellClass.GOOD
    dims = ("fingerprint_kernel", "row", "column")
    return xr.Dataset(
        {
            "fingerprint_g_p": (dims, np.where(good, record.g_p[kernels], np.nan), {"units": "S"}),
            "fingerprint_g_ap": (dims, np.where(good, record.g_ap[kernels], np.nan), {"units": "S"}),
        },
        coords={"fingerprint_kernel": kernels},
        attrs={"fingerprint_v_read": float(record.conditions["v_read"])},
    )


def likeness(array: ArrayReader, known: xr.Dataset) -> float:
    """Correlation of the cells' scatter under the needles with a known fingerprint, -1..1."""
    v_read = known.attrs["fingerprint_v_read"]
    kernels = known["fingerprint_kernel"].values
    applied = applied_read_voltage(array.capabilities(), v_read)
    now = np.stack([array.read(int(kernel), v_read) for kernel in kernels]) / applied
    return scatter_likeness(now, known["fingerprint_g_p"].values, known["fingerprint_g_ap"].values)


def scatter_likeness(now: np.ndarray, g_p: np.ndarray, g_ap: np.ndarray) -> float:
    """Correlation of relative deviations from the population of the state each cell is in now.

    The state is told by the middle of the two populations, not by the cell's own record, so that a foreign die
    cannot look alike by construction.
    """
    good = np.isfinite(g_p) & np.isfinite(now)
    if not good.any():
        return 0.0
    middle = (np.median(g_p[good]) + np.median(g_ap[good])) / 2
    measured, recorded = [], []
    for state, reference in ((now > middle, g_p), (now <= middle, g_ap)):
        cells = good & state
        if np.count_nonzero(cells) < 10:
            continue
        measured.append(now[cells] / np.median(now[cells]) - 1)
        recorded.append(reference[cells] / np.median(reference[cells]) - 1)
    if not measured:
        return 0.0
    x, y = np.clip(np.concatenate(measured), -0.5, 0.5), np.concatenate(recorded)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else 0.0
