"""Compiled kernels of the line solver: exact along every line, conjugate gradients across them.

The nodal matrix of an array is two families of tridiagonal lines, coupled cell by cell::

    [ R  -D ] [row nodes   ]   [sources of the rows   ]        R = row wires    + D on the diagonal
    [ -D  C ] [column nodes] = [sources of the columns]        C = column wires + D on the diagonal

with D the conductances of the cells. The rows are eliminated exactly; conjugate gradients run on what is left for the
column nodes, ``S = C - D R^-1 D``, preconditioned by C. The eigenvalues of ``C^-1 S`` lie in (0, 1] and cluster at 1,
so a few iterations do. Both line solves run on many lines at once: the columns side by side as they lie in memory, the
rows after a transpose of a block of them.

Pivots are kept as the conductance to ground that a node sees through its line so far, which is a sum of positive terms:
no digits are lost where wires conduct a million times better than cells and a line floats.

Arrays are C-contiguous float64; work arrays have `PADDING` spare columns, since rows of a power of two would fall into
few sets of the caches. `ends` is ``[side, 2, line]``: conductance from each end of a line to its source (S,
0 = nothing connected) and the source's voltage (V); sides are left, right, top, bottom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sim_backends.array.solver.transpose import transpose_back, transpose_block

LEFT, RIGHT, TOP, BOTTOM = range(4)
LANES = 64  # lines that are swept together
PADDING = 8
ITERATIONS_MAX = 1000
BAD_CELL, NO_PROGRESS, UNBALANCED = -1, -2, -3
NOTHING = 1e-200  # V; currents of smaller voltages would lose their digits to underflow
ESTIMATE = 0.25  # part of the tolerance that an estimated error must reach: it has been seen too low by a third
ROUNDING = 4e-16  # of all currents together: what their sum may miss

FAST = {"contract", "reassoc", "arcp", "nsz"}  # NaN and infinity keep their meaning
COMPILED: dict[str, Any] = {"fastmath": FAST, "nogil": True, "cache": True, "error_model": "numpy"}


@njit(**COMPILED)
def connect(ends: Any, side: int, voltage: Any, g: float) -> tuple[bool, int]:
    """Put voltages ``[problem, line]`` of a side into `ends`, with a conductance `g` where there is one (not NaN).

    Returns
    -------
    everywhere, infinite
        Whether every line is connected, and a line with an infinite voltage or -1.
    """
    everywhere, infinite = True, -1
    for problem in range(voltage.shape[0]):
        for line in range(voltage.shape[1]):
            v = voltage[problem, line]
            if v - v == 0.0:
                ends[problem, side, 0, line] = g
                ends[problem, side, 1, line] = v if abs(v) > NOTHING else 0.0
            elif v != v:
                everywhere = False
            else:
                infinite = line
    return everywhere, infinite


@njit(**COMPILED)
def factor_rows(d: Any, g_wire: float, ends: Any, inverse: Any, block: Any) -> None:
    """Inverse pivots of all rows, ``[block of rows, column, lane]``; lanes without a row are 1."""
    rows, columns = d.shape
    lanes = inverse.shape[2]
    seen = np.empty(lanes)
    for b in range(inverse.shape[0]):
        first = b * lanes
        here = min(lanes, rows - first)
        for j in range(columns):
            block[j, :lanes] = 1.0
        transpose_block(d, first, here, columns, block)
        seen[:] = 0.0
        for k in range(here):  # a copy of a slice would make numba compile the words of its errors, for seconds
            seen[k] = ends[LEFT, 0, first + k]
        for j in range(columns - 1):
            g, pivot = block[j, :lanes], inverse[b, j]
            for k in range(lanes):
                x = seen[k] + g[k]
                y = 1.0 / (x + g_wire)
                pivot[k] = y
                seen[k] = x * (g_wire * y)
        g, pivot = block[columns - 1, :lanes], inverse[b, columns - 1]
        for k in range(here):
            seen[k] += ends[RIGHT, 0, first + k]
        for k in range(lanes):
            pivot[k] = 1.0 / (seen[k] + g[k])


@njit(**COMPILED)
def factor_columns(d: Any, g_wire: float, ends: Any, inverse: Any) -> float:
    """Inverse pivots of all columns, ``[row, column]``.

    Returns
    -------
    float
        The smallest conductance of a cell, or NaN if one is NaN or infinite.
    """
    rows, columns = d.shape
    seen = ends[TOP, 0, :columns].copy()
    least, finite = np.inf, 0.0
    for i in range(rows - 1):
        g, pivot = d[i], inverse[i]
        for j in range(columns):
            x = seen[j] + g[j]
            y = 1.0 / (x + g_wire)
            pivot[j] = y
            seen[j] = x * (g_wire * y)
            finite += 0.0 * g[j]
            least = min(least, g[j])
    g, pivot = d[rows - 1], inverse[rows - 1]
    for j in range(columns):
        pivot[j] = 1.0 / (seen[j] + g[j] + ends[BOTTOM, 0, j])
        finite += 0.0 * g[j]
        least = min(least, g[j])
    return least + finite


@njit(**COMPILED)
def sweep_rows(inverse: Any, g_wire: float, block: Any) -> None:
    """Solve a block of rows, ``[column, lane]`` in place."""
    columns, lanes = inverse.shape
    here, pivot = block[0, :lanes], inverse[0]
    for k in range(lanes):
        here[k] *= pivot[k]
    for j in range(1, columns):
        before, here, pivot = here, block[j, :lanes], inverse[j]
        for k in range(lanes):
            here[k] = here[k] * pivot[k] + (g_wire * pivot[k]) * before[k]
    for back in range(columns - 1):
        j = columns - 2 - back
        after, here, pivot = here, block[j, :lanes], inverse[j]
        for k in range(lanes):
            here[k] += (g_wire * pivot[k]) * after[k]


@njit(**COMPILED)
def solve_rows(inverse: Any, g_wire: float, x: Any, block: Any) -> None:
    """``R^-1 x`` for all rows, in place."""
    rows, columns = x.shape[0], inverse.shape[1]
    lanes = inverse.shape[2]
    for b in range(inverse.shape[0]):
        first = b * lanes
        here = min(lanes, rows - first)
        transpose_block(x, first, here, columns, block)
        sweep_rows(inverse[b], g_wire, block)
        transpose_back(block, x, first, here, columns)


@njit(**COMPILED)
def apply_schur(
    d: Any, inverse: Any, g_wire: float, p: Any, u: Any, z: Any, r: Any, q: Any, block: Any, tips: Any, beta: float
) -> float:
    """One application of S to a new direction ``p = z + beta p``; ``u = C p`` follows as ``r + beta u``.

    `q` gets ``S p``, `tips` ``[2, row]`` what the direction does to the first and last node of every row.

    Returns
    -------
    float
        ``p . S p``
    """
    rows, columns = d.shape
    lanes = inverse.shape[2]
    product = 0.0
    for b in range(inverse.shape[0]):
        first = b * lanes
        here = min(lanes, rows - first)
        for i in range(first, first + here):
            d_i, p_i, z_i, q_i = d[i], p[i, :columns], z[i, :columns], q[i, :columns]
            if beta == 0.0:  # whatever was in p and u
                for j in range(columns):
                    p_i[j] = z_i[j]
                    q_i[j] = d_i[j] * z_i[j]
            else:
                for j in range(columns):
                    x = z_i[j] + beta * p_i[j]
                    p_i[j] = x
                    q_i[j] = d_i[j] * x
        transpose_block(q, first, here, columns, block)
        sweep_rows(inverse[b], g_wire, block)
        transpose_back(block, q, first, here, columns)
        for i in range(first, first + here):
            d_i, p_i, u_i, r_i, q_i = d[i], p[i, :columns], u[i, :columns], r[i, :columns], q[i, :columns]
            tips[0, i], tips[1, i] = q_i[0], q_i[columns - 1]
            if beta == 0.0:
                for j in range(columns):
                    x = r_i[j]
                    u_i[j] = x
                    y = x - d_i[j] * q_i[j]
                    q_i[j] = y
                    product += p_i[j] * y
            else:
                for j in range(columns):
                    x = r_i[j] + beta * u_i[j]
                    u_i[j] = x
                    y = x - d_i[j] * q_i[j]
                    q_i[j] = y
                    product += p_i[j] * y
    return product


@njit(**COMPILED)
def precondition(inverse: Any, g_wire: float, r: Any, q: Any, z: Any, alpha: float) -> float:
    """``r -= alpha q``, then ``z = C^-1 r``.

    Returns
    -------
    float
        ``r . z``
    """
    rows, columns = r.shape[0], r.shape[1] - PADDING
    product = 0.0
    for start in range(0, columns, LANES):
        stop = min(start + LANES, columns)
        if alpha != 0.0:
            for i in range(rows):
                r_i, q_i = r[i, start:stop], q[i, start:stop]
                for k in range(r_i.size):
                    r_i[k] -= alpha * q_i[k]
        r_i, here, pivot = r[0, start:stop], z[0, start:stop], inverse[0, start:stop]
        for k in range(r_i.size):
            here[k] = r_i[k] * pivot[k]
        for i in range(1, rows):
            before = here
            r_i, here, pivot = r[i, start:stop], z[i, start:stop], inverse[i, start:stop]
            for k in range(r_i.size):
                here[k] = r_i[k] * pivot[k] + (g_wire * pivot[k]) * before[k]
        r_i = r[rows - 1, start:stop]
        for k in range(r_i.size):
            product += r_i[k] * here[k]
        for back in range(rows - 1):
            i = rows - 2 - back
            after, r_i, here, pivot = here, r[i, start:stop], z[i, start:stop], inverse[i, start:stop]
            for k in range(r_i.size):
                x = here[k] + (g_wire * pivot[k]) * after[k]
                here[k] = x
                product += r_i[k] * x
    return product


@njit(**COMPILED)
def references(ends: Any, first: int, second: int, lines: int, reference: Any) -> None:
    """Voltage that each line has if no current flows: that of its first source, else of the second.

    Of a line without a source it is what is in the place of the first one's voltage, by default zero.
    """
    for k in range(lines):
        if ends[first, 0, k] > 0.0:
            reference[k] = ends[first, 1, k]
        elif ends[second, 0, k] > 0.0:
            reference[k] = ends[second, 1, k]
        else:
            reference[k] = ends[first, 1, k]


@njit(**COMPILED)
def conjugate_gradients(
    d: Any,
    inverse_rows: Any,
    inverse_columns: Any,
    wires: Any,
    ends: Any,
    drive: Any,
    work: Any,
    block: Any,
    tips: Any,
    heads: Any,
    x: Any,
    span: float,
    tolerance: float,
    reduction: float,
) -> tuple[int, float]:
    """Solve ``S b = r`` for the column nodes; ``r`` is ``work[2]`` and is used up.

    Parameters
    ----------
    wires
        Conductance of a segment of a row and of a column (S).
    drive
        ``[side, line]``: terminal currents if all nodes were at their references (A).
    work
        ``[5, row, column]``: p, u, r, q, z.
    tips, heads
        ``[2, row]`` and ``[2, column]``: nodes at both ends of all rows and columns; the solution is added.
    x
        ``[row, column]``: the solution is added, unless it is empty.
    span
        Largest difference between voltages of the sources (V).
    tolerance
        Stop when the error of every terminal current is below this part of the largest one, and that of every voltage
        below this part of the span if `x` is wanted, both by `ESTIMATE`, and neither a column nor the array misses more
        than this part of the largest current by Kirchhoff's law; or
    reduction
        when the residual has become smaller by this factor (energy norm).

    Returns
    -------
    iterations, error
        `NO_PROGRESS` instead of the iterations if they do not settle, and the estimate of the error.

    Notes
    -----
    What is left is estimated by the preconditioned residual, which is the error but for a factor of at most one over
    the smallest eigenvalue; that is the smallest Ritz value so far.
    """
    p, u, r, q, z = work[0], work[1], work[2], work[3], work[4]
    rows, columns = d.shape
    step, weights = np.empty((2, rows)), column_weights(d, ends)
    lanczos = np.empty((2, ITERATIONS_MAX + 1))
    rho = precondition(inverse_columns, wires[1], r, q, z, 0.0)
    start, beta, alpha, error = rho, 0.0, 1.0, 0.0
    if rho == 0.0:
        return 0, 0.0
    for iteration in range(1, ITERATIONS_MAX + 1):
        product = apply_schur(d, inverse_rows, wires[0], p, u, z, r, q, block, step, beta)
        if not product > 0.0:
            return NO_PROGRESS, error
        lanczos[0, iteration - 1] = product / rho + beta / alpha
        alpha = rho / product
        if x.size:
            for i in range(rows):
                x_i, p_i = x[i, :columns], p[i, :columns]
                for j in range(columns):
                    x_i[j] += alpha * p_i[j]
        for side in range(2):
            h, p_i = heads[side], p[0 if side == 0 else rows - 1]
            for j in range(columns):
                h[j] += alpha * p_i[j]
            for i in range(rows):
                tips[side, i] += alpha * step[side, i]
        new = precondition(inverse_columns, wires[1], r, q, z, alpha)
        if new <= reduction * reduction * start:
            return iteration, error
        if tolerance > 0.0:
            error = _still_to_come(ends, drive, weights, tips, heads, step, z, alpha * np.sqrt(new / rho))
            if error <= ESTIMATE * tolerance:
                ritz = _smallest_ritz(lanczos, iteration)
                error /= ritz
                if x.size:
                    error = max(error, _largest(z) / (ritz * span))
                if error <= ESTIMATE * tolerance and _columns_balance(r, ends, drive, tips, heads, tolerance):
                    return iteration, error
        beta = new / rho
        lanczos[1, iteration - 1] = np.sqrt(beta) / alpha
        rho = new
        if not rho > 0.0:
            return NO_PROGRESS, error
    return NO_PROGRESS, error


@njit(**COMPILED)
def _largest(z: Any) -> float:
    largest = 0.0
    for i in range(z.shape[0]):
        z_i = z[i, : z.shape[1] - PADDING]
        for j in range(z_i.size):
            largest = max(largest, abs(z_i[j]))
    return largest


@njit(**COMPILED)
def _span(ends: Any, rows: int, columns: int) -> float:
    """Largest difference between voltages of sources (V)."""
    lowest, highest = np.inf, -np.inf
    for side in range(4):
        for line in range(rows if side < TOP else columns):
            if ends[side, 0, line] > 0.0:
                lowest, highest = min(lowest, ends[side, 1, line]), max(highest, ends[side, 1, line])
    return highest - lowest


@njit(**COMPILED)
def column_weights(d: Any, ends: Any) -> Any:
    """Current (A) that an error of a volt at the ends of a column stands for, ``[2, column]`` (S).

    It is the conductance to the source; of a floating column, that of all its cells together.
    """
    rows, columns = d.shape
    weights = ends[TOP : BOTTOM + 1, 0, :columns].copy()
    for j in range(columns):
        if weights[0, j] == 0.0 and weights[1, j] == 0.0:
            for i in range(rows):
                weights[1, j] += d[i, j]
    return weights


@njit(**COMPILED)
def _smallest_ritz(lanczos: Any, size: int) -> float:
    """Smallest eigenvalue of the Lanczos matrix (diagonal, off-diagonal), by bisection to a tenth, from above."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        pivot = lanczos[0, 0] - middle
        below = pivot <= 0.0
        for k in range(1, size):
            if below:
                break
            pivot = lanczos[0, k] - middle - lanczos[1, k - 1] ** 2 / pivot
            below = pivot <= 0.0
        if below:
            high = middle
        else:
            low = middle
        if high - low <= 0.1 * low:
            break
    return max(low, 1e-12)


