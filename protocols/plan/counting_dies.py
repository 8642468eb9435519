"""What a die is taken for while a run is only planned: the typical die, of cells with gates or of passive ones.

Nothing is random from die to die: every die is the same healthy one. All values are assumed, as said beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from instruments.roles.interfaces import ArrayCapabilities
from mapping.placement.coding import AP, P

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Conductance of a typical cell with its selector (S), by state; assumed: 5 kOhm with 120 % TMR behind 2 kOhm.
CONDUCTANCE = {P: 140e-6, AP: 78e-6}
#: Scatter of the conductance from cell to cell, relative; assumed (3 to 10 % is usual). The same on every die.
SCATTER = 0.05
#: Smallest pulse (V, magnitude) that switches a typical cell; assumed, a little below the default write pulses.
SWITCHES = {AP: 0.9, P: 0.75}
#: Share of cells of a die never written that are in AP; assumed.
FRESH_AP = 0.5


@dataclass(frozen=True)
class AnalogLaw:
    """How a pulse moves a typical passive cell: a threshold for each sign and soft bounds (docs/models/tio2.md).

    All values are those of the default device of that page, which are fitted with assumptions. The distance of the
    conductance to the bound shrinks by ``exp(-rate time (V / threshold - 1)^exponent)``.

    Attributes
    ----------
    threshold
        Of SET and RESET (V, size).
    rate
        Of SET and RESET at twice the threshold (1/s).
    bound
        Conductance that SET and RESET go to (S).
    exponent
        Of the overdrive.
    scatter
        Of thresholds and rates from cell to cell, relative.
    fresh
        Range of conductances of a die never written (S).
    """

    threshold: tuple[float, float] = (0.595, 0.53)
    rate: tuple[float, float] = (1.1e4, 4.5e3)
    bound: tuple[float, float] = (890e-6, 45e-6)
    exponent: float = 1.88
    scatter: tuple[float, float] = (0.05, 0.23)
    fresh: tuple[float, float] = (100e-6, 500e-6)


#: Share of a pulse that other cells of its lines see, and cells on other lines (with the other sign), by bias scheme.
SHARES = {"V/2": (0.5, 0.0), "V/3": (1 / 3, 1 / 3), "floating": (0.47, 0.07), "grounded": (1.0, 0.0)}


@dataclass
class Cells:
    """The cells of one die, ``[kernel, row, column]``.

    Attributes
    ----------
    state
        `coding.P` or `coding.AP` of cells with gates, conductance of passive ones (S).
    dose
        Pulses that each cell has had.
    energy
        Joule that each cell has had at most.
    """

    state: NDArray[Any]
    dose: NDArray[np.int64]
    energy: FloatArray

    def copy(self) -> Cells:
        """As they are now."""
        return Cells(self.state.copy(), self.dose.copy(), self.energy.copy())


class TypicalDie(Protocol):
    """What the costing tester asks of the die that every die is taken for."""

    def fresh(self) -> Cells:
        """A die that was never written."""

    def conductance(self, cells: Cells, kernel: int) -> FloatArray:
        """Conductances of a kernel ``[row, column]`` (S)."""

    def pulse(
        self, cells: Cells, kernel: int, chosen: BoolArray, volts: float, seconds: float, count: int, scheme: str | None
    ) -> float:
        """Bring `count` pulses, together `seconds` long, to the cells; returns their energy (J), at most."""


def typical_die(caps: ArrayCapabilities, share: float = 1.0) -> TypicalDie:
    """The typical die that a tester with these capabilities drives; `share` of a pulse arrives at its cell."""
    shape = (caps.kernels, caps.rows, caps.columns)
    return PassiveDie(shape, share) if caps.schemes else GatedDie(shape)


class GatedDie:
    """Cells that one pulse switches, if it is large enough, and that no other pulse reaches."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        scatter = 1 + SCATTER * np.clip(np.random.default_rng(1).standard_normal(shape), -3, 3)
        self._shape = shape
        self._conductance = {state: typical * scatter for state, typical in CONDUCTANCE.items()}

    def fresh(self) -> Cells:
        """A die that was never written."""
        state = np.where(np.random.default_rng(2).random(self._shape) < FRESH_AP, AP, P).astype(np.int8)
        return Cells(state, np.zeros(self._shape, np.int64), np.zeros(self._shape))

    def conductance(self, cells: Cells, kernel: int) -> FloatArray:
        """Conductances of a kernel ``[row, column]`` (S)."""
        g = self._conductance
        return np.where(cells.state[kernel] == P, g[P][kernel], g[AP][kernel])

    def pulse(
        self, cells: Cells, kernel: int, chosen: BoolArray, volts: float, seconds: float, count: int, scheme: str | None
    ) -> float:
        """Bring pulses to the cells; the energy is that of cells in P (in AP it is less)."""
        energy = np.where(chosen, volts**2 * self._conductance[P][kernel] * seconds, 0.0)
        cells.dose[kernel] += count * chosen
        cells.energy[kernel] += energy
        state = AP if volts > 0 else P
        if abs(volts) >= SWITCHES[state]:
            cells.state[kernel][chosen] = state
        return float(energy.sum())


