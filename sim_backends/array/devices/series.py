"""Two two-terminal laws in series: a device with its selector, or with a resistor.

The laws may be steep: a selector of 20 per volt passes a current at 2 V that is 1e15 times what its conductance at zero
volts would give. Newton's method on the current balance of the inner node then moves by 1/20 V a step; on the
logarithms of both currents it gets there in a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, prod
from typing import Protocol, cast

import numpy as np
from numba import njit

from sim_backends.array.devices.interface import Conducting, FloatArray

STEPS_MAX = 300
STEPS_FREE = 20  # after so many, every third step halves the bracket, so that a pathological law ends as well
PART = 512  # cells computed at a time
ERROR_MAX = 1e-14  # of the current, relative
LN_2 = log(2.0)
SQRT_HALF_BITS = int(np.float64(0.5**0.5).view(np.int64))


class SeriesSolverError(RuntimeError):
    """The voltage between two laws in series was not found."""


class _ProportionalToConductance(Protocol):
    def derivative_to_conductance(self, v: FloatArray) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class Series:
    """Two laws in series; the voltage between them follows from their currents being equal.

    Attributes
    ----------
    first
        The law on the row side.
    second
        The law on the column side. Shapes broadcast against each other.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Notes
    -----
    Both have to pass no current at zero volts, and never less at more. The balance at the inner node is solved for all
    cells together by Newton's method, on the currents and on their logarithms, whichever goes further, inside of a
    bracket. The relative error is at most 1e-13 of the current and 1e-6 of its derivative.
    """

    first: Conducting
    second: Conducting

    def __post_init__(self) -> None:
        try:
            np.broadcast_shapes(self.first.shape, self.second.shape)
        except ValueError:
            raise ValueError(
                f"laws in series of shapes {self.first.shape} and {self.second.shape} do not fit together"
            ) from None

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return np.broadcast_shapes(self.first.shape, self.second.shape)

    @property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``; zero if that of either is."""
        g1, g2 = np.broadcast_arrays(_low_field(self.first), _low_field(self.second))
        return g1 * _share(g1, g2)

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative ``g1 g2 / (g1 + g2)`` (S) at cell voltages ``[..., row, column]`` (V).

        Raises
        ------
        SeriesSolverError
            If a cell did not settle.
        """
        i, slope, _, _ = self._solve(v)
        return i, slope

    def voltage_of_first(self, v: FloatArray) -> FloatArray:
        """Voltage across `first` (V) at cell voltages ``[..., row, column]`` (V).

        Raises
        ------
        SeriesSolverError
            If a cell did not settle.
        """
        return self._solve(v)[2]

    def refuse_beyond(self, v: FloatArray) -> None:
        """Refuse a solution with cell voltages ``[..., row, column]`` (V) at which a law of the two is not known.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell, with the voltage across the law that ends there.
        """
        first = self._solve(v)[2]
        for law, across in ((self.first, first), (self.second, np.asarray(v, dtype=np.float64) - first)):
            refuse = getattr(law, "refuse_beyond", None)
            if refuse is not None:
                refuse(across)

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """``dI/dg`` (V) to the conductance of `first` at cell voltages ``[..., row, column]`` (V).

        `first` has to be a law that offers this method itself.

        Raises
        ------
        SeriesSolverError
            If a cell did not settle.
        """
        _, _, u, share = self._solve(v)
        return share * cast(_ProportionalToConductance, self.first).derivative_to_conductance(u)

    def _solve(self, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Current, its slope, voltage across `first`, and what share of a change of voltage `first` takes."""
        v = np.asarray(v, dtype=np.float64)
        try:
            shape = np.broadcast_shapes(v.shape, self.shape)
        except ValueError:
            raise ValueError(f"cell voltages of shape {v.shape} do not fit devices of shape {self.shape}") from None
        work = np.empty((6, prod(shape)))  # one piece of memory: the allocator then keeps it for the next call
        v_, u, w, low, high, _ = work
        v_.reshape(shape)[...] = v
        # exact for ohmic laws and at small voltages
        with np.errstate(invalid="ignore"):  # infinite voltages give currents that are no numbers, without a warning
            np.multiply(v, _share(_low_field(self.first), _low_field(self.second)), out=u.reshape(shape))
            np.subtract(v_, u, out=w)
        low[:], high[:] = -inf, inf
        for step in range(STEPS_MAX):
            laws = (*self.first.current(u.reshape(shape)), *self.second.current(w.reshape(shape)))
            i1, g1, i2, g2 = (_flat(array) for array in laws)
            if not _improve(i1, g1, i2, g2, v_, u, w, low, high, step > STEPS_FREE and step % 3 == 0):
                break
        else:
            raise SeriesSolverError(
                f"laws in series at up to {np.max(np.abs(v)):.3g} V did not settle in {STEPS_MAX} steps; are both of "
                "them rising, and zero at zero volts?"
            )
        i, slope, share = work[3:]
        _combine(i1, g1, i2, g2, u, i, slope, share)
        return i.reshape(shape), slope.reshape(shape), u.reshape(shape), share.reshape(shape)


def _low_field(law: Conducting) -> FloatArray:
    known: FloatArray | None = getattr(law, "low_field", None)
    return law.current(np.zeros(law.shape))[1] if known is None else known


