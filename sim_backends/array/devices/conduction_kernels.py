"""Compiled loops over cells for the laws of `conduction`.

All take arrays ``[block, cell]``; voltages or parameters with a single block serve every block of the other. Results
go into arrays that the caller provides. The loops are written so that the compiler turns them into vector
instructions: no branches, no calls into a mathematics library.
"""

from __future__ import annotations

from math import factorial, inf

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sim_backends.array.devices.interface import FloatArray

LOG2_E = 1.4426950408889634
LN_2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero, so that a multiple up to 2**10 is exact
LN_2_LOW = 1.90821492927058770002e-10
ROUND_TO_INTEGER = 1.5 * 2.0**52  # added to a small number: the integer nearest to it stands in the last bits
ARGUMENT_MAX = 709.0  # beyond it exp overflows
ARGUMENT_LINEAR = 1e-8  # below it sinh(x) = x to the last digit

_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9, _E10, _E11, _E12, _E13 = (1 / factorial(k) for k in range(2, 14))


@njit(cache=True, fastmath={"contract"})
def _exp_minus_one(a: float) -> float:
    """``exp(a) - 1`` for 0 <= a <= 709, to the last digits also where it is small.

    ``a = n ln 2 + r``: the Taylor series for r, at most ln 2 / 2, and the power of two put together from bits.
    """
    shifted = a * LOG2_E + ROUND_TO_INTEGER
    n = shifted - ROUND_TO_INTEGER
    r = (a - n * LN_2_HIGH) - n * LN_2_LOW
    r2 = r * r
    r4 = r2 * r2
    low = (_E2 + _E3 * r) + (_E4 + _E5 * r) * r2
    middle = (_E6 + _E7 * r) + (_E8 + _E9 * r) * r2
    high = (_E10 + _E11 * r) + (_E12 + _E13 * r) * r2
    small = r + r2 * (low + r4 * (middle + r4 * high))
    bits = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    power = np.int64(bits).view(np.float64)
    return power * small + (power - 1.0)


@njit(cache=True, nogil=True)
def ohmic_current(v: FloatArray, g: FloatArray, i: FloatArray, slope: FloatArray) -> None:
    """``I = g V`` and its derivative."""
    for block in range(i.shape[0]):
        v_b = v[block % v.shape[0]]
        g_b = g[block % g.shape[0]]
        i_b = i[block]
        slope_b = slope[block]
        for cell in range(i_b.shape[0]):
            i_b[cell] = g_b[cell] * v_b[cell]
            slope_b[cell] = g_b[cell]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def sinh_current(v: FloatArray, g: FloatArray, alpha: FloatArray, i: FloatArray, slope: FloatArray) -> None:
    """``I = g sinh(alpha V) / alpha`` and ``dI/dV = g cosh(alpha V)``; infinite where they overflow."""
    for block in range(i.shape[0]):
        v_b = v[block % v.shape[0]]
        g_b = g[block % g.shape[0]]
        alpha_b = alpha[block % alpha.shape[0]]
        i_b = i[block]
        slope_b = slope[block]
        for cell in range(i_b.shape[0]):
            x = alpha_b[cell] * v_b[cell]
            a = abs(x)
            e = _exp_minus_one(min(a, ARGUMENT_MAX))
            h = e / (e + 1.0)
            sinh = 0.5 * (e + h)
            cosh = 1.0 + 0.5 * e * h
            if a > ARGUMENT_MAX:
                sinh = inf
                cosh = inf
            if g_b[cell] == 0.0:  # an open cell stays open, whatever overflows
                sinh = 0.0
                cosh = 0.0
            ratio = np.copysign(sinh / alpha_b[cell], x) if a > ARGUMENT_LINEAR else v_b[cell]
            i_b[cell] = g_b[cell] * ratio
            slope_b[cell] = g_b[cell] * cosh


@njit(cache=True, nogil=True, fastmath={"contract"})
def cubic_current(v: FloatArray, a1: FloatArray, a3: FloatArray, i: FloatArray, slope: FloatArray) -> None:
    """``I = a1 V + a3 V^3`` and its derivative."""
    for block in range(i.shape[0]):
        v_b = v[block % v.shape[0]]
        a1_b = a1[block % a1.shape[0]]
        a3_b = a3[block % a3.shape[0]]
        i_b = i[block]
        slope_b = slope[block]
        for cell in range(i_b.shape[0]):
            cube = a3_b[cell] * (v_b[cell] * v_b[cell])
            i_b[cell] = (a1_b[cell] + cube) * v_b[cell]
            slope_b[cell] = a1_b[cell] + 3.0 * cube


@njit(cache=True, nogil=True, fastmath={"contract"})
def tabulated_current(
    v: FloatArray,
    scale: FloatArray,
    breaks: FloatArray,
    pieces: FloatArray,
    start: NDArray[np.int32],
    buckets_per_volt: float,
    i: FloatArray,
    slope: FloatArray,
) -> None:
    """A piecewise cubic function of V, times a scale, and its derivative.

    Parameters
    ----------
    breaks
        Where pieces begin (V), the first being minus infinity; and not-a-number, where the search ends.
    pieces
        ``[piece, 5]``: an anchor (V), and the coefficients of powers 0 to 3 of V minus anchor.
    start
        The lowest piece in each of the equal buckets from ``breaks[1]`` on.
    """
    last_bucket = float(start.shape[0] - 1)
    for block in range(i.shape[0]):
        v_b = v[block % v.shape[0]]
        scale_b = scale[block % scale.shape[0]]
        i_b = i[block]
        slope_b = slope[block]
        for cell in range(i_b.shape[0]):
            u = v_b[cell]
            bucket = (u - breaks[1]) * buckets_per_volt
            piece = start[int(min(max(bucket, 0.0), last_bucket))] if bucket == bucket else 0
            while u >= breaks[piece + 1]:
                piece += 1
            t = u - pieces[piece, 0]
            c1, c2, c3 = pieces[piece, 2], pieces[piece, 3], pieces[piece, 4]
            i_b[cell] = scale_b[cell] * (pieces[piece, 1] + t * (c1 + t * (c2 + t * c3)))
            slope_b[cell] = scale_b[cell] * max(c1 + t * (2.0 * c2 + 3.0 * t * c3), 0.0)
