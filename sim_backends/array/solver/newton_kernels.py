"""Compiled kernels of Newton's method on the lines of an array: what Kirchhoff's law leaves, and the correction for it.

The state of a problem is the deviation of every row and column node from the reference of its line (see
`line_kernels`), ``[2, row, column + padding]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from sim_backends.array.devices.conduction_kernels import sinh_current
from sim_backends.array.solver.line_kernels import (
    BOTTOM,
    COMPILED,
    LEFT,
    PADDING,
    RIGHT,
    TOP,
    conjugate_gradients,
    drive_currents,
    factor_columns,
    factor_rows,
    precondition,
    references,
    solve_rows,
    terminal_currents,
)

SWEEPS_MAX = 300
ROUNDING = 0.01  # of what a step may make worse: a residual within so much is balanced as far as doubles go


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
def scale_state(old: Any, old_ends: Any, ends: Any, state: Any) -> None:
    """Begin with the state of other problems, each scaled as the voltages of its terminals are (least squares)."""
    for problem in range(state.shape[0]):
        product, square = 0.0, 0.0
        for side in range(4):
            for line in range(ends.shape[3]):
                v = old_ends[problem, side, 1, line]
                product += v * ends[problem, side, 1, line]
                square += v * v
        scale = product / square if square > 0.0 else 0.0
        for node in range(2):
            for row in range(state.shape[2]):
                was, now = old[problem, node, row], state[problem, node, row]
                for column in range(now.size):
                    now[column] = scale * was[column]


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
    g_row, g_column = wires[0], wires[1]
    for problem in range(problems):
        end = ends[problem]
        references(end, LEFT, RIGHT, rows, row_ref)
        references(end, BOTTOM, TOP, columns, column_ref)
        drive_currents(end, row_ref, column_ref, drive)
        total, flows = 0.0, 0.0
        for i in range(rows):
            y, f, cell = state[problem, 0, i, :columns], left_over[problem, 0, i, :columns], current[problem, i]
            before, here, after, inner, cells = y[:-2], y[1:-1], y[2:], f[1:-1], cell[1:-1]
            for j in range(inner.size):
                inner[j] = g_row * ((after[j] - here[j]) - (here[j] - before[j])) - cells[j]
            first, last = drive[LEFT, i] - end[LEFT, 0, i] * y[0], drive[RIGHT, i] - end[RIGHT, 0, i] * y[columns - 1]
            if columns == 1:
                f[0] = first + last - cell[0]
            else:
                f[0] = first + g_row * (y[1] - y[0]) - cell[0]
                f[columns - 1] = last - g_row * (y[columns - 1] - y[columns - 2]) - cell[columns - 1]
            for j in range(columns):
                total += abs(f[j])
                flows += abs(cell[j])
        for i in range(rows):
            x, f, cell = state[problem, 1, i, :columns], left_over[problem, 1, i, :columns], current[problem, i]
            above, below = state[problem, 1, max(i - 1, 0), :columns], state[problem, 1, min(i + 1, rows - 1), :columns]
            for j in range(columns):
                f[j] = g_column * ((above[j] - x[j]) + (below[j] - x[j])) + cell[j]
            if i == 0:
                for j in range(columns):
                    f[j] += drive[TOP, j] - end[TOP, 0, j] * x[j]
            if i == rows - 1:
                for j in range(columns):
                    f[j] += drive[BOTTOM, j] - end[BOTTOM, 0, j] * x[j]
            for j in range(columns):
                total += abs(f[j])
        norm[problem] = total
        rounding[problem] = 1e-13 * flows
        _terminals_of_state(state[problem], tips, heads)
        terminal_currents(end, drive, tips, heads, currents[problem])
        most = 0.0
        for side in range(4):
            for line in range(currents.shape[2]):
                most = max(most, abs(currents[problem, side, line]))
        largest[problem] = most


@njit(**COMPILED)
def _copy(target: Any, source: Any) -> None:
    """The same as ``target[:] = source``, for which numba compiles the words of its errors as well, for seconds."""
    for i in range(source.shape[0]):
        target_i, source_i = target[i], source[i]
        for j in range(source_i.size):
            target_i[j] = source_i[j]


@njit(**COMPILED)
def corrections(
    slope: Any,
    active: Any,
    wires: Any,
    ends: Any,
    left_over: Any,
    reduction: Any,
    step: Any,
    inverse_rows: Any,
    inverse_columns: Any,
    work: Any,
    block: Any,
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
    inverse_rows, inverse_columns, work, block
        Memory to work in (`sim_backends.array.solver.scratch`).

    Returns
    -------
    int
        The first problem that did not settle, or -1.
    """
    problems, rows, columns = slope.shape
    tips, heads, drive = np.empty((2, rows)), np.empty((2, columns)), np.zeros((4, ends.shape[3]))
    for problem in range(problems):
        if not active[problem]:
            step[problem] = 0.0
            continue
        d, end = slope[problem], ends[problem]
        factor_columns(d, wires[1], end, inverse_columns)
        factor_rows(d, wires[0], end, inverse_rows, block)
        f_row, f_column, dy, dx = left_over[problem, 0], left_over[problem, 1], step[problem, 0], step[problem, 1]
        _copy(dy, f_row)
        solve_rows(inverse_rows, wires[0], dy, block)
        _add_product(f_column, d, dy, work[2])
        for i in range(rows):
            tips[0, i], tips[1, i] = dy[i, 0], dy[i, columns - 1]
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
        _add_product(f_row, d, dx, dy)
        solve_rows(inverse_rows, wires[0], dy, block)
    return -1


