"""Training binary networks for dies that are broken, all of it batched in torch.

Every training sees the die as the digital part of the network does: pair differences in weight units of small groups
of inputs, clipped by the guard. A pair written to w gives ``A + B w``: A from cells that do not hold what is written
(a short, a dead line, scatter), B from those that do. Networks, dies and images are batched; nothing loops over dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mapping.dies.defects import DefectStatistics, DieSampler
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import LayerPlacement, Placement
from mapping.training.emulation import cell_arrays, weight_unit
from mapping.training.mnist import Images, Labels, pool
from mapping.training.network import BinaryNetwork, Layer

Report = Callable[[str, float], None]

_EPSILON = 1e-5
#: Augmented versions of the training set, made once; each image of a batch is one of them.
_VARIANTS = 24
#: Maps over which the final means and variances of the units are estimated.
_REST_MAPS = 128


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: these matrices are small, and threads that spin for them cost more than they give.

    Measured on two cores with another program running: two threads took 18 times as long as one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Architecture:
    """Shape of the network and how it is read.

    The defaults fill 19,000 of 20,000 cells: the 75 of 196 pixels that vary most carry nearly all there is (the border
    is dark), which leaves room for a hundred hidden units and a second copy of the layer whose defects hurt most.
    """

    inputs: int = 75
    hidden: int = 100
    copies: tuple[int, int] = (1, 2)
    rows_per_multiply: tuple[int | None, int | None] = (5, 2)


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes
    ----------
    epochs : int
    maps : int
        Dies in a batch (1 where there are none to draw).
    images : int
        Images that each die of a batch sees.
    rate : float
        Largest learning rate of a one-cycle schedule.
    augmentation : float
        Strength of shifts, turns, scalings and shears; 1 is 0.2 rad, 10 % of the size, 10 % of scale.
    """

    epochs: int
    maps: int
    images: int
    rate: float
    augmentation: float = 0.6


UNAWARE = Recipe(epochs=100, maps=1, images=128, rate=2e-2)
DIE_AWARE = Recipe(epochs=24, maps=1, images=32, rate=7e-3)
STATISTICS_AWARE = Recipe(epochs=120, maps=8, images=16, rate=5e-2)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images to train on and the pixels that are looked at; perhaps their augmented versions (`with_variants`)."""

    images: Images
    labels: Labels
    pixels: NDArray[np.int64]
    centre: NDArray[np.float64]
    variants: Tensor | None = None


def training_set(images: Images, labels: Labels, inputs: int) -> TrainingSet:
    """Choose the `inputs` pixels that vary most over the training images; their means are the centre."""
    values = pool(images)
    pixels = np.sort(np.argsort(-values.std(axis=0), kind="stable")[:inputs])
    return TrainingSet(images, labels, pixels, values[:, pixels].mean(axis=0, dtype=float))


def with_variants(data: TrainingSet, strength: float, seed: int) -> TrainingSet:
    """The set with its augmented versions made beforehand, for many trainings; else each training makes its own."""
    with one_thread():
        return replace(data, variants=_augmented(data, strength, torch.Generator().manual_seed(seed)))


def train_unaware(
    data: TrainingSet, architecture: Architecture, geometry: ArrayGeometry, *, seed: int, recipe: Recipe, report: Report
) -> BinaryNetwork:
    """A network that knows of no defects: ideal arithmetic, whole kernels read at once, no guard."""
    trainer = _Trainer(data, architecture, geometry, seed, recipe, guard=False)
    return trainer.fit(1, lambda: _ideal(trainer.placement), report)[0]


def train_die_aware(
    data: TrainingSet,
    architecture: Architecture,
    records: Sequence[DieRecord],
    start: BinaryNetwork,
    *,
    seed: int,
    recipe: Recipe,
    report: Report,
) -> list[BinaryNetwork]:
    """One network for each die, trained on the measured record of that die; all in one batched model.

    Training starts from the weights of `start` (the unaware network), as retraining for a die would.
    """
    trainer = _Trainer(data, architecture, records[0].geometry, seed, recipe, guard=True)
    dies = die_pairs(records, trainer.placement)
    return trainer.fit(len(records), lambda: dies, report, start)


def train_statistics_aware(
    data: TrainingSet,
    architecture: Architecture,
    statistics: DefectStatistics,
    *,
    seed: int,
    recipe: Recipe,
    report: Report,
) -> BinaryNetwork:
    """One network for all dies: fresh random dies from the statistics in every batch."""
    trainer = _Trainer(data, architecture, statistics.geometry, seed, recipe, guard=True)
    draw = drawn_pairs(statistics, trainer.placement, np.random.default_rng([seed, 0x5EED]))
    return trainer.fit(1, lambda: draw(recipe.maps), report, rest=lambda: draw(_REST_MAPS))[0]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Dies as a layer sees them: pair differences ``A + B w`` in weight units, by groups of inputs.

    `a` and `b` are ``[die, copies, groups, rows, n_out]``; groups with fewer inputs are padded, the padding is driven
    with zero.
    """

    a: Tensor
    b: Tensor


