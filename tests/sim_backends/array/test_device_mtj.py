"""The MTJ against bisection and its own laws written out; what a pulse does to cells in every state."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.mtj import GENERIC, Mtj, MtjParameters, flipped_share, repeated, switching_probability

MODELS = Path(__file__).parents[3] / "docs" / "models"

R_P, TMR, V_HALF, R_S = 5000.0, 1.2, 0.5, 2000.0
V_BREAKDOWN = 1.15
#: Without spread: every cell is the same.
EQUAL = replace(GENERIC, r_p_spread=0, tmr_spread=0, v_critical_spread=0, delta_spread=0, v_breakdown_spread=0)

volts = st.floats(-2.0, 2.0)


def cells(shape=(1, 1), antiparallel=False, parameters=EQUAL, **changed):
    made = Mtj.draw(shape, np.random.default_rng(0), parameters, antiparallel)
    return replace(made, **{name: np.array(value, ndmin=2) for name, value in changed.items()})


P, AP = cells(), cells(antiparallel=True)


def current(devices, v):
    return devices.current(np.full(devices.shape, v))[0].item()


def junction_resistance(v, tmr=TMR):
    return R_P * (1 + tmr / (1 + (v / V_HALF) ** 2))


def series_voltage(v_cell, tmr=TMR):
    """Junction voltage by bisection."""
    return brentq(lambda v: v + R_S * v / junction_resistance(v, tmr) - v_cell, 0, abs(v_cell), xtol=1e-15)


def test_parallel_cell_is_a_resistor():
    v = np.linspace(-1.5, 1.5, 31)[:, None, None]
    i, slope = P.current(v)
    np.testing.assert_allclose(i, v / (R_P + R_S), rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(slope, 1 / (R_P + R_S), rtol=1e-12)


def test_antiparallel_limits():
    bare = cells(antiparallel=True, parameters=replace(EQUAL, r_selector=0.0))
    assert current(AP, 1e-6) / 1e-6 == pytest.approx(1 / (R_P * (1 + TMR) + R_S), rel=1e-9)
    assert current(bare, V_HALF) == pytest.approx(V_HALF / (R_P * (1 + TMR / 2)), rel=1e-12)
    assert current(AP, 1e4) / 1e4 == pytest.approx(1 / (R_P + R_S), rel=1e-6)


def test_short_and_open_cells_are_what_is_in_series():
    assert current(cells(r_p=100.0, tmr=0.0), 0.1) == pytest.approx(0.1 / 2100, rel=1e-12)
    assert current(cells(antiparallel=True, broken=True), 0.1) == pytest.approx(0.1 / 2100, rel=1e-12)
    assert current(cells(r_p=1e9, tmr=0.0), 0.1) < 1.1e-10


@given(st.floats(1e-3, 2.0), st.floats(0.0, 3.0))
def test_series_solution_equals_bisection(v_cell, tmr):
    devices = cells(antiparallel=True, tmr=tmr)
    v_junction = series_voltage(v_cell, tmr)
    assert devices.junction_voltage(np.full((1, 1), v_cell)).item() == pytest.approx(v_junction, rel=1e-10)
    assert current(devices, v_cell) == pytest.approx(v_junction / junction_resistance(v_junction, tmr), rel=1e-11)


@given(st.floats(1e-6, 1e6), st.floats(0.0, 100.0), st.floats(0.0, 1e9), st.floats(1e-9, 1e3))
def test_any_junction_and_selector_balance(r_p, tmr, r_selector, v):
    devices = cells(antiparallel=True, parameters=replace(EQUAL, r_selector=r_selector), r_p=r_p, tmr=tmr)
    i = current(devices, v)
    # of two resistors, whatever the junction's is between its two limits
    assert v / (r_p * (1 + tmr) + r_selector) * (1 - 1e-12) <= i <= v / (r_p + r_selector) * (1 + 1e-12)
    v_junction = v - r_selector * i
    lost = 1e-15 * v / max(v_junction, 1e-300)  # digits of the difference
    if lost < 1e-10:
        expected = v_junction / (r_p * (1 + tmr / (1 + (v_junction / V_HALF) ** 2)))
        assert i == pytest.approx(expected, rel=1e-11 + 100 * lost)  # the current itself is good to 1e-13


@given(st.floats(1e-3, 2.0), st.floats(1.001, 1.5))
def test_current_is_odd_and_rises(v, factor):
    assert current(AP, -v) == pytest.approx(-current(AP, v), rel=1e-12)
    assert current(AP, v * factor) > current(AP, v)


@given(volts)
def test_slope_is_the_derivative(v):
    for devices in (P, AP):
        step = 1e-5
        expected = (current(devices, v + step) - current(devices, v - step)) / (2 * step)
        assert devices.current(np.full((1, 1), v))[1].item() == pytest.approx(expected, rel=1e-7)


def test_no_number_is_made_of_none():
    i, slope = AP.current(np.full((1, 1), np.nan))
    assert np.isnan(i).all() and np.isnan(slope).all()


def test_leading_axes_of_voltages_broadcast():
    devices = Mtj.draw((3, 4), np.random.default_rng(1), antiparallel=np.arange(12).reshape(3, 4) % 2 == 0)
    v = np.linspace(-1, 1, 5)[:, None, None]
    i, _ = devices.current(v)
    assert i.shape == (5, 3, 4)
    np.testing.assert_array_equal(i[1], devices.current(np.full((3, 4), v[1, 0, 0]))[0])


@given(st.floats(0.3, 1.2), st.floats(20e-9, 1e-3))
def test_switching_probability_is_the_formula(v, width):
    tau = 1e-9 * math.exp(45 * (1 - v / 0.7))
    found = switching_probability(np.array(v), width, np.array(0.7), np.array(45.0), 1e-9, 0.0)
    assert found == pytest.approx(1 - math.exp(-width / tau), rel=1e-9, abs=1e-15)


def test_switching_needs_the_right_sign():
    assert switching_probability(np.array(-1.0), 1e-3, np.array(0.7), np.array(45.0), 1e-9, 0.0) == 0
    assert switching_probability(np.array(0.0), 1e-3, np.array(0.7), np.array(45.0), 1e-9, 0.0) == 0


def test_repeated_pulses_are_independent_tries():
    assert repeated(np.array(0.3), 4) == pytest.approx(1 - 0.7**4)
    assert repeated(np.array(1.0), 3) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("to_ap", [True, False])
def test_share_that_a_pulse_switches_follows_the_formula(to_ap, count):
    devices = cells((100, 200), antiparallel=not to_ap)
    width, amplitude = 100e-9, 0.93 if to_ap else 0.73
    v_junction = series_voltage(amplitude, 0.0 if to_ap else TMR)
    v_critical = EQUAL.v_critical_to_ap if to_ap else EQUAL.v_critical_to_p
    tau = EQUAL.tau0 * math.exp(EQUAL.delta * (1 - v_junction / v_critical))
    once = (1 - EQUAL.error_floor) * (1 - math.exp(-width / tau))
    expected = 1 - (1 - once) ** count
    assert 0.1 < expected < 0.95
    # row minus column: a positive pulse at the columns writes AP
    devices.pulse(np.full(devices.shape, -amplitude if to_ap else amplitude), width, np.random.default_rng(3), count)
    switched = np.count_nonzero(devices.antiparallel == to_ap)
    assert abs(switched - 20_000 * expected) < 5 * math.sqrt(20_000 * expected * (1 - expected))


def test_a_pulse_never_switches_the_other_way():
    rng = np.random.default_rng(0)
    devices = cells((50, 50), antiparallel=True)
    devices.pulse(np.full(devices.shape, -1.2), 1e-6, rng)
    assert devices.antiparallel.all()
    devices.pulse(np.full(devices.shape, 1.2), 1e-6, rng, 3)
    assert not devices.antiparallel.any()


def test_cells_without_voltage_do_not_move_and_fixed_ones_never():
    rng = np.random.default_rng(0)
    devices = cells((2, 3), fixed=[[True], [False]])
    v = np.full((2, 3), -1.2)
    v[:, 1] = 0.0
    devices.pulse(v, 1e-6, rng, 10)
    assert devices.antiparallel.tolist() == [[False, False, False], [True, False, True]]
    assert not devices.broken.any()


def test_numbers_drawn_do_not_depend_on_voltages():
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    cells((5, 6)).pulse(np.zeros((5, 6)), 1e-6, first)
    cells((5, 6)).pulse(np.full((5, 6), -2.0), 1e-6, second, 7)
    assert first.random() == second.random()


@pytest.mark.parametrize("sign", [1, -1])
def test_breakdown_is_judged_at_start_and_end(sign):
    """AP takes more of the voltage than P: what writes AP ends in it, what writes P starts in it."""
    in_p, in_ap = (series_voltage(1.6, tmr) for tmr in (0.0, TMR))
    assert in_p < V_BREAKDOWN < in_ap
    devices = cells(antiparallel=sign > 0)
    with pytest.raises(DeviceLimitError, match="row 0, column 0"):
        devices.check(np.full((1, 1), sign * 1.6), 1e-6)
    devices.pulse(np.full((1, 1), sign * 1.6), 1e-6, np.random.default_rng(0))
    assert devices.broken.all()
    stuck = cells(fixed=True)
    stuck.check(np.full((1, 1), sign * 1.6), 1e-6)
    stuck.pulse(np.full((1, 1), sign * 1.6), 1e-6, np.random.default_rng(0))
    assert not stuck.broken.any(), "it stays in P"


@given(volts, st.integers(0, 2**32 - 1))
def test_what_check_lets_pass_breaks_nothing(v, seed):
    rng = np.random.default_rng(seed)
    devices = Mtj.draw((4, 5), rng, antiparallel=rng.random((4, 5)) < 0.5)
    v_cell = v * rng.random((4, 5))
    try:
        devices.check(v_cell, 1e-7)
    except DeviceLimitError:
        return
    devices.pulse(v_cell, 1e-7, rng)
    assert not devices.broken.any()


def test_the_broken_cell_is_named_and_stays_broken():
    devices = cells((3, 4), v_breakdown=np.where(np.arange(12).reshape(3, 4) == 6, 0.5, 2.0))
    with pytest.raises(DeviceLimitError, match=r"row 1, column 2.*0\.5 V"):
        devices.check(np.full((3, 4), 0.9), 1e-7)
    devices.pulse(np.full((3, 4), 0.9), 1e-7, np.random.default_rng(0))
    assert np.argwhere(devices.broken).tolist() == [[1, 2]]
    devices.check(np.full((3, 4), 0.9), 1e-7)  # there is nothing left to break
    before = devices.antiparallel[1, 2]
    devices.pulse(np.full((3, 4), -1.2), 1e-6, np.random.default_rng(0), 10)
    assert devices.antiparallel[1, 2] == before, "a short does not switch"
    assert devices.broken[1, 2]


def test_pulses_that_are_none_are_refused():
    with pytest.raises(DeviceLimitError, match="positive width"):
        P.check(np.zeros((1, 1)), 0.0)
    with pytest.raises(DeviceLimitError, match=r"row 0, column 0.*not a voltage"):
        P.check(np.full((1, 1), np.nan), 1e-7)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("r_p", 0.0, "positive"),
        ("r_p", np.inf, "finite"),
        ("tmr", -0.1, "not negative"),
        ("delta", np.nan, "pos"),
    ],
)
def test_cells_that_cannot_be_are_refused_by_name(name, value, wanted):
    values = np.ones((2, 3))
    values[1, 2] = value
    with pytest.raises(DeviceLimitError, match=rf"row 1, column 2: {name} is .*{wanted}"):
        cells((2, 3), **{name: values})
    with pytest.raises(ValueError, match="tmr does not fit"):
        cells((2, 3), tmr=np.ones((4, 4)))


def test_a_part_is_the_same_cells():
    devices = cells((2, 3, 4))
    part = devices.part(1)
    assert part.shape == (3, 4)
    part.pulse(np.full((3, 4), -1.2), 1e-6, np.random.default_rng(0), 3)
    assert devices.antiparallel[1].all() and not devices.antiparallel[0].any()
    other = devices.in_state(False)
    other.antiparallel[:] = True
    other.broken[:] = True
    assert not devices.antiparallel[0].any() and not devices.broken.any()


def test_spread_of_drawn_cells():
    devices = Mtj.draw((200, 200), np.random.default_rng(6))
    kind = MtjParameters()
    for values, spread in (
        (np.log(devices.r_p / kind.r_p), kind.r_p_spread),
        (np.log(devices.tmr / kind.tmr), kind.tmr_spread),
        (devices.v_critical_to_ap / kind.v_critical_to_ap - 1, kind.v_critical_spread),
        (devices.v_critical_to_p / kind.v_critical_to_p - 1, kind.v_critical_spread),
        (devices.delta / kind.delta - 1, kind.delta_spread),
        (devices.v_breakdown / kind.v_breakdown - 1, kind.v_breakdown_spread),
    ):
        assert abs(values.mean()) < 5 * spread / 200
        assert values.std() == pytest.approx(spread, rel=0.02)
    np.testing.assert_array_equal(devices.read_noise(), np.full((200, 200), kind.read_noise))


def test_all_that_is_assumed_is_told():
    assert {"parameters", "switching", "breakdown"} <= set(P.assumed)


@given(st.floats(0, 0.69), st.floats(20e-9, 1e-3), st.floats(0.5, 3))
def test_exponent_and_attempt_time_are_parameters(v, width, exponent):
    tau = 3e-9 * math.exp(45 * (1 - v / 0.7) ** exponent)
    found = switching_probability(np.array(v), width, np.array(0.7), np.array(45.0), 3e-9, 0.0, exponent)
    assert found == pytest.approx(-math.expm1(-width / tau) if v > 0 else 0.0, rel=1e-9, abs=1e-15)


def test_no_barrier_is_left_above_the_critical_voltage():
    for exponent in (0.5, 1.5, 2.0):
        found = switching_probability(np.array([0.7, 1.4]), 20e-9, np.array(0.7), np.array(45.0), 1e-9, 0.0, exponent)
        np.testing.assert_allclose(found, 1 - math.exp(-20), rtol=1e-12)


@pytest.mark.parametrize("width", [19e-9, 5e-9, 1e-12, math.nan])
def test_pulses_that_the_law_does_not_hold_for_are_refused_and_switch_nothing(width):
    devices = Mtj.draw((4, 5), np.random.default_rng(0))
    v = np.full(devices.shape, -1.0)
    for act in (lambda: devices.check(0.1 * v, width), lambda: devices.pulse(v, width, np.random.default_rng(1))):
        with pytest.raises(DeviceLimitError, match=r"from 20 ns on|positive width"):
            act()
    assert not devices.antiparallel.any() and not devices.broken.any()


def test_retention_is_the_barrier_at_zero_volts_and_its_spread():
    seconds, kind = 3600.0, MtjParameters(delta=35.0, delta_spread=0.08)
    devices = Mtj.draw((200, 500), np.random.default_rng(0), kind)
    each = devices.flipping_probability(seconds)
    np.testing.assert_allclose(each, -np.expm1(-seconds / (kind.tau0 * np.exp(devices.delta))), rtol=1e-9)
    deviation = each.std() / math.sqrt(each.size)
    assert flipped_share(seconds, kind) == pytest.approx(each.mean(), abs=5 * deviation)
    assert flipped_share(seconds, kind) > 1.5 * -math.expm1(-seconds / (kind.tau0 * math.exp(kind.delta)))


def test_reads_disturb_more_with_a_square_barrier():
    """A second at 0.1 V across the junction: a barrier of 45 (1 - 0.1 / 0.65), or of 45 (1 - 0.1 / 0.65)^2."""
    sharp = MtjParameters(delta_spread=0.0, v_critical_spread=0.0)
    for exponent in (1.0, 2.0):
        expected = math.exp(-45 * (1 - 0.1 / 0.65) ** exponent) / 1e-9
        found = flipped_share(1.0, replace(sharp, exponent=exponent), 0.1, to_ap=False)
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_square_barrier_and_a_macrospin_agree_on_which_way_the_laws_are_wrong():
    """200 ns at 0.85 of the critical voltage: linear with 1 ns is 0.21, square 1.00, a macrospin between them.

    Few draws and a weak anisotropy field: a test of the script, whose figures are in docs/models/mtj.md.
    """
    spec = importlib.util.spec_from_file_location("macrospin", MODELS / "derive_mtj_macrospin.py")
    macrospin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macrospin)
    linear, square = macrospin.laws(200e-9, 0.85, 1e-9)
    ours = [
        float(switching_probability(np.array(0.85), 200e-9, np.array(1.0), np.array(45.0), 1e-9, 0.0, exponent))
        for exponent in (1.0, 2.0)
    ]
    np.testing.assert_allclose([linear, square], ours, rtol=1e-9)
    found, deviation = macrospin.probability(60, 200e-9, 0.85, 0.06, seed=0)
    assert linear < found - 3 * deviation and found + 3 * deviation < square
