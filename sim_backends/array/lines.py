"""Resistance of the lines of a kernel: what a cell really sees, and what arrives at the sense amplifiers.

Geometry: row terminals are at the left end, column terminals at the bottom end. Between a terminal and its first cell
lie a contact resistance and one line segment, between neighbouring cells one segment. Driven and sensed terminals are
held at given voltages (a sense amplifier is a virtual ground), unused ones at the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from sim_backends.array.mtj import BoolArray, FloatArray

Direction = Literal["forward", "backward"]

TOLERANCE = 1e-9  # of the drive voltage
SWEEPS_MAX = 200


class LineSolverError(RuntimeError):
    """Line resistance too large against the cells for the relaxation to settle."""


def shared_resistance(cells: int, r_segment: float, r_contact: float) -> FloatArray:
    """Resistance that the paths from a line's terminal to two of its cells share.

    A current drawn at cell k lowers the voltage at cell i by this ``[i, k]`` (Ohm). Cell 0 is next to the terminal.
    """
    position = np.arange(cells)
    return r_contact + r_segment * (np.minimum.outer(position, position) + 1.0)


def row_resistance(columns: int, r_row: float, r_contact: float) -> FloatArray:
    """`shared_resistance` of a row, ``[column, column]``; its terminal is beside column 0."""
    return shared_resistance(columns, r_row, r_contact)


def column_resistance(rows: int, r_column: float, r_contact: float) -> FloatArray:
    """`shared_resistance` of a column, ``[row, row]``; its terminal is beside the last row."""
    return shared_resistance(rows, r_column, r_contact)[::-1, ::-1]


def transfer_matrix(
    g: FloatArray,
    r_row: float,
    r_column: float,
    direction: Direction,
    *,
    r_contact: float = 0.0,
    tolerance: float = TOLERANCE,
) -> FloatArray:
    """Current at each sensed line per volt at each driven line, with line resistance.

    Parameters
    ----------
    g
        Conductance of the cells, ``[..., row, column]`` (S); zero where a gate is off or a line is dead. Leading
        axes (kernels, dies) are solved together.
    r_row, r_column
        Resistance of one line segment (Ohm).
    direction
        "backward" drives rows and senses columns, "forward" drives columns and senses rows.
    r_contact
        Resistance between each terminal and its line (Ohm), driven or sensed.
    tolerance
        Largest error of a cell voltage, as a fraction of the drive voltage.

    Returns
    -------
    FloatArray
        ``[..., sensed, driven]`` (S). Without line resistance it is ``g`` (forward) or its transpose (backward).

    Raises
    ------
    LineSolverError
        If the relaxation does not settle (lines far more resistive than they are in any usable array).

    Notes
    -----
    Cell voltages start from the drive and are relaxed line by line: cell currents from cell voltages, drops along
    whole lines from cell currents. Each sweep leaves about the relative line drop (3 %) of the error. Terminal
    admittances of a network of resistors are symmetric, so both directions are one solution.
    """
    g = np.asarray(g, dtype=np.float64)
    rows, columns = g.shape[-2:]
    along_row = row_resistance(columns, r_row, r_contact)
    along_column = column_resistance(rows, r_column, r_contact)
    drive = np.zeros((rows, rows, columns))
    drive[np.arange(rows), np.arange(rows), :] = 1.0  # [driven row, row, column]
    cell_g = g[..., None, :, :]
    v = np.broadcast_to(drive, (*g.shape[:-2], rows, rows, columns))
    for _ in range(SWEEPS_MAX):
        current = cell_g * v
        new = drive - current @ along_row - along_column @ current
        change = np.max(np.abs(new - v), initial=0.0)
        v = new
        if change < tolerance:
            backward = np.sum(cell_g * v, axis=-2)  # [..., driven row, sensed column]
            return backward if direction == "forward" else np.swapaxes(backward, -1, -2)
        if not change < 1e6:
            break
    raise LineSolverError(
        f"line resistance of {r_row:g} / {r_column:g} Ohm per cell (contact {r_contact:g} Ohm) is too large against "
        f"cells of up to {np.max(g):.3g} S: the relaxation does not settle"
    )


def column_by_column(
    current: Callable[[FloatArray], FloatArray],
    voltage: float,
    connected: BoolArray,
    r_row: float,
    r_column: float,
    *,
    r_contact: float = 0.0,
    tolerance: float = TOLERANCE,
) -> tuple[FloatArray, FloatArray]:
    """Voltage and current of every cell when the columns are driven one after another.

    The gate of one column is on, the column is driven to `voltage`, connected rows are held at the reference, the
    others float. So a row carries the current of one cell, and the column that of all its connected cells.

    Parameters
    ----------
    current
        Current of each cell, ``[row, column]`` (A), at cell voltages ``[row, column]`` (V); zero where dead.
    voltage
        Column voltage (V).
    connected
        Rows that are held while a column is driven, ``[row, column]``.

    Returns
    -------
    v_cell, i_cell
        ``[row, column]`` in V and A; zero where not connected.

    Raises
    ------
    LineSolverError
        If the relaxation does not settle.
    """
    rows, columns = connected.shape
    along_column = column_resistance(rows, r_column, r_contact)
    own_row = r_contact + r_row * (np.arange(columns) + 1.0)
    drive = np.where(connected, voltage, 0.0)
    v = drive
    limit = tolerance * max(abs(voltage), 1e-12)
    for _ in range(SWEEPS_MAX):
        i_cell = current(v)
        new = drive - np.where(connected, along_column @ i_cell + own_row * i_cell, 0.0)
        change = np.max(np.abs(new - v), initial=0.0)
        v = new
        if change < limit:
            return v, i_cell
        if not change < 1e6:
            break
    raise LineSolverError(f"a column driven to {voltage:g} V does not settle: line resistance too large")


def cell_voltages(
    i_cell: FloatArray, voltage: float, r_row: float, r_column: float, *, r_contact: float = 0.0
) -> FloatArray:
    """Voltage of every cell when the columns are driven one after another and its current is known.

    The inverse of `column_by_column`: all rows held, currents ``[..., row, column]`` (A) as sensed.
    """
    rows, columns = i_cell.shape[-2:]
    own_row = r_contact + r_row * (np.arange(columns) + 1.0)
    return voltage - column_resistance(rows, r_column, r_contact) @ i_cell - own_row * i_cell
