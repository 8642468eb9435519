"""VTEAM: a device with hard thresholds, below which it does not move at all.

The state is a length ``x`` between 0 and ``d``; ``R = r_on + (r_off - r_on) x / d``, and the current is ohmic::

    dx/dt = k_off (V / v_off - 1)^a_off     V > v_off > 0     (x and R rise: RESET)
    dx/dt = k_on  (V / v_on  - 1)^a_on      V < v_on  < 0     (x and R fall: SET)
    dx/dt = 0                               else

The window is rectangular: x moves freely until it meets 0 or d. So the velocity does not depend on x, and the step of
a rectangular pulse is exact. Use it where half-selected cells must not move, to the last bit.

**Polarity.** As published, a positive voltage is RESET, against the other TiO2 models here. ``polarity=-1`` is the same
device with its electrodes exchanged: a positive cell voltage is then SET.

Source: S. Kvatinsky et al., VTEAM (2015); default numbers as documented in MemTorch: generic, not a TiO2 fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sim_backends.array.devices.interface import DeviceLimitError, FloatArray, refuse_where
from sim_backends.array.devices.percell import real_array

THRESHOLD_SPREAD = 0.1
"""Standard deviation of the logarithm of a device's thresholds. Assumed."""


@dataclass(frozen=True)
class VteamParameters:
    """What a kind of device is like. Defaults: generic (MemTorch's), not a TiO2 fit.

    Attributes
    ----------
    r_on, r_off
        Resistance at x = 0 and at x = d (Ohm).
    d
        Length of the device (m).
    k_on, k_off
        Velocity scale of SET (negative) and of RESET (positive) (m/s).
    a_on, a_off
        Exponents.
    v_on, v_off
        Threshold of SET (negative) and of RESET (positive) (V).

    Raises
    ------
    ValueError
        If a sign is wrong.
    """

    r_on: float = 50.0
    r_off: float = 1000.0
    d: float = 3e-9
    k_on: float = -10.0
    k_off: float = 5e-4
    a_on: float = 3.0
    a_off: float = 1.0
    v_on: float = -0.2
    v_off: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.r_on < self.r_off:
            raise ValueError(f"needs 0 < r_on < r_off, got {self.r_on} and {self.r_off} Ohm")
        if not (self.v_on < 0 < self.v_off and self.k_on < 0 < self.k_off):
            raise ValueError("v_on and k_on must be negative, v_off and k_off positive")
        if not (self.d > 0 and self.a_on > 0 and self.a_off > 0):
            raise ValueError("d, a_on and a_off must be positive")


GENERIC = VteamParameters()


@dataclass
class Vteam:
    """VTEAM devices in the state they are in.

    Attributes
    ----------
    x
        State of each device (m), ``[..., row, column]``: 0 is LRS, ``parameters.d`` is HRS. Copied.
    parameters
        What they have in common.
    threshold_factor
        Factor on both thresholds of each device; broadcasts to `x`.
    polarity
        1: a positive cell voltage is RESET, as published. -1: electrodes exchanged, a positive cell voltage is SET.

    Raises
    ------
    DeviceLimitError
        If a state is outside of 0 .. d.
    """

    x: FloatArray
    parameters: VteamParameters = GENERIC
    threshold_factor: FloatArray = field(default_factory=lambda: np.ones(()))
    polarity: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        d = self.parameters.d
        self.x = real_array("state (m)", self.x)
        if self.x.ndim < 2:
            raise ValueError(f"states must be [..., row, column], got shape {self.x.shape}")
        if self.polarity not in (1, -1):
            raise ValueError(f"polarity is 1 or -1, got {self.polarity}")
        self.threshold_factor = np.broadcast_to(real_array("threshold_factor", self.threshold_factor), self.x.shape)
        refuse_where(
            ~((self.x >= 0) & (self.x <= d)), lambda i: f"a state of {self.x[i]:.6g} m is outside of 0 .. {d:g} m"
        )
        refuse_where(
            ~(self.threshold_factor > 0), lambda i: f"threshold factor {self.threshold_factor[i]:g} is not positive"
        )

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        parameters: VteamParameters = GENERIC,
        x: FloatArray | float | None = None,
        threshold_spread: float = THRESHOLD_SPREAD,
        polarity: Literal[1, -1] = 1,
    ) -> Vteam:
        """Draw devices that differ in their thresholds (log-normal, assumed).

        Parameters
        ----------
        shape
            ``[..., row, column]``.
        rng
            Source of the spread.
        parameters
            What they have in common.
        x
            State to begin with (m), broadcasts to `shape`; default: all in HRS.
        threshold_spread
            Standard deviation of the logarithm of a device's thresholds.
        polarity
            See `Vteam`.
        """
        factor = np.exp(threshold_spread * rng.standard_normal(shape))
        state = np.broadcast_to(real_array("state (m)", parameters.d if x is None else x), shape)
        return cls(state, parameters, factor, polarity)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.x.shape

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        return {
            "parameters": "generic, not a TiO2 fit",
            "threshold_factor": "spread between devices is one log-normal factor on both thresholds",
            "read_noise": "none",
            "limits": "the model has no voltage limit",
        }

    @property
    def resistance(self) -> FloatArray:
        """Resistance of each device (Ohm), ``[..., row, column]``."""
        kind = self.parameters
        return kind.r_on + (kind.r_off - kind.r_on) * (self.x / kind.d)

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current V/R (A) and its derivative 1/R (S) at cell voltages ``[..., row, column]`` (V)."""
        conductance = 1 / self.resistance
        current = conductance * np.asarray(v)
        return current, np.broadcast_to(conductance, current.shape)

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse whose cell voltages ``[..., row, column]`` (V) or width (s) are no finite numbers.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell.
        """
        if not 0 < width < np.inf:
            raise DeviceLimitError(f"a pulse needs a positive width, got {width:g} s")
        volts = np.broadcast_to(v, self.shape)
        refuse_where(~np.isfinite(volts), lambda i: f"{volts[i]} V is not a voltage")

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act, exactly. Changes the state in place; takes nothing from `rng`.

        Parameters
        ----------
        v
            Cell voltages ``[..., row, column]`` (V).
        width
            Width (s).
        rng
            Not used.
        """
        velocity = self._velocity(np.broadcast_to(v, self.shape))
        self.x = np.clip(self.x + velocity * width, 0.0, self.parameters.d)

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative, ``[..., row, column]``: zero."""
        return np.zeros(self.shape)

    def _velocity(self, v: FloatArray) -> FloatArray:
        """``dx/dt`` (m/s); exactly zero up to and including the thresholds."""
        kind = self.parameters
        v_device = self.polarity * v
        over_off = np.maximum(v_device / (kind.v_off * self.threshold_factor) - 1, 0.0)
        over_on = np.maximum(v_device / (kind.v_on * self.threshold_factor) - 1, 0.0)
        return kind.k_off * over_off**kind.a_off + kind.k_on * over_on**kind.a_on
