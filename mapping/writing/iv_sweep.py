"""Current-voltage curves of single cells: what is stepped through, and what a curve tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.writing.checked_fields import check_numbers

FloatArray = NDArray[np.float64]

SWITCHED = 0.1
"""A cell has switched if the current on the way back differs by this share from that on the way there (assumed)."""


class SweepError(ValueError):
    """A setting of a sweep makes no sense; the message names it, and what does."""


@dataclass(frozen=True)
class IVSweep:
    """A loop 0, SET, 0, RESET, 0; defaults of the laboratory (arXiv:2305.18495): 250 points in 10 s.

    Attributes
    ----------
    v_set, v_reset
        Where the two halves of the loop turn (V), the second negative.
    i_set, i_reset
        Compliances (A): where the current through the cell reaches them, the half turns back. The second is a guard.
    points
        Of the whole loop, a quarter on each way; the points at 0 V are left out.
    t_sweep
        Duration of the loop (s).
    v_read
        Where conductances are compared (V).
    """

    v_set: float = 1.4
    v_reset: float = -1.5
    i_set: float = 1e-3
    i_reset: float = 10e-3
    points: int = 250
    t_sweep: float = 10.0
    v_read: float = 0.2

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, value, sign in (("v_set", self.v_set, 1), ("v_reset", self.v_reset, -1)):
            if not sign * value > self.v_read:
                way = "above" if sign > 0 else "below minus"
                raise SweepError(f"{name} {value:g} V: it must be {way} v_read, {self.v_read:g} V")
        if not min(self.i_set, self.i_reset, self.v_read) > 0 or not self.t_sweep >= 0:
            raise SweepError("i_set, i_reset and v_read must be positive, t_sweep not negative")
        if not 40 <= self.points <= 4000:
            raise SweepError(f"points {self.points}: choose 40 to 4000 for the whole loop")

    @property
    def halves(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Turning voltage (V) and compliance (A) of SET and RESET."""
        return (self.v_set, self.i_set), (self.v_reset, self.i_reset)

    @property
    def dwell(self) -> float:
        """Time at each voltage (s)."""
        return self.t_sweep / (4 * (self.points // 4))

    def voltages(self, peak: float) -> FloatArray:
        """Steps of one way up to `peak` (V), ``[n]``, without 0 V."""
        n = self.points // 4
        return peak * np.arange(1, n + 1) / n


@dataclass(frozen=True)
class Switching:
    """What one half of a loop tells. NaN where it cannot be said.

    Attributes
    ----------
    g_before, g_after
        Conductance at the read voltage on the way there and back (S).
    v_switch
        Voltage at which half of the change has happened (V), on a logarithmic scale of the conductance.
    i_max
        Largest current (A, size).
    """

    g_before: float
    g_after: float
    v_switch: float
    i_max: float

    @property
    def switched(self) -> bool:
        """Whether the cell is another one after it."""
        return abs(self.g_after / self.g_before - 1) > SWITCHED if self.g_before > 0 else False


def switching_of(voltage: FloatArray, current: FloatArray, v_read: float) -> Switching:
    """What half a loop tells.

    The two ways are compared voltage by voltage: current there over current back is the ratio of the states, whatever
    the current depends on the voltage by, and goes from its first value to 1 while the cell switches. So no law of
    conduction is assumed.

    Parameters
    ----------
    voltage
        Steps of one way, ``[n]`` (V), one sign, rising in size.
    current
        There and back, ``[2, n]`` (A); NaN where it was not measured.
    v_read
        Read voltage (V, positive).
    """
    size, up, down = np.abs(voltage), np.abs(current[0]), np.abs(current[1])
    known = np.isfinite(up)
    i_max = float(up[known].max()) if known.any() else math.nan
    g_before, g_after = (_at(size, each, v_read) for each in (up, down))
    result = Switching(g_before, g_after, math.nan, i_max)
    if not result.switched:
        return result
    both = np.isfinite(up) & np.isfinite(down) & (up > 0) & (down > 0) & (size >= 0.5 * v_read)
    if not both.any():
        return result
    change = np.log(up[both] / down[both]) / math.log(g_before / g_after)
    return Switching(g_before, g_after, float(math.copysign(_half_way(size[both], change), voltage[-1])), i_max)


def _half_way(size: FloatArray, left: FloatArray) -> float:
    """Where what is left of a change falls below half, by straight lines; NaN if it does not."""
    past = np.flatnonzero(left < 0.5)
    if not past.size:
        return math.nan
    at = max(1, int(past[0]))
    if left.size < 2 or left[at - 1] <= 0.5:
        return float(size[past[0]])
    return float(np.interp(0.5, [left[at], left[at - 1]], [size[at], size[at - 1]]))


def _at(size: FloatArray, current: FloatArray, v_read: float) -> float:
    """Conductance at a voltage (S), a straight line through 0 of the points about it; NaN if there are none."""
    near = np.isfinite(current) & (size >= 0.5 * v_read) & (size <= 1.5 * v_read)
    if not near.any():
        return math.nan
    return float((current[near] * size[near]).sum() / (size[near] ** 2).sum())
