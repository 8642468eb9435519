"""Training for noisy arrays: gradients against torch, noise against the library of transfers, seeds that do not mix."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mapping.placement.differential_pairs import DEVICES, PAPER, PHYSICAL, WEIGHTS, events_by_tensor, scales
from mapping.training import moon_kernels
from mapping.training.moon_training import (
    ALL_SOURCES,
    ALL_TECHNIQUES,
    RECIPES,
    Batch,
    Recipe,
    _laws,
    drift_levels,
    fresh_weights,
    train,
)
from mapping.training.moons import half_moons
from mapping.training.transfer_metrics import classify
from sim_backends.array.dies.statistics import TransferStatistics, drift_table, transfer

MOONS = half_moons(sizes=(200, 50, 100))
LAW = TransferStatistics()


def module(w):
    """The network as a torch module in double precision."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1)).double()
    with torch.no_grad():
        w = torch.from_numpy(w.astype(float))
        net[0].weight.copy_(w[:16].reshape(8, 2))
        net[0].bias.copy_(w[16:24])
        net[2].weight.copy_(w[24:32].reshape(1, 8))
        net[2].bias.copy_(w[32:])
    return net


def flat(net, of=lambda p: p):
    return np.concatenate([of(p).detach().numpy().ravel() for p in net.parameters()])


def some_network(seed, size=3.0):
    return np.random.default_rng(seed).normal(0, size, 33).astype(np.float32)


def arrays(points):
    return np.ascontiguousarray(points.x.T, np.float32), points.label.astype(np.float32)


def one(recipe, seed=0, kind=PHYSICAL, **more):
    return Batch(fresh_weights(seed)[None], [seed], [recipe], [kind], **more)


@pytest.mark.parametrize("size", [0.5, 5.0, 30.0])
def test_outputs_and_gradients_are_those_of_torch(size):
    w, (x, y) = some_network(1, size), arrays(MOONS.train)
    hidden, z, g = np.empty((8, y.size), np.float32), np.empty(y.size, np.float32), np.empty(33, np.float32)
    net, inputs = module(w), torch.from_numpy(MOONS.train.x)
    out = net(inputs)[:, 0]
    moon_kernels.logits(w, x[0], x[1], hidden, z)
    np.testing.assert_allclose(z, out.detach().numpy(), atol=3e-5 * size)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(out, torch.from_numpy(y.astype(float)))
    loss.backward()
    moon_kernels.gradient(w, x[0], x[1], y, hidden, z, g)
    np.testing.assert_allclose(g, flat(net, lambda p: p.grad), atol=1e-5 * size)
    assert moon_kernels.loss(w, x[0], x[1], y, hidden, z) == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_training_without_noise_is_adam(decay):
    """Whole batches, so that the order of points does not matter."""
    recipe = Recipe(epochs=30, decay=decay, rate=0.05)
    got = train(one(recipe), MOONS)[0]
    net = module(fresh_weights(0))
    adam = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=decay)
    x, y = torch.from_numpy(MOONS.train.x), torch.from_numpy(MOONS.train.label.astype(float))
    for _ in range(30):
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y).backward()
        adam.step()
    np.testing.assert_allclose(got, flat(net), atol=2e-3)


@pytest.mark.parametrize("kind", [PHYSICAL, PAPER], ids=lambda kind: kind.name)
def test_noise_of_training_is_that_of_a_transfer(kind):
    """Mean and spread of what arrives in the kernel against the library."""
    w, rng, draws = some_network(2), np.random.default_rng(0), 4000
    scale = scales(w[:WEIGHTS])
    low, span, tuning, _, _, table, events = _laws(ALL_SOURCES, kind, LAW, events_by_tensor().reshape(DEVICES))
    got, hit = np.empty((draws, 33), np.float32), np.empty(WEIGHTS, bool)
    nothing = np.full(DEVICES, np.nan, np.float32)
    for draw in got:
        normal = rng.standard_normal(DEVICES).astype(np.float32)
        drift = table[events, rng.integers(0, drift_levels(LAW), DEVICES)]
        moon_kernels.arrive(w, scale, low, span, tuning, drift, normal, nothing, nothing, draw, hit)
    law = replace(LAW, stuck=None, window=kind.window)
    targets = kind.targets(w[:WEIGHTS], scale)
    found = transfer(targets, law, rng, draws=draws, events=events_by_tensor()).conductance
    want = kind.weights(found, scale)
    sigma = want.std(axis=0)
    assert np.all(np.abs(got[:, :WEIGHTS].mean(axis=0) - want.mean(axis=0)) < 5 * sigma * np.sqrt(2 / draws))
    np.testing.assert_allclose(got[:, :WEIGHTS].std(axis=0), sigma, rtol=0.12)
    assert table.shape == drift_table(LAW.drift).shape


