"""Telegraph noise: a trap in a device opens and closes, and its conductance jumps between two levels.

The trap is a two-state Markov process in continuous time. Its mean dwell times are ``tau_up`` and ``tau_down``; the
probability of being up relaxes to ``tau_up / (tau_up + tau_down)`` with the time constant
``tau = tau_up tau_down / (tau_up + tau_down)``, which makes a step of any length exact. No measurement of TiO2 devices
was read: all parameters are placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import BoolArray, FloatArray


@dataclass(frozen=True)
class TelegraphStatistics:
    """What the traps are drawn from, one for each device; all assumed.

    Attributes
    ----------
    step_min, step_max
        Distance of the two levels relative to the conductance; log-uniform.
    dwell_min, dwell_max
        Mean dwell time in each level (s); log-uniform, up and down independently.
    """

    step_min: float = 0.001
    step_max: float = 0.01
    dwell_min: float = 1e-6
    dwell_max: float = 10.0

    def __post_init__(self) -> None:
        if not (0 < self.step_min <= self.step_max < 1 and 0 < self.dwell_min <= self.dwell_max):
            raise ValueError(
                "telegraph noise needs 0 < step_min <= step_max < 1 and 0 < dwell_min <= dwell_max, not steps of "
                f"{self.step_min:g} to {self.step_max:g} and dwell times of {self.dwell_min:g} to {self.dwell_max:g} s"
            )


@dataclass
class Telegraph:
    """Traps of devices of any shape, usually ``[..., row, column]``, in the state they are in.

    Attributes
    ----------
    step
        Distance of the two levels, relative to the conductance.
    tau_up, tau_down
        Mean dwell time in the upper and in the lower level (s).
    up
        True where the device is in its upper level.
    """

    step: FloatArray
    tau_up: FloatArray
    tau_down: FloatArray
    up: BoolArray

    @classmethod
    def draw(cls, statistics: TelegraphStatistics, shape: tuple[int, ...], rng: np.random.Generator) -> Telegraph:
        """Draw the traps of devices of a shape, in equilibrium."""
        step = _log_uniform(statistics.step_min, statistics.step_max, shape, rng)
        tau_up, tau_down = (_log_uniform(statistics.dwell_min, statistics.dwell_max, shape, rng) for _ in range(2))
        up = rng.random(shape) < tau_up / (tau_up + tau_down)
        return cls(step, tau_up, tau_down, np.asarray(up))

    @property
    def assumed(self) -> Mapping[str, str]:
        """All of it."""
        return {
            "telegraph noise": "one trap a device, independent of state, voltage and temperature; no measurement",
            "step": "placeholder: log-uniform",
            "tau_up, tau_down": "placeholders: log-uniform and independent",
        }

    @property
    def occupation(self) -> FloatArray:
        """Share of time in the upper level."""
        return self.tau_up / (self.tau_up + self.tau_down)

    @property
    def tau(self) -> FloatArray:
        """Correlation time (s): the autocorrelation of the noise is ``exp(-t / tau)``."""
        return self.tau_up * self.tau_down / (self.tau_up + self.tau_down)

    @property
    def factor(self) -> FloatArray:
        """What the conductances are multiplied with at this moment; 1 on the average over time."""
        return 1 + self.step * (self.up - self.occupation)

    def advance(self, time: ArrayLike, rng: np.random.Generator) -> None:
        """Let time pass (s), for all devices or for each; exact for any length, changes the state in place.

        Raises
        ------
        ValueError
            If a time is negative.
        """
        passed = np.asarray(time, dtype=float)
        if not np.all(passed >= 0):
            raise ValueError("telegraph noise runs forward: a time is negative or not a number")
        settled = -np.expm1(-passed / self.tau)  # 0 at once, 1 when the start is forgotten
        probability = self.up + (self.occupation - self.up) * settled
        self.up[...] = rng.random(self.up.shape) < probability


def _log_uniform(low: float, high: float, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    return np.exp(rng.uniform(np.log(low), np.log(high), shape))
