"""Bias schemes: what each cell of an array sees, on ideal and on resistive lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.array.circuit.bias import (
    FLOATING,
    GROUNDED,
    HALF,
    NOT_CONNECTED,
    SCHEMES,
    THIRD,
    BiasScheme,
    line_mask,
)
from sim_backends.array.solver.network import Lines, Solution, solve

ROWS, COLUMNS = 8, 6
ROW, COLUMN = 2, 4


def biased(scheme: BiasScheme, amplitude: float, lines: Lines) -> Solution:
    """Uniform cells of 300 uS, one cell selected."""
    v_row, v_column = scheme.voltages(line_mask(ROW, ROWS), line_mask(COLUMN, COLUMNS), amplitude)
    return solve(np.full((ROWS, COLUMNS), 300e-6), left=v_row, bottom=v_column, lines=lines, cells=True)


def parts(v: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The selected cell, the half-selected ones, all others."""
    row, column = line_mask(ROW, ROWS)[:, None], line_mask(COLUMN, COLUMNS)[None, :]
    return v[ROW, COLUMN], v[row ^ column], v[~(row | column)]


@pytest.mark.parametrize("amplitude", [1.2, -1.5])
def test_half(amplitude: float) -> None:
    selected, half, others = parts(biased(HALF, amplitude, Lines()).v_cell)
    assert selected == pytest.approx(amplitude, rel=1e-12)
    assert half.size == ROWS + COLUMNS - 2
    np.testing.assert_allclose(half, amplitude / 2, rtol=1e-12)
    np.testing.assert_allclose(others, 0.0, atol=1e-15)


@pytest.mark.parametrize("amplitude", [1.2, -1.5])
def test_third(amplitude: float) -> None:
    selected, half, others = parts(biased(THIRD, amplitude, Lines()).v_cell)
    assert selected == pytest.approx(amplitude, rel=1e-12)
    np.testing.assert_allclose(half, amplitude / 3, rtol=1e-12)
    assert others.size == (ROWS - 1) * (COLUMNS - 1)
    np.testing.assert_allclose(others, -amplitude / 3, rtol=1e-12)


def test_grounded() -> None:
    v = biased(GROUNDED, 0.2, Lines()).v_cell
    np.testing.assert_allclose(v[ROW], 0.2, rtol=1e-12)
    np.testing.assert_allclose(np.delete(v, ROW, axis=0), 0.0, atol=1e-15)


def test_floating_lines_share_the_voltage_as_three_resistors_do() -> None:
    """By symmetry: the cells of the selected row, those of the selected column, and all others, in series."""
    solution = biased(FLOATING, 0.2, Lines())
    v = solution.v_cell
    r = np.array([1 / (COLUMNS - 1), 1 / ((ROWS - 1) * (COLUMNS - 1)), 1 / (ROWS - 1)])
    in_row, others, in_column = 0.2 * r / r.sum()
    assert v[ROW, COLUMN] == pytest.approx(0.2, rel=1e-12)
    np.testing.assert_allclose(np.delete(v[ROW], COLUMN), in_row, rtol=1e-9)
    np.testing.assert_allclose(np.delete(v[:, COLUMN], ROW), in_column, rtol=1e-9)
    np.testing.assert_allclose(np.delete(np.delete(v, ROW, 0), COLUMN, 1), -others, rtol=1e-9)
    read = solution.i_bottom[COLUMN] / (0.2 * 300e-6)
    assert read == pytest.approx(1 + 1 / r.sum(), rel=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_resistive_lines_only_take_away(scheme: BiasScheme) -> None:
    ideal, real = biased(scheme, 1.0, Lines()).v_cell, biased(scheme, 1.0, Lines(5.0, 5.0)).v_cell
    assert 0.9 < real[ROW, COLUMN] < ideal[ROW, COLUMN]
    assert np.max(np.abs(real)) <= 1.0
    nearly = biased(scheme, 1.0, Lines(1e-6, 1e-6)).v_cell
    np.testing.assert_allclose(nearly, ideal, atol=1e-6)


def test_half_selected_cells_of_resistive_lines_see_less_the_farther_they_are() -> None:
    v = biased(HALF, 1.0, Lines(5.0, 5.0)).v_cell
    assert np.all(np.diff(np.delete(v[ROW], COLUMN)) < 0), "rows are driven from the left"
    assert np.all(np.diff(np.delete(v[:, COLUMN], ROW)) > 0), "columns from the bottom"


def test_a_scheme_of_ones_own() -> None:
    """Selected row and column at plus and minus a half, others at zero: V/2, shifted."""
    symmetric = BiasScheme("symmetric", 0.5, -0.5)
    np.testing.assert_allclose(biased(symmetric, 1.2, Lines()).v_cell, biased(HALF, 1.2, Lines()).v_cell, atol=1e-12)
    one_floats = BiasScheme("rows float", other_rows=NOT_CONNECTED)
    v_row, v_column = one_floats.voltages(line_mask(1, 3), line_mask(0, 2), 2.0)
    np.testing.assert_array_equal(v_row, [np.nan, 2.0, np.nan])
    np.testing.assert_array_equal(v_column, [0.0, 0.0])


@given(
    st.floats(-2, 2),
    st.floats(-2, 2).filter(lambda x: abs(x) > 1e-6),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.floats(-3, 3),
)
def test_the_selected_cell_sees_the_amplitude_whatever_the_scheme(
    low: float, drive: float, rows: float, columns: float, amplitude: float
) -> None:
    scheme = BiasScheme("any", low + drive, low, rows, columns)
    v_row, v_column = scheme.voltages(line_mask(0, 3), line_mask(1, 3), amplitude)
    size = abs(amplitude) * (1 + abs(low) / abs(scheme.selected_row - scheme.selected_column))
    assert v_row[0] - v_column[1] == pytest.approx(amplitude, abs=1e-14 * (1 + size))


def test_leading_axes_are_arrays() -> None:
    v_row, v_column = HALF.voltages(line_mask([0, 2], 3), line_mask([1, 1], 2), [1.0, -2.0])
    np.testing.assert_array_equal(v_row, [[1.0, 0.5, 0.5], [-1.0, -1.0, -2.0]])
    np.testing.assert_array_equal(v_column, [[0.5, 0.0], [-1.0, 0.0]])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((0.5, 0.5), "puts? no voltage across the cell; give two different numbers"),
        ((NOT_CONNECTED, 0.0), "nan of the amplitude|no voltage across"),
        ((1.0, np.inf), "no voltage across"),
        ((1.0, 0.0, np.inf, 0.0), "a line at infinity"),
        ((1.0, 0.0, 0.0, -np.inf), "a line at infinity"),
    ],
)
def test_bad_schemes(parts: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        BiasScheme("mine", *parts)
    assert "bias scheme mine" in str(refusal.value)


@pytest.mark.parametrize("line", [-1, 4, [0, 7]])
def test_lines_that_are_not_there(line: int) -> None:
    with pytest.raises(ValueError, match="of 4: count from 0 to 3"):
        line_mask(line, 4)
