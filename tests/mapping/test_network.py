"""The digital part of a network against a plain dense computation, and its round trip through arrays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.dies.geometry import MTJ_20K
from mapping.training.mnist import pool
from mapping.training.network import BinaryNetwork, Correction, Layer, calibrate, group_sums, ideal_multiply


def network(seed=0, inputs=30, hidden=12, rows=(5, 3), copies=(1, 2), guard=True):
    rng = np.random.default_rng(seed)
    layers = tuple(
        Layer(
            rng.choice(np.array([-1, 1], np.int8), (n_out, n_in)), rng.uniform(0.1, 1, n_out), rng.normal(0, 1, n_out)
        )
        for n_in, n_out in ((inputs, hidden), (hidden, 10))
    )
    pixels = np.sort(rng.permutation(196)[:inputs])
    return BinaryNetwork(pixels, rng.uniform(0, 0.5, inputs), layers, copies, rows, guard)


def images(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def dense(net, pictures):
    """Scores in plain matrix arithmetic, nothing of the placement in it."""
    x = np.clip(pool(pictures)[:, net.pixels] - net.centre, -1, 1)
    first, second = net.layers
    hidden = np.clip(first.gain * (x @ first.weights.T) + first.offset, -1, 1)
    return second.gain * (hidden @ second.weights.T) + second.offset


@given(seed=st.integers(0, 50), rows=st.sampled_from([(5, 2), (None, None), (1, 12)]), guard=st.booleans())
def test_ideal_arithmetic_through_groups_and_copies_is_the_dense_network(seed, rows, guard):
    net = network(seed, rows=rows, guard=guard)
    placement = net.place(MTJ_20K)
    scores = net.scores(images(7), placement, ideal_multiply(net.weights, placement))
    assert scores == pytest.approx(dense(net, images(7)), abs=1e-6)


@given(st.integers(0, 1000))
def test_the_guard_never_touches_what_a_healthy_group_gives_and_bounds_the_rest(seed):
    net = network(seed)
    placed = net.place(MTJ_20K).layers[0]
    x = np.random.default_rng(seed).uniform(-1, 1, (6, 30))
    healthy = ideal_multiply(net.weights, net.place(MTJ_20K))(0, x)
    assert net.guarded(x, healthy, placed) == pytest.approx(healthy, abs=1e-12)
    broken = net.guarded(x, healthy + 100.0, placed)
    bound = group_sums(np.abs(x), placed)
    assert broken == pytest.approx(np.broadcast_to(bound[:, None, :, None], broken.shape))


def test_arrays_give_the_network_back_bit_for_bit():
    net = network()
    correction = Correction(np.random.default_rng(3).normal(size=(1, 6, 12)), np.zeros((1, 6, 12)))
    for original in (net, replace(net, layers=(replace(net.layers[0], correction=correction), net.layers[1]),
                                  rows_per_multiply=(5, None))):  # fmt: skip
        arrays = original.to_arrays()
        back = BinaryNetwork.from_arrays(arrays).to_arrays()
        assert arrays.keys() == back.keys()
        assert all(arrays[name].tobytes() == back[name].tobytes() for name in arrays)


def test_calibration_undoes_gain_and_offset_of_the_lines_and_mutes_foreign_signal():
    net = network(rows=(5, 3))
    placement = net.place(MTJ_20K)
    ideal = ideal_multiply(net.weights, placement)
    rng = np.random.default_rng(4)
    gain = [rng.uniform(0.5, 1.5, (1, 1, layer.groups, layer.n_out)) for layer in placement.layers]
    soft = replace(net, guard=False)

    def distorted(layer, x):
        return gain[layer] * ideal(layer, x) + 0.7

    def foreign(layer, x):
        out = ideal(layer, x)
        out[:, :, 0] = rng.normal(0, 5, out[:, :, 0].shape)
        return out

    calibrated = calibrate(soft, images(400), placement, distorted)
    scores = calibrated.scores(images(20, seed=9), placement, distorted)
    assert scores == pytest.approx(dense(net, images(20, seed=9)), abs=1e-3)
    muted = calibrate(soft, images(400), placement, foreign).layers[0].correction
    assert np.abs(muted.scale[:, 0]).max() < 0.1 and np.abs(muted.scale[:, 1:] - 1).max() < 1e-3
    assert calibrated.weights[0] is net.weights[0]
