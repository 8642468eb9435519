"""Two-terminal laws without a memory: Ohm's, sinh, cubic, and any monotonic table.

Each object is a whole array of devices ``[..., row, column]``. A parameter may be one number for all cells, and
parameters broadcast against each other; they are copied and checked when the devices are made. Cell voltages broadcast
against the devices as NumPy arrays do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from sim_backends.array.devices.conduction_kernels import (
    cubic_current,
    ohmic_current,
    sinh_current,
    tabulated_current,
)
from sim_backends.array.devices.interface import FloatArray, refuse_where
from sim_backends.array.devices.percell import in_blocks, of_one_shape, per_cell, real_array

BUCKETS_PER_PIECE = 16  # of a table's search index, at its shortest piece: few buckets hold two pieces
ROUNDING = 1e-9  # of the width of a table: how far outside of it a solution may be by rounding
BUCKETS_PER_POINT_MAX = 64  # of a table with very uneven steps, where some searches take more steps instead


@dataclass(frozen=True, eq=False)
class Ohmic:
    """Resistors: ``I = g V``.

    Attributes
    ----------
    g
        Conductance (S), not negative, ``[..., row, column]``; zero is an open cell.

    Raises
    ------
    DeviceLimitError
        Naming the first cell whose conductance is negative or not finite.
    """

    g: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "g", per_cell("conductance (S)", self.g, "not negative"))

    @classmethod
    def of_resistance(cls, r: ArrayLike) -> Ohmic:
        """Resistors of a resistance (Ohm), positive, ``[..., row, column]``."""
        return cls(1 / per_cell("resistance (Ohm)", r, "positive"))

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.g.shape

    @property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``."""
        return self.g

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        shape, (v,), (g,) = in_blocks((v,), (self.g,))
        i, slope = np.empty((2, *shape))  # one piece of memory: the allocator then keeps it for the next call
        block = (-1, v.shape[1])
        ohmic_current(v, g, i.reshape(block), slope.reshape(block))
        return i, slope

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """``dI/dg`` (V) at cell voltages ``[..., row, column]`` (V)."""
        return np.array(np.broadcast_to(v, np.broadcast_shapes(np.shape(v), self.shape)), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Sinh:
    """Hopping or tunnelling devices: ``I = g sinh(alpha V) / alpha``.

    Attributes
    ----------
    g
        Conductance at zero voltage (S), not negative, ``[..., row, column]``; zero is an open cell.
    alpha
        Nonlinearity (1/V), not negative, one number or ``[..., row, column]``; zero is an ohmic cell.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    DeviceLimitError
        Naming the first cell whose value is negative or not finite.

    Notes
    -----
    The relative error is a few units in the last place at all voltages. Where ``alpha |V|`` passes 709 the current is
    infinite.
    """

    g: FloatArray
    alpha: FloatArray | float

    def __post_init__(self) -> None:
        g = per_cell("conductance (S)", self.g, "not negative")
        alpha = per_cell("alpha (1/V)", self.alpha, "not negative")
        g, alpha = of_one_shape(g=g, alpha=alpha)
        object.__setattr__(self, "g", g)
        object.__setattr__(self, "alpha", alpha)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.g.shape

    @property
    def sinh_law(self) -> tuple[FloatArray, FloatArray]:
        """`g` and `alpha` ``[..., row, column]``: tells the solver that this is the law."""
        return self.g, np.broadcast_to(self.alpha, self.g.shape)

    @property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``."""
        return self.g

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        return self._per_unit(v, self.g)

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """``dI/dg = sinh(alpha V) / alpha`` (V) at cell voltages ``[..., row, column]`` (V)."""
        return self._per_unit(v, np.ones_like(self.g))[0]

    def _per_unit(self, v: FloatArray, g: FloatArray) -> tuple[FloatArray, FloatArray]:
        shape, (v,), (g, alpha) = in_blocks((v,), (g, np.asarray(self.alpha)))
        i, slope = np.empty((2, *shape))
        block = (-1, v.shape[1])
        sinh_current(v, g, alpha, i.reshape(block), slope.reshape(block))
        return i, slope


@dataclass(frozen=True, eq=False)
class Cubic:
    """Devices with ``I = a1 V + a3 V^3``, as Nili et al. (2020) modelled passive Al2O3/TiO2-x crossbars up to 0.4 V.

    Attributes
    ----------
    a1
        Conductance at zero voltage (S), not negative, ``[..., row, column]``.
    a3
        Coefficient of the cube (A/V^3), not negative, one number or ``[..., row, column]``.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    DeviceLimitError
        Naming the first cell whose value is negative or not finite.
    """

    a1: FloatArray
    a3: FloatArray | float

    def __post_init__(self) -> None:
        a1 = per_cell("a1 (S)", self.a1, "not negative")
        a3 = per_cell("a3 (A/V^3)", self.a3, "not negative")
        a1, a3 = of_one_shape(a1=a1, a3=a3)
        object.__setattr__(self, "a1", a1)
        object.__setattr__(self, "a3", a3)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.a1.shape

    @property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``."""
        return self.a1

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        shape, (v,), (a1, a3) = in_blocks((v,), (self.a1, np.asarray(self.a3)))
        i, slope = np.empty((2, *shape))
        block = (-1, v.shape[1])
        cubic_current(v, a1, a3, i.reshape(block), slope.reshape(block))
        return i, slope


@dataclass(frozen=True, eq=False)
class Tabulated:
    """Devices that share one measured current-voltage curve, each times a scale: ``I = scale f(V)``.

    Between the points f is a monotone cubic with a continuous derivative (PCHIP: F. N. Fritsch and J. Butland, SIAM J.
    Sci. Stat. Comput. 5, 300 (1984), as in SciPy). Outside of the table it goes on as a straight line with the slope
    of its end, so that a solver on its way to the solution may pass there; `check` refuses such voltages, and
    `sim_backends.array.solver.network.solve` a network of which a cell ends there.

    Attributes
    ----------
    voltages
        Strictly increasing (V), ``[point]``, at least two, one of them zero.
    currents
        Never decreasing (A), ``[point]``; zero at zero voltage.
    scale
        Factor of each cell, not negative, ``[..., row, column]``. With currents of one siemens it is the conductance.

    Raises
    ------
    ValueError
        If the table is not such a table.
    DeviceLimitError
        Naming the first cell whose scale is negative or not finite.
    """

    voltages: FloatArray
    currents: FloatArray
    scale: FloatArray = field(default_factory=lambda: np.ones((1, 1)))

    def __post_init__(self) -> None:
        voltages, currents = _table(self.voltages, self.currents)
        object.__setattr__(self, "voltages", voltages)
        object.__setattr__(self, "currents", currents)
        object.__setattr__(self, "scale", per_cell("scale", self.scale, "not negative"))

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.scale.shape

    @cached_property
    def low_field(self) -> FloatArray:
        """Conductance at zero voltage (S), ``[..., row, column]``."""
        return self.current(np.zeros((1, 1)))[1]

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Current (A) and its derivative (S) at cell voltages ``[..., row, column]`` (V)."""
        return self._scaled(v, self.scale)

    def derivative_to_conductance(self, v: FloatArray) -> FloatArray:
        """Derivative to what stands for the conductance here, ``dI/dscale = f(V)`` (A), ``[..., row, column]``."""
        return self._scaled(v, np.ones(self.shape))[0]

    def check(self, v: FloatArray, width: float = 0.0) -> None:
        """Refuse cell voltages ``[..., row, column]`` (V) outside of the table; the width of a pulse does not matter.

        Raises
        ------
        DeviceLimitError
            Naming the first such cell.
        """
        low, high = self.voltages[0], self.voltages[-1]
        v = np.broadcast_to(v, np.broadcast_shapes(np.shape(v), self.shape))
        refuse_where(
            ~((v >= low) & (v <= high)),
            lambda cell: f"{v[cell]:.4g} V is outside of the table, which goes from {low:.4g} to {high:.4g} V",
        )

    def refuse_beyond(self, v: FloatArray) -> None:
        """As `check`, for voltages of a solution ``[..., row, column]`` (V): what rounding puts outside is let pass.

        Raises
        ------
        DeviceLimitError
            Naming the first cell that is outside of the table.
        """
        low, high = self.voltages[0], self.voltages[-1]
        slack = ROUNDING * (high - low)
        self.check(np.where((v < low) & (v >= low - slack), low, np.where((v > high) & (v <= high + slack), high, v)))

    def _scaled(self, v: FloatArray, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
        shape, (v,), (scale,) = in_blocks((v,), (scale,))
        i, slope = np.empty((2, *shape))
        block = (-1, v.shape[1])
        breaks, pieces = self._pieces
        start, buckets_per_volt = self._search_index
        tabulated_current(v, scale, breaks, pieces, start, buckets_per_volt, i.reshape(block), slope.reshape(block))
        return i, slope

    @cached_property
    def _pieces(self) -> tuple[FloatArray, FloatArray]:
        """Where pieces begin, and ``[piece, (anchor, c0, c1, c2, c3)]``; the first and the last one are straight."""
        v, f = self.voltages, self.currents
        with np.errstate(over="ignore"):  # its harmonic means of slopes near the smallest number
            slope = np.maximum(PchipInterpolator(v, f).derivative()(v), 0.0)
        h, secant = np.diff(v), np.diff(f) / np.diff(v)
        inner = np.empty((len(h), 5))
        # anchored at the end nearer to zero: the current is then exactly 0 at 0 V, and accurate beside it on both sides
        near, far, sign = slope[:-1].copy(), slope[1:].copy(), np.ones(len(h))
        negative = v[:-1] < 0
        near[negative], far[negative], sign[negative] = slope[1:][negative], slope[:-1][negative], -1.0
        inner[:, 0] = np.where(negative, v[1:], v[:-1])
        inner[:, 1] = np.where(negative, f[1:], f[:-1])
        inner[:, 2] = near
        inner[:, 3] = sign * (3 * secant - 2 * near - far) / h
        inner[:, 4] = (near + far - 2 * secant) / h**2
        ends = [[v[0], f[0], slope[0], 0.0, 0.0], [v[-1], f[-1], slope[-1], 0.0, 0.0]]
        return np.concatenate([[-np.inf], v, [np.nan]]), np.concatenate([ends[:1], inner, ends[1:]])

    @cached_property
    def _search_index(self) -> tuple[NDArray[np.int32], float]:
        """The lowest piece in each of equal buckets over the table, and buckets per volt."""
        span = self.voltages[-1] - self.voltages[0]
        wanted = BUCKETS_PER_PIECE * np.ceil(span / np.min(np.diff(self.voltages)))
        count = int(min(wanted, BUCKETS_PER_POINT_MAX * len(self.voltages)))
        # a voltage just below an edge may be rounded up to it
        edges = self.voltages[0] + span * (np.arange(count) / count - 1e-12)
        return np.searchsorted(self.voltages, edges, side="right").astype(np.int32), float(count / span)


def _table(voltages: ArrayLike, currents: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """A table of a current-voltage curve as arrays of its own, or an error that says what is wrong with it."""
    v, i = real_array("voltages of a table (V)", voltages), real_array("currents of a table (A)", currents)
    if v.ndim != 1 or v.shape != i.shape or len(v) < 2:
        raise ValueError(f"a table needs two or more points, not voltages {v.shape} and currents {i.shape}")
    for name, wrong in (("voltage", ~np.isfinite(v)), ("current", ~np.isfinite(i))):
        if np.any(wrong):
            raise ValueError(f"point {np.argmax(wrong)} of the table: the {name} is not finite")
    for name, wrong in (("voltages do not rise", np.diff(v) <= 0), ("current falls", np.diff(i) < 0)):
        if np.any(wrong):
            point = int(np.argmax(wrong)) + 1
            raise ValueError(f"point {point} of the table ({v[point]:g} V, {i[point]:g} A): {name}")
    at_zero = i[v == 0.0]
    if not np.array_equal(at_zero, [0.0]):
        found = f"has {at_zero[0]:g} A there" if at_zero.size else "has no such point"
        raise ValueError(f"a table has to pass through 0 A at 0 V; this one {found}: take its offset away first")
    return v, i
