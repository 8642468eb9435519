"""What a die does when it is pulsed and read, through its lines; dies of a lot are in test_array_lot.py."""

import math

import nodal
import numpy as np
import pytest
from scipy.optimize import brentq

from sim_backends.array.devices.mtj import GENERIC
from sim_backends.array.dies.lot import load_lot
from sim_backends.array.dies.mtj_die import Die, assumed_of, parameters_of

ROWS = COLUMNS = 25


def junction_share(v_cell, lot, antiparallel):
    """Junction voltage at a cell voltage, by bisection."""
    devices = lot.devices

    def too_much(v):
        tmr = devices.tmr / (1 + (v / devices.v_half) ** 2) if antiparallel else 0.0
        return v + devices.r_selector * v / (devices.r_p * (1 + tmr)) - v_cell

    return brentq(too_much, 0, v_cell, xtol=1e-15)


def pulse_all(die, amplitude, width, count=1):
    kernels, rows, columns = die.devices.shape
    for kernel in range(kernels):
        die.pulse(kernel, np.ones((rows, columns), dtype=bool), amplitude, width, count, die.noise(kernel))


@pytest.mark.parametrize("to_ap", [True, False])
def test_measured_switching_of_a_die_follows_the_formula(ideal_lot, to_ap):
    die = Die.from_lot(ideal_lot, 1, 0)
    die.put(not to_ap)
    switching = ideal_lot.devices.switching
    v_critical = switching.v_critical_to_ap if to_ap else switching.v_critical_to_p
    width, amplitude = 100e-9, 0.93 if to_ap else 0.73
    v_junction = junction_share(amplitude, ideal_lot, antiparallel=not to_ap)
    tau = switching.tau0 * math.exp(switching.delta * (1 - v_junction / v_critical))
    expected = (1 - switching.error_floor) * (1 - math.exp(-width / tau))
    assert 0.1 < expected < 0.9
    pulse_all(die, amplitude if to_ap else -amplitude, width)
    state = die.devices.antiparallel
    count, switched = state.size, np.count_nonzero(state == to_ap)
    assert abs(switched - count * expected) < 5 * math.sqrt(count * expected * (1 - expected))


def test_a_positive_pulse_writes_ap_and_a_negative_one_p(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    die.put(True)
    pulse_all(die, 1.2, 1e-6)
    assert die.devices.antiparallel.all()
    pulse_all(die, -1.2, 1e-6)
    assert np.count_nonzero(die.devices.antiparallel) < 10
    pulse_all(die, -1.2, 1e-6)
    assert not die.devices.antiparallel.any()


def test_error_floor_is_the_share_that_fails_a_strong_pulse(ideal_lot, vary):
    die = Die.from_lot(vary(ideal_lot, switching={"error_floor": 0.02}), 1, 0)
    die.put(False)
    pulse_all(die, 1.25, 1e-6)
    failed = np.count_nonzero(~die.devices.antiparallel) / die.devices.antiparallel.size
    assert failed == pytest.approx(0.02, abs=5 * math.sqrt(0.02 * 0.98 / die.devices.antiparallel.size))


def test_breakdown_leaves_a_short(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[3, 4] = True
    die.pulse(2, mask, 1.4, 100e-9, 1, die.noise(2))
    assert not die.devices.broken.any()
    die.pulse(2, mask, 1.65, 100e-9, 1, die.noise(2))
    assert np.argwhere(die.devices.broken).tolist() == [[2, 3, 4]]
    assert die.conductance(0.1)[2, 3, 4] == pytest.approx(1 / 2100, rel=1e-9)
    state = die.devices.antiparallel[2, 3, 4]
    die.pulse(2, mask, -1.3, 1e-6, 10, die.noise(2))
    die.pulse(2, mask, 1.3, 1e-6, 10, die.noise(2))
    assert die.devices.antiparallel[2, 3, 4] == state, "a short does not switch"


def test_reading_disturbs_nothing(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    before = die.devices.antiparallel.copy()
    pulse_all(die, 0.3, 1e-3)
    np.testing.assert_array_equal(die.devices.antiparallel, before)


def test_cells_are_put_into_a_state_unless_they_are_stuck_or_dead(lot, vary):
    die = Die.from_lot(vary(lot, defects={"rate_median": 0.05, "dead_rows": 3}), 5, 1)
    before = die.devices.antiparallel.copy()
    model = die.product(0, "forward", np.ones(COLUMNS, dtype=bool), 0.1)
    die.put(~before)
    np.testing.assert_array_equal(die.devices.antiparallel, before ^ die.switchable)
    assert not die.switchable.all() and die.switchable.any()
    assert die.product(0, "forward", np.ones(COLUMNS, dtype=bool), 0.1) is not model, "a product sees the new state"


def test_reading_a_die_equals_the_nodal_solution_of_each_column(lot, vary):
    die = Die.from_lot(vary(lot, lines={"r_row": "2 Ohm", "r_column": "3 Ohm", "r_contact": "5 Ohm"}), 3, 0)
    column, kernel = 20, 4
    gated = np.zeros((ROWS, COLUMNS), dtype=bool)
    gated[:, column] = die.alive[kernel][:, column]
    cells = die.devices.part(kernel)
    v_columns = np.full(COLUMNS, np.nan)
    v_columns[column] = 0.2
    into_rows, _, _ = nodal.solve(
        lambda v: tuple(gated * x for x in cells.current(v)), np.zeros(ROWS), v_columns, 2, 3, 5, ROWS, COLUMNS
    )
    measured = die.read(kernel, 0.2)[:, column]
    np.testing.assert_allclose(measured, -into_rows, rtol=0, atol=1e-8 * np.abs(into_rows).max())
    only = np.arange(COLUMNS) == column
    np.testing.assert_allclose(die.read(kernel, 0.2, only), np.where(only, die.read(kernel, 0.2), 0.0), rtol=1e-12)


def test_the_generic_cell_is_that_of_the_built_in_lot(lot):
    assert parameters_of(lot) == GENERIC


def test_what_a_lot_has_measured_is_not_assumed(lot):
    assumed = assumed_of(load_lot("mtj"))
    assert "assumed" in assumed["delta"] and "generic" in assumed["tmr"] and "switching" in assumed
    measured = lot.model_copy(update={"sources": {**lot.sources, "devices.switching.delta": "fitted"}})
    assert set(assumed) - set(assumed_of(measured)) == {"delta"}
    assert Die.from_lot(measured, 1, 0).devices.assumed == assumed_of(measured)
