"""The transfer matrix of a kernel against the independent nodal solution, and its laws."""

import nodal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backends.array.solver.network import Lines, transfer_matrix

ROWS = COLUMNS = 25

segments = st.one_of(st.just(0.0), st.floats(1e-3, 2.0))


def conductances(rng, shape=(ROWS, COLUMNS)):
    g = np.where(rng.random(shape) < 0.5, 1 / 7000, 1 / 13000) * np.exp(0.05 * rng.standard_normal(shape))
    g[rng.random(shape) < 0.02] = 1 / 2100
    g[rng.random(shape) < 0.01] = 1e-9
    return g


@pytest.mark.parametrize("rows_driven", [True, False])
@pytest.mark.parametrize("r_contact", [0.0, 3.0])
def test_equals_the_nodal_solution_both_ways(rows_driven, r_contact):
    rng = np.random.default_rng(5)
    g = conductances(rng)
    drive = rng.uniform(-0.3, 0.3, ROWS)
    v_rows, v_columns = (drive, np.zeros(COLUMNS)) if rows_driven else (np.zeros(ROWS), drive)
    into_rows, out_of_columns, _ = nodal.solve(nodal.linear(g), v_rows, v_columns, 0.5, 0.7, r_contact, ROWS, COLUMNS)
    expected = out_of_columns if rows_driven else -into_rows
    transfer = transfer_matrix(g, lines=Lines(0.5, 0.7, r_contact))
    found = (transfer if rows_driven else transfer.T) @ drive
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (1, 9), (9, 1)])
def test_rectangular_kernels_are_solved_too(shape):
    rng = np.random.default_rng(6)
    g = conductances(rng, shape)
    drive = rng.uniform(-1, 1, shape[0])
    _, expected, _ = nodal.solve(nodal.linear(g), drive, np.zeros(shape[1]), 0.5, 0.5, 1.0, *shape)
    transfer = transfer_matrix(g, lines=Lines(0.5, 0.5, 1.0))
    assert transfer.shape == shape[::-1]
    np.testing.assert_allclose(transfer @ drive, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_leading_axes_are_batches():
    g = conductances(np.random.default_rng(7), (2, 3, ROWS, COLUMNS))
    together = transfer_matrix(g, lines=Lines(0.5, 0.5))
    assert together.shape == (2, 3, COLUMNS, ROWS)
    np.testing.assert_allclose(together[1, 2], transfer_matrix(g[1, 2], lines=Lines(0.5, 0.5)), rtol=1e-7)


def test_perfect_lines_give_the_conductances():
    g = conductances(np.random.default_rng(8), (2, ROWS, COLUMNS))
    np.testing.assert_allclose(transfer_matrix(g, lines=Lines()), np.swapaxes(g, -1, -2))


def test_far_cells_lose_more():
    transfer = transfer_matrix(np.full((ROWS, COLUMNS), 1e-4), lines=Lines(0.5, 0.5))
    assert transfer[0, -1] > transfer[-1, -1] > transfer[-1, 0], "rows start left, columns end at the bottom"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), segments, segments)
def test_reciprocity(seed, r_row, r_column):
    """The same array with its lines exchanged, which puts the driven terminals at the top and the sensed ones right."""
    g = conductances(np.random.default_rng(seed), (6, 9))
    one = transfer_matrix(g, lines=Lines(r_row, r_column, 1.0))
    exchanged = transfer_matrix(g.T[::-1, ::-1], lines=Lines(r_column, r_row, 1.0))[::-1, ::-1]
    np.testing.assert_allclose(one, exchanged.T, rtol=0, atol=1e-8 * g.max())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_dead_line_carries_nothing(seed, row):
    g = conductances(np.random.default_rng(seed), (6, 9))
    g[row] = 0
    transfer = transfer_matrix(g, lines=Lines(0.5, 0.5))
    assert not transfer[:, row].any() and np.count_nonzero(transfer) == 45


def test_lines_as_resistive_as_the_cells_are_solved():
    g, drive = np.full((ROWS, COLUMNS), 1e-2), np.linspace(-1, 1, ROWS)
    _, expected, _ = nodal.solve(nodal.linear(g), drive, np.zeros(COLUMNS), 50, 50, 0, ROWS, COLUMNS)
    transfer = transfer_matrix(g, lines=Lines(50.0, 50.0))
    np.testing.assert_allclose(transfer @ drive, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
