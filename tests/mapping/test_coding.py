from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.dies.geometry import MTJ_20K
from mapping.placement.coding import AP, DONT_CARE, P, decode, encode
from mapping.placement.placement import place

SHAPES = [(30, 7), (7, 3)]
PLACEMENT = place(SHAPES, MTJ_20K, (1, 3))


def random_weights(seed: int, low: int = -1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(low, 2, (n_out, n_in)).astype(np.int8) for n_in, n_out in SHAPES]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_decode_is_the_inverse_of_encode(seed):
    weights = random_weights(seed)
    targets = encode(weights, PLACEMENT)
    assert targets.states.dtype == np.int8 and targets.states.shape == MTJ_20K.shape
    for copy in range(3):
        for given_, found in zip(weights, decode(targets.states, PLACEMENT, copy), strict=True):
            assert found.dtype == np.int8
            np.testing.assert_array_equal(found, given_)


@pytest.mark.parametrize(("weight", "pair"), [(1, (P, AP)), (-1, (AP, P)), (0, (AP, AP))])
def test_pairs(weight, pair):
    placement = place([(1, 1)], MTJ_20K)
    states = encode([np.array([[weight]])], placement).states.ravel()
    assert tuple(states[placement.layers[0].cells[0, 0, 0]]) == pair
    assert np.count_nonzero(states != DONT_CARE) == 2


def test_two_p_cells_cancel():
    placement = place([(1, 1)], MTJ_20K)
    states = np.full(MTJ_20K.shape, P, np.int8)
    assert decode(states, placement)[0].item() == 0


def test_only_cells_with_weights_have_a_state():
    states = encode(random_weights(0), PLACEMENT).states
    np.testing.assert_array_equal(states != DONT_CARE, PLACEMENT.used)


def test_wrong_weights_are_refused():
    weights = random_weights(0)
    with pytest.raises(ValueError, match=r"layer 1 has weights \(7, 3\)"):
        encode([weights[0], weights[1].T], PLACEMENT)
    with pytest.raises(ValueError, match="other than -1, 0 and"):
        encode([weights[0] * 2, weights[1]], PLACEMENT)
    with pytest.raises(ValueError, match="1 layers of weights"):
        encode(weights[:1], PLACEMENT)


def test_missing_states_are_refused():
    with pytest.raises(ValueError, match="have no state"):
        decode(np.full(MTJ_20K.shape, DONT_CARE, np.int8), PLACEMENT)
    with pytest.raises(ValueError, match="shape"):
        decode(np.zeros((2, 2, 2), np.int8), PLACEMENT)
