"""Direct network solutions against closed forms, exact arithmetic and the laws of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import exact_nodal
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from sim_backends.array.solver import direct
from sim_backends.array.solver.direct import DirectNetwork, DirectSolution
from sim_backends.array.solver.errors import ConvergenceError, NetworkError

FloatArray = NDArray[np.float64]
INF = np.inf
SIDES = ("left", "right", "bottom", "top")
NOTHING = 1e-18  # A, for networks at one voltage everywhere


@pytest.fixture(params=["dense", "sparse"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with either way of factorising."""
    if request.param == "sparse":
        monkeypatch.setattr(direct, "DENSE_MAX", 0)
    return str(request.param)


def solve_linear(network: DirectNetwork, g: FloatArray, **voltages: Any) -> DirectSolution:
    return network.solve(g[None], g[None], **voltages)


def only(lines: int, *connected: int) -> FloatArray:
    """Terminal resistances: perfect sources at some lines, nothing at the others."""
    r = np.full(lines, INF)
    r[list(connected)] = 0.0
    return r


def power(solution: DirectSolution, left: FloatArray, bottom: FloatArray) -> float:
    return float(np.sum(left * solution.i_left) - np.sum(bottom * solution.i_bottom))


# Closed forms


@pytest.mark.parametrize(("size", "factor"), [(4, 2.29), (8, 4.27), (12, 6.26), (64, 32.3)])
def test_floating_lines_multiply_a_read_by_the_closed_form(method: str, size: int, factor: float) -> None:
    network = DirectNetwork(size, size, 0.0, 0.0, left=only(size, 0), bottom=only(size, 0))
    g = np.full((size, size), 300e-6)
    read = solve_linear(network, g, left=0.2, bottom=0.0).i_bottom[0, 0, 0] / (0.2 * 300e-6)
    assert read == pytest.approx(1 + 1 / (2 / (size - 1) + 1 / (size - 1) ** 2), rel=1e-12)
    assert read == pytest.approx(factor, abs=0.5 * 10.0 ** (np.floor(np.log10(factor)) - 2) + 1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (13, 21), (1, 5), (6, 1)])
def test_half_select_powers_are_the_closed_forms(rows: int, columns: int) -> None:
    g, v = 250e-6, 1.2
    network = DirectNetwork(rows, columns, 0.0, 0.0, left=0.0, bottom=0.0)
    cells = np.full((rows, columns), g)
    left, bottom = np.full(rows, v / 2), np.full(columns, v / 2)
    left[0], bottom[0] = v, 0.0
    half = solve_linear(network, cells, left=left, bottom=bottom)
    assert power(half, left, bottom) == pytest.approx(v**2 * g * (1 + (rows + columns - 2) / 4), rel=1e-13)
    left, bottom = np.full(rows, v / 3), np.full(columns, 2 * v / 3)
    left[0], bottom[0] = v, 0.0
    third = solve_linear(network, cells, left=left, bottom=bottom)
    assert power(third, left, bottom) == pytest.approx(v**2 * g * (1 + (rows * columns - 1) / 9), rel=1e-13)
    if (rows, columns) == (8, 8):
        assert power(third, left, bottom) == pytest.approx(8 * v**2 * g, rel=1e-13)


# Segment (Ohm): loss of current (per cent) of the nearest and the farthest column of 8 x 8 cells of 300 uS. Derived for
# the TiO2 crossbar's paper, with a prototype of another method.
LINE_LOSS = {1.0: (1.0, 1.8), 5.0: (4.7, 8.5), 20.0: (16.0, 27.0)}


@pytest.mark.parametrize("r", LINE_LOSS)
def test_line_loss_is_that_of_the_table_and_of_a_many_digit_solution(method: str, r: float) -> None:
    g = np.full((8, 8), 300e-6)
    network = DirectNetwork(8, 8, r, r, left=0.0, bottom=0.0)
    loss = 1 - solve_linear(network, g, left=0.2).i_bottom[0, 0] / (8 * 0.2 * 300e-6)
    for column, percent in zip((0, -1), LINE_LOSS[r], strict=True):
        assert 100 * loss[column] == pytest.approx(percent, abs=0.5 if percent > 10 else 0.05)
    exact = exact_nodal.solve(plain(r, g, left=np.full(8, 0.2)), Decimal).i_bottom
    np.testing.assert_allclose(1 - loss, exact / (8 * 0.2 * 300e-6), rtol=1e-14)


