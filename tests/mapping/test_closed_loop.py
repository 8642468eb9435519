"""The closed loop: the same function however units are placed, stuck cells found, and each measure helps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.placement.differential_pairs import HIDDEN, PHYSICAL, WEIGHTS, per_weight, scales
from mapping.training import closed_loop
from mapping.training.closed_loop import (
    Measures,
    arranged,
    draw_stuck,
    find_stuck,
    fitted_bias,
    measure_stuck,
    place,
    plan,
    run,
)
from mapping.training.moon_training import RECIPES, Batch, fresh_weights, train
from mapping.training.moons import half_moons
from mapping.training.transfer_metrics import classify
from sim_backends.array.dies.statistics import StuckCells, TransferStatistics

pytestmark = pytest.mark.slow

MOONS = half_moons()
LAW = TransferStatistics()
MANY_STUCK = TransferStatistics(stuck=StuckCells(rate_lrs=0.03, rate_hrs=0.03))


@pytest.fixture(scope="module")
def network():
    """A network that was trained for drift, long enough to be curved."""
    return train(Batch(fresh_weights(0)[None], [0], [RECIPES["drift"]], [PHYSICAL]), MOONS)[0]


@pytest.fixture(scope="module")
def dies():
    """Stuck devices of 60 bad dies, and what is found of them."""
    rng = np.random.default_rng(1)
    stuck = draw_stuck(MANY_STUCK.stuck, 60, rng)
    return stuck, measure_stuck(stuck, PHYSICAL, LAW, rng)


def logit(w, x):
    w = w.astype(float)
    hidden = 1 / (1 + np.exp(-(x @ w[:16].reshape(8, 2).T + w[16:24])))
    return hidden @ w[24:32] + w[32]


@given(seed=st.integers(0, 10_000))
def test_a_network_is_the_same_function_in_every_arrangement(seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 5, 33)
    other = arranged(w, rng.permutation(HIDDEN), rng.random(HIDDEN) < 0.5)
    np.testing.assert_allclose(logit(other, MOONS.test.x), logit(w, MOONS.test.x), atol=1e-9)


def test_stuck_cells_are_found_with_what_they_hold(dies):
    stuck, found = dies
    assert 60 * 64 * 0.03 < (~np.isnan(stuck)).sum() < 60 * 64 * 0.09
    np.testing.assert_array_equal(np.isnan(found), np.isnan(stuck))
    np.testing.assert_allclose(found[~np.isnan(stuck)], stuck[~np.isnan(stuck)], rtol=0.01)


def test_a_cell_that_hardly_moves_is_stuck():
    low, high = np.full((2, WEIGHTS), 110e-6), np.full((2, WEIGHTS), 480e-6)
    high[1, 5] = 130e-6
    found = find_stuck(low, high, PHYSICAL)
    assert np.isnan(found).sum() == 63 and found[1, 5] == pytest.approx(120e-6)


def test_sensitivity_is_a_second_derivative(network):
    """Of the loss, its Gauss-Newton part, against differences of the output."""
    matters, w = closed_loop.sensitivity(network, MOONS.train), network.astype(float)
    p = 1 / (1 + np.exp(-logit(w, MOONS.train.x)))
    for weight in (0, 7, 18, 30):
        step = 1e-5 * per_weight(scales(w[:WEIGHTS]))[weight]
        up, down = w.copy(), w.copy()
        up[weight] += step
        down[weight] -= step
        slope = (logit(up, MOONS.train.x) - logit(down, MOONS.train.x)) / 2e-5
        assert matters[weight] == pytest.approx(np.mean(p * (1 - p) * slope**2), rel=1e-3)


def test_placement_never_costs_more_than_leaving_the_units_where_they_are(network, dies):
    _, found = dies
    matters = closed_loop.sensitivity(network, MOONS.train)
    placed = place(network, found, PHYSICAL, matters)
    np.testing.assert_allclose(logit(placed[3], MOONS.test.x), logit(network, MOONS.test.x), atol=1e-2)
    low, high = PHYSICAL.reach(found)

    def missed(networks):
        relative = networks[:, :WEIGHTS] / per_weight(scales(networks[:, :WEIGHTS]))
        return np.maximum(np.maximum(low - relative, relative - high), 0)

    stay = np.broadcast_to(network, placed.shape)
    worse = np.square(missed(stay)).sum()
    assert np.square(missed(placed)).sum() < 0.5 * worse


def test_what_matters_is_written_last():
    matters = np.random.default_rng(0).random((3, WEIGHTS))
    by_tensor, whole = (closed_loop.events_by_sensitivity(matters, one) for one in (False, True))
    assert np.all(by_tensor[np.arange(3), 0, matters[:, :16].argmax(axis=1)] == 0)
    assert np.all(whole[np.arange(3), :, matters.argmax(axis=1)].sum(axis=1) == 1)
    assert sorted(whole[0].ravel()) == list(range(64))


def test_the_bias_is_the_one_that_training_points_ask_for(network):
    off = np.stack([network, network])
    off[1, WEIGHTS] += 3
    fitted = fitted_bias(off, MOONS.train)
    assert fitted[0] == pytest.approx(fitted[1], abs=1e-3)
    moved = np.repeat(network[None], 3, axis=0)
    moved[:, WEIGHTS] = fitted[0] + np.array([-0.1, 0, 0.1])
    z = np.stack([logit(w, MOONS.train.x) for w in moved])
    loss = (np.logaddexp(0, z) - z * MOONS.train.label).mean(axis=1)
    assert loss[1] < min(loss[0], loss[2])


def test_the_loop_takes_back_what_stuck_cells_cost(network, dies):
    stuck, found = dies
    nothing = Measures(partner=False, placement=False, training=False, order=False, bias=False)
    results = {}
    for name, measures in {"nothing": nothing, "loop": Measures()}.items():
        planned = plan(network, found, PHYSICAL, MOONS, MANY_STUCK, measures)
        found_now = run(planned, stuck, PHYSICAL, MOONS, MANY_STUCK, transfers=5, seed=0, bias=measures.bias)
        results[name] = found_now.metrics
    clean = classify(network[None], MOONS.test)[1][0]
    assert results["loop"].mean > clean - 0.03
    assert results["nothing"].mean < clean - 0.08
    assert results["loop"].f95 > results["nothing"].f95 + 0.2


def test_only_dies_that_miss_a_weight_are_trained(network, dies):
    _, found = dies
    placed, trained = (
        plan(network, found, PHYSICAL, MOONS, MANY_STUCK, Measures(training=training, order=False)).networks
        for training in (False, True)
    )
    scale = scales(placed[:, :WEIGHTS].astype(float))
    short = closed_loop.missed(placed, scale, found, PHYSICAL) > closed_loop.MISSED
    assert 0 < short.sum() < len(short)
    changed = np.any(placed != trained, axis=1)
    np.testing.assert_array_equal(changed, short)


def test_what_is_written_is_inside_the_window_or_stuck(network, dies):
    _, found = dies
    targets = plan(network, found, PHYSICAL, MOONS, MANY_STUCK).targets
    assert targets.min() >= PHYSICAL.low and targets.max() <= PHYSICAL.high
    low, high = PHYSICAL.reach(found)
    assert np.all(low <= high) and np.all(low[np.isnan(found).all(axis=1)] == -1)


def test_placement_without_partners_is_refused():
    with pytest.raises(ValueError, match="partners"):
        Measures(partner=False)


def test_all_devices_and_readings_are_counted():
    assert closed_loop.effort(Measures()) == closed_loop.Effort(writes=128, reads=192)
    assert closed_loop.effort(Measures(bias=False)) == closed_loop.Effort(writes=128, reads=128)
