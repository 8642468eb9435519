"""The Al2O3/TiO2-x device of Nili et al.: phenomenological, fitted to several hundred devices of passive crossbars.

The state is the low-field conductance ``G0`` of 3.16 .. 316 uS. Current, at voltages that do not disturb the device::

    I = A1 V + A3 V^3
    A1 = -2.58e-6 + 0.977 G0 + 1.166e-7 T        + z s1
    A3 = 1.18 G0 + 6596 G0^2 + 1.605e-3 T^-1.33  + z s3

with T in degrees Celsius and one z of each device, and one step for one pulse (`conductance_change`)::

    SET    dG = c0 ( 1 - tanh(c1 (L - c2))) (tanh(c3 V - c4) + 1)      L = log10(width / 1 s)
    RESET  dG = c0 (-1 - tanh(c1 (L - c2))) (tanh(c3 V - c4) - 1)
    times  1 + z' (d0 + d1 L^2 + d2 V L + d3 V^2 L + d4 V^3)           z' another number of each device

c and d depend on the range that G0 is in (`SET`, `RESET`). Positive voltage is SET.

**Below the pulses that were fitted** (0.8 V SET, 0.8 V RESET) a half-selected cell gets the same formula,
extrapolated: at 0.5 V and 1 us a device of 100 uS gains 0.06 uS. Below 0.4 V, where the currents were taken, nothing
moves. So k equal half-select pulses move a device by k dG, for as long as it stays in its range.

**Every pulse is one step of its own**: two pulses of half a width are not one of the whole width.

Sources: H. Nili et al. (2020; preprint arXiv 1811.10385); numbers as in the public re-implementation
caixunshiren/pytorch-metal-oxide-memristor-crossbar (Apache-2.0; none of its code is here).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.constants import Boltzmann, zero_Celsius

from sim_backends.array.devices.interface import DeviceLimitError, FloatArray, refuse_where
from sim_backends.array.devices.percell import real_array

G_EDGES = 1e-6 * np.array([3.16, 5.62, 10.0, 17.8, 31.6, 56.2, 100.0, 178.0, 316.0])
"""Edges of the conductance ranges (S)."""
G_MIN, G_MAX = float(G_EDGES[0]), float(G_EDGES[-1])
V_STILL = 0.4
"""Currents were fitted up to here, "at non-disturbing voltages" (V): below it, nothing moves."""
V_LIMITS = (-1.5, 1.15)
"""Strongest RESET and SET pulse that was fitted (V)."""
WIDTH_LIMITS = (1e-7, 1e-1)
"""Shortest and longest pulse that was fitted (s)."""


@dataclass(frozen=True)
class StepTable:
    """Coefficients of the pulse step in one direction, those that differ between the ranges of G0 as ``[range]``.

    Attributes
    ----------
    sign
        1 of SET, -1 of RESET.
    c0, c1, c2, c3, c4
        Of the mean step (S, 1, 1, 1/V, 1).
    d
        d0 .. d4 of the device-to-device factor, ``[5, range]``.
    """

    sign: int
    c0: float
    c1: FloatArray
    c2: FloatArray
    c3: FloatArray
    c4: FloatArray
    d: FloatArray

    def mean(self, place: np.ndarray, v: FloatArray, log_width: float) -> FloatArray:
        """Step (S) of the average device in ranges `place` by pulses of `v` (V)."""
        in_width = self.sign - np.tanh(self.c1[place] * (log_width - self.c2[place]))
        return self.c0 * in_width * (np.tanh(self.c3[place] * v - self.c4[place]) + self.sign)

    def deviation(self, place: np.ndarray, v: FloatArray, log_width: float) -> FloatArray:
        """Relative standard deviation of the step between devices, with its sign."""
        d0, d1, d2, d3, d4 = self.d[:, place]
        return d0 + d1 * log_width**2 + d2 * v * log_width + d3 * v**2 * log_width + d4 * v**3


SET = StepTable(
    sign=1,
    c0=1.55e-4,
    c1=np.full(8, -0.47),
    c2=np.array([-3.851, -3.769, -3.729, -3.517, -3.426, -3.373, -3.422, -3.572]),
    c3=np.array([9.369, 7.512, 6.801, 6.180, 5.946, 5.005, 4.936, 4.864]),
    c4=np.array([10.4, 8.419, 7.582, 6.851, 6.558, 5.792, 5.840, 5.785]),
    d=np.array(
        [
            [-1.26, -1.22, -1.03, -0.78, -0.37, 0.14, 0.34, 0.26],
            [-0.02, -0.02, -0.02, -0.01, 5e-3, 0.01, 0.01, 0.01],
            [0.82, 0.84, 0.72, 0.53, 0.15, -0.29, -0.41, -0.29],
            [-0.57, -0.57, -0.47, -0.33, -0.01, 0.31, 0.37, 0.25],
            [0.94, 0.81, 0.63, 0.45, 0.11, -0.21, -0.29, -0.20],
        ]
    ),
)

RESET = StepTable(
    sign=-1,
    c0=-0.89e-4,
    c1=np.array([0.89, 0.51, 0.34, 0.25, 0.23, 0.21, 0.22, 0.28]),
    c2=np.array([8.96, 6.88, 4.93, 3.63, 2.91, 2.33, 1.93, 1.68]),
    c3=np.full(8, 6.2),
    c4=np.array([-10.90, -8.61, -8.14, -7.77, -7.42, -7.30, -7.10, -7.00]),
    d=np.array(
        [
            [0.04, -5e-3, -0.07, -0.11, -0.15, -0.12, -0.04, 0.10],
            [2e-4, -4e-4, -3e-3, -4e-3, -6e-3, -5e-3, -2e-3, 3e-3],
            [0.02, -2e-3, -0.07, -0.11, -0.17, -0.16, -0.10, 0.02],
            [5e-3, -0.01, -0.05, -0.09, -0.13, -0.13, -0.11, -0.05],
            [0.03, 0.02, -0.02, -0.03, -0.06, -0.06, -0.04, -4e-3],
        ]
    ),
)


def conductance_change(g: FloatArray, v: FloatArray, width: float, z: FloatArray | float = 0.0) -> FloatArray:
    """Step (S) of devices by one pulse; exactly zero below `V_STILL`. Arguments broadcast against each other.

    Parameters
    ----------
    g
        Low-field conductance before the pulse (S), within `G_EDGES`.
    v
        Device voltage (V), SET positive.
    width
        Width (s).
    z
        Device-to-device number; 0 is the average device. Where it would turn the sign of the step, the step is zero.
    """
    g, v, z = np.broadcast_arrays(g, v, z)
    place = np.clip(np.searchsorted(G_EDGES, g, side="right") - 1, 0, len(G_EDGES) - 2)
    log_width = float(np.log10(width))
    change = np.zeros(g.shape)
    for table, moving in ((SET, v >= V_STILL), (RESET, v <= -V_STILL)):
        p, u = place[moving], v[moving]
        factor = np.maximum(1 + z[moving] * table.deviation(p, u, log_width), 0.0)
        change[moving] = table.mean(p, u, log_width) * factor
    return change


@dataclass
class Nili:
    """Devices of Nili et al. in the state they are in.

    Attributes
    ----------
    g
        State: low-field conductance G0 of each device (S), ``[..., row, column]``. Copied.
    z_current, z_step
        Device-to-device numbers of the current and of the pulse step, standard normal; broadcast to `g`. Zero is the
        average device.
    temperature
        Ambient temperature (degrees Celsius), above 0.
    cycle_noise
        Standard deviation of the step of one pulse, relative, drawn anew for each pulse and device.
    v_read, bandwidth
        Voltage (V) and noise bandwidth (Hz) of a read, for `read_noise`.

    Raises
    ------
    DeviceLimitError
        If a conductance is outside of 3.16 .. 316 uS.
    ValueError
        If the temperature is not above 0 degrees Celsius, or an array has the wrong shape.
    """

    g: FloatArray
    z_current: FloatArray = field(default_factory=lambda: np.zeros(()))
    z_step: FloatArray = field(default_factory=lambda: np.zeros(()))
    temperature: float = 25.0
    cycle_noise: float = 0.0
    v_read: float = 0.2
    bandwidth: float = 1e6

    def __post_init__(self) -> None:
        self.g = real_array("conductance (S)", self.g)
        if self.g.ndim < 2:
            raise ValueError(f"conductances must be [..., row, column], got shape {self.g.shape}")
        if not self.temperature > 0:
            raise ValueError(f"the model needs a temperature above 0 degrees Celsius, got {self.temperature}")
        self.z_current = np.broadcast_to(real_array("z_current", self.z_current), self.g.shape)
        self.z_step = np.broadcast_to(real_array("z_step", self.z_step), self.g.shape)
        refuse_where(
            ~((self.g >= G_MIN) & (self.g <= G_MAX)),
            lambda i: f"{self.g[i] * 1e6:.6g} uS is outside of the model's {G_MIN * 1e6:g} .. {G_MAX * 1e6:g} uS",
        )
        refuse_where(
            ~np.isfinite(self.z_current + self.z_step), lambda i: "z_current and z_step must be finite numbers"
        )

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        g: FloatArray | float = G_MIN,
        temperature: float = 25.0,
        cycle_noise: float = 0.0,
    ) -> Nili:
        """Draw devices with the published spread between them.

        Parameters
        ----------
        shape
            ``[..., row, column]``.
        rng
            Source of the spread.
        g
            State to begin with (S), broadcasts to `shape`; default: all at the lowest conductance.
        temperature, cycle_noise
            See `Nili`.
        """
        z_current, z_step = rng.standard_normal((2, *shape))
        state = np.broadcast_to(real_array("conductance (S)", g), shape)
        return cls(state, z_current, z_step, temperature, cycle_noise)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.g.shape

    @property
    def assumed(self) -> Mapping[str, str]:
        """What is not measured: the name of each such parameter or law, and what was assumed instead."""
        return {
            "temperature": "in degrees Celsius, as the units of the coefficients say; the re-implementation has kelvin",
            "log_width": "decimal logarithm of the width, which gives sensible steps; the re-implementation takes ln",
            "currents above 0.4 V": "the cubic is continued",
            "z_current": "one number for s1 and s3, with their sign as printed (they change it near 190 uS); "
            "A1 and A3 are cut at zero",
            "z_step": "a step whose sign the factor would turn is zero",
            "half-select": f"from {V_STILL} V up to the fitted 0.8 V the step is extrapolated; below, nothing moves",
            "cycle_noise": f"a normal factor on each step, cut at zero, {self.cycle_noise:g}; none published was read",
            "read_noise": f"thermal noise in {self.bandwidth:g} Hz at {self.v_read:g} V, and no other",
        }

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current ``A1 V + A3 V^3`` (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V).

        Fitted up to 0.4 V; continued above. A1 and A3 are never negative, so the current never falls.
        """
        a1, a3 = self._coefficients()
        square = np.square(v)
        return v * (a1 + a3 * square), a1 + 3 * a3 * square

    def check(self, v: FloatArray, width: float) -> None:
        """Refuse a pulse stronger, shorter or longer than those that were fitted.

        Cell voltages ``[..., row, column]`` (V) *below* the fitted ones pass: they are what half-selected cells get.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell.
        """
        shortest, longest = WIDTH_LIMITS
        if not shortest <= width <= longest:
            raise DeviceLimitError(f"a pulse of {width:g} s is outside of the fitted {shortest:g} .. {longest:g} s")
        low, high = V_LIMITS
        volts = np.broadcast_to(v, self.shape)
        refuse_where(
            ~((volts >= low) & (volts <= high)),
            lambda i: f"{volts[i]:.4g} V is outside of the fitted pulses, {low} V RESET to {high} V SET",
        )

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        """Let a rectangular pulse act: `conductance_change`, then the bounds 3.16 and 316 uS.

        Changes the state in place; takes from `rng` only if there is cycle noise. Does not check limits; `check` does.

        Parameters
        ----------
        v
            Cell voltages ``[..., row, column]`` (V).
        width
            Width (s).
        rng
            Source of the cycle noise.
        """
        change = conductance_change(self.g, np.broadcast_to(v, self.shape), width, self.z_step)
        if self.cycle_noise > 0:
            change *= np.maximum(1 + self.cycle_noise * rng.standard_normal(self.shape), 0.0)
        self.g = np.clip(self.g + change, G_MIN, G_MAX)

    def read_noise(self) -> FloatArray:
        """Standard deviation of one read, relative, ``[..., row, column]``: ``sqrt(4 k T B / G) / v_read``.

        Thermal noise, as the temporal variation of the published model has it; G is the read current over `v_read`.
        """
        conductance = self.current(np.full(self.shape, self.v_read))[0] / self.v_read
        kelvin = self.temperature + zero_Celsius
        return np.sqrt(4 * Boltzmann * kelvin * self.bandwidth / conductance) / self.v_read

    def _coefficients(self) -> tuple[FloatArray, FloatArray]:
        """A1 (S) and A3 (S/V^2) of each device, cut at zero."""
        g, t, z = self.g, self.temperature, self.z_current
        a1 = -2.58e-6 + 0.977 * g + 1.166e-7 * t
        a3 = 1.18 * g + 6596 * g**2 + 1.605e-3 * t**-1.33
        s1 = -1.07e-6 + 0.25 * g + 2.2e-8 * t - 1300 * g**2
        s3 = 1.17e-5 + 1.30 * g - 1e-7 * t - 6500 * g**2 - 2.5e-3 * g * t
        return np.maximum(a1 + z * s1, 0.0), np.maximum(a3 + z * s3, 0.0)
