"""The crosspoints of a passive TiO2 die: devices, and over them what is stuck, open, short or was broken by a pulse."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim_backends.array.devices.interface import BoolArray, FloatArray
from sim_backends.array.devices.tio2 import V_LIMITS, V_SLACK, TiO2Devices
from sim_backends.array.dies.failures import Failures

LEAK = 1e-9
"""Conductance of an open cell (S): a line without any other has a voltage all the same. Assumed."""


class PassiveCells:
    """TiO2 devices with their top electrode on the column, as a die has them; `Devices` of the interface.

    A cell voltage is row minus column here as everywhere, so a *negative* one is SET: this class is the one place
    where that is turned round. For a tester, whose cell voltage is column minus row, a positive pulse is SET.

    Cells with a fixed conductance (stuck, open, short) are resistors, whatever is written. A working cell that a pulse
    takes beyond the caps of the device becomes a short for ever: a real die refuses nothing. Refusing is what `check`
    and the limits of testers are there for.

    Cells that were never formed (`virgin`) leak, as resistors, until a SET pulse reaches their forming voltage; then
    they are devices in the state that they were drawn with. What is beyond a cap of the device does not break them.

    Parameters
    ----------
    devices
        ``[row, column]``; pulses change their state in place.
    failures
        Of the same shape; only what befalls the cells is taken from it.
    short
        Conductance of a cell that a pulse has broken (S).
    leak, v_form
        Conductance (S) of each cell before it is formed, and the SET voltage (V) that forms it, ``[row, column]``;
        none if all cells are formed.

    Attributes
    ----------
    broken, virgin
        Cells that pulses have broken, and that were never formed, ``[row, column]``; see `restore`.
    """

    def __init__(
        self,
        devices: TiO2Devices,
        failures: Failures,
        short: float,
        leak: FloatArray | None = None,
        v_form: FloatArray | None = None,
    ) -> None:
        self.tio2 = devices
        self.works_as_made: BoolArray = np.isnan(failures.fixed)
        self.broken = np.zeros(devices.shape, dtype=bool)
        self._short = short
        self._resistor = np.maximum(failures.fixed, LEAK)  # S; NaN where the device rules
        self._leak, self._v_form = leak, v_form
        self.virgin: BoolArray = self.works_as_made & (leak is not None)
        if leak is not None:
            self._resistor[self.virgin] = leak[self.virgin]

    @property
    def shape(self) -> tuple[int, ...]:
        """``[row, column]``."""
        return self.tio2.shape

    @property
    def works(self) -> BoolArray:
        """Cells that pulses still move, ``[row, column]``."""
        return self.works_as_made & ~self.broken & ~self.virgin

    @property
    def conductance(self) -> FloatArray:
        """Conductance of each cell by itself at the read voltage of the device model (S), ``[row, column]``."""
        return np.where(self.works, self.tio2.g, self._resistor)

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        return {
            **self.tio2.assumed,
            "polarity": "top electrodes on the columns: a column above its row is SET",
            "stuck cells": "resistors, with the read noise of a device of their conductance",
            "caps": "a working cell beyond +2.1 or -2.4 V is a short from then on, once the pulse is over",
            "forming": "by the first SET pulse that reaches a cell's own voltage, whatever its width",
        }

    def restore(self, g: FloatArray, broken: BoolArray, virgin: BoolArray | None = None) -> None:
        """Take over a saved state ``[row, column]``: conductances of the devices (S), cells broken, not formed."""
        self.tio2.g[...] = g
        self.broken[...] = broken & self.works_as_made
        if virgin is not None and self._leak is not None:
            self.virgin[...] = virgin & self.works_as_made
            self._resistor = np.where(self.works_as_made, np.where(self.virgin, self._leak, np.nan), self._resistor)
        self._resistor[self.broken] = self._short

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        i, slope = self.tio2.current(-v)
        resistor = ~np.isnan(self._resistor)
        if not resistor.any():
            return -i, slope
        return np.where(resistor, self._resistor * v, -i), np.where(resistor, self._resistor, slope)

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse of cell voltages ``[..., row, column]`` (V) and a width (s) that would break a cell.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell, or if the width is outside of what the device model is valid for.
        """
        self.tio2.check(np.where(self.works, -v, 0.0), width)

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act: cell voltages ``[row, column]`` (V), a width (s).

        Nothing is refused: cells beyond a cap break, and their device is left as it is.
        """
        works = self.works
        if self._v_form is not None:
            self._form(self.virgin & (-v >= self._v_form))
        across = np.where(works, -v, 0.0)
        beyond = (across > V_LIMITS[1] + V_SLACK) | (across < V_LIMITS[0] - V_SLACK)
        if beyond.any():
            self.broken |= beyond
            self._resistor[beyond] = self._short
            across = np.where(beyond, 0.0, across)
        self.tio2.pulse(across, width, rng)

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative to the current, ``[row, column]``; opens have none.

        The law is that of formed devices: what is not formed has its smallest value (assumed).
        """
        g, kind = self.conductance, self.tio2.parameters
        noise = np.where(self.virgin, 0.0, kind.noise_per_ohm / g) + kind.noise_floor
        return np.where(g > LEAK, noise, 0.0)

    def _form(self, cells: BoolArray) -> None:
        """Make cells devices, in the state that they have underneath."""
        self.virgin &= ~cells
        self._resistor[cells] = np.nan
