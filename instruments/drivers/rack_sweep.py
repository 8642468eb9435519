"""How a rack biases a passive array for the current-voltage curve of one cell: V/3, held by all four outputs.

The column of the cell is at V and its row at 0 V, from the two channels of the unit; all other rows are at 2V/3 and all
other columns at V/3, from the two outputs of the generator. So no other cell sees more than V/3 in either direction,
which is the least that is possible. Two things have to be made good:

* An output of the generator has 50 Ohm, and what the other cells draw takes a good part of its voltage. As all cells
  are read before, what it takes is known, and added to the level.
* The current of the row is that of the cell and of the other cells of the row at V/3. These are measured alone before,
  with the column of the cell on ground, and subtracted. Currents along the lines are others then, and shift V/3 by a
  few percent: how much is measured at a voltage that reads, with all lines biased and the cell at 0 V.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instruments.roles.interfaces import LimitError, Pulser, SourceMeter, SweptCell

FloatArray = NDArray[np.float64]

SOFTEST = 2.0
"""Largest product of the generator's resistance and the conductance of all other cells (assumed).

At 1, a tenth of error in what the cells carry moves the other lines by 0.03 V for each volt of the sweep.
"""

LEAK_MARGIN = 2.0
"""Limits leave room for so many times what other cells carry by their conductances (assumed)."""

LEAK_POINTS = 8
"""Voltages at which the other cells of the row are measured; in between, lines."""

DRIVE, SENSE = "a", "b"
"""Channels of the source measure unit: one holds a line at the voltage, one measures at 0 V."""

_IN_PLACE = 0.3
"""Voltage of a sweep (V) at which no cell sees more than a read voltage while the swept cell is at 0 V."""


@dataclass(frozen=True)
class SweepBias:
    """Levels of the generator for a sweep of one cell, for each volt across it.

    Attributes
    ----------
    row, column
        The cell.
    rows, columns
        Levels without a load that put all other rows at 2/3 and all other columns at 1/3.
    rows_at_rest
        As `rows`, while the column of the cell is at 0 V.
    row_leak, all_others
        Conductance of the other cells of the row, and of all cells that are not in the column of the cell (S).
    """

    row: int
    column: int
    rows: float
    columns: float
    rows_at_rest: float
    row_leak: float
    all_others: float

    def check(self, peak: float, largest: float) -> None:
        """Refuse a sweep to `peak` (V) for which the generator would have to put out more than twice `largest` (V).

        Raises
        ------
        LimitError
            Saying so.
        """
        level = max(abs(self.rows), abs(self.columns), abs(self.rows_at_rest)) * abs(peak)
        if level > 2 * largest:
            raise LimitError(
                f"cell [{self.row}, {self.column}]: to hold the other lines at thirds of {peak:g} V, the generator "
                f"would have to put out {level:.3g} V, more than twice pulse_limit ({largest:g} V); "
                "take the resistor out of its lines"
            )


def bias_of(g: FloatArray, row: int, column: int, resistance: float) -> SweepBias:
    """Levels for a sweep of cell ``[row, column]``.

    Parameters
    ----------
    g
        Conductance of every cell (S), ``[row, column]``.
    row, column
        The cell.
    resistance
        Of an output of the generator, with what is in its line (Ohm).

    Raises
    ------
    LimitError
        If a cell has no finite conductance, or the other cells draw more than can be made good.
    """
    if not np.isfinite(g).all():
        at = [int(each) for each in np.argwhere(~np.isfinite(g))[0]]
        raise LimitError(f"cell {at} is a short, beside which no curve can be taken")
    g = np.maximum(g, 0.0)
    column_leak = float(np.delete(g[:, column], row).sum())
    row_leak = float(np.delete(g[row], column).sum())
    others = float(np.delete(np.delete(g, row, axis=0), column, axis=1).sum())
    if resistance * others > SOFTEST:
        raise LimitError(
            f"cell [{row}, {column}]: the other cells have {others:.3g} S together, the generator {resistance:g} Ohm: "
            "it cannot hold the other lines. Take the resistor out of its lines and say so (series_resistance), or "
            "RESET the array first"
        )
    return SweepBias(
        row=row,
        column=column,
        rows=(2 + resistance * (others - column_leak)) / 3,
        columns=(1 + resistance * (row_leak - others)) / 3,
        rows_at_rest=(2 + resistance * (others + 2 * column_leak)) / 3,
        row_leak=row_leak,
        all_others=row_leak + others,
    )


def check_steps(voltage: FloatArray) -> None:
    """Refuse voltages that are no sweep.

    Raises
    ------
    LimitError
        If they are not of one sign, rising in size, and at least two.
    """
    size = np.abs(voltage)
    if voltage.ndim != 1 or voltage.size < 2 or not np.isfinite(voltage).all():
        raise LimitError("the voltages of a sweep must be a list of at least two numbers")
    if not ((np.diff(size) > 0).all() and (np.sign(voltage) == np.sign(voltage[-1])).all()):
        raise LimitError("the voltages of a sweep must have one sign, rise in size and begin beyond 0 V")


class CellSweep:
    """One sweep of one cell. Outputs are off before; whoever runs it switches them off after.

    Parameters
    ----------
    smu, pulser
        The instruments.
    route
        Moves the relays for a cell ``(row, column, biased)``; refuses once the rack was stopped.
    bias
        Levels for the cell.
    voltage, compliance, dwell
        As `instruments.roles.interfaces.CellSweeper.sweep` has them.
    """

    def __init__(
        self,
        smu: SourceMeter,
        pulser: Pulser,
        route: Callable[[int, int, bool], None],
        going: Callable[[], None],
        bias: SweepBias,
        voltage: FloatArray,
        compliance: float,
        dwell: float,
    ) -> None:
        self._smu, self._pulser, self._route, self._going = smu, pulser, route, going
        self._bias, self._voltage, self._compliance, self._dwell = bias, voltage, compliance, dwell
        self._peak = float(voltage[-1])

    def run(self) -> SweptCell:
        """Measure what the other cells of the row carry, sweep, measure it again."""
        before = self._alone()
        current, turned, share = self._there_and_back(before)
        after = self._alone()  # a third of the peak may have moved one of them
        current[0] -= share * _at(before, self._voltage)
        current[1] -= share * _at(after, self._voltage)
        change = float(after[1, -1] / before[1, -1] - 1) if before[1, -1] else 0.0
        return SweptCell(self._voltage.copy(), current, turned, change)

    def _alone(self) -> FloatArray:
        """Current of the other cells of the row, ``[2, point]``: voltages across them (V) and currents (A)."""
        bias, third = self._bias, self._peak / 3
        self._route(bias.row, bias.column, False)
        self._smu.switch_on(DRIVE, _room(bias.all_others * third))
        self._smu.switch_on(SENSE, _room(bias.row_leak * third))
        volts = np.linspace(0, third, LEAK_POINTS + 1)
        currents = [0.0] + [-self._smu.read_current(SENSE, DRIVE, float(each)) for each in volts[1:]]
        self._smu.switch_off()
        if not np.isfinite(currents).all():
            raise LimitError(
                f"the other cells of row {bias.row} draw more than {LEAK_MARGIN:g} times what they read with: they "
                "switch at a third of the voltage. Lower it"
            )
        return np.stack([volts, currents])

    def _there_and_back(self, leak: FloatArray) -> tuple[FloatArray, bool, float]:
        """Current of the row ``[2, n]`` (A), whether it turned back, and how much of `leak` is in it."""
        voltage, bias = self._voltage, self._bias
        self._route(bias.row, bias.column, True)
        self._pulser.hold({1: 0.0, 2: 0.0})
        limit = self._compliance + 1.1 * abs(float(leak[1, -1]))
        self._smu.switch_on(SENSE, limit)
        self._smu.switch_on(DRIVE, 3 * limit)  # it also feeds the other cells of the column
        share = self._share_in_place(leak)
        current, turned = np.full((2, voltage.size), np.nan), False
        for at, volts in enumerate(voltage):
            current[0, at] = self._step(float(volts))
            cell = current[0, at] - share * _at(leak, volts)
            turned = not abs(cell) < self._compliance  # written so that NaN turns, too
            if turned:
                break
        for back in range(at - turned, -1, -1):
            current[1, back] = self._step(float(voltage[back]))
        self._smu.hold_voltage(DRIVE, 0.0, SENSE)
        self._pulser.switch_off()
        self._smu.switch_off()
        return current, turned, share

    def _step(self, volts: float) -> float:
        """Current of the row (A) with the cell at a voltage (V); NaN if an output is at its limit."""
        self._going()
        self._pulser.hold({1: self._bias.rows * volts, 2: self._bias.columns * volts})
        current, limited = self._smu.hold_voltage(DRIVE, volts, SENSE, delay=self._dwell)
        return math.nan if limited else -current

    def _share_in_place(self, leak: FloatArray) -> float:
        """What the other cells of the row carry with all lines biased, relative to what they carry alone.

        The cell is at 0 V, and the others of its column see two thirds of a voltage at which they stay as they are.
        """
        self._going()
        volts = math.copysign(min(_IN_PLACE, abs(self._peak)), self._peak)
        self._pulser.hold({1: self._bias.rows_at_rest * volts, 2: self._bias.columns * volts})
        current, limited = self._smu.hold_voltage(DRIVE, 0.0, SENSE)
        self._pulser.hold({1: 0.0, 2: 0.0})
        alone = float(_at(leak, volts))
        return -current / alone if alone and not limited else 1.0


def _room(current: float) -> float:
    """A limit (A) that is not reached unless the other cells carry more than they did, of either sign."""
    return min(max(LEAK_MARGIN * abs(current), 1e-4), 1.0)


def _at(leak: FloatArray, voltage: FloatArray | float) -> FloatArray:
    """Current (A) of the other cells of a row while the swept cell is at `voltage` (V)."""
    return np.asarray(np.interp(np.abs(voltage) / 3, np.abs(leak[0]), leak[1]))
