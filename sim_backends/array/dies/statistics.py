"""What becomes of conductances that are written into a passive TiO2 array: the measured statistics, and nothing else.

A target is written with an error (tuning imprecision), drifts while the cells after it are written (half-select drift),
or does not matter because the cell is stuck. There is no circuit here and no pulse: `transfer` turns targets into
achieved conductances, millions of devices a second.

All values are those of the authors of arXiv:2305.18495, read in their repository 3it-inpaqt/Hardware-Aware-Article; the
conductance window there is 100-500 uS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim_backends.array.devices.interface import BoolArray, DeviceLimitError, FloatArray

Reals = NDArray[np.floating[Any]]  # float32 or float64
EventArray = NDArray[np.int64]

DRIFT_LEVELS = 4096  # equally likely values that stand for each distribution of the drift
_BLOCK = 1 << 16  # devices computed at once, so that temporaries stay in the cache


@dataclass(frozen=True)
class TuningImprecision:
    """Error of a write that ended inside its tolerance, relative to the target.

    Every device gets an offset, drawn anew for each transfer, ``G' = G (1 + offset + offset_spread * normal)``, and a
    spread that depends on its state, ``G' (1 + (slope * G' + intercept) * normal)``. Source: the authors' code (fits of
    their tuning noise): offset N(-0.589, 0.339) %, spread -6.24e-4 %/uS * G + 0.691 %.
    """

    offset: float = -0.589e-2
    offset_spread: float = 0.339e-2
    slope: float = -6.24
    """1/S."""
    intercept: float = 0.691e-2

    def spread(self, g: Reals) -> Reals:
        """Standard deviation of the state-dependent part at conductances (S), relative."""
        return self.slope * g + self.intercept

    def mean(self, g: Reals) -> Reals:
        """Mean of the achieved conductance (S) at targets (S)."""
        return (1 + self.offset) * g

    def deviation(self, g: Reals) -> Reals:
        """Standard deviation of the achieved conductance (S) at targets (S), both parts together."""
        return g * (self.offset_spread**2 + ((1 + self.offset) * self.spread(self.mean(g))) ** 2) ** 0.5


@dataclass(frozen=True)
class HalfSelectDrift:
    """Change of a programmed conductance after k later programming events in the same array.

    The distributions are those that were measured (`drift_table`): biased to lower conductance, heavy-tailed for few
    events, within +-40 uS. Draws of different devices are independent.

    Attributes
    ----------
    moments
        "measured": mean and standard deviation as measured. "closed form": the measured shapes, shifted and scaled to
        `drift_mean` and `drift_deviation`, which are smooth in k.
    outlier
        What the authors' code puts in place of a draw farther than `outlier_deviations` of its own distribution from
        the mean (S). It happens only at k = 1, to 0.6 % of the draws. None leaves the draw as it is.
    outlier_mean, outlier_sigma
        Mean and standard deviation at k = 1 (S) that the authors' code judges by; those before its clip to +-40 uS.
    """

    moments: Literal["measured", "closed form"] = "measured"
    outlier: float | None = 60e-6
    outlier_deviations: float = 4.0
    outlier_mean: float = -0.63e-6
    outlier_sigma: float = 8.2e-6

    def __post_init__(self) -> None:
        if self.moments not in ("measured", "closed form"):
            raise ValueError(f'moments of the drift are "measured" or "closed form", not {self.moments!r}')


@dataclass(frozen=True)
class StuckCells:
    """Devices that hold a conductance of their own whatever was written; drawn anew for each transfer.

    Source: the authors' code. Rates are per device; stuck LRS is normal, stuck HRS uniform.
    """

    rate_lrs: float = 0.005
    rate_hrs: float = 0.005
    lrs_mean: float = 573e-6
    lrs_spread: float = 99e-6
    hrs_min: float = 10e-6
    hrs_max: float = 100e-6

    def __post_init__(self) -> None:
        if not (self.rate_lrs >= 0 and self.rate_hrs >= 0 and self.rate_lrs + self.rate_hrs <= 1):
            raise ValueError(
                f"rates of stuck cells are shares of all devices, not {self.rate_lrs:g} LRS and {self.rate_hrs:g} HRS"
            )

    def draw_lrs(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Conductances (S) of so many devices that are stuck in their low resistance state."""
        # the tail below zero, 4e-9 of the draws, is folded back: no conductance is negative
        return np.abs(self.lrs_mean + self.lrs_spread * rng.standard_normal(count))

    def draw_hrs(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Conductances (S) of so many devices that are stuck in their high resistance state."""
        return rng.uniform(self.hrs_min, self.hrs_max, count)


@dataclass(frozen=True)
class TransferStatistics:
    """All that `transfer` does to targets; a source that is None is off.

    Attributes
    ----------
    tuning, drift, stuck
        The three sources, by default with the authors' values.
    window
        Targets (S) that the statistics are valid for; others are refused. The authors' own mapping takes each device
        of a pair from -400 to 400 uS; to repeat it, widen the window.
    """

    tuning: TuningImprecision | None = field(default_factory=TuningImprecision)
    drift: HalfSelectDrift | None = field(default_factory=HalfSelectDrift)
    stuck: StuckCells | None = field(default_factory=StuckCells)
    window: tuple[float, float] = (100e-6, 500e-6)

    def only(self, *sources: Literal["tuning", "drift", "stuck"]) -> TransferStatistics:
        """The same with all other sources off; without arguments a perfect transfer."""
        unknown = set(sources) - {"tuning", "drift", "stuck"}
        if unknown:
            raise ValueError(f"sources are tuning, drift and stuck, not {', '.join(sorted(unknown))}")
        return replace(
            self,
            tuning=self.tuning if "tuning" in sources else None,
            drift=self.drift if "drift" in sources else None,
            stuck=self.stuck if "stuck" in sources else None,
        )

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each part comes from, or what was assumed."""
        database = "half-select database of the authors of arXiv:2305.18495"
        return {
            "tuning": "fit in the code of the authors of arXiv:2305.18495",
            "drift": f"quantiles derived from the {database}"
            if self.drift is None or self.drift.moments == "measured"
            else f"shape of the {database}, mean and deviation by a closed form fitted to it",
            "drift after more than 40 events": "assumed the same as after 40: fewer than 70 measurements each",
            "stuck": "rates and values in the code of the authors of arXiv:2305.18495",
            "independence": "assumed: no correlation between devices, nor between the sources",
        }


@dataclass(frozen=True)
class Transfer:
    """Conductances that arrived: arrays ``[..., row, column]`` or ``[..., device]``, as the targets were.

    Attributes
    ----------
    conductance
        Achieved conductance (S), of the type of the targets.
    stuck_lrs, stuck_hrs
        Devices that are stuck, and so hold another value than was written.
    """

    conductance: Reals
    stuck_lrs: BoolArray
    stuck_hrs: BoolArray


def transfer(
    targets: Reals,
    statistics: TransferStatistics,
    rng: np.random.Generator,
    *,
    draws: int | tuple[int, ...] = (),
    events: ArrayLike | None = None,
) -> Transfer:
    """Write targets into arrays, and say what is in the arrays when the last device is written.

    Parameters
    ----------
    targets
        Conductances (S), ``[..., row, column]`` or ``[..., device]``; float32 stays float32, all else is float64.
    statistics
        What disturbs.
    rng
        Source of all draws. ``numpy.random.SFC64`` is the fastest.
    draws
        Independent transfers of the same targets: leading axes of the result.
    events
        Later programming events of each device, ``events_after(order)`` or any count; broadcast against `targets`. By
        default all targets are one sequence, written in the order of memory (row by row).

    Raises
    ------
    DeviceLimitError
        For a target outside the window, or not a number; with its index.
    ValueError
        If `events` are not counts, or do not fit the targets.
    """
    goal = _checked_targets(targets, statistics.window)
    later = events_after(np.arange(goal.size).reshape(goal.shape)) if events is None else _checked_events(events, goal)
    leading = (draws,) if isinstance(draws, int) else tuple(draws)
    conductance = np.empty((*leading, *goal.shape), dtype=goal.dtype)
    flat = conductance.reshape(-1, max(goal.size, 1))
    per_block = max(1, _BLOCK // max(goal.size, 1))
    for first in range(0, len(flat), per_block):
        _write(flat[first : first + per_block], goal.ravel(), later.ravel(), statistics, rng)
    lrs, hrs = np.zeros(conductance.shape, dtype=bool), np.zeros(conductance.shape, dtype=bool)
    if statistics.stuck is not None:
        _stick(conductance, lrs, hrs, statistics.stuck, rng)
    return Transfer(conductance, lrs, hrs)


def events_after(order: ArrayLike) -> EventArray:
    """How many programming events follow on that of each device of one sequence.

    Parameters
    ----------
    order
        Position of each device in the sequence, of any shape: 0 is written first, n - 1 last.

    Returns
    -------
    EventArray
        ``n - 1 - order``: the device written first suffers most, the last one not at all.
    """
    positions = np.asarray(order)
    if not np.array_equal(np.sort(positions, axis=None), np.arange(positions.size)):
        raise ValueError(f"an order holds each of 0 ... {positions.size - 1} once")
    return positions.size - 1 - positions.astype(np.int64)


def drift_mean(events: ArrayLike) -> FloatArray:
    """Mean change (S) after so many later events: ``-(1.16 + 0.224 k) uS``, 0 for none; a fit of the database."""
    k = np.asarray(events, dtype=float)
    return np.where(k > 0, -1e-6 * (1.16 + 0.224 * k), 0.0)


def drift_deviation(events: ArrayLike) -> FloatArray:
    """Standard deviation of the change (S) after so many later events: ``6.60 k^0.28 uS``; a fit of the database."""
    return 6.60e-6 * np.asarray(events, dtype=float) ** 0.28


@lru_cache(maxsize=16)
def drift_table(drift: HalfSelectDrift) -> FloatArray:
    """The drift as a table of equally likely changes (S), ``[k, level]``, k from 0 to 40; not to be written to.

    A draw after k later events is ``table[min(k, 40), level]`` with a random level: the inverse distribution function
    at `DRIFT_LEVELS` mid-points. Between the values of k that are in the file the inverse distribution functions are
    interpolated linearly.
    """
    levels, counts, values = _measured_quantiles()
    uniform = (np.arange(DRIFT_LEVELS) + 0.5) / DRIFT_LEVELS
    at_counts = np.array([np.interp(uniform, levels, row) for row in values])
    k = np.arange(1, counts[-1] + 1)
    above = np.maximum(np.searchsorted(counts, k), 1)
    share = ((k - counts[above - 1]) / (counts[above] - counts[above - 1]))[:, None]
    changes = (1 - share) * at_counts[above - 1] + share * at_counts[above]
    if drift.moments == "closed form":
        standard = (changes - changes.mean(axis=1, keepdims=True)) / changes.std(axis=1, keepdims=True)
        changes = drift_mean(k)[:, None] + drift_deviation(k)[:, None] * standard
    if drift.outlier is not None:
        far = np.abs(changes[0] - drift.outlier_mean) > drift.outlier_deviations * drift.outlier_sigma
        changes[0, far] = drift.outlier
    table = np.vstack([np.zeros(DRIFT_LEVELS), changes])
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def _measured_quantiles() -> tuple[FloatArray, EventArray, FloatArray]:
    """Levels, event counts, and changes (S) ``[count, level]`` of the file of measured distributions."""
    content = np.loadtxt(Path(__file__).with_name("half_select_drift.csv"), delimiter=",")
    return content[0, 1:], content[1:, 0].astype(np.int64), 1e-6 * content[1:, 1:]


@lru_cache(maxsize=16)
def _flat_table(drift: HalfSelectDrift, dtype: np.dtype[np.floating[Any]]) -> Reals:
    return drift_table(drift).astype(dtype).ravel()


def _checked_targets(targets: Reals, window: tuple[float, float]) -> Reals:
    given = np.asarray(targets)
    if np.iscomplexobj(given):
        raise DeviceLimitError("targets are real conductances (S), not complex ones")
    goal = given if given.dtype in (np.float32, np.float64) else given.astype(np.float64)
    slack = 1e-6 * max(abs(window[0]), abs(window[1]))  # of float32
    wrong = ~((goal >= window[0] - slack) & (goal <= window[1] + slack))
    if np.any(wrong):
        index = tuple(int(part) for part in np.argwhere(wrong)[0])
        raise DeviceLimitError(
            f"target of device {list(index)} is {1e6 * goal[index]:.4g} uS; the statistics are valid from "
            f"{1e6 * window[0]:.4g} to {1e6 * window[1]:.4g} uS"
        )
    return goal


def _checked_events(events: ArrayLike, goal: Reals) -> EventArray:
    counts = np.asarray(events)
    if not np.issubdtype(counts.dtype, np.integer) or np.any(counts < 0):
        raise ValueError("later programming events are whole numbers, not negative")
    try:
        return np.broadcast_to(counts, goal.shape).astype(np.int64)
    except ValueError:
        raise ValueError(f"events of shape {counts.shape} do not fit targets of shape {goal.shape}") from None


def _write(
    into: Reals, goal: Reals, later: EventArray, statistics: TransferStatistics, rng: np.random.Generator
) -> None:
    """Fill ``into[draw, device]`` with written and drifted conductances."""
    tuning = statistics.tuning
    if tuning is None:
        into[...] = goal
    else:
        # One normal draw does for both: a sum of two is normal, and their product is 2e-5 of the conductance at most.
        rng.standard_normal(dtype=into.dtype, out=into)
        into *= tuning.deviation(goal)
        into += tuning.mean(goal)
    if statistics.drift is not None:
        table = _flat_table(statistics.drift, into.dtype)
        rows = DRIFT_LEVELS * np.minimum(later, table.size // DRIFT_LEVELS - 1)
        level = rng.integers(0, DRIFT_LEVELS, into.shape, dtype=np.uint16)
        into += np.take(table, rows + level, mode="clip")


def _stick(conductance: Reals, lrs: BoolArray, hrs: BoolArray, stuck: StuckCells, rng: np.random.Generator) -> None:
    rate = stuck.rate_lrs + stuck.rate_hrs
    places = _random_places(conductance.size, rate, rng)
    low = rng.random(len(places)) * rate < stuck.rate_lrs
    for mask, chosen, draw in ((lrs, places[low], stuck.draw_lrs), (hrs, places[~low], stuck.draw_hrs)):
        mask.reshape(-1)[chosen] = True
        conductance.reshape(-1)[chosen] = draw(len(chosen), rng)


def _random_places(size: int, rate: float, rng: np.random.Generator) -> EventArray:
    """Indices of the successes among `size` independent trials: the gaps between them are geometric."""
    places = np.zeros(0, dtype=np.int64)
    last = -1 if rate > 0 else size
    while last < size:
        expected = rate * (size - last)
        gaps = rng.geometric(rate, int(expected + 6 * np.sqrt(expected)) + 8)
        more = last + np.cumsum(np.minimum(gaps, size + 1))
        places = np.concatenate([places, more])
        last = int(more[-1])
    return places[places < size]
