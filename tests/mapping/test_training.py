"""Training: the batched forward pass against the network's own digital part, and that each training learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_statistics import statistics

from mapping.dies.defects import DieSampler
from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import MTJ_20K
from mapping.training.binary import (
    DIE_AWARE,
    STATISTICS_AWARE,
    UNAWARE,
    Architecture,
    die_pairs,
    drawn_pairs,
    emulate,
    train_die_aware,
    train_statistics_aware,
    train_unaware,
    training_set,
    with_variants,
)
from mapping.training.mnist import load_mnist
from mapping.training.network import ideal_multiply

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(inputs=60, hidden=24, copies=(1, 2), rows_per_multiply=(5, 2))


def quiet(text, share):
    pass


@pytest.fixture(scope="module")
def digits():
    return load_mnist().first_test(300)


@pytest.fixture(scope="module")
def data(digits):
    """To learn from; augmented once for all trainings, which begin with the same strength."""
    plain = training_set(digits.train_images[::2], digits.train_labels[::2], ARCHITECTURE.inputs)
    assert UNAWARE.augmentation == DIE_AWARE.augmentation == STATISTICS_AWARE.augmentation
    return with_variants(plain, UNAWARE.augmentation, seed=1)


@pytest.fixture(scope="module")
def few_digits(digits):
    """Enough for three batches; each training augments them itself."""
    return training_set(digits.train_images[:384], digits.train_labels[:384], ARCHITECTURE.inputs)


@pytest.fixture(scope="module")
def unaware(data):
    return train_unaware(data, ARCHITECTURE, MTJ_20K, seed=1, recipe=replace(UNAWARE, epochs=8), report=quiet)


@pytest.fixture(scope="module")
def broken_dies():
    """Three badly broken dies, as records."""
    mean, half = DieSampler(statistics(rate_mu=np.log(0.03), rate_sigma=0.1), np.random.default_rng(2))(3)
    return [
        DieRecord("d", MTJ_20K, (m + h).reshape(MTJ_20K.shape), (m - h).reshape(MTJ_20K.shape),
                  np.zeros(MTJ_20K.shape, np.uint8))
        for m, h in zip(mean.astype(float), half.astype(float), strict=True)
    ]  # fmt: skip


def error(network, digits, multiply=None):
    placement = network.place(MTJ_20K)
    found = network.classify(digits.test_images, placement, multiply or ideal_multiply(network.weights, placement))
    return float((found != digits.test_labels).mean())


def plain_multiply(network, record):
    """Pair differences of a die computed cell by cell, without lines: an independent form of `emulate`."""
    placement, g = network.place(MTJ_20K), (record.g_p, record.g_ap)
    unit = np.median((record.g_p - record.g_ap)[record.cell_class == 0])

    def multiply(layer, x):
        placed = placement.layers[layer]
        out = np.zeros((len(x), placed.copies, placed.groups, placed.n_out))
        for copy, i, o in np.ndindex(placed.cells.shape[:3]):
            plus, minus = placed.cells[copy, i, o]
            up = network.weights[layer][o, i] > 0
            pair = g[0 if up else 1].ravel()[plus] - g[1 if up else 0].ravel()[minus]
            out[:, copy, placed.input_group[i], o] += x[:, i] * pair / unit
        return out

    return multiply


def test_unaware_learns_and_is_binary(unaware, digits):
    assert error(unaware, digits) < 0.25
    assert all(set(np.unique(w)) == {-1, 1} for w in unaware.weights)
    assert unaware.rows_per_multiply == (None, None) and not unaware.guard


def test_a_training_of_ten_steps_is_one_too(few_digits):
    """The share of them in which the rate rises is one step: torch divides by what lies before it."""
    recipe = replace(UNAWARE, epochs=1, images=38)
    network = train_unaware(few_digits, ARCHITECTURE, MTJ_20K, seed=1, recipe=recipe, report=quiet)
    assert all(set(np.unique(w)) == {-1, 1} for w in network.weights)


def test_batched_emulation_is_what_the_network_computes_cell_by_cell(unaware, broken_dies, digits):
    guarded = unaware.with_guard(ARCHITECTURE.rows_per_multiply)
    for network in (unaware, guarded):
        placement = network.place(MTJ_20K)
        found = emulate([network, network], placement, die_pairs(broken_dies, placement), digits.test_images[:40])
        for die, record in enumerate(broken_dies):
            scores = network.scores(digits.test_images[:40], placement, plain_multiply(network, record))
            best = np.sort(scores, axis=1)
            clear = best[:, -1] - best[:, -2] > 1e-3  # single precision may decide a tie otherwise
            assert (found[0, die] == scores.argmax(axis=1))[clear].all()
            assert clear.mean() > 0.9
        assert (found[0] == found[1]).all()


def test_die_aware_networks_are_better_on_their_own_dies(unaware, data, broken_dies, digits):
    recipe = replace(DIE_AWARE, epochs=4)
    networks = train_die_aware(data, ARCHITECTURE, broken_dies, unaware, seed=1, recipe=recipe, report=quiet)
    placement = networks[0].place(MTJ_20K)
    found = emulate(networks, placement, die_pairs(broken_dies, placement), digits.test_images)
    errors = (found != digits.test_labels).mean(axis=2)
    own = np.diag(errors)
    assert own.mean() < errors[~np.eye(3, dtype=bool)].mean() - 0.02
    assert own.mean() < error(unaware, digits) + 0.1


def test_statistics_aware_is_better_than_unaware_on_dies_it_never_saw(unaware, data, digits):
    bad = statistics(rate_mu=np.log(0.02))
    recipe = replace(STATISTICS_AWARE, epochs=8)
    general = train_statistics_aware(data, ARCHITECTURE, bad, seed=1, recipe=recipe, report=quiet)
    errors = []
    for network in (unaware, general):
        placement = network.place(MTJ_20K)
        fresh = drawn_pairs(bad, placement, np.random.default_rng(99))(12)
        errors.append((emulate([network], placement, fresh, digits.test_images) != digits.test_labels).mean())
    assert errors[1] < errors[0] - 0.03


def test_the_same_seed_gives_the_same_network_to_the_bit(few_digits):
    recipe = replace(UNAWARE, epochs=1)
    twice = [train_unaware(few_digits, ARCHITECTURE, MTJ_20K, seed=7, recipe=recipe, report=quiet) for _ in range(2)]
    arrays = [network.to_arrays() for network in twice]
    assert all(arrays[0][name].tobytes() == arrays[1][name].tobytes() for name in arrays[0])
    other = train_unaware(few_digits, ARCHITECTURE, MTJ_20K, seed=8, recipe=recipe, report=quiet)
    assert other.layers[0].weights.tobytes() != twice[0].layers[0].weights.tobytes()


def test_training_leaves_the_number_of_threads_as_it_was(few_digits):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    train_unaware(few_digits, ARCHITECTURE, MTJ_20K, seed=0, recipe=replace(UNAWARE, epochs=1), report=quiet)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
