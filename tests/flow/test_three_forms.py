"""One multiply in three forms: measured through the wire, emulated from the die record, and by the array model."""

import numpy as np
import pytest

from mapping.dies.die_record import DieRecord
from mapping.placement.coding import AP, DONT_CARE
from mapping.placement.placement import place
from mapping.training.emulation import emulate_multiply, weight_unit
from mapping.writing.schedule import build_schedule
from protocols.steps.characterise import measure_states
from protocols.steps.inference import ArrayMultiplier
from protocols.steps.write_verify import program
from sim_backends.array.dies.lot import load_lot
from sim_backends.array.dies.mtj_die import Die as SimulatedDie

REPEATS = 8


@pytest.fixture
def programmed(bench, die, rng):
    """A random network on the die: measured record, placement, schedule, states as read back."""
    record = DieRecord.from_dataset(measure_states(bench, die, averages=64))
    shapes = [(100, 60), (60, 10)]
    placement = place(shapes, record.geometry, (1, 2), rows_per_multiply=[5, None])
    weights = [rng.choice(np.array([-1, 1], np.int8), (n_out, n_in)) for n_in, n_out in shapes]
    schedule = build_schedule(weights, placement)
    outcome = program(bench, die, schedule=schedule, die_record=record)
    assert outcome.attrs["verdict"] == "pass" and outcome.attrs["writable_wrong"] == 0
    return record, placement, outcome["states"].values


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_measured_emulated_and_modelled_products_agree_within_read_noise(bench, lot, die, programmed, rng):
    record, placement, states = programmed
    v_read, lsb = record.conditions["v_read"], bench.array.capabilities().dac_lsb
    x = np.trunc(rng.uniform(-1, 1, (60, 100)) * v_read / lsb) * lsb / v_read  # on the converter's grid, none beyond 1
    multiplier = ArrayMultiplier(bench, placement, record)
    measured = np.stack([multiplier(0, x) for _ in range(REPEATS)])
    noise = measured.std(axis=0, ddof=1)
    read_noise = float(np.sqrt(np.mean(noise**2)))
    emulated = emulate_multiply(record, states, placement)(0, x)
    modelled = _by_the_array_model(lot, die, record, placement, states, x)
    assert 0 < read_noise < 0.05
    for other in (emulated, modelled):
        assert _rms(measured.mean(axis=0) - other) < read_noise
    assert _rms(emulated - modelled) < read_noise
    assert _rms(measured[0] - emulated) < 1.3 * read_noise


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def _by_the_array_model(lot, die, record, placement, states, x):
    """Exact currents of the die as made, in the states it was programmed to, without converters and noise."""
    description = load_lot(lot.name)
    index = description.wafer.sites().index((die.site.column, die.site.row))
    simulated = SimulatedDie.from_lot(description, lot.seed, index)
    in_ap = np.where(states == DONT_CARE, True, states == AP)  # cells without a weight were left in AP by measuring
    simulated.put(in_ap)
    layer, v_read = placement.layers[0], record.conditions["v_read"]
    lines = np.zeros((len(x), 1, layer.groups, 2 * layer.n_out))
    for read in layer.reads:
        vectors = np.zeros((len(x), record.geometry.rows))
        vectors[:, read.row_mask] = x[:, layer.inputs_of(read.group)] * v_read
        product = simulated.product(read.kernel, "backward", read.column_mask, v_read)
        lines[:, 0, read.group, read.lines] = product.currents(vectors)[:, read.column_mask]
    return (lines[..., 0::2] - lines[..., 1::2]) / (v_read * weight_unit(record))