class PassiveDie:
    """Analog cells without gates: every pulse moves its cells a little, and others, by the bias scheme.

    Parameters
    ----------
    shape
        ``(kernels, rows, columns)``.
    share
        Of a pulse that arrives at its cell; the rest is lost in source and lines.
    """

    def __init__(self, shape: tuple[int, int, int], share: float, law: AnalogLaw = AnalogLaw()) -> None:
        rng = np.random.default_rng(3)
        self._shape, self._share, self._law = shape, share, law
        v, k = (np.exp(each * rng.standard_normal((2, *shape))) for each in law.scatter)
        self._threshold = np.array(law.threshold)[:, None, None, None] * v
        self._rate = np.array(law.rate)[:, None, None, None] * k

    def fresh(self) -> Cells:
        """A die that was never written: conductances anywhere in their range."""
        g = np.random.default_rng(4).uniform(*self._law.fresh, self._shape)
        return Cells(g, np.zeros(self._shape, np.int64), np.zeros(self._shape))

    def conductance(self, cells: Cells, kernel: int) -> FloatArray:
        """Conductances of a kernel ``[row, column]`` (S)."""
        return np.asarray(cells.state[kernel], np.float64)

    def pulse(
        self, cells: Cells, kernel: int, chosen: BoolArray, volts: float, seconds: float, count: int, scheme: str | None
    ) -> float:
        """Bring pulses to the cells, one set of rows after the other; the energy is that at the higher conductance."""
        of_line, of_others = SHARES.get(scheme or "", (0.0, 0.0))
        energy = np.zeros(chosen.shape)
        for rows in {chosen[:, at].tobytes(): chosen[:, at] for at in np.flatnonzero(chosen.any(axis=0))}.values():
            columns = (chosen == rows[:, None]).all(axis=0)
            one_line = rows[:, None] ^ columns
            hit = rows[:, None] & columns
            seen = np.where(hit, 1.0, np.where(one_line, of_line, -of_others)) * self._share * volts
            before = cells.state[kernel].copy()
            cells.state[kernel] = self._moved(before, kernel, seen, seconds)
            energy += np.where(hit, volts**2 * np.maximum(before, cells.state[kernel]) * seconds, 0.0)
        cells.dose[kernel] += count * chosen
        cells.energy[kernel] += energy
        return float(energy.sum())

    def _moved(self, g: FloatArray, kernel: int, volts: FloatArray, seconds: float) -> FloatArray:
        """Conductances after voltages ``[row, column]`` were there for a time."""
        for at, sign in enumerate((1.0, -1.0)):
            over = np.maximum(sign * volts / self._threshold[at, kernel] - 1, 0.0)
            left = np.exp(-self._rate[at, kernel] * seconds * over**self._law.exponent)
            g = self._law.bound[at] + (g - self._law.bound[at]) * left
        return g
