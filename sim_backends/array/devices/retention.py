"""Retention: how a conductance falls by itself after it was written.

``G(t) = G0 (t / t0)^-nu``, with an exponent for every device; t is the time since the device was last written. No
measurement of TiO2 devices was read: the law is the usual one, and its parameters are placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.interface import FloatArray


@dataclass(frozen=True)
class RetentionStatistics:
    """What the exponents of devices are drawn from; all assumed.

    Attributes
    ----------
    nu_median, nu_log_spread
        Median and log-normal spread of the exponent.
    t0
        Time after a write (s) up to which the conductance stands still: that of its verifying read.
    """

    nu_median: float = 0.003
    nu_log_spread: float = 0.5
    t0: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.nu_median >= 0 and self.nu_log_spread >= 0 and self.t0 > 0):
            raise ValueError(
                f"retention needs nu_median and nu_log_spread of at least 0 and t0 above 0, not {self.nu_median:g}, "
                f"{self.nu_log_spread:g} and {self.t0:g} s"
            )


@dataclass(frozen=True)
class Retention:
    """Retention of devices of any shape, usually ``[..., row, column]``.

    Attributes
    ----------
    nu
        Exponent of each device.
    t0
        Time after a write (s) from which on the conductance falls.
    """

    nu: FloatArray
    t0: float

    @classmethod
    def draw(cls, statistics: RetentionStatistics, shape: tuple[int, ...], rng: np.random.Generator) -> Retention:
        """Draw the exponents of devices of a shape."""
        spread = statistics.nu_log_spread * rng.standard_normal(shape)
        return cls(nu=statistics.nu_median * np.exp(spread), t0=statistics.t0)

    @property
    def assumed(self) -> Mapping[str, str]:
        """All of it."""
        return {
            "retention": "power law in time since the last write; no measurement",
            "nu": "placeholder: log-normal over devices, independent of state and temperature",
            "t0": "placeholder",
        }

    def fallen(self, g: FloatArray, since: ArrayLike, until: ArrayLike) -> FloatArray:
        """Conductances (S) at a later time, from those at an earlier one.

        Parameters
        ----------
        g
            Conductances (S) at `since`; broadcast against the devices.
        since, until
            Times after the last write (s), for all devices or for each; ``since=0`` right after the write.

        Raises
        ------
        ValueError
            If a time is negative, or `until` before `since`.
        """
        start, end = np.asarray(since, dtype=float), np.asarray(until, dtype=float)
        if not (np.all(start >= 0) and np.all(end >= start)):
            raise ValueError("retention runs from a time after the write to a later one, neither of them negative")
        return g * (np.maximum(end, self.t0) / np.maximum(start, self.t0)) ** -self.nu
