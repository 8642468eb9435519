"""Arrays solved by factorisation of all nodes: perfect, broken and uneven lines, nonlinear and gated cells on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.solver.determined import LEAST_VOLTS, ever_conducting, still_conducting
from sim_backends.array.solver.direct import EPSILON, DirectNetwork, DirectSolution
from sim_backends.array.solver.errors import ConvergenceError
from sim_backends.array.solver.line_kernels import NOTHING
from sim_backends.array.solver.line_method import sets_of
from sim_backends.array.solver.problem import (
    BOTTOM,
    LEFT,
    RIGHT,
    SIDES,
    TOP,
    Problem,
    Solution,
    bad_cell,
    infinite_voltage,
    refuse_unbalanced,
)

STEPS_MAX = 80
FLAT = 1e-6  # of a cell's slope at rest, or the largest one: what a step takes for no slope at all
STEEPER = 1e9  # times as steep a cell may become in one step
HALVINGS_MAX = 40
ROUNDING = 1e-15  # of the currents of all cells: a difference of so much is balanced as far as doubles go
Indices = NDArray[np.intp]


def solve(problem: Problem, cells: bool) -> Solution:
    """Solve every problem by LU factorisation; nonlinear devices by Newton's method around it.

    Raises
    ------
    NetworkError, ConvergenceError
        As `sim_backends.array.solver.network.solve`.
    """
    g = problem.g
    if g is not None and not np.all((g >= 0) & (g < np.inf)):
        raise bad_cell(g)
    if _perfectly_held(problem):
        return _without_lines(problem, cells)
    count, rows, columns = problem.count, problem.rows, problem.columns
    currents = np.zeros((count, 4, max(rows, columns)))
    v_cell, i_cell = np.empty((2, count, rows, columns))
    rounding = np.empty(count)
    find = _linear if problem.devices is None else _newton
    for group in _groups(problem):
        for chosen, found in find(problem, group):
            for side, values in enumerate((found.i_left, found.i_right, found.i_top, found.i_bottom)):
                currents[chosen, side, : values.shape[-1]] = values.reshape(len(chosen), -1)
            v_cell[chosen] = found.v_cell.reshape(len(chosen), rows, columns)
            i_cell[chosen] = found.i_cell.reshape(len(chosen), rows, columns)
            rounding[chosen] = found.rounding.reshape(-1)
    refuse_unbalanced(problem, currents, i_cell, rounding)
    problem.refuse_beyond(v_cell)
    return Solution(problem, currents, v_cell, i_cell) if cells else Solution(problem, currents)


def _perfectly_held(problem: Problem) -> bool:
    """Whether every line is a perfect conductor held by one perfect source: nothing is left to solve."""
    lines = problem.lines
    if any(np.ndim(r) > 0 or r != 0 for r in (lines.r_row, lines.r_column, lines.r_contact)):
        return False
    if getattr(problem.devices, "gated", False):
        return False
    for one, other in ((LEFT, RIGHT), (TOP, BOTTOM)):
        sides = [side for side in (problem.sides[one], problem.sides[other]) if side is not None]
        if len(sides) != 1 or np.any(sides[0].resistance) or not np.isfinite(sides[0].voltage).all():
            return False
    return True


def _without_lines(problem: Problem, cells: bool) -> Solution:
    """Every cell sees the difference of its sources, and every source carries the cells of its line."""
    row, column = (LEFT if problem.sides[LEFT] else RIGHT), (TOP if problem.sides[TOP] else BOTTOM)
    of_rows, of_columns = problem.sides[row], problem.sides[column]
    assert of_rows is not None and of_columns is not None
    v = of_rows.voltage[..., :, None] - of_columns.voltage[..., None, :]
    i = problem.devices.current(v)[0] if problem.g is None else problem.g * v
    shape = (*problem.lead, problem.rows, problem.columns)
    v, i = (np.broadcast_to(x, shape).reshape(problem.count, *shape[-2:]) for x in (v, i))
    currents = np.zeros((problem.count, 4, max(shape[-2:])))
    currents[:, row, : problem.rows] = i.sum(axis=-1)
    currents[:, column, : problem.columns] = i.sum(axis=-2)
    refuse_unbalanced(problem, currents, i)
    problem.refuse_beyond(v)
    return Solution(problem, currents, np.array(v), np.array(i)) if cells else Solution(problem, currents)


class _Group:
    """Problems with the same terminals, connected by the same resistances: one `DirectNetwork`, voltages of each."""

    def __init__(
        self, problem: Problem, members: Indices, voltages: list[FloatArray | None], connected: list[BoolArray | None]
    ) -> None:
        self.members = members
        # NaN is not connected; of voltages next to nothing the currents would lose their digits to underflow
        self.voltages = [None if v is None else np.where(np.abs(v) > NOTHING, v, 0.0)[members] for v in voltages]
        resistance = []
        for side, there in zip(problem.sides, connected, strict=True):
            if side is None or there is None:
                resistance.append(np.array(np.inf))
            else:
                source = np.broadcast_to(side.resistance, (*problem.lead, there.shape[-1])).reshape(there.shape)
                resistance.append(np.where(there[members[0]], problem.lines.r_contact + source[members[0]], np.inf))
        self.network = DirectNetwork(
            problem.rows,
            problem.columns,
            problem.lines.r_row,
            problem.lines.r_column,
            **dict(zip(SIDES, resistance, strict=True)),
        )

        sources = [
            np.where(there, v, np.nan)[members]
            for v, there in zip(voltages, connected, strict=True)
            if v is not None and there is not None
        ]
        everywhere = np.concatenate(sources, axis=1)
        self.highest = np.nanmax(np.abs(everywhere), axis=1)  # V
        self.span = np.nanmax(everywhere, axis=1) - np.nanmin(everywhere, axis=1)  # V

    def drives(self, some: slice | Indices, sets: int) -> dict[str, FloatArray]:
        """Voltages of some members as `DirectNetwork.solve` wants them, ``[set, drive, line]``."""
        return {
            side: v[some].reshape(sets, -1, v.shape[-1])
            for side, v in zip(SIDES, self.voltages, strict=True)
            if v is not None
        }


def _groups(problem: Problem) -> Iterator[_Group]:
    count = problem.count
    voltages: list[FloatArray | None] = []
    connected: list[BoolArray | None] = []
    for number, side in enumerate(problem.sides):
        if side is None:
            voltages.append(None)
            connected.append(None)
            continue
        if np.isinf(side.voltage).any():
            raise infinite_voltage(SIDES[number], int(np.argwhere(np.isinf(side.voltage))[0][-1]))
        shape = (*problem.lead, problem.rows if number < TOP else problem.columns)
        voltages.append(np.broadcast_to(side.voltage, shape).reshape(count, -1))
        connected.append(np.broadcast_to(side.connected, shape).reshape(count, -1))
    pattern = np.concatenate([c for c in connected if c is not None], axis=1).astype(float)
    for number, side in enumerate(problem.sides):
        if side is not None and np.ndim(side.resistance) > 1:
            lines = problem.rows if number < TOP else problem.columns
            spread = np.broadcast_to(side.resistance, (*problem.lead, lines)).reshape(count, -1)
            pattern = np.concatenate([pattern, spread], axis=1)
    _, which = np.unique(pattern, axis=0, return_inverse=True)
    which = which.reshape(-1)
    for number in range(int(which.max()) + 1):
        yield _Group(problem, np.flatnonzero(which == number), voltages, connected)


def _linear(problem: Problem, group: _Group) -> Iterator[tuple[Indices, DirectSolution]]:
    """Solve a group: each set of conductances once for all its vectors, if every set has as many."""
    g, which = sets_of(problem)
    of_member = which[group.members]
    order = np.argsort(of_member, kind="stable")
    numbers, counts = np.unique(of_member, return_counts=True)
    if np.all(counts == counts[0]):
        some = g[numbers]
        yield group.members[order], group.network.solve(some, some, **group.drives(order, len(numbers)))
        return
    some = g[of_member]
    yield group.members, group.network.solve(some, some, **group.drives(slice(None), len(of_member)))


def _newton(problem: Problem, group: _Group) -> Iterator[tuple[Indices, DirectSolution]]:
    """Newton's method for all members of a group at once.

    The currents of a solved linearised network balance exactly; what the devices conduct at its voltages may differ
    from them, and no terminal current is wrong by more than the sum of these differences. A step is halved until the
    sum falls.
    """
    members = group.members
    conducts = _evaluator(problem, members)
    evaluate, at_rest = _never_flat(conducts, group.highest, (len(members), problem.rows, problem.columns))
    drives = group.drives(slice(None), len(members))
    shape = (len(members), problem.rows, problem.columns)
    v_row, v_column, balanced = np.zeros((3, *shape))  # at rest
    i, ga, gb = evaluate(v_row, v_column)
    missing = moved_before = np.full(len(members), np.inf)
    # all sources at one voltage: there is no current that anything could be relative to
    idle = np.where(group.span == 0, 1e-13 * group.highest, 0.0)
    enough = 0.1 * problem.tolerance * np.where(group.span > 0, group.span, group.highest)
    done = np.zeros(len(members), dtype=bool)
    for _ in range(STEPS_MAX):
        offset = i - ga * v_row + gb * v_column
        found = group.network.solve(ga, gb, offset=offset[:, None], **drives)
        to_row, to_column, to_current = found.v_row[:, 0], found.v_column[:, 0], found.i_cell[:, 0]
        moved = np.abs((to_row - v_row) - (to_column - v_column)).max(axis=(1, 2))
        terminal = np.max(
            [np.abs(x).max(axis=(-1, -2)) for x in (found.i_left, found.i_right, found.i_top, found.i_bottom)], axis=0
        )
        lost = 4 * EPSILON * (ga * np.abs(v_row) + gb * np.abs(v_column)).sum(axis=(1, 2))  # where an offset cancels
        rounding = np.maximum(found.rounding[:, 0], lost)
        allowed = np.maximum(problem.tolerance * terminal, rounding)
        missing_before = missing
        v_row, v_column, balanced, missing, (i, ga, gb), whole = _advance(
            evaluate, (v_row, v_column, balanced), (to_row, to_column, to_current), (ga, gb), missing, idle, allowed
        )
        nothing = np.maximum(rounding, idle * ga.sum(axis=(1, 2)))
        close = missing <= np.maximum(allowed, np.maximum(ROUNDING * np.abs(i).sum(axis=(1, 2)), nothing))
        shrink = np.divide(
            moved, moved_before, out=np.ones(len(members)), where=(moved_before > 0) & (moved_before < np.inf)
        )
        settled = moved * np.minimum(shrink, 1.0) <= enough
        moved_before = moved
        missing = np.where(whole | (missing_before < np.inf), missing, np.inf)  # short of the sources' own voltages
        done |= whole & close & settled
        if done.all():
            row, column = (line.reshape(problem.count, -1)[members] for line in problem.floating())
            volts = (v_row, v_column)
            conduct = still_conducting(conducts, volts, (row, column), conducts(*volts), at_rest)
            group.network.refuse_islands(*conduct)
            yield members, replace(found, i_cell=i[:, None], rounding=nothing[:, None])
            return
    worst = int(np.argmin(done))
    raise ConvergenceError(
        f"network {members[worst]}: Newton's method left {missing[worst]:.3g} A unbalanced after {STEPS_MAX} steps; "
        "give a larger tolerance, or less steep cells"
    )


_State = tuple[FloatArray, FloatArray, FloatArray]  # node voltages of rows and columns, balanced currents of cells
_Evaluator = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]]


def _evaluator(problem: Problem, members: Indices) -> _Evaluator:
    """Current of the devices of some problems, and its derivatives by the row and (negative) the column voltage."""
    everything = (*problem.lead, problem.rows, problem.columns)
    gated = getattr(problem.devices, "gated", False)

    def spread(v: FloatArray) -> FloatArray:
        full = np.zeros((problem.count, problem.rows, problem.columns))
        full[members] = v
        return full.reshape(everything)

    def evaluate(v_row: FloatArray, v_column: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        if gated:
            results = problem.devices.current(spread(v_row), spread(v_column))
        else:
            i, slope = problem.devices.current(spread(v_row - v_column))
            results = (i, slope, slope)
        i, ga, gb = (np.broadcast_to(x, everything).reshape(problem.count, *everything[-2:])[members] for x in results)
        return i, ga, gb

    return evaluate


def _never_flat(
    conducts: _Evaluator, highest: FloatArray, shape: tuple[int, ...]
) -> tuple[_Evaluator, Sequence[FloatArray]]:
    """The same with slopes that are never zero but where a cell is open; and the slopes at rest, all at zero volts.

    Where laws are flat Newton's method would be told that nothing holds a line. Any slope leads to the same solution,
    for what is left over is judged by the currents.
    """
    volts = np.broadcast_to(np.maximum(highest, LEAST_VOLTS)[:, None, None], shape)
    able, secant = ever_conducting(conducts, volts)
    _, *at_rest = conducts(np.zeros(shape), np.zeros(shape))
    largest = np.max(at_rest, axis=(0, 2, 3))
    largest = np.where(largest > 0, largest, secant.max(axis=(1, 2)))
    own = np.max(at_rest, axis=0)
    least = FLAT * np.where(own > 0, own, np.where(able, largest[:, None, None], 0.0))

    def evaluate(v_row: FloatArray, v_column: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        i, ga, gb = conducts(v_row, v_column)
        return i, np.maximum(ga, least), np.maximum(gb, least)

    return evaluate, at_rest


def _advance(
    evaluate: _Evaluator,
    old: _State,
    new: _State,
    slopes: tuple[FloatArray, FloatArray],
    missing: FloatArray,
    idle: FloatArray,
    allowed: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, tuple[FloatArray, FloatArray, FloatArray], BoolArray]:
    """Go from one state to another, as far as what is missing from balance becomes less, or no more than is allowed.

    Until a step has brought all sources to their voltages `missing` is infinite, and what ends a step is that a cell
    would become much steeper than it is: of conductances too far apart nothing could be solved. The last of what is
    returned says which got there.
    """
    length = np.ones(len(missing))
    for _ in range(HALVINGS_MAX):
        part = length[:, None, None]
        v_row, v_column, balanced = (x + part * (y - x) for x, y in zip(old, new, strict=True))
        conducted = evaluate(v_row, v_column)
        now = np.abs(conducted[0] - balanced).sum(axis=(1, 2))
        noise = np.maximum(1e-13 * np.abs(balanced).sum(axis=(1, 2)), idle * conducted[1].sum(axis=(1, 2)))
        bad = ~(now <= np.maximum((1 - 1e-4 * length) * missing, np.maximum(noise, allowed)))
        bad |= np.any([~(b <= STEEPER * a) for a, b in zip(slopes, conducted[1:], strict=True)], axis=(0, 2, 3))
        if not bad.any():
            break
        length = np.where(bad, length / 2, length)
    return v_row, v_column, balanced, now, conducted, length == 1.0