def test_one_cell_is_a_series_of_resistors(method: str) -> None:
    network = DirectNetwork(1, 1, [[3.0, 5.0]], [[7.0], [11.0]], right=13.0, top=17.0)
    g = np.array([[1 / 4000.0]])
    expected = 0.4 / (4000 + 5 + 13 + 7 + 17)
    solution = solve_linear(network, g, right=0.3, top=-0.1)
    assert solution.i_right.item() == pytest.approx(expected, rel=1e-14)
    assert solution.i_top.item() == pytest.approx(expected, rel=1e-14)
    assert solution.i_left.item() == solution.i_bottom.item() == 0
    assert solution.v_row.item() == pytest.approx(0.3 - 18 * expected, rel=1e-14)
    assert solution.v_column.item() == pytest.approx(-0.1 + 24 * expected, rel=1e-14)


def ladder_resistance(series: float, rungs: FloatArray) -> float:
    """Input resistance of a ladder, from its far end: before each rung (Ohm) lies one series resistance."""
    seen = INF
    for rung in rungs[::-1]:
        seen = series + 1 / (1 / rung + 1 / seen)
    return seen


@pytest.mark.parametrize("cells", [1, 2, 7, 300])
def test_one_row_and_one_column_are_ladders(cells: int) -> None:
    r_cell = np.random.default_rng(3).uniform(1e3, 1e5, cells)
    one_row = DirectNetwork(1, cells, 2.5, 9.0, left=6.0, bottom=30.0)
    expected = 0.2 / (6.0 + ladder_resistance(2.5, r_cell + 39.0))
    assert solve_linear(one_row, 1 / r_cell[None], left=0.2).i_left.item() == pytest.approx(expected, rel=1e-13)
    one_column = DirectNetwork(cells, 1, 9.0, 2.5, left=30.0, bottom=6.0)
    from_bottom = solve_linear(one_column, 1 / r_cell[::-1, None], bottom=0.2)
    assert from_bottom.i_bottom.item() == pytest.approx(-expected, rel=1e-13)


def test_a_perfect_line_held_at_both_ends_shares_its_current_as_small_equal_segments_do() -> None:
    rng = np.random.default_rng(5)
    g, v = rng.uniform(1e-6, 1e-3, (3, 4)), rng.uniform(0, 1, 3)
    ends = {"left": 0.0, "right": 0.0, "bottom": 0.0, "top": 0.0}
    perfect = solve_linear(DirectNetwork(3, 4, 0.0, 0.0, **ends), g, left=v, right=v)
    nearly = solve_linear(DirectNetwork(3, 4, 1e-6, 1e-6, **ends), g, left=v, right=v)
    for side in SIDES:
        np.testing.assert_allclose(getattr(perfect, f"i_{side}"), getattr(nearly, f"i_{side}"), rtol=1e-6)
    np.testing.assert_allclose(perfect.i_left + perfect.i_right, perfect.i_cell.sum(axis=-1), rtol=1e-14)


def test_a_broken_line_ends_where_it_is_broken() -> None:
    """Row 1 is broken before its third cell: driven from the left, its last two cells see the columns alone."""
    r_row = np.full((2, 5), 4.0)
    r_row[1, 2] = INF
    g = np.full((2, 4), 1e-4)
    network = DirectNetwork(2, 4, r_row, 0.0, left=0.0, bottom=0.0)
    solution = solve_linear(network, g, left=[0.0, 0.5])
    first, second = solution.i_cell[0, 0, 1, :2]
    assert first + second == pytest.approx(0.5 / ladder_resistance(4.0, np.full(2, 1e4)), rel=1e-13)
    np.testing.assert_array_equal(solution.i_cell[0, 0, 1, 2:], 0.0)
    np.testing.assert_array_equal(solution.v_cell[0, 0, 1, 2:], 0.0)


# Exact arithmetic


def plain(r: float, g: FloatArray, left: FloatArray) -> exact_nodal.Network:
    """Rows driven at the left, columns grounded at the bottom."""
    rows, columns = g.shape
    return exact_nodal.Network(
        r_row=np.full((rows, columns + 1), r),
        r_column=np.full((rows + 1, columns), r),
        r_left=np.zeros(rows),
        r_right=np.full(rows, INF),
        r_bottom=np.zeros(columns),
        r_top=np.full(columns, INF),
        v_left=left,
        v_right=np.zeros(rows),
        v_bottom=np.zeros(columns),
        v_top=np.zeros(columns),
        ga=g,
        gb=g,
        offset=np.zeros_like(g),
    )


