"""Products of kernels with nonlinear cells against the nodal solution."""

import nodal
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backends.array.circuit.product import fit_odd_polynomial, product_model
from sim_backends.array.devices.mtj import Mtj

ROWS = COLUMNS = 25


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
            lambda v: tuple(conducting * x for x in cells.current(v)), v_rows, v_columns, 0.5, 0.5, 1.0, ROWS, COLUMNS
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
    coefficients[0] = np.exp(0.5 * rng.standard_normal((6, 9))) / 7000
    model = product_model(coefficients, 0.2, "backward", 0.5, 0.5, r_contact=1.0)  # the sum may reach twice 0.1 V
    x, y = 0.1 * rng.random((2, 1, 6))
    together = model.currents(a * x + b * y)
    np.testing.assert_allclose(together, a * model.currents(x) + b * model.currents(y), rtol=1e-9, atol=1e-18)


def some_cells(rng):
    shape = (ROWS, COLUMNS)
    cells = Mtj.draw(shape, rng, antiparallel=rng.random(shape) < 0.5)
    cells.broken |= rng.random(shape) < 0.01
    conducting = np.ones(shape, dtype=bool)
    conducting[3] = False
    conducting[:, 17] = False
    return cells, conducting
