"""Compiled kernels of Newton's method on the lines of an array: what Kirchhoff's law leaves, and the correction for it.

The state of a problem is the deviation of every row and column node from the reference of its line (see
`line_kernels`), ``[2, row, column + padding]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sim_backends.array.line_kernels import (
    BOTTOM,
    COMPILED,
    LANES,
    LEFT,
    PADDING,
    RIGHT,
    TOP,
    conjugate_gradients,
    drive_currents,
    factor_columns,
    factor_rows,
    references,
    solve_rows,
    terminal_currents,
)


@njit(**COMPILED)
def move(ends: Any, state: Any, step: Any, length: Any, moved: Any, v_cell: Any) -> None:
    """Go a part of a step, ``moved = state + length * step``, with the voltages of all cells there.

    Parameters
    ----------
    state, step, moved
        ``[problem, 2, row, column + padding]``.
    length
        Part of the step, ``[problem]``.
    v_cell
        Gets the cell voltages ``[problem, row, column]`` (V).
    """
    problems, rows, columns = v_cell.shape
    row_ref, column_ref = np.empty(rows), np.empty(columns)
    for problem in range(problems):
        references(ends[problem], LEFT, RIGHT, rows, row_ref)
        references(ends[problem], BOTTOM, TOP, columns, column_ref)
        part = length[problem]
        for i in range(rows):
            y, x = state[problem, 0, i, :columns], state[problem, 1, i, :columns]
            dy, dx = step[problem, 0, i, :columns], step[problem, 1, i, :columns]
            new_y, new_x = moved[problem, 0, i, :columns], moved[problem, 1, i, :columns]
            v, row = v_cell[problem, i], row_ref[i]
            for j in range(columns):
                new_y[j] = y[j] + part * dy[j]
                new_x[j] = x[j] + part * dx[j]
                v[j] = (row - column_ref[j]) + (new_y[j] - new_x[j])


@njit(**COMPILED)
def residuals(
    wires: Any,
    ends: Any,
    current: Any,
    state: Any,
    left_over: Any,
    norm: Any,
    rounding: Any,
    currents: Any,
    largest: Any,
) -> None:
    """Current that Kirchhoff's law leaves at every node, and the terminal currents.

    Parameters
    ----------
    current
        Of every cell, ``[problem, row, column]`` (A).
    left_over
        Gets what is left at every node (A), in the shape of `state`.
    norm
        Gets the sum of its magnitudes, ``[problem]`` (A). No terminal current of a network with monotonic cells is
        wrong by more than that: a current injected at a node is divided among the terminals.
    rounding
        Gets what of the norm is rounding of the sums, ``[problem]`` (A).
    currents, largest
        Get the terminal currents ``[problem, side, line]`` and the largest of each problem (A).
    """
    problems, rows, columns = current.shape
    row_ref, column_ref = np.empty(rows), np.empty(columns)
    tips, heads, drive = np.empty((2, rows)), np.empty((2, columns)), np.zeros((4, ends.shape[3]))
    for problem in range(problems):
        end = ends[problem]
        references(end, LEFT, RIGHT, rows, row_ref)
        references(end, BOTTOM, TOP, columns, column_ref)
        total, flows = 0.0, 0.0
        for i in range(rows):
            y, f, cell = state[problem, 0, i, :columns], left_over[problem, 0, i, :columns], current[problem, i]
            for j in range(columns):
                f[j] = -cell[j]
                flows += abs(cell[j])
            for j in range(columns - 1):
                flow = wires[0] * (y[j + 1] - y[j])
                f[j] += flow
                f[j + 1] -= flow
            f[0] += end[LEFT, 0, i] * ((end[LEFT, 1, i] - row_ref[i]) - y[0])
            f[columns - 1] += end[RIGHT, 0, i] * ((end[RIGHT, 1, i] - row_ref[i]) - y[columns - 1])
            for j in range(columns):
                total += abs(f[j])
        for i in range(rows):
            x, f, cell = state[problem, 1, i, :columns], left_over[problem, 1, i, :columns], current[problem, i]
            for j in range(columns):
                f[j] = cell[j]
            if i > 0:
                above = state[problem, 1, i - 1, :columns]
                for j in range(columns):
                    f[j] += wires[1] * (above[j] - x[j])
            if i < rows - 1:
                below = state[problem, 1, i + 1, :columns]
                for j in range(columns):
                    f[j] += wires[1] * (below[j] - x[j])
            if i == 0:
                for j in range(columns):
                    f[j] += end[TOP, 0, j] * ((end[TOP, 1, j] - column_ref[j]) - x[j])
            if i == rows - 1:
                for j in range(columns):
                    f[j] += end[BOTTOM, 0, j] * ((end[BOTTOM, 1, j] - column_ref[j]) - x[j])
            for j in range(columns):
                total += abs(f[j])
        norm[problem] = total
        rounding[problem] = 1e-13 * flows
        _terminals_of_state(state[problem], tips, heads)
        drive_currents(end, row_ref, column_ref, drive)
        terminal_currents(end, drive, tips, heads, currents[problem])
        most = 0.0
        for side in range(4):
            for line in range(currents.shape[2]):
                most = max(most, abs(currents[problem, side, line]))
        largest[problem] = most


@njit(**COMPILED)
def corrections(
    slope: Any, active: Any, wires: Any, ends: Any, left_over: Any, reduction: Any, step: Any, change: Any
) -> int:
    """Newton corrections of the active problems.

    Parameters
    ----------
    slope
        Derivative of the cell currents, ``[problem, row, column]`` (S).
    left_over
        From `residuals`; used up.
    reduction
        Factor by which the residual of the linear system is to become smaller, ``[problem]``.
    step
        Gets the correction of the state; zero for problems that are not active.
    change
        Gets the largest change of a terminal current by it, ``[problem]`` (A).

    Returns
    -------
    int
        The first problem that did not settle, or -1.
    """
    problems, rows, columns = slope.shape
    lanes = min(LANES, (rows + 7) // 8 * 8)
    inverse_rows = np.empty(((rows + lanes - 1) // lanes, columns, lanes))
    inverse_columns = np.empty((rows, columns + PADDING))
    work = np.empty((5, rows, columns + PADDING))
    block = np.zeros((columns, lanes + PADDING))
    tips, heads, drive = np.empty((2, rows)), np.empty((2, columns)), np.zeros((4, ends.shape[3]))
    for problem in range(problems):
        if not active[problem]:
            step[problem] = 0.0
            continue
        d, end = slope[problem], ends[problem]
        factor_columns(d, wires[1], end, inverse_columns)
        factor_rows(d, wires[0], end, inverse_rows, block)
        f_row, f_column, dy, dx = left_over[problem, 0], left_over[problem, 1], step[problem, 0], step[problem, 1]
        dy[:] = f_row
        solve_rows(inverse_rows, wires[0], dy, block)
        for i in range(rows):
            r, f, y, g = work[2, i, :columns], f_column[i, :columns], dy[i, :columns], d[i]
            for j in range(columns):
                r[j] = f[j] + g[j] * y[j]
            tips[0, i], tips[1, i] = y[0], y[columns - 1]
        heads[:] = 0.0
        dx[:] = 0.0
        status, _ = conjugate_gradients(
            d,
            inverse_rows,
            inverse_columns,
            wires,
            end,
            drive,
            work,
            block,
            tips,
            heads,
            dx,
            1.0,
            0.0,
            reduction[problem],
        )
        if status < 0:
            return problem
        for i in range(rows):
            y, f, x, g = dy[i, :columns], f_row[i, :columns], dx[i, :columns], d[i]
            for j in range(columns):
                y[j] = f[j] + g[j] * x[j]
        solve_rows(inverse_rows, wires[0], dy, block)
        change[problem] = _largest_current(end, tips, heads)
    return -1


@njit(**COMPILED)
def _largest_current(ends: Any, tips: Any, heads: Any) -> float:
    largest = 0.0
    for side in range(2):
        for i in range(tips.shape[1]):
            largest = max(largest, ends[LEFT + side, 0, i] * abs(tips[side, i]))
        for j in range(heads.shape[1]):
            largest = max(largest, ends[TOP + side, 0, j] * abs(heads[side, j]))
    return largest


@njit(**COMPILED)
def _terminals_of_state(state: Any, tips: Any, heads: Any) -> None:
    rows, columns = tips.shape[1], heads.shape[1]
    for i in range(rows):
        tips[0, i], tips[1, i] = state[0, i, 0], state[0, i, columns - 1]
    for j in range(columns):
        heads[0, j], heads[1, j] = state[1, 0, j], state[1, rows - 1, j]