def solved(network: exact_nodal.Network) -> DirectSolution:
    resistances = {side: getattr(network, f"r_{side}") for side in SIDES}
    array = DirectNetwork(*network.ga.shape, network.r_row, network.r_column, **resistances)
    voltages = {side: getattr(network, f"v_{side}") for side in SIDES}
    return array.solve(network.ga[None], network.gb[None], offset=network.offset, **voltages)


def assert_exact(network: exact_nodal.Network, number: type[Fraction] | type[Decimal], tolerance: float) -> None:
    assert_equal(network, exact_nodal.solve(network, number), tolerance)


def assert_equal(network: exact_nodal.Network, exact: exact_nodal.Solution, tolerance: float) -> None:
    """Currents to a part of the largest one, or of the largest of the parts that they are sums of."""
    found = solved(network)
    skew = (network.ga - network.gb) * np.where(network.ga > network.gb, exact.v_row, exact.v_column)
    largest = max(exact.largest, float(np.max(np.abs([network.offset, skew]))), NOTHING)
    for name in ("i_cell", "i_left", "i_right", "i_bottom", "i_top"):
        error = np.abs(getattr(found, name)[0, 0] - getattr(exact, name))
        assert np.max(error) <= tolerance * largest, name
    volts = max(float(np.max(np.abs(v), initial=0.0)) for v in (exact.v_row, exact.v_column))
    for name in ("v_row", "v_column"):
        assert np.max(np.abs(getattr(found, name)[0, 0] - getattr(exact, name))) <= 1e-9 * volts, name


SEGMENT = st.sampled_from([0.0, 0.0, 1e-3, 1.0, 20.0, 1e6, INF])
TERMINAL = st.sampled_from([0.0, 50.0, INF, INF])
CONDUCTANCE = st.sampled_from([0.0, 1e-9, 1e-6, 3e-4, 1e-2])
VOLTAGE = st.sampled_from([-1.0, 0.0, 0.2, 0.2])


