"""A linear device in series with its access transistor (1T1R).

The device is on the row side, the transistor's channel between the device and the column. The transistor is of the
simplest kind (H. Shichman and D. A. Hodges, IEEE J. Solid-State Circuits 3, 285 (1968); SPICE level 1), without
channel-length modulation and body effect. Its current is then a difference of two squares,

    ``I = kp/2 ((G - v_column)+^2 - (G - v_inner)+^2)``, with ``G = gate - v_threshold`` and ``x+ = max(x, 0)``,

in all regimes and both directions: whichever side is lower acts as the source. So the inner node is the root of a
quadratic, and every regime has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import ClassVar

import numpy as np
from numba import njit

from sim_backends.array.devices.interface import FloatArray
from sim_backends.array.devices.percell import in_blocks, of_one_shape, per_cell

PART = 512  # cells computed at a time


@dataclass(frozen=True, eq=False)
class Transistor:
    """Linear devices, each in series with an n-channel transistor.

    Attributes
    ----------
    g
        Conductance of the devices (S), not negative, ``[..., row, column]``; zero is an open cell.
    gate
        Gate voltage (V), in the same reference as the lines: one number, or anything that broadcasts against the cells:
        ``[row, 1]`` where gates run along rows, ``[1, column]`` where they run along columns.
    v_threshold
        Threshold voltage (V), one number or per cell.
    kp
        Transconductance parameter of the whole transistor (A/V^2), with its width over length in it; positive.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    DeviceLimitError
        Naming the first cell whose value is not finite or has the wrong sign.

    Notes
    -----
    The current depends on both line voltages, not on their difference: these are three-terminal cells (`gated`). All
    that is relative to the bulk is left out, also the diodes that begin to conduct where a line lies 0.6 V below it.
    """

    gated: ClassVar[bool] = True

    g: FloatArray
    gate: FloatArray | float
    v_threshold: FloatArray | float
    kp: FloatArray | float

    def __post_init__(self) -> None:
        arrays = of_one_shape(
            g=per_cell("conductance (S)", self.g, "not negative"),
            gate=per_cell("gate voltage (V)", self.gate, "any"),
            v_threshold=per_cell("threshold voltage (V)", self.v_threshold, "any"),
            kp=per_cell("kp (A/V^2)", self.kp, "positive"),
        )
        for name, array in zip(("g", "gate", "v_threshold", "kp"), arrays, strict=True):
            object.__setattr__(self, name, array)

    @property
    def shape(self) -> tuple[int, ...]:
        """``[..., row, column]``."""
        return self.g.shape

    @cached_property
    def _overdrive(self) -> FloatArray:
        return np.subtract(self.gate, self.v_threshold)

    @property
    def low_field(self) -> FloatArray:
        """Conductance with both lines at zero volts (S), ``[..., row, column]``; zero where the gate is off."""
        channel = self.kp * np.maximum(self._overdrive, 0.0)
        total = self.g + channel
        return self.g * np.divide(channel, total, out=np.zeros(self.shape), where=total > 0)

    def current(self, v_row: FloatArray, v_column: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Current from row to column (A), and how it follows the voltages of both.

        Parameters
        ----------
        v_row, v_column
            Voltage of each cell's row node and column node (V), ``[..., row, column]``.

        Returns
        -------
        i, ga, gb
            Current (A), ``dI/dv_row`` and ``-dI/dv_column`` (S, never negative).
        """
        shape, (row, column), (g, overdrive, kp) = in_blocks(
            (v_row, v_column), (self.g, self._overdrive, np.asarray(self.kp))
        )
        i, ga, gb = np.empty((3, *shape))
        block = (-1, row.shape[1])
        _solve_cells(row, column, g, overdrive, kp, i.reshape(block), ga.reshape(block), gb.reshape(block))
        return i, ga, gb

    def derivative_to_conductance(self, v_row: FloatArray, v_column: FloatArray) -> FloatArray:
        """``dI/dg`` (V) at voltages of row and column nodes ``[..., row, column]`` (V).

        It is the voltage across the device, times the share of a change of it that the device would take.
        """
        i, ga, _ = self.current(v_row, v_column)
        conducts = np.greater(self._overdrive, v_column)
        at_open = np.where(conducts, np.subtract(v_row, v_column), -np.maximum(self._overdrive - v_row, 0.0))
        g = np.broadcast_to(self.g, i.shape)
        return np.divide(i * ga, g * g, out=np.array(np.broadcast_to(at_open, i.shape)), where=g > 0)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _solve_cells(
    v_row: FloatArray,
    v_column: FloatArray,
    g: FloatArray,
    overdrive: FloatArray,
    kp: FloatArray,
    i: FloatArray,
    ga: FloatArray,
    gb: FloatArray,
) -> None:
    """All arrays ``[block, cell]``; voltages or parameters with a single block serve every block of the other."""
    # results go through one array at constant distances: the compiler then knows that they do not overlap, and
    # makes vector instructions of the loop
    part = np.empty(3 * PART)
    for block in range(i.shape[0]):
        for start in range(0, i.shape[1], PART):
            cells = slice(start, min(start + PART, i.shape[1]))
            a = v_row[block % v_row.shape[0], cells]
            b = v_column[block % v_column.shape[0], cells]
            g_p = g[block % g.shape[0], cells]
            overdrive_p = overdrive[block % g.shape[0], cells]
            kp_p = kp[block % g.shape[0], cells]
            count = a.shape[0]
            for cell in range(count):
                solved = _solve_cell(a[cell], b[cell], g_p[cell], overdrive_p[cell], kp_p[cell])
                part[cell], part[PART + cell], part[2 * PART + cell] = solved
            i[block, cells] = part[:count]
            ga[block, cells] = part[PART : PART + count]
            gb[block, cells] = part[2 * PART : 2 * PART + count]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _solve_cell(a: float, b: float, g: float, overdrive: float, kp: float) -> tuple[float, float, float]:
    """Current (A) and its derivatives to both voltages (S), from roots in the form without cancellation."""
    # where the column side conducts: kp x (beta - x/2) = g (a - b - x) for the voltage x of the channel;
    # where only the row side does, the column is the drain, in saturation: kp/2 y^2 = g (alpha - y)
    beta = 0.0 if overdrive <= b else overdrive - b  # written so that not-a-number stays what it is
    alpha = 0.0 if overdrive <= a else overdrive - a
    reverse = beta == 0.0
    saturated = g * (a - b - beta) >= 0.5 * kp * beta * beta
    linear = g + kp * beta
    force = 2.0 * g * (alpha if reverse else a - b)
    square = linear * linear + kp * (force if reverse else -force)
    root = force / (linear + sqrt(0.0 if square < 0.0 else square))
    y = root if reverse else (0.0 if saturated else beta - root)
    channel = kp * y  # slope of the channel's current at the inner node
    share = g / (g + channel)
    i = -0.5 * channel * y if reverse else (0.5 * kp * beta * beta if saturated else kp * root * (beta - 0.5 * root))
    is_open = g == 0.0  # also with the channel off: 0 / 0
    return (0.0 if is_open else i, 0.0 if is_open else channel * share, 0.0 if is_open else kp * beta * share)
