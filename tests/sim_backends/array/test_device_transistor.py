"""Devices behind transistors: against a root search on the two elements, and against closed forms at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from sim_backends.array.devices.interface import DeviceLimitError
from sim_backends.array.devices.transistor import Transistor

KP, V_THRESHOLD = 1e-3, 0.5


def nmos(drain: float, source: float, gate: float, v_threshold: float, kp: float) -> float:
    """Level 1, regime by regime, as in a textbook; the lower side is the source."""
    if drain < source:
        return -nmos(source, drain, gate, v_threshold, kp)
    overdrive = gate - source - v_threshold
    if overdrive <= 0:
        return 0.0
    v_ds = drain - source
    if v_ds < overdrive:
        return kp * (overdrive * v_ds - v_ds**2 / 2)
    return kp / 2 * overdrive**2


def two_elements(a: float, b: float, g: float, gate: float, v_threshold: float, kp: float) -> float:
    """The current with the inner node found by bisection."""
    if a == b:
        return 0.0
    low, high = min(a, b), max(a, b)
    inner = brentq(
        lambda m: g * (a - m) - nmos(m, b, gate, v_threshold, kp), low, high, xtol=1e-16, rtol=1e-15, maxiter=500
    )
    return g * (a - inner)


def test_random_voltages_against_a_root_search() -> None:
    rng = np.random.default_rng(1)
    shape = (30, 40)
    a, b = rng.uniform(-2, 2, (2, *shape))
    g, kp = 10 ** rng.uniform(-6, -2, (2, *shape))
    gate, v_threshold = rng.uniform(-1, 4, shape), rng.uniform(-0.2, 0.8, shape)
    i, ga, gb = Transistor(g, gate, v_threshold, kp).current(a, b)
    expected = np.vectorize(two_elements)(a, b, g, gate, v_threshold, kp)
    # the search knows the inner node to 1e-15 V or so
    np.testing.assert_array_less(np.abs(i - expected), 1e-12 * np.abs(expected) + 3e-15 * g)
    on = gate - v_threshold > np.minimum(a, b)
    assert np.any(on & (ga == 0)), "no cell in saturation"
    assert np.any(on & (gb == 0)), "no cell in reverse saturation"
    assert np.any(~on), "no cell off"
    assert np.any((ga > 0) & (gb > 0) & (i > 0)), "no cell in its ohmic range"
    assert np.any((ga > 0) & (gb > 0) & (i < 0)), "no cell in its ohmic range, reversed"


@pytest.mark.parametrize("b", [-0.3, 0.0, 0.4])
def test_regimes_and_their_edges(b: float) -> None:
    g, gate = 2e-4, 1.5
    overdrive = gate - V_THRESHOLD - b
    edge = b + overdrive + KP * overdrive**2 / (2 * g)  # where the inner node is at gate minus threshold
    cells = Transistor(g, gate, V_THRESHOLD, KP)
    saturated, ga, gb = cells.current(np.array([[edge, edge + 1e-9, edge + 3]]), np.full((1, 1), b))
    np.testing.assert_allclose(saturated, np.full((1, 3), KP / 2 * overdrive**2), rtol=1e-12)
    np.testing.assert_allclose(ga, np.zeros((1, 3)), atol=1e-10)
    np.testing.assert_allclose(gb, np.full((1, 3), KP * overdrive), rtol=1e-9)
    for a in (edge - 1e-6, edge + 1e-6, b + 1e-7, b - 1e-7, gate - V_THRESHOLD, -2.0):
        i, _, _ = cells.current(np.full((1, 1), a), np.full((1, 1), b))
        np.testing.assert_allclose(i, two_elements(a, b, g, gate, V_THRESHOLD, KP), rtol=1e-8)


def test_the_column_as_drain_saturates() -> None:
    g, gate, a = 2e-4, 1.0, -1.0
    cells = Transistor(g, gate, V_THRESHOLD, KP)
    i, ga, gb = cells.current(np.full((1, 3), a), np.array([[0.5, 0.6, 5.0]]))
    # kp/2 y^2 = g (1.5 - y), y = gate - threshold - inner node
    y = (-g + np.sqrt(g**2 + 2 * KP * g * 1.5)) / KP
    np.testing.assert_allclose(i, np.full((1, 3), -KP / 2 * y**2), rtol=1e-14)
    np.testing.assert_allclose(ga, np.full((1, 3), 1 / (1 / g + 1 / (KP * y))), rtol=1e-14)
    np.testing.assert_array_equal(gb, np.zeros((1, 3)))


def test_small_voltages_see_a_resistor() -> None:
    g = np.array([[1e-6, 1e-3, 1e-1]])
    cells = Transistor(g, 3.3, V_THRESHOLD, KP)
    channel = KP * (3.3 - V_THRESHOLD)
    np.testing.assert_allclose(cells.low_field, g * channel / (g + channel), rtol=1e-15)
    for v in (1e-12, -1e-12):
        i, ga, gb = cells.current(np.full((1, 3), v), np.zeros((1, 3)))
        np.testing.assert_allclose(i, v * cells.low_field, rtol=1e-11)
        np.testing.assert_allclose(ga, cells.low_field, rtol=1e-11)
        np.testing.assert_allclose(gb, cells.low_field, rtol=1e-11)


def test_off_passes_nothing_and_open_neither() -> None:
    a, b = np.array([[2.0, 0.0, 1.0]]), np.array([[0.0, 2.0, 1.0]])
    for g, gate in ((1e-4, 0.4), (0.0, 5.0), (0.0, 0.4)):
        cells = Transistor(g, gate, V_THRESHOLD, KP)
        for result in cells.current(a, b):
            np.testing.assert_array_equal(result, np.zeros((1, 3)))
    assert Transistor(1e-4, 0.5, V_THRESHOLD, KP).low_field == 0.0
    assert Transistor(0.0, 0.5, V_THRESHOLD, KP).low_field == 0.0


volts = st.floats(-3, 3)


@given(a=volts, b=volts, gate=st.floats(-1, 5), decade=st.floats(-7, -2), rise=st.floats(0, 2))
@settings(deadline=None, max_examples=200)
def test_current_rises_with_the_row_and_falls_with_the_column(
    a: float, b: float, gate: float, decade: float, rise: float
) -> None:
    cells = Transistor(10**decade, gate, V_THRESHOLD, KP)
    rows, columns = np.array([[a, a + rise, a]]), np.array([[b, b, b + rise]])
    i, ga, gb = cells.current(rows, columns)
    slack = 1e-15 * np.abs(i[0, 0])
    assert i[0, 1] >= i[0, 0] - slack
    assert i[0, 2] <= i[0, 0] + slack
    assert np.all(ga >= 0)
    assert np.all(gb >= 0)
    assert np.all(i * (rows - columns) >= 0)


def test_derivatives_by_finite_differences_and_continuous() -> None:
    rng = np.random.default_rng(2)
    shape = (60, 70)
    a, b = rng.uniform(-2, 2, (2, *shape))
    g = 10 ** rng.uniform(-4, -3, shape)
    gate = rng.uniform(0, 3, shape)
    # a tenth of the cells at the edge of saturation, where slopes are continuous and have kinks
    overdrive = np.maximum(gate - V_THRESHOLD - b, 0)
    a[:6] = (b + overdrive + KP * overdrive**2 / (2 * g))[:6]
    cells = Transistor(g, gate, V_THRESHOLD, KP)
    h = 1e-7
    # the inner node moves up to kp overdrive / g times as far as the column
    tolerance = 3 * h * KP * (1 + KP * overdrive / g) ** 2 + 1e-11
    _, ga, gb = cells.current(a, b)
    by_row = (cells.current(a + h, b)[0] - cells.current(a - h, b)[0]) / (2 * h)
    by_column = (cells.current(a, b + h)[0] - cells.current(a, b - h)[0]) / (2 * h)
    assert np.all(np.abs(ga - by_row) <= tolerance)
    assert np.all(np.abs(gb + by_column) <= tolerance)
    for da, db in ((h, 0), (-h, 0), (0, h), (0, -h)):
        _, ga_beside, gb_beside = cells.current(a + da, b + db)
        assert np.all(np.abs(ga_beside - ga) <= tolerance)
        assert np.all(np.abs(gb_beside - gb) <= tolerance)


def test_derivative_to_conductance_by_finite_differences() -> None:
    rng = np.random.default_rng(3)
    shape = (20, 30)
    a, b = rng.uniform(-2, 2, (2, *shape))
    g = 10 ** rng.uniform(-5, -3, shape)
    gate = rng.uniform(0, 3, shape)
    h = 1e-5
    more, less = (Transistor(g * (1 + side * h), gate, V_THRESHOLD, KP).current(a, b)[0] for side in (1, -1))
    derivative = Transistor(g, gate, V_THRESHOLD, KP).derivative_to_conductance(a, b)
    np.testing.assert_allclose(derivative, (more - less) / (2 * h * g), rtol=1e-6, atol=1e-8)
    # and at an open device, one-sided
    tiny = Transistor(np.full(shape, 1e-15), gate, V_THRESHOLD, KP).current(a, b)[0] / 1e-15
    opened = Transistor(np.zeros(shape), gate, V_THRESHOLD, KP).derivative_to_conductance(a, b)
    np.testing.assert_allclose(opened, tiny, atol=1e-5)


def test_gates_along_rows_or_columns() -> None:
    g = np.full((2, 3), 1e-4)
    a, b = np.ones((5, 2, 3)), np.zeros((1, 1))
    by_row, _, _ = Transistor(g, np.array([[0.0], [3.0]]), V_THRESHOLD, KP).current(a, b)
    assert by_row.shape == (5, 2, 3)
    assert np.all(by_row[:, 0] == 0)
    assert np.all(by_row[:, 1] > 0)
    by_column, _, _ = Transistor(g, np.array([[0.0, 3.0, 0.0]]), V_THRESHOLD, KP).current(a, b)
    np.testing.assert_array_equal(by_column > 0, np.broadcast_to([False, True, False], (5, 2, 3)))


def test_not_a_number_stays_not_a_number() -> None:
    cells = Transistor(np.full((1, 2), 1e-4), np.array([[3.0, 0.0]]), V_THRESHOLD, KP)
    nan, zero = np.full((1, 2), np.nan), np.zeros((1, 2))
    assert np.all(np.isnan(cells.current(zero, nan)[0]))
    assert np.all(np.isnan(cells.current(nan, zero)[0]))


def test_bad_input_names_the_cell() -> None:
    g = np.full((2, 3), 1e-4)
    wrong = g.copy()
    wrong[1, 2] = -1.0
    with pytest.raises(DeviceLimitError, match=r"row 1, column 2: conductance \(S\) is -1; .* not negative"):
        Transistor(wrong, 1.0, V_THRESHOLD, KP)
    with pytest.raises(DeviceLimitError, match=r"row 1, column 2: kp \(A/V\^2\) is -1; .* positive"):
        Transistor(g, 1.0, V_THRESHOLD, wrong)
    with pytest.raises(DeviceLimitError, match=r"row 0, column 0: gate voltage \(V\) is nan"):
        Transistor(g, np.nan, V_THRESHOLD, KP)
    with pytest.raises(ValueError, match=r"gate voltage \(V\) has shape \(2,\)"):
        Transistor(g, np.ones(2), V_THRESHOLD, KP)
    with pytest.raises(ValueError, match=r"voltages of shape \(3, 2\) do not fit devices of shape \(2, 3\)"):
        Transistor(g, 1.0, V_THRESHOLD, KP).current(np.ones((3, 2)), np.ones((3, 2)))
