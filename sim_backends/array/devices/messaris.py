"""The data-driven TiO2 model of Messaris et al. with fits of single devices. Not for arrays.

A voltage V moves the resistance R towards a bound ``r(V) = a0 + a1 V``, and only from the far side of it::

    dR/dt = s(V) (r(V) - R)^2        s(V) = A (exp(|V| / tau) - 1)

with one set of parameters for V > 0 (SET, R falls) and one for V < 0 (RESET, R rises). For a rectangular pulse the
equation has an exact solution, which is what `Messaris.pulse` takes. The current is ``I = (alpha / R) sinh(beta V)``.

**For single devices; do not put in an array, because a half-selected cell moves more than the selected one** (O921C at
room temperature), or at least has no threshold that would hold it (all fits). In all of them ``tau`` is negative, so
that ``s(V)`` saturates, and the amplitude acts mainly through the bound. In the fit of O921C at room temperature the
RESET bound *falls* with the amplitude (13.3 kOhm at -1 V, 6.6 kOhm at -1.5 V), which is suspect: a RESET pulse of
1.04 us takes a cell of 2 kOhm to 5.0 kOhm with the full -1.2 V, and to 10.6 kOhm with half of it.
`Messaris.half_select_moves_more` tells where that is so.

Sources: I. Messaris et al., "A Data-Driven Verilog-A ReRAM Model" (2017/2018), form of 2017; fits published with the
simulation and measurement code of the laboratory that made the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sim_backends.array.devices.interface import BoolArray, DeviceLimitError, FloatArray, refuse_where
from sim_backends.array.devices.percell import real_array

V_LIMITS = (-2.4, 2.1)
"""Lowest and highest voltage of a pulse (V): amplitude caps of the laboratory's own write runs on TiO2 arrays."""
RATE_SPREAD = 0.1
"""Standard deviation of the logarithm of the device's speed. Assumed."""


@dataclass(frozen=True)
class MessarisFit:
    """Parameters of one fitted device.

    Attributes
    ----------
    name, source
        Which device, and where the numbers are from.
    r_on, r_off
        Lowest and highest resistance (Ohm).
    a_p, a_n
        A of SET and RESET (1/(Ohm s)).
    tau_p, tau_n
        tau of SET and RESET (V).
    a0_p, a1_p, a0_n, a1_n
        Bound of SET and of RESET: ``a0 + a1 V`` (Ohm, Ohm/V), V with its sign.
    alpha, beta
        Of the current (1, 1/V). ``alpha * beta`` is not 1: the conductance at low field is ``alpha * beta / R``.

    Raises
    ------
    ValueError
        If SET would not lower or RESET not raise the resistance.
    """

    name: str
    source: str
    r_on: float
    r_off: float
    a_p: float
    a_n: float
    tau_p: float
    tau_n: float
    a0_p: float
    a1_p: float
    a0_n: float
    a1_n: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if self.a_p * self.tau_p >= 0 or self.a_n * self.tau_n <= 0:
            raise ValueError(
                f"fit {self.name}: SET must lower (a_p, tau_p of opposite sign), RESET raise R (same sign)"
            )
        if not 0 < self.r_on < self.r_off:
            raise ValueError(f"fit {self.name}: needs 0 < r_on < r_off, got {self.r_on} and {self.r_off} Ohm")
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"fit {self.name}: alpha and beta must be positive")

    def bound(self, v: FloatArray) -> FloatArray:
        """Resistance (Ohm) towards which a voltage (V) moves a device."""
        return np.where(v > 0, self.a0_p + self.a1_p * v, self.a0_n + self.a1_n * v)

    def rate(self, v: FloatArray) -> FloatArray:
        """``s(V)`` (1/(Ohm s)): negative for SET, positive for RESET, zero at 0 V."""
        size = np.abs(v)
        return np.where(v > 0, self.a_p * np.expm1(size / self.tau_p), self.a_n * np.expm1(size / self.tau_n))


N1257R = MessarisFit(
    name="N1257R at room temperature",
    source="fit of the laboratory, published with its simulation code",
    r_on=1000.0,
    r_off=3590.0,
    a_p=600.1,
    a_n=-34.60,
    tau_p=-0.02120,
    tau_n=-0.05344,
    a0_p=2699.2,
    a1_p=-672.93,
    a0_n=-1222.1,
    a1_n=-2656.3,
    alpha=0.3205,
    beta=2.7169,
)

O921C = MessarisFit(
    name="O921C at room temperature",
    source="fit of the laboratory, published with its simulation code; the RESET bound is suspect",
    r_on=1895.0,
    r_off=12759.0,
    a_p=134.39,
    a_n=-60.84,
    tau_p=-0.05,
    tau_n=-0.01082,
    a0_p=24579.6,
    a1_p=-13931.6,
    a0_n=26698.4,
    a1_n=13390.2,
    alpha=0.7396,
    beta=1.2384,
)

O921C_4K = MessarisFit(
    name="O921C at 4.2 K",
    source="fit of the laboratory (multilevel programming at 4.2 K, arXiv 2203.07107), published with its code",
    r_on=1800.0,
    r_off=16000.0,
    a_p=257.71,
    a_n=-11.403,
    tau_p=-1.8073,
    tau_n=-1.5533,
    a0_p=9225.1,
    a1_p=-6342.7,
    a0_n=-4585.0,
    a1_n=-15957.3,
    alpha=0.3326,
    beta=1.8748,
)