@njit(**COMPILED)
def _still_to_come(
    ends: Any, drive: Any, weights: Any, tips: Any, heads: Any, step: Any, z: Any, shrunk: float
) -> float:
    """Largest change still to come of a terminal current, relative to the largest terminal current."""
    rows, columns = z.shape[0], z.shape[1] - PADDING
    left_over, largest = 0.0, 0.0
    for side in range(2):
        z_i, h, weight, g_column = z[0 if side == 0 else rows - 1], heads[side], weights[side], ends[TOP + side, 0]
        from_top, from_left = drive[TOP + side], drive[LEFT + side]
        for j in range(columns):
            left_over = max(left_over, weight[j] * abs(z_i[j]))
            largest = max(largest, abs(g_column[j] * h[j] - from_top[j]))
        g_row, tip, change = ends[LEFT + side, 0], tips[side], step[side]
        for i in range(rows):
            left_over = max(left_over, g_row[i] * abs(shrunk * change[i]))
            largest = max(largest, abs(g_row[i] * tip[i] - from_left[i]))
    return left_over / largest if largest > 0.0 else np.inf


@njit(**COMPILED)
def _columns_balance(r: Any, ends: Any, drive: Any, tips: Any, heads: Any, tolerance: float) -> bool:
    """Whether what is left at the nodes of each column, and of all together, is below a part of the largest current.

    The rows are solved exactly for what the columns are: nothing is left at their nodes.
    """
    rows, columns = r.shape[0], heads.shape[1]
    largest, missing, of_all = 0.0, np.zeros(columns), 0.0
    for side in range(2):
        for j in range(columns):
            largest = max(largest, abs(ends[TOP + side, 0, j] * heads[side, j] - drive[TOP + side, j]))
        for i in range(rows):
            largest = max(largest, abs(ends[LEFT + side, 0, i] * tips[side, i] - drive[LEFT + side, i]))
    for i in range(rows):
        r_i = r[i, :columns]
        for j in range(columns):
            missing[j] += abs(r_i[j])
            of_all += r_i[j]
    for j in range(columns):
        if not missing[j] <= tolerance * largest:
            return False
    return bool(abs(of_all) <= tolerance * largest)


