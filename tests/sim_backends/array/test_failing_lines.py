"""The network of an array with broken and tied lines, against closed forms and a factorisation of the very circuit."""

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from sim_backends.array.dies.failing_lines import TIE, FailingLines
from sim_backends.array.dies.failures import FailureRates as Rates
from sim_backends.array.dies.failures import Failures, draw_failures
from sim_backends.array.solver.network import Drive, Lines, NetworkError, solve

ROWS, COLUMNS = 5, 6
MANY = Rates(row_open=0.3, column_open=0.3, rows_tied=0.0)


class Resistors:
    """Linear cells."""

    def __init__(self, g):
        self.g, self.shape = g, g.shape

    def current(self, v):
        return self.g * v, np.broadcast_to(self.g, v.shape).copy()


def some_cells(seed, shape=(ROWS, COLUMNS)):
    return Resistors(np.random.default_rng(seed).uniform(1e-4, 5e-4, shape))


def test_whole_lines_are_those_of_the_plain_solver():
    cells, lines = some_cells(1), Lines(2.0, 3.0, 1.0)
    rng = np.random.default_rng(2)
    v_row, v_column = rng.uniform(-1, 1, (4, ROWS)), rng.uniform(-1, 1, (4, COLUMNS))
    ours = FailingLines(lines, Failures.none(cells.shape)).flow(cells, v_row, v_column, inside=True)
    exact = solve(cells.g, left=v_row, bottom=v_column, lines=lines, cells=True, method="direct")
    np.testing.assert_allclose(ours.i_row, exact.i_left, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(ours.i_column, -exact.i_bottom, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(ours.v_cell, exact.v_cell, atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_breaks_are_segments_of_infinite_resistance(seed):
    """Against LU of the circuit with such segments; loose ends lengthen crossing lines by a segment, so to 1e-4."""
    rng = np.random.default_rng(seed)
    failures, cells, r = draw_failures(MANY, (ROWS, COLUMNS), rng), some_cells(seed), 0.01
    r_row, r_column = np.full((ROWS, COLUMNS + 1), r), np.full((ROWS + 1, COLUMNS), r)
    for row, reach in enumerate(failures.row_reach):
        if reach < COLUMNS:
            r_row[row, reach] = np.inf
    for column, reach in enumerate(failures.column_reach):
        if reach < ROWS:
            r_column[ROWS - reach, column] = np.inf
    v_row, v_column = rng.uniform(-1, 1, ROWS), rng.uniform(-1, 1, COLUMNS)
    try:
        exact = solve(
            cells.g, left=v_row, bottom=v_column, lines=Lines(r_row, r_column, 1.0), cells=True, method="direct"
        )
    except NetworkError:
        reject()  # a crossing that breaks of its row and its column cut off has no voltage there
    ours = FailingLines(Lines(r, r, 1.0), failures).flow(cells, v_row, v_column, inside=True)
    largest = max(np.abs(exact.i_left).max(), np.abs(exact.i_bottom).max())
    np.testing.assert_allclose(ours.i_row, exact.i_left, atol=1e-4 * largest)
    np.testing.assert_allclose(ours.i_column, -exact.i_bottom, atol=1e-4 * largest)
    np.testing.assert_allclose(ours.v_cell, exact.v_cell, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    rates=st.sampled_from(
        [Rates(row_open=0.3, column_open=0, rows_tied=0), Rates(row_open=0, column_open=0.3, rows_tied=1)]
    ),
)
def test_ideal_lines_show_between_terminals_what_the_failures_say(seed, rates):
    """Broken rows alone, or columns: the closed form leaves out what loose ends of both pass on to each other."""
    failures = draw_failures(rates, (ROWS, COLUMNS), np.random.default_rng(seed))
    cells = Resistors(np.maximum(failures.cells(some_cells(seed).g), 1e-9))
    network = FailingLines(Lines(1e-3, 1e-3, 0.0), failures)
    shown = np.zeros(cells.shape)
    for row in range(ROWS):
        v_row = np.where(failures.row_net == failures.row_net[row], np.nan, 0.0)  # what is tied to it comes along
        v_row[row] = 0.2
        shown[row] = -network.flow(cells, v_row, 0.0).i_column / 0.2
    tied = (failures.row_net[:, None] == failures.row_net).sum(axis=1) > 1
    told = ~(failures.cut_off & tied[:, None])  # there the closed form forgets the tied row
    behind_a_tie = cells.g.sum(axis=1).max() / TIE  # what its resistance takes of the voltage, at most
    close = 0.005 + 2 * behind_a_tie
    np.testing.assert_allclose(
        shown[told], failures.between_terminals(cells.g)[told], rtol=close, atol=1e-4 * cells.g.mean()
    )


def test_two_sources_on_tied_rows_work_against_each_other():
    failures = Failures.none((ROWS, COLUMNS))
    failures.row_net[3] = 1
    cells, contact = Resistors(np.full((ROWS, COLUMNS), 1e-9)), 1.0
    v_row = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    flow = FailingLines(Lines(1e-6, 1e-6, contact), failures).flow(cells, v_row, 0.0, inside=True)
    assert flow.i_row[1] == pytest.approx(1.0 / (2 * contact + 2 / TIE), rel=1e-3)
    assert flow.i_row[3] == pytest.approx(-flow.i_row[1], rel=1e-3)


def test_a_tied_row_that_floats_follows_and_reads_the_sum():
    failures = Failures.none((ROWS, COLUMNS))
    failures.row_net[3] = 1
    cells = some_cells(4)
    v_row = np.array([0.0, 0.2, 0.0, np.nan, 0.0])
    flow = FailingLines(Lines(1e-3, 1e-3, 0.0), failures).flow(cells, v_row, 0.0, inside=True)
    np.testing.assert_allclose(-flow.i_column / 0.2, cells.g[1] + cells.g[3], rtol=1e-2)
    assert flow.i_row[3] == 0
    np.testing.assert_allclose(flow.v_cell[3], 0.2, rtol=1e-2)


def test_sources_with_resistance_keep_it_beside_ties():
    failures = Failures.none((ROWS, COLUMNS))
    failures.row_net[3] = 1
    cells, rng = some_cells(4), np.random.default_rng(0)
    v_column, r = rng.uniform(-1, 1, COLUMNS), rng.uniform(10, 100, COLUMNS)
    flow = FailingLines(Lines(1.0, 1.0, 2.0), failures).flow(cells, 0.0, Drive(v_column, r))
    alone = FailingLines(Lines(1.0, 1.0, 2.0), Failures.none((ROWS, COLUMNS))).flow(cells, 0.0, Drive(v_column, r))
    np.testing.assert_allclose(flow.i_column, alone.i_column, rtol=5e-3)


def test_a_line_of_opens_only_has_a_solution():
    failures = Failures.none((2, 3))
    failures.column_reach[1] = 1
    g = np.full((2, 3), 1e-4)
    g[0, 1] = 1e-9
    flow = FailingLines(Lines(1.0, 1.0), failures).flow(Resistors(g), np.array([0.1, 0.0]), 0.0)
    assert np.isfinite(flow.i_row).all()