@njit(**COMPILED)
def plan_step(norm: Any, largest: Any, tolerance: float, coarsest: float, finest: float, reduction: Any) -> None:
    """How exactly the next step of each problem is worth solving: no better than what it leaves anyway, its square."""
    for problem in range(norm.size):
        violated = norm[problem] / largest[problem] if norm[problem] < largest[problem] else 1.0
        wanted = max(0.1 * tolerance / max(violated, 1e-16), 0.01 * violated)
        reduction[problem] = min(max(wanted, finest), coarsest)


@njit(**COMPILED)
def shorten(
    active: Any, before: Any, norm: Any, rounding: Any, largest: Any, tolerance: float, sufficient: float, length: Any
) -> bool:
    """Halve the steps of problems that violate Kirchhoff's law no less than `before`; whether there were any.

    What is balanced already may go up and down by rounding.
    """
    any_halved = False
    for problem in range(norm.size):
        enough = max((1.0 - sufficient * length[problem]) * before[problem], rounding[problem])
        enough = max(enough, tolerance * largest[problem])
        if active[problem] and not norm[problem] <= enough:
            length[problem] *= 0.5
            any_halved = True
    return any_halved


@njit(**COMPILED)
def settle(norm: Any, rounding: Any, largest: Any, tolerance: float, done: Any) -> None:
    """Which problems are solved, as far as terminal currents tell: Kirchhoff's law holds as well as is asked for.

    What a step changed says nothing of it: where lines float, a step can be small and the violation large.
    """
    for problem in range(norm.size):
        done[problem] = norm[problem] <= max(tolerance * largest[problem], ROUNDING * rounding[problem])


@njit(**COMPILED)
def voltage_scales(ends: Any, wires: Any, rows: int, columns: int, span: Any, resistance: Any) -> None:
    """Largest difference between voltages of sources (V), and largest resistance of a line with its source (Ohm).

    Both ``[problem]``. The resistance is infinite where a line floats.
    """
    for problem in range(span.size):
        lowest, highest, worst = np.inf, -np.inf, 0.0
        for first, second, lines, length, wire in (
            (LEFT, RIGHT, rows, columns, wires[0]),
            (TOP, BOTTOM, columns, rows, wires[1]),
        ):
            for line in range(lines):
                best = 0.0
                for side in (first, second):
                    g = ends[problem, side, 0, line]
                    if g > 0.0:
                        best = max(best, g)
                        lowest = min(lowest, ends[problem, side, 1, line])
                        highest = max(highest, ends[problem, side, 1, line])
                worst = max(worst, (length - 1) / wire + 1.0 / best if best > 0.0 else np.inf)
        span[problem], resistance[problem] = highest - lowest, worst


