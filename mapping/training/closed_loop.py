"""The closed loop for a die: find its stuck cells, place the network so that they hurt least, train it for them.

What the loop may use is what can be measured: readings of the cells, and training points. Every cell that is written
or read for that is counted (`Effort`). All functions work on many dies at once; arrays of devices are ``[die, 2, 32]``.

The measures, each of which can be left out (`Measures`):

* *partner*: the other device of a pair makes up for a stuck one, as far as its range goes (the next two need it);
* *placement*: hidden units are permuted over the columns and turned over (``s(-z) = 1 - s(z)``: all weights of the
  unit change sign, and its output weight is added to the digital bias), so that stuck cells meet weights that suit;
* *training*: where a weight still cannot be reached, some more epochs for that die, its stuck cells fixed, with the
  noise of a transfer;
* *order*: within each tensor the weights that matter most are written last, where they drift least;
* *bias*: after the transfer all devices are read, and the digital output bias is set anew for what arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mapping.placement.differential_pairs import (
    DEVICES,
    HIDDEN,
    TENSORS,
    WEIGHTS,
    PairMap,
    as_authors_count,
    events_by_tensor,
    events_in_one_array,
    per_weight,
    scales,
    weight_of_unit,
)
from mapping.training.moon_kernels import all_logits
from mapping.training.moon_training import Batch, Recipe, Report, train
from mapping.training.moons import Moons, Points
from mapping.training.transfer_metrics import Outcome, classify, with_bias
from mapping.writing.conductance_targets import READ_NOISE
from sim_backends.array.dies.statistics import StuckCells, TransferStatistics, transfer

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MISSED = 0.02
"""What a weight may miss, in units of its scale: as much as the tuning imprecision of its two devices."""
FINE_TUNING = Recipe(tuning=True, drift=True, epochs=60, rate=0.03, rate_end=0.01, parts=4)
"""Training for one die. Five times as long is no better up to 10 % of stuck devices, and hardly beyond."""


@dataclass(frozen=True)
class Measures:
    """What the loop does; `Measures()` is all of it."""

    partner: bool = True
    placement: bool = True
    training: bool = True
    order: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        if not self.partner and (self.placement or self.training):
            raise ValueError("placement and training for a die count on the partners of stuck devices: leave them in")


@dataclass(frozen=True)
class Effort:
    """What the loop costs on each die, beside the one writing that every transfer takes.

    Attributes
    ----------
    writes, reads
        Devices written and read to find the stuck ones, and read after the transfer to set the bias.
    """

    writes: int
    reads: int


@dataclass(frozen=True, eq=False)
class DiePlan:
    """What is to be written into each die.

    Attributes
    ----------
    networks
        ``[die, 33]``, units in the order of the columns.
    scale
        ``[die, 3]``.
    targets
        Conductances to write (S), ``[die, 2, 32]``; of stuck devices what they hold.
    events
        Later programming events of each device, ``[die, 2, 32]``.
    """

    networks: Float32Array
    scale: FloatArray
    targets: FloatArray
    events: IntArray


def draw_stuck(law: StuckCells, dies: int, rng: np.random.Generator) -> FloatArray:
    """Draw the stuck devices of dies: conductance (S) ``[die, 2, 32]``, NaN where a device works."""
    where = rng.random((dies, 2, WEIGHTS))
    stuck = np.full(where.shape, np.nan)
    lrs, hrs = where < law.rate_lrs, (where >= law.rate_lrs) & (where < law.rate_lrs + law.rate_hrs)
    stuck[lrs] = law.draw_lrs(int(lrs.sum()), rng)
    stuck[hrs] = law.draw_hrs(int(hrs.sum()), rng)
    return stuck


def find_stuck(after_low: FloatArray, after_high: FloatArray, kind: PairMap, moves: float = 0.5) -> FloatArray:
    """Devices that do not follow what is written, from readings after writing all low and all high.

    A device is stuck if its readings differ by less than a share `moves` of the window. Returns the mean of its
    readings (S), ``[..., 2, 32]``, NaN where it works.
    """
    for name, read in (("low", after_low), ("high", after_high)):
        if not np.all(np.isfinite(read)):
            *die, side, weight = (int(part) for part in np.argwhere(~np.isfinite(read))[0])
            raise ValueError(
                f"die {die}: {'G-' if side else 'G+'} of weight {weight} reads no number after writing all {name}; "
                "read it again"
            )
    follows = after_high - after_low >= moves * kind.span
    return np.where(follows, np.nan, 0.5 * (after_low + after_high))


def measure_stuck(
    stuck: FloatArray, kind: PairMap, statistics: TransferStatistics, rng: np.random.Generator
) -> FloatArray:
    """Write every device of dies low and read, write it high and read, and find the stuck ones.

    `stuck` is what the dies are; what comes back is what was found of it, with the errors of writing and reading.
    """
    readings = []
    for target in (kind.low, kind.high):
        written = _written(np.full(stuck.shape, target), stuck, kind, statistics, events_by_tensor(), 1, rng)[0]
        readings.append(written * (1 + READ_NOISE * rng.standard_normal(stuck.shape)))
    return find_stuck(readings[0], readings[1], kind)


def plan(
    network: NDArray[Any],
    found: FloatArray,
    kind: PairMap,
    moons: Moons,
    statistics: TransferStatistics,
    measures: Measures = Measures(),
    *,
    recipe: Recipe = FINE_TUNING,
    one_sequence: bool = False,
    seed: int = 0,
    report: Report | None = None,
    threads: int | None = None,
) -> DiePlan:
    """Adapt one network to each of many dies, from what was found stuck on them.

    Parameters
    ----------
    network
        ``[33]``.
    found
        Stuck devices as `measure_stuck` gives them.
    kind, moons, statistics
        Map, points to train with, and what a transfer does to the devices that work.
    measures
        What to do.
    recipe
        Of the training for a die. Only dies are trained on which a weight misses its value by more than `MISSED`: on
        the others the network, trained for all transfers, is better as it is.
    one_sequence
        Whether all 64 devices are written as one sequence, as in a real array, instead of each tensor by itself.
    seed
        Of its draws.
    """
    matters = sensitivity(network, moons.train)
    placed = np.broadcast_to(network, (len(found), len(network))).astype(np.float32)
    if measures.placement:
        placed = place(network, found, kind, matters)
    scale: FloatArray = scales(placed[:, :WEIGHTS]).astype(np.float64)
    events = np.broadcast_to(events_in_one_array() if one_sequence else events_by_tensor(), found.shape)
    if measures.order:
        events = events_by_sensitivity(np.stack([sensitivity(one, moons.train) for one in placed]), one_sequence)
    known = found if measures.partner else np.full(found.shape, np.nan)
    short = missed(placed, scale, found, kind) > MISSED
    if measures.training and short.any():
        placed = placed.copy()
        placed[short] = _trained(
            placed[short],
            found[short],
            kind,
            moons,
            statistics,
            events[short],
            scale[short],
            recipe,
            seed,
            report,
            threads,
        )
    targets = kind.compensated(placed[:, :WEIGHTS].astype(np.float64), scale, known)
    return DiePlan(placed, scale, np.clip(targets, *kind.window).astype(np.float64), events)


def _trained(
    placed: Float32Array, found: FloatArray, kind: PairMap, moons: Moons, statistics: TransferStatistics,
    events: IntArray, scale: FloatArray, recipe: Recipe, seed: int, report: Report | None, threads: int | None,
) -> Float32Array:  # fmt: skip
    dies = len(found)
    batch = Batch(placed, [seed] * dies, [recipe] * dies, [kind] * dies, found, scale, events)
    return train(batch, moons, statistics, report=report, threads=threads)


def run(
    plan: DiePlan,
    stuck: FloatArray,
    kind: PairMap,
    moons: Moons,
    statistics: TransferStatistics,
    *,
    transfers: int,
    seed: int,
    bias: bool = True,
) -> Outcome:
    """Transfer each die's network so many times into it, and classify the test points each time.

    Parameters
    ----------
    plan
        Of the dies.
    stuck
        What the dies are (`draw_stuck`).
    transfers
        Of each die.
    seed
        Of all draws.
    bias
        Whether the output bias is set anew for what arrived, as read with `READ_NOISE`.
    """
    rng = np.random.Generator(np.random.SFC64([seed, 4]))
    g = _written(plan.targets, stuck, kind, statistics, plan.events, transfers, rng)
    return judge(plan, g, kind, moons, rng, bias=bias)


def judge(
    plan: DiePlan, g: FloatArray, kind: PairMap, moons: Moons, rng: np.random.Generator, *, bias: bool = True
) -> Outcome:
    """Classify the test points with what the devices of dies hold, ``g[transfer, die, 2, 32]`` (S).

    `rng` is the source of the read noise with which the bias is set, see `run`.
    """
    networks = with_bias(kind.weights(g, plan.scale), plan.networks[:, WEIGHTS])
    if bias:
        read = g * (1 + READ_NOISE * rng.standard_normal(g.shape))
        seen = with_bias(kind.weights(read, plan.scale), plan.networks[:, WEIGHTS])
        networks[..., WEIGHTS] = fitted_bias(seen.reshape(-1, seen.shape[-1]), moons.train).reshape(networks.shape[:-1])
    right, accuracy = classify(networks.reshape(-1, networks.shape[-1]), moons.test)
    return Outcome(right, accuracy, float(classify(plan.networks, moons.test)[1].mean()))


def _written(
    targets: FloatArray, stuck: FloatArray, kind: PairMap, statistics: TransferStatistics, events: IntArray,
    transfers: int, rng: np.random.Generator,
) -> FloatArray:  # fmt: skip
    """What the devices of dies hold after each transfer, ``[transfer, die, 2, 32]``."""
    law = replace(statistics, stuck=None, window=kind.window)
    found = transfer(targets, law, rng, draws=transfers, events=events).conductance
    return np.where(np.isnan(stuck), found, stuck)


def missed(networks: NDArray[Any], scale: FloatArray, found: FloatArray, kind: PairMap) -> FloatArray:
    """How far the worst weight of each network ``[die, 33]`` is out of the reach of its pair, in units of its scale."""
    relative = networks[:, :WEIGHTS] / per_weight(scale)
    low, high = kind.reach(found)
    out: FloatArray = np.maximum(np.maximum(low - relative, relative - high), 0).max(axis=-1)
    return out


def sensitivity(network: NDArray[Any], points: Points) -> FloatArray:
    """What an error of each weight costs, ``[32]``: mean of ``p (1 - p) (dz/dr)^2``, r the weight over its scale."""
    w = network.astype(np.float64)
    unit = weight_of_unit()
    hidden = 1 / (1 + np.exp(-(points.x @ w[unit[:, :2]].T + w[unit[:, 2]])))  # [point, unit]
    p = 1 / (1 + np.exp(-(hidden @ w[unit[:, 3]] + w[WEIGHTS])))
    inner = hidden * (1 - hidden) * w[unit[:, 3]]
    slope = np.empty((len(points), WEIGHTS))
    slope[:, unit[:, 0]], slope[:, unit[:, 1]] = inner * points.x[:, :1], inner * points.x[:, 1:]
    slope[:, unit[:, 2]], slope[:, unit[:, 3]] = inner, hidden
    out: FloatArray = ((p * (1 - p)) @ slope**2) / len(points) * per_weight(scales(w[:WEIGHTS])) ** 2
    return out


def place(network: NDArray[Any], found: FloatArray, kind: PairMap, matters: FloatArray) -> Float32Array:
    """Permute and turn over the hidden units for each die, ``[die, 33]``, so that what cannot be reached costs least.

    Parameters
    ----------
    matters
        `sensitivity` of the network.
    """
    unit = weight_of_unit()
    relative = (network[:WEIGHTS] / per_weight(scales(network[:WEIGHTS])))[unit]  # [unit, part]
    low, high = (bound[:, unit] for bound in kind.reach(found))  # [die, column, part]
    cost = np.stack([_misfit(sign * relative, low, high, matters[unit]) for sign in (1, -1)])
    turned = cost[1] < cost[0]  # [die, unit, column]
    placed = np.empty((len(found), len(network)), np.float32)
    for die, costs in enumerate(np.minimum(*cost)):
        holds = linear_sum_assignment(costs.T)[1]  # unit in each column
        placed[die] = arranged(network, holds, turned[die, holds, np.arange(HIDDEN)])
    return placed


def _misfit(relative: FloatArray, low: FloatArray, high: FloatArray, matters: FloatArray) -> FloatArray:
    """Cost ``[die, unit, column]`` of what pairs cannot reach."""
    wanted = relative[None, :, None, :]
    missed = np.maximum(np.maximum(low[:, None] - wanted, wanted - high[:, None]), 0)
    cost: FloatArray = (matters[None, :, None, :] * missed**2).sum(axis=-1)
    return cost


def arranged(network: NDArray[Any], holds: IntArray, turned: BoolArray) -> NDArray[Any]:
    """The same network with other units in the columns, ``[33]``.

    Parameters
    ----------
    holds
        Unit in each column.
    turned
        Whether it is turned over, ``[column]``.
    """
    unit = weight_of_unit()
    out = network.copy()
    out[unit] = network[unit[holds]] * np.where(turned, -1, 1)[:, None]
    out[WEIGHTS] = network[WEIGHTS] + network[unit[holds, 3]][turned].sum()
    return out


def events_by_sensitivity(matters: FloatArray, one_sequence: bool = False) -> IntArray:
    """Later events of each device ``[..., 2, 32]`` if what matters more is written later.

    Parameters
    ----------
    matters
        Sensitivity of each weight, ``[..., 32]``.
    one_sequence
        Whether all devices are one sequence, in which the two of a pair follow each other; else each tensor is one, and
        later events are counted as in `events_by_tensor`, so that orders can be compared.
    """
    rank = np.empty(matters.shape, np.int64)
    for part in (slice(0, WEIGHTS),) if one_sequence else TENSORS:
        count = part.stop - part.start
        rank[..., part] = count - 1 - np.argsort(np.argsort(matters[..., part], axis=-1), axis=-1)
    if one_sequence:
        return np.stack([2 * rank + 1, 2 * rank], axis=-2)
    return as_authors_count(np.stack([rank, rank], axis=-2))


def fitted_bias(networks: Float32Array, points: Points, steps: int = 8) -> FloatArray:
    """Output bias ``[network]`` with the lowest cross-entropy over points for networks ``[network, 33]`` (Newton)."""
    z = np.empty((len(networks), len(points)), np.float32)
    x = np.ascontiguousarray(points.x.T, np.float32)
    all_logits(networks, x[0], x[1], z)
    shift = np.zeros((len(networks), 1))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(z + shift)))
        slope = (p - points.label).mean(axis=1, keepdims=True)
        shift -= np.clip(slope / np.maximum((p * (1 - p)).mean(axis=1, keepdims=True), 1e-4), -2, 2)
    return networks[:, WEIGHTS] + shift[:, 0]


def effort(measures: Measures) -> Effort:
    """What the loop costs on each die."""
    return Effort(2 * DEVICES * measures.partner, 2 * DEVICES * measures.partner + DEVICES * measures.bias)
