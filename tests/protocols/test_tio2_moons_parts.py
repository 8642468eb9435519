"""The pure parts of `xbar run tio2-moons`: checks, targets, products (a tester of plain arithmetic)."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from instruments.roles.interfaces import CurrentRange
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.differential_pairs import PHYSICAL, WEIGHTS, from_cells, scales, to_cells
from mapping.training.transfer_metrics import with_bias
from mapping.writing.conductance_targets import TargetError
from mapping.writing.converge import ARRAY
from protocols.bench.checks import SettingError
from protocols.shipped import tio2_moons as parts
from protocols.source.catalogue import lot_of
from protocols.steps.inference_moons import MoonsOnArray, input_voltages, sigmoid

DIMS = ("kernel", "row", "column")
GEOMETRY = ArrayGeometry.tiled(rows=8, columns=8, blocks=1, block_rows=8, block_columns=8)


class Arithmetic:
    """Products of exact conductances ``[row, column]`` (S)."""

    def __init__(self, g, full_scale=10e-3):
        self.g, self.loaded, self.largest = g, None, full_scale

    def capabilities(self):
        return SimpleNamespace(vectors_max=7, ranges=(CurrentRange(0, 1e-4), CurrentRange(1, self.largest)))

    def range_for(self, current):
        return int(current > 1e-4)

    def load_vectors(self, bank, voltages):
        self.loaded = voltages

    def multiply(self, kernel, bank, *, direction, driven, sensed, count, current_range, averages):
        rows, columns = (driven, sensed) if direction == "backward" else (sensed, driven)
        matrix = self.g[np.ix_(rows, columns)]
        return self.loaded @ (matrix if direction == "backward" else matrix.T)


def digital(network, x):
    hidden = sigmoid(x @ network[:16].reshape(8, 2).T + network[16:24])
    return hidden @ network[24:32] + network[32]


@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 30))
def test_analog_products_give_the_network_that_the_cells_hold(seed, size):
    rng = np.random.default_rng(seed)
    network = size * rng.normal(size=33)
    scale = scales(network[:WEIGHTS])
    g = to_cells(PHYSICAL.targets(network[:WEIGHTS], scale))
    bench = SimpleNamespace(array=Arithmetic(g), report=lambda text, share: None)
    x = rng.random((20, 2))
    found = MoonsOnArray(bench, g, scale, v_read=0.2, averages=1).logits(x, network[32])
    np.testing.assert_allclose(found, digital(network, x), rtol=1e-9, atol=1e-9 * size)


@given(seed=st.integers(0, 10_000))
def test_voltages_stay_within_the_read_voltage_and_pairs_are_opposite(seed):
    rng = np.random.default_rng(seed)
    volts = input_voltages(rng.random((9, 2)), rng.uniform(0.1, 50, 3), 0.2)
    assert np.abs(volts).max() <= 0.2 + 1e-15
    np.testing.assert_array_equal(volts[:, 0::2], -volts[:, 1::2])


def test_currents_beyond_the_range_are_held_at_it():
    g = np.full((8, 8), 100e-6)
    g[0] = 1.0  # shorts
    bench = SimpleNamespace(array=Arithmetic(g), report=lambda text, share: None)
    found = MoonsOnArray(bench, g, np.ones(3), v_read=0.2, averages=1).logits(np.ones((3, 2)), 0.5)
    assert np.isfinite(found).all()


@given(seed=st.integers(0, 10_000), place=st.integers(0, 31), side=st.integers(0, 1), held=st.floats(10e-6, 600e-6))
def test_partners_make_up_for_what_a_device_holds_as_far_as_they_reach(seed, place, side, held):
    network = np.random.default_rng(seed).normal(size=33)
    scale, stuck = scales(network[:WEIGHTS]), np.full((2, WEIGHTS), np.nan)
    stuck[side, place] = held
    targets = parts.made_up(network, scale, stuck)
    assert PHYSICAL.low - 1e-12 <= targets.min() and targets.max() <= PHYSICAL.high + 1e-12
    found = PHYSICAL.weights(np.where(np.isnan(stuck), targets, stuck), scale)
    low, high = PHYSICAL.reach(stuck)
    per = np.repeat(scale, [16, 8, 8])
    np.testing.assert_allclose(found, np.clip(network[:WEIGHTS], low * per, high * per), atol=1e-9)


def test_cells_that_could_not_be_written_are_taken_for_stuck_at_what_they_hold():
    unknown, g = np.full((1, 8, 8), np.nan), np.full((1, 8, 8), 300e-6)
    classes = np.full((1, 8, 8), CellClass.GOOD, np.uint8)
    classes[0, 1, 1] = CellClass.STUCK_HRS
    g[0, 1, 1] = 20e-6
    found = AnalogDie("c1r1", GEOMETRY, g, unknown, unknown, unknown, classes)
    missed, achieved = np.zeros((1, 8, 8), bool), np.full((1, 8, 8), 200e-6)
    missed[0, 2, 3] = missed[0, 1, 1] = True
    achieved[0, 2, 3], achieved[0, 1, 1] = 450e-6, np.nan
    again = parts.given_up(found, missed, achieved, ARRAY)
    assert again.cell_class[0, 2, 3] == CellClass.STUCK_LRS and again.cell_class[0, 1, 1] == CellClass.STUCK_HRS
    stuck = from_cells(again.stuck[0])
    assert sorted(stuck[~np.isnan(stuck)]) == [20e-6, 450e-6]


def test_caps_are_no_higher_than_the_station_fires_and_then_more_pulses_are_tried():
    rack = parts.settings_within({"v_min": -2.1, "v_max": 2.1}, 0.02)
    assert (rack.cap_set, rack.cap_reset, rack.tolerance) == (2.1, -2.1, 0.02)
    assert rack.pulses_at_cap == parts.PULSES_AT_LOWER_CAP
    assert parts.settings_within({"v_min": -3, "v_max": 3}, 0.01) == ARRAY
    with pytest.raises(ValueError, match=r"ramps from 1\.1 V"):
        parts.settings_within({"v_min": -2.1, "v_max": 0.9}, 0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"tolerance": 1e-5}, "noise of a read"),
        ({"tolerance": float("nan")}, "tolerance nan"),
        ({"tolerance": 0.9}, "tolerance 0.9"),
        ({"averages": 0}, "averages 0"),
        ({"parallel": "all"}, "cell or line"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, said):
    fine = {"epochs": 1, "tolerance": 0.01, "averages": 1, "parallel": "cell"}
    parts.check_settings(**fine)
    with pytest.raises((SettingError, TargetError), match=said):
        parts.check_settings(**(fine | change))


def test_dies_of_another_geometry_are_refused():
    parts.check_fit(GEOMETRY)
    other = ArrayGeometry.tiled(rows=64, columns=64, blocks=1, block_rows=64, block_columns=64)
    with pytest.raises(SettingError, match=r"64 x 64.*8 x 8"):
        parts.check_fit(other)


def test_a_plan_that_meets_its_targets_fits_as_well_as_the_network():
    moons = parts.half_moons()
    trained = parts.train_networks(lambda text, share: None, moons=moons, epochs=400, seed=0)
    network = trained["weights"].sel(network=parts.ALL).values
    stuck = np.full((2, 2, WEIGHTS), np.nan)
    stuck[1, 0, 3] = 20e-6
    plan = parts.plan_dies(lambda text, share: None, network=network, stuck=stuck, moons=moons, seed=0)
    own = float(trained["accuracy"].sel(part="train", network=parts.ALL))
    assert np.all(plan["fit"].values >= own - 0.03)
    assert float(plan["targets"].min()) >= 20e-6 and float(plan["targets"].max()) <= 500e-6 * (1 + 1e-9)
    assert with_bias(network[:WEIGHTS], network[32]).shape == (33,)


def test_errors_are_those_of_cells_that_were_written_and_the_rest_is_stuck():
    target, achieved = np.full((1, 8, 8), 200e-6), np.full((1, 8, 8), 202e-6)
    target[0, 0, :2] = np.nan  # the first is known to be stuck, the second was given up
    achieved[0, 0, :2] = 30e-6, 450e-6
    known = np.full((1, 8, 8), np.nan)
    known[0, 0, 0] = 31e-6
    written = {"c1r1": xr.Dataset({"target": (DIMS, target), "achieved": (DIMS, achieved)})}
    dies = [SimpleNamespace(name="c0r0"), SimpleNamespace(name="c1r1")]
    found = parts.errors_of(written, np.stack([np.full((2, WEIGHTS), np.nan), from_cells(known[0])]), dies)
    stuck, error = to_cells(found["stuck"][0]), to_cells(found["error"][0])
    assert stuck[0, 0] == 31e-6 and stuck[0, 1] == 450e-6 and np.isnan(stuck).sum() == 62
    np.testing.assert_allclose(error[np.isnan(stuck)], 0.01)


def test_each_protocol_has_its_own_simulated_lot():
    assert lot_of("tio2-moons") == "tio2-8x8@rack" and lot_of("mtj-mnist") == "mtj" == lot_of("my.py:mine")