@njit(**COMPILED)
def gated_corrections(
    ga: Any,
    gb: Any,
    active: Any,
    wires: Any,
    ends: Any,
    left_over: Any,
    reduction: Any,
    step: Any,
    inverse_rows: Any,
    inverse_columns: Any,
    work: Any,
    block: Any,
) -> int:
    """Newton corrections for cells with a third terminal, whose matrix is not symmetric.

    Rows and columns are solved in turn, each exactly for what the other one is (block Gauss-Seidel over lines), until
    the steps have shrunk so far that what is still to come is below the reduction.

    Parameters
    ----------
    ga, gb
        Derivative of the cell currents by the voltage of the row node, and minus that by the voltage of the column
        node, ``[problem, row, column]`` (S).
    active, wires, ends, left_over, reduction, step, inverse_rows, inverse_columns, work, block
        As in `corrections`.
    """
    problems, rows, columns = ga.shape
    r, q, z = work[0], work[1], work[2]
    for problem in range(problems):
        if not active[problem]:
            step[problem] = 0.0
            continue
        a, b, end = ga[problem], gb[problem], ends[problem]
        factor_columns(b, wires[1], end, inverse_columns)
        factor_rows(a, wires[0], end, inverse_rows, block)
        f_row, f_column, dy, dx = left_over[problem, 0], left_over[problem, 1], step[problem, 0], step[problem, 1]
        dx[:] = 0.0
        q[:] = 0.0
        before, settled = np.inf, False
        for _ in range(SWEEPS_MAX):
            _add_product(f_row, b, dx, dy)
            solve_rows(inverse_rows, wires[0], dy, block)
            _add_product(f_column, a, dy, r)
            precondition(inverse_columns, wires[1], r, q, z, 0.0)
            moved, largest = 0.0, 0.0
            for i in range(rows):
                x, new = dx[i, :columns], z[i, :columns]
                for j in range(columns):
                    moved = max(moved, abs(new[j] - x[j]))
                    largest = max(largest, abs(new[j]))
                    x[j] = new[j]
            shrink = moved / before
            settled = moved == 0.0 or (shrink < 1.0 and moved * shrink <= reduction[problem] * (1.0 - shrink) * largest)
            if settled:
                break
            before = moved
        if not settled:
            return problem
        _add_product(f_row, b, dx, dy)
        solve_rows(inverse_rows, wires[0], dy, block)
    return -1


@njit(**COMPILED)
def _add_product(f: Any, g: Any, x: Any, out: Any) -> None:
    """``out = f + g x``, cell by cell."""
    rows, columns = g.shape
    for i in range(rows):
        f_i, g_i, x_i, out_i = f[i, :columns], g[i], x[i, :columns], out[i, :columns]
        for j in range(columns):
            out_i[j] = f_i[j] + g_i[j] * x_i[j]


@njit(**COMPILED)
def node_voltages(ends: Any, state: Any, v_row: Any, v_column: Any) -> None:
    """Voltages of the row and column node of every cell, ``[problem, row, column]`` (V), in a state."""
    problems, rows, columns = v_row.shape
    row_ref, column_ref = np.empty(rows), np.empty(columns)
    for problem in range(problems):
        references(ends[problem], LEFT, RIGHT, rows, row_ref)
        references(ends[problem], BOTTOM, TOP, columns, column_ref)
        for i in range(rows):
            for j in range(columns):
                v_row[problem, i, j] = row_ref[i] + state[problem, 0, i, j]
                v_column[problem, i, j] = column_ref[j] + state[problem, 1, i, j]