@st.composite
def odd_networks(draw: st.DrawFn) -> exact_nodal.Network:
    """Perfect, broken and resistive segments, any terminals, open cells, cells that conduct in one direction."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def values(shape: tuple[int, ...] | int, element: st.SearchStrategy[float]) -> FloatArray:
        return draw(hnp.arrays(np.float64, shape, elements=element, fill=st.nothing()))

    ga = values((rows, columns), CONDUCTANCE)
    two_terminal = draw(st.booleans())
    return exact_nodal.Network(
        r_row=values((rows, columns + 1), SEGMENT),
        r_column=values((rows + 1, columns), SEGMENT),
        r_left=values(rows, TERMINAL),
        r_right=values(rows, TERMINAL),
        r_bottom=values(columns, TERMINAL),
        r_top=values(columns, TERMINAL),
        v_left=values(rows, VOLTAGE),
        v_right=values(rows, VOLTAGE),
        v_bottom=values(columns, VOLTAGE),
        v_top=values(columns, VOLTAGE),
        ga=ga,
        gb=ga if two_terminal else values((rows, columns), CONDUCTANCE),
        offset=values((rows, columns), st.sampled_from([0.0, 0.0, 1e-7, -1e-5])),
    )


def joins_two_sources(network: exact_nodal.Network) -> bool:
    """Whether a perfect line has a perfect source at both ends: refused, or shared by convention."""
    rows = network.r_row.sum(axis=1) + network.r_left + network.r_right
    columns = network.r_column.sum(axis=0) + network.r_top + network.r_bottom
    return bool(np.any(rows == 0) or np.any(columns == 0))


@settings(max_examples=100, deadline=None)
@given(network=odd_networks())
def test_odd_networks_are_solved_exactly_or_have_no_one_solution(network: exact_nodal.Network) -> None:
    assume(not joins_two_sources(network))
    try:
        exact = exact_nodal.solve(network, Fraction)
    except exact_nodal.Singular:
        with pytest.raises(NetworkError):
            solved(network)
        return
    for dense_max in (direct.DENSE_MAX, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(direct, "DENSE_MAX", dense_max)
            assert_equal(network, exact, 1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_conductances_and_segments_many_decades_apart_keep_nine_digits(method: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = 5, 4
    g = 10 ** rng.uniform(-9, -2, (rows, columns))
    floating = {
        f"r_{side}": np.where(rng.random(n) < 0.5, INF, rng.choice([0.0, 50.0], n))
        for side, n in zip(SIDES, (rows, rows, columns, columns), strict=True)
    }
    floating["r_left"][0] = 0.0
    network = replace(
        plain(1.0, g, left=rng.uniform(-1, 1, rows)),
        r_row=10 ** rng.uniform(-3, 6, (rows, columns + 1)),
        r_column=10 ** rng.uniform(-3, 6, (rows + 1, columns)),
        v_right=rng.uniform(-1, 1, rows),
        v_top=rng.uniform(-1, 1, columns),
        **floating,
    )
    assert_exact(network, Decimal, 1e-11)


def test_a_nanosiemens_between_milliohms_is_not_lost(method: str) -> None:
    """Drops of 1e-12 V along lines at 1 V: driven at both ends, half of the rows and all columns but one float."""
    rows, columns = 6, 4
    g = np.full((rows, columns), 1e-9)
    network = replace(
        plain(1e-3, g, left=np.ones(rows)),
        r_left=np.where(np.arange(rows) < 3, 0.0, INF),
        r_right=np.where(np.arange(rows) < 3, 0.0, INF),
        v_right=np.ones(rows),
        r_bottom=only(columns, 2),
    )
    assert_exact(network, Decimal, 1e-11)


def test_what_double_precision_cannot_hold_is_an_error_not_a_number(method: str) -> None:
    network = DirectNetwork(4, 4, 1e-9, 1e-9, left=only(4, 0), bottom=only(4, 0))
    with pytest.raises(ConvergenceError, match="segment resistances to zero"):
        solve_linear(network, np.full((4, 4), 1e-12), left=1.0)


# Laws


@dataclass(frozen=True)
class Array:
    """Two-terminal cells, equal segments, sources with resistance at some terminals."""

    g: FloatArray
    r_row: float
    r_column: float
    terminals: dict[str, FloatArray]
    rng: np.random.Generator

    def solve(self, v: dict[str, FloatArray], g: FloatArray | None = None) -> DirectSolution:
        return solve_linear(self.network, self.g if g is None else g, **v)

    @property
    def network(self) -> DirectNetwork:
        return DirectNetwork(*self.g.shape, self.r_row, self.r_column, **self.terminals)

    def drives(self, count: int) -> dict[str, FloatArray]:
        """Random voltages of all sources."""
        return {side: self.rng.uniform(-1, 1, (count, r.size)) for side, r in self.terminals.items()}


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    r_row, r_column = (draw(st.sampled_from([0.0, 1e-2, 2.0, 200.0])) for _ in range(2))
    terminals = {
        side: np.where(rng.random(n) < 0.4, INF, rng.choice([10.0, 1000.0], n))
        for side, n in zip(SIDES, (rows, rows, columns, columns), strict=True)
    }
    terminals["left"][0] = 10.0
    return Array(10 ** rng.uniform(-9, -2, (rows, columns)), r_row, r_column, terminals, rng)


def into_terminals(solution: DirectSolution) -> FloatArray:
    """Currents from all sources into the network, ``[drive, terminal]``."""
    return np.concatenate([solution.i_left, solution.i_right, -solution.i_bottom, -solution.i_top], axis=-1)[0]


def of_all_terminals(v: dict[str, FloatArray]) -> FloatArray:
    return np.concatenate([v[side] for side in SIDES], axis=-1)


LAW = settings(max_examples=50, deadline=None)


@LAW
@given(arrays())
def test_reciprocity(array: Array) -> None:
    one, other = array.drives(1), array.drives(1)
    i_one, i_other = into_terminals(array.solve(one)), into_terminals(array.solve(other))
    scale = np.max(np.abs(i_one)) + np.max(np.abs(i_other)) + NOTHING
    there, back = np.sum(of_all_terminals(other) * i_one), np.sum(of_all_terminals(one) * i_other)
    assert there == pytest.approx(back, abs=1e-12 * scale)


@LAW
@given(arrays(), st.floats(-3, 3))
def test_superposition(array: Array, weight: float) -> None:
    pair = array.drives(2)
    apart = into_terminals(array.solve(pair))
    together = into_terminals(array.solve({side: v[:1] + weight * v[1:] for side, v in pair.items()}))
    scale = np.max(np.abs(apart)) * (1 + abs(weight)) + NOTHING
    np.testing.assert_allclose(together[0], apart[0] + weight * apart[1], rtol=0, atol=1e-12 * scale)


@LAW
@given(arrays())
def test_power_of_the_sources_is_dissipated(array: Array) -> None:
    v = array.drives(1)
    solution = array.solve(v)
    into = into_terminals(solution)[0]
    i_cell = solution.i_cell[0, 0]
    along_row = solution.i_left[0, 0][:, None] - np.cumsum(i_cell, axis=1)[:, :-1]
    along_column = -solution.i_top[0, 0][None, :] + np.cumsum(i_cell, axis=0)[:-1]
    resistance = np.concatenate([array.terminals[side] for side in SIDES])
    resistance += np.repeat([array.r_row, array.r_column], [2 * array.g.shape[0], 2 * array.g.shape[1]])
    there = np.isfinite(resistance)
    heat = np.sum(i_cell**2 / array.g) + np.sum(resistance[there] * into[there] ** 2)
    heat += array.r_row * np.sum(along_row**2) + array.r_column * np.sum(along_column**2)
    assert np.sum(of_all_terminals(v) * into) == pytest.approx(heat, rel=1e-11, abs=NOTHING)


@LAW
@given(arrays())
def test_perfect_lines_may_be_permuted(array: Array) -> None:
    array = replace(array, r_row=0.0, r_column=0.0)
    rows, columns = (array.rng.permutation(n) for n in array.g.shape)
    order = {"left": rows, "right": rows, "bottom": columns, "top": columns}
    swapped = replace(
        array,
        g=array.g[np.ix_(rows, columns)],
        terminals={side: r[order[side]] for side, r in array.terminals.items()},
    )
    v = array.drives(1)
    before, after = array.solve(v), swapped.solve({side: v[side][:, order[side]] for side in SIDES})
    scale = np.max(np.abs(into_terminals(before))) + NOTHING
    for side in SIDES:
        permuted = getattr(before, f"i_{side}")[..., order[side]]
        np.testing.assert_allclose(getattr(after, f"i_{side}"), permuted, rtol=0, atol=1e-12 * scale)


@LAW
@given(arrays(), st.data())
def test_more_conductance_never_lowers_the_current_between_two_terminals(array: Array, data: st.DataObject) -> None:
    rows, columns = array.g.shape
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    ends = {"left": only(rows, row), "bottom": only(columns, column)}
    array = replace(array, terminals={**dict.fromkeys(SIDES, np.array(INF)), **ends})
    more = array.g.copy()
    more[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))] *= data.draw(st.floats(1, 1e6))
    v = {"left": np.ones((1, rows))}
    before, after = (array.solve(v, g).i_bottom[0, 0, column] for g in (array.g, more))
    assert after >= before * (1 - 1e-12)


# Many at once


def test_batches_and_drives_in_chunks_are_the_single_solutions(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    batch, drives, rows, columns = 5, 7, 3, 4
    ga, gb = rng.uniform(0, 1e-3, (2, batch, rows, columns))
    ga[2, 1, 1] = gb[2, 1, 1] = 0.0
    offset = rng.uniform(-1e-5, 1e-5, (batch, drives, rows, columns))
    left, bottom = rng.uniform(-1, 1, (drives, rows)), rng.uniform(-1, 1, (batch, 1, columns))
    network = DirectNetwork(rows, columns, 2.0, 0.0, left=1.0, bottom=[0.0, INF, 5.0, 0.0])
    monkeypatch.setattr(direct, "CHUNK", 200)
    together = network.solve(ga, gb, offset=offset, left=left, bottom=bottom)
    monkeypatch.undo()
    assert together.i_cell.shape == (batch, drives, rows, columns)
    assert together.i_right.shape == (batch, drives, rows) and together.i_top.shape == (batch, drives, columns)
    for b, k in np.ndindex(batch, drives):
        one = network.solve(ga[[b]], gb[[b]], offset=offset[b, k], left=left[k], bottom=bottom[b, 0])
        for name in vars(one):
            np.testing.assert_allclose(getattr(together, name)[b, k], getattr(one, name)[0, 0], rtol=1e-12, atol=1e-17)


# Refusals


def uniform(network: DirectNetwork, **voltages: Any) -> DirectSolution:
    return solve_linear(network, np.full(network.shape, 1e-4), **voltages)


def opened(network: DirectNetwork, cells: Any) -> DirectSolution:
    g = np.full(network.shape, 1e-4)
    g[cells] = 0.0
    return solve_linear(network, g, left=0.2)


def altered(value: float) -> DirectSolution:
    g = np.full((2, 4, 5), 1e-4)
    g[1, 2, 3] = value
    return DirectNetwork(4, 5, 1.0, 1.0, left=0.0, bottom=0.0).solve(g, g)


def opened_in_two_of_four() -> DirectSolution:
    """Row 2 of array 3 and row 1 of array 1 float with all cells open."""
    g = np.full((4, 4, 5), 1e-4)
    g[3, 2] = g[1, 1] = 0.0
    return held(left=only(4, 0)).solve(g, g)


def held(**others: Any) -> DirectNetwork:
    return DirectNetwork(4, 5, **{"r_row": 0.0, "r_column": 0.0, "left": 0.0, "bottom": 0.0, **others})


def segments(shape: tuple[int, int], *changed: tuple[int, int], to: float) -> FloatArray:
    r = np.ones(shape)
    for index in changed:
        r[index] = to
    return r


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            lambda: uniform(held(right=0.0), left=[0, 0, 1, 0], right=[0, 0, 2, 0]),
            r"row 2 has no resistance between its two sources of 1 V \(left\) and 2 V \(right\)",
        ),
        (lambda: uniform(held(top=0.0), top=0.1), r"column 0 has no resistance .* 0.1 V \(top\) and 0 V \(bottom\)"),
        (lambda: uniform(held(), left=[0, np.nan, 0, 0]), "the left terminal of row 1 is driven with nan V"),
        (lambda: opened(held(left=only(4, 0)), np.s_[2, :]), "^row 2: no segment or cell connects it"),
        (lambda: opened(held(bottom=only(5, 0)), np.s_[:, 3]), "^column 3: no segment or cell connects it"),
        (lambda: opened(held(left=only(4, 0), bottom=INF), np.s_[0, :]), "^row 1: no segment"),
        (
            lambda: opened(held(right=1.0, r_row=segments((4, 6), (1, 2), (1, 4), to=INF)), np.s_[1, :]),
            "^the part of row 1 at columns 2 to 3: no segment",
        ),
        (
            lambda: opened(held(r_column=segments((5, 5), (2, 4), (3, 4), to=INF)), np.s_[2, 4]),
            "^the part of column 4 at row 2: no segment",
        ),
        (opened_in_two_of_four, "^row 1 of array 1: no segment"),
        (lambda: altered(INF), "cell at row 2, column 3 of array 1 is a short .* finite"),
        (lambda: altered(np.nan), "cell at row 2, column 3 of array 1 has a conductance of nan S"),
        (lambda: altered(-1e-9), "cell at row 2, column 3 of array 1 has a conductance of -1e-09 S"),
        (lambda: held(left=INF, bottom=INF), "no terminal of the array is connected"),
        (lambda: held(r_row=segments((4, 6), (3, 5), to=-1.0)), "segment 5 of row 3 has a resistance of -1 Ohm"),
        (lambda: held(r_column=segments((5, 5), (1, 4), to=np.nan)), "segment 1 of column 4 has a resistance of nan"),
        (lambda: held(top=[1, 1, -2, 1, 1]), "the top terminal of column 2 has a resistance of -2 Ohm"),
        (lambda: held(right=[1, 1, 1]), "right terminals: .* for 4 lines"),
        (lambda: held(r_row=np.ones((4, 5))), r"r_row has shape \(4, 5\), .* \(4, 6\)"),
        (lambda: held().solve(np.ones((1, 4, 4)), np.ones((1, 4, 4))), "do not fit an array of"),
    ],
)
def test_what_has_no_solution_is_refused_with_the_place(attempt: Callable[[], object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        attempt()


def test_a_floating_row_behind_saturated_transistors_is_refused_but_not_one_that_they_load() -> None:
    """Where only gb conducts, the voltage of a column node moves the row's current but the row's own does not."""
    network = DirectNetwork(2, 3, 0.0, 1.0, left=[0.0, INF], bottom=0.0)
    ga, gb = np.full((2, 1, 2, 3), 1e-4)
    ga[0, 1] = 0.0
    with pytest.raises(NetworkError, match=r"^row 1: "):
        network.solve(ga, gb, left=0.2)
    ga[0, 1, 2], gb[0, 1] = 1e-6, 0.0
    solution = network.solve(ga, gb, left=0.2)
    np.testing.assert_allclose(solution.v_row[0, 0, 1], 0.0, atol=1e-15)
