"""Training 2-8-1 networks for arrays that are written inexactly, disturbed and partly stuck; many at once.

The techniques are those of the authors of arXiv:2305.18495, each of them a field of `Recipe`: stuck devices drawn anew
in every step ("dropout"), tuning imprecision and drift with gradients that pass straight through, and weight decay.
Networks of all recipes and seeds train side by side; those of one seed see the same points in the same order and the
same draws, so that recipes differ in nothing else. Loops over steps are compiled (`mapping.training.moon_kernels`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.placement.differential_pairs import (
    DEVICES,
    HIDDEN,
    INPUTS,
    PARAMETERS,
    WEIGHTS,
    PairMap,
    events_by_tensor,
)
from mapping.training import moon_kernels
from mapping.training.moons import Moons, Points
from sim_backends.array.dies.statistics import TransferStatistics, drift_table

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
Report = Callable[[str, float], None]

BATCH = 256
EPOCHS = 10_000
_BLOCK = 250  # epochs whose draws are made at once


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; defaults are the authors' regular network.

    Attributes
    ----------
    tuning, drift, stuck_lrs, stuck_hrs
        Which disturbances a step meets; all of them are those of a transfer.
    decay
        Weight decay; the authors' hardware-aware network has 1e-4.
    patience
        Epochs without a lower loss at the validation points after which training stops, and the network with the
        lowest one is taken; 0: trains to the end.
    epochs, rate
        Number of epochs and rate of Adam.
    rate_end
        Part of the rate that is left at the end (it falls with a half cosine); 1: constant, as the authors have it.
    parts
        Virtual transfers in a step; each meets a part of the batch. The authors have one.
    """

    tuning: bool = False
    drift: bool = False
    stuck_lrs: bool = False
    stuck_hrs: bool = False
    decay: float = 0.0
    patience: int = 0
    epochs: int = EPOCHS
    rate: float = 0.1
    rate_end: float = 1.0
    parts: int = 1

    @property
    def rates(self) -> Float32Array:
        """Rate of each epoch."""
        cosine = 0.5 + 0.5 * np.cos(np.pi * (np.arange(self.epochs) + 0.5) / self.epochs)
        return (self.rate * (self.rate_end + (1 - self.rate_end) * cosine)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Batch:
    """Networks that train side by side, with what they are trained for.

    Attributes
    ----------
    weights
        To start with, ``[network, 33]``.
    seeds
        Each network's seed of order and draws, ``[network]``.
    recipes
        Of each network.
    maps
        Of each network.
    fixed
        Devices known to be stuck, ``[network, 2, 32]`` (S), NaN where none; None: nothing is known.
    scale
        With `fixed`: scale of each tensor, ``[network, 3]``, which then does not follow the weights.
    events
        Later programming events of each device, ``[2, 32]`` or one for each network.
    """

    weights: Float32Array
    seeds: Sequence[int]
    recipes: Sequence[Recipe]
    maps: Sequence[PairMap]
    fixed: NDArray[Any] | None = None
    scale: NDArray[Any] | None = None
    events: NDArray[Any] = field(default_factory=events_by_tensor)


def fresh_weights(seed: int) -> Float32Array:
    """Xavier-uniform weights and biases of 0.01, ``[33]``, as the authors start."""
    rng = np.random.default_rng([seed, 1])
    first = rng.uniform(-1, 1, INPUTS * HIDDEN) * np.sqrt(6 / (INPUTS + HIDDEN))
    second = rng.uniform(-1, 1, HIDDEN) * np.sqrt(6 / (HIDDEN + 1))
    return np.concatenate([first, np.full(HIDDEN, 0.01), second, [0.01]]).astype(np.float32)


def train(
    batch: Batch,
    moons: Moons,
    statistics: TransferStatistics | None = None,
    *,
    report: Report | None = None,
    threads: int | None = None,
) -> Float32Array:
    """Train all networks of a batch, ``[network, 33]``.

    Parameters
    ----------
    batch
        Networks and recipes.
    moons
        Points to train with; validation points are looked at by recipes with patience only.
    statistics
        What disturbs, where a recipe asks for it; by default everything as measured.
    report
        Told what is done and its share, from time to time.
    threads
        Threads; by default as many as there are processors. The result does not depend on it.

    Raises
    ------
    ValueError
        If the parts of the batch do not fit each other.
    """
    count = len(batch.weights)
    if not len(batch.seeds) == len(batch.recipes) == len(batch.maps) == count:
        raise ValueError("a batch has as many seeds, recipes and maps as networks")
    trainers = [_Trainer.of(batch, n, moons, statistics or TransferStatistics()) for n in range(count)]
    groups = {(seed, recipe.parts) for seed, recipe in zip(batch.seeds, batch.recipes, strict=True)}
    longest = max(recipe.epochs for recipe in batch.recipes)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        sources = {
            group: _Draws.of(*group, moons.train, statistics or TransferStatistics()) for group in sorted(groups)
        }
        for first in range(0, longest, _BLOCK):
            if report is not None:
                report(f"training {count} networks", first / longest)
            epochs = min(_BLOCK, longest - first)
            blocks = pool.map(_Draws.block, sources.values(), [epochs] * len(sources))
            drawn = dict(zip(sources, blocks, strict=True))
            own = [drawn[trainer.seed, trainer.recipe.parts] for trainer in trainers]
            list(pool.map(_Trainer.advance, trainers, own, [first] * count))
    return np.stack([trainer.result for trainer in trainers])


@dataclass(eq=False)
class _Block:
    """Draws of some epochs: order ``[epoch, point]``, and of every transfer ``[transfer, 64]``."""

    order: NDArray[np.int32]
    normal: Float32Array
    level: NDArray[np.uint16]
    stuck: Float32Array
    kind: NDArray[np.uint8]


@dataclass(eq=False)
class _Draws:
    """Source of the draws that all networks of one seed share."""

    rng: np.random.Generator
    points: int
    parts: int
    statistics: TransferStatistics

    @classmethod
    def of(cls, seed: int, parts: int, points: Points, statistics: TransferStatistics) -> _Draws:
        """From the first epoch on."""
        rng = np.random.Generator(np.random.SFC64([seed, 2, parts]))
        return cls(rng, len(points), parts, statistics)

    def block(self, epochs: int) -> _Block:
        """Draw for the next epochs."""
        shape = (epochs * -(-self.points // BATCH) * self.parts, DEVICES)
        order = self.rng.permuted(np.tile(np.arange(self.points, dtype=np.int32), (epochs, 1)), axis=1)
        normal = self.rng.standard_normal(shape, dtype=np.float32)
        level = self.rng.integers(0, drift_levels(self.statistics), shape, dtype=np.uint16)
        kind, stuck = np.zeros(shape, np.uint8), np.full(shape, np.nan, np.float32)
        law = self.statistics.stuck
        if law is not None:
            place = self.rng.random(shape, dtype=np.float32)
            kind[place < law.rate_lrs + law.rate_hrs] = moon_kernels.HRS
            kind[place < law.rate_lrs] = moon_kernels.LRS
            for number, draw in ((moon_kernels.LRS, law.draw_lrs), (moon_kernels.HRS, law.draw_hrs)):
                chosen = kind == number
                stuck[chosen] = draw(int(np.count_nonzero(chosen)), self.rng)
        return _Block(order, normal, level, stuck, kind)


def drift_levels(statistics: TransferStatistics) -> int:
    """Number of equally likely values of the drift; 1 if there is none."""
    return 1 if statistics.drift is None else drift_table(statistics.drift).shape[1]


@dataclass(eq=False)
class _Trainer:
    """One network and the arguments of its kernel."""

    seed: int
    recipe: Recipe
    weights: Float32Array
    moments: Float32Array
    best: Float32Array
    progress: NDArray[np.float64]
    data: tuple[Float32Array, ...]
    laws: tuple[Any, ...]
    known: tuple[Float32Array, ...]

    @classmethod
    def of(cls, batch: Batch, n: int, moons: Moons, statistics: TransferStatistics) -> _Trainer:
        recipe, kind = batch.recipes[n], batch.maps[n]
        weights = batch.weights[n].astype(np.float32)
        fixed = np.full((2, WEIGHTS), np.nan) if batch.fixed is None else batch.fixed[n]
        scale = np.zeros(3) if batch.scale is None else batch.scale[n]
        known = (fixed.reshape(DEVICES), scale, np.stack(kind.reach(fixed)))
        events = np.broadcast_to(batch.events, (len(batch.weights), 2, WEIGHTS))[n].reshape(DEVICES)
        laws = _laws(recipe, kind, statistics, events)
        return cls(
            seed=batch.seeds[n],
            recipe=recipe,
            weights=weights,
            moments=np.zeros((2, PARAMETERS), np.float32),
            best=weights.copy(),
            progress=np.array([0.0, np.inf, 0.0, 0.0]),
            data=(*_as_arrays(moons.train), *_as_arrays(moons.validation)),
            laws=laws,
            known=tuple(np.ascontiguousarray(part, np.float32) for part in known),
        )

    @property
    def result(self) -> Float32Array:
        """The trained network, ``[33]``."""
        return self.best if self.recipe.patience else self.weights

    def advance(self, block: _Block, first: int) -> None:
        """Train for the epochs of a block, the first of which is `first`; fewer if the recipe ends in it."""
        rates = self.recipe.rates[first : first + len(block.order)]
        if not rates.size:
            return
        low, span, tuning, drifts, sticks, table, events = self.laws
        moon_kernels.train(
            self.weights, self.moments, self.best, self.progress, *self.data, block.order[: rates.size], BATCH,
            self.recipe.parts, rates, np.float32(self.recipe.decay), self.recipe.patience, low, span, tuning, drifts,
            sticks, block.normal, block.level, table, events, block.stuck, block.kind, *self.known,
        )  # fmt: skip


def _as_arrays(points: Points) -> tuple[Float32Array, Float32Array]:
    """Coordinates ``[2, point]`` and classes ``[point]``."""
    return np.ascontiguousarray(points.x.T, np.float32), points.label.astype(np.float32)


def _laws(recipe: Recipe, kind: PairMap, statistics: TransferStatistics, events: NDArray[Any]) -> tuple[Any, ...]:
    """What the kernel takes of map and statistics, where the recipe asks for it."""
    tuning = np.array([1, 0, 0, 0], np.float32)
    if recipe.tuning and statistics.tuning is not None:
        law = statistics.tuning
        tuning = np.array([1 + law.offset, law.offset_spread, law.slope, law.intercept], np.float32)
    drifts = recipe.drift and statistics.drift is not None
    table = np.zeros((1, 1), np.float32) if statistics.drift is None else _table(statistics)
    sticks = moon_kernels.LRS * recipe.stuck_lrs + moon_kernels.HRS * recipe.stuck_hrs
    later = np.minimum(events, len(table) - 1).astype(np.int64)
    return np.float32(kind.low), np.float32(kind.span), tuning, drifts, sticks, table, later


def _table(statistics: TransferStatistics) -> Float32Array:
    assert statistics.drift is not None
    return drift_table(statistics.drift).astype(np.float32)


ALL_SOURCES = Recipe(tuning=True, drift=True, stuck_lrs=True, stuck_hrs=True)
PUBLISHED = replace(ALL_SOURCES, decay=1e-4)
"""The authors' hardware-aware network: one virtual transfer in a step, constant rate, decay 1e-4."""
ALL_TECHNIQUES = replace(ALL_SOURCES, decay=1e-5, parts=8, rate_end=0.01)
"""Ours: each step averages over 8 virtual transfers (an option of the authors' code) and the rate falls, so that the
end is no longer one draw's; then a tenth of the decay is enough, and the boundary does not become straight."""

RECIPES: dict[str, Recipe] = {
    "regular": Recipe(),
    "early-stopped": Recipe(patience=100),
    "no noise, schedule of all": replace(
        ALL_TECHNIQUES, tuning=False, drift=False, stuck_lrs=False, stuck_hrs=False, parts=1
    ),
    "decay": Recipe(decay=PUBLISHED.decay),
    "tuning": Recipe(tuning=True),
    "drift": Recipe(drift=True),
    "stuck": Recipe(stuck_lrs=True, stuck_hrs=True),
    "stuck HRS": Recipe(stuck_hrs=True),
    "stuck LRS": Recipe(stuck_lrs=True),
    "tuning + drift": Recipe(tuning=True, drift=True),
    "tuning + stuck": replace(ALL_SOURCES, drift=False),
    "drift + stuck": replace(ALL_SOURCES, tuning=False),
    "all sources": ALL_SOURCES,
    "as published": PUBLISHED,
    "all techniques": ALL_TECHNIQUES,
}
"""The authors' list of ablations, and baselines that are not over-trained."""