def test_known_stuck_devices_are_made_up_for_in_training_as_in_writing():
    rng = np.random.default_rng(3)
    w = rng.uniform(-1, 1, 33).astype(np.float32)
    stuck = np.where(rng.random((2, WEIGHTS)) < 0.3, rng.uniform(10e-6, 700e-6, (2, WEIGHTS)), np.nan)
    scale = np.ones(3, np.float32)
    want = PHYSICAL.weights(PHYSICAL.compensated(w[:WEIGHTS].astype(float), scale, stuck), scale)
    got, hit = np.empty(33, np.float32), np.empty(WEIGHTS, bool)
    quiet, none = np.array([1, 0, 0, 0], np.float32), np.zeros(DEVICES, np.float32)
    low, span = np.float32(PHYSICAL.low), np.float32(PHYSICAL.span)
    fixed, nothing = stuck.reshape(DEVICES).astype(np.float32), np.full(DEVICES, np.nan, np.float32)
    moon_kernels.arrive(w, scale, low, span, quiet, none, none, fixed, nothing, got, hit)
    np.testing.assert_allclose(got[:WEIGHTS], want, atol=1e-5)


def test_a_network_does_not_depend_on_its_neighbours_nor_on_threads():
    recipe = replace(ALL_TECHNIQUES, epochs=20)
    alone = train(one(recipe, seed=4), MOONS, threads=1)[0]
    batch = Batch(np.stack([fresh_weights(s) for s in (3, 4)]), [3, 4], [Recipe(epochs=20), recipe], [PAPER, PHYSICAL])
    np.testing.assert_array_equal(train(batch, MOONS, threads=2)[1], alone)


def test_early_stopping_takes_the_network_with_the_lowest_loss_at_the_validation_points():
    best, last = (train(one(Recipe(epochs=400, patience=patience)), MOONS)[0] for patience in (1000, 0))
    x, y = arrays(MOONS.validation)
    hidden, z = np.empty((8, y.size), np.float32), np.empty(y.size, np.float32)
    losses = [moon_kernels.loss(w, x[0], x[1], y, hidden, z) for w in (best, last)]
    assert losses[0] <= losses[1]
    impatient = [train(one(Recipe(epochs=epochs, patience=5)), MOONS)[0] for epochs in (400, 4000)]
    np.testing.assert_array_equal(*impatient)  # it stopped long before


def test_stuck_devices_stop_the_update_of_their_weights():
    always = replace(LAW, stuck=replace(LAW.stuck, rate_lrs=1.0, rate_hrs=0.0))
    got = train(one(Recipe(epochs=5, stuck_lrs=True)), MOONS, always)[0]
    start = fresh_weights(0)
    np.testing.assert_array_equal(got[:WEIGHTS], start[:WEIGHTS])
    assert got[WEIGHTS] != start[WEIGHTS]


def test_a_trained_network_knows_the_moons():
    trained = train(one(replace(RECIPES["regular"], epochs=1500)), half_moons())
    assert classify(trained, half_moons().test)[1][0] > 0.93


def test_parts_of_a_batch_must_fit():
    with pytest.raises(ValueError, match="as many seeds"):
        train(Batch(fresh_weights(0)[None], [0, 1], [Recipe(epochs=1)], [PHYSICAL]), MOONS)
