"""What is to be solved: devices, lines and sources of an array in one shape, checked; and what a solution holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import BoolArray, Conducting, DeviceLimitError, FloatArray, cell_name
from sim_backends.array.solver.errors import ADVICE, ConvergenceError, NetworkError

SIDES = ("left", "right", "top", "bottom")
LEFT, RIGHT, TOP, BOTTOM = range(4)
NO_RESISTANCE = 0.0
ROUNDING = 4e-16  # of all currents together: what their sum may miss
_FLOAT64 = np.dtype(np.float64)
_NUMBER = (float, int, np.floating)
OUT_OF_BALANCE = np.array([1.0, 1.0, -1.0, -1.0])  # columns count out of the array


@dataclass(frozen=True)
class Lines:
    """Resistance of the lines of an array (Ohm).

    Attributes
    ----------
    r_row, r_column
        One segment of a row or column: a number, or one for every segment, ``[row, columns + 1]`` (from the left
        terminal to the right one) and ``[rows + 1, column]`` (from the top one to the bottom one). Zero is a perfect
        line, infinity a break.
    r_contact
        Between each terminal and its line, in series with the first segment.

    Raises
    ------
    NetworkError
        For a resistance that is negative or no number, naming the segment; for a contact that is not finite.
    """

    r_row: float | FloatArray = 0.0
    r_column: float | FloatArray = 0.0
    r_contact: float = 0.0

    def __post_init__(self) -> None:
        for name in ("r_row", "r_column", "r_contact"):
            r = real_numbers(getattr(self, name), name, "Ohm").copy()  # of its own: not what a caller may change
            object.__setattr__(self, name, r if r.ndim else float(r))
            wrong = ~(r >= 0)
            if wrong.any():
                index = tuple(int(part) for part in np.argwhere(wrong)[0])
                place = f" at {list(index)}" if index else ""
                raise NetworkError(f"{name}{place} is {r[index]:g} Ohm: give 0 or more")
        if isinstance(self.r_contact, np.ndarray) or self.r_contact == np.inf:
            raise NetworkError(
                f"r_contact is {self.r_contact}: give one finite number; a `Drive` has a resistance for each line, and "
                "a voltage of NaN leaves a line unconnected"
            )


@dataclass(frozen=True)
class Drive:
    """Sources at one side: voltages (V; NaN = not connected) and their resistance (Ohm), both ``[..., line]``."""

    voltage: ArrayLike
    resistance: ArrayLike = 0.0


class Side:
    """Sources at one side of an array: voltages with all leading axes, and their resistance."""

    __slots__ = ("resistance", "voltage")

    def __init__(self, voltage: FloatArray, resistance: float | FloatArray) -> None:
        self.voltage = voltage
        self.resistance = resistance

    @classmethod
    def of(cls, given: ArrayLike | Drive | None, side: str, line: str, count: int) -> Side | None:
        """Check what a caller gave for one side; None if nothing is connected there."""
        if given is None:
            return None
        resistance: float | FloatArray = NO_RESISTANCE
        if isinstance(given, Drive):
            resistance = _checked(given.resistance, f"source resistances at the {side}", line, count, "Ohm")
            wrong = ~(resistance >= 0)
            if np.any(wrong):
                where = int(np.argwhere(wrong)[0][-1])
                raise NetworkError(
                    f"the source of {line} {where} at the {side} has a resistance of {resistance[wrong][0]:g} Ohm; "
                    "give 0 or more"
                )
            given = given.voltage
        return cls(_checked(given, f"voltages at the {side}", line, count, "V"), resistance)

    @property
    def connected(self) -> BoolArray:
        """Whether there is a source, ``[..., line]``."""
        there: BoolArray = ~np.isnan(self.voltage) & np.isfinite(self.resistance)
        return there


def real_numbers(given: ArrayLike, what: str, unit: str) -> FloatArray:
    """What a caller gave as float64, the caller's own array where it is one already.

    Raises
    ------
    NetworkError
        For anything that is no array of real numbers, and for masked values, which have none.
    """
    if type(given) is np.ndarray and given.dtype is _FLOAT64:
        return given
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise NetworkError(
            f"{what} have masked values: give all of them numbers in {unit}; NaN leaves a line unconnected"
        )
    try:
        values = np.asarray(given)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"{what} are no array: {error}") from None
    if values.dtype.kind not in "fiu":
        raise NetworkError(f"{what} are of type {values.dtype}: give real numbers in {unit}")
    return values if values.dtype is _FLOAT64 else values.astype(np.float64)


def _checked(given: ArrayLike, what: str, line: str, count: int, unit: str) -> FloatArray:
    values = real_numbers(given, what, unit)
    if values.ndim == 0:
        return np.full(count, values)
    values = values.copy()  # the solution keeps them: not what a caller may change
    if values.shape[-1] not in (1, count):
        raise NetworkError(f"{what} have shape {values.shape}: the last axis must be the {count} {line}s")
    if values.shape[-1] != count:
        return np.broadcast_to(values, (*values.shape[:-1], count))
    return values


@dataclass(slots=True)
class Problem:
    """One or many networks, checked as far as no arithmetic is needed.

    Attributes
    ----------
    devices, g
        Nonlinear devices, or conductances ``[..., row, column]`` (S); the other one is None.
    rows, columns, lead
        Shape of the array, and the leading axes of the result.
    sides
        Sources at left, right, top and bottom; None where nothing is connected.
    lines, tolerance, near
        As given.
    """

    devices: Any
    g: FloatArray | None
    rows: int
    columns: int
    lead: tuple[int, ...]
    sides: tuple[Side | None, Side | None, Side | None, Side | None]
    lines: Lines
    tolerance: float
    near: Solution | None = None

    @classmethod
    def of(
        cls,
        devices: ArrayLike | Conducting,
        sources: tuple[ArrayLike | Drive | None, ...],
        lines: Lines,
        tolerance: float,
        near: Solution | None = None,
    ) -> Problem:
        """Check what a caller gave and bring it into one shape; sources are left, right, top, bottom."""
        nonlinear, g, shape = _devices(devices)
        rows, columns = shape[-2:]
        if not isinstance(tolerance, _NUMBER) or not 1e-13 <= float(tolerance) < 1:
            raise NetworkError(f"tolerance {tolerance!r}: give a relative error from 1e-13 up to below 1")
        sides = (
            Side.of(sources[LEFT], "left", "row", rows),
            Side.of(sources[RIGHT], "right", "row", rows),
            Side.of(sources[TOP], "top", "column", columns),
            Side.of(sources[BOTTOM], "bottom", "column", columns),
        )
        leads = [shape[:-2]]
        for side in sides:
            if side is not None:
                leads.append(side.voltage.shape[:-1])
                if side.resistance is not NO_RESISTANCE:
                    leads.append(np.shape(side.resistance)[:-1])
        if len(leads) == 1:
            raise NetworkError("no line is driven or grounded: give left, right, bottom or top")
        try:
            lead = np.broadcast_shapes(*leads) if any(leads) else ()
        except ValueError:
            given = [f"{name} {side.voltage.shape}" for name, side in zip(SIDES, sides, strict=True) if side]
            raise NetworkError(f"leading axes do not broadcast: devices {shape}, {', '.join(given)}") from None
        if 0 in lead:
            raise NetworkError(f"leading axes {lead} hold no array: give at least one")
        return cls(nonlinear, g, rows, columns, lead, sides, lines, float(tolerance), near)

    @property
    def count(self) -> int:
        """Number of networks."""
        return math.prod(self.lead)

    def floating(self) -> tuple[BoolArray, BoolArray]:
        """Rows ``[..., row]`` and columns ``[..., column]`` without any source."""
        row = np.ones(self.rows, dtype=bool)
        column = np.ones(self.columns, dtype=bool)
        for number, side in enumerate(self.sides):
            if side is not None and number < TOP:
                row = row & ~side.connected
            elif side is not None:
                column = column & ~side.connected
        return np.broadcast_to(row, (*self.lead, self.rows)), np.broadcast_to(column, (*self.lead, self.columns))

    def refuse_beyond(self, v_cell: FloatArray) -> None:
        """Refuse a solution with cell voltages ``[problem, row, column]`` (V) at which a device's law is not known.

        Raises
        ------
        NetworkError
            Naming the cell.
        """
        refuse = getattr(self.devices, "refuse_beyond", None)
        if refuse is not None:
            try:
                refuse(v_cell.reshape(*self.lead, self.rows, self.columns))
            except DeviceLimitError as error:
                raise NetworkError(f"the solution is beyond what is known of a device: {error}") from None

    def highest(self) -> FloatArray:
        """Largest voltage of the sources of each network, ``[problem]`` (V)."""
        out = np.zeros(self.lead)
        for side in self.sides:
            if side is not None:
                out = np.maximum(out, np.where(side.connected, np.abs(side.voltage), 0.0).max(axis=-1))
        return out.reshape(self.count)


def _devices(devices: ArrayLike | Conducting) -> tuple[Any, FloatArray | None, tuple[int, ...]]:
    """Nonlinear devices or conductances, and their shape."""
    g: FloatArray | None = None
    nonlinear: Any = None
    if callable(getattr(devices, "current", None)):
        nonlinear = devices
        shape = tuple(nonlinear.shape)
    else:
        g = np.ascontiguousarray(real_numbers(cast(ArrayLike, devices), "conductances", "siemens"))
        g = g if g.flags.writeable else g.copy()  # compiled loops are made for writable arrays
        shape = g.shape
    if len(shape) < 2 or 0 in shape[-2:]:
        raise NetworkError(f"devices have shape {shape}: give [..., row, column] with at least one of each")
    return nonlinear, g, shape


class Solution:
    """What was found, with all that it needs; cell voltages and currents only if they were asked for.

    A current is zero where no source is connected.
    """

    __slots__ = ("_columns", "_i_cell", "_rows", "_sides", "_v_cell", "currents", "lead", "state")

    def __init__(
        self, problem: Problem, currents: FloatArray, v_cell: FloatArray | None = None, i_cell: FloatArray | None = None
    ) -> None:
        self.lead = problem.lead
        """Leading axes of all results."""
        self._rows, self._columns, self._sides = problem.rows, problem.columns, problem.sides
        self.currents = currents  # [problem, side, line]
        self._v_cell, self._i_cell = v_cell, i_cell  # [problem, ...]
        self.state: tuple[FloatArray, FloatArray] | None = None  # of Newton's method, and its terminals

    @property
    def i_left(self) -> FloatArray:
        """Current from each source at the left into its row, ``[..., row]`` (A)."""
        return self._side(LEFT, self._rows)

    @property
    def i_right(self) -> FloatArray:
        """Current from each source at the right into its row, ``[..., row]`` (A)."""
        return self._side(RIGHT, self._rows)

    @property
    def i_top(self) -> FloatArray:
        """Current out of each column into its source at the top, ``[..., column]`` (A)."""
        return self._side(TOP, self._columns)

    @property
    def i_bottom(self) -> FloatArray:
        """Current out of each column into its source at the bottom, ``[..., column]`` (A)."""
        return self._side(BOTTOM, self._columns)

    @property
    def v_cell(self) -> FloatArray:
        """Voltage of every cell, row minus column node, ``[..., row, column]`` (V)."""
        return self._per_cell(self._v_cell)

    @property
    def i_cell(self) -> FloatArray:
        """Current of every cell, from row to column, ``[..., row, column]`` (A)."""
        return self._per_cell(self._i_cell)

    @property
    def power(self) -> FloatArray:
        """Power delivered by all sources, ``[...]`` (W); what is lost in their resistance is included."""
        total = np.zeros(self.lead)
        for side, name, sign in zip(self._sides, SIDES, (1.0, 1.0, -1.0, -1.0), strict=True):
            if side is not None:
                current = getattr(self, f"i_{name}")
                total += sign * np.sum(np.where(side.connected, side.voltage, 0.0) * current, axis=-1)
        return total

    def _side(self, side: int, lines: int) -> FloatArray:
        return self.currents[:, side, :lines].reshape(*self.lead, lines)

    def _per_cell(self, values: FloatArray | None) -> FloatArray:
        if values is None:
            raise AttributeError("cell voltages and currents were not asked for: solve(..., cells=True)")
        return values.reshape(*self.lead, self._rows, self._columns)


def refuse_unbalanced(
    problem: Problem, currents: FloatArray, i_cell: FloatArray | None = None, nothing: FloatArray | float = 0.0
) -> None:
    """Check a solution by Kirchhoff's law: of the whole array, and of every line if the cells are known.

    Parameters
    ----------
    currents
        Of the terminals, ``[problem, side, line]`` (A).
    i_cell
        ``[..., row, column]`` (A).
    nothing
        Currents that are indistinguishable from none, ``[problem]`` (A). They and what rounding of the sums may miss
        are allowed beside the tolerance.

    Raises
    ------
    ConvergenceError
        If more is missing, or a current is no number.
    """
    size, rows, columns = np.abs(currents), problem.rows, problem.columns
    rounding, missing = ROUNDING * size.sum(axis=(1, 2)), np.abs(np.einsum("psl,s->p", currents, OUT_OF_BALANCE))
    if i_cell is not None:
        cells = i_cell.reshape(problem.count, rows, columns)
        with np.errstate(invalid="ignore"):  # currents that are no numbers are refused below
            of_row = currents[:, :TOP, :rows].sum(axis=1) - cells.sum(axis=2)
            of_column = currents[:, TOP:, :columns].sum(axis=1) - cells.sum(axis=1)
        of_lines = np.maximum(np.abs(of_row).max(axis=1), np.abs(of_column).max(axis=1))
        missing, rounding = np.maximum(missing, of_lines), rounding + ROUNDING * np.abs(cells).sum(axis=(1, 2))
    wrong = np.flatnonzero(~(missing <= problem.tolerance * size.max(axis=(1, 2)) + rounding + nothing))
    if wrong.size:
        raise ConvergenceError(
            f"network {wrong[0]}: Kirchhoff's law is missed by {missing[wrong[0]]:.3g} A, of a largest terminal "
            f"current of {size[wrong[0]].max():.3g} A; {ADVICE}"
        )


def infinite_voltage(side: str, line: int) -> NetworkError:
    """The error for a source of infinite voltage."""
    name = "row" if side in SIDES[:TOP] else "column"
    return NetworkError(f"{name} {line} is driven with an infinite voltage at the {side}; NaN leaves it unconnected")


def bad_cell(g: FloatArray) -> NetworkError:
    """The error for conductances of which at least one is none."""
    index = tuple(int(part) for part in np.argwhere(~((g >= 0) & (g < np.inf)))[0])
    value = g[index]
    if value == np.inf:
        return NetworkError(f"cell at {cell_name(index)} is a short of infinite conductance: give it a finite one")
    return NetworkError(f"cell at {cell_name(index)} has a conductance of {value:g} S")
