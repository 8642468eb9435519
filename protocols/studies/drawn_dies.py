"""Die records of drawn dies, as measuring them at the station would give them; no wire.

What is measured, and with which noise: every switchable cell is put into P and into AP (writing itself is left out: no
write errors, no breakdown), and both maps are read through the readout chain of the simulated board, `ReadoutSpec` as
it stands: white noise of 50 nA and 0.3 % of the current per sample, 8 samples averaged, 12 bit codes of the smallest
range that a cell does not saturate, gain and offset of every channel as its calibration leaves them, line resistance
of a read. Cells are classified from these two maps by `mapping.dies.classify_cells`; the drawn truth does not enter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mapping.dies.classify_cells import NotSwitchingError, classify
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import ArrayGeometry
from sim_backends.array.dies.lot import Lot
from sim_backends.array.dies.mtj_die import Die, stream
from sim_backends.array.dies.readout import Readout, ReadoutSpec

FloatArray = NDArray[np.float64]

V_READ = 0.1
AVERAGES = 8
#: Key of the random stream that the errors of the board's channels are drawn from.
_BOARD = 2**32 - 2


def scaled_lot(lot: Lot, scale: float, r_short: float, r_selector: float) -> Lot:
    """The lot with `scale` times as many point defects and dead lines, and other resistances (Ohm).

    The limit on the bad share of a die scales too (up to a half), or a high rate would be cut instead of drawn.
    """
    d = lot.defects
    defects = {"rate_median": min(d.rate_median * scale, 0.5), "rate_max": min(d.rate_max * scale, 0.5)}
    defects |= {name: getattr(d, name) * scale for name in ("dead_rows", "dead_columns", "dead_gates",
                                                            "dead_rows_shared")}  # fmt: skip
    devices = {"r_short": r_short, "r_selector": r_selector}
    changed = {"defects": d.model_copy(update=defects), "devices": lot.devices.model_copy(update=devices)}
    return lot.model_copy(update=changed)


def measured_records(lot: Lot, seed: int, indices: Sequence[int]) -> list[DieRecord]:
    """Records of the dies of a lot that can be used; as at the station, one without two states is left out.

    The same seed gives every board and die the same random numbers whatever the lot file says: lots that differ in one
    value differ in nothing else.
    """
    spec = lot.read_by(ReadoutSpec())
    readout = Readout.draw(spec, max(lot.topology.shape[1:]), stream(seed, _BOARD))
    records = (measure(Die.from_lot(lot, seed, index), readout) for index in indices)
    return [record for record in records if record is not None]


def measure(die: Die, readout: Readout) -> DieRecord | None:
    """Record of one die; None if fewer than half of its cells are good."""
    geometry = geometry_of(die.lot)
    g_p, g_ap = (_read_all(die, antiparallel, readout) for antiparallel in (False, True))
    try:
        cell_class, line_faults = classify(g_p, g_ap, geometry)
    except NotSwitchingError:
        return None
    if np.mean(cell_class == CellClass.GOOD) <= 0.5:
        return None
    largest = max(g[np.isfinite(g)].max() for g in (g_p, g_ap))
    g_p, g_ap = (np.nan_to_num(g, posinf=largest) for g in (g_p, g_ap))
    conditions = {"v_read": V_READ, "averages": AVERAGES, "instrument": "drawn die, read by the model of the board"}
    return DieRecord(f"die {die.index}", geometry, g_p, g_ap, cell_class, line_faults, conditions)


def geometry_of(lot: Lot) -> ArrayGeometry:
    """Geometry of the dies of a lot, as the station would report it."""
    g = lot.geometry
    return ArrayGeometry.tiled(g.rows, g.columns, g.blocks, g.block_rows, g.block_columns)


def _read_all(die: Die, antiparallel: bool, readout: Readout) -> FloatArray:
    """Conductance (S) of all cells ``[kernel, row, column]`` with all that switch in one state."""
    die.put(antiparallel)
    volts = round(V_READ / readout.spec.dac_lsb) * readout.spec.dac_lsb
    kernels = range(die.lot.topology.kernels)
    return np.stack([_digitised(die.read(kernel, volts), readout, die.noise(kernel)) for kernel in kernels]) / volts


def _digitised(currents: FloatArray, readout: Readout, rng: np.random.Generator) -> FloatArray:
    """Currents ``[row, column]`` (A) as the board reports them: by rows, inf where the largest range saturates."""
    spec, channels = readout.spec, np.arange(len(currents))
    out, top = np.full(currents.shape, np.inf), 2.0**spec.adc_bits - 1
    for number in range(len(spec.full_scales)):
        noise = spec.cell_noise * np.abs(currents.T)
        codes = readout.digitise(currents.T, noise, number, channels, AVERAGES, rng)
        found = (codes - readout.reported_offset[number]) * readout.reported_gain[number]
        out = np.where(np.isinf(out) & (codes != top).T, found.T, out)
        if np.isfinite(out).all():
            break
    return out