@njit(**COMPILED)
def centre(ends: Any, state: Any, on_themselves: bool) -> None:
    """Count the nodes of lines without a source from the middle of their line, or from zero again."""
    problems, rows, columns = state.shape[0], state.shape[2], state.shape[3] - PADDING
    for problem in range(problems):
        end, row_nodes, column_nodes = ends[problem], state[problem, 0], state[problem, 1]
        for i in range(rows):
            if end[LEFT, 0, i] == 0.0 and end[RIGHT, 0, i] == 0.0:
                shift = row_nodes[i, columns // 2] if on_themselves else -end[LEFT, 1, i]
                for j in range(columns):
                    row_nodes[i, j] -= shift
                end[LEFT, 1, i] += shift
        for j in range(columns):
            if end[BOTTOM, 0, j] == 0.0 and end[TOP, 0, j] == 0.0:
                shift = column_nodes[rows // 2, j] if on_themselves else -end[BOTTOM, 1, j]
                for i in range(rows):
                    column_nodes[i, j] -= shift
                end[BOTTOM, 1, j] += shift


@njit(**COMPILED)
def _terminals_of_state(state: Any, tips: Any, heads: Any) -> None:
    rows, columns = tips.shape[1], heads.shape[1]
    for i in range(rows):
        tips[0, i], tips[1, i] = state[0, i, 0], state[0, i, columns - 1]
    for j in range(columns):
        heads[0, j], heads[1, j] = state[1, 0, j], state[1, rows - 1, j]


@njit(**COMPILED)
def solve_sinh(
    g: Any,
    alpha: Any,
    wires: Any,
    ends: Any,
    state: Any,
    tolerance: float,
    limits: Any,
    cells: bool,
    v: Any,
    i: Any,
    currents: Any,
    step: Any,
    moved: Any,
    left_over: Any,
    inverse_rows: Any,
    inverse_columns: Any,
    work: Any,
    block: Any,
) -> int:
    """Newton's method for ``I = g sinh(alpha V) / alpha`` from beginning to end, problem by problem.

    The same steps and the same tests as `sim_backends.array.solver.newton` takes for any device, without leaving
    compiled code: of a network of 64 x 64, the way there and back costs as much as the arithmetic.

    Parameters
    ----------
    g, alpha
        ``[problem, row, column]`` (S, 1/V), or one for all.
    state
        To start with, and what was found.
    limits
        Coarsest and finest reduction, sufficient part of a decrease, most steps, most halvings.
    cells
        Whether cell voltages must be exact too.
    v, i, currents
        Get voltages and currents of all cells, and the terminal currents.
    step, moved, left_over, inverse_rows, inverse_columns, work, block
        Memory to work in, of one problem.

    Returns
    -------
    int
        The first problem that did not settle, or -1.
    """
    rows, columns = v.shape[1:]
    slope = np.empty((1, rows, columns))
    norm, rounding, largest = np.empty(1), np.empty(1), np.empty(1)
    length, reduction, span, resistance, violated = np.empty(1), np.empty(1), np.empty(1), np.empty(1), np.empty(1)
    active, done = np.empty(1, np.bool_), np.empty(1, np.bool_)
    for problem in range(v.shape[0]):
        some = slice(problem, problem + 1)
        end, s, v_p, i_p, found = ends[some], state[some], v[some], i[some], currents[some]
        g_p, alpha_p = g[min(problem, g.shape[0] - 1)], alpha[min(problem, alpha.shape[0] - 1)]
        voltage_scales(end, wires, rows, columns, span, resistance)
        exact = tolerance * span[0] / resistance[0]  # violation below which cell voltages are exact too
        step[:] = 0.0
        length[0], moved_before = 0.0, np.inf
        move(end, s, step, length, moved, v_p)
        sinh_current(v_p[0], g_p, alpha_p, i_p[0], slope[0])
        residuals(wires, end, i_p, moved, left_over, norm, rounding, found, largest)
        settle(norm, rounding, largest, tolerance, done)
        active[0] = not done[0] or (cells and not norm[0] <= exact)
        for _ in range(int(limits[3])):
            if not active[0]:
                break
            plan_step(norm, largest, tolerance, limits[0], limits[1], reduction)
            if corrections(
                slope,
                active,
                wires,
                end,
                left_over,
                reduction,
                step,
                inverse_rows,
                inverse_columns,
                work,
                block,
            ) >= 0:  # fmt: skip
                return problem
            length[0], violated[0] = 1.0, norm[0]
            for _ in range(int(limits[4])):
                move(end, s, step, length, moved, v_p)
                sinh_current(v_p[0], g_p, alpha_p, i_p[0], slope[0])
                residuals(wires, end, i_p, moved, left_over, norm, rounding, found, largest)
                if not shorten(active, violated, norm, rounding, largest, tolerance, limits[2], length):
                    break
            _copy(s[0, 0], moved[0, 0])
            _copy(s[0, 1], moved[0, 1])
            if not norm[0] < violated[0] and not norm[0] <= max(tolerance * largest[0], rounding[0]):
                return problem  # no step in this direction makes it better: what is left is rounding
            settle(norm, rounding, largest, tolerance, done)
            if cells and not norm[0] <= exact:
                went = _largest_move(step[0], columns)
                to_come = went * min(went / moved_before, 1.0) if 0.0 < moved_before < np.inf else went
                whole = length[0] == 1.0
                done[0] = done[0] and whole and to_come <= 0.1 * tolerance * span[0]
                moved_before = went if whole else np.inf
            active[0] = not done[0]
        if active[0]:
            return problem
    return -1


@njit(**COMPILED)
def _largest_move(step: Any, columns: int) -> float:
    """Largest change of a cell voltage by a step ``[2, row, column + padding]`` (V)."""
    largest = 0.0
    for row in range(step.shape[1]):
        for column in range(columns):
            largest = max(largest, abs(step[0, row, column] - step[1, row, column]))
    return largest
