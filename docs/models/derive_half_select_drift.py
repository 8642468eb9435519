"""Derive the quantile table of the half-select drift.

    python derive_half_select_drift.py half_select_drift.csv [table.csv]

The database (columns: later programming events, change of conductance in uS) is that of the repository
3it-inpaqt/Hardware-Aware-Article of the authors of arXiv:2305.18495; it is not part of the product. The table that is,
`sim_backends/array/dies/half_select_drift.csv`, holds for some k the quantile function of the samples at 31 levels,
with straight lines between them: the closest such function (least squares), rising and within +-40 uS.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

EVENTS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40)
TAIL = (0, 0.0025, 0.006, 0.012, 0.02, 0.035, 0.06, 0.09, 0.13, 0.18, 0.24, 0.31, 0.38, 0.44, 0.47)
LEVELS = np.array([*TAIL, 0.5, *(1 - level for level in reversed(TAIL))])
LARGEST = 40.0  # uS; the database holds no larger change
POINTS = 20_000


def quantiles(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values at `LEVELS` of the quantile function nearest to that of the samples."""
    at = (np.arange(POINTS) + 0.5) / POINTS
    measured = np.sort(samples)[(at * samples.size).astype(int)]
    hats = np.stack([np.interp(at, LEVELS, unit) for unit in np.eye(LEVELS.size)], axis=1)
    rising = np.tril(np.ones((LEVELS.size, LEVELS.size)))  # values are sums of steps that are not negative
    lowest = np.r_[-LARGEST, np.zeros(LEVELS.size - 1)]
    highest = np.r_[LARGEST, np.full(LEVELS.size - 1, 2.5 * LARGEST)]
    steps = lsq_linear(hats @ rising, measured, bounds=(lowest, highest)).x
    return np.clip(rising @ steps, -LARGEST, LARGEST)


def table(database: str) -> NDArray[np.float64]:
    """First row: 0 and the levels; then each k with its values (uS), to a tenth."""
    events, change = np.loadtxt(database, delimiter=",", skiprows=1).T
    rows = [[k, *np.round(quantiles(change[events == k]), 1)] for k in EVENTS]
    return np.array([[0, *LEVELS], *rows])


if __name__ == "__main__":
    np.savetxt(sys.argv[2] if len(sys.argv) > 2 else sys.stdout, table(sys.argv[1]), fmt="%.6g", delimiter=",")
