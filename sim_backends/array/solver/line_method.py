"""Arrays of resistive lines, solved line by line: single vectors, many vectors, many arrays, nonlinear cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.solver import line_kernels as kernels
from sim_backends.array.solver.determined import refuse_undetermined
from sim_backends.array.solver.errors import ADVICE, ConvergenceError, NetworkError
from sim_backends.array.solver.problem import (
    NO_RESISTANCE,
    SIDES,
    TOP,
    Problem,
    Side,
    Solution,
    bad_cell,
    infinite_voltage,
    refuse_unbalanced,
)
from sim_backends.array.solver.scratch import in_threads, line_scratch

NO_CELLS = np.empty((0, 0, 0))
TOLERANCE_LEAST = 1e-13
FIRST, FRESH = np.zeros(1, dtype=np.intp), np.ones(1, dtype=bool)


def unfit(problem: Problem) -> str | None:
    """Why the lines of a problem cannot be solved this way; None if they can."""
    lines = problem.lines
    for name in ("r_row", "r_column"):
        r = getattr(lines, name)
        if isinstance(r, np.ndarray):
            return f"{name} differs from segment to segment"
        if not 0 < r < np.inf:
            return f"{name} is {r:g} Ohm"
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
        series = (lines.r_row if number < TOP else lines.r_column) + lines.r_contact
        there, infinite = kernels.connect(ends, number, v, 1.0 / series)
        if infinite >= 0:
            raise infinite_voltage(SIDES[number], infinite)
        if side.resistance is not NO_RESISTANCE:
            resistance = np.broadcast_to(side.resistance, (*problem.lead, v.shape[-1])).reshape(v.shape)
            ends[:, number, 0, : v.shape[-1]] *= series / (series + resistance)
            none = np.isinf(resistance)
            if none.any():  # a line that floats does not begin at the voltage of a source that it has not
                there = False
                ends[:, number, 1, : v.shape[-1]][none] = 0.0
        held[number // TOP] |= there
    floats = not all(held)
    if floats and not getattr(problem.devices, "gated", False):
        _bring_to_zero(ends)
    return ends, floats


def _bring_to_zero(ends: FloatArray) -> None:
    """Shift the voltages of problems whose sources are all above or all below zero, which changes no current.

    Lines that float begin at zero, and far from it digits are lost. With all sources at one voltage it is the solution.
    """
    there, v = ends[:, :, 0] > 0, ends[:, :, 1]
    lowest = np.min(v, axis=(1, 2), where=there, initial=np.inf, keepdims=True)
    highest = np.max(v, axis=(1, 2), where=there, initial=-np.inf, keepdims=True)
    nearest = np.where(lowest > 0, lowest, np.minimum(highest, 0.0))
    np.subtract(v, nearest, out=v, where=there)


def solve(problem: Problem, cells: bool) -> Solution:
    """Solve for ohmic cells, every problem on its own; conductances are factored once for all vectors that follow."""
    given = problem.g
    assert given is not None
    ends, floats = ends_of(problem)
    if floats:
        refuse_undetermined(problem, given > 0, given > 0)
    count = problem.count
    g, which, fresh, order = given.reshape(-1, problem.rows, problem.columns), FIRST, FRESH, None
    if count > 1:
        which, fresh, order = _in_order(problem, ends)
        ends = ends if order is None else np.ascontiguousarray(ends[order])
    currents = np.zeros((count, 4, ends.shape[-1]))
    v_cell, i_cell = np.empty((2, count, problem.rows, problem.columns)) if cells else (NO_CELLS, NO_CELLS)
    wires = np.array([1.0 / problem.lines.r_row, 1.0 / problem.lines.r_column])

    def some(part: slice) -> None:
        fresh[part.start] = True
        where, status = kernels.linear_network(
            g,
            which[part],
            fresh[part],
            wires,
            ends[part],
            problem.tolerance,
            currents[part],
            v_cell[part],
            i_cell[part],
            *line_scratch(problem.rows, problem.columns),
        )
        if status == kernels.BAD_CELL:
            raise bad_cell(given)
        if status:
            number = part.start + where if order is None else int(order[part.start + where])
            what = (
                "misses more of Kirchhoff's law than the tolerance, by rounding"
                if status == kernels.UNBALANCED
                else f"did not settle in {kernels.ITERATIONS_MAX} iterations"
            )
            raise ConvergenceError(f"network {number} {what}; {ADVICE}")

    in_threads(some, count, problem.rows * problem.columns)
    if order is not None:
        inverse = np.argsort(order)
        currents = currents[inverse]
        v_cell, i_cell = (v_cell[inverse], i_cell[inverse]) if cells else (NO_CELLS, NO_CELLS)
    return Solution(problem, currents, v_cell, i_cell) if cells else Solution(problem, currents)


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


def sets_of(problem: Problem) -> tuple[FloatArray, NDArray[np.intp]]:
    """Conductances ``[set, row, column]``, and the set of every problem, ``[problem]``."""
    g = problem.g
    assert g is not None
    lead = g.shape[:-2]
    sets = g.reshape(-1, problem.rows, problem.columns)
    if len(sets) == 1:
        return sets, np.zeros(problem.count, dtype=np.intp)
    number = np.arange(len(sets)).reshape(lead)
    return sets, np.broadcast_to(number, problem.lead).flatten()  # a copy: kernels are compiled for writable arrays


def transfer_pays(problem: Problem) -> bool:
    """Whether the response to every terminal costs less than the vectors themselves."""
    if problem.g is None or problem.count < 16:
        return False
    sets = problem.g.size // (problem.rows * problem.columns)
    if problem.count < 4 * sets:
        return False
    driving = 0
    for side in problem.sides:
        if side is not None:
            driving += side.voltage.shape[-1] if side.voltage.ndim > 1 or side.voltage.any() else 0
    return problem.count > 1.2 * sets * driving and _uneven_side(problem) is None


def _uneven_side(problem: Problem) -> str | None:
    """The first side that is not connected in the same way in all problems."""
    for name, side in zip(SIDES, problem.sides, strict=True):
        if side is None:
            continue
        connections = (np.isnan(side.voltage), np.asarray(side.resistance))
        if any(np.any(x != x.reshape(-1, x.shape[-1])[0]) for x in connections if x.ndim > 1 and x.any()):
            return name
    return None


def solve_by_transfer(problem: Problem, cells: bool) -> Solution:
    """Solve for a unit voltage at every driven terminal in turn, then add up."""
    if problem.g is None:
        raise NetworkError("the transfer matrix is for linear cells: use method='lines' or 'auto'")
    uneven = _uneven_side(problem)
    if uneven is not None:
        raise NetworkError(
            f"{uneven}: which lines are connected, or through which resistance, differs between vectors, so there is "
            "no one transfer matrix: use method='lines' or 'auto'"
        )
    terminals, voltages = _driven(problem)
    unit = _unit_problem(problem, terminals)
    unit.tolerance = max(problem.tolerance / (4 * len(terminals)), TOLERANCE_LEAST)  # errors add up
    response = solve(unit, cells)

    def combine(of_units: FloatArray, v: FloatArray = voltages) -> FloatArray:
        """Sum over the terminals, the last leading axis of what each of them does."""
        if len(response.lead) == 1:  # the same cells for all vectors: one matrix product
            return v.reshape(-1, len(terminals)) @ of_units
        by_set = of_units.reshape(*response.lead, -1)
        return np.matmul(v[..., None, :], by_set)[..., 0, :].reshape(problem.count, -1)

    largest = np.abs(response.currents).max(axis=(1, 2))
    error = unit.tolerance * combine(largest[:, None], np.abs(voltages))[:, 0]
    doubtful = np.arange(problem.count)
    currents = np.zeros((problem.count, *response.currents.shape[1:]))
    for number, side in enumerate(problem.sides):
        if side is not None:
            lines = side.voltage.shape[-1]
            of_side = combine(response.currents[:, number, :lines])
            currents[:, number, :lines] = of_side
            some = of_side if doubtful.size == problem.count else of_side[doubtful]
            least = np.sqrt(np.einsum("pl,pl->p", some, some) / lines)  # found faster than the largest itself
            doubtful = doubtful[~(error[doubtful] <= problem.tolerance * least)]
    _refuse_cancelled(problem, doubtful, error, currents)
    v_cell = i_cell = None
    if cells:
        v_cell = combine(response.v_cell.reshape(-1, problem.rows * problem.columns))
        v_cell = v_cell.reshape(*problem.lead, problem.rows, problem.columns)
        i_cell = problem.g * v_cell
    refuse_unbalanced(problem, currents, i_cell)
    return Solution(problem, currents, v_cell, i_cell)


def _refuse_cancelled(problem: Problem, doubtful: NDArray[np.intp], error: FloatArray, currents: FloatArray) -> None:
    """Raise `ConvergenceError` if responses cancel so far that their errors ``[problem]`` (A) count."""
    largest = np.abs(currents[doubtful]).max(axis=(1, 2), initial=0.0)
    cancelled = doubtful[~(error[doubtful] <= problem.tolerance * largest)]
    if cancelled.size:
        raise ConvergenceError(
            f"network {cancelled[0]}: the responses to its terminals cancel, and the sum is not exact to "
            f"{problem.tolerance:g}: use method='lines' or 'auto'"
        )


def _driven(problem: Problem) -> tuple[list[tuple[int, int]], FloatArray]:
    """Terminals (side, line) that drive, and their voltages ``[..., terminal]`` (V).

    Only differences drive currents: voltages are counted from the last terminal of each vector if that leaves fewer
    that are not zero than the first one.
    """
    terminals, voltages = [], []
    for number, side in enumerate(problem.sides):
        if side is not None:
            if np.isinf(side.voltage).any():
                raise infinite_voltage(SIDES[number], int(np.argwhere(np.isinf(side.voltage))[0][-1]))
            there = side.connected.reshape(-1, side.voltage.shape[-1]).any(axis=0)
            if not there.any():
                continue
            terminals += [(number, int(line)) for line in np.flatnonzero(there)]
            of_side = side.voltage if there.all() else side.voltage[..., there]
            voltages.append(np.broadcast_to(of_side, (*problem.lead, of_side.shape[-1])))
    if not terminals:
        raise NetworkError("no line is driven or grounded: all voltages are NaN or behind an infinite resistance")
    references = (voltages[0][..., :1], voltages[-1][..., -1:])
    used = [[np.any(v != r, axis=tuple(range(v.ndim - 1))) for v in voltages] for r in references]
    best = int(sum(np.count_nonzero(u) for u in used[1]) < sum(np.count_nonzero(u) for u in used[0]))
    if not any(u.any() for u in used[best]):
        used[best][0][0] = True  # nothing drives, but a solution has a terminal
    reference, parts = references[best], []
    for v, u in zip(voltages, used[best], strict=True):
        if u.any():
            parts.append((v if u.all() else v[..., u]) - reference)
    kept = np.concatenate(used[best])
    driven = [terminal for terminal, there in zip(terminals, kept, strict=True) if there]
    return driven, parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


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
