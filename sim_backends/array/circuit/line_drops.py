"""Resistance of the lines of a kernel, where currents are known: which drops they make.

Geometry: row terminals are at the left end, column terminals at the bottom end. Between a terminal and its first cell
lie a contact resistance and one line segment, between neighbouring cells one segment.
"""

from __future__ import annotations

import numpy as np

from sim_backends.array.devices.interface import FloatArray


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


def cell_voltages(
    i_cell: FloatArray, voltage: float, r_row: float, r_column: float, *, r_contact: float = 0.0
) -> FloatArray:
    """Voltage of every cell, column minus row, when the columns are driven one after another and its current is known.

    The inverse of a read (`sim_backends.array.circuit.columns`): all rows held, currents ``[..., row, column]`` (A) as
    sensed.
    """
    rows, columns = i_cell.shape[-2:]
    own_row = r_contact + r_row * (np.arange(columns) + 1.0)
    return voltage - column_resistance(rows, r_column, r_contact) @ i_cell - own_row * i_cell
