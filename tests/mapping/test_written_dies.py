"""The closed loop on devices: stuck cells are found by pulses, targets arrive, and perfect lines are what they say."""

import numpy as np
import pytest

from mapping.placement.differential_pairs import PHYSICAL, from_cells
from mapping.training.closed_loop import draw_stuck, plan
from mapping.training.moon_training import RECIPES, Batch, fresh_weights, train
from mapping.training.moons import half_moons
from mapping.training.written_dies import TUNING_ONLY, Dies, within_tolerance
from sim_backends.array.circuit.bias import HALF, line_mask
from sim_backends.array.circuit.ideal_array import IdealArray
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.tio2 import TiO2Devices
from sim_backends.array.dies.statistics import StuckCells, TransferStatistics
from sim_backends.array.solver.network import Lines

MOONS = half_moons()
LAW = TransferStatistics(stuck=StuckCells(rate_lrs=0.01, rate_hrs=0.01))


def devices(seed=0):
    return TiO2Devices.draw((2, 4, 5), np.random.default_rng(seed))


def test_perfect_lines_pulse_and_read_as_a_network_of_hardly_any_resistance():
    ideal, solved = IdealArray(devices(), np.full((2, 4, 5), np.nan)), PassiveArray(devices(), Lines(1e-6, 1e-6))
    where = line_mask(np.array([1, 2]), 4), line_mask(np.array([3, 0]), 5)
    for array in (ideal, solved):
        array.pulse(*where, np.array([1.8, -1.9]), 1e-6, np.random.default_rng(1), HALF)
    np.testing.assert_allclose(ideal.conductance, solved.devices.g, rtol=1e-6)
    np.testing.assert_allclose(ideal.read_all(0.2), solved.read_all(0.2), rtol=1e-6)
    np.testing.assert_allclose(ideal.read(where[0], 0.2), solved.read(where[0], 0.2), rtol=1e-6)


def test_reads_of_perfect_lines_have_the_noise_of_the_devices():
    array = IdealArray(TiO2Devices(np.full((4000, 1, 1), 100e-6)), np.full((4000, 1, 1), np.nan))
    spread = array.read_all(0.2, np.random.default_rng(0)).std() / 100e-6
    assert spread == pytest.approx(array.tio2.read_noise()[0, 0, 0], rel=0.05)


def test_a_fixed_cell_holds_what_it_holds():
    fixed = np.full((2, 4, 5), np.nan)
    fixed[0, 1, 3] = 20e-6
    array = IdealArray(devices(), fixed)
    array.pulse(
        line_mask(np.array([1, 1]), 4),
        line_mask(np.array([3, 3]), 5),
        np.array([2.0, 2.0]),
        1e-6,
        np.random.default_rng(0),
    )
    assert array.conductance[0, 1, 3] == 20e-6
    assert array.conductance[1, 1, 3] == array.tio2.g[1, 1, 3]


def test_perfect_lines_have_no_network():
    with pytest.raises(NotImplementedError, match="PassiveArray"):
        IdealArray(devices(), np.full((2, 4, 5), np.nan)).biased(np.ones(4, bool), np.ones(5, bool), 1.0, HALF)


@pytest.mark.slow
def test_dies_are_probed_written_and_classified():
    network = train(Batch(fresh_weights(0)[None], [0], [RECIPES["drift"]], [PHYSICAL]), MOONS)[0]
    rng = np.random.default_rng(2)
    stuck = draw_stuck(LAW.stuck, 25, rng)
    dies = Dies.draw(stuck, rng)
    found = dies.probe(rng)
    there = ~np.isnan(stuck)
    assert there.sum() > 15
    assert np.all(~np.isnan(found)[there])  # no stuck device is missed
    assert (np.isnan(stuck) & ~np.isnan(found)).sum() <= 8  # a slow one may be taken for stuck
    planned = plan(network, found, PHYSICAL, MOONS, LAW, recipe=TUNING_ONLY)
    written = dies.write(planned, found, rng)
    assert within_tolerance(written) > 0.94
    held = from_cells(dies.array.conductance)
    np.testing.assert_array_equal(held[there], stuck[there])
    metrics = dies.classify(planned, MOONS, rng).metrics
    assert metrics.mean > 0.95
    assert metrics.noise_free > 0.95
