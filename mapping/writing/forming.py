"""Forming of devices that have never conducted: rising pulses until the resistance is low, and stays so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.writing.checked_fields import check_numbers
from mapping.writing.converge import BoolArray, FloatArray, IntArray, Outcome


@dataclass(frozen=True)
class Forming:
    """Settings of forming by pulses; ramp and end from the laboratory's own code (arXiv:2305.18495).

    Attributes
    ----------
    start, step, cap
        First amplitude, increment, and highest amplitude (V), all positive.
    r_formed
        A device of at most this resistance (Ohm) is formed.
    confirmations
        So many reads in a row must say so.
    width
        Pulse width (s). Assumed: that of the laboratory's published write pulses.
    v_read
        Read voltage (V).
    averages
        Reads averaged.
    i_max
        Largest current (A) that a pulse may drive into a device that has just become conducting; None: not looked at.
        Pulses have no compliance, so what stands in the line must bound it; a tester that cannot say how far it does
        is refused.
    """

    start: float = 3.5
    step: float = 0.01
    cap: float = 10.0
    r_formed: float = 20e3
    confirmations: int = 10
    width: float = 200e-9
    v_read: float = 0.2
    averages: int = 1
    i_max: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if not (0 < self.start <= self.cap and self.step > 0):
            raise ValueError(
                f"ramp from {self.start:g} V in steps of {self.step:g} V to {self.cap:g} V: the start must be positive "
                "and not above the cap, the step positive"
            )
        if not min(self.r_formed, self.width, self.v_read) > 0 or min(self.confirmations, self.averages) < 1:
            raise ValueError("r_formed, width and v_read must be positive, confirmations and averages at least 1")
        if self.i_max is not None and not self.i_max > 0:
            raise ValueError(f"i_max {self.i_max:g} A must be positive; None if it is not to be looked at")


class FormingRamps:
    """Ramps of many devices at once: readings in, pulses out.

    Attributes
    ----------
    outcome
        `Outcome` of each: `REACHED` when it is formed, `CAP` or `UNREADABLE`.
    pulses, confirmed
        Pulses, and reads in a row that say that it is formed.
    last
        Amplitude of the last pulse (V), 0 before the first.
    """

    def __init__(self, settings: Forming, devices: int) -> None:
        self.settings = settings
        self.outcome: NDArray[np.int8] = np.zeros(devices, dtype=np.int8)
        self.pulses: IntArray = np.zeros(devices, dtype=np.int64)
        self.confirmed: IntArray = np.zeros(devices, dtype=np.int64)
        self.last: FloatArray = np.zeros(devices)

    @property
    def going(self) -> BoolArray:
        """Devices that are still worked on."""
        return np.asarray(self.outcome == Outcome.GOING)

    def next(self, read: FloatArray) -> FloatArray:
        """Amplitude of the next pulse of each device (V), 0 for none: it is done, or to be read again.

        Parameters
        ----------
        read
            Conductance as just read (S); infinite where the range saturates: such a device is formed, too much.
        """
        settings, going = self.settings, self.going
        formed = going & (read * settings.r_formed >= 1)
        self.confirmed = np.where(formed, self.confirmed + 1, 0)
        self.outcome[going & ~np.isfinite(read)] = Outcome.UNREADABLE
        self.outcome[self.going & (self.confirmed >= settings.confirmations)] = Outcome.REACHED
        wanted = self.going & ~formed
        size = settings.start + settings.step * self.pulses
        beyond = wanted & (size > settings.cap + 1e-9)
        self.outcome[beyond] = Outcome.CAP
        amplitude = np.where(wanted & ~beyond, size, 0.0)
        self.pulses += amplitude > 0
        self.last = np.where(amplitude > 0, amplitude, self.last)
        return amplitude
