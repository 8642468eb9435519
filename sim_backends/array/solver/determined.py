"""Which lines are held by a source, directly or through cells that conduct; what is not has no voltage to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.solver.errors import NetworkError
from sim_backends.array.solver.problem import Problem

LEAST_VOLTS = 1e-3  # what cells are tried with where no source has more
STILL = 1e-6  # of its slope at rest: with less, a cell counts as switched off
FURTHER = 4  # steps of Newton's method
Law = Callable[[FloatArray, FloatArray], Sequence[FloatArray]]
"""Current of cells, and its slopes by the voltages of the row and (negative) of the column node."""


def ever_conducting(law: Law, volts: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Which cells conduct at rest or with `volts` at one node and ``-volts`` at the other, and their mean conductance.

    Cells that do not are open; others may be flat somewhere (a transistor that is off, a plateau of a table).
    """
    nothing = np.zeros(volts.shape)
    with np.errstate(all="ignore"):
        at_rest, forth, back = law(nothing, nothing), law(volts, -volts), law(-volts, volts)
        secant = np.maximum(np.abs(forth[0]), np.abs(back[0])) / (2 * volts)
    able = ~(secant == 0) | np.any([slope > 0 for slope in at_rest[1:]], axis=0)
    return able, np.where(np.isfinite(secant), secant, 0.0)


def still_conducting(
    law: Law,
    volts: tuple[FloatArray, FloatArray],
    floats: tuple[BoolArray, BoolArray],
    found: Sequence[FloatArray],
    at_rest: Sequence[FloatArray],
) -> tuple[BoolArray, BoolArray]:
    """Which cells conduct in a solution, by the voltage of their row and by that of their column.

    A law that is flat there leaves the voltage of a line that nothing else holds undetermined, as an open cell would.
    Where a law goes flat Newton's method comes nearer for ever, by half of what is left each time; so a cell must
    conduct as well a few such steps further on, wherever the method has stopped.

    Parameters
    ----------
    law
        Of the cells, all given below as ``[problem, row, column]``.
    volts
        Voltages of the row nodes and of the column nodes (V).
    floats
        Rows and columns without a source, as ``Problem.floating`` tells, ``[..., line]``.
    found
        Current (A) and slopes (S) there.
    at_rest
        Slopes with all lines at zero volts (S).
    """

    def conducting(slopes: Sequence[FloatArray]) -> tuple[BoolArray, BoolArray]:
        pairs = ((slopes[k], at_rest[k]) for k in (0, -1))
        by_row, by_column = ((slope > 0) & (slope > STILL * rest) for slope, rest in pairs)
        return by_row, by_column

    i, *slopes = found
    here = conducting(slopes)
    if all(np.all(slope >= rest) for slope, rest in zip(slopes, at_rest, strict=True)):
        return here  # nowhere near flat
    moved = []
    for v, floating, slope, left_over, across in zip(
        volts, floats, (slopes[0], slopes[-1]), (-i, i), (2, 1), strict=True
    ):
        left, able = left_over.sum(axis=across), slope.sum(axis=across)
        step = np.divide(FURTHER * left, able, out=np.zeros_like(left), where=floating & (able > 0))
        moved.append(v + np.expand_dims(step, across))
    further = conducting(law(*moved)[1:])
    return here[0] & further[0], here[1] & further[1]


def refuse_undetermined(problem: Problem, a_conducts: BoolArray, b_conducts: BoolArray) -> None:
    """Refuse lines that no chain of conducting cells connects to a source: their voltage could be anything.

    A row gets rid of a current through cells that conduct by its voltage (a), a column by those that do by its own (b).
    """
    row, column = problem.floating()
    held_row, held_column = ~row, ~column
    if np.all(held_row.any(axis=-1) | held_column.any(axis=-1)) and np.all(a_conducts) and np.all(b_conducts):
        return  # every cell joins its row and its column
    shape = (*problem.lead, problem.rows, problem.columns)
    by_row, by_column = (np.broadcast_to(conducts, shape) for conducts in (a_conducts, b_conducts))
    while True:
        new_column = held_column | np.any(by_column & held_row[..., :, None], axis=-2)
        new_row = held_row | np.any(by_row & new_column[..., None, :], axis=-1)
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
