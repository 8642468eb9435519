"""Laws in series: chosen currents give the voltages in closed form, and those have to give the currents back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from sim_backends.array.devices.conduction import Cubic, Ohmic, Sinh, Tabulated
from sim_backends.array.devices.interface import FloatArray
from sim_backends.array.devices.series import Series, SeriesSolverError


def random_conductances(shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator) -> FloatArray:
    return 10 ** rng.uniform(np.log10(low), np.log10(high), shape)


def sinh_voltage(i: FloatArray, g: FloatArray, alpha: FloatArray | float) -> FloatArray:
    return np.arcsinh(alpha * i / g) / alpha


def test_two_resistors() -> None:
    rng = np.random.default_rng(1)
    g1, g2 = random_conductances((2, 8, 9), 1e-12, 1e-2, rng)
    v = rng.uniform(-3, 3, (5, 8, 9))
    i, slope = Series(Ohmic(g1), Ohmic(g2)).current(v)
    np.testing.assert_allclose(i, v * g1 * g2 / (g1 + g2), rtol=2e-15)
    np.testing.assert_allclose(slope, np.broadcast_to(g1 * g2 / (g1 + g2), v.shape), rtol=1e-15)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("alpha", [2.0, 20.0, 100.0])
def test_resistor_and_sinh(alpha: float, order: int) -> None:
    rng = np.random.default_rng(2)
    shape = (40, 50)
    g, g_sinh = random_conductances(shape, 1e-6, 1e-3, rng), random_conductances(shape, 1e-13, 1e-3, rng)
    i = random_conductances(shape, 1e-15, 2e-3, rng) * rng.choice([-1, 1], shape)
    i = np.clip(i, -2 * g, 2 * g)  # up to 2 V on the resistor
    v_sinh = sinh_voltage(i, g_sinh, alpha)
    laws = (Ohmic(g), Sinh(g_sinh, alpha))[::order]
    series = Series(*laws)
    found, slope = series.current(i / g + v_sinh)
    slope_sinh = g_sinh * np.hypot(1.0, alpha * i / g_sinh)
    np.testing.assert_allclose(found, i, rtol=1e-13)
    np.testing.assert_allclose(slope, 1 / (1 / g + 1 / slope_sinh), rtol=1e-6)
    v_first = i / g if order == 1 else v_sinh
    np.testing.assert_allclose(series.voltage_of_first(i / g + v_sinh), v_first, rtol=1e-12, atol=1e-15)


def test_a_steep_selector_at_two_volts() -> None:
    g, alpha, g_selector = 3e-4, 20.0, 1e-9
    v = np.array([[2.0]])
    i, _ = Series(Ohmic(g), Sinh(g_selector, alpha)).current(v)
    expected = g * brentq(
        lambda u: g * u - g_selector * np.sinh(alpha * (2.0 - u)) / alpha, 0, 2, xtol=1e-16, rtol=1e-15
    )
    np.testing.assert_allclose(i, expected, rtol=1e-13)


def test_two_sinh_laws_far_apart() -> None:
    rng = np.random.default_rng(3)
    shape = (40, 50)
    g1, g2 = random_conductances((2, *shape), 1e-12, 1e-2, rng)
    a1, a2 = rng.uniform(0.1, 30, (2, *shape))
    i = random_conductances(shape, 1e-14, 1e-3, rng)
    v = sinh_voltage(i, g1, a1) + sinh_voltage(i, g2, a2)
    np.testing.assert_allclose(Series(Sinh(g1, a1), Sinh(g2, a2)).current(v)[0], i, rtol=1e-13)


def test_laws_without_low_field_conductance() -> None:
    rng = np.random.default_rng(4)
    shape = (30, 40)
    a3, g = random_conductances((2, *shape), 1e-8, 1e-3, rng)
    i = random_conductances(shape, 1e-12, 1e-3, rng)
    v = np.cbrt(i / a3) + i / g
    np.testing.assert_allclose(Series(Cubic(0.0, a3), Ohmic(g)).current(v)[0], i, rtol=1e-13)
    b3 = g
    v = np.cbrt(i / a3) + np.cbrt(i / b3)
    np.testing.assert_allclose(Series(Cubic(0.0, a3), Cubic(0.0, b3)).current(v)[0], i, rtol=1e-13)


def test_a_table_that_blocks_below_its_threshold() -> None:
    selector = Tabulated([-3.0, -1.5, -1.0, 0.0, 1.0, 1.5, 3.0], [-1e-2, -1e-4, 0.0, 0.0, 0.0, 1e-4, 1e-2], 1.0)
    series = Series(Ohmic(1e-3), selector)
    v = np.linspace(-3, 3, 61)[:, None, None]
    i, slope = series.current(v)
    blocked = np.abs(v) < 1.0 - 1e-12
    assert np.all(i[blocked] == 0.0)
    assert np.all(slope[blocked] == 0.0)
    assert np.all(np.abs(i[np.abs(v) > 1.05]) > 0)
    np.testing.assert_allclose(selector.current(v - i / 1e-3)[0], i, rtol=1e-9, atol=1e-18)


def test_open_cells_pass_nothing() -> None:
    v = np.array([[1.5, -1.5, 0.0, 300.0]])
    opened = Ohmic(0.0)
    for other in (Ohmic(1e-3), Sinh(1e-9, 20.0), Cubic(0.0, 1e-3), Tabulated([0, 1, 2], [0, 0, 1]), opened):
        for series in (Series(opened, other), Series(other, opened)):
            i, slope = series.current(v)
            np.testing.assert_array_equal(i, np.zeros((1, 4)))
            np.testing.assert_array_equal(slope, np.zeros((1, 4)))


def test_an_overflow_on_the_way_does_not_matter() -> None:
    # 60 V at 20 per volt is beyond all numbers, but the resistor takes all but two volts
    i = np.array([[58.3e-3]])
    v = i / 1e-3 + sinh_voltage(i, np.array([[1e-15]]), 20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = Series(Sinh(1e-15, 20.0), Ohmic(1e-3)).current(v)
        np.testing.assert_allclose(found, i, rtol=1e-13)
        beyond, _ = Series(Sinh(1e-3, 20.0), Sinh(1e-3, 20.0)).current(np.array([[1e3, np.nan, np.inf]]))
    assert not np.any(np.isfinite(beyond))


@given(
    v=st.lists(st.floats(-2.5, 2.5), min_size=2, max_size=20),
    alphas=st.tuples(st.floats(0, 30), st.floats(0, 30)),
    decades=st.tuples(st.floats(-12, -2), st.floats(-12, -2)),
)
@settings(deadline=None, max_examples=100)
def test_the_inner_node_is_balanced(v: list[float], alphas: tuple[float, float], decades: tuple[float, float]) -> None:
    first, second = (Sinh(10**decade, alpha) for decade, alpha in zip(decades, alphas, strict=True))
    series = Series(first, second)
    v_cells = np.sort(v)[:, None, None]
    i, slope = series.current(v_cells)
    u = series.voltage_of_first(v_cells)
    assert np.all(np.abs(u - v_cells / 2) <= np.abs(v_cells) * (0.5 + 1e-15) + 1e-300)  # between zero and v
    assert np.all(np.diff(i[:, 0, 0]) >= -1e-13 * np.abs(i[1:, 0, 0]) - 1e-300)
    i1, g1 = first.current(u)
    i2, g2 = second.current(v_cells - u)
    # what the last digit of v is worth, or the smallest number there is
    rounding = 1e-15 * np.abs(v_cells) + 1e-300
    assert np.all(np.abs(i1 - i) <= 1e-12 * np.abs(i) + g1 * rounding)
    assert np.all(np.abs(i2 - i) <= 1e-12 * np.abs(i) + g2 * rounding)
    np.testing.assert_allclose(slope, g1 * g2 / (g1 + g2), rtol=1e-6)


def test_derivative_to_conductance_by_finite_differences() -> None:
    rng = np.random.default_rng(5)
    g = random_conductances((4, 5), 1e-6, 1e-3, rng)
    selector = Sinh(random_conductances((4, 5), 1e-9, 1e-6, rng), 15.0)
    v = rng.uniform(-1, 1, (2, 4, 5))
    h = 1e-5
    more, less = (Series(Sinh(g * (1 + side * h), 2.0), selector).current(v)[0] for side in (1, -1))
    np.testing.assert_allclose(
        Series(Sinh(g, 2.0), selector).derivative_to_conductance(v), (more - less) / (2 * h * g), rtol=1e-6
    )


def test_shapes_broadcast() -> None:
    rng = np.random.default_rng(6)
    g = random_conductances((3, 1, 4, 5), 1e-6, 1e-3, rng)
    series = Series(Ohmic(g), Sinh(1e-7, 10.0))
    assert series.shape == series.low_field.shape == (3, 1, 4, 5)
    np.testing.assert_allclose(series.low_field, 1 / (1 / g + 1e7), rtol=1e-14)
    v = rng.uniform(-1, 1, (2, 4, 5))
    i, _ = series.current(v)
    assert i.shape == (3, 2, 4, 5)
    np.testing.assert_array_equal(i[2, 1], Series(Ohmic(g[2, 0]), Sinh(1e-7, 10.0)).current(v[1])[0])
    with pytest.raises(ValueError, match=r"\(4, 5\) and \(5, 4\) do not fit together"):
        Series(Ohmic(np.ones((4, 5))), Ohmic(np.ones((5, 4))))
    with pytest.raises(ValueError, match=r"voltages of shape \(4, 4\) do not fit devices of shape \(3, 1, 4, 5\)"):
        series.current(np.ones((4, 4)))


@dataclass(frozen=True)
class Falling:
    """A law that no law may be: currents against the voltage."""

    shape: tuple[int, ...] = (1, 1)

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        return -1e-3 * v, np.full_like(v, 1e-3)


def test_a_law_that_falls_is_an_error_and_no_number() -> None:
    with pytest.raises(SeriesSolverError, match="did not settle"):
        Series(Falling(), Ohmic(2e-3)).current(np.ones((1, 1)))