@njit(**COMPILED)
def _terminals_balance(currents: Any, rows: int, columns: int, tolerance: float) -> bool:
    """Whether as much flows in as out at the terminals ``[side, line]``, up to a part of the largest current."""
    missing, total, largest = 0.0, 0.0, 0.0
    for side in range(2):
        for i in range(rows):
            current = currents[LEFT + side, i]
            missing, total, largest = missing + current, total + abs(current), max(largest, abs(current))
        for j in range(columns):
            current = currents[TOP + side, j]
            missing, total, largest = missing - current, total + abs(current), max(largest, abs(current))
    return bool(abs(missing) <= tolerance * largest + ROUNDING * total)


@njit(**COMPILED)
def _lines_balance(i_cell: Any, currents: Any, tolerance: float) -> bool:
    """Whether what flows into each row and out of each column is what its cells ``[row, column]`` carry (A)."""
    rows, columns = i_cell.shape
    largest, missing, sums, total = 0.0, 0.0, np.zeros(columns), np.zeros(columns)
    for side in range(4):
        for line in range(rows if side < TOP else columns):
            largest = max(largest, abs(currents[side, line]))
    for i in range(rows):
        cells, of_row, size = i_cell[i], 0.0, 0.0
        for j in range(columns):
            of_row, size = of_row + cells[j], size + abs(cells[j])
            sums[j] += cells[j]
            total[j] += abs(cells[j])
        missing = max(missing, abs(currents[LEFT, i] + currents[RIGHT, i] - of_row) - ROUNDING * size)
    finite = 0.0
    for j in range(columns):
        missing = max(missing, abs(currents[TOP, j] + currents[BOTTOM, j] - sums[j]) - ROUNDING * total[j])
        finite += 0.0 * sums[j]
    return bool(missing <= tolerance * largest) and bool(finite == 0.0)


