"""The default TiO2 device of passive arrays: analog, 100 to 500 uS, with a threshold for each polarity. Assumed.

A pulse of V > v_set raises the conductance G (read at 0.2 V), a pulse of V < -v_reset lowers it, towards soft bounds::

    dG/dt = rate_set   ( V / v_set   - 1)^p (g_max - G)     V > v_set          SET
    dG/dt = rate_reset (-V / v_reset - 1)^p (g_min - G)     V < -v_reset       RESET
    dG/dt = 0                                               else, to the last bit

The dependence on voltage is that of VTEAM (S. Kvatinsky et al., 2015). For a rectangular pulse the distance to the
bound shrinks by ``exp(-rate width (V / threshold - 1)^p)``, which is what `TiO2Devices.pulse` takes, with a log-normal
factor in the exponent for the spread from cycle to cycle.

One law holds for selected and for half-selected cells: the thresholds lie near half of the first write amplitude
(1.1 V), so that V/2 of a pulse well above it disturbs other cells of its lines, and V/2 of a small one does not. The
thresholds and rates were fitted so that writing 8 x 8 arrays disturbs as the half-select database of the laboratory
says (``docs/models/tio2.md``). The current is ``I = G 0.2 V sinh(beta V) / sinh(beta 0.2 V)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim_backends.array.devices.conduction_kernels import sinh_current
from sim_backends.array.devices.interface import DeviceLimitError, FloatArray, refuse_where
from sim_backends.array.devices.percell import Sign, in_blocks, per_cell, real_array

WINDOW = (100e-6, 500e-6)
"""Conductances that weights are mapped to (S), 10 and 2 kOhm: code of the authors of arXiv:2305.18495."""
V_READ = 0.2
"""Read voltage of the laboratory (V), at which G is the conductance."""
V_LIMITS = (-2.4, 2.1)
"""Lowest and highest voltage of a pulse (V): caps in the headers of the laboratory's 8 x 8 array files."""
V_SLACK = 1e-9
"""What a voltage may pass a cap by (V): a ramp of 20 mV steps meets it only to rounding."""
WIDTH_LIMITS = (50e-9, 20e-6)
"""Shortest and longest pulse (s): range of the laboratory's G(V, t) measurements."""
WRITE_WIDTH = 1.04e-6
"""Width of a write pulse (s), from the headers of the laboratory's 8 x 8 array files; the fit is for this width."""


@dataclass(frozen=True)
class TiO2Parameters:
    """What a population of devices is like.

    Attributes
    ----------
    v_set, v_reset
        Median threshold of SET and size of the median threshold of RESET (V). Fitted to the half-select database.
    rate_set, rate_reset
        Median rate at twice the threshold (1/s). Fitted to the half-select database.
    exponent
        Exponent of the overdrive. Fitted to the half-select database.
    g_min, g_max
        Soft bounds that RESET and SET move towards (S). Fitted to the half-select database.
    threshold_spread, rate_spread
        Standard deviation of the logarithm of each of the two thresholds and rates between devices. Fitted roughly.
    cycle_spread
        Standard deviation of the logarithm of the effect of one pulse. Fitted roughly.
    beta
        Nonlinearity of the current (1/V): the laboratory's fit of device O921C at room temperature.
    noise_per_ohm, noise_floor
        Standard deviation of a read, relative: ``noise_per_ohm / G + noise_floor``; the laboratory's law for its
        TiO2 devices (0.1 % at 2 kOhm, 0.23 % at 10 kOhm).

    Raises
    ------
    ValueError
        If a parameter has the wrong sign, or a threshold is below the read voltage.
    """

    v_set: float = 0.595
    v_reset: float = 0.53
    rate_set: float = 1.1e4
    rate_reset: float = 4.5e3
    exponent: float = 1.88
    g_min: float = 45e-6
    g_max: float = 890e-6
    threshold_spread: float = 0.05
    rate_spread: float = 0.23
    cycle_spread: float = 0.4
    beta: float = 1.2384
    noise_per_ohm: float = 1.672e-7
    noise_floor: float = 6.645e-4

    def __post_init__(self) -> None:
        if not min(self.v_set, self.v_reset) > V_READ:
            raise ValueError(f"thresholds of {self.v_set:g} and {self.v_reset:g} V: a read of {V_READ:g} V would write")
        if not 0 < self.g_min < self.g_max:
            raise ValueError(f"needs 0 < g_min < g_max, got {self.g_min:g} and {self.g_max:g} S")
        if not min(self.rate_set, self.rate_reset, self.exponent, self.beta) > 0:
            raise ValueError("rates, exponent and beta must be positive")
        if not min(self.threshold_spread, self.rate_spread, self.cycle_spread) >= 0:
            raise ValueError("spreads must not be negative")
        if not min(self.noise_per_ohm, self.noise_floor) >= 0:
            raise ValueError("read noise must not be negative")


