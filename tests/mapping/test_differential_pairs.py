"""Pairs: to conductances and back, partners of stuck devices, and one place in the array for each device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mapping.placement.differential_pairs import (
    DEVICES,
    MAPS,
    PAPER,
    PHYSICAL,
    SHAPE,
    TENSORS,
    WEIGHTS,
    as_authors_count,
    events_by_tensor,
    events_in_one_array,
    from_cells,
    per_weight,
    scales,
    to_cells,
    weight_of_unit,
)

some_weights = arrays(np.float64, WEIGHTS, elements=st.floats(-100, 100).filter(lambda w: w == 0 or abs(w) > 1e-3))


@given(weights=some_weights, name=st.sampled_from(sorted(MAPS)))
def test_weights_come_back(weights, name):
    kind, scale = MAPS[name], scales(weights)
    targets = kind.targets(weights, scale)
    assert targets.min() >= kind.low and targets.max() <= kind.high * (1 + 1e-12)
    np.testing.assert_allclose(kind.weights(targets, scale), weights, atol=1e-9 * np.abs(weights).max() + 1e-12)


@pytest.mark.slow
@given(weights=some_weights)
def test_one_device_of_a_pair_holds_nothing(weights):
    targets = PHYSICAL.targets(weights, scales(weights))
    assert np.all(targets.min(axis=0) == PHYSICAL.low)


def test_windows_are_those_of_the_devices_and_of_the_published_code():
    assert PHYSICAL.window == (100e-6, 500e-6) and PAPER.window == (-400e-6, 400e-6)


def test_a_weight_beyond_its_scale_is_named():
    weights = np.zeros(WEIGHTS)
    weights[7] = 2.0
    with pytest.raises(ValueError, match=r"\[7\].*at most 1"):
        PHYSICAL.targets(weights, np.ones(3))


@given(seed=st.integers(0, 10_000))
def test_a_partner_makes_up_for_a_stuck_device_as_far_as_it_reaches(seed):
    rng = np.random.default_rng(seed)
    weights, scale = rng.uniform(-1, 1, WEIGHTS), np.ones(3)
    stuck = np.where(rng.random((2, WEIGHTS)) < 0.3, rng.uniform(10e-6, 800e-6, (2, WEIGHTS)), np.nan)
    targets = PHYSICAL.compensated(weights, scale, stuck)
    np.testing.assert_array_equal(targets[~np.isnan(stuck)], stuck[~np.isnan(stuck)])
    free = targets[np.isnan(stuck)]
    assert free.min() >= PHYSICAL.low and free.max() <= PHYSICAL.high
    low, high = PHYSICAL.reach(stuck)
    np.testing.assert_allclose(PHYSICAL.weights(targets, scale), np.clip(weights, low, high), atol=1e-12)


def test_every_device_has_its_own_cell():
    devices = np.arange(DEVICES).reshape(2, WEIGHTS)
    cells = to_cells(devices)
    assert cells.shape == SHAPE and set(cells.ravel()) == set(range(DEVICES))
    np.testing.assert_array_equal(from_cells(cells), devices)


def test_a_unit_is_a_column_and_a_pair_two_rows_of_it():
    cells = to_cells(np.stack([np.arange(WEIGHTS), np.arange(WEIGHTS)]))
    np.testing.assert_array_equal(cells[::2], cells[1::2])
    np.testing.assert_array_equal(cells[::2].T, weight_of_unit())


def test_events_by_tensor_are_those_of_the_authors_loops():
    """Their walk over a tensor, written out: i from n down to 1, the row index first, then the last one set to zero."""
    walked = np.zeros((8, 2), dtype=int)
    row = column = 0
    for i in range(16, 0, -1):
        walked[row, column] = i
        row += 1
        if row == 8:
            row, column = 0, column + 1
    walked[-1, -1] = 0
    eight = [8, 7, 6, 5, 4, 3, 2, 0]
    for device in events_by_tensor():
        np.testing.assert_array_equal(device, [*walked.ravel(), *eight, *eight])


def test_events_of_the_whole_array_are_those_that_follow():
    assert sorted(events_in_one_array().ravel()) == list(range(DEVICES))
    assert to_cells(events_in_one_array())[0, 0] == DEVICES - 1


def test_the_authors_count_one_more_than_follow_but_none_for_the_last():
    by_tensor = events_by_tensor()
    for part in TENSORS:
        follow = np.sort(by_tensor[0, part])
        np.testing.assert_array_equal(as_authors_count(np.arange(len(follow))), follow)


def test_scale_of_a_tensor_is_its_largest_weight():
    weights = np.r_[np.full(16, 2.0), np.zeros(8), np.full(8, -3.0)]
    np.testing.assert_array_equal(scales(weights), [2, 1, 3])
    np.testing.assert_array_equal(per_weight(scales(weights))[[0, 16, 24]], [2, 1, 3])
