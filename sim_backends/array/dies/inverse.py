"""The inverse of a read: junctions that show, in the array's own model, the conductances that were measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.circuit.line_drops import cell_voltages
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.dies.lot import KINDS, Lot

R_LEAST = 1.0  # Ohm; what is left for a junction that reads better than its selector and lines allow
_SAME = 0.1  # two reads of a short that differ by more, relative: it broke down between them
_SHORT, _STUCK_AP, _WEAK = (KINDS.index(kind) for kind in ("short", "stuck_ap", "weak_tmr"))


def measured_junctions(
    g_p: FloatArray, g_ap: FloatArray, kind: NDArray[np.uint8], alive: BoolArray, v_read: float, lot: Lot
) -> tuple[FloatArray, FloatArray]:
    """Resistance in P (Ohm) and TMR at low bias of every cell, from what was read.

    The currents of a read are known, and with them every drop along the lines and across the selectors: what is left
    of the read voltage is across the junctions. So the inverse is closed, not iterated.

    Parameters
    ----------
    g_p, g_ap
        Conductance as read with all cells in P and in AP (S), ``[kernel, row, column]``.
    kind
        Index of `KINDS`. Cells that never switch show the mean of both reads, but a short that broke down between
        them (reads differ by more than a tenth) the later one.
    alive
        Cells on no dead line.
    v_read
        Read voltage (V).
    lot
        Its lines, selector and `v_half` are those of the array in which the cells will sit.
    """
    r_p, bias_p = _junction(g_p, alive, v_read, lot)
    r_ap, bias = _junction(g_ap, alive, v_read, lot)
    switches = (kind == 0) | (kind == _WEAK)
    tmr = np.where(switches & alive, (r_ap / r_p - 1) * bias, 0.0)
    healthy = alive & (kind == 0)
    typical = float(np.median(tmr[healthy])) if healthy.any() else lot.devices.tmr
    tmr = np.where(kind == _STUCK_AP, typical, tmr)
    mean = (r_p / (1 + tmr / bias_p) + r_ap / (1 + tmr / bias)) / 2  # of cells in one state, AP if stuck in it
    same = np.abs(g_p - g_ap) <= _SAME * np.maximum(g_p, g_ap)
    r_fixed = np.where((kind == _SHORT) & ~same, np.minimum(r_p, r_ap), mean)
    return np.where(switches, r_p, r_fixed), tmr


def _junction(g: FloatArray, alive: BoolArray, v_read: float, lot: Lot) -> tuple[FloatArray, FloatArray]:
    """Resistance of the junctions (Ohm) in one read, and ``1 + (V_junction / v_half)**2``."""
    lines, devices = lot.lines, lot.devices
    current = np.where(alive, np.maximum(g, 0.0), 0.0) * v_read
    v_cell = cell_voltages(current, v_read, lines.r_row, lines.r_column, r_contact=lines.r_contact)
    r_cell = np.divide(v_cell, current, out=np.full(g.shape, np.inf), where=current > 0)
    r = np.clip(r_cell - devices.r_selector, R_LEAST, devices.r_open)
    v_junction = v_cell * r / (r + devices.r_selector)
    return r, 1 + (v_junction / devices.v_half) ** 2