def _share(g1: FloatArray, g2: FloatArray) -> FloatArray:
    """What the first of two conductances takes of a voltage: ``g2 / (g1 + g2)``, half of it if both are open."""
    total = g1 + g2
    return np.divide(g2, total, out=np.full(np.shape(total), 0.5), where=total > 0)


def _flat(array: FloatArray) -> FloatArray:
    """One axis, and writable: what the compiled loops are specialised for."""
    flat = np.ravel(array)
    return flat if flat.flags.writeable else flat.copy()


@njit(cache=True, fastmath={"contract"})
def _log_ratio(a: float, b: float) -> float:
    """``ln(a / b)`` of positive numbers to nine digits: enough for a step, and a few vector instructions."""
    bits = np.float64(a / b).view(np.int64)
    exponent = (bits - np.int64(SQRT_HALF_BITS)) >> np.int64(52)
    mantissa = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    t = (mantissa - 1.0) / (mantissa + 1.0)
    t2 = t * t
    return exponent * LN_2 + 2.0 * t * (1.0 + t2 * (1 / 3 + t2 * (1 / 5 + t2 * (1 / 7 + t2 / 9))))


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _improve(
    i1: FloatArray,
    g1: FloatArray,
    i2: FloatArray,
    g2: FloatArray,
    v: FloatArray,
    u: FloatArray,
    w: FloatArray,
    low: FloatArray,
    high: FloatArray,
    halve: bool,
) -> int:
    """Move the voltages u (across the first law) and w (the second) of cells that have not settled; how many those are.

    ``low`` and ``high`` hold u between them, as magnitudes.
    """
    # results go through one array at constant distances: the compiler then knows that they do not overlap, and
    # makes vector instructions of the loop
    part = np.empty(3 * PART)
    moving = 0
    for start in range(0, v.shape[0], PART):
        p = slice(start, min(start + PART, v.shape[0]))
        i1_p, g1_p, i2_p, g2_p = i1[p], g1[p], i2[p], g2[p]
        v_p, u_p, low_p, high_p = v[p], u[p], low[p], high[p]
        count = v_p.shape[0]
        for cell in range(count):
            size = abs(v_p[cell])
            sign = 1.0 if v_p[cell] >= 0.0 else -1.0
            a, b = sign * i1_p[cell], sign * i2_p[cell]
            x, below, above, moved = _next(
                a, g1_p[cell], b, g2_p[cell], size, sign * u_p[cell], low_p[cell], high_p[cell], halve
            )
            part[cell], part[PART + cell], part[2 * PART + cell] = sign * x, below, above
            moving += moved
        u[p] = part[:count]
        low[p] = part[PART : PART + count]
        high[p] = part[2 * PART : 2 * PART + count]
        for cell in range(count):
            w[start + cell] = v_p[cell] - part[cell]
    return moving


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _next(
    a: float, g1: float, b: float, g2: float, size: float, x: float, low: float, high: float, halve: bool
) -> tuple[float, float, float, int]:
    """The next voltage x of the first law, between 0 and `size`, its bracket, and whether it has moved at all.

    Where the step on currents a and b, ``(b - a) / (g1 + g2)``, and the step on their logarithms differ, the longer one
    is right more often: the first is exact for ohmic laws, the second for exponential ones, and each falls short where
    it is not.
    """
    step = (b - a) / (g1 + g2)
    log_ratio = _log_ratio(b, a)
    log_step = log_ratio * a * b / (g1 * b + g2 * a)
    more = max(a, b)
    both = (min(a, b) > 0.0) & (more < inf)
    # of the current where the tangents meet: a steep law's current changes by no more than its slope squared over it
    error = (g1 * step) * (g2 * step)
    near = both & (abs(log_ratio) < 0.5) & (error <= ERROR_MAX * more * more)
    # the last digit; equal is also where both are infinite, or flat
    settled = near | (abs(step) <= 4e-16 * size) | (a == b) | (size == inf) | (size != size)
    below = max(low, x) if a < b else low
    above = high if a < b else min(high, x)
    # an end of the range may be the solution, but nothing that was tried before
    new = min(max(x + (log_step if both & (abs(log_step) > abs(step)) else step), 0.0), size)
    middle = 0.5 * (max(below, 0.0) + min(above, size))
    new = middle if halve else (new if (new > below) & (new < above) else middle)
    return x if settled else new, below, above, 0 if settled else 1


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(
    i1: FloatArray,
    g1: FloatArray,
    i2: FloatArray,
    g2: FloatArray,
    u: FloatArray,
    i: FloatArray,
    slope: FloatArray,
    share: FloatArray,
) -> None:
    """Where the tangents of both laws meet: the last Newton step, and what makes rounding of u harmless."""
    for cell in range(i.shape[0]):
        total = g1[cell] + g2[cell]
        if total > 0.0 and total < inf:
            share[cell] = g2[cell] / total
            u[cell] += (i2[cell] - i1[cell]) / total
            i[cell] = i1[cell] * share[cell] + i2[cell] * (g1[cell] / total)
            slope[cell] = g1[cell] * share[cell]
        else:  # flat, and then equal; or infinite; or not a number
            share[cell] = 0.5
            i[cell] = 0.5 * (i1[cell] + i2[cell])
            slope[cell] = total
