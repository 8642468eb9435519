"""Physics of one cell: a magnetic tunnel junction (MTJ) in series with a selector.

Voltages are column minus row. A positive cell voltage drives the junction from parallel (P) to antiparallel (AP),
a negative one from AP to P. Everything is vectorised: arguments are arrays of one shape, or broadcast to one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NEWTON_TOLERANCE = 1e-12  # V; the last step taken, so the error left is its square
NEWTON_STEPS_MAX = 50


class DeviceSolverError(RuntimeError):
    """The series circuit of junction and selector could not be solved."""


@dataclass(frozen=True)
class Junctions:
    """Junctions in the state they are in.

    Attributes
    ----------
    r_low
        Resistance in the parallel state (Ohm), of any shape.
    tmr
        Tunnel magnetoresistance at low bias of the *present* state: ``R(0) = r_low * (1 + tmr)``. Zero in P.
    v_half
        Junction voltage at which the TMR has fallen to half (V).
    r_selector
        Resistance of the selector in series (Ohm).
    """

    r_low: FloatArray
    tmr: FloatArray
    v_half: float
    r_selector: float


def junction_current(v_junction: FloatArray, cells: Junctions) -> FloatArray:
    """Current (A) through junctions at a junction voltage (V).

    ``R(V) = r_low * (1 + TMR0 / (1 + (V / v_half)**2))``, the usual bias dependence of the tunnel magnetoresistance.
    """
    q = 1 + (v_junction / cells.v_half) ** 2
    return v_junction * q / (cells.r_low * (q + cells.tmr))


def junction_voltage(v_cell: FloatArray, cells: Junctions, start: FloatArray | None = None) -> FloatArray:
    """Voltage across the junctions when the whole cells carry `v_cell` (V).

    Solves ``V_j + r_selector * I(V_j) = v_cell`` by Newton's method. The left side rises strictly with V_j, so there
    is one solution.

    Parameters
    ----------
    v_cell
        Voltage across junction and selector (V).
    cells
        The junctions.
    start
        A guess of the result, such as that of a nearby voltage.

    Raises
    ------
    DeviceSolverError
        If the steps have not become smaller than `NEWTON_TOLERANCE`.
    """
    r_low, tmr = cells.r_low, cells.tmr
    v = v_cell / (1 + cells.r_selector / (r_low * (1 + tmr))) if start is None else start
    for _ in range(NEWTON_STEPS_MAX):
        u2 = (v / cells.v_half) ** 2
        q = 1 + u2
        s = q + tmr
        ratio = cells.r_selector / (r_low * s)
        residual = v + v * q * ratio - v_cell
        slope = 1 + ratio * (q * s + 2 * u2 * tmr) / s
        step = residual / slope
        v = v - step
        if np.max(np.abs(step), initial=0.0) < NEWTON_TOLERANCE:
            return v
    raise DeviceSolverError(f"cell voltage up to {np.max(np.abs(v_cell)):.3g} V: Newton's method did not settle")


def cell_current(v_cell: FloatArray, cells: Junctions) -> FloatArray:
    """Current (A) through cells of junction and selector at a cell voltage (V)."""
    return junction_current(junction_voltage(v_cell, cells), cells)


def switching_probability(
    v_junction: FloatArray, width: float, v_critical: FloatArray, delta: FloatArray, tau0: float, error_floor: float
) -> FloatArray:
    """Probability that one pulse switches a junction by spin-transfer torque.

    Thermally activated: ``P = 1 - exp(-width / tau)``, ``tau = tau0 * exp(delta * (1 - V / v_critical))``. Above the
    critical voltage the same law is continued (precessional switching, only faster). `error_floor` is the share of
    pulses that fail however strong they are.

    Parameters
    ----------
    v_junction
        Junction voltage in the switching direction (V); where it is not positive nothing switches.
    width
        Pulse width (s).
    v_critical, delta
        Critical voltage (V) and thermal stability factor of each junction.
    tau0
        Attempt time (s).
    """
    # 1e-300 < exp < 1e300: beyond it the probability is 0 or 1 to the last digit anyway
    exponent = np.clip(-delta * (1 - v_junction / v_critical), -690.0, 690.0)
    probability = -np.expm1(-(width / tau0) * np.exp(exponent))
    return np.where(v_junction > 0, (1 - error_floor) * probability, 0.0)


def repeated(probability: FloatArray, count: int) -> FloatArray:
    """Probability of at least one success in `count` independent tries."""
    return -np.expm1(count * np.log1p(-np.minimum(probability, 1 - 1e-16)))
