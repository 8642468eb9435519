"""Which lines are held by a source, directly or through cells that conduct; what is not has no voltage to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.network_errors import NetworkError
from sim_backends.array.network_problem import Problem

LEAST_VOLTS = 1e-3  # what cells are tried with where no source has more
STILL = 1e-6  # of its slope at rest: with less, a cell counts as switched off
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


def still_conducting(slopes: Sequence[FloatArray], at_rest: Sequence[FloatArray]) -> list[BoolArray]:
    """Which cells conduct in a solution, by their slopes (of one or two nodes) there and with all lines at zero volts.

    A law that is flat there leaves the voltage of a line that nothing else holds undetermined, as an open cell would.
    """
    return [(slope > 0) & (slope > STILL * rest) for slope, rest in zip(slopes, at_rest, strict=True)]


def refuse_undetermined(problem: Problem, a_conducts: BoolArray, b_conducts: BoolArray) -> None:
    """Refuse lines that no chain of conducting cells connects to a source: their voltage could be anything.

    A row gets rid of a current through cells that conduct by its voltage (a), a column by those that do by its own (b).
    """
    row, column = problem.floating()
    held_row = np.broadcast_to(~row, (*problem.lead, problem.rows))
    held_column = np.broadcast_to(~column, (*problem.lead, problem.columns))
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
