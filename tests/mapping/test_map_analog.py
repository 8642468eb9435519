"""From a file of weights to conductances: the layout of a 2-8-1 network, placed matrices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from mapping.dies.geometry import PASSIVE_8X8, PASSIVE_64X64
from mapping.map_analog import map_analog
from mapping.placement.differential_pairs import PAPER, PHYSICAL, from_cells, scales
from mapping.placement.placement import DoesNotFitError
from mapping.placement.weights import WeightsError
from mapping.writing.conductance_targets import TargetError


def saved(path, seed=0, **change):
    rng = np.random.default_rng(seed)
    shapes = {"fc1.weight": (8, 2), "fc1.bias": (8,), "fc2.weight": (1, 8), "fc2.bias": (1,)}
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | change
    save_file({name: values for name, values in state.items() if values is not None}, str(path))
    return state


def test_a_2_8_1_network_fills_one_array_and_comes_back(tmp_path):
    state = saved(tmp_path / "w.safetensors")
    schedule = map_analog(tmp_path / "w.safetensors", PASSIVE_8X8)
    assert schedule.cells == 64 and schedule.targets.wanted.all() and schedule.placement is None
    weights = np.concatenate([state[name].ravel() for name in ("fc1.weight", "fc1.bias", "fc2.weight")])
    back = PHYSICAL.weights(from_cells(schedule.targets.g[0]), scales(weights))
    np.testing.assert_allclose(back, weights, rtol=1e-6)
    lows = np.isclose(from_cells(schedule.targets.g[0]), 100e-6).any(axis=0)
    assert lows.all()  # one of each pair holds nothing


def test_other_networks_are_placed_with_their_biases_left_digital(tmp_path):
    rng = np.random.default_rng(1)
    state = {"a.weight": rng.normal(size=(12, 20)), "a.bias": np.zeros(12), "b.weight": rng.normal(size=(3, 12))}
    saved(tmp_path / "w.safetensors", **{n: v.astype(np.float32) for n, v in state.items()}, **dict.fromkeys(
        ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")))  # fmt: skip
    schedule = map_analog(tmp_path / "w.safetensors", PASSIVE_64X64, parallel="line", scheme="V/3")
    assert schedule.placement is not None and schedule.cells == 2 * (240 + 36)
    flat = schedule.targets.g.ravel()
    for layer, name in zip(schedule.placement.layers, ("a.weight", "b.weight"), strict=True):
        pair = flat[layer.cells[0]]
        back = (pair[..., 0] - pair[..., 1]).T / 400e-6 * np.abs(state[name]).max()
        np.testing.assert_allclose(back, state[name], atol=1e-6)
    assert np.array_equal(schedule.placement.used, schedule.targets.wanted)


def test_what_cannot_be_mapped_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    saved(file)
    with pytest.raises(TargetError, match=r"paper map has conductances down to -0\.0004 S"):
        map_analog(file, PASSIVE_8X8, pairs=PAPER)
    with pytest.raises(WeightsError, match=r"no matrix fc9\.weight; it has fc1\.weight, fc2\.weight"):
        map_analog(file, PASSIVE_8X8, order=["fc9.weight"])
    saved(file, **{"fc1.weight": np.zeros((8, 2), np.float32)})
    with pytest.raises(WeightsError, match=r"fc1.weight of w\.safetensors is zero"):
        map_analog(file, PASSIVE_8X8)
    saved(file, **{"fc2.weight": np.full((1, 8), np.nan, np.float32)})
    with pytest.raises(WeightsError, match="no numbers"):
        map_analog(file, PASSIVE_8X8)
    saved(file, **{"fc1.weight": np.ones((40, 20), np.float32), "fc2.weight": None, "fc2.bias": None})
    with pytest.raises(DoesNotFitError):
        map_analog(file, PASSIVE_8X8)