@dataclass
class Messaris:
    """Devices that follow one fit. For single devices; do not put in an array (see the module).

    Attributes
    ----------
    fit
        Parameters: `N1257R`, `O921C`, `O921C_4K`, or another fit.
    r
        State: resistance of each device (Ohm), ``[..., row, column]``. Copied.
    speed
        Factor on ``s(V)`` of each device; broadcasts to `r`.
    write_noise
        Standard deviation of the resistance after a pulse that moved the device, relative, drawn anew for each pulse.

    Raises
    ------
    DeviceLimitError
        If a resistance is outside of the fit's ``r_on .. r_off``.
    """

    fit: MessarisFit
    r: FloatArray
    speed: FloatArray = field(default_factory=lambda: np.ones(()))
    write_noise: float = 0.0

    def __post_init__(self) -> None:
        fit = self.fit
        self.r = real_array("resistance (Ohm)", self.r)
        if self.r.ndim < 2:
            raise ValueError(f"resistances must be [..., row, column], got shape {self.r.shape}")
        self.speed = np.broadcast_to(real_array("speed", self.speed), self.r.shape)
        refuse_where(
            ~((self.r >= fit.r_on) & (self.r <= fit.r_off)),
            lambda i: f"{self.r[i]:.6g} Ohm is outside of {fit.r_on:g} .. {fit.r_off:g} Ohm of {fit.name}",
        )
        refuse_where(~(self.speed > 0), lambda i: f"speed {self.speed[i]:g} is not a positive factor")

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        fit: MessarisFit = O921C_4K,
        r: FloatArray | float | None = None,
        speed_spread: float = RATE_SPREAD,
        write_noise: float = 0.0,
    ) -> Messaris:
        """Draw devices that differ in speed (log-normal, assumed).

        Parameters
        ----------
        shape
            ``[..., row, column]``.
        rng
            Source of the spread.
        fit
            What they are like.
        r
            State to begin with (Ohm), broadcasts to `shape`; default: all at ``r_off``.
        speed_spread
            Standard deviation of the logarithm of the speed.
        write_noise
            See `Messaris`.
        """
        speed = np.exp(speed_spread * rng.standard_normal(shape))
        state = np.broadcast_to(real_array("resistance (Ohm)", fit.r_off if r is None else r), shape)
        return cls(fit, state, speed, write_noise)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.r.shape

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        return {
            "limits": f"the fits state no range of voltages; refused outside of {V_LIMITS[0]} .. {V_LIMITS[1]} V",
            "speed": "one device was fitted; a spread between devices is a log-normal factor on s(V)",
            "write_noise": f"relative and independent from pulse to pulse, {self.write_noise:g}",
            "widths": "none of the fits covers the 1.04 us pulses of the arrays; the equation is used at any width",
        }

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current ``(alpha / R) sinh(beta V)`` (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V).

        Takes no account of what the voltage would do to the state, which in this model even a read voltage moves.
        """
        scale = self.fit.alpha / self.r
        phase = self.fit.beta * np.asarray(v)
        return scale * np.sinh(phase), scale * self.fit.beta * np.cosh(phase)

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse of cell voltages ``[..., row, column]`` (V) outside of `V_LIMITS`, or a width that is none.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell.
        """
        if not 0 < width < np.inf:
            raise DeviceLimitError(f"a pulse needs a positive width, got {width:g} s")
        low, high = V_LIMITS
        volts = np.broadcast_to(v, self.shape)
        refuse_where(~((volts >= low) & (volts <= high)), lambda i: f"{volts[i]:.4g} V is outside of {low} .. {high} V")

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act, by the exact solution ``r - R(t) = (r - R) / (1 + s (r - R) t)``.

        Changes the state in place; takes from `rng` only if there is write noise. Does not check limits; `check` does.

        Parameters
        ----------
        v
            Cell voltages ``[..., row, column]`` (V).
        width
            Width (s).
        rng
            Source of the write noise.
        """
        after = self._after(np.broadcast_to(v, self.shape), width)
        if self.write_noise > 0:
            noisy = after * (1 + self.write_noise * rng.standard_normal(self.shape))
            after = np.where(after != self.r, np.clip(noisy, self.fit.r_on, self.fit.r_off), self.r)
        self.r = after

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative, ``[..., row, column]``: ``1.672e-7 R + 6.645e-4``, R in Ohm.

        Law of the laboratory: 0.1 % at 2 kOhm, 0.23 % at 10 kOhm.
        """
        return 1.672e-7 * self.r + 6.645e-4

    def half_select_moves_more(self, v: FloatArray | float, width: float) -> BoolArray:
        """Whether half of a pulse would move each device further than the whole: why this model is not for arrays.

        Parameters
        ----------
        v
            Voltage of the whole pulse (V), broadcasts to ``[..., row, column]``.
        width
            Width (s).
        """
        volts = np.broadcast_to(real_array("cell voltage (V)", v), self.shape)
        whole, half = (np.abs(self._after(part, width) - self.r) for part in (volts, volts / 2))
        return half > whole

    def _after(self, v: FloatArray, width: float) -> FloatArray:
        """Resistance (Ohm) after a pulse without noise."""
        fit = self.fit
        distance = fit.bound(v) - self.r
        # s and the distance have one sign on the far side of the bound; elsewhere nothing moves
        share = np.maximum(self.speed * fit.rate(v) * distance * width, 0.0)
        moved = self.r + distance * (share / (1 + share))
        return np.clip(moved, fit.r_on, fit.r_off)