DEFAULT = TiO2Parameters()


@dataclass(frozen=True)
class _Polarity:
    """How pulses of one sign move each cell: thresholds (V) and rates (1/s) ``[cell]``, and its bound (S)."""

    sign: int
    threshold: FloatArray
    rate: FloatArray
    bound: float


@dataclass
class TiO2Devices:
    """TiO2 devices in the state they are in.

    Attributes
    ----------
    g
        State: conductance at 0.2 V of each device (S), ``[..., row, column]``, within the soft bounds. Copied.
    parameters
        What they have in common.
    set_threshold_factor, reset_threshold_factor
        Factors on ``v_set`` and ``v_reset`` of each device, positive; broadcast to `g`.
    set_rate_factor, reset_rate_factor
        Factors on ``rate_set`` and ``rate_reset`` of each device, not negative; broadcast to `g`.

    Raises
    ------
    ValueError
        If shapes do not fit together.
    DeviceLimitError
        Naming the first cell whose conductance is outside of the soft bounds, or whose factor is no such number.
    """

    g: FloatArray
    parameters: TiO2Parameters = DEFAULT
    set_threshold_factor: ArrayLike = 1.0
    reset_threshold_factor: ArrayLike = 1.0
    set_rate_factor: ArrayLike = 1.0
    reset_rate_factor: ArrayLike = 1.0

    def __post_init__(self) -> None:
        kind = self.parameters
        self.g = per_cell("conductance (S)", self.g, "positive")
        refuse_where(
            ~((self.g >= kind.g_min) & (self.g <= kind.g_max)),
            lambda i: (
                f"{self.g[i] * 1e6:.6g} uS is outside of the soft bounds, "
                f"{kind.g_min * 1e6:g} .. {kind.g_max * 1e6:g} uS"
            ),
        )
        v_set = kind.v_set * self._factor("set_threshold_factor", "positive")
        v_reset = kind.v_reset * self._factor("reset_threshold_factor", "positive")
        rate_set = kind.rate_set * self._factor("set_rate_factor", "not negative")
        rate_reset = kind.rate_reset * self._factor("reset_rate_factor", "not negative")
        self._set = _Polarity(1, v_set, rate_set, kind.g_max)
        self._reset = _Polarity(-1, v_reset, rate_reset, kind.g_min)
        self._beta = np.full(self.g.shape, kind.beta)
        self._low_field_share = kind.beta * V_READ / float(np.sinh(kind.beta * V_READ))

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        parameters: TiO2Parameters = DEFAULT,
        g: ArrayLike | None = None,
    ) -> TiO2Devices:
        """Draw devices that differ in both thresholds and both rates (independent, log-normal).

        Parameters
        ----------
        shape
            ``[..., row, column]``.
        rng
            Source of the spread.
        parameters
            Population to draw from.
        g
            Conductance to begin with (S), broadcasts to `shape`; default: uniform within the window of 100 to 500 uS.
        """
        state = rng.uniform(*WINDOW, shape) if g is None else np.broadcast_to(real_array("conductance (S)", g), shape)
        spreads = (
            parameters.threshold_spread,
            parameters.threshold_spread,
            parameters.rate_spread,
            parameters.rate_spread,
        )
        return cls(state, parameters, *(np.exp(spread * rng.standard_normal(shape)) for spread in spreads))

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.g.shape

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        return {
            "pulse": "a threshold for each polarity and soft bounds; one law for selected and half-selected cells",
            "v_set, v_reset, rate_set, rate_reset, exponent, g_min, g_max": "fitted to the half-select database "
            "with an assumed writing protocol",
            "threshold_spread, rate_spread, cycle_spread": "log-normal and independent; sizes only roughly fitted",
            "width": "the effect of a pulse grows with its width as one rate says; the fit is for 1.04 us",
            "read_noise, beta": "those of single devices of the laboratory; no spread between devices",
            "retention": "none, and no telegraph noise",
        }

    @property
    def sinh_law(self) -> tuple[FloatArray, FloatArray]:
        """Conductance at zero voltage (S) and beta (1/V), ``[..., row, column]``: tells the solver the law."""
        return self.low_field, self._beta

    @property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``: 1 % below that at the read voltage."""
        return self.g * self._low_field_share

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current ``G 0.2 V sinh(beta V) / sinh(beta 0.2 V)`` (A) and its derivative (S), ``[..., row, column]``."""
        return self._current(v, self.low_field)

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """``dI/dG`` (V) at cell voltages ``[..., row, column]`` (V); 0.2 V at a read."""
        return self._current(v, np.full(self.shape, self._low_field_share))[0]

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse of cell voltages ``[..., row, column]`` (V) and a width (s) that must not be fired.

        Raises
        ------
        DeviceLimitError
            Naming the first cell that would see more than +2.1 or -2.4 V, or if the width is not 50 ns to 20 us.
        """
        if not WIDTH_LIMITS[0] <= width <= WIDTH_LIMITS[1]:
            low, high = (limit * 1e6 for limit in WIDTH_LIMITS)
            raise DeviceLimitError(f"a pulse of {width * 1e6:g} us is outside of the model's {low:g} .. {high:g} us")
        low, high = V_LIMITS[0] - V_SLACK, V_LIMITS[1] + V_SLACK
        v = real_array("cell voltage (V)", v)
        if not (np.min(v) >= low and np.max(v) <= high):  # also where it is NaN
            v = np.broadcast_to(v, self.shape)
            refuse_where(
                ~((v >= low) & (v <= high)),
                lambda i: f"{v[i]:.4g} V is outside of {V_LIMITS[0]:g} .. {V_LIMITS[1]:g} V",
            )

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act; only cells beyond a threshold cost time, and nothing else moves.

        Changes the state in place. Does not check limits; `check` does.

        Parameters
        ----------
        v
            Cell voltages ``[..., row, column]`` (V), zero where none.
        width
            Pulse width (s).
        rng
            Source of the spread from cycle to cycle: one number for each cell beyond a threshold, in the order of the
            cells, SET before RESET.
        """
        across = real_array("cell voltage (V)", v)
        if across.shape != self.shape:
            across = np.broadcast_to(across, self.shape)
        across = across.reshape(-1)
        for polarity in (self._set, self._reset):
            self._move(polarity, polarity.sign * across, width, rng)

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative to the current, ``[..., row, column]``."""
        kind = self.parameters
        return kind.noise_per_ohm / self.g + kind.noise_floor

    def _factor(self, name: str, sign: Sign) -> FloatArray:
        """A factor of each cell, ``[cell]``."""
        factor = per_cell(name, getattr(self, name), sign)
        try:
            return np.broadcast_to(factor, self.g.shape).reshape(-1)
        except ValueError:
            raise ValueError(f"{name} of shape {factor.shape} does not fit devices of shape {self.g.shape}") from None

    def _move(self, polarity: _Polarity, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a pulse of a polarity's own sign ``[cell]`` (V) act on the cells beyond their threshold."""
        (cells,) = (v > polarity.threshold).nonzero()
        if not cells.size:
            return
        dose = polarity.rate[cells] * width * (v[cells] / polarity.threshold[cells] - 1) ** self.parameters.exponent
        dose *= np.exp(self.parameters.cycle_spread * rng.standard_normal(cells.size))
        state = self.g.reshape(-1)  # a view: g is contiguous
        before = state[cells]
        state[cells] = before - (polarity.bound - before) * np.expm1(-dose)

    def _current(self, v: FloatArray, low_field: FloatArray) -> tuple[FloatArray, FloatArray]:
        if (
            type(v) is np.ndarray and v.dtype == np.float64 and v.shape == self.g.shape and v.flags.c_contiguous
        ):  # as the network's solver asks, thousands of times
            i, slope = np.empty((2, *v.shape))
            sinh_current(*(x.reshape(1, -1) for x in (v, low_field, self._beta, i, slope)))
            return i, slope
        shape, (v,), (g, beta) = in_blocks((v,), (low_field, self._beta))
        i, slope = np.empty((2, *shape))
        block = (-1, v.shape[1])
        sinh_current(v, g, beta, i.reshape(block), slope.reshape(block))
        return i, slope
