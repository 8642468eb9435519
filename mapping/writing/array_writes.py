"""Writing whole simulated arrays: passes of write-verify until every cell is in tolerance; what stations do on dies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mapping.writing.converge import LABORATORY, BoolArray, ConvergeToTarget, FloatArray, IntArray, write
from mapping.writing.touch_up import PASSES, Passes, TouchUp, check_writing, write_order
from sim_backends.array.circuit.bias import HALF, BiasScheme
from sim_backends.array.circuit.passive_array import PassiveArray


@dataclass(frozen=True)
class WholeWrite:
    """What writing whole arrays took, and how it ended; per cell ``[..., row, column]``.

    Attributes
    ----------
    read
        Conductance as read after the last pulse (S).
    outcome
        `Outcome` of each cell; `GOING` where there was no target.
    pulses
        Pulses fired at each cell.
    within
        Share of the cells with a target that were in tolerance after each pass, ``[pass, ...]``.
    """

    read: FloatArray
    outcome: NDArray[np.int8]
    pulses: IntArray
    within: FloatArray

    @property
    def passes(self) -> int:
        """Passes over the arrays."""
        return len(self.within)


def write_whole(
    array: PassiveArray,
    targets: FloatArray,
    rng: np.random.Generator,
    settings: ConvergeToTarget = LABORATORY,
    scheme: BiasScheme = HALF,
    *,
    tolerance: ArrayLike | None = None,
    sensitivity: ArrayLike = 0.0,
    writable: ArrayLike = True,
    rules: Passes = PASSES,
) -> WholeWrite:
    """Write arrays until all cells are in tolerance when read together, or cannot be.

    Parameters
    ----------
    array
        Arrays ``[array, row, column]``, or one ``[row, column]``. Changed in place.
    targets
        Conductances as they are to be read (S), in the shape of the array; NaN where a cell does not matter.
    rng
        Source of read noise and of the devices' spread.
    settings, scheme
        The algorithm, and the bias scheme of its pulses.
    tolerance, sensitivity, writable
        Of each cell; broadcast to the array. See `mapping.writing.touch_up`.
    rules
        When to stop.

    Raises
    ------
    SchemeError
        If the scheme does not write.
    DeviceLimitError
        If a pulse would pass a limit anywhere; it is not fired.
    """
    check_writing(scheme.name)
    shape = array.shape
    band = np.broadcast_to(np.asarray(settings.tolerance if tolerance is None else tolerance, dtype=float), shape)
    may = np.array(np.broadcast_to(np.asarray(writable, dtype=bool), shape))
    care = np.broadcast_to(np.asarray(sensitivity, dtype=float), shape)
    work, pulses, within = TouchUp(targets, band, may, rules), np.zeros(shape, dtype=np.int64), []
    read = array.read_all(settings.v_read, rng)
    flat = (-1, shape[-2] * shape[-1])
    goal = np.where(work.wanted, targets, settings.g_min)
    while (cells := work.next_pass(read)).any():
        late, early = (care, np.abs(read - goal) / goal) if work.passes == 1 else (-work.strength(read), -care)
        order = write_order(cells.reshape(flat), late.reshape(flat), early.reshape(flat))
        done = write(array, goal, order, rng, settings, scheme, tolerance=np.ascontiguousarray(band))
        work.note(cells, done.outcome, done.peak)
        pulses += done.pulses
        read = array.read_all(settings.v_read, rng)
        within.append(_share(work.within(read), work.wanted))
    return WholeWrite(read, work.outcome(read), pulses, np.array(within).reshape(len(within), *shape[:-2]))


def _share(within: BoolArray, wanted: BoolArray) -> FloatArray:
    """Share of the wanted cells that are within, for each array."""
    share: FloatArray = within.sum(axis=(-2, -1)) / np.maximum(wanted.sum(axis=(-2, -1)), 1)
    return share