@njit(**COMPILED)
def first_residual(
    d: Any, inverse: Any, g_wire: float, drive: Any, row_ref: Any, column_ref: Any, work: Any, block: Any, tips: Any
) -> None:
    """Residual of the column nodes (into ``work[2]``) if every column is at its reference; `tips` of the rows then.

    Unknowns are the deviations of the nodes from the references of their lines. So they are as small as the drops, and
    a current is the drop over the first segment with all its digits.
    """
    rows, columns = d.shape
    r, q = work[2], work[3]
    for i in range(rows):
        d_i, r_i, q_i = d[i], r[i, :columns], q[i, :columns]
        for j in range(columns):
            flow = d_i[j] * (row_ref[i] - column_ref[j])
            r_i[j] = flow
            q_i[j] = -flow
        q_i[0] += drive[LEFT, i]
        q_i[columns - 1] += drive[RIGHT, i]
    solve_rows(inverse, g_wire, q, block)
    for i in range(rows):
        d_i, r_i, q_i = d[i], r[i, :columns], q[i, :columns]
        tips[0, i], tips[1, i] = q_i[0], q_i[columns - 1]
        for j in range(columns):
            r_i[j] += d_i[j] * q_i[j]
    for j in range(columns):
        r[0, j] += drive[TOP, j]
        r[rows - 1, j] += drive[BOTTOM, j]


