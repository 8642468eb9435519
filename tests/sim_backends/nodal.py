"""Independent solution of a kernel's circuit: every node an unknown, Kirchhoff's law at each, Newton's method."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve


def solve(cell, v_rows, v_columns, r_row, r_column, r_contact, rows, columns):
    """Currents into the row terminals and out of the column terminals.

    `cell(v)` gives current and slope for cell voltages [rows, columns] (row node minus column node). Row terminals
    are left of column 0, column terminals below the last row. NaN in v_rows / v_columns leaves a terminal floating.
    """
    r_row, r_column = max(r_row, 1e-9), max(r_column, 1e-9)  # a perfect line as a very good one
    n = rows * columns
    row_node = np.arange(n).reshape(rows, columns)
    column_node = n + row_node
    wires = []  # (node, node, conductance)
    for i in range(rows):
        for j in range(columns - 1):
            wires.append((row_node[i, j], row_node[i, j + 1], 1 / r_row))
    for i in range(rows - 1):
        for j in range(columns):
            wires.append((column_node[i, j], column_node[i + 1, j], 1 / r_column))
    g_row, g_column = 1 / (r_row + r_contact), 1 / (r_column + r_contact)
    sources = [(row_node[i, 0], v_rows[i], g_row) for i in range(rows) if not np.isnan(v_rows[i])]
    sources += [(column_node[-1, j], v_columns[j], g_column) for j in range(columns) if not np.isnan(v_columns[j])]
    v = np.zeros(2 * n)
    for _ in range(60):
        i_cell, slope = cell(v[row_node] - v[column_node])
        step = _newton_step(v, i_cell, slope, wires, sources, row_node, column_node)
        v = v + step
        if np.max(np.abs(step)) < 1e-13:
            break
    into_rows = np.array([g_row * (v_rows[i] - v[row_node[i, 0]]) for i in range(rows)])
    out_of_columns = np.array([g_column * (v[column_node[-1, j]] - v_columns[j]) for j in range(columns)])
    return into_rows, out_of_columns, v[row_node] - v[column_node]


def _newton_step(v, i_cell, slope, wires, sources, row_node, column_node):
    size = v.size
    a, b, g = (np.array(x) for x in zip(*wires, strict=True))
    a, b, g = (
        np.concatenate([a, row_node.ravel()]),
        np.concatenate([b, column_node.ravel()]),
        np.concatenate([g, slope.ravel()]),
    )
    flow = g * (v[a] - v[b])
    flow[-i_cell.size :] = i_cell.ravel()
    leaving = np.bincount(a, flow, size) - np.bincount(b, flow, size)
    diagonal = np.bincount(a, g, size) + np.bincount(b, g, size) + 1e-9  # floating lines only have to stay put
    for node, voltage, g_source in sources:
        leaving[node] += g_source * (v[node] - voltage)
        diagonal[node] += g_source
    everything = np.arange(size)
    matrix = coo_matrix(
        (
            np.concatenate([-g, -g, diagonal]),
            (np.concatenate([a, b, everything]), np.concatenate([b, a, everything])),
        ),
        shape=(size, size),
    )
    return -spsolve(matrix.tocsc(), leaving)


def linear(g):
    """Cells of conductance `g`."""
    return lambda v: (g * v, g)
