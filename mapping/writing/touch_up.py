"""Writing a whole array: in which order, what may be written at once, and passes until all of it is in tolerance.

Every write disturbs other cells, so an array is only done when a read of *all* of it, after the last pulse, finds every
cell in its band. What is out is written again, pass after pass, until that is so or the passes are used up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.writing.checked_fields import check_numbers
from mapping.writing.converge import MAY_TRY_AGAIN, Outcome
from sim_backends.array.circuit.bias import HALF, THIRD

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Schemes that write one cell without writing others as strongly: what is held at ground or left floating is no scheme
#: for writing.
WRITING = {scheme.name: scheme for scheme in (HALF, THIRD)}


class SchemeError(ValueError):
    """A bias scheme does not do what is asked of it."""


@dataclass(frozen=True)
class Passes:
    """How long one tries.

    Attributes
    ----------
    passes_max
        Passes over the array, the first writing included. The default device needs 4 to 6 at 8 x 8
        (docs/models/tio2.md); more than 12 have not been seen to help.
    tries_max
        Passes in which a cell may be given up before it is left alone for good (assumed). One that is stuck costs a
        whole ramp each time, and disturbs its lines.
    """

    passes_max: int = 12
    tries_max: int = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.passes_max < 1 or self.tries_max < 1:
            raise ValueError(f"passes_max {self.passes_max} and tries_max {self.tries_max} must be at least 1")


#: The defaults.
PASSES = Passes()


class TouchUp:
    """Which cells the next pass is to write, and what became of each in the end. Arrays of any shape.

    Parameters
    ----------
    goal
        Target of each cell (S), NaN where there is none.
    tolerance
        Half-width of each band, relative.
    writable
        Cells that are worth a pulse.
    rules
        When to stop.
    """

    def __init__(self, goal: FloatArray, tolerance: FloatArray, writable: BoolArray, rules: Passes) -> None:
        self.goal, self.tolerance, self.writable, self.rules = goal, tolerance, writable, rules
        self.passes = 0
        self._failures = np.zeros(goal.shape, dtype=np.int64)
        self._last = np.full(goal.shape, int(Outcome.GOING), dtype=np.int8)
        self._peak = np.zeros(goal.shape)

    @property
    def wanted(self) -> BoolArray:
        """Cells that have a target."""
        return ~np.isnan(self.goal)

    def within(self, read: FloatArray) -> BoolArray:
        """Cells that are in their band, by a read of all (S)."""
        return np.abs(read - self.goal) <= self.tolerance * self.goal  # False where there is no goal

    def next_pass(self, read: FloatArray) -> BoolArray:
        """Cells to write now, by a read of all; none at all when the work is over."""
        wrong = self.wanted & self.writable & ~self.within(read)
        wrong &= np.isin(self._last, [Outcome.GOING, *MAY_TRY_AGAIN]) & (self._failures < self.rules.tries_max)
        if self.passes == self.rules.passes_max:
            return np.zeros_like(wrong)
        self.passes += bool(wrong.any())
        return wrong

    def strength(self, read: FloatArray) -> FloatArray:
        """What puts cells early in a touch-up pass, by a read of all: the amplitudes that they have needed before.

        A few cells need strong pulses for a small correction; written late they would undo their neighbours in every
        pass. Cells that have not been pulsed come last, by how far they are off.
        """
        change = np.minimum(np.abs(np.nan_to_num(read, posinf=1.0) - self.goal) / self.goal, 1.0)
        return np.where(self._peak > 0, 1 + self._peak, np.nan_to_num(change))

    def note(self, cells: BoolArray, outcome: NDArray[np.int8], peak: FloatArray) -> None:
        """What became of the cells of a pass, each by itself, and the largest amplitude of each (V, no sign)."""
        self._peak[cells] = np.maximum(peak[cells], self._peak[cells] * (peak[cells] == 0))
        self._last[cells] = outcome[cells]
        self._failures[cells] += outcome[cells] != Outcome.REACHED

    def outcome(self, read: FloatArray) -> NDArray[np.int8]:
        """`Outcome` of every cell by the last read of all; `GOING` where there is no target."""
        missed = np.where(np.isin(self._last, [Outcome.GOING, Outcome.REACHED]), Outcome.DRIFTED, self._last)
        missed = np.where(self.writable, missed, Outcome.DEFECT)
        found = np.where(self.within(read), Outcome.REACHED, missed)
        return np.where(self.wanted, found, Outcome.GOING).astype(np.int8)


def write_order(cells: BoolArray, late: FloatArray, early: FloatArray) -> IntArray:
    """Cells in the order of writing, ``[..., event]``, counted along the last axis; -1 for nothing.

    A first pass has what is sensitive `late`, since it is disturbed by what comes after it, and among equals what has
    most to change `early`. A touch-up pass has strong pulses early, see `TouchUp.strength`.

    Parameters
    ----------
    cells
        Cells to write, ``[..., cell]``.
    late
        Ascending, in any unit, ``[..., cell]``.
    early
        Descending among those that are equal in `late`.
    """
    shape = cells.shape
    keys = [-early, late, ~cells]  # the last one counts most
    order = np.lexsort([np.broadcast_to(key, shape) for key in keys], axis=-1)
    return np.where(np.take_along_axis(cells, order, axis=-1), order, -1).astype(np.int64)


def later_disturbs(order: IntArray, shape: tuple[int, int], scheme: str) -> IntArray:
    """How many cells that are written later than a cell put part of their amplitude on it, ``[cell]``.

    Parameters
    ----------
    order
        Cells of one array in the order of writing, ``[event]``; -1 for nothing.
    shape
        Rows and columns of the array.
    scheme
        ``"V/2"``: the cells on its row and column. ``"V/3"``: all.
    """
    check_writing(scheme)
    order = order[order >= 0]
    count = np.zeros(shape[0] * shape[1], dtype=np.int64)
    row, column = order // shape[1], order % shape[1]
    for event, cell in enumerate(order):
        after = slice(event + 1, None)
        on_line: BoolArray = (row[after] == row[event]) | (column[after] == column[event])
        count[cell] = np.count_nonzero(on_line) if scheme == HALF.name else len(order) - event - 1
    return count


def check_writing(scheme: str) -> None:
    """Refuse a scheme that cannot write.

    Raises
    ------
    SchemeError
        Naming those that can.
    """
    if scheme not in WRITING:
        raise SchemeError(
            f"bias scheme {scheme!r} does not write: other cells of the lines would see the whole amplitude, or sneak "
            f"paths would decide what they see; choose {' or '.join(WRITING)}"
        )


def may_be_written_at_once(cells: BoolArray, scheme: str) -> bool:
    """Whether a scheme puts the whole amplitude on these cells ``[row, column]`` at once, and on no others.

    Selected lines cross at the cells of all selected rows and columns; so the cells must fill the rectangle of their
    rows and columns. The cells of one line always do.
    """
    check_writing(scheme)
    return bool(np.array_equal(cells, np.outer(cells.any(axis=1), cells.any(axis=0))))
