"""How dies of a lot are broken: a distribution over die records, fitted from measured ones, and fresh draws from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mapping.dies.die_record import CellClass, DieRecord, LineFault
from mapping.dies.geometry import ArrayGeometry

FloatArray = NDArray[np.float64]

#: Point defects, in the order of `DefectStatistics.shares`.
POINT = (CellClass.SHORT, CellClass.OPEN, CellClass.STUCK_P, CellClass.STUCK_AP, CellClass.WEAK)
LINES = ("row", "column", "shared_row")

#: Healthy dies drawn once; each map is one of them, rolled by a random number of cells. Only the scatter of healthy
#: cells is shared between maps in this way, the defects of every map are its own.
_POOL = 48


class StatisticsError(ValueError):
    """The records do not tell enough to fit statistics."""


@dataclass(frozen=True, eq=False)
class DefectStatistics:
    """Distribution of the dies of a lot.

    Attributes
    ----------
    geometry : ArrayGeometry
    rate_mu, rate_sigma : float
        Mean and standard deviation, over dies, of the logarithm of the share of point defects.
    rate_max : float
        No die is drawn with a higher share.
    shares : float ``[5]``
        Of the kinds in `POINT` among the point defects.
    lines : float ``[3]``
        Mean number per die of the kinds in `LINES`.
    log_g : float ``[2]``, log_g_cov : float ``[2, 2]``
        Mean and covariance of the logarithms of both states (P, AP; S) of good cells.
    levels : float ``[4]``
        Median conductance (S) of shorts, opens, stuck P, stuck AP.
    weak : (float, float)
        Range of the difference of the states of weak cells, in units of the good median.
    """

    geometry: ArrayGeometry
    rate_mu: float
    rate_sigma: float
    rate_max: float
    shares: FloatArray
    lines: FloatArray
    log_g: FloatArray
    log_g_cov: FloatArray
    levels: FloatArray
    weak: tuple[float, float]

    @classmethod
    def fit(cls, records: Sequence[DieRecord]) -> DefectStatistics:
        """Statistics of measured dies.

        Rates: a log-normal over dies by the mean and standard deviation of the logarithms (a die without a defect
        counts as half a defect), cut at twice the largest rate seen. Lines: mean number per die with half a line added
        to each kind, for a few dies without a dead column do not prove that there is none.

        Raises
        ------
        StatisticsError
            If there is no record, or no good cell in them.
        """
        if not records:
            raise StatisticsError("no die records to fit defect statistics from; measure some dies first")
        classes = np.stack([record.cell_class for record in records])
        good = classes == CellClass.GOOD
        if not good.any():
            raise StatisticsError("the records hold no good cell; check contact and read voltage")
        g = np.stack([[record.g_p, record.g_ap] for record in records], axis=1)
        logs = np.log(np.maximum(g[:, good], 1e-9))
        counts = np.stack([np.count_nonzero(classes == kind, axis=(1, 2, 3)) for kind in POINT], axis=1)
        rates = np.maximum(counts.sum(axis=1), 0.5) / records[0].geometry.cells
        of_kind = [sum(f.kind == kind for r in records for f in r.line_faults) for kind in LINES]
        middle = np.exp(np.median(logs, axis=1))
        return cls(
            geometry=records[0].geometry,
            rate_mu=float(np.log(rates).mean()),
            rate_sigma=float(np.log(rates).std(ddof=min(1, len(records) - 1))),
            rate_max=float(2 * rates.max()),
            shares=(counts.sum(axis=0) + 0.2) / (counts.sum() + 1.0),
            lines=(np.array(of_kind) + 0.5) / len(records),
            log_g=logs.mean(axis=1),
            log_g_cov=np.cov(logs),
            levels=_levels(g, classes, middle),
            weak=_weak_range(g, classes, middle),
        )

    def scaled(self, scale: float) -> DefectStatistics:
        """The same with `scale` times as many point defects and dead lines."""
        return replace(
            self,
            rate_mu=self.rate_mu + float(np.log(scale)),
            rate_max=min(self.rate_max * scale, 0.5),
            lines=self.lines * scale,
        )


class DieSampler:
    """Draws fresh dies: ``sampler(n)`` gives mean and half difference of both states of every cell.

    Every draw has its own rate, point defects and dead lines; positions are independent of those of the dies that the
    statistics were fitted from. Drawing is sparse: its cost grows with the defects, not with the cells.
    """

    def __init__(self, statistics: DefectStatistics, rng: np.random.Generator) -> None:
        self._statistics, self._rng = statistics, rng
        cells = statistics.geometry.cells
        log_g = rng.multivariate_normal(statistics.log_g, statistics.log_g_cov, (_POOL, cells))
        self._p, self._ap = (np.exp(log_g[..., state]).astype(np.float32) for state in (0, 1))

    def __call__(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and half difference (S) of the states, each ``[count, cells]``."""
        cells = self._statistics.geometry.cells
        mean, half = np.empty((count, cells), np.float32), np.empty((count, cells), np.float32)
        for row, shift in enumerate(self._rng.integers(0, cells, count)):
            healthy = int(self._rng.integers(_POOL))
            p, ap = np.roll(self._p[healthy], shift), np.roll(self._ap[healthy], shift)
            np.add(p, ap, out=mean[row])
            np.subtract(p, ap, out=half[row])
        mean /= 2
        half /= 2
        self._break_cells(mean, half)
        self._break_lines(mean, half)
        return mean, half

    def _break_cells(self, mean: NDArray[np.float32], half: NDArray[np.float32]) -> None:
        s, rng = self._statistics, self._rng
        rates = np.exp(s.rate_mu + s.rate_sigma * rng.standard_normal(len(mean)))
        defects = rng.binomial(s.geometry.cells, np.minimum(rates, s.rate_max))
        die = np.repeat(np.arange(len(mean)), defects)
        cell = rng.integers(0, s.geometry.cells, die.size)
        kind = np.searchsorted(np.cumsum(s.shares)[:-1], rng.random(die.size), side="right")
        weak = kind == POINT.index(CellClass.WEAK)
        p = mean[die[weak], cell[weak]] + half[die[weak], cell[weak]]  # a weak cell keeps its P state
        half[die[weak], cell[weak]] *= rng.uniform(*s.weak, int(weak.sum())).astype(np.float32)
        mean[die[weak], cell[weak]] = p - half[die[weak], cell[weak]]
        mean[die[~weak], cell[~weak]] = s.levels.astype(np.float32)[kind[~weak]]
        half[die[~weak], cell[~weak]] = 0.0

    def _break_lines(self, mean: NDArray[np.float32], half: NDArray[np.float32]) -> None:
        geometry, rng = self._statistics.geometry, self._rng
        for kind, expected in zip(LINES, self._statistics.lines, strict=True):
            for die in np.repeat(np.arange(len(mean)), rng.poisson(expected, len(mean))):
                lines = geometry.block_columns if kind == "column" else geometry.block_rows
                block = -1 if kind == "shared_row" else int(rng.integers(geometry.blocks))
                dead = LineFault(kind, block, int(rng.integers(lines))).cells(geometry).ravel()
                mean[die, dead] = half[die, dead] = 0.0


def _levels(g: FloatArray, classes: NDArray[np.uint8], middle: FloatArray) -> FloatArray:
    """Median conductance of the defects that have one level; a kind that was not seen gets its plain meaning.

    A short that was not seen counts as four times P: less than one behind a selector would be, more than any state.
    """
    unseen = {CellClass.SHORT: 4 * middle[0], CellClass.OPEN: 0.0, CellClass.STUCK_P: middle[0],
              CellClass.STUCK_AP: middle[1]}  # fmt: skip
    found = []
    for kind, default in unseen.items():
        values = g.mean(axis=0)[classes == kind]
        found.append(float(np.median(values)) if values.size else float(default))
    return np.array(found)


def _weak_range(g: FloatArray, classes: NDArray[np.uint8], middle: FloatArray) -> tuple[float, float]:
    """Central 90 % of the difference of weak cells, in good differences; 0.1 to 0.5 (assumed) if fewer than five."""
    weak = classes == CellClass.WEAK
    difference = (g[0][weak] - g[1][weak]) / (middle[0] - middle[1])
    if difference.size < 5:
        return 0.1, 0.5
    low, high = np.quantile(difference, (0.05, 0.95))
    return float(low), float(high)
