"""The default TiO2 device: its law against numerical integration, and its half-select drift against the database."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from mapping.writing.converge import ConvergeToTarget
from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.tio2 import DEFAULT, WINDOW, WRITE_WIDTH, TiO2Devices, TiO2Parameters

FIT = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "models" / "fit_tio2.py"))
EXACT = replace(DEFAULT, cycle_spread=0.0)

volts = st.floats(-2.4, 2.1)
widths = st.floats(50e-9, 20e-6)
conductances = st.floats(DEFAULT.g_min, DEFAULT.g_max)


def after(g: float, v: float, *pulses: float, kind: TiO2Parameters = EXACT) -> float:
    device = TiO2Devices(np.array([[g]]), kind)
    for width in pulses:
        device.pulse(np.array([[v]]), width, np.random.default_rng(0))
    return float(device.g[0, 0])


def selected(shape: tuple[int, int], row: int, column: int, amplitude: float) -> np.ndarray:
    v = np.zeros(shape)
    v[row, :] += amplitude / 2
    v[:, column] += amplitude / 2
    return v


def within_tolerance(devices: TiO2Devices, targets: np.ndarray) -> np.ndarray:
    return np.abs(devices.g.reshape(targets.shape) / targets - 1) <= ConvergeToTarget().tolerance


# one device


def test_step_is_the_solution_of_the_equation():
    def slope(v: float, g: float) -> float:
        if v > EXACT.v_set:
            return EXACT.rate_set * (v / EXACT.v_set - 1) ** EXACT.exponent * (EXACT.g_max - g)
        if v < -EXACT.v_reset:
            return EXACT.rate_reset * (-v / EXACT.v_reset - 1) ** EXACT.exponent * (EXACT.g_min - g)
        return 0.0

    rng = np.random.default_rng(3)
    for _ in range(40):
        g, v, width = rng.uniform(*WINDOW), rng.uniform(-2.4, 2.1), 10 ** rng.uniform(-7, -5)
        solution = solve_ivp(
            lambda t, y, v=v, w=width: [1e6 * w * slope(v, y[0] / 1e6)], (0, 1), [g * 1e6], rtol=1e-10, atol=1e-10
        )
        assert after(g, v, width) * 1e6 == pytest.approx(solution.y[0, -1], rel=1e-8)


@given(conductances, volts, widths, st.floats(0.01, 0.99))
def test_two_pulses_in_a_row_are_one_long_pulse(g, v, width, part):
    assert after(g, v, part * width, (1 - part) * width) == pytest.approx(after(g, v, width), rel=1e-12)


@given(conductances, volts, widths)
def test_positive_raises_negative_lowers_and_the_bounds_hold(g, v, width):
    moved = after(g, v, width, kind=DEFAULT)
    assert DEFAULT.g_min <= moved <= DEFAULT.g_max
    if v >= 0:
        assert moved >= g
    else:
        assert moved <= g


@given(conductances, st.floats(-DEFAULT.v_reset, DEFAULT.v_set), st.integers(1, 20))
def test_up_to_its_thresholds_a_device_does_not_move_to_the_last_bit(g, v, count):
    assert after(g, v, *[20e-6] * count, kind=DEFAULT) == g


def test_beyond_its_thresholds_a_device_moves():
    assert after(300e-6, 1.02 * DEFAULT.v_set, WRITE_WIDTH) > 300e-6
    assert after(300e-6, -1.02 * DEFAULT.v_reset, WRITE_WIDTH) < 300e-6


def test_a_rate_of_zero_is_a_stuck_device():
    devices = TiO2Devices(np.full((1, 2), 300e-6), set_rate_factor=np.array([[0.0, 1.0]]), reset_rate_factor=0.0)
    before = devices.g.copy()
    devices.pulse(np.full((1, 2), -2.4), WRITE_WIDTH, np.random.default_rng(1))
    assert np.array_equal(devices.g, before)
    devices.pulse(np.full((1, 2), 2.0), WRITE_WIDTH, np.random.default_rng(1))
    assert devices.g[0, 0] == before[0, 0] and devices.g[0, 1] > before[0, 1]


def test_half_of_the_first_amplitude_disturbs_far_less_than_half_of_a_high_one():
    def change(v: float) -> float:
        return abs(after(300e-6, v, WRITE_WIDTH) - 300e-6)

    for sign in (1, -1):
        assert change(sign * 1.1 / 2) < change(sign * 1.7 / 2) / 100


# current and reads


@given(conductances)
def test_g_is_the_conductance_at_the_read_voltage(g):
    current, _ = TiO2Devices(np.array([[g]])).current(np.array([[0.2]]))
    assert current[0, 0] == pytest.approx(g * 0.2, rel=1e-14)


def test_current_is_a_sinh_with_the_laboratorys_beta_and_slopes_fit():
    devices = TiO2Devices(np.array([[100e-6, 500e-6]]))
    v = np.linspace(-2.4, 2.1, 40)[:, None, None]
    current, slope = devices.current(v)
    expected = devices.g * 0.2 * np.sinh(1.2384 * v) / np.sinh(1.2384 * 0.2)
    assert current == pytest.approx(expected, rel=1e-13)
    h = 1e-5
    numeric = (devices.current(v + h)[0] - devices.current(v - h)[0]) / (2 * h)
    assert slope == pytest.approx(numeric, rel=1e-8)
    assert devices.low_field == pytest.approx(devices.current(np.zeros((1, 2)))[1], rel=1e-14)
    assert devices.derivative_to_conductance(v) * devices.g == pytest.approx(current, rel=1e-13)


def test_read_noise_is_the_laboratorys_law():
    # sigma_% = 1.672e-5 R + 6.645e-2: 0.1 % at 2 kOhm, 0.23 % at 10 kOhm
    noise = TiO2Devices(np.array([[500e-6, 100e-6]])).read_noise()
    assert noise == pytest.approx(np.array([[0.09989e-2, 0.23365e-2]]), rel=1e-9)


# populations


def test_drawn_devices_have_the_spreads_of_their_population():
    kind = replace(DEFAULT, threshold_spread=0.07, rate_spread=0.3)
    devices = TiO2Devices.draw((400, 100), np.random.default_rng(2), kind)
    for factor, spread in [
        (devices.set_threshold_factor, 0.07),
        (devices.reset_threshold_factor, 0.07),
        (devices.set_rate_factor, 0.3),
        (devices.reset_rate_factor, 0.3),
    ]:
        assert np.std(np.log(factor)) == pytest.approx(spread, rel=0.02)
        assert np.median(factor) == pytest.approx(1, abs=0.01)
    assert WINDOW[0] <= devices.g.min() < 101e-6 and 499e-6 < devices.g.max() <= WINDOW[1]


def test_effects_of_pulses_spread_from_cycle_to_cycle():
    devices = TiO2Devices(np.full((100, 100), 300e-6))
    devices.pulse(np.full((100, 100), 1.3), WRITE_WIDTH, np.random.default_rng(4))
    exponent = -np.log((DEFAULT.g_max - devices.g) / (DEFAULT.g_max - 300e-6))
    assert np.std(np.log(exponent)) == pytest.approx(DEFAULT.cycle_spread, rel=0.03)


def test_pulses_repeat_with_their_generator_and_broadcast_over_arrays():
    v = selected((4, 5), 1, 2, 1.6)
    one, two = (TiO2Devices.draw((3, 4, 5), np.random.default_rng(1)) for _ in range(2))
    one.pulse(v, WRITE_WIDTH, np.random.default_rng(9))
    two.pulse(np.broadcast_to(v, (3, 4, 5)), WRITE_WIDTH, np.random.default_rng(9))
    assert np.array_equal(one.g, two.g)
    start = TiO2Devices.draw((3, 4, 5), np.random.default_rng(1)).g
    assert np.array_equal(np.any(one.g != start, axis=0), v > DEFAULT.v_set)


# what is refused


@pytest.mark.parametrize("v", [2.11, -2.41, np.nan, np.inf])
def test_voltages_beyond_the_caps_are_refused_with_the_cell(v):
    devices = TiO2Devices.draw((2, 3, 4), np.random.default_rng(1))
    pulse = np.zeros((2, 3, 4))
    pulse[1, 2, 3] = v
    with pytest.raises(DeviceLimitError, match=r"row 2, column 3 of array 1: .*-2.4 .. 2.1 V"):
        devices.check(pulse, WRITE_WIDTH)


def test_a_ramp_may_meet_the_caps():
    devices = TiO2Devices(np.full((1, 1), 300e-6))
    for step, sign, count in [(0.02, 1, 50), (0.02, -1, 65)]:
        devices.check(np.array([[sign * (1.1 + sum([step] * count))]]), WRITE_WIDTH)


@pytest.mark.parametrize("width", [0.0, 10e-9, 1e-3, np.nan])
def test_widths_outside_of_the_models_range_are_refused(width):
    with pytest.raises(DeviceLimitError, match=r"0.05 .. 20 us"):
        TiO2Devices(np.full((1, 1), 300e-6)).check(np.zeros((1, 1)), width)


@pytest.mark.parametrize("g", [1e-6, 2e-3, np.nan, -1e-4])
def test_states_outside_of_the_soft_bounds_are_refused_with_the_cell(g):
    with pytest.raises(DeviceLimitError, match="row 0, column 1"):
        TiO2Devices(np.array([[300e-6, g]]))


def test_parameters_that_make_no_device_are_refused():
    with pytest.raises(ValueError, match=r"a read of 0\.2 V would write"):
        TiO2Parameters(v_reset=0.15)
    with pytest.raises(ValueError, match="g_min < g_max"):
        TiO2Parameters(g_min=1e-3)
    with pytest.raises(ValueError, match="does not fit devices"):
        TiO2Devices(np.full((2, 2), 300e-6), set_rate_factor=np.ones((3, 3)))


# in arrays, written as the laboratory does


@pytest.fixture(scope="module")
def lot():
    """1000 arrays of 8 x 8, written once: devices, targets, record."""
    return FIT["write_random"](1000, np.random.default_rng(1))


@pytest.mark.slow
@pytest.mark.parametrize("k", list(FIT["MEASURED"]))
def test_half_select_drift_is_the_measured_one(lot, k):
    """Mean within 15 % or two standard errors of the database, SD within 15 %; plus two of this sample's own errors."""
    _, mean, sd = FIT["MEASURED"][k]
    drift = lot[2].drift(k) * 1e6
    mean_error, sd_error = FIT["bootstrap"](drift, np.random.default_rng(1), 50)
    assert abs(np.nanmean(drift) - mean) < FIT["mean_tolerance"](k) + 2 * mean_error
    assert abs(np.nanstd(drift) / sd - 1) < 0.15 + 2 * sd_error / sd


