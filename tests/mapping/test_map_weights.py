from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import MTJ_20K
from mapping.map_weights import map_weights
from mapping.placement.coding import decode
from mapping.placement.placement import DoesNotFitError
from mapping.writing.schedule import PulseSettings, WriteSchedule, file_digest


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "net.pt"
    torch.save({"1.weight": torch.randn(40, 100), "1.bias": torch.zeros(40), "2.weight": torch.randn(10, 40)}, path)
    return path


def test_what_is_written_are_the_weights_of_the_file(weights: Path, tmp_path: Path):
    plan = map_weights(weights, MTJ_20K, copies=(1, 3), binarise=True, pulse=PulseSettings(attempts_max=2))
    plan.save(tmp_path / "plan.h5")
    state = torch.load(weights, weights_only=True)
    for copy in range(3):
        for name, found in zip(("1.weight", "2.weight"), decode(plan.states, plan.placement, copy), strict=True):
            np.testing.assert_array_equal(found, np.where(state[name].numpy() < 0, -1, 1))
    back = WriteSchedule.load(tmp_path / "plan.h5")
    assert back.pulse.attempts_max == 2
    assert back.provenance["source"] == "net.pt" and back.provenance["sha256"] == file_digest(weights)
    assert [layer["name"] for layer in back.provenance["layers"]] == ["1.weight", "2.weight"]
    assert back.provenance["layers"][0]["scale"] == pytest.approx(state["1.weight"].abs().mean().item())


def test_a_measured_die_is_avoided_and_named(weights: Path):
    shape = MTJ_20K.shape
    cell_class = np.where(np.random.default_rng(0).random(shape) < 0.005, CellClass.SHORT, 0).astype(np.uint8)
    short = cell_class == CellClass.SHORT
    g_p, g_ap = np.where(short, 476e-6, 143e-6), np.where(short, 476e-6, 77e-6)
    record = DieRecord("lot7-c3r4", MTJ_20K, g_p, g_ap, cell_class)
    plan = map_weights(weights, MTJ_20K, die=record, binarise=True)
    assert plan.provenance["die"] == "lot7-c3r4"
    assert not (plan.placement.used & short).any()


def test_too_large_a_network_is_refused(tmp_path: Path):
    path = tmp_path / "net.npz"
    np.savez(path, w=np.ones((40, 784)))
    with pytest.raises(DoesNotFitError, match="62720"):
        map_weights(path, MTJ_20K)
