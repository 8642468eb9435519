"""Critical voltages of junctions, from which of the recorded pulses switched them: maximum likelihood.

The model is that of the simulated dies (docs/simulation.md): one pulse of `width` switches with ``1 - exp(-width /
tau)``, ``tau = tau0 exp(delta (1 - V / V_c))``, and a small share of pulses fails however strong. V_c is normal over
cells, with a relative spread; a cell keeps its V_c over all its pulses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

#: Fewer failed pulses than this tell no critical voltage and spread, only what they cannot be.
FAILED_MIN = 20
#: Largest standard error of a fitted logarithm that counts as told by the record: of the spread, and of delta.
SPREAD_ERROR_MAX, DELTA_ERROR_MAX = 0.3, 0.1

_Z = np.linspace(-5.0, 5.0, 61)  # standard deviations of V_c over which cells are integrated
_PRIOR = -0.5 * _Z**2 - np.log(np.exp(-0.5 * _Z**2).sum())
_CELLS_MAX = 1500  # of a kind that enter a fit; more are thinned out and weighted
_AT_ONCE = 20_000  # cells that are drawn at once, to bound memory
_TRIALS_AT_ONCE = 200  # trials whose chances are worked out at once: they stay in the cache of the processor
_LOG_95 = 1.92  # drop of the log-likelihood at the ends of a 95 % interval
_AROUND = np.linspace(-0.3, 0.5, 9)  # log of V_c over the middle voltage that failed
_SPREADS = np.log([0.5, 1.0, 2.0])  # over the assumed spread
_STEP = 0.003  # of logarithms, for the curvature at the best fit; V_c is told to better than a percent


@dataclass(frozen=True, eq=False)
class Trials:
    """Pulses of one direction at healthy cells in the other state, sorted by cell.

    `cell` number of the cell, `voltage` across its junction when the pulse began (V), `width` in all (s), `switched`.
    """

    cell: NDArray[np.int64]
    voltage: FloatArray
    width: FloatArray
    switched: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Trials]) -> Trials:
        """All trials of several, sorted by cell."""
        columns = [np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)])
                   for name in ("cell", "voltage", "width", "switched")]  # fmt: skip
        order = np.argsort(columns[0], kind="stable")
        cell, voltage, width, switched = (column[order] for column in columns)
        return cls(cell.astype(np.int64), voltage.astype(float), width.astype(float), switched.astype(bool))

    @property
    def failed(self) -> int:
        """Pulses that did not switch their cell."""
        return int(np.count_nonzero(~self.switched))

    def part(self, first: int, last: int) -> Trials:
        """The trials from one place up to another."""
        at = slice(first, last)
        return Trials(self.cell[at], self.voltage[at], self.width[at], self.switched[at])

    def of_cells(self, cells: NDArray[np.int64]) -> Trials:
        """The trials of some cells."""
        keep = np.isin(self.cell, cells)
        return Trials(self.cell[keep], self.voltage[keep], self.width[keep], self.switched[keep])


@dataclass(frozen=True)
class Law:
    """Switching in one direction. Voltages in V, times in s; `spread` of V_c is relative."""

    v_critical: float
    spread: float
    delta: float
    tau0: float
    error_floor: float
    exponent: float = 1.0


@dataclass(frozen=True)
class SwitchingFit:
    """What the record says of switching in one direction.

    Attributes
    ----------
    law : Law
        What holds for the twin.
    pulses, failed : int
        What it was fitted from.
    v_critical_error, spread_error : float or None
        Standard errors (V; relative units of the spread itself); None where the value is not fitted.
    delta_error : float or None
        Standard error of delta, None if it is assumed; the other errors then hold for that delta.
    agrees : bool
        Whether the assumed critical voltage agreed with the record, where it is not fitted.
    """

    law: Law
    pulses: int
    failed: int
    v_critical_error: float | None = None
    spread_error: float | None = None
    delta_error: float | None = None
    agrees: bool = True


def fit_switching(trials: Sequence[Trials], assumed: Sequence[Law]) -> list[SwitchingFit]:
    """Fit the law of each direction; delta is common to all. What the pulses do not tell stays as assumed.

    Parameters
    ----------
    trials
        Of each direction.
    assumed
        What holds where the record does not tell.
    """
    delta, delta_error = _common_delta(trials, assumed)
    return [
        _fit_direction(of_direction, replace(law, delta=delta), delta_error)
        for of_direction, law in zip(trials, assumed, strict=True)
    ]


def draw_critical(trials: Trials, cells: int, law: Law, rng: np.random.Generator) -> FloatArray:
    """Critical voltage (V) of cells ``0 .. cells - 1``: one draw each of what its own pulses leave possible.

    A cell that failed where others switched gets a high one, a cell that was never pulsed any of the lot's.
    """
    z = rng.standard_normal(cells)
    numbers, starts = np.unique(trials.cell, return_index=True)
    ends = np.append(starts[1:], trials.cell.size)
    for first in range(0, numbers.size, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        z[numbers[some]] = _draw(trials.part(starts[some][0], ends[some][-1]), starts[some] - starts[first], law, rng)
    return np.maximum(law.v_critical * (1 + law.spread * z), 0.1 * law.v_critical)


def _draw(trials: Trials, starts: NDArray[np.int64], law: Law, rng: np.random.Generator) -> FloatArray:
    """A standardised V_c of each cell, drawn from what its trials leave."""
    logs = _log_posterior(trials, starts, law)
    cumulated = np.cumsum(np.exp(logs - logs.max(axis=1, keepdims=True)), axis=1)
    place = (cumulated < rng.random((starts.size, 1)) * cumulated[:, -1:]).sum(axis=1)
    within = (_Z[1] - _Z[0]) * rng.uniform(-0.5, 0.5, starts.size)
    return np.asarray(_Z[np.minimum(place, _Z.size - 1)] + within)


def _common_delta(trials: Sequence[Trials], assumed: Sequence[Law]) -> tuple[float, float | None]:
    """Delta and its standard error where the directions together tell it; a fit of three values each."""
    logs, weights = [], []
    for of_direction, law in zip(trials, assumed, strict=True):
        if of_direction.failed >= FAILED_MIN:
            found, errors = _maximise(*_thinned(of_direction), law, 3)
            if np.isfinite(errors[2]) and errors[2] < 1:
                logs.append(np.log(found.delta))
                weights.append(1 / errors[2] ** 2)
    if not weights or 1 / np.sqrt(sum(weights)) > DELTA_ERROR_MAX:
        return assumed[0].delta, None
    delta = float(np.exp(np.average(logs, weights=weights)))
    return delta, delta / float(np.sqrt(sum(weights)))


def _fit_direction(trials: Trials, assumed: Law, delta_error: float | None) -> SwitchingFit:
    fit = SwitchingFit(assumed, trials.cell.size, trials.failed, delta_error=delta_error)
    if trials.failed < FAILED_MIN:
        return _bounded(trials, fit)
    thinned, weights = _thinned(trials)
    of_log = None if delta_error is None else delta_error / assumed.delta
    law, errors = _maximise(thinned, weights, assumed, 2, of_log)
    spread_told = bool(errors[1] < SPREAD_ERROR_MAX)
    if not spread_told:
        law, errors = _maximise(thinned, weights, assumed, 1)
    return replace(
        fit,
        law=law,
        v_critical_error=float(errors[0] * law.v_critical),
        spread_error=float(errors[1] * law.spread) if spread_told else None,
    )


def _bounded(trials: Trials, fit: SwitchingFit) -> SwitchingFit:
    """The assumed critical voltage, or the nearest one that does not contradict the record (95 %)."""
    if not trials.cell.size:
        return fit
    thinned, weights = _thinned(trials)
    scale = np.linspace(0.2, 2.0, 91)
    likelihood = np.array(
        [_log_likelihood(thinned, weights, replace(fit.law, v_critical=fit.law.v_critical * s)) for s in scale]
    )
    possible = scale[likelihood >= likelihood.max() - _LOG_95]
    nearest = float(possible[np.argmin(np.abs(possible - 1.0))])
    if abs(nearest - 1.0) < 0.5 * (scale[1] - scale[0]):
        return fit
    return replace(fit, law=replace(fit.law, v_critical=fit.law.v_critical * nearest), agrees=False)


def _maximise(
    trials: Trials, weights: FloatArray, start: Law, free: int, delta_error: float | None = None
) -> tuple[Law, FloatArray]:
    """The law of largest likelihood in its first `free` values (V_c, spread, delta), and errors of their logarithms.

    `delta_error`, of the logarithm, of a delta that was fitted before: the errors then include what it leaves open.
    """

    def loss(logs: FloatArray) -> float:
        return -_log_likelihood(trials, weights, _changed(start, np.clip(logs, -3.0, 3.0)))

    # far from the best values the likelihood is flat or bent the wrong way: look around before going downhill
    middle = np.log(np.median(trials.voltage[~trials.switched]) / start.v_critical)
    spreads = _SPREADS if free > 1 else (0.0,)
    around = [np.array([middle + v, spread, 0.0][:free]) for v in _AROUND for spread in spreads]
    first = min(around, key=loss)
    simplex = first + np.vstack([np.zeros(free), np.diag([0.02, 0.3, 0.3][:free])])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-2, "maxfev": 80 * free}
    best = minimize(loss, first, method="Nelder-Mead", options=options).x
    if delta_error is None:
        return _changed(start, best), _errors(loss, best, np.zeros(free))
    known = np.append(np.zeros(free), delta_error**-2)
    return _changed(start, best), _errors(loss, np.append(best, 0.0), known)[:free]


def _changed(law: Law, logs: FloatArray) -> Law:
    """The law with its first values (V_c, spread, delta) times the exponentials of `logs`."""
    v_critical, spread, delta = np.exp(np.append(logs, np.zeros(3 - logs.size))).tolist()
    return replace(law, v_critical=law.v_critical * v_critical, spread=law.spread * spread, delta=law.delta * delta)


def _errors(loss: Callable[[FloatArray], float], at: FloatArray, known: FloatArray) -> FloatArray:
    """Standard errors from the curvature of a negative log-likelihood; inf where it has none.

    `known` is what is known of each value besides, as the inverse of its variance.
    """
    n, step = at.size, _STEP * np.eye(at.size)
    hessian = np.diag(known).astype(float)
    for i in range(n):
        for j in range(i, n):
            a, b = step[i], step[j]
            mixed = (loss(at + a + b) - loss(at + a - b) - loss(at - a + b) + loss(at - a - b)) / (4 * _STEP**2)
            hessian[i, j] += mixed
            hessian[j, i] = hessian[i, j]
    try:
        variance = np.diag(np.linalg.inv(hessian))
    except np.linalg.LinAlgError:
        return np.full(n, np.inf)
    return np.sqrt(np.where(variance > 0, variance, np.inf))


def _log_likelihood(trials: Trials, weights: FloatArray, law: Law) -> float:
    _, starts = np.unique(trials.cell, return_index=True)
    return float(weights @ np.logaddexp.reduce(_log_posterior(trials, starts, law), axis=1))


def _log_posterior(trials: Trials, starts: NDArray[np.int64], law: Law) -> FloatArray:
    """Log of prior times likelihood of each cell's V_c on the grid, ``[cell, z]``."""
    found = np.empty((starts.size, _Z.size))
    edges = np.append(starts, trials.cell.size)
    first_cells = np.flatnonzero(np.diff(starts // _TRIALS_AT_ONCE, prepend=-1))
    for first, last in pairwise([*first_cells, starts.size]):
        logs = np.log(_chance(trials.part(edges[first], edges[last]), law))
        found[first:last] = np.add.reduceat(logs, starts[first:last] - starts[first], axis=0)
    return found + _PRIOR


def _chance(trials: Trials, law: Law) -> FloatArray:
    """Chance of what each trial did if V_c were that of the grid, ``[trial, z]``."""
    critical = np.maximum(law.v_critical * (1 + law.spread * _Z), 1e-3)
    left = 1 - trials.voltage[:, None] / critical
    left = left if law.exponent == 1 else np.maximum(left, 0.0) ** law.exponent
    exponent = np.clip(-law.delta * left, -690.0, 690.0)
    rate = np.minimum((trials.width / law.tau0)[:, None] * np.exp(exponent), 690.0)
    failing = np.exp(-rate) * (1 - law.error_floor) + law.error_floor
    chance = np.where(trials.switched[:, None], 1 - failing, failing)
    return np.maximum(chance, 1e-300)


def _thinned(trials: Trials) -> tuple[Trials, FloatArray]:
    """At most `_CELLS_MAX` cells with failures and as many without, and the weight of each cell that is left."""
    cells = np.unique(trials.cell)
    with_failure = np.isin(cells, np.unique(trials.cell[~trials.switched]))
    kept, weights = [], []
    for group in (cells[with_failure], cells[~with_failure]):
        share = group[:: max(1, -(-group.size // _CELLS_MAX))]
        kept.append(share)
        weights.append(np.full(share.size, group.size / max(1, share.size)))
    chosen = np.concatenate(kept)
    order = np.argsort(chosen)
    return trials.of_cells(chosen), np.concatenate(weights)[order]
