"""Converge to target: which pulse comes next in analog write-verify, for many arrays at once, and a whole write by it.

The algorithm is that of F. Alibart et al., Nanotechnology 23, 075201 (2012), as the laboratory of arXiv:2305.18495 uses
it: read; a conductance inside the band is done; else a pulse of the polarity that is needed, whose amplitude rises by a
step each time and falls back to its start when the other polarity is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.bias import HALF, BiasScheme, line_mask
from sim_backends.array.passive_array import PassiveArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ConvergeToTarget:
    """Settings of converge-to-target; defaults from the headers of the laboratory's 8 x 8 array files.

    Attributes
    ----------
    tolerance
        Half-width of the band, relative to the target.
    start, step
        First amplitude of either polarity and its increment (V).
    cap_set, cap_reset
        Highest positive and lowest negative amplitude (V).
    pulses_at_cap
        Pulses in a row at a cap after which a cell is given up.
    width
        Pulse width (s).
    v_read
        Read voltage (V).

    Raises
    ------
    ValueError
        If the settings leave no pulse to fire.
    """

    tolerance: float = 0.01
    start: float = 1.1
    step: float = 0.02
    cap_set: float = 2.1
    cap_reset: float = -2.4
    pulses_at_cap: int = 1
    width: float = 1.04e-6
    v_read: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance {self.tolerance:g}: give a part of the target between 0 and 1")
        if not (0 < self.start <= min(self.cap_set, -self.cap_reset) and self.step > 0):
            raise ValueError(
                f"ramps from {self.start:g} V in steps of {self.step:g} V to {self.cap_set:g} / {self.cap_reset:g} V: "
                "the start must be positive and not above the caps, the step positive"
            )
        if self.pulses_at_cap < 1 or not min(self.width, self.v_read) > 0:
            raise ValueError("give at least one pulse at a cap, and a positive width and read voltage")


class Ramps:
    """Amplitudes of many ramps, one for each array: a cell of each is written at a time."""

    def __init__(self, settings: ConvergeToTarget, arrays: int) -> None:
        self.settings = settings
        self.steps: IntArray = np.zeros((arrays, 2), dtype=np.int64)  # SET, RESET

    def restart(self, arrays: BoolArray) -> None:
        """Begin anew, with another cell."""
        self.steps[arrays] = 0

    def amplitude(self, too_low: BoolArray, wanted: BoolArray) -> FloatArray:
        """Voltage of the next pulse of each array (V): zero where none is wanted, NaN where the cell is given up.

        Parameters
        ----------
        too_low
            Whether the conductance is below its target, ``[array]``: SET then, else RESET.
        wanted
            Arrays that are to be pulsed.
        """
        settings = self.settings
        arrays, side = np.arange(len(self.steps)), np.where(too_low, 0, 1)
        cap = np.array([settings.cap_set, -settings.cap_reset])[side]
        size = settings.start + settings.step * self.steps[arrays, side]
        self.steps[arrays[wanted], 1 - side[wanted]] = 0
        self.steps[arrays[wanted], side[wanted]] += 1
        given_up = size > cap + settings.step * (settings.pulses_at_cap - 0.5)
        size = np.minimum(size, cap)
        return np.where(wanted, np.where(given_up, np.nan, np.where(too_low, size, -size)), 0.0)


@dataclass(frozen=True)
class Written:
    """What a write took; per cell ``[array, row, column]``.

    Attributes
    ----------
    pulses
        Pulses fired at each cell.
    gave_up
        Cells that were given up at a cap.
    """

    pulses: IntArray
    gave_up: BoolArray


def write(
    array: PassiveArray,
    targets: FloatArray,
    order: IntArray,
    rng: np.random.Generator,
    settings: ConvergeToTarget = ConvergeToTarget(),
    scheme: BiasScheme = HALF,
) -> Written:
    """Write simulated arrays cell by cell, each array at its own pace; every cell sees every pulse.

    Parameters
    ----------
    array
        Arrays ``[array, row, column]``, or one ``[row, column]``.
    targets
        Conductances as they are to be read (S), in the shape of the array.
    order
        Cells in the order in which they are written, ``[array, event]``, counted row by row.
    rng
        Source of read noise and of the devices' spread.
    settings, scheme
        The algorithm, and the bias scheme of its pulses; reads have all other lines at ground.

    Raises
    ------
    DeviceLimitError
        If a pulse would pass a limit anywhere; it is not fired.
    """
    lead, (rows, columns) = array.shape[:-2], array.shape[-2:]
    goal = targets.reshape(-1, rows * columns)
    every, events = np.arange(len(goal)), order.shape[1]
    pulses, gave_up = np.zeros(goal.shape, dtype=np.int64), np.zeros(goal.shape, dtype=bool)
    event, ramps = np.zeros(len(goal), dtype=np.int64), Ramps(settings, len(goal))
    while np.any(going := event < events):
        cell = order[every, np.minimum(event, events - 1)]
        row, column = cell // columns, cell % columns
        on_row, on_column = line_mask(row.reshape(lead), rows), line_mask(column.reshape(lead), columns)
        read = array.read(on_row, settings.v_read, rng).reshape(-1, columns)[every, column]
        target = goal[every, cell]
        reached = going & (np.abs(read - target) <= settings.tolerance * target)
        amplitude = ramps.amplitude(read < target, going & ~reached)
        stopped = np.isnan(amplitude)
        gave_up[every[stopped], cell[stopped]] = True
        done = reached | stopped
        event += done
        ramps.restart(done)
        amplitude[stopped] = 0.0
        if np.any(amplitude):
            array.pulse(on_row, on_column, amplitude.reshape(lead), settings.width, rng, scheme)
            pulses[every, cell] += amplitude != 0
    return Written(pulses.reshape(array.shape), gave_up.reshape(array.shape))
