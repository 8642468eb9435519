"""Columns that are driven one after another, as a kernel with gates is read and written.

The gate of one column is on, so every row carries the current of one cell: the network is a ladder. It is solved
exactly and without a matrix, for resistances down to zero, and several times faster than as an array of its own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sim_backends.array.devices.interface import BoolArray, Conducting, FloatArray
from sim_backends.array.solver.errors import ConvergenceError

STEPS_MAX = 80
HALVINGS_MAX = 40
TOLERANCE = 1e-12  # what a cell conducts against what was balanced, of the current of its column


def column_by_column(
    devices: Conducting,
    voltage: float,
    connected: BoolArray,
    r_row: float,
    r_column: float,
    *,
    r_contact: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Voltage and current of every cell when the columns of an array are driven one after another.

    The column is driven at its bottom, the rows that are connected then are held at zero volts at their left ends, the
    others float. So a row carries the current of one cell, and the column that of all its connected cells.

    Parameters
    ----------
    devices
        ``[row, column]``.
    voltage
        Column voltage (V).
    connected
        Rows that are held while a column is driven, ``[row, column]``.
    r_row, r_column
        Resistance of one line segment (Ohm).
    r_contact
        Resistance between each terminal and its line (Ohm).

    Returns
    -------
    v_cell, i_cell
        ``[row, column]`` in V and A, row minus column and from row to column: negative for a positive `voltage`; zero
        where not connected.

    Raises
    ------
    ConvergenceError
        If Newton's method does not settle.

    Notes
    -----
    The currents of a solved linearised ladder balance exactly; what the devices conduct at its voltages differs from
    them. A Newton step is halved until this difference, summed over a column, falls.
    """
    columns = connected.shape[1]
    own_row = np.asarray(r_contact + r_row * np.arange(1, columns + 1), dtype=np.float64)
    v, balanced = np.where(connected, -voltage, 0.0), np.zeros(connected.shape)
    i, slope = devices.current(v)
    missing = _missing(i, balanced, connected)
    to_v, to_balanced = np.empty((2, *connected.shape))
    for _ in range(STEPS_MAX):
        _solve_ladders(v, i, slope, connected, voltage, own_row, r_column, r_contact, to_v, to_balanced)
        length = np.ones(columns)
        for _ in range(HALVINGS_MAX):
            new_v, new_balanced = v + length * (to_v - v), balanced + length * (to_balanced - balanced)
            i, slope = devices.current(new_v)
            now = _missing(i, new_balanced, connected)
            settled = now <= TOLERANCE * np.abs(new_balanced).sum(axis=0)
            worse = ~(settled | (now <= (1 - 1e-4 * length) * missing))
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        v, balanced, missing = new_v, new_balanced, now
        if settled.all():
            return v, np.where(connected, i, 0.0)
    worst = int(np.flatnonzero(~settled)[0])
    raise ConvergenceError(
        f"column {worst} driven to {voltage:g} V: Newton's method left {missing[worst]:.3g} A unbalanced after "
        f"{STEPS_MAX} steps"
    )


def _missing(i: FloatArray, balanced: FloatArray, connected: BoolArray) -> FloatArray:
    """Sum over each column of what its cells conduct more or less than is balanced (A)."""
    return np.sum(np.abs(i - balanced), axis=0, where=connected)


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_ladders(
    v: FloatArray,
    i: FloatArray,
    slope: FloatArray,
    connected: BoolArray,
    voltage: float,
    own_row: FloatArray,
    r_column: float,
    r_contact: float,
    to_v: FloatArray,
    to_i: FloatArray,
) -> None:
    """Voltages and currents of all columns with cells of a current `i` and a `slope` at voltages `v`.

    From the top of a column downwards, all that lies above a node is a current source beside a conductance; from the
    driven end back upwards, its voltage is known. Nothing is divided by a resistance, so they may be zero.
    """
    rows, columns = v.shape
    source, seen = np.empty((2, rows))  # current out of all above and at node k, if that node were at 0 V; conductance
    own_source, own_g = np.empty((2, rows))
    for column in range(columns):
        above_source, above_seen = 0.0, 0.0
        for k in range(rows):
            own_source[k], own_g[k] = 0.0, 0.0
            if connected[k, column]:
                share = 1.0 / (1.0 + slope[k, column] * own_row[column])
                own_source[k] = (i[k, column] - slope[k, column] * v[k, column]) * share
                own_g[k] = slope[k, column] * share
            source[k], seen[k] = above_source + own_source[k], above_seen + own_g[k]
            through = 1.0 / (1.0 + seen[k] * r_column)
            above_source, above_seen = source[k] * through, seen[k] * through
        node, r = voltage, r_column + r_contact
        for back in range(rows):
            k = rows - 1 - back
            node = (node + r * source[k]) / (1.0 + r * seen[k])
            r = r_column
            to_i[k, column] = own_source[k] - own_g[k] * node
            to_v[k, column] = 0.0
            if own_g[k] > 0.0:  # not what is left of the drive: digits would be lost where that is little
                to_v[k, column] = v[k, column] + (to_i[k, column] - i[k, column]) / slope[k, column]
            elif connected[k, column]:
                to_v[k, column] = -own_row[column] * to_i[k, column] - node
