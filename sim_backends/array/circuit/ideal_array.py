"""Passive arrays with perfect lines: every cell sees exactly what its bias scheme says. For hundreds of arrays at once.

At 8 x 8 and 100 to 500 uS, lines of 1 Ohm per segment lose about 1 %; where that matters `PassiveArray` solves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.circuit.bias import GROUNDED, HALF, BiasScheme
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.devices.tio2 import TiO2Devices
from sim_backends.array.solver.network import Lines, Solution


class IdealArray(PassiveArray):
    """TiO2 arrays without line resistance, for what writes and reads a `PassiveArray`.

    Parameters
    ----------
    devices
        ``[..., row, column]``; pulses change their state in place.
    fixed
        Conductance (S) of cells that hold one whatever is written, in the shape of the devices; NaN where a cell works.
    """

    def __init__(self, devices: TiO2Devices, fixed: FloatArray) -> None:
        super().__init__(devices, Lines())
        self.tio2 = devices
        self.fixed = np.broadcast_to(fixed, devices.shape)

    @property
    def conductance(self) -> FloatArray:
        """What each cell holds (S), ``[..., row, column]``."""
        return np.where(np.isnan(self.fixed), self.tio2.g, self.fixed)

    def biased(
        self, rows: BoolArray, columns: BoolArray, amplitude: ArrayLike, scheme: BiasScheme, *, cells: bool = True
    ) -> Solution:
        """Not defined: there is no network here to solve."""
        raise NotImplementedError("perfect lines have no network: use PassiveArray for voltages and currents")

    def pulse(
        self,
        rows: BoolArray,
        columns: BoolArray,
        amplitude: ArrayLike,
        width: float,
        rng: np.random.Generator,
        scheme: BiasScheme = HALF,
    ) -> Any:
        """Fire one pulse at the selected cells, as `PassiveArray.pulse`; all lines must be connected. No result."""
        v_row, v_column = scheme.voltages(rows, columns, amplitude)
        v = v_row[..., :, None] - v_column[..., None, :]
        self.tio2.check(v, width)
        self.tio2.pulse(v, width, rng)

    def read(
        self, rows: BoolArray, v_read: float, rng: np.random.Generator | None = None, scheme: BiasScheme = GROUNDED
    ) -> FloatArray:
        """Conductance of the cells of one selected row of each array, ``[..., column]`` (S)."""
        g = np.take_along_axis(self.conductance, np.argmax(rows, axis=-1)[..., None, None], axis=-2)[..., 0, :]
        return g if rng is None else self._noisy(g, rng)

    def read_all(self, v_read: float, rng: np.random.Generator | None = None) -> FloatArray:
        """Conductance of every cell, ``[..., row, column]`` (S)."""
        return self.conductance if rng is None else self._noisy(self.conductance, rng)

    def _noisy(self, g: FloatArray, rng: np.random.Generator) -> FloatArray:
        kind = self.tio2.parameters
        noisy: FloatArray = g * (1 + (kind.noise_per_ohm / g + kind.noise_floor) * rng.standard_normal(g.shape))
        return noisy
