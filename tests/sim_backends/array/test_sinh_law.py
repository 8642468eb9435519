"""Devices that say that their law is sinh are solved in compiled code: the same as any other device gets."""

import numpy as np
import pytest

from sim_backends.array.devices.conduction import Sinh
from sim_backends.array.solver.network import Lines, solve


class Unsaid:
    """The same devices, without saying so."""

    def __init__(self, devices):
        self.shape, self.current = devices.shape, devices.current


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (64, 64), (40, 8, 8)])
@pytest.mark.parametrize("cells", [False, True])
def test_both_ways_agree(shape, cells):
    rng = np.random.default_rng(sum(shape))
    devices = Sinh(np.exp(rng.uniform(np.log(1e-6), np.log(5e-4), shape)), 5.0)
    left, lines = rng.uniform(-0.5, 0.5, shape[:-1]), Lines(2.0, 3.0, 1.0)
    said, unsaid = (
        solve(of, left=left, bottom=0.1, lines=lines, cells=cells, method="lines") for of in (devices, Unsaid(devices))
    )
    largest = np.abs(unsaid.currents).max(axis=(1, 2), keepdims=True)
    assert np.all(np.abs(said.currents - unsaid.currents) <= 2e-9 * largest)
    if cells:
        np.testing.assert_allclose(said.v_cell, unsaid.v_cell, rtol=0, atol=2e-9)
        np.testing.assert_allclose(said.i_cell, devices.current(said.v_cell)[0], rtol=1e-12)
