"""How a perpendicular macrospin switches under spin torque, integrated: what `mtj.md` compares its law with.

    python docs/models/derive_mtj_macrospin.py [--draws 2000] [--seed 0]

The equation of Landau, Lifshitz and Gilbert with Slonczewski's damping-like torque and Brown's thermal field (W. F.
Brown, Phys. Rev. 130, 1677 (1963)), for one uniaxial magnet without an applied field, by Heun's method in the sense of
Stratonovich. Fields are in units of the anisotropy field, so the magnet is its damping, its thermal stability factor,
and the product of anisotropy field and time; the torque is in units of the critical one, to which the voltage is taken
to be proportional. Every magnet begins in thermal equilibrium in its well.

It knows nothing of the product's law, nor does the product use it.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from numba import njit
from numpy.typing import NDArray

GAMMA = 1.760_859e11  # rad/(s T), of an electron
DAMPING = 0.01
DELTA = 45.0
STEP = 0.05  # of the inverse of gamma times the anisotropy field
EQUILIBRATE = 500.0  # the same units; several relaxation times at this damping


@njit(nogil=True, error_model="numpy")
def _slope(
    x: float, y: float, z: float, hx: float, hy: float, hz: float, damping: float, torque: float
) -> tuple[float, float, float]:
    """``-(m x h) - m x (m x (damping h + torque p))`` over ``1 + damping^2``, with p along -z, away from +z."""
    bz = hz + z  # with the anisotropy
    cx, cy, cz = y * bz - z * hy, z * hx - x * bz, x * hy - y * hx
    wx, wy, wz = damping * hx, damping * hy, damping * bz - torque
    dot = x * wx + y * wy + z * wz
    scale = 1.0 / (1.0 + damping * damping)
    return scale * (-cx + wx - x * dot), scale * (-cy + wy - y * dot), scale * (-cz + wz - z * dot)


@njit(nogil=True, error_model="numpy")
def switched(
    draws: int,
    duration: float,
    relative: float,
    damping: float,
    delta: float,
    step: float,
    settle: float,
    rng: np.random.Generator,
) -> int:
    """How many of `draws` magnets are beyond the middle at the end of a pulse (all times in units as `STEP`)."""
    noise = math.sqrt(damping / (delta * step))
    count = 0
    for _ in range(draws):
        x, y, z = 0.0, 0.0, 1.0
        for part in range(2):
            torque = 0.0 if part == 0 else relative * damping
            for _ in range(int((settle if part == 0 else duration) / step)):
                hx, hy, hz = noise * rng.standard_normal(), noise * rng.standard_normal(), noise * rng.standard_normal()
                ax, ay, az = _slope(x, y, z, hx, hy, hz, damping, torque)
                bx, by, bz = _slope(x + step * ax, y + step * ay, z + step * az, hx, hy, hz, damping, torque)
                x, y, z = x + 0.5 * step * (ax + bx), y + 0.5 * step * (ay + by), z + 0.5 * step * (az + bz)
                size = 1.0 / math.sqrt(x * x + y * y + z * z)
                x, y, z = x * size, y * size, z * size
        count += z < 0.0
    return count


def probability(
    draws: int, width: float, relative: float, field: float, seed: int, damping: float = DAMPING, delta: float = DELTA
) -> tuple[float, float]:
    """Share that a pulse of a width (s) switches, at a part of the critical voltage; and its standard deviation.

    `field` is the anisotropy field (T).
    """
    rng = np.random.default_rng(seed)
    found = switched(draws, GAMMA * field * width, relative, damping, delta, STEP, EQUILIBRATE, rng) / draws
    return found, math.sqrt(max(found * (1 - found), 1 / draws) / draws)


def laws(width: float, relative: float, tau0: float, delta: float = DELTA) -> NDArray[np.float64]:
    """What the product's law says for exponents of 1 and 2, written out."""
    barrier = delta * (1 - relative) ** np.array([1.0, 2.0])
    return 1 - np.exp(-width / (tau0 * np.exp(barrier)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fields", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4], help="anisotropy fields (T)")
    parser.add_argument("--parts", type=float, nargs="+", default=[0.7, 0.8, 0.85, 0.9])
    given = parser.parse_args()
    for relative in given.parts:
        line = f"{relative:.2f} V_c, 200 ns: laws with 1 ns (exponent 1, 2) {np.round(laws(200e-9, relative, 1e-9), 3)}"
        for field in given.fields:
            found, deviation = probability(given.draws, 200e-9, relative, field, given.seed)
            line += f"; {field:g} T {found:.3f} +- {deviation:.3f}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
