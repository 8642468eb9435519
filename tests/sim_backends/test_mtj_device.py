import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sim_backends.array.die import Die
from sim_backends.array.mtj import (
    DeviceSolverError,
    Junctions,
    cell_current,
    junction_current,
    junction_voltage,
    repeated,
    switching_probability,
)

R_P, TMR, V_HALF, R_S = 5000.0, 1.2, 0.5, 2000.0
AP = Junctions(np.array(R_P), np.array(TMR), V_HALF, R_S)
P = Junctions(np.array(R_P), np.array(0.0), V_HALF, R_S)


def junction_resistance(v, tmr=TMR):
    return R_P * (1 + tmr / (1 + (v / V_HALF) ** 2))


def series_voltage(v_cell, tmr=TMR):
    """Junction voltage by bisection."""
    return brentq(lambda v: v + R_S * v / junction_resistance(v, tmr) - v_cell, 0, abs(v_cell), xtol=1e-15)


def test_parallel_cell_is_a_resistor():
    volts = np.linspace(-1.5, 1.5, 31)
    np.testing.assert_allclose(cell_current(volts, P), volts / (R_P + R_S), rtol=1e-12, atol=1e-20)


def test_antiparallel_limits():
    assert cell_current(np.array(1e-6), AP) / 1e-6 == pytest.approx(1 / (R_P * (1 + TMR) + R_S), rel=1e-9)
    assert junction_current(np.array(V_HALF), AP) == pytest.approx(V_HALF / (R_P * (1 + TMR / 2)), rel=1e-12)
    assert cell_current(np.array(1e4), AP) / 1e4 == pytest.approx(1 / (R_P + R_S), rel=1e-6)


def test_short_and_open_cells_are_what_is_in_series():
    short = Junctions(np.array(100.0), np.array(0.0), V_HALF, R_S)
    assert cell_current(np.array(0.1), short) == pytest.approx(0.1 / 2100, rel=1e-12)
    broken_wire = Junctions(np.array(1e9), np.array(0.0), V_HALF, R_S)
    assert cell_current(np.array(0.1), broken_wire) < 1.1e-10


@given(st.floats(1e-3, 2.0), st.floats(0.0, 3.0))
def test_series_solution_equals_bisection(v_cell, tmr):
    cells = Junctions(np.array(R_P), np.array(tmr), V_HALF, R_S)
    assert junction_voltage(np.array(v_cell), cells) == pytest.approx(series_voltage(v_cell, tmr), rel=1e-10)


@given(st.floats(1e-3, 2.0), st.floats(1.001, 1.5))
def test_current_is_odd_and_rises(v, factor):
    assert cell_current(np.array(-v), AP) == pytest.approx(-cell_current(np.array(v), AP), rel=1e-12)
    assert cell_current(np.array(v * factor), AP) > cell_current(np.array(v), AP)


def test_no_silent_result_without_convergence():
    with pytest.raises(DeviceSolverError):
        junction_voltage(np.array([0.1, np.nan]), AP)


@given(st.floats(0.3, 1.2), st.floats(20e-9, 1e-3))
def test_switching_probability_is_the_formula(v, width):
    tau = 1e-9 * math.exp(45 * (1 - v / 0.7))
    measured = switching_probability(np.array(v), width, np.array(0.7), np.array(45.0), 1e-9, 0.0)
    assert measured == pytest.approx(1 - math.exp(-width / tau), rel=1e-9, abs=1e-15)


def test_switching_needs_the_right_sign():
    assert switching_probability(np.array(-1.0), 1e-3, np.array(0.7), np.array(45.0), 1e-9, 0.0) == 0
    assert switching_probability(np.array(0.0), 1e-3, np.array(0.7), np.array(45.0), 1e-9, 0.0) == 0


def test_repeated_pulses_are_independent_tries():
    assert repeated(np.array(0.3), 4) == pytest.approx(1 - 0.7**4)
    assert repeated(np.array(1.0), 3) == pytest.approx(1.0)


@pytest.mark.parametrize("to_ap", [True, False])
def test_measured_switching_of_a_die_follows_the_formula(ideal_lot, to_ap):
    die = Die.from_lot(ideal_lot, 1, 0)
    die.state[:] = not to_ap
    switching = ideal_lot.devices.switching
    v_critical = switching.v_critical_to_ap if to_ap else switching.v_critical_to_p
    width, amplitude = 100e-9, 0.93 if to_ap else 0.73
    v_junction = series_voltage(amplitude, 0.0 if to_ap else TMR)
    tau = switching.tau0 * math.exp(switching.delta * (1 - v_junction / v_critical))
    expected = (1 - switching.error_floor) * (1 - math.exp(-width / tau))
    assert 0.1 < expected < 0.9
    pulse_all(die, amplitude if to_ap else -amplitude, width)
    count, switched = die.state.size, np.count_nonzero(die.state == to_ap)
    assert abs(switched - count * expected) < 5 * math.sqrt(count * expected * (1 - expected))


def test_a_pulse_never_switches_the_other_way(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    die.state[:] = True
    pulse_all(die, 1.2, 1e-6)
    assert die.state.all()
    pulse_all(die, -1.2, 1e-6)
    assert np.count_nonzero(die.state) < 10
    pulse_all(die, -1.2, 1e-6)
    assert not die.state.any()


def test_error_floor_is_the_share_that_fails_a_strong_pulse(ideal_lot, vary):
    die = Die.from_lot(vary(ideal_lot, switching={"error_floor": 0.02}), 1, 0)
    die.state[:] = False
    pulse_all(die, 1.25, 1e-6)
    failed = np.count_nonzero(~die.state) / die.state.size
    assert failed == pytest.approx(0.02, abs=5 * math.sqrt(0.02 * 0.98 / die.state.size))


def test_breakdown_leaves_a_short(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    mask = np.zeros((25, 25), dtype=bool)
    mask[3, 4] = True
    die.pulse(2, mask, 1.4, 100e-9, 1, die.noise(2))
    assert not die.broken.any()
    die.pulse(2, mask, 1.65, 100e-9, 1, die.noise(2))
    assert np.argwhere(die.broken).tolist() == [[2, 3, 4]]
    assert die.conductance(0.1, 2)[3, 4] == pytest.approx(1 / 2100, rel=1e-9)
    state = die.state[2, 3, 4]
    die.pulse(2, mask, -1.3, 1e-6, 10, die.noise(2))
    die.pulse(2, mask, 1.3, 1e-6, 10, die.noise(2))
    assert die.state[2, 3, 4] == state, "a short does not switch"


def test_reading_disturbs_nothing(ideal_lot):
    die = Die.from_lot(ideal_lot, 1, 0)
    before = die.state.copy()
    pulse_all(die, 0.3, 1e-3)
    np.testing.assert_array_equal(die.state, before)


def pulse_all(die, amplitude, width, count=1):
    kernels, rows, columns = die.state.shape
    for kernel in range(kernels):
        die.pulse(kernel, np.ones((rows, columns), dtype=bool), amplitude, width, count, die.noise(kernel))
