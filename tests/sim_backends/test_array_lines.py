import nodal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backends.array.die import Die
from sim_backends.array.lines import LineSolverError, transfer_matrix
from sim_backends.array.mtj import Junctions, cell_current
from sim_backends.array.product import fit_odd_polynomial, product_model

ROWS = COLUMNS = 25


def conductances(rng, shape=(ROWS, COLUMNS)):
    g = np.where(rng.random(shape) < 0.5, 1 / 7000, 1 / 13000) * np.exp(0.05 * rng.standard_normal(shape))
    g[rng.random(shape) < 0.02] = 1 / 2100
    g[rng.random(shape) < 0.01] = 1e-9
    return g


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("r_contact", [0.0, 3.0])
def test_transfer_matrix_equals_nodal_solution(direction, r_contact):
    rng = np.random.default_rng(5)
    g = conductances(rng)
    drive = rng.uniform(-0.3, 0.3, ROWS)
    v_rows, v_columns = (drive, np.zeros(COLUMNS)) if direction == "backward" else (np.zeros(ROWS), drive)
    into_rows, out_of_columns, _ = nodal.solve(nodal.linear(g), v_rows, v_columns, 0.5, 0.7, r_contact, ROWS, COLUMNS)
    expected = out_of_columns if direction == "backward" else -into_rows
    transfer = transfer_matrix(g, 0.5, 0.7, direction, r_contact=r_contact)
    np.testing.assert_allclose(transfer @ drive, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_rectangular_kernels_are_solved_too():
    rng = np.random.default_rng(6)
    g = conductances(rng, (7, 12))
    drive = rng.uniform(-1, 1, 7)
    _, expected, _ = nodal.solve(nodal.linear(g), drive, np.zeros(12), 0.5, 0.5, 1.0, 7, 12)
    transfer = transfer_matrix(g, 0.5, 0.5, "backward", r_contact=1.0)
    assert transfer.shape == (12, 7)
    np.testing.assert_allclose(transfer @ drive, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_leading_axes_are_batches():
    g = conductances(np.random.default_rng(7), (2, 3, ROWS, COLUMNS))
    together = transfer_matrix(g, 0.5, 0.5, "forward")
    assert together.shape == (2, 3, ROWS, COLUMNS)
    np.testing.assert_allclose(together[1, 2], transfer_matrix(g[1, 2], 0.5, 0.5, "forward"), rtol=1e-7)


def test_perfect_lines_give_the_conductances():
    g = conductances(np.random.default_rng(8))
    np.testing.assert_allclose(transfer_matrix(g, 0, 0, "forward"), g)
    np.testing.assert_allclose(transfer_matrix(g, 0, 0, "backward"), g.T)


def test_far_cells_lose_more():
    transfer = transfer_matrix(np.full((ROWS, COLUMNS), 1e-4), 0.5, 0.5, "backward")
    assert transfer[0, -1] > transfer[-1, -1] > transfer[-1, 0], "rows start left, columns end at the bottom"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 2), st.floats(0, 2))
def test_reciprocity(seed, r_row, r_column):
    g = conductances(np.random.default_rng(seed), (6, 9))
    forward = transfer_matrix(g, r_row, r_column, "forward", r_contact=1.0)
    backward = transfer_matrix(g, r_row, r_column, "backward", r_contact=1.0)
    np.testing.assert_allclose(forward, backward.T, rtol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_a_dead_line_carries_nothing(seed, row):
    g = conductances(np.random.default_rng(seed), (6, 9))
    g[row] = 0
    assert not transfer_matrix(g, 0.5, 0.5, "forward")[row].any()
    assert not transfer_matrix(g, 0.5, 0.5, "backward")[:, row].any()


def test_absurd_lines_are_an_error():
    with pytest.raises(LineSolverError, match="too large"):
        transfer_matrix(np.full((ROWS, COLUMNS), 1e-2), 50, 50, "forward")


def test_reading_a_die_equals_the_nodal_solution_of_each_column(lot, vary):
    die = Die.from_lot(vary(lot, lines={"r_row": "2 Ohm", "r_column": "3 Ohm", "r_contact": "5 Ohm"}), 3, 0)
    column, kernel = 20, 4
    cells = die.junctions(kernel)
    gated = np.zeros((ROWS, COLUMNS), dtype=bool)
    gated[:, column] = die.alive[kernel][:, column]
    v_columns = np.full(COLUMNS, np.nan)
    v_columns[column] = 0.2
    into_rows, _, _ = nodal.solve(nonlinear(cells, gated), np.zeros(ROWS), v_columns, 2, 3, 5, ROWS, COLUMNS)
    measured = die.read(kernel, 0.2)[:, column]
    np.testing.assert_allclose(measured, -into_rows, rtol=0, atol=1e-8 * np.abs(into_rows).max())


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("amplitude", "error"), [(0.1, 1e-4), (0.3, 6e-4)])
def test_products_with_nonlinear_cells_equal_the_nodal_solution(direction, amplitude, error):
    rng = np.random.default_rng(9)
    cells, conducting = some_cells(rng)
    coefficients = conducting * fit_odd_polynomial(cells, amplitude)
    model = product_model(coefficients, amplitude, direction, 0.5, 0.5, r_contact=1.0)
    vectors = amplitude * np.stack(
        [
            np.ones(ROWS),
            rng.random(ROWS) < 0.5,
            rng.random(ROWS),
            rng.choice([-1.0, 1.0], ROWS),
            rng.uniform(-1, 1, ROWS),
        ]
    )
    zeros = np.zeros(ROWS)
    exact = []
    for vector in vectors:
        v_rows, v_columns = (vector, zeros) if direction == "backward" else (zeros, vector)
        into_rows, out_of_columns, _ = nodal.solve(
            nonlinear(cells, conducting), v_rows, v_columns, 0.5, 0.5, 1.0, ROWS, COLUMNS
        )
        exact.append(out_of_columns if direction == "backward" else -into_rows)
    exact = np.array(exact)
    np.testing.assert_allclose(model.currents(vectors), exact, rtol=0, atol=error * np.abs(exact).max())
    linear_only = np.abs(vectors @ model.odd[0].T - exact).max() / np.abs(exact).max()
    assert linear_only > 5 * error, "the test sees the nonlinearity"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(-1, 1), st.floats(-1, 1))
def test_superposition_of_linear_cells(seed, a, b):
    rng = np.random.default_rng(seed)
    coefficients = np.zeros((3, 6, 9))
    coefficients[0] = conductances(rng, (6, 9))
    model = product_model(coefficients, 0.1, "backward", 0.5, 0.5, r_contact=1.0)
    x, y = 0.1 * rng.random((2, 1, 6))
    together = model.currents(a * x + b * y)
    np.testing.assert_allclose(together, a * model.currents(x) + b * model.currents(y), rtol=1e-9, atol=1e-18)


def some_cells(rng):
    shape = (ROWS, COLUMNS)
    r_p = 5000 * np.exp(0.05 * rng.standard_normal(shape))
    tmr = 1.2 * np.exp(0.05 * rng.standard_normal(shape)) * (rng.random(shape) < 0.5)
    short = rng.random(shape) < 0.01
    conducting = np.ones(shape, dtype=bool)
    conducting[3] = False
    conducting[:, 17] = False
    return Junctions(np.where(short, 100.0, r_p), np.where(short, 0.0, tmr), 0.5, 2000.0), conducting


def nonlinear(cells, conducting):
    def cell(v):
        step = 1e-6
        slope = (cell_current(v + step, cells) - cell_current(v - step, cells)) / (2 * step)
        return conducting * cell_current(v, cells), conducting * slope

    return cell