def die_pairs(records: Sequence[DieRecord], placement: Placement) -> tuple[Pairs, ...]:
    """The pairs of measured dies, for every layer of a placement."""
    arrays = [cell_arrays(record) for record in records]
    units = np.array([weight_unit(record) for record in records])[:, None]
    mean, half = (np.stack([array[part] for array in arrays]) / units for part in (0, 1))
    return _pairs(mean.astype(np.float32), half.astype(np.float32), placement)


def drawn_pairs(
    statistics: DefectStatistics, placement: Placement, rng: np.random.Generator
) -> Callable[[int], tuple[Pairs, ...]]:
    """Draws the pairs of fresh dies: ``draw(count)``."""
    dies = drawn_dies(statistics, rng)

    def draw(count: int) -> tuple[Pairs, ...]:
        return pairs_of(dies(count), placement)

    return draw


def drawn_dies(statistics: DefectStatistics, rng: np.random.Generator) -> Callable[[int], DrawnDies]:
    """Draws fresh dies for networks of any placement (`pairs_of`): ``draw(count)``."""
    sampler = DieSampler(statistics, rng)
    unit = np.float32(np.exp(statistics.log_g[0]) - np.exp(statistics.log_g[1]))

    def draw(count: int) -> DrawnDies:
        mean, half = sampler(count)
        return mean / unit, half / unit

    return draw


#: Mean and half difference of the states of every cell, in units of a good cell's difference, each ``[die, cell]``.
DrawnDies = tuple[NDArray[np.float32], NDArray[np.float32]]


def pairs_of(dies: DrawnDies, placement: Placement) -> tuple[Pairs, ...]:
    """The pairs of dies that were drawn."""
    return _pairs(*dies, placement)


def emulate(
    networks: Sequence[BinaryNetwork], placement: Placement, dies: tuple[Pairs, ...], images: Images
) -> NDArray[np.int64]:
    """Digits that every network gives on every die, ``[network, die, image]``; networks of one shape and reading.

    Line resistance, bias dependence and converters are left out; `mapping.training.emulation` has the first two.
    """
    x = torch.from_numpy(networks[0].encode(images).astype(np.float32))[None]
    groups = [_Groups(layer) for layer in placement.layers]
    out = np.empty((len(networks), dies[0].a.shape[0], len(images)), np.int64)
    with torch.no_grad(), one_thread():
        for start in range(0, len(networks), _CHUNK):
            some = networks[start : start + _CHUNK]
            weights = [_stacked([n.layers[k].weights.T for n in some]) for k in (0, 1)]
            gain, offset = ([_stacked([getattr(n.layers[k], name)[None] for n in some]) for k in (0, 1)]
                            for name in ("gain", "offset"))  # fmt: skip
            for die in range(out.shape[1]):
                h = x
                for k in (0, 1):
                    one = Pairs(dies[k].a[die : die + 1], dies[k].b[die : die + 1])
                    h = gain[k] * groups[k].sums(h, weights[k], one, guard=networks[0].guard) + offset[k]
                    h = functional.hardtanh(h) if k == 0 else h
                out[start : start + len(some), die] = h.argmax(dim=2).numpy()
    return out


