"""Metrics over transfers: against a plain loop, and what they must be by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.placement.differential_pairs import PHYSICAL, WEIGHTS, events_in_one_array, scales
from mapping.training.moons import half_moons
from mapping.training.transfer_metrics import classify, cumulative, evaluate, outputs, survivors, transferred
from sim_backends.array.dies.statistics import TransferStatistics

MOONS = half_moons(sizes=(200, 50, 100))
LAW = TransferStatistics()
NETWORK = np.random.default_rng(0).normal(0, 4, 33).astype(np.float32)


def plain(w, x):
    """Output probability of one network, in double precision."""
    w = w.astype(float)
    hidden = 1 / (1 + np.exp(-(x @ w[:16].reshape(8, 2).T + w[16:24])))
    return 1 / (1 + np.exp(-(hidden @ w[24:32] + w[32])))


def test_classification_is_that_of_a_plain_loop():
    networks = np.random.default_rng(1).normal(0, 6, (50, 33)).astype(np.float32)
    p = np.stack([plain(w, MOONS.test.x) for w in networks])
    right = (p > 0.5) == MOONS.test.label
    clear = np.abs(p - 0.5) > 1e-4  # float32 may say otherwise on the boundary itself
    of_point, of_network = classify(networks, MOONS.test)
    assert np.all(np.abs(of_point - right.mean(axis=0)) <= (~clear).mean(axis=0))
    assert np.all(np.abs(of_network - right.mean(axis=1)) <= (~clear).mean(axis=1))
    mean, sd = outputs(networks, MOONS.test.x)
    np.testing.assert_allclose(mean, p.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(sd, p.std(axis=0), atol=1e-4)


def test_a_perfect_transfer_changes_nothing():
    found = evaluate(NETWORK, PHYSICAL, MOONS.test, LAW.only(), transfers=5, seed=0).metrics
    assert found.mean == pytest.approx(found.noise_free)
    assert found.f95 == pytest.approx(found.noise_free)
    np.testing.assert_allclose(
        transferred(NETWORK, PHYSICAL, LAW.only(), 1, np.random.default_rng(0))[0], NETWORK, rtol=1e-3, atol=1e-3
    )


def test_transfers_are_keyed_by_seed_and_not_by_threads():
    one, two, other = (
        evaluate(NETWORK, PHYSICAL, MOONS.test, LAW, transfers=5000, seed=seed, threads=threads)
        for seed, threads in ((1, 1), (1, 3), (2, 1))
    )
    np.testing.assert_array_equal(one.right, two.right)
    np.testing.assert_array_equal(one.accuracy, two.accuracy)
    assert not np.array_equal(one.right, other.right)
    assert one.accuracy.mean() == pytest.approx(one.right.mean())


def test_a_long_sequence_of_writes_disturbs_more():
    spreads = [
        transferred(NETWORK, PHYSICAL, LAW.only("drift"), 2000, np.random.default_rng(0), events).std(axis=0).mean()
        for events in (None, events_in_one_array())
    ]
    assert spreads[1] > 1.3 * spreads[0]


@given(right=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_cumulative_curve_falls_and_holds_f95(right):
    levels = np.linspace(0, 1, 21)
    curve = cumulative(np.array(right), levels)
    assert np.all(np.diff(curve) <= 0) and curve[0] == 1
    assert curve[19] == survivors(np.array(right))


def test_a_scale_of_each_tensor_is_kept_by_a_transfer():
    arrived = transferred(NETWORK, PHYSICAL, LAW.only("tuning"), 2000, np.random.default_rng(0))
    off = arrived[:, :WEIGHTS].mean(axis=0) - NETWORK[:WEIGHTS] * (1 - 0.589e-2)
    assert np.abs(off).max() < 2e-3 * scales(NETWORK[:WEIGHTS]).max()
