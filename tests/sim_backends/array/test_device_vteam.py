"""VTEAM against numerical integration, and its thresholds to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.vteam import GENERIC, Vteam, VteamParameters

#: Thresholds of a device that can be written with V/2: 1.0 V moves it, 0.5 V does not.
ARRAY = VteamParameters(r_on=2e3, r_off=10e3, k_on=-0.05, k_off=0.05, a_on=2.0, a_off=1.5, v_on=-0.6, v_off=0.7)

kinds = st.sampled_from([GENERIC, ARRAY])
volts = st.floats(-2.0, 2.0)
widths = st.floats(1e-12, 1e-5)
shares = st.floats(0.0, 1.0)
polarities = st.sampled_from([1, -1])


def after(kind: VteamParameters, x: float, v: float, *pulses: float, polarity=1) -> float:
    device = Vteam(np.array([[x]]), kind, polarity=polarity)
    for width in pulses:
        device.pulse(np.array([[v]]), width, np.random.default_rng(0))
    return float(device.x[0, 0])


@pytest.mark.parametrize("kind", [GENERIC, ARRAY], ids=["generic", "array"])
def test_step_is_the_solution_of_the_equation(kind):
    def velocity(v: float) -> float:
        if v > kind.v_off:
            return kind.k_off * (v / kind.v_off - 1) ** kind.a_off
        if v < kind.v_on:
            return kind.k_on * (v / kind.v_on - 1) ** kind.a_on
        return 0.0

    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(60):
        x, v = rng.uniform(0, kind.d), rng.uniform(-1.5, 1.5)
        width = 10 ** rng.uniform(-12, -6)
        solution = solve_ivp(
            lambda t, y, v=v, w=width: [w * velocity(v) / kind.d], (0, 1), [x / kind.d], rtol=1e-10, atol=1e-12
        )
        expected = np.clip(solution.y[0, -1], 0, 1) * kind.d
        assert after(kind, x, v, width) == pytest.approx(expected, rel=1e-8, abs=1e-17)
        inside += 0 < expected < kind.d and expected != x
    assert inside > 10


@given(kinds, shares, volts, widths, st.floats(0.0, 1.0))
def test_two_pulses_in_a_row_are_one_long_pulse(kind, share, v, width, part):
    x = share * kind.d
    pulses = [w for w in (part * width, (1 - part) * width) if w > 0]
    assert after(kind, x, v, *pulses) == pytest.approx(after(kind, x, v, width), rel=1e-9, abs=1e-20)


@given(kinds, st.integers(0, 2**32 - 1), shares, st.floats(1e-9, 1e9), polarities)
def test_below_its_thresholds_nothing_moves_to_the_last_bit(kind, seed, share, width, polarity):
    rng = np.random.default_rng(seed)
    devices = Vteam.draw((4, 5), rng, kind, x=rng.uniform(0, kind.d, (4, 5)), polarity=polarity)
    before = devices.x.copy()
    set_at, reset_at = kind.v_on * devices.threshold_factor, kind.v_off * devices.threshold_factor
    inside = np.clip(set_at + share * (reset_at - set_at), set_at, reset_at)
    for v in (inside, set_at, reset_at):
        devices.pulse(polarity * v, width, rng)
    assert devices.x.tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", [GENERIC, ARRAY], ids=["generic", "array"])
def test_at_a_threshold_it_stands_and_just_above_it_moves(kind):
    x = kind.d / 3
    assert after(kind, x, kind.v_off, 1.0) == x
    assert after(kind, x, kind.v_on, 1.0) == x
    assert after(kind, x, kind.v_off * (1 + 1e-9), 1e6) > x
    assert after(kind, x, kind.v_on * (1 + 1e-9), 1e20) < x


def test_half_selected_cells_of_an_ideal_array_keep_every_bit():
    # V/2 by hand: row 2 at +0.5 V, column 1 at -0.5 V; only the selected cell sees 1 V
    rng = np.random.default_rng(3)
    devices = Vteam(rng.uniform(0, ARRAY.d, (5, 4)), ARRAY)
    before = devices.x.copy()
    rows, columns = np.zeros(5), np.zeros(4)
    rows[2], columns[1] = 0.5, -0.5
    for sign in (1, -1) * 50:
        devices.pulse(sign * (rows[:, None] - columns), 1e-9, rng)
    others = np.ones((5, 4), dtype=bool)
    others[2, 1] = False
    assert devices.x[others].tobytes() == before[others].tobytes()
    assert devices.x[2, 1] != before[2, 1]


@given(kinds, shares, volts, widths)
def test_positive_resets_and_the_bounds_are_never_left(kind, share, v, width):
    x = share * kind.d
    moved = after(kind, x, v, width)
    assert 0 <= moved <= kind.d
    assert moved >= x if v >= 0 else moved <= x


@given(kinds, shares, volts, widths)
def test_polarity_exchanges_the_electrodes(kind, share, v, width):
    x = share * kind.d
    assert after(kind, x, v, width, polarity=-1) == after(kind, x, -v, width)


def test_drawn_thresholds_hold_for_each_device():
    devices = Vteam.draw((50, 60), np.random.default_rng(4), ARRAY, x=ARRAY.d / 2, threshold_spread=0.2)
    assert np.log(devices.threshold_factor).std() == pytest.approx(0.2, rel=0.05)
    before = devices.x.copy()
    devices.pulse(np.full((50, 60), 0.7), 1e-9, np.random.default_rng(5))
    np.testing.assert_array_equal(devices.x != before, devices.threshold_factor < 1)
    assert 0.4 < np.mean(devices.x != before) < 0.6


def test_resistance_and_current_are_ohmic():
    devices = Vteam(np.array([[0.0, GENERIC.d / 2, GENERIC.d]]))
    np.testing.assert_allclose(devices.resistance, [[50.0, 525.0, 1000.0]])
    v = np.array([[0.1, -0.2, 0.3]])
    current, slope = devices.current(v)
    np.testing.assert_allclose(current * devices.resistance, v)
    np.testing.assert_allclose(slope * devices.resistance, 1.0)
    np.testing.assert_array_equal(devices.read_noise(), 0.0)


@given(kinds, shares, volts, st.floats(1e-6, 1.0))
def test_current_rises_with_the_voltage(kind, share, v, more):
    device = Vteam(np.array([[share * kind.d]]), kind)
    assert device.current(np.array([[v + more]]))[0] > device.current(np.array([[v]]))[0]


def test_leading_axes_are_a_loop():
    rng = np.random.default_rng(6)
    shape = (3, 2, 4, 5)
    x, factor = rng.uniform(0, ARRAY.d, shape), rng.uniform(0.5, 1.5, shape)
    v = rng.uniform(-1.5, 1.5, shape[-2:])
    together = Vteam(x, ARRAY, factor)
    together.pulse(v, 1e-9, rng)
    for index in np.ndindex(3, 2):
        alone = Vteam(x[index], ARRAY, factor[index])
        alone.pulse(v, 1e-9, rng)
        np.testing.assert_array_equal(together.x[index], alone.x)
        for all_of_it, one in zip(together.current(v), alone.current(v), strict=True):
            np.testing.assert_array_equal(all_of_it[index], one)


def test_check_names_the_cell():
    devices = Vteam(np.full((2, 3, 4), GENERIC.d))
    v = np.full((2, 3, 4), 5.0)
    devices.check(v, 1e-6)
    for wrong in (np.nan, np.inf):
        v[1, 2, 0] = wrong
        with pytest.raises(DeviceLimitError, match=rf"row 2, column 0 of array 1: {wrong}"):
            devices.check(v, 1e-6)
    for width in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(DeviceLimitError, match="width"):
            devices.check(np.zeros((3, 4)), width)


def test_states_and_parameters_that_cannot_be_are_refused():
    with pytest.raises(DeviceLimitError, match="row 0, column 1"):
        Vteam(np.array([[0.0, 1.1 * GENERIC.d]]))
    with pytest.raises(DeviceLimitError, match="row 0, column 0"):
        Vteam(np.array([[np.nan]]))
    with pytest.raises(DeviceLimitError, match="threshold factor"):
        Vteam(np.array([[0.0]]), threshold_factor=np.array([[-1.0]]))
    with pytest.raises(ValueError, match="polarity"):
        Vteam(np.array([[0.0]]), polarity=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"row, column"):
        Vteam(np.zeros(3))
    for wrong in ({"v_on": 0.2}, {"k_off": -1.0}, {"r_on": 2000.0}, {"a_on": 0.0}, {"d": -1e-9}):
        with pytest.raises(ValueError, match=r"must be|needs"):
            replace(GENERIC, **wrong)