@njit(**COMPILED)
def drive_currents(ends: Any, row_ref: Any, column_ref: Any, drive: Any) -> None:
    """Currents from the sources if all nodes were at the references of their lines, ``[side, line]`` (A)."""
    for side in range(2):
        for i in range(row_ref.size):
            drive[LEFT + side, i] = ends[LEFT + side, 0, i] * (ends[LEFT + side, 1, i] - row_ref[i])
        for j in range(column_ref.size):
            drive[TOP + side, j] = ends[TOP + side, 0, j] * (ends[TOP + side, 1, j] - column_ref[j])


@njit(**COMPILED)
def terminal_currents(ends: Any, drive: Any, tips: Any, heads: Any, currents: Any) -> None:
    """Currents ``[side, line]`` (A) from the deviations at the ends of the lines."""
    for side in range(2):
        for i in range(tips.shape[1]):
            currents[LEFT + side, i] = drive[LEFT + side, i] - ends[LEFT + side, 0, i] * tips[side, i]
        for j in range(heads.shape[1]):
            currents[TOP + side, j] = ends[TOP + side, 0, j] * heads[side, j] - drive[TOP + side, j]


@njit(**COMPILED)
def row_deviations(
    d: Any, inverse: Any, g_wire: float, drive: Any, row_ref: Any, column_ref: Any, x: Any, y: Any, block: Any
) -> None:
    """Deviations `y` of the row nodes from those of the column nodes, `x`."""
    rows, columns = d.shape
    for i in range(rows):
        d_i, x_i, y_i = d[i], x[i, :columns], y[i, :columns]
        for j in range(columns):
            y_i[j] = d_i[j] * (x_i[j] - (row_ref[i] - column_ref[j]))
        y_i[0] += drive[LEFT, i]
        y_i[columns - 1] += drive[RIGHT, i]
    solve_rows(inverse, g_wire, y, block)


