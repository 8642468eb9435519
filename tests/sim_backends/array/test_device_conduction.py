"""Laws without a memory, against NumPy's own functions, SciPy's interpolant and series."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from sim_backends.array.devices.conduction import Cubic, Ohmic, Sinh, Tabulated
from sim_backends.array.devices.interface import DeviceLimitError

UNEVEN = np.array([-2.0, -0.5, -0.01, -1e-6, 0.0, 1e-7, 1e-3, 0.4, 0.401, 3.0])


def laws(shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Ohmic | Sinh | Cubic | Tabulated]:
    g = rng.uniform(1e-6, 1e-4, shape)
    return {
        "ohmic": Ohmic(g),
        "sinh": Sinh(g, rng.uniform(0.5, 5, shape)),
        "cubic": Cubic(g, rng.uniform(0, 1e-4, shape)),
        "tabulated": Tabulated(UNEVEN, np.sinh(UNEVEN), g),
    }


@pytest.mark.parametrize("largest", [1e-9, 1e-3, 0.3, 1.0, 40.0, 700.0])
def test_sinh_to_the_last_digits(largest: float) -> None:
    rng = np.random.default_rng(1)
    g, alpha = rng.uniform(1e-9, 1e-2, (2, 50, 40))
    x = largest * rng.uniform(-1, 1, (50, 40))
    v = x / alpha
    i, slope = Sinh(g, alpha).current(v)
    # the rounding of alpha v alone is worth |x| units in the last place
    tolerance = 2e-15 + 3e-16 * largest
    np.testing.assert_allclose(i, g * np.sinh(alpha * v) / alpha, rtol=tolerance, atol=0)
    np.testing.assert_allclose(slope, g * np.cosh(alpha * v), rtol=tolerance, atol=0)


def test_sinh_of_small_arguments_follows_its_series() -> None:
    v = np.concatenate([-np.logspace(-3.01, -320, 400), [0.0], np.logspace(-3.01, -320, 400)])[:, None]
    i, _ = Sinh(1.0, 1.0).current(v)
    np.testing.assert_allclose(i, v * (1 + v**2 / 6 + v**4 / 120), rtol=1e-15, atol=0)


def test_sinh_without_nonlinearity_is_ohmic() -> None:
    v = np.linspace(-1, 1, 7)[:, None, None]
    g = np.array([[1e-6, 2e-3]])
    i, slope = Sinh(g, 0.0).current(v)
    np.testing.assert_array_equal(i, g * v)
    np.testing.assert_array_equal(slope, np.broadcast_to(g, i.shape))


def test_sinh_beyond_all_numbers_is_infinite_without_a_warning() -> None:
    v = np.array([[-1e3, 1e3, 1e3, np.inf, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        i, slope = Sinh(np.array([[1e-6, 1e-6, 0.0, 1e-6, 1e-6]]), 1.0).current(v)
    np.testing.assert_array_equal(i, [[-np.inf, np.inf, 0.0, np.inf, np.nan]])  # an open cell stays open
    np.testing.assert_array_equal(slope, [[np.inf, np.inf, 0.0, np.inf, np.nan]])


def test_cubic() -> None:
    rng = np.random.default_rng(2)
    a1, a3 = rng.uniform(0, 1e-3, (2, 6, 7))
    v = rng.uniform(-0.4, 0.4, (3, 6, 7))
    i, slope = Cubic(a1, a3).current(v)
    np.testing.assert_allclose(i, a1 * v + a3 * v**3, rtol=1e-14)
    np.testing.assert_allclose(slope, a1 + 3 * a3 * v**2, rtol=1e-14)


def test_ohmic_of_resistance() -> None:
    i, slope = Ohmic.of_resistance([[1e3, 2e3]]).current(np.array([[0.5, -0.5]]))
    np.testing.assert_allclose(i, [[5e-4, -2.5e-4]], rtol=1e-15)
    np.testing.assert_allclose(slope, [[1e-3, 5e-4]], rtol=1e-15)


@pytest.mark.parametrize("voltages", [np.linspace(-1.5, 2.5, 41), UNEVEN, np.array([0.0, 1.0]), np.array([-1.0, 0.0])])
def test_a_table_is_interpolated_as_scipy_does(voltages: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    rise = rng.uniform(0, 1e-4, len(voltages)) * (rng.random(len(voltages)) < 0.8)  # with flat pieces
    currents = np.cumsum(rise)
    currents -= currents[voltages == 0.0]
    scale = rng.uniform(0.5, 2, (5, 400))
    v = rng.uniform(voltages[0], voltages[-1], (5, 400))
    v[0, : len(voltages)] = voltages
    v[1, : len(voltages)] = np.nextafter(voltages, voltages[-1])
    v[2, : len(voltages)] = np.nextafter(voltages, voltages[0])
    f = PchipInterpolator(voltages, currents)
    i, slope = Tabulated(voltages, currents, scale).current(v)
    np.testing.assert_allclose(i, scale * f(v), rtol=1e-12, atol=1e-15 * np.ptp(currents))
    steepest = np.max(np.diff(currents) / np.diff(voltages))
    np.testing.assert_allclose(slope, scale * f.derivative()(v), rtol=1e-9, atol=1e-12 * steepest)


def test_a_table_goes_on_straight_and_check_refuses_that() -> None:
    devices = Tabulated([-1.0, 0.0, 0.5, 2.0], [-1e-4, 0.0, 1e-4, 5e-4], [[2.0, 2.0]])
    ends = devices.current(np.array([[-1.0, 2.0]]))
    i, slope = devices.current(np.array([[-4.0, 7.0]]))
    np.testing.assert_allclose(i, ends[0] + ends[1] * [[-3.0, 5.0]], rtol=1e-14)
    np.testing.assert_allclose(slope, ends[1], rtol=1e-15)
    devices.check(np.array([[-1.0, 2.0]]), 1e-6)
    with pytest.raises(DeviceLimitError, match=r"row 0, column 1: 2\.1 V is outside of the table.* -1 to 2 V"):
        devices.check(np.array([[-1.0, 2.1]]))
    with pytest.raises(DeviceLimitError, match="row 0, column 0: nan V"):
        devices.check(np.array([[np.nan, 0.0]]))
    assert not np.any(np.isfinite(devices.current(np.array([[np.nan], [np.inf], [-np.inf]]))[0]))


def test_a_table_is_accurate_on_both_sides_of_zero() -> None:
    devices = Tabulated([-1.0, 0.0, 1.0], [-3e-4, 0.0, 1e-4], 1.0)
    v = np.logspace(-20, -12, 9)[:, None]
    for side in (1, -1):
        np.testing.assert_allclose(devices.current(side * v)[0], side * v * devices.low_field, rtol=1e-11)
    assert devices.current(np.zeros((1, 1)))[0] == 0.0


@given(
    steps=st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(0, 1e-3)), min_size=1, max_size=12),
    zero=st.integers(0, 12),
    v=st.lists(st.floats(-20, 20), min_size=2, max_size=30),
)
@settings(deadline=None, max_examples=100)
def test_no_table_ever_falls(steps: list[tuple[float, float]], zero: int, v: list[float]) -> None:
    voltages, currents = np.cumsum([(0.0, 0.0), *steps], axis=0).T
    zero = min(zero, len(steps))
    devices = Tabulated(voltages - voltages[zero], currents - currents[zero], 1.0)
    i, slope = devices.current(np.sort(v)[:, None])
    # rounding of a cubic through values of up to 12 mA
    assert np.all(np.diff(i[:, 0]) >= -1e-16)
    assert np.all(slope >= 0)


@pytest.mark.parametrize("name", ["ohmic", "sinh", "cubic", "tabulated"])
@given(v=st.lists(st.floats(-1.9, 2.9), min_size=2, max_size=20))
@settings(deadline=None, max_examples=30)
def test_every_law_rises_from_zero_with_the_slope_it_says(name: str, v: list[float]) -> None:
    law = laws((1, 1), np.random.default_rng(4))[name]
    v_cells = np.sort(v)[:, None, None]
    i, slope = law.current(v_cells)
    assert np.all(np.diff(i[:, 0, 0]) >= -1e-15 * np.max(np.abs(i)))
    assert np.all(i * v_cells >= 0)
    h = 1e-5
    centre = (law.current(v_cells + h)[0] - law.current(v_cells - h)[0]) / (2 * h)
    if name == "tabulated":  # whose derivative has kinks at its points
        low, high = (law.current(v_cells + side * h)[1] for side in (-1, 1))
        spread = np.abs(high - low) + np.abs(slope - low)
        inside = np.min(np.abs(v_cells - UNEVEN), axis=-1, keepdims=True) > 2 * h
        assert np.all(np.abs(centre - slope)[inside] <= 1e-6 * law.low_field.item() + spread[inside])
    else:
        np.testing.assert_allclose(centre, slope, rtol=1e-6)
    np.testing.assert_array_equal(law.low_field, law.current(np.zeros((1, 1)))[1])


@pytest.mark.parametrize("name", ["ohmic", "sinh", "tabulated"])
def test_derivative_to_conductance(name: str) -> None:
    rng = np.random.default_rng(5)
    law = laws((4, 5), rng)[name]
    v = rng.uniform(-0.4, 0.4, (3, 4, 5))
    factor = law.scale if isinstance(law, Tabulated) else law.g
    np.testing.assert_allclose(factor * law.derivative_to_conductance(v), law.current(v)[0], rtol=1e-14)


@pytest.mark.parametrize("name", ["ohmic", "sinh", "cubic", "tabulated"])
@pytest.mark.parametrize(
    ("devices", "voltages"),
    [
        ((4, 5), (4, 5)),
        ((4, 5), (3, 4, 5)),
        ((3, 4, 5), (4, 5)),
        ((3, 4, 5), (1, 4, 5)),
        ((1, 4, 5), (3, 4, 5)),
        ((2, 1, 4, 5), (3, 4, 5)),
        ((2, 1, 4, 5), (2, 3, 4, 5)),
        ((1, 1), (4, 5)),
        ((4, 5), (3, 1, 1)),
        ((4, 5), (4, 1)),
        ((4, 5), (1, 5)),
        ((4, 5), ()),
        ((1, 5), (1, 5)),
        ((0, 4, 5), (4, 5)),
    ],
)
def test_voltages_broadcast_as_numpy_does(name: str, devices: tuple[int, ...], voltages: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    law = laws(devices, rng)[name]
    v = rng.uniform(-1, 1, voltages)
    i, slope = law.current(v)
    assert i.shape == slope.shape == np.broadcast_shapes(devices, voltages)
    full_v = np.broadcast_to(v, i.shape)
    for cell in np.ndindex(i.shape):
        alone = _alone(law, cell, i.shape).current(full_v[cell].reshape(1, 1))
        assert (i[cell], slope[cell]) == pytest.approx((alone[0].item(), alone[1].item()), rel=1e-15)


def _alone(
    law: Ohmic | Sinh | Cubic | Tabulated, cell: tuple[int, ...], shape: tuple[int, ...]
) -> Ohmic | Sinh | Cubic | Tabulated:
    """The device of one cell."""

    def one(parameter: np.ndarray) -> float:
        return float(np.broadcast_to(parameter, shape)[cell])

    match law:
        case Ohmic():
            return Ohmic(one(law.g))
        case Sinh():
            return Sinh(one(law.g), one(law.alpha))
        case Cubic():
            return Cubic(one(law.a1), one(law.a3))
        case Tabulated():
            return Tabulated(law.voltages, law.currents, one(law.scale))


def test_voltages_in_any_memory_order() -> None:
    law = laws((4, 5), np.random.default_rng(7))["sinh"]
    v = np.random.default_rng(8).uniform(-1, 1, (4, 5))
    expected = law.current(v)[0]
    read_only = v.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(v), np.repeat(v, 2, axis=1)[:, ::2], read_only):
        np.testing.assert_array_equal(law.current(same)[0], expected)
    np.testing.assert_array_equal(law.current(np.ones((4, 5), dtype=int))[0], law.current(np.ones((4, 5)))[0])


def test_parameters_are_copied() -> None:
    g = np.full((2, 2), 1e-3)
    law = Ohmic(g)
    g[:] = -1.0
    np.testing.assert_array_equal(law.current(np.ones((2, 2)))[0], 1e-3)


def bad(value: complex) -> np.ndarray:
    g = np.full((2, 3, 4), 1e-4, dtype=type(value))
    g[1, 2, 0] = value
    return g


@pytest.mark.parametrize("make", [Ohmic, lambda g: Sinh(g, 1.0), lambda g: Sinh(1.0, g), lambda g: Cubic(1.0, g)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-9])
def test_bad_values_name_the_cell(make: type[Ohmic], value: float) -> None:
    with pytest.raises(DeviceLimitError, match=r"row 2, column 0 of array 1: .* has to be finite and not negative"):
        make(bad(value))


@pytest.mark.parametrize("make", [Ohmic, lambda g: Sinh(1.0, g), lambda g: Tabulated([0, 1], [0, 1], g)])
def test_what_is_no_array_of_real_numbers_is_refused(make: type[Ohmic]) -> None:
    with pytest.raises(ValueError, match="real numbers, not complex128"):
        make(bad(1e-4 + 1j))
    with pytest.raises(ValueError, match=r"shape \(3,\); it has to be \[\.\.\., row, column\]"):
        make(np.ones(3))
    with pytest.raises(ValueError, match="real numbers, not"):
        make(np.array([["a"]]))


def test_resistances_of_zero_are_refused() -> None:
    with pytest.raises(DeviceLimitError, match=r"row 0, column 1: resistance \(Ohm\) is 0"):
        Ohmic.of_resistance([[1.0, 0.0]])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"g \(2, 3\), alpha \(3, 2\)"):
        Sinh(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"voltages of shape \(3, 2\) do not fit devices of shape \(2, 3\)"):
        Sinh(np.ones((2, 3)), 1.0).current(np.ones((3, 2)))


@pytest.mark.parametrize(
    ("voltages", "currents", "message"),
    [
        ([0.0], [0.0], "two or more points"),
        ([[0.0, 1.0]], [[0.0, 1.0]], "two or more points"),
        ([0.0, 1.0], [0.0, 1.0, 2.0], "two or more points"),
        ([0.0, 1.0, 1.0], [0.0, 1.0, 2.0], r"point 2 of the table \(1 V, 2 A\): voltages do not rise"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 0.5], r"point 2 of the table \(2 V, 0\.5 A\): current falls"),
        ([0.0, np.nan], [0.0, 1.0], "point 1 of the table: the voltage is not finite"),
        ([0.0, 1.0], [0.0, np.inf], "point 1 of the table: the current is not finite"),
        ([-1.0, 1.0], [-1.0, 1.0], "no such point"),
        ([-1.0, 0.0, 1.0], [-1.0, 1e-9, 1.0], "1e-09 A there"),
        ([0.0, 1.0], [0.0, 1j], "real numbers"),
    ],
)
def test_tables_that_are_none_are_refused(voltages: list[float], currents: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tabulated(voltages, currents)