#: Networks emulated at a time; the partial sums of one take 6 MB per thousand images.
_CHUNK = 6


def _stacked(arrays: list[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


class _Groups:
    """Groups of inputs of a layer as index arrays, padded to one size."""

    def __init__(self, layer: LayerPlacement) -> None:
        size = int(np.bincount(layer.input_group).max())
        members = np.full((layer.groups, size), layer.n_in)
        for group in range(layer.groups):
            inputs = layer.inputs_of(group)
            members[group, : inputs.size] = inputs
        self.members = torch.from_numpy(members)
        self.cells = layer.cells[:, np.minimum(members, layer.n_in - 1)]  # [copies, group, row, n_out, 2]

    def sums(self, x: Tensor, weights: Tensor, pairs: Pairs, *, guard: bool) -> Tensor:
        """Sums over groups, mean over copies, ``[k, n, n_out]``, of ``x [k or 1, n, n_in]``.

        `weights` are ``[k or 1, n_in, n_out]``, `pairs` have k or 1 dies.
        """
        grouped = functional.pad(x, (0, 1))[..., self.members].permute(0, 2, 1, 3)[:, None]  # [k, 1, group, n, row]
        placed = functional.pad(weights, (0, 0, 0, 1))[:, self.members][:, None]  # [k, 1, group, row, n_out]
        partials = torch.matmul(grouped, pairs.a + pairs.b * placed)  # [k, copies, group, n, n_out]
        if guard:
            bound = grouped.abs().sum(dim=-1, keepdim=True)
            partials = torch.minimum(torch.maximum(partials, -bound), bound)
        return partials.sum(dim=2).mean(dim=1)


def _pairs(mean: NDArray[np.float32], half: NDArray[np.float32], placement: Placement) -> tuple[Pairs, ...]:
    """Cells ``[die, cell]`` in weight units as pairs of every layer."""
    out = []
    for layer in placement.layers:
        cells = _Groups(layer).cells
        plus, minus = cells[..., 0], cells[..., 1]
        a, b = mean[:, plus] - mean[:, minus], half[:, plus] + half[:, minus]
        out.append(Pairs(torch.from_numpy(a), torch.from_numpy(b)))
    return tuple(out)


def _ideal(placement: Placement) -> tuple[Pairs, ...]:
    shapes = [(1, *_Groups(layer).cells.shape[:-1]) for layer in placement.layers]
    return tuple(Pairs(torch.zeros(shape), torch.ones(shape)) for shape in shapes)


def _sign(latent: Tensor) -> Tensor:
    """Sign of the latent weights; the gradient passes straight through."""
    return latent + (torch.where(latent >= 0, 1.0, -1.0) - latent).detach()


class _Trainer:
    """What all trainings share: data, placement, latent weights, schedule, and the way to a finished network."""

    def __init__(
        self,
        data: TrainingSet,
        architecture: Architecture,
        geometry: ArrayGeometry,
        seed: int,
        recipe: Recipe,
        *,
        guard: bool,
    ) -> None:
        shapes = (architecture.inputs, architecture.hidden), (architecture.hidden, 10)
        rows = architecture.rows_per_multiply if guard else (None, None)
        self.recipe, self.guard, self._data, self._copies, self._rows = recipe, guard, data, architecture.copies, rows
        blank = [np.ones((n_out, n_in), np.int8) for n_in, n_out in shapes]
        self.placement = self._network(blank, [np.ones(n) for _, n in shapes], [np.zeros(n) for _, n in shapes]).place(
            geometry
        )
        self._groups = [_Groups(layer) for layer in self.placement.layers]
        self._shapes = shapes
        self._generator = torch.Generator().manual_seed(seed)
        self._labels = torch.from_numpy(data.labels)

    def fit(
        self,
        networks: int,
        dies: Callable[[], tuple[Pairs, ...]],
        report: Report,
        start: BinaryNetwork | None = None,
        rest: Callable[[], tuple[Pairs, ...]] | None = None,
    ) -> list[BinaryNetwork]:
        """Train `networks` networks at once; with several, die k is that of network k, with one it sees all dies."""
        with one_thread():
            self._train(networks, dies, report, start)
            return self._finished((rest or dies)(), networks)

    def _train(
        self, networks: int, dies: Callable[[], tuple[Pairs, ...]], report: Report, start: BinaryNetwork | None
    ) -> None:
        self._latent = self._initial(networks, start)
        self._scale = [
            torch.ones(networks, 1, n).mul(1.0 + k).requires_grad_() for k, (_, n) in enumerate(self._shapes)
        ]
        self._shift = [torch.zeros(networks, 1, n, requires_grad=True) for _, n in self._shapes]
        parameters = [*self._latent, *self._scale, *self._shift]
        rate, steps = self.recipe.rate, self.recipe.epochs * self._batches_per_epoch
        optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.95, 0.999))
        rising = 0.1 if steps != 10 else 0.2  # torch divides by the number of steps before the last that rises
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=rising, cycle_momentum=False)
        for step, (x, labels) in enumerate(self._batches(steps)):
            loss = self._loss(x, labels, dies(), networks)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            with torch.no_grad():
                for latent in self._latent:
                    latent.clamp_(-1.0, 1.0)
            if step % 20 == 0:
                report("training", step / steps)

    def _initial(self, networks: int, start: BinaryNetwork | None) -> list[Tensor]:
        """Random latent weights, or half of those of a trained network: far enough from zero to stay unless pulled."""
        if start is None:
            draws = [torch.rand(networks, n_in, n_out, generator=self._generator) for n_in, n_out in self._shapes]
            return [((draw * 2 - 1) * 0.3).requires_grad_() for draw in draws]
        weights = [torch.from_numpy(w.T.astype(np.float32) * 0.5) for w in start.weights]
        return [w[None].repeat(networks, 1, 1).requires_grad_() for w in weights]

    @property
    def _batches_per_epoch(self) -> int:
        return max(1, len(self._data.labels) // (self.recipe.maps * self.recipe.images))

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``[maps, images, n_in]`` and labels ``[maps * images]``, each epoch in a new order."""
        variants = self._data.variants
        if variants is None:
            variants = _augmented(self._data, self.recipe.augmentation, self._generator)
        size, count = self.recipe.maps * self.recipe.images, len(self._labels)
        size = min(size, count)
        order, at = torch.randperm(count, generator=self._generator), 0
        for _ in range(steps):
            if at + size > count:
                order, at = torch.randperm(count, generator=self._generator), 0
            chosen, at = order[at : at + size], at + size
            variant = torch.randint(len(variants), (size,), generator=self._generator)
            yield variants[variant, chosen].view(self.recipe.maps, -1, self._shapes[0][0]), self._labels[chosen]

    def _sums(self, layer: int, x: Tensor, dies: tuple[Pairs, ...]) -> Tensor:
        return self._groups[layer].sums(x, _sign(self._latent[layer]), dies[layer], guard=self.guard)

    def _loss(self, x: Tensor, labels: Tensor, dies: tuple[Pairs, ...], networks: int) -> Tensor:
        """Cross-entropy, units normalised over the batch: per network, over all dies that it sees."""
        over = (1,) if networks > 1 else (0, 1)
        h = x
        for k in (0, 1):
            z = self._sums(k, h, dies)
            mean, variance = z.mean(over, keepdim=True), z.var(over, unbiased=False, keepdim=True)
            h = (z - mean) / torch.sqrt(variance + _EPSILON) * self._scale[k] + self._shift[k]
            h = functional.hardtanh(h) if k == 0 else h
        scores = h.reshape(-1, h.shape[-1])
        return functional.cross_entropy(scores, labels.repeat(scores.shape[0] // len(labels)))

    @torch.no_grad()
    def _finished(self, dies: tuple[Pairs, ...], networks: int) -> list[BinaryNetwork]:
        """Networks with the normalisation of their units settled over many images and dies."""
        chosen = torch.randperm(len(self._labels), generator=self._generator)[:500].numpy()
        probe = self._network_inputs(self._data.images[chosen])
        over = (1,) if networks > 1 else (0, 1)
        gains, offsets, h = [], [], probe
        for k in (0, 1):
            z = torch.cat([self._sums(k, part, one) for part, one in _die_by_die(h, dies, networks)])
            mean, variance = z.mean(over, keepdim=True), z.var(over, unbiased=False, keepdim=True)
            gain = self._scale[k] / torch.sqrt(variance + _EPSILON)
            offset = self._shift[k] - gain * mean
            h = functional.hardtanh(gain * z + offset)
            gains.append(gain[:, 0].numpy().astype(float))
            offsets.append(offset[:, 0].numpy().astype(float))
        signs = [torch.where(latent >= 0, 1, -1).to(torch.int8).numpy() for latent in self._latent]
        return [
            self._network([np.ascontiguousarray(s[i].T) for s in signs], [g[i] for g in gains], [o[i] for o in offsets])
            for i in range(networks)
        ]

    def _network_inputs(self, images: Images) -> Tensor:
        values = pool(images)[:, self._data.pixels] - self._data.centre.astype(np.float32)
        return torch.from_numpy(np.clip(values, -1, 1).astype(np.float32))[None]

    def _network(
        self,
        weights: list[NDArray[np.int8]],
        gains: list[NDArray[np.float64]],
        offsets: list[NDArray[np.float64]],
    ) -> BinaryNetwork:
        first, second = (Layer(*parts) for parts in zip(weights, gains, offsets, strict=True))
        data = self._data
        return BinaryNetwork(data.pixels, data.centre, (first, second), self._copies, self._rows, self.guard)


def _die_by_die(x: Tensor, dies: tuple[Pairs, ...], networks: int) -> Iterator[tuple[Tensor, tuple[Pairs, ...]]]:
    """Inputs and pairs of one die after the other, to bound the memory; all at once for one network per die."""
    count = dies[0].a.shape[0]
    if networks > 1:
        yield x, dies
        return
    for die in range(count):
        here = slice(die, die + 1)
        yield x[here if len(x) > 1 else slice(None)], tuple(Pairs(pair.a[here], pair.b[here]) for pair in dies)


def _augmented(data: TrainingSet, strength: float, generator: torch.Generator) -> Tensor:
    """Encoded versions of the training images, ``[variant, image, n_in]``."""
    images = torch.from_numpy(data.images).float()[:, None]
    centre = torch.from_numpy(data.centre.astype(np.float32))
    out = torch.empty(_VARIANTS, len(images), len(data.pixels))
    for variant in out:
        moved = _deformed(images, strength, generator)
        values = functional.avg_pool2d(moved, 2).flatten(1)[:, data.pixels] / 255
        variant.copy_((values - centre).clamp(-1.0, 1.0))
    return out


def _deformed(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Images ``[n, 1, 28, 28]`` each turned, scaled, sheared and shifted a little at random."""
    count = len(images)

    def draw(largest: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * largest * strength

    angle, wide, high, shear = draw(0.2), 1 + draw(0.1), 1 + draw(0.1), draw(0.15)
    right, down = draw(0.1), draw(0.1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cosine * wide, shear - sine * wide, right], 1),
        torch.stack([sine * high, cosine * high, down], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