@njit(**COMPILED)
def linear_network(
    d: Any,
    which: Any,
    fresh: Any,
    wires: Any,
    ends: Any,
    tolerance: float,
    currents: Any,
    v_cell: Any,
    i_cell: Any,
    inverse_rows: Any,
    inverse_columns: Any,
    work: Any,
    block: Any,
) -> tuple[int, int]:
    """Terminal currents of arrays of linear cells, checked against Kirchhoff's law.

    Parameters
    ----------
    d
        Conductances, ``[set, row, column]`` (S).
    which, fresh
        Set of every problem, and whether set or terminal conductances differ from those of the problem before.
    wires
        Conductance of a segment of a row and of a column (S).
    ends
        ``[problem, side, 2, line]``.
    currents
        Gets the terminal currents ``[problem, side, line]`` (A): into the array at left and right, out of it at top and
        bottom.
    v_cell, i_cell
        Get the voltages (V) and currents (A) of all cells ``[problem, row, column]``, unless they are empty.
    inverse_rows, inverse_columns, work, block
        Memory to work in (`sim_backends.array.solver.scratch`).

    Returns
    -------
    problem, status
        The first problem that failed and `BAD_CELL`, `NO_PROGRESS` or `UNBALANCED` (the solution that was found misses
        more of Kirchhoff's law than the tolerance: digits were lost); or -1 and 0.
    """
    rows, columns = d.shape[1:]
    tips, heads, row_ref, column_ref = np.empty((2, rows)), np.empty((2, columns)), np.empty(rows), np.empty(columns)
    drive = np.zeros((4, ends.shape[3]))
    keep = v_cell.size > 0
    x = np.empty((rows, columns + PADDING) if keep else (0, 0))
    for problem in range(which.size):
        g, end = d[which[problem]], ends[problem]
        if fresh[problem]:
            if not factor_columns(g, wires[1], end, inverse_columns) >= 0.0:
                return problem, BAD_CELL
            factor_rows(g, wires[0], end, inverse_rows, block)
        references(end, LEFT, RIGHT, rows, row_ref)
        references(end, BOTTOM, TOP, columns, column_ref)
        drive_currents(end, row_ref, column_ref, drive)
        first_residual(g, inverse_rows, wires[0], drive, row_ref, column_ref, work, block, tips)
        heads[:] = 0.0
        span = 1.0
        if keep:
            x[:] = 0.0
            span = _span(end, rows, columns)
        status, _ = conjugate_gradients(
            g, inverse_rows, inverse_columns, wires, end, drive, work, block, tips, heads, x, span, tolerance, 1e-15
        )
        if status < 0:
            return problem, status
        terminal_currents(end, drive, tips, heads, currents[problem])
        if not _terminals_balance(currents[problem], rows, columns, tolerance):
            return problem, UNBALANCED
        if keep:
            y = work[4]
            row_deviations(g, inverse_rows, wires[0], drive, row_ref, column_ref, x, y, block)
            for i in range(rows):
                for j in range(columns):
                    v = (row_ref[i] - column_ref[j]) + y[i, j] - x[i, j]
                    v_cell[problem, i, j], i_cell[problem, i, j] = v, g[i, j] * v
            if not _lines_balance(i_cell[problem], currents[problem], tolerance):
                return problem, UNBALANCED
    return -1, 0
