"""Die-aware training of many networks in one batched model against a loop over one model after the other.

    python benchmarks/training.py --dies 36 --epochs 1 --repeats 3

Both do the same steps on the same dies in the same process, in turn, on one thread: same images, batch size, epochs,
start and optimiser. The loop is what one writes first: a torch module per die whose layers multiply the inputs of each
group with ``a + b * sign(w)``, clip the partial sums and add them. Made once per die and not timed: its tensors.
Only the ratio means something; times depend on the machine. Also compared: the errors of both on their dies.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mapping.training import binary as training
from mapping.training.mnist import load_mnist
from mapping.training.network import Layer
from protocols.studies.drawn_dies import measured_records
from sim_backends.array.dies.lot import load_lot

ARCHITECTURE = training.Architecture()
START = training.Recipe(epochs=10, maps=1, images=128, rate=2e-2)


class DieLayer(nn.Module):
    """A binary layer as one die computes it."""

    def __init__(self, weights, placed, pairs, die):
        super().__init__()
        self.latent = nn.Parameter(torch.from_numpy(weights.T.astype(np.float32) * 0.5))  # [n_in, n_out]
        n_out = weights.shape[0]
        self.scale, self.shift = nn.Parameter(torch.ones(n_out)), nn.Parameter(torch.zeros(n_out))
        groups = [placed.inputs_of(group) for group in range(placed.groups)]
        size = max(len(group) for group in groups)
        members = np.full((len(groups), size), placed.n_in)
        for row, group in zip(members, groups, strict=True):
            row[: len(group)] = group
        self.members, self.a, self.b = torch.from_numpy(members), pairs.a[die], pairs.b[die]
        self.mean, self.variance = torch.zeros(n_out), torch.ones(n_out)

    def forward(self, x):
        """Normalised sums ``[n, n_out]`` of inputs ``[n, n_in]``."""
        signs = self.latent + (torch.where(self.latent >= 0, 1.0, -1.0) - self.latent).detach()
        grouped = functional.pad(x, (0, 1))[:, self.members].permute(1, 0, 2)  # [group, n, row]
        placed = functional.pad(signs, (0, 0, 0, 1))[self.members]  # [group, row, n_out]
        bound = grouped.abs().sum(-1, keepdim=True)
        partials = torch.matmul(grouped, self.a + self.b * placed)  # [copies, group, n, n_out]
        z = torch.minimum(torch.maximum(partials, -bound), bound).sum(1).mean(0)
        if self.training:
            self.mean, self.variance = z.mean(0), z.var(0, unbiased=False)
        return (z - self.mean) / torch.sqrt(self.variance + 1e-5) * self.scale + self.shift


class DieNetwork(nn.Module):
    """Two layers on one die."""

    def __init__(self, start, placement, dies, die):
        super().__init__()
        layers = zip(start.weights, placement.layers, dies, strict=True)
        self.first, self.second = (DieLayer(w, placed, pairs, die) for w, placed, pairs in layers)

    def forward(self, x):
        """Scores ``[n, 10]``."""
        return self.second(functional.hardtanh(self.first(x)))


def train_loop(models, data, recipe, seed):
    """Train the models one after the other."""
    labels = torch.from_numpy(data.labels)
    steps_per_epoch = len(labels) // recipe.images
    for number, model in enumerate(models):
        generator = torch.Generator().manual_seed(seed + number)
        steps = recipe.epochs * steps_per_epoch
        optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate, betas=(0.95, 0.999))
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, steps, pct_start=0.1, cycle_momentum=False)
        for step in range(steps):
            at = step % steps_per_epoch * recipe.images
            if at == 0:
                order = torch.randperm(len(labels), generator=generator)
            chosen = order[at : at + recipe.images]
            variant = torch.randint(len(data.variants), (recipe.images,), generator=generator)
            loss = functional.cross_entropy(model(data.variants[variant, chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            with torch.no_grad():
                for layer in (model.first, model.second):
                    layer.latent.clamp_(-1.0, 1.0)


def finished(model, start, placement, data):
    """The trained model as a network of ours, its normalisation settled over 500 images as in the batched training."""
    with torch.no_grad():
        chosen = np.linspace(0, len(data.labels) - 1, 500).astype(int)  # of all digits: they are in order
        model(torch.from_numpy(start.encode(data.images[chosen]).astype(np.float32)))
    layers = []
    for layer in (model.first, model.second):
        gain = (layer.scale / torch.sqrt(layer.variance + 1e-5)).detach().numpy().astype(float)
        offset = layer.shift.detach().numpy() - gain * layer.mean.detach().numpy()
        layers.append(Layer(np.where(layer.latent.detach().numpy().T >= 0, 1, -1).astype(np.int8), gain, offset))
    return replace(start, layers=(layers[0], layers[1]))


def error(networks, records, placement, digits):
    """Mean error of network k on die k; emulated."""
    errors = []
    for network, record in zip(networks, records, strict=True):
        found = training.emulate([network], placement, training.die_pairs([record], placement), digits.test_images)
        errors.append(np.mean(found[0, 0] != digits.test_labels))
    return float(np.mean(errors))


def silent(text, share):
    """No progress."""


def timed(function):
    """What a function gives, and the seconds it took."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def compare(records, digits, recipe, repeats):
    """Time both in turn; ratios loop / batched."""
    geometry = records[0].geometry
    data = training.training_set(digits.train_images, digits.train_labels, ARCHITECTURE.inputs)
    data = training.with_variants(data, recipe.augmentation, 0)
    start = training.train_unaware(data, ARCHITECTURE, geometry, seed=0, recipe=START, report=silent)
    start = start.with_guard(ARCHITECTURE.rows_per_multiply)
    placement, ratios = start.place(geometry), []
    dies = training.die_pairs(records, placement)
    for repeat in range(repeats):
        common = {"seed": repeat, "recipe": recipe, "report": silent}
        batched, fast = timed(lambda c=common: training.train_die_aware(data, ARCHITECTURE, records, start, **c))
        models = [DieNetwork(start, placement, dies, die) for die in range(len(records))]
        _, slow = timed(lambda m=models, seed=repeat: train_loop(m, data, recipe, seed))
        looped = [finished(model, start, placement, data) for model in models]
        ratios.append(slow / fast)
        errors = " and ".join(f"{error(n, records, placement, digits):.1%}" for n in (batched, looped))
        print(f"batched {fast:.1f} s, loop {slow:.1f} s, ratio {ratios[-1]:.2f}; mean errors {errors}", flush=True)
    return ratios


def main():
    """Compare and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dies", type=int, default=36)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    records = measured_records(load_lot("mtj"), 0, range(options.dies))
    recipe = replace(training.DIE_AWARE, epochs=options.epochs)
    with training.one_thread():
        ratios = compare(records, load_mnist(), recipe, options.repeats)
    low, median, high = np.percentile(ratios, [0, 50, 100])
    print(f"{len(records)} dies, epochs {options.epochs}, loop / batched: {low:.2f} to {high:.2f}, median {median:.2f}")


if __name__ == "__main__":
    main()
