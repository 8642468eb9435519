"""Noise of single reads, from cells that were read again and again while hardly anything changed around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

FloatArray = NDArray[np.float64]

#: Fewer pairs of reads than this tell no noise.
PAIRS_MIN = 2000
#: Pairs of like current over which a variance is taken.
_BIN = 200
#: Two reads of a cell that differ by more than this share are of two states, not of one.
_SAME_STATE = 0.1
#: Where more cells of a kernel than this share switched between two reads, line drops changed for all the others.
_SWITCHED_MAX = 0.01


@dataclass(frozen=True, eq=False)
class Reads:
    """Conductances ``[kernel, row, column]`` (S, NaN where not read) at `v_read` (V), and the samples averaged."""

    g: FloatArray
    v_read: float
    averages: int


@dataclass(frozen=True)
class NoiseFit:
    """White noise of one sample, rms: `cell` relative to its current, `current` of a channel (A); and its pairs."""

    cell: float
    current: float
    pairs: int


def fit_read_noise(reads: Sequence[Sequence[Reads]]) -> NoiseFit | None:
    """Noise from the reads of each die in their order; None if they do not tell.

    Notes
    -----
    The variance of a sample is ``current^2 + (cell * I)^2``: a line over the square of the current, told by the two
    states of the cells and by shorts. Differences of neighbouring reads are taken, so slow drift does not count; their
    variance over pairs of like current comes from the median, so neither do cells that switched.
    """
    pairs = [_pairs(before, after) for of_die in reads for before, after in pairwise(of_die)]
    current, difference = (np.concatenate([pair[i] for pair in pairs] or [np.zeros(0)]) for i in (0, 1))
    if current.size < PAIRS_MIN:
        return None
    order = np.argsort(current)
    bins = current.size // _BIN
    square = np.array([np.mean(part**2) for part in np.array_split(current[order], bins)])
    variance = np.array([(1.4826 * np.median(np.abs(part))) ** 2 for part in np.array_split(difference[order], bins)])
    slope, floor = _line(square, variance)
    return NoiseFit(float(np.sqrt(slope)), float(np.sqrt(floor)), int(current.size))


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope and offset, not negative, of points whose errors grow with the line itself."""
    slope, offset = 0.0, float(np.mean(y))
    for _ in range(5):
        weight = 1 / (slope * x + offset)
        top = float(x.max()) or 1.0  # the columns alike, or the small one is lost to rounding
        (slope, offset), _ = nnls(np.stack([x / top, np.ones_like(x)], axis=1) * weight[:, None], y * weight)
        slope = slope / top
        offset = max(offset, 1e-6 * float(np.mean(y)))
    return float(slope), float(offset)


def _pairs(before: Reads, after: Reads) -> tuple[FloatArray, FloatArray]:
    """Currents of cells read twice alike (A), and the differences as those of single samples have half their square."""
    if (before.v_read, before.averages) != (after.v_read, after.averages):
        return np.zeros(0), np.zeros(0)
    a, b = before.g * before.v_read, after.g * after.v_read
    same = _unchanged(a, b)
    return (a + b)[same] / 2, (a - b)[same] * np.sqrt(before.averages / 2)


def _unchanged(a: FloatArray, b: FloatArray) -> NDArray[np.bool_]:
    """Cells read twice in one state, of kernels in which hardly any cell switched."""
    read = np.isfinite(a) & np.isfinite(b)
    if not read.any():
        return read
    typical = np.median(a[read])
    scale = np.maximum(np.maximum(a, b), typical / 2)  # cells that carry nothing tell the noise of the channels
    same = read & (np.abs(a - b) < _SAME_STATE * scale)
    switched = np.count_nonzero(read & ~same, axis=(1, 2))
    quiet = switched <= _SWITCHED_MAX * np.count_nonzero(read, axis=(1, 2))
    return np.asarray(same & quiet[:, None, None])
