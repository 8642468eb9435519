"""Columns driven one after another, against the nodal solution of the whole kernel with one gate on."""

import nodal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backends.array.circuit.columns import column_by_column
from sim_backends.array.devices.conduction import Ohmic, Sinh
from sim_backends.array.devices.mtj import Mtj
from sim_backends.array.solver.errors import ConvergenceError

SHAPE = (6, 4)


def some_devices(kind, rng, shape=SHAPE):
    if kind == "mtj":
        devices = Mtj.draw(shape, rng, antiparallel=rng.random(shape) < 0.5)
        devices.broken |= rng.random(shape) < 0.05
        devices.r_p = np.where(rng.random(shape) < 0.05, 1e9, devices.r_p)
        return devices
    g = 10 ** rng.uniform(-6, -3, shape)
    return Ohmic(g) if kind == "ohmic" else Sinh(g, 4.0)


def nodal_column(devices, column, voltage, connected, r_row, r_column, r_contact):
    """Cell voltages and currents ``[row]`` of one column."""
    rows, columns = connected.shape
    gated = connected & (np.arange(columns) == column)
    v_columns = np.full(columns, np.nan)
    v_columns[column] = voltage

    def cell(v):
        return tuple(gated * x for x in devices.current(v))

    _, _, v = nodal.solve(cell, np.zeros(rows), v_columns, r_row, r_column, r_contact, rows, columns)
    return np.where(gated, v, 0.0)[:, column], cell(v)[0][:, column]


lines = st.one_of(st.just(0.0), st.floats(0.01, 1e4))
voltages = st.sampled_from([-1.5, -0.3, 0.01, 0.1, 1.2])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["mtj", "ohmic", "sinh"]), st.integers(0, 2**32 - 1), lines, lines, lines, voltages)
def test_equals_the_nodal_solution(kind, seed, r_row, r_column, r_contact, voltage):
    rng = np.random.default_rng(seed)
    devices, connected = some_devices(kind, rng), rng.random(SHAPE) < 0.8
    v, i = column_by_column(devices, voltage, connected, r_row, r_column, r_contact=r_contact)
    for column in range(SHAPE[1]):
        v_exact, i_exact = nodal_column(devices, column, voltage, connected, r_row, r_column, r_contact)
        scale = 1e-6 * np.abs(i_exact).max(initial=0.0)  # nodal's perfect lines are of 1 nOhm, which costs it digits
        np.testing.assert_allclose(i[:, column], i_exact, rtol=1e-6, atol=scale)
        np.testing.assert_allclose(v[:, column], v_exact, rtol=0, atol=1e-6 * abs(voltage))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["mtj", "ohmic", "sinh"]), st.integers(0, 2**32 - 1), lines, lines, lines)
def test_kirchhoff_holds_to_many_digits(kind, seed, r_row, r_column, r_contact):
    """Cell voltages are the drive less the drops of the currents that are returned."""
    rng = np.random.default_rng(seed)
    devices, connected = some_devices(kind, rng), rng.random(SHAPE) < 0.8
    v, i = column_by_column(devices, 1.0, connected, r_row, r_column, r_contact=r_contact)
    np.testing.assert_array_equal(i, np.where(connected, devices.current(v)[0], 0.0))
    in_segment = np.cumsum(i, axis=0)  # of the column, below each row
    drops = r_column * np.cumsum(in_segment[::-1], axis=0)[::-1] + r_contact * in_segment[-1]
    expected = -1.0 - drops - (r_contact + r_row * np.arange(1, SHAPE[1] + 1)) * i
    np.testing.assert_allclose(v, np.where(connected, expected, 0.0), rtol=0, atol=1e-10)


def test_perfect_lines_lose_nothing():
    devices = some_devices("mtj", np.random.default_rng(1))
    connected = np.ones(SHAPE, dtype=bool)
    v, i = column_by_column(devices, 0.3, connected, 0.0, 0.0)
    np.testing.assert_array_equal(v, np.full(SHAPE, -0.3))
    np.testing.assert_array_equal(i, devices.current(v)[0])


@pytest.mark.parametrize("voltage", [0.1, 1.2])
def test_a_kernel_with_very_resistive_lines_is_solved(voltage):
    """Where relaxation from the drive voltage runs away: lines of 50 Ohm a segment under cells of 100 Ohm."""
    devices, connected = Sinh(np.full((25, 25), 1e-2), 3.0), np.ones((25, 25), dtype=bool)
    v, i = column_by_column(devices, voltage, connected, 50.0, 50.0)
    _, i_exact = nodal_column(devices, 24, voltage, connected, 50.0, 50.0, 0.0)
    np.testing.assert_allclose(i[:, 24], i_exact, rtol=1e-8, atol=1e-9 * np.abs(i_exact).max())
    assert np.abs(v[0, 24]) < 0.1 * voltage, "far cells see little of it"


@pytest.mark.parametrize("r", [1e9, 1e12])
def test_lines_that_keep_all_of_the_voltage(r):
    devices = some_devices("mtj", np.random.default_rng(3))
    devices.antiparallel[:] = False
    i = column_by_column(devices, 1.0, np.ones(SHAPE, dtype=bool), r, 0.0)[1]
    resistance = 1 / devices.current(np.zeros(SHAPE))[1]
    np.testing.assert_allclose(i, -1.0 / (resistance + r * np.arange(1, SHAPE[1] + 1)), rtol=1e-9)


def test_disconnected_columns_carry_nothing():
    connected = np.ones(SHAPE, dtype=bool)
    connected[:, 2] = False
    v, i = column_by_column(some_devices("mtj", np.random.default_rng(2)), 1.0, connected, 0.5, 0.5)
    assert not v[:, 2].any() and not i[:, 2].any()
    assert i[:, [0, 1, 3]].all()


def test_a_column_that_does_not_settle_is_an_error_that_names_it():
    class Broken:
        shape = SHAPE

        def current(self, v):
            i = 1e-4 * v
            i[0, 3] = np.nan
            return i, np.full(SHAPE, 1e-4)

    with pytest.raises(ConvergenceError, match="column 3"):
        column_by_column(Broken(), 1.0, np.ones(SHAPE, dtype=bool), 0.5, 0.5)
