"""The data-driven TiO2 model against the differential equation it solves, and against what is published of its fits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.messaris import N1257R, O921C, O921C_4K, V_LIMITS, Messaris, MessarisFit

FITS = [N1257R, O921C, O921C_4K]
fits = st.sampled_from(FITS)
volts = st.floats(*V_LIMITS)
widths = st.floats(1e-9, 1e-4)
shares = st.floats(0.0, 1.0)


def single(fit: MessarisFit, r: float, **other: float) -> Messaris:
    return Messaris(fit, np.array([[r]]), **other)  # type: ignore[arg-type]


def between(fit: MessarisFit, share: float) -> float:
    return min(max(fit.r_on + share * (fit.r_off - fit.r_on), fit.r_on), fit.r_off)


def after(fit: MessarisFit, r: float, v: float, *pulses: float) -> float:
    device = single(fit, r)
    for width in pulses:
        device.pulse(np.array([[v]]), width, np.random.default_rng(0))
    return float(device.r[0, 0])


def integrated(fit: MessarisFit, r: float, v: float, width: float) -> float:
    """The equation written out again, and integrated step by step; clamped like the model."""
    a, tau, a0, a1 = (fit.a_p, fit.tau_p, fit.a0_p, fit.a1_p) if v > 0 else (fit.a_n, fit.tau_n, fit.a0_n, fit.a1_n)
    bound, s = a0 + a1 * v, a * (np.exp(abs(v) / tau) - 1)
    far_side = r > bound if v > 0 else r < bound
    if not far_side:
        return r
    solution = solve_ivp(
        lambda t, y: width * s * (bound - y) ** 2, (0.0, 1.0), [r], method="LSODA", rtol=1e-11, atol=1e-9
    )
    return float(np.clip(solution.y[0, -1], fit.r_on, fit.r_off))


@pytest.mark.parametrize("fit", FITS, ids=lambda f: f.name)
def test_step_is_the_solution_of_the_equation(fit):
    rng = np.random.default_rng(3)
    moved = 0
    for _ in range(40):
        r = rng.uniform(fit.r_on, fit.r_off)
        v, width = rng.uniform(*V_LIMITS), 10 ** rng.uniform(-9, -5)
        exact = after(fit, r, v, width)
        assert exact == pytest.approx(integrated(fit, r, v, width), rel=1e-8)
        moved += exact != r
    assert moved > 15


@given(fits, shares, volts, widths, st.floats(0.05, 0.95))
def test_two_pulses_in_a_row_are_one_long_pulse(fit, share, v, width, part):
    r = between(fit, share)
    once, twice = after(fit, r, v, width), after(fit, r, v, part * width, (1 - part) * width)
    assert twice == pytest.approx(once, rel=1e-10)


def test_spot_values_of_the_fit_at_4_kelvin():
    # one 200 ns pulse from 8.9 kOhm, values printed to 10 Ohm
    for v, expected in [(1.0, 8.20e3), (1.2, 7.78e3), (-1.4, 9.01e3)]:
        assert after(O921C_4K, 8.9e3, v, 200e-9) == pytest.approx(expected, abs=5.1)


def test_a_half_selected_cell_moves_more_than_the_selected_one():
    # O921C at room temperature, 2 kOhm, pulse of the arrays (1.04 us): 5.0 kOhm after -1.2 V, 10.6 kOhm after -0.6 V
    assert after(O921C, 2e3, -1.2, 1.04e-6) == pytest.approx(5.0e3, abs=50)
    assert after(O921C, 2e3, -0.6, 1.04e-6) == pytest.approx(10.6e3, abs=50)
    devices = Messaris(O921C, np.full((2, 2), 2e3))
    v = np.array([[-1.2, -0.2], [1.2, 0.0]])  # half of -0.2 V has the bound farther off at almost the same speed
    np.testing.assert_array_equal(devices.half_select_moves_more(v, 1.04e-6), [[True, False], [False, False]])
    np.testing.assert_array_equal(devices.r, 2e3)  # a question, not a pulse


@pytest.mark.parametrize(("fit", "lowest"), [(N1257R, V_LIMITS[0]), (O921C_4K, V_LIMITS[0]), (O921C, 0.0)])
def test_elsewhere_the_selected_cell_moves_more(fit, lowest):
    # speed and distance to the bound both grow with the amplitude, except in RESET of O921C at room temperature
    rng = np.random.default_rng(9)
    devices = Messaris(fit, rng.uniform(fit.r_on, fit.r_off, (100, 100)))
    assert not np.any(devices.half_select_moves_more(rng.uniform(lowest, V_LIMITS[1], (100, 100)), 200e-9))


def test_reset_bound_of_o921c_falls_with_the_amplitude():
    np.testing.assert_allclose(O921C.bound(np.array([-1.0, -1.5])), [13.3e3, 6.6e3], atol=50)


@given(fits, shares, volts, widths)
def test_set_lowers_and_reset_raises_and_the_window_is_never_left(fit, share, v, width):
    r = between(fit, share)
    moved = after(fit, r, v, width)
    assert fit.r_on <= moved <= fit.r_off
    assert moved <= r if v >= 0 else moved >= r


@given(fits, shares, volts)
def test_a_pulse_never_passes_its_bound(fit, share, v):
    r = between(fit, share)
    moved, bound = after(fit, r, v, 1.0), float(fit.bound(np.array(v)))
    if moved != r:
        assert moved >= bound * (1 - 1e-12) if v > 0 else moved <= bound * (1 + 1e-12)


def test_no_voltage_changes_no_bit():
    devices = Messaris.draw((3, 4), np.random.default_rng(1), O921C, r=5e3)
    before = devices.r.copy()
    devices.pulse(np.zeros((3, 4)), 1e-3, np.random.default_rng(2))
    np.testing.assert_array_equal(devices.r, before)


@given(fits, shares, st.floats(-2.4, 2.1), st.floats(1e-3, 0.5))
def test_current_rises_with_the_voltage_and_its_derivative_is_right(fit, share, v, more):
    device = single(fit, between(fit, share))
    low, slope = device.current(np.array([[v]]))
    high, _ = device.current(np.array([[v + more]]))
    assert high > low
    assert slope > 0
    h = 1e-6
    difference = (device.current(np.array([[v + h]]))[0] - device.current(np.array([[v - h]]))[0]) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_low_field_conductance_is_alpha_beta_over_r():
    # alpha * beta of the three fits: 0.87, 0.92, 0.62
    for fit, product in zip(FITS, [0.87, 0.92, 0.62], strict=True):
        current, _ = single(fit, 2e3).current(np.array([[1e-5]]))
        assert current[0, 0] * 2e3 / 1e-5 == pytest.approx(product, abs=0.006)


def test_read_noise_law():
    noise = Messaris(O921C, np.array([[2e3, 10e3]])).read_noise()
    np.testing.assert_allclose(noise, [[0.10e-2, 0.23e-2]], atol=0.005e-2)


def test_write_noise_spreads_what_moved_and_only_that():
    shape = (200, 50)
    devices = Messaris(O921C_4K, np.full(shape, 8.9e3), write_noise=0.01)
    v = np.zeros(shape)
    v[:, 25:] = 1.0
    devices.pulse(v, 200e-9, np.random.default_rng(4))
    np.testing.assert_array_equal(devices.r[:, :25], 8.9e3)
    moved = devices.r[:, 25:] / after(O921C_4K, 8.9e3, 1.0, 200e-9) - 1
    assert moved.std() == pytest.approx(0.01, rel=0.05)  # 5000 draws: 1 % standard error
    assert moved.mean() == pytest.approx(0.0, abs=0.0006)


def test_drawn_speed_scales_time():
    devices = Messaris.draw((40, 50), np.random.default_rng(5), O921C_4K, r=8.9e3, speed_spread=0.3)
    assert np.log(devices.speed).std() == pytest.approx(0.3, rel=0.05)
    devices.pulse(np.ones((40, 50)), 200e-9, np.random.default_rng(6))
    expected = [after(O921C_4K, 8.9e3, 1.0, 200e-9 * factor) for factor in devices.speed[0]]
    np.testing.assert_allclose(devices.r[0], expected, rtol=1e-12)


def test_leading_axes_are_a_loop():
    rng = np.random.default_rng(7)
    shape = (3, 2, 4, 5)
    r, speed = rng.uniform(2e3, 12e3, shape), rng.uniform(0.5, 2.0, shape)
    v = rng.uniform(*V_LIMITS, shape[-2:])
    together = Messaris(O921C, r, speed)
    together.pulse(v, 1e-6, rng)
    for index in np.ndindex(3, 2):
        alone = Messaris(O921C, r[index], speed[index])
        alone.pulse(v, 1e-6, rng)
        np.testing.assert_array_equal(together.r[index], alone.r)
        for all_of_it, one in zip(together.current(v), alone.current(v), strict=True):
            np.testing.assert_array_equal(all_of_it[index], one)
    assert together.read_noise().shape == shape


def test_check_names_the_cell():
    devices = Messaris(O921C, np.full((2, 3, 4), 5e3))
    devices.check(np.full((3, 4), 2.0), 1e-6)
    v = np.zeros((2, 3, 4))
    v[1, 2, 0] = 2.2
    with pytest.raises(DeviceLimitError, match=r"row 2, column 0 of array 1: 2\.2 V"):
        devices.check(v, 1e-6)
    v[1, 2, 0] = np.nan
    with pytest.raises(DeviceLimitError, match="row 2, column 0 of array 1: nan"):
        devices.check(v, 1e-6)
    for width in (0.0, -1e-6, np.nan, np.inf):
        with pytest.raises(DeviceLimitError, match="width"):
            devices.check(np.zeros((3, 4)), width)


def test_states_outside_of_the_fit_are_refused():
    with pytest.raises(DeviceLimitError, match="row 0, column 1: 3600 Ohm"):
        Messaris(N1257R, np.array([[2000.0, 3600.0]]))
    with pytest.raises(DeviceLimitError, match="row 0, column 0: nan"):
        Messaris(N1257R, np.array([[np.nan]]))
    with pytest.raises(DeviceLimitError, match="speed"):
        Messaris(N1257R, np.array([[2000.0]]), np.array([[0.0]]))
    with pytest.raises(ValueError, match=r"row, column"):
        Messaris(N1257R, np.array([2000.0]))


def test_a_fit_whose_signs_contradict_is_refused():
    for wrong in ({"a_p": -600.1}, {"tau_n": 0.05}, {"r_on": 4000.0}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match="N1257R"):
            replace(N1257R, **wrong)
