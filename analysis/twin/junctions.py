"""What measured conductances say of the junctions of a die: their resistances, bias dependence, voltage under a pulse.

The circuit is that of `docs/simulation.md`: junction and selector in series, behind lines of known resistance. A read
or pulse drives one column and holds the rows of the selected cells, so currents add up along columns only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_ITERATIONS = 60
_LEAST = 1.0  # Ohm
_MOST = 1e9  # Ohm


@dataclass(frozen=True)
class Circuit:
    """What surrounds the junctions: selector, lines (Ohm), and the voltage (V) at which their TMR has halved."""

    r_selector: float
    v_half: float
    r_row: float
    r_column: float
    r_contact: float

    def drops(self, current: FloatArray) -> FloatArray:
        """What the lines take from the drive (V) at every cell, for currents ``[..., row, column]`` (A)."""
        rows, columns = current.shape[-2:]
        from_end = rows - np.arange(rows)  # segments between a cell and the column's terminal, beside the last row
        shared = self.r_contact + self.r_column * np.minimum.outer(from_end, from_end)
        own_row = self.r_contact + self.r_row * (np.arange(columns) + 1.0)
        return np.asarray(shared @ current + own_row * current)


@dataclass(frozen=True)
class JunctionMap:
    """Junctions of a die: resistance in P (Ohm) and TMR at low bias, ``[kernel, row, column]``."""

    r_p: FloatArray
    tmr: FloatArray


def junction_map(g_p: FloatArray, g_ap: FloatArray, v_read: float, circuit: Circuit) -> JunctionMap:
    """Junctions from the conductances (S) read at `v_read` (V) in both states."""
    r_p, _ = _junction(g_p, v_read, circuit)
    r_ap, v_ap = _junction(g_ap, v_read, circuit)
    return JunctionMap(r_p, (r_ap / r_p - 1) * (1 + (v_ap / circuit.v_half) ** 2))


def cell_resistance(g: FloatArray, v_read: float, circuit: Circuit) -> FloatArray:
    """Resistance of junction and selector (Ohm), without the lines that the reads went through."""
    current = np.maximum(g, 0.0) * v_read
    v_cell = v_read - circuit.drops(current)
    return np.divide(v_cell, current, out=np.full(g.shape, _MOST), where=current > 0)


def read_among_p(g_p: FloatArray, g_ap: FloatArray, apart: BoolArray, v_read: float, circuit: Circuit) -> FloatArray:
    """Conductances (S) as read with all cells in P, where the cells `apart` were in P alone, among cells in AP.

    Cells in AP draw less, so the lines leave more of the read voltage to a cell that is read among them.
    """
    current = v_read * np.maximum(np.where(apart, g_p, g_ap), 0.0)
    v_cell = v_read - circuit.drops(current)
    r_cell = np.divide(v_cell, current, out=np.full(g_p.shape, _MOST), where=current > 0)
    among_p = v_read * np.maximum(g_p, 0.0)
    for _ in range(_ITERATIONS):
        new = np.where(apart, (v_read - circuit.drops(among_p)) / r_cell, among_p)
        step = np.max(np.abs(new - among_p), initial=0.0)
        among_p = new
        if step < 1e-9 * v_read * np.max(np.abs(g_p)):
            break
    return np.where(apart & (current > 0), among_p / v_read, g_p)


def pulse_voltage(
    junctions: JunctionMap, antiparallel: BoolArray, amplitude: float, mask: BoolArray, circuit: Circuit
) -> FloatArray:
    """Magnitude of the voltage across the junctions (V) when a pulse begins, ``[..., row, column]``; 0 off the mask.

    `antiparallel` marks the cells in AP. Lines, selectors and the bias dependence of the TMR are brought into agreement
    by iteration, which contracts: the junction dominates the circuit.
    """
    tmr = np.where(antiparallel, junctions.tmr, 0.0)
    v_junction = np.full(junctions.r_p.shape, abs(amplitude) / 2)
    for _ in range(_ITERATIONS):
        r = junctions.r_p * (1 + tmr / (1 + (v_junction / circuit.v_half) ** 2))
        v_cell = abs(amplitude) - circuit.drops(np.where(mask, v_junction / r, 0.0))
        new = v_cell * r / (r + circuit.r_selector)
        step = np.max(np.abs(np.where(mask, new - v_junction, 0.0)), initial=0.0)
        v_junction = new
        if step < 1e-6:
            break
    return np.where(mask, v_junction, 0.0)


def v_half_of(curvature: float, r_p: float, tmr_read: float, v_read: float, r_selector: float) -> float | None:
    """Voltage at which the TMR has halved (V), from the curvature of typical AP cells.

    Parameters
    ----------
    curvature
        k of ``G(V) = G(v_read) (1 + k ((V / v_read)^2 - 1))``, as `protocols.steps.characterise` measures it, from the
        conductances at the read voltage and at half of it.
    r_p, tmr_read
        Typical junction: resistance in P (Ohm), and TMR as it is at the read voltage.

    Returns
    -------
    float or None
        None if no value between 20 mV and 20 V gives that curvature.
    """

    def excess(log_v_half: float) -> float:
        circuit = Circuit(r_selector, float(np.exp(log_v_half)), 0.0, 0.0, 0.0)
        r_ap = r_p * (1 + tmr_read)
        v_ap = v_read * r_ap / (r_ap + r_selector)
        one = JunctionMap(np.full((1, 1), r_p), np.full((1, 1), tmr_read * (1 + (v_ap / circuit.v_half) ** 2)))
        cell = np.ones((1, 1), bool)
        v_at_half = float(pulse_voltage(one, cell, v_read / 2, cell, circuit)[0, 0])
        r_at_half = v_at_half * r_selector / (v_read / 2 - v_at_half)
        return (1 - (r_ap + r_selector) / (r_at_half + r_selector)) / 0.75 - curvature

    low, high = np.log(0.02), np.log(20.0)
    if not np.isfinite(curvature) or excess(low) * excess(high) > 0:
        return None
    return float(np.exp(brentq(excess, low, high, xtol=1e-4)))


def _junction(g: FloatArray, v_read: float, circuit: Circuit) -> tuple[FloatArray, FloatArray]:
    """Resistance of the junctions (Ohm) and the voltage across them (V) in one read."""
    r = np.clip(cell_resistance(g, v_read, circuit) - circuit.r_selector, _LEAST, _MOST)
    current = np.maximum(g, 0.0) * v_read
    return r, (v_read - circuit.drops(current)) * r / (r + circuit.r_selector)