@pytest.mark.slow
def test_drift_is_heavy_tailed_at_first_and_less_so_later(lot):
    first, last = ((d := lot[2].drift(k))[~np.isnan(d)] for k in (1, 32))
    assert FIT["kurtosis"](first) > 8  # database: 12.3
    assert FIT["kurtosis"](last) < 4  # database: 2.2


def test_cells_written_first_drift_most(lot):
    devices, _, written = lot
    array = np.arange(len(written.order))[:, None]
    as_written = written.reads[array, np.arange(64), written.order]
    drift = devices.g.reshape(-1, 64)[array, written.order] - as_written
    spread = [np.sqrt(np.mean(quarter**2)) for quarter in np.split(drift, 4, axis=1)]
    assert spread[0] > 1.15 * spread[1] > 1.15**2 * spread[2] > 1.15**3 * spread[3]


def test_nearly_all_cells_are_reached_below_the_caps(lot):
    _, _, written = lot
    assert written.gave_up.mean() < 0.03
    assert 10 < np.median(written.pulses) < 60
    assert np.percentile(written.pulses, 99) < 120


@pytest.mark.slow
def test_touch_up_brings_whole_arrays_into_tolerance():
    rng = np.random.default_rng(6)
    devices, targets, written = FIT["write_random"](100, rng)
    assert within_tolerance(devices, targets).mean() < 0.5  # one writing alone is undone by its own disturb
    for _ in range(4):
        touched = FIT["write"](devices, targets, written.order, rng, keep_reads=False)
    assert touched.pulses.mean() < 0.05 * written.pulses.mean()
    inside = within_tolerance(devices, targets).mean(axis=1)
    assert inside.mean() > 0.98
    assert np.mean(inside >= 0.95) > 0.95


@pytest.mark.slow
def test_a_large_array_is_written_with_low_caps():
    """With the laboratory's caps the many cells on its lines undo what is written; V/2 of 1.2 V hardly does."""
    rng = np.random.default_rng(5)
    devices = TiO2Devices.draw((1, 20, 20), rng)
    targets = rng.uniform(*WINDOW, (1, 400))
    for _ in range(3):
        FIT["write"](
            devices, targets, rng.permutation(400)[None], rng, caps=(1.2, -1.2), pulses_at_cap=1000, keep_reads=False
        )
    assert within_tolerance(devices, targets).mean() > 0.9
    assert np.mean(np.abs(devices.g.ravel() / targets[0] - 1)) < 0.01
