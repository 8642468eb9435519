"""Arrays of resistive lines, solved line by line: single vectors, many vectors, many arrays, nonlinear cells."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim_backends.array import line_kernels as kernels
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.network_errors import ConvergenceError, NetworkError
from sim_backends.array.network_problem import (
    BOTTOM,
    LEFT,
    NO_RESISTANCE,
    RIGHT,
    SIDES,
    TOP,
    Problem,
    Side,
    Solution,
    bad_cell,
    infinite_voltage,
)

NO_CELLS = np.empty((0, 0, 0))
WORTH_A_THREAD = 30_000  # cells times problems; below it a second thread costs more than it saves
FIRST, FRESH = np.zeros(1, dtype=np.intp), np.ones(1, dtype=bool)


def unfit(problem: Problem) -> str | None:
    """Why the lines of a problem cannot be solved this way; None if they can."""
    lines = problem.lines
    for name in ("r_row", "r_column"):
        r = getattr(lines, name)
        if not isinstance(r, float | int):
            if np.ndim(r) > 0:
                return f"{name} differs from segment to segment"
            r = float(r)
        if not 0 < r < np.inf:
            return f"{name} is {r:g} Ohm"
    if problem.devices is not None and getattr(problem.devices, "gated", False):
        return "the devices have a third terminal"
    return None


def refuse_unfit(problem: Problem) -> None:
    """Raise `NetworkError` for a problem that needs the direct method."""
    why = unfit(problem)
    if why is not None:
        raise NetworkError(f"{why}: use method='direct' or 'auto'")


def ends_of(problem: Problem) -> tuple[FloatArray, bool]:
    """Terminals as the kernels want them, and whether some line has no source.

    Returns
    -------
    ends, floats
        ``[problem, side, 2, line]``: conductance to the source (S), voltage (V).

    Raises
    ------
    NetworkError
        If a line is driven with an infinite voltage.
    """
    count, lines = problem.count, problem.lines
    ends = np.zeros((count, 4, 2, max(problem.rows, problem.columns)))
    held = [False, False]  # some side of the rows, of the columns holds every line
    for number, side in enumerate(problem.sides):
        if side is None:
            continue
        v = side.voltage
        if v.ndim != 1 or count != 1:
            v = np.broadcast_to(v, (*problem.lead, v.shape[-1])).reshape(count, -1)
        else:
            v = v.reshape(1, -1)
        there, infinite = kernels.connect(ends, number, v)
        if infinite >= 0:
            raise infinite_voltage(SIDES[number], infinite)
        series = (lines.r_row if number < TOP else lines.r_column) + lines.r_contact
        if side.resistance is NO_RESISTANCE:
            ends[:, number, 0, : v.shape[-1]] *= 1.0 / series
        else:
            resistance = np.broadcast_to(side.resistance, (*problem.lead, v.shape[-1])).reshape(v.shape)
            ends[:, number, 0, : v.shape[-1]] *= 1.0 / (series + resistance)
            there = there and bool(np.isfinite(resistance).all())
        held[number // TOP] |= there
    return ends, not all(held)


def solve(problem: Problem, cells: bool) -> Solution:
    """Solve every problem on its own, a set of conductances factored once for all vectors that follow on it."""
    if problem.devices is not None:
        from sim_backends.array import newton  # not needed, and not compiled, for linear cells

        return newton.solve(problem, cells)
    given = problem.g
    assert given is not None
    ends, floats = ends_of(problem)
    if floats:
        refuse_undetermined(problem, given > 0)
    count = problem.count
    g, which, fresh, order = given.reshape(-1, problem.rows, problem.columns), FIRST, FRESH, None
    if count > 1:
        which, fresh, order = _in_order(problem, ends)
        ends = ends if order is None else np.ascontiguousarray(ends[order])
    currents = np.zeros((count, 4, ends.shape[-1]))
    v_cell = np.empty((count, problem.rows, problem.columns)) if cells else NO_CELLS
    wires = np.array([1.0 / problem.lines.r_row, 1.0 / problem.lines.r_column])

    def some(part: slice) -> None:
        fresh[part.start] = True
        where, status = kernels.linear_network(
            g, which[part], fresh[part], wires, ends[part], problem.tolerance / 2, currents[part], v_cell[part]
        )
        if status == kernels.BAD_CELL:
            raise bad_cell(given)
        if status == kernels.NO_PROGRESS:
            raise ConvergenceError(
                f"network {part.start + where} did not settle in {kernels.ITERATIONS_MAX} iterations"
            )

    in_threads(some, count, problem.rows * problem.columns)
    if order is not None:
        inverse = np.argsort(order)
        currents, v_cell = currents[inverse], v_cell[inverse] if cells else NO_CELLS
    return solution_of(problem, currents, v_cell if cells else None, None)


def _in_order(problem: Problem, ends: FloatArray) -> tuple[NDArray[np.intp], BoolArray, NDArray[np.intp] | None]:
    """Set of every problem, whether it must be factored anew, and the order that keeps equal sets together."""
    _, which = sets_of(problem)
    order = None
    if np.any(np.diff(which) < 0):
        order = np.argsort(which, kind="stable")
        which, ends = which[order], ends[order]
    fresh = np.ones(which.size, dtype=bool)
    fresh[1:] = (np.diff(which) != 0) | np.any(ends[1:, :, 0] != ends[:-1, :, 0], axis=(1, 2))
    return which, fresh, order


def in_threads(work: Callable[[slice], None], count: int, size: int) -> None:
    """Do `work` on slices of `count` problems of so many cells, in as many threads as pay."""
    threads = 1 if count == 1 else min(os.cpu_count() or 1, count, count * size // WORTH_A_THREAD)
    if threads < 2:
        work(slice(0, count))
        return
    edges = np.linspace(0, count, threads + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, part) for part in parts]:
            done.result()


def solution_of(
    problem: Problem, currents: FloatArray, v_cell: FloatArray | None, i_cell: FloatArray | None
) -> Solution:
    """Give results ``[problem, ...]`` the leading axes of the problem."""
    rows, columns, lead = problem.rows, problem.columns, problem.lead
    of_side = ((LEFT, rows), (RIGHT, rows), (TOP, columns), (BOTTOM, columns))
    sides = [currents[:, side, :count].reshape(*lead, count) for side, count in of_side]
    cell_arrays = [None if x is None else x.reshape(*lead, rows, columns) for x in (v_cell, i_cell)]
    return Solution(problem, sides, *cell_arrays)


def sets_of(problem: Problem) -> tuple[FloatArray, NDArray[np.intp]]:
    """Conductances ``[set, row, column]``, and the set of every problem, ``[problem]``."""
    g = problem.g
    assert g is not None
    lead = g.shape[:-2]
    sets = g.reshape(-1, problem.rows, problem.columns)
    if len(sets) == 1:
        return sets, np.zeros(problem.count, dtype=np.intp)
    number = np.arange(len(sets)).reshape(lead)
    return sets, np.ascontiguousarray(np.broadcast_to(number, problem.lead).ravel())


def refuse_undetermined(problem: Problem, conducting: BoolArray) -> None:
    """Refuse lines that no chain of conducting cells connects to a source: their voltage could be anything."""
    row, column = problem.floating()
    held_row = np.broadcast_to(~row, (*problem.lead, problem.rows))
    held_column = np.broadcast_to(~column, (*problem.lead, problem.columns))
    cells = np.broadcast_to(conducting, (*problem.lead, problem.rows, problem.columns))
    while True:
        new_column = held_column | np.any(cells & held_row[..., :, None], axis=-2)
        new_row = held_row | np.any(cells & new_column[..., None, :], axis=-1)
        if np.array_equal(new_row, held_row) and np.array_equal(new_column, held_column):
            break
        held_row, held_column = new_row, new_column
    for name, held in (("row", held_row), ("column", held_column)):
        if not held.all():
            *array, line = (int(part) for part in np.argwhere(~held)[0])
            place = f"{name} {line}" + (f" of array {', '.join(map(str, array))}" if array else "")
            raise NetworkError(
                f"{place} floats and no cell connects it to a line that is held: its voltage is undetermined; hold it, "
                "or give its open cells a leakage"
            )


def transfer_pays(problem: Problem) -> bool:
    """Whether the response to every terminal costs less than the vectors themselves."""
    if problem.g is None or problem.count < 16:
        return False
    sets = problem.g.size // (problem.rows * problem.columns)
    varies = [side for side in problem.sides if side is not None and side.voltage.ndim > 1]
    if problem.count < 4 * sets or any(np.isnan(side.voltage).any() for side in varies):
        return False
    return problem.count > 1.2 * sets * len(_driven(problem)[0])


def solve_by_transfer(problem: Problem, cells: bool) -> Solution:
    """Solve for a unit voltage at every driven terminal in turn, then add up."""
    if problem.g is None:
        raise NetworkError("the transfer matrix is for linear cells: use method='lines' or 'auto'")
    terminals, voltages = _driven(problem)
    response = solve(_unit_problem(problem, terminals), cells)

    def combine(of_units: FloatArray) -> FloatArray:
        out = of_units.shape[-1]
        if of_units.ndim == 2:  # the same cells for all vectors: one matrix product
            return (voltages.reshape(-1, len(terminals)) @ of_units).reshape(*problem.lead, out)
        return np.matmul(voltages[..., None, :], of_units)[..., 0, :]

    currents = [combine(side) for side in (response.i_left, response.i_right, response.i_top, response.i_bottom)]
    if not cells:
        return Solution(problem, currents, None, None)
    flat = response.v_cell.reshape(*response.v_cell.shape[:-2], -1)
    return Solution(problem, currents, combine(flat).reshape(*problem.lead, problem.rows, problem.columns), None)


def _driven(problem: Problem) -> tuple[list[tuple[int, int]], FloatArray]:
    """Terminals (side, line) that drive, and their voltages ``[..., terminal]`` (V).

    Only differences drive currents: voltages are counted from the first or the last terminal of each vector, whichever
    leaves fewer that are not zero.
    """
    terminals, voltages = [], []
    for number, side in enumerate(problem.sides):
        if side is None:
            continue
        for line in np.flatnonzero(side.connected.reshape(-1, side.voltage.shape[-1]).any(axis=0)):
            terminals.append((number, int(line)))
            voltages.append(np.broadcast_to(side.voltage[..., line], problem.lead))
    v = np.stack(voltages, axis=-1)
    counted = [v - v[..., reference, None] for reference in (0, -1)]
    used = [np.any(x != 0, axis=tuple(range(x.ndim - 1))) for x in counted]
    best = int(np.argmin([np.count_nonzero(u) for u in used]))
    return [t for t, u in zip(terminals, used[best], strict=True) if u], counted[best][..., used[best]]


def _unit_problem(problem: Problem, terminals: list[tuple[int, int]]) -> Problem:
    """The same arrays, each of the terminals in turn at one volt and all others at zero: the last leading axis."""
    assert problem.g is not None
    g = problem.g if problem.g.ndim == 2 else problem.g[..., None, :, :]
    sides: list[Side | None] = [None] * 4
    for number, side in enumerate(problem.sides):
        if side is not None:
            first = side.voltage.reshape(-1, side.voltage.shape[-1])[0]
            voltage = np.where(np.isnan(first), np.nan, np.zeros((len(terminals), first.size)))
            for row, (where, line) in enumerate(terminals):
                if where == number:
                    voltage[row, line] = 1.0
            sides[number] = Side(voltage, side.resistance)
    return replace(
        problem,
        g=g,
        lead=np.broadcast_shapes(g.shape[:-2], (len(terminals),)),
        sides=(sides[0], sides[1], sides[2], sides[3]),
    )
