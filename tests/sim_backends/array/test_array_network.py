"""The network solver: its methods against each other and against independent solutions, its laws, its refusals."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import star_mesh
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import types
from numpy.typing import NDArray

from sim_backends.array.devices.conduction import Cubic, Ohmic, Sinh, Tabulated
from sim_backends.array.devices.series import Series
from sim_backends.array.devices.transistor import Transistor
from sim_backends.array.solver import line_kernels, line_method, network, newton_kernels, scratch
from sim_backends.array.solver.network import ConvergenceError, Drive, Lines, NetworkError, solve

FloatArray = NDArray[np.float64]
SIDES = ("left", "right", "top", "bottom")
METHODS = ("lines", "transfer", "direct", "auto")
NAN = float("nan")
ESTIMATED = 2e-9  # the error is estimated, not bounded: of thousands of networks a few pass 1e-9 by some tenths

SIZES = [(1, 1), (1, 7), (7, 1), (1, 70), (70, 1), (3, 5), (8, 8), (13, 9), (9, 13), (66, 2), (2, 67), (16, 16)]


@dataclass(frozen=True)
class Case:
    """Random cells, lines and sources of one array; voltages ``[vector, line]``."""

    g: FloatArray
    lines: Lines
    voltages: dict[str, FloatArray]
    resistances: dict[str, FloatArray]

    @property
    def vectors(self) -> int:
        return len(next(iter(self.voltages.values())))

    @property
    def sources(self) -> dict[str, Drive]:
        return {side: Drive(v, self.resistances[side]) for side, v in self.voltages.items()}

    def expected(self, vector: int) -> star_mesh.Found:
        return star_mesh.solve(
            self.g,
            {side: v[vector] for side, v in self.voltages.items()},
            r_row=self.lines.r_row,
            r_column=self.lines.r_column,
            r_contact=self.lines.r_contact,
            r_source=self.resistances,
        )

    @property
    def rounding(self) -> float:
        """The last digit of a volt at all cells (A): what cannot be told from zero where lines float."""
        return 1e-15 * float(np.sum(self.g))

    def span(self, vector: int) -> float:
        """Largest difference between sources that are connected (V)."""
        there = [np.where(np.isinf(self.resistances[side]), NAN, v[vector]) for side, v in self.voltages.items()]
        return float(np.nanmax(np.concatenate(there)) - np.nanmin(np.concatenate(there)))


@st.composite
def cases(
    draw: st.DrawFn,
    sizes: list[tuple[int, int]] = SIZES,
    vectors: int = 1,
    uneven: bool = False,
    decades: tuple[float, float] = (-9, -2),
) -> Case:
    """Conductances from 1 nS to 10 mS mixed, 1 mOhm to 1 kOhm a segment, open cells, floating lines, any sides.

    One row is always held. `uneven`: other lines float for each vector.
    """
    rows, columns = shape = draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    g = 10 ** rng.uniform(*decades, shape)
    if draw(st.booleans()):
        g = np.where(rng.random(shape) < 0.15, 0.0, g)
    r_row, r_column, r_contact = 10 ** rng.uniform(-3, 3, 3)
    lines = Lines(r_row, r_column, r_contact if draw(st.booleans()) else 0.0)
    given_sides = draw(st.sets(st.sampled_from(SIDES[1:]), max_size=3)) | {"left"}
    floating = draw(st.sampled_from([0.0, 0.4, 0.9]))
    voltages, resistances = {}, {}
    for side in SIDES:
        if side in given_sides:
            count = rows if side in ("left", "right") else columns
            v = np.where(rng.random((vectors, count)) < 0.2, 0.0, rng.uniform(-1, 1, (vectors, count)))
            v[np.broadcast_to(rng.random((vectors if uneven else 1, count)) < floating, v.shape)] = NAN
            source = np.where(rng.random(count) < 0.3, rng.choice([10.0, 1e4, np.inf], count), 0.0)
            if side == "left":
                v[:, 0], source[0] = rng.uniform(-1, 1, vectors), 0.0
            voltages[side], resistances[side] = v, source
    # a line that nothing holds, and no cell connects to anything, would be refused
    g[:, 0] = np.where(g[:, 0] == 0, 1e-6, g[:, 0])
    g[0] = np.where(g[0] == 0, 1e-6, g[0])
    return Case(g, lines, voltages, resistances)


def largest_error(solution: network.Solution, expected: star_mesh.Found, vector: int) -> float:
    """Of a terminal current (A)."""
    return max(
        float(np.max(np.abs(getattr(solution, f"i_{side}")[vector] - getattr(expected, f"i_{side}")))) for side in SIDES
    )


def solved_unless_rounding_hides_it(case: Case, method: network.Method, **how: Any) -> network.Solution | None:
    """The solution; or None where sums of responses cancel, or rounding of volts could be more than the tolerance."""
    try:
        return solve(case.g, **case.sources, lines=case.lines, method=method, **how)
    except ConvergenceError as refused:
        if method == "transfer":
            return None
        assert method == "lines" and "rounding" in str(refused)
        least = min(case.expected(vector).largest for vector in range(case.vectors))
        assert 100 * case.rounding >= how.get("tolerance", 1e-9) * least
        return None


# The methods against star-mesh elimination


@settings(max_examples=80)
@given(cases(), st.sampled_from(METHODS))
def test_every_method_agrees_with_star_mesh_elimination(case: Case, method: network.Method) -> None:
    solution = solved_unless_rounding_hides_it(case, method, cells=True)
    if solution is None:
        return
    expected = case.expected(0)
    assert largest_error(solution, expected, 0) <= ESTIMATED * expected.largest + case.rounding
    assert np.max(np.abs(solution.v_cell[0] - expected.v_cell)) <= ESTIMATED * case.span(0) + 1e-13
    np.testing.assert_array_equal(solution.i_cell, case.g * solution.v_cell)


@settings(max_examples=15)
@given(cases(sizes=[(3, 5), (8, 8), (2, 19)], vectors=30, decades=(-6, -2)), st.sampled_from(METHODS))
def test_many_vectors_agree_with_star_mesh_elimination(case: Case, method: network.Method) -> None:
    solution = solved_unless_rounding_hides_it(case, method, cells=True)
    if solution is None:
        return
    for vector in (0, 17, 29):
        expected = case.expected(vector)
        assert largest_error(solution, expected, vector) <= ESTIMATED * expected.largest + case.rounding
        assert np.max(np.abs(solution.v_cell[vector] - expected.v_cell)) <= ESTIMATED * case.span(vector) + 1e-13


@settings(max_examples=15)
@given(cases(sizes=[(3, 5), (8, 8), (2, 19)], vectors=20, uneven=True), st.sampled_from(["auto", "lines", "direct"]))
def test_lines_that_float_for_some_vectors_only(case: Case, method: network.Method) -> None:
    solution = solved_unless_rounding_hides_it(case, method)
    if solution is None:
        return
    for vector in (0, 11, 19):
        expected = case.expected(vector)
        assert largest_error(solution, expected, vector) <= ESTIMATED * expected.largest + case.rounding


@settings(max_examples=40)
@given(
    cases(sizes=[(1, 9), (8, 8), (13, 9), (66, 2)], decades=(-6, -3)),
    st.sampled_from(["auto", "lines", "direct"]),
    st.sampled_from([1e-4, 1e-12]),
)
def test_other_tolerances_are_kept_too(case: Case, method: network.Method, tolerance: float) -> None:
    solution = solved_unless_rounding_hides_it(case, method, tolerance=tolerance)
    if solution is None:
        return
    expected = case.expected(0)
    assert largest_error(solution, expected, 0) <= 2 * tolerance * expected.largest + case.rounding


@pytest.mark.parametrize(("rows", "columns"), [(100, 130), (65, 72)])
def test_larger_arrays_agree_with_the_direct_solution(rows: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    g, v = 10 ** rng.uniform(-9, -2, (rows, columns)), rng.uniform(-1, 1, rows)
    v[rng.random(rows) < 0.2] = NAN
    one = solve(g, left=v, top=0.0, lines=Lines(2.0, 0.5, 7.0), cells=True, method="lines")
    other = solve(g, left=v, top=0.0, lines=Lines(2.0, 0.5, 7.0), cells=True, method="direct")
    assert np.max(np.abs(one.currents - other.currents)) <= 1e-9 * np.max(np.abs(other.currents))
    assert np.max(np.abs(one.v_cell - other.v_cell)) <= 1e-9 * (np.nanmax(v) - min(np.nanmin(v), 0.0))


@settings(max_examples=25)
@given(
    st.sampled_from([(1, 1), (1, 6), (6, 1), (4, 5), (9, 7)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["perfect rows", "perfect columns", "perfect", "uneven", "broken"]),
)
def test_perfect_uneven_and_broken_lines(shape: tuple[int, int], seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = shape
    g = 10 ** rng.uniform(-9, -2, shape)
    r_row: Any = 0.0 if kind in ("perfect rows", "perfect") else 3.0
    r_column: Any = 0.0 if kind in ("perfect columns", "perfect") else 0.2
    if kind in ("uneven", "broken"):
        r_row = rng.choice([0.0, 1e-3, 1.0, 1e3], (rows, columns + 1))
    if kind == "broken":  # between cells; every part still hangs on columns that are held
        r_row[:, 1:-1] = np.where(rng.random((rows, columns - 1)) < 0.3, np.inf, r_row[:, 1:-1])
    v = {"left": rng.uniform(-1, 1, rows), "bottom": rng.uniform(-1, 1, columns)}
    expected = star_mesh.solve(g, v, r_row=r_row, r_column=r_column)
    solution = solve(g, left=v["left"], bottom=v["bottom"], lines=Lines(r_row, r_column), cells=True)
    for side in SIDES:
        error = np.abs(getattr(solution, f"i_{side}") - getattr(expected, f"i_{side}"))
        assert np.max(error) <= 1e-9 * expected.largest
    assert np.max(np.abs(solution.v_cell - expected.v_cell)) <= 1e-9 * 2


@pytest.mark.slow
def test_the_three_forms_of_a_batch() -> None:
    rng = np.random.default_rng(2)
    g, v = 10 ** rng.uniform(-5, -3, (3, 6, 5)), rng.uniform(-1, 1, (4, 6))
    lines = Lines(2.0, 3.0)

    def one(array: int, vector: int) -> FloatArray:
        return solve(g[array], left=v[vector], bottom=0.0, lines=lines).i_bottom

    vectors = solve(g[0], left=v, bottom=0.0, lines=lines)
    arrays = solve(g, left=v[0], bottom=0.0, lines=lines)
    both = solve(g[:, None], left=v, bottom=0.0, lines=lines, cells=True)
    assert vectors.i_bottom.shape == (4, 5) and arrays.i_bottom.shape == (3, 5) and both.i_bottom.shape == (3, 4, 5)
    assert both.v_cell.shape == both.i_cell.shape == (3, 4, 6, 5) and both.power.shape == (3, 4)
    for array in range(3):
        for vector in range(4):
            scale = 1e-9 * np.max(np.abs(both.i_left[array, vector]))
            np.testing.assert_allclose(both.i_bottom[array, vector], one(array, vector), rtol=0, atol=scale)
    np.testing.assert_allclose(vectors.i_bottom, both.i_bottom[0], rtol=0, atol=1e-9 * np.abs(both.i_left).max())
    np.testing.assert_allclose(arrays.i_bottom, both.i_bottom[:, 0], rtol=0, atol=1e-9 * np.abs(both.i_left).max())


@pytest.mark.parametrize("method", METHODS)
def test_source_resistances_of_single_vectors(method: network.Method) -> None:
    """Each of twenty vectors behind other resistances: no one transfer matrix does."""
    rng = np.random.default_rng(3)
    g, v, r = rng.uniform(1e-5, 1e-3, (6, 5)), rng.uniform(0, 1, 6), rng.choice([0.0, 50.0, 1e3], (20, 6))
    if method == "transfer":
        with pytest.raises(NetworkError, match=r"left: which lines .* differs between vectors.*'lines'"):
            solve(g, left=Drive(v, r), bottom=0.0, lines=Lines(1.0, 1.0), method=method)
        return
    together = solve(g, left=Drive(v, r), bottom=0.0, lines=Lines(1.0, 1.0), method=method)
    for vector in range(20):
        alone = solve(g, left=Drive(v, r[vector]), bottom=0.0, lines=Lines(1.0, 1.0), method="direct")
        np.testing.assert_allclose(together.i_left[vector], alone.i_left, rtol=1e-9)


def test_a_transfer_matrix_needs_the_same_floating_lines_for_all_vectors() -> None:
    v = np.ones((20, 4))
    v[7, 2] = NAN
    with pytest.raises(NetworkError, match=r"left: which lines are connected.*differs between vectors"):
        solve(np.full((4, 4), 1e-4), left=v, bottom=0.0, lines=Lines(1.0, 1.0), method="transfer")
    shared = np.where(np.arange(4) == 2, NAN, np.arange(80.0).reshape(20, 4))
    found = solve(np.full((4, 4), 1e-4), left=shared, bottom=0.0, lines=Lines(1.0, 1.0), method="transfer")
    one = solve(np.full((4, 4), 1e-4), left=shared[5], bottom=0.0, lines=Lines(1.0, 1.0), method="direct")
    np.testing.assert_allclose(found.i_bottom[5], one.i_bottom, rtol=1e-9)


def test_responses_that_cancel_are_not_passed_off_as_a_solution() -> None:
    """Both ends of every row at the same voltage: amperes through the wires in each response, microamperes in all."""
    rng = np.random.default_rng(4)
    g, v = rng.uniform(1e-9, 1e-8, (6, 5)), rng.uniform(0, 1, (40, 6))
    drives: dict[str, Any] = {"left": v, "right": v, "bottom": 0.0, "lines": Lines(1e-3, 1e-3)}
    with pytest.raises(ConvergenceError, match=r"cancel.*'lines'"):
        solve(g, **drives, method="transfer")
    found, expected = solve(g, **drives), solve(g, **drives, method="direct")
    assert np.max(np.abs(found.i_bottom - expected.i_bottom)) <= 1e-9 * np.max(np.abs(expected.i_bottom))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("vectors", [1, 40])
def test_nothing_flows_where_all_sources_have_one_voltage(method: network.Method, vectors: int) -> None:
    v = np.full((vectors, 4), 0.7)
    found = solve(np.full((4, 3), 1e-3), left=v, lines=Lines(1.0, 1.0), method=method, cells=True)
    held = solve(np.full((4, 3), 1e-3), left=v, bottom=0.7, lines=Lines(1.0, 1.0), method=method)
    for solution in (found, held):
        assert np.max(np.abs(solution.currents)) <= 1e-18
    assert np.max(np.abs(found.v_cell)) <= 1e-15


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_result_does_not_depend_on_the_number_of_threads(nonlinear: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    g, v = rng.uniform(1e-5, 1e-3, (100, 32, 30)), rng.uniform(-1, 1, (100, 32))
    v[rng.random(v.shape) < 0.1] = NAN
    started: list[int] = []
    original = scratch.ThreadPoolExecutor.submit

    def submit(self: Any, *arguments: Any) -> Any:
        started.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(scratch.ThreadPoolExecutor, "submit", submit)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(scratch, "_cores", lambda threads=threads: threads)
        devices = Sinh(g, 2.0) if nonlinear else g
        results.append(solve(devices, left=v, bottom=0.0, lines=Lines(2.0, 2.0), cells=True, method="lines"))
        assert bool(started) == (threads > 1)
    np.testing.assert_array_equal(results[0].currents, results[1].currents)
    np.testing.assert_array_equal(results[0].v_cell, results[1].v_cell)
    for k in (0, 33, 34, 99):
        alone = solve(
            Sinh(g[k], 2.0) if nonlinear else g[k], left=v[k], bottom=0.0, lines=Lines(2.0, 2.0), method="lines"
        )
        scale = np.max(np.abs(alone.i_left))
        np.testing.assert_allclose(results[1].i_left[k], alone.i_left, rtol=0, atol=1e-12 * scale)


def test_what_a_caller_may_not_write_has_no_kernel_compiled_anew() -> None:
    """Numba takes read-only arrays for another type, and compiling takes seconds."""
    v = np.linspace(0.1, 1.0, 6).reshape(2, 3)
    g, alpha = np.full((2, 3, 4), 1e-4), np.full((2, 3, 4), 2.0)
    g.flags.writeable = alpha.flags.writeable = False
    for devices in (g, Sinh(g, alpha), Sinh(g, 2.0), Sinh(g[0], 2.0), Ohmic(g[0]), Cubic(g, 1e-3)):
        solve(devices, left=v, bottom=0.0, lines=LINES, method="lines", cells=True)
    for kernel in (line_kernels.linear_network, newton_kernels.solve_sinh, newton_kernels.corrections):
        taken = [kind for signature in kernel.signatures for kind in signature if isinstance(kind, types.Array)]
        assert taken and all(array.mutable for array in taken)


# Laws


held_cases = cases(sizes=[(1, 4), (5, 4), (9, 12)], decades=(-7, -2))


@settings(max_examples=40)
@given(held_cases, st.integers(0, 2**32 - 1))
def test_reciprocity(case: Case, seed: int) -> None:
    """What one volt at a terminal drives out of another, one volt at the other drives out of the first."""
    rng = np.random.default_rng(seed)
    ends = [
        (side, line)
        for side, v in case.voltages.items()
        for line in np.flatnonzero(~np.isnan(v[0]) & np.isfinite(case.resistances[side]))
    ]
    one, other = (ends[k] for k in rng.integers(len(ends), size=2))
    through, scale = [], 0.0
    for (side, line), (out_side, out_line) in ((one, other), (other, one)):
        drives = {s: Drive(np.where(np.isnan(v[0]), NAN, 0.0), case.resistances[s]) for s, v in case.voltages.items()}
        np.asarray(drives[side].voltage)[line] = 1.0
        solution = solve(case.g, **drives, lines=case.lines)
        sign = 1 if out_side in ("left", "right") else -1
        through.append(sign * getattr(solution, f"i_{out_side}")[out_line])
        scale = max(scale, np.max(np.abs(solution.currents)))
    assert abs(through[0] - through[1]) <= 2e-9 * scale


@settings(max_examples=40)
@given(cases(sizes=[(1, 4), (5, 4), (9, 12)], vectors=2, decades=(-7, -2)), st.floats(-2, 2), st.floats(-2, 2))
def test_superposition(case: Case, a: float, b: float) -> None:
    both = solve(case.g, **case.sources, lines=case.lines)
    mixed = {s: Drive(a * v[0] + b * v[1], case.resistances[s]) for s, v in case.voltages.items()}
    scale = (abs(a) + abs(b) + 1) * np.max(np.abs(both.currents))
    for side in SIDES:
        one, other = getattr(both, f"i_{side}")
        found = getattr(solve(case.g, **mixed, lines=case.lines), f"i_{side}")
        assert np.max(np.abs(found - (a * one + b * other))) <= 3e-9 * scale + 10 * case.rounding


@settings(max_examples=40)
@given(
    st.sampled_from([(1, 4), (5, 4), (9, 12)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["cell", "row", "column", "contact"]),
)
def test_more_conductance_anywhere_takes_more_current(shape: tuple[int, int], seed: int, where: str) -> None:
    """Rayleigh's law, between one row and one column, with all other lines floating."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    g = 10 ** rng.uniform(-6, -3, shape)
    left, bottom = np.where(np.arange(rows) == 0, 1.0, NAN), np.where(np.arange(columns) == 0, 0.0, NAN)
    r = 10 ** rng.uniform(-1, 2, 3)
    before = solve(g, left=left, bottom=bottom, lines=Lines(*r)).i_left[0]
    more = g.copy()
    if where == "cell":
        more[rng.integers(rows), rng.integers(columns)] *= 1 + 10 ** rng.uniform(-2, 2)
    else:
        r[["row", "column", "contact"].index(where)] /= 1 + rng.random()
    after = solve(more, left=left, bottom=bottom, lines=Lines(*r)).i_left[0]
    assert after >= before * (1 - 2e-9) > 0


@settings(max_examples=40)
@given(cases(sizes=[(1, 4), (5, 4), (9, 12)], decades=(-7, -2)), st.sampled_from(["lines", "direct"]))
def test_sources_deliver_what_cells_and_lines_turn_into_heat(case: Case, method: network.Method) -> None:
    solution = solved_unless_rounding_hides_it(case, method, cells=True)
    if solution is None:
        return
    dissipated = case.expected(0).dissipated
    terminals = np.max(np.abs(solution.currents)) * case.span(0)
    assert abs(solution.power[0] - dissipated) <= 1e-8 * terminals + case.rounding
    assert np.sum(solution.v_cell * solution.i_cell) <= solution.power[0] + 1e-8 * terminals + case.rounding


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_perfect_lines_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g, v = 10 ** rng.uniform(-9, -2, (6, 5)), rng.uniform(-1, 1, 6)
    v[rng.random(6) < 0.3], v[0] = NAN, 1.0
    p, q = rng.permutation(6), rng.permutation(5)
    bottom = np.where(np.arange(5) < 3, 0.0, NAN)
    one, other = solve(g, left=v, bottom=bottom), solve(g[p][:, q], left=v[p], bottom=bottom[q])
    scale = 1e-12 * np.max(np.abs(one.i_left))
    np.testing.assert_allclose(other.i_left, one.i_left[p], rtol=0, atol=scale)
    np.testing.assert_allclose(other.i_bottom, one.i_bottom[q], rtol=0, atol=scale)


@settings(max_examples=30)
@given(cases(sizes=[(1, 4), (5, 4), (9, 12)], decades=(-5, -2)), st.floats(-10, 10), st.sampled_from(METHODS))
def test_one_voltage_more_at_all_sources_changes_no_current(case: Case, shift: float, method: network.Method) -> None:
    try:
        one, other = (
            solve(
                case.g,
                **{s: Drive(v[0] + more, case.resistances[s]) for s, v in case.voltages.items()},
                lines=case.lines,
                method=method,
            )
            for more in (0.0, shift)
        )
    except ConvergenceError:
        assert method == "transfer"
        return
    allowed = 2e-9 * np.max(np.abs(one.currents)) + 10 * (1 + abs(shift)) * case.rounding
    assert np.max(np.abs(one.currents - other.currents)) <= allowed


# Closed forms


@pytest.mark.parametrize("r", [0.0, 1e-6])
@pytest.mark.parametrize(("size", "factor"), [(4, 2.29), (8, 4.27), (12, 6.26), (64, 32.3)])
def test_floating_lines_multiply_a_read(size: int, factor: float, r: float) -> None:
    one = np.where(np.arange(size) == 0, 0.2, NAN)
    read = solve(np.full((size, size), 300e-6), left=one, bottom=0 * one, lines=Lines(r, r)).i_bottom[0]
    exact = 1 + 1 / (2 / (size - 1) + 1 / (size - 1) ** 2)
    assert read / (0.2 * 300e-6) == pytest.approx(exact, rel=1e-6)
    assert exact == pytest.approx(factor, rel=3e-3)
    others = solve(np.full((size, size), 300e-6), left=np.nan_to_num(one), bottom=0.0, lines=Lines(r, r)).i_bottom[0]
    assert others / (0.2 * 300e-6) == pytest.approx(1.0, rel=1e-5)


# Segment (Ohm): per cent of current lost at the nearest and the farthest column of 8 x 8 cells of 300 uS, all rows
# driven. Derived for the TiO2 crossbar's paper, with a prototype of another method.
@pytest.mark.parametrize(("r", "near", "far", "digit"), [(1, 1.0, 1.8, 0.05), (5, 4.7, 8.5, 0.05), (20, 16, 27, 0.5)])
@pytest.mark.parametrize("method", METHODS)
def test_lines_take_their_share_of_the_current(r: float, near: float, far: float, digit: float, method: Any) -> None:
    solution = solve(np.full((8, 8), 300e-6), left=0.2, bottom=0.0, lines=Lines(r, r), method=method)
    loss = 100 * (1 - solution.i_bottom / (8 * 0.2 * 300e-6))
    assert loss[0] == pytest.approx(near, abs=digit) and loss[-1] == pytest.approx(far, abs=digit)


@pytest.mark.parametrize("r", [0.0, 1e-7])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (13, 21), (1, 5)])
def test_powers_of_half_selected_arrays(rows: int, columns: int, r: float) -> None:
    g, v = np.full((rows, columns), 250e-6), 1.2
    first_row, first_column = np.arange(rows) == 0, np.arange(columns) == 0
    half = solve(g, left=np.where(first_row, v, v / 2), bottom=np.where(first_column, 0, v / 2), lines=Lines(r, r))
    third = solve(g, left=np.where(first_row, v, v / 3), bottom=np.where(first_column, 0, 2 * v / 3), lines=Lines(r, r))
    assert half.power == pytest.approx(v**2 * 250e-6 * (1 + (rows + columns - 2) / 4), rel=1e-6)
    assert third.power == pytest.approx(v**2 * 250e-6 * (1 + (rows * columns - 1) / 9), rel=1e-6)


# Nonlinear devices. At the solution each device is as good as a resistor of I/V: these have to give the same network.


def conducting(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    g = 10 ** rng.uniform(-6, -3, shape)
    if kind == "sinh":
        return Sinh(np.where(rng.random(shape) < 0.1, 0.0, g), rng.uniform(0, 6, shape))
    if kind == "steep sinh":
        return Sinh(g, 30.0)
    if kind == "cubic":
        return Cubic(g, 3 * g)
    if kind == "tabulated":
        volts = np.linspace(-2, 2, 21)
        return Tabulated(volts, np.sinh(3 * volts) / 3, g)
    return Series(Ohmic(g), Sinh(np.full(shape, 1e-8), 12.0))


KINDS = ("sinh", "steep sinh", "cubic", "tabulated", "series")


def as_resistors(devices: Any, v_cell: FloatArray) -> FloatArray:
    i, slope = devices.current(v_cell)
    return np.where(v_cell != 0, i / np.where(v_cell == 0, 1.0, v_cell), slope)


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([(1, 1), (1, 6), (6, 1), (5, 9), (12, 7), (67, 2)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["lines", "direct", "auto"]),
    st.sampled_from(["held", "floating rows", "floating columns", "both"]),
)
@example("steep sinh", (5, 9), 49714, "direct", "floating columns")  # 1e15 S beside 1e-6 S after a first whole step
@example("steep sinh", (12, 7), 21, "auto", "floating columns")
def test_nonlinear_cells(kind: str, shape: tuple[int, int], seed: int, method: network.Method, floats: str) -> None:
    rng = np.random.default_rng(seed)
    devices = conducting(kind, shape, rng)
    rows, columns = shape
    left, bottom = rng.uniform(-1, 1, rows), np.zeros(columns)
    if floats in ("floating rows", "both"):
        left[1:][rng.random(rows - 1) < 0.4] = NAN
    if floats in ("floating columns", "both"):
        bottom[1:][rng.random(columns - 1) < 0.4] = NAN
    if kind == "sinh":  # whose open cells may leave a floating line alone
        devices = Sinh(np.maximum(devices.g, 1e-7), devices.alpha)
    r = 10 ** rng.uniform(-2, 2, 3)
    try:
        solution = solve(devices, left=left, bottom=bottom, lines=Lines(*r), cells=True, method=method)
    except ConvergenceError:
        assert (kind, method) == ("steep sinh", "lines"), "1e8 A at the start; the direct method goes on"
        return
    g = as_resistors(devices, solution.v_cell)
    expected = star_mesh.solve(g, {"left": left, "bottom": bottom}, r_row=r[0], r_column=r[1], r_contact=r[2])
    for side in SIDES:
        error = np.abs(getattr(solution, f"i_{side}") - getattr(expected, f"i_{side}"))
        assert np.max(error) <= 3e-9 * expected.largest
    assert np.max(np.abs(solution.v_cell - expected.v_cell)) <= 1e-7
    np.testing.assert_allclose(
        solution.i_cell, devices.current(solution.v_cell)[0], rtol=1e-9, atol=1e-9 * expected.largest
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-9, 1e-11])
def test_nonlinear_methods_agree(kind: str, tolerance: float) -> None:
    rng = np.random.default_rng(6)
    devices, v = conducting(kind, (20, 17), rng), rng.uniform(-1, 1, 20) * (0.3 if kind == "steep sinh" else 1.0)
    arguments: dict[str, Any] = {"left": v, "bottom": 0.0, "lines": Lines(2.0, 3.0, 10.0)}
    one = solve(devices, **arguments, method="lines", tolerance=tolerance)
    other = solve(devices, **arguments, method="direct", tolerance=1e-12)
    assert np.max(np.abs(one.currents - other.currents)) <= tolerance * np.max(np.abs(other.currents))


@pytest.mark.parametrize("method", ["lines", "direct", "auto"])
@pytest.mark.parametrize("seed", range(5))
def test_cell_voltages_are_exact_where_cells_hardly_conduct(method: network.Method, seed: int) -> None:
    """Selectors: a tolerance relative to the currents through some says nothing about the voltages at the others."""
    rng = np.random.default_rng(seed)
    devices = Series(Ohmic(10 ** rng.uniform(-6, -3, (5, 6))), Sinh(np.full((1, 1), 1e-10), 15.0))
    v = {"left": rng.uniform(-1, 1, 5), "right": rng.uniform(-1, 1, 5), "bottom": np.where(np.arange(6) < 2, 0.0, NAN)}
    solution = solve(devices, **v, lines=Lines(1.0, 1.0), cells=True, method=method, tolerance=1e-4)
    exact = solve(devices, **v, lines=Lines(1.0, 1.0), cells=True, method="direct", tolerance=1e-12)
    assert np.max(np.abs(solution.v_cell - exact.v_cell)) <= 1e-3
    expected = star_mesh.solve(as_resistors(devices, exact.v_cell), v, r_row=1.0, r_column=1.0)
    assert np.max(np.abs(exact.v_cell - expected.v_cell)) <= 1e-6


@pytest.mark.parametrize("method", ["lines", "direct"])
def test_cell_voltages_are_exact_where_wires_carry_nearly_all_the_current(method: network.Method) -> None:
    """Amperes from the left to the right end of a row; a tolerance relative to them says nothing about the cells."""
    devices = Sinh(np.full((2, 2), 1e-9), 3.0)
    arguments: dict[str, Any] = {"left": [1.0, 0.5], "right": [0.9, 0.5], "lines": Lines(1e-2, 1e-2)}
    solution = solve(devices, **arguments, top=[0.0, NAN], cells=True, method=method, tolerance=1e-4)
    expected = star_mesh.solve(
        as_resistors(devices, solution.v_cell),
        {"left": [1.0, 0.5], "right": [0.9, 0.5], "top": [0.0, NAN]},
        r_row=1e-2,
        r_column=1e-2,
    )
    assert np.max(np.abs(solution.v_cell - expected.v_cell)) <= 1e-4
    assert solution.v_cell[0, 0] == pytest.approx(0.967, abs=1e-3) and 0 < solution.v_cell[0, 1] < 0.5


@pytest.mark.parametrize("method", ["lines", "direct", "auto"])
def test_a_batch_with_problems_that_are_trivial(method: network.Method) -> None:
    rng = np.random.default_rng(7)
    v = rng.uniform(-1, 1, (5, 6))
    v[1] = 0.0
    v[3] = 0.4
    bottom = np.zeros((5, 4))
    bottom[3] = 0.4
    devices = Sinh(rng.uniform(1e-5, 1e-3, (6, 4)), 3.0)
    together = solve(devices, left=v, bottom=bottom, lines=Lines(2.0, 2.0), cells=True, method=method)
    assert np.max(np.abs(together.currents[[1, 3]])) <= 1e-18
    for k in (0, 2, 4):
        alone = solve(devices, left=v[k], bottom=0.0, lines=Lines(2.0, 2.0), method="direct", tolerance=1e-12)
        np.testing.assert_allclose(together.i_left[k], alone.i_left, rtol=0, atol=1e-9 * np.max(np.abs(alone.i_left)))


@pytest.mark.parametrize("method", ["lines", "direct", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_nonlinear_cells_at_one_voltage_pass_nothing(method: network.Method, kind: str) -> None:
    devices = conducting(kind, (5, 4), np.random.default_rng(8))
    if kind == "sinh":
        devices = Sinh(np.maximum(devices.g, 1e-7), devices.alpha)
    solution = solve(devices, left=0.7, lines=Lines(2.0, 2.0), cells=True, method=method)
    assert np.max(np.abs(solution.currents)) <= 1e-13 * np.max(devices.current(np.full((5, 4), 0.7))[0])
    assert np.max(np.abs(solution.v_cell)) <= 1e-9


def test_a_near_solution_saves_steps_and_changes_nothing() -> None:
    rng = np.random.default_rng(9)
    devices, v = Sinh(rng.uniform(1e-5, 1e-3, (16, 16)), 4.0), rng.uniform(-1, 1, 16)
    near = solve(devices, left=v, bottom=0.0, lines=Lines(2.0, 2.0))
    other_v = 1.1 * v + 0.01 * rng.standard_normal(16)
    cold = solve(devices, left=other_v, bottom=0.0, lines=Lines(2.0, 2.0), tolerance=1e-11)
    calls: list[int] = []
    original = Sinh.current

    class Counted:
        shape = devices.shape

        def current(self, volts: FloatArray) -> tuple[FloatArray, FloatArray]:
            calls.append(1)
            return original(devices, volts)

    warm = solve(Counted(), left=other_v, bottom=0.0, lines=Lines(2.0, 2.0), near=near)
    with_near = len(calls)
    solve(Counted(), left=other_v, bottom=0.0, lines=Lines(2.0, 2.0))
    assert with_near < len(calls) - with_near
    assert np.max(np.abs(warm.currents - cold.currents)) <= 1e-9 * np.max(np.abs(cold.currents))
    of_another_shape = solve(devices.g, left=v, bottom=0.0, lines=Lines(2.0, 2.0))
    again = solve(devices, left=v, bottom=0.0, lines=Lines(2.0, 2.0), near=of_another_shape)
    np.testing.assert_array_equal(again.currents, near.currents)


@pytest.mark.parametrize("method", ["auto", "direct", "lines"])
def test_transistors(method: network.Method) -> None:
    """Each cell, at the voltages that were found, is a resistor and its current: a network of these agrees."""
    rng = np.random.default_rng(10)
    g, gate = 10 ** rng.uniform(-5, -3, (9, 6)), rng.choice([0.0, 0.9, 1.8], (9, 1))
    gate[0] = 1.8
    left = rng.uniform(0, 0.6, 9)
    left[3] = NAN if gate[3] > 0 else 0.1
    cells = Transistor(g, gate, 0.4, 1e-3)
    solution = solve(cells, left=left, bottom=0.0, lines=Lines(3.0, 2.0), cells=True, method=method)
    resistors = np.where(solution.v_cell != 0, solution.i_cell / solution.v_cell, 0.0)
    expected = star_mesh.solve(
        np.maximum(resistors, 1e-15), {"left": left, "bottom": np.zeros(6)}, r_row=3.0, r_column=2.0
    )
    assert np.max(np.abs(solution.i_left - expected.i_left)) <= 2e-9 * expected.largest
    # the law itself, with nodes from the currents: the column node of the last row is one segment above ground
    v_column = 2.0 * solution.i_bottom
    i, _, _ = cells.current(solution.v_cell[-1] + v_column + np.zeros((9, 6)), v_column + np.zeros((9, 6)))
    np.testing.assert_allclose(solution.i_cell[-1], i[-1], rtol=1e-7, atol=1e-9 * expected.largest)


# No number without convergence


class Lawless:
    """Devices with a current that a test makes up."""

    def __init__(self, law: Callable[[FloatArray], tuple[FloatArray, FloatArray]], shape: tuple[int, ...] = (3, 3)):
        self.law, self.shape = law, shape

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.law(np.asarray(v))


LAWS: dict[str, Callable[[FloatArray], tuple[FloatArray, FloatArray]]] = {
    "not a number": lambda v: (np.full_like(v, NAN), np.full_like(v, 1e-4)),
    "not a number above 0.1 V": lambda v: (np.where(v > 0.1, NAN, 1e-4 * v), np.full_like(v, 1e-4)),
    "slope not a number": lambda v: (1e-4 * v, np.full_like(v, NAN)),
    "a jump without a balance": lambda v: (np.where(v > 0.3, 1.0, 0.0), np.full_like(v, 1e-6)),
    "slope of the wrong sign": lambda v: (-1e-1 * v, np.full_like(v, 1e-1)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("method", ["lines", "direct", "auto"])
@pytest.mark.parametrize("sources", ["held", "floating"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_does_not_converge_is_an_error(law: str, method: network.Method, sources: str) -> None:
    left = 1.0 if sources == "held" else [1.0, NAN, NAN]
    with pytest.raises((ConvergenceError, NetworkError)):
        solve(Lawless(LAWS[law]), left=left, bottom=0.0, lines=Lines(100.0, 100.0), method=method)


def test_too_few_iterations_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> tuple[int, int]:
        return 0, line_method.kernels.NO_PROGRESS

    monkeypatch.setattr(line_method.kernels, "linear_network", never)
    with pytest.raises(ConvergenceError, match="network 0 did not settle"):
        solve(np.full((3, 3), 1e-4), left=1.0, bottom=0.0, lines=Lines(1.0, 1.0), method="lines")
    found = solve(np.full((3, 3), 1e-4), left=1.0, bottom=0.0, lines=Lines(1.0, 1.0))  # the direct method steps in
    assert found.i_left.sum() == pytest.approx(found.i_bottom.sum(), rel=1e-12)


def test_a_bottleneck_behind_floating_lines_is_exact() -> None:
    """Columns that float on 10 mS cells, let go through 1 nS: 1e-9 of a current that is 1e-7 of what cancels."""
    g = np.array([np.full(64, 1e-2), np.full(64, 1e-9)])
    expected = star_mesh.solve(g, {"left": [2.0, 1.0]}, r_row=1e-3, r_column=1e-3)
    solution = solve(g, left=[2.0, 1.0], lines=Lines(1e-3, 1e-3))
    assert np.max(np.abs(solution.i_left / expected.i_left - 1)) <= 1e-9


# Bad input


G = np.full((3, 4), 1e-4)
LINES = Lines(2.0, 2.0)


def with_cell(value: complex) -> NDArray[Any]:
    g = np.full((3, 4), 1e-4, dtype=type(value))
    g[1, 2] = value
    return g


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (with_cell(NAN), "row 1, column 2 has a conductance of nan S"),
        (with_cell(-1e-9), "row 1, column 2 has a conductance of -1e-09 S"),
        (with_cell(np.inf), "row 1, column 2 is a short of infinite conductance: give it a finite one"),
        (with_cell(1e-4 + 1e-5j), "complex128: give real numbers in siemens"),
        (np.array([["a"]]), "give real numbers in siemens"),
        (G[0], r"shape \(4,\): give \[\.\.\., row, column\]"),
        (G[:0], "at least one of each"),
        (np.zeros((0, 3, 4)), "at least one"),
    ],
)
def test_cells_that_are_none(method: network.Method, cells: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        solve(cells, left=1.0, bottom=0.0, lines=LINES, method=method)


def test_the_array_of_a_bad_cell_is_named() -> None:
    g = np.stack([G, with_cell(-1.0)])
    with pytest.raises(NetworkError, match="row 1, column 2 of array 1 has a conductance"):
        solve(g, left=1.0, bottom=0.0, lines=LINES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "no line is driven or grounded: give left, right, bottom or top"),
        ({"left": NAN, "bottom": NAN}, "row 0 floats|no line is driven|no terminal"),
        ({"left": np.ones(4)}, r"left have shape \(4,\): the last axis must be the 3 rows"),
        ({"right": np.ones(2)}, r"right have shape \(2,\): the last axis must be the 3 rows"),
        ({"bottom": np.ones(3)}, r"bottom have shape \(3,\): the last axis must be the 4 columns"),
        ({"top": np.ones((5, 6))}, r"top have shape \(5, 6\): the last axis must be the 4 columns"),
        ({"left": np.ones((0, 3))}, "hold no array"),
        ({"left": 1j}, "left are of type complex128: give real numbers"),
        ({"left": [0.0, np.inf, 0.0]}, "row 1 is driven with an? inf|terminal of row 1 is driven with inf V"),
        ({"left": Drive(1.0, -3.0)}, "source of row 0 at the left has a resistance of -3 Ohm"),
        ({"top": Drive(1.0, [0.0, 0.0, NAN, 0.0])}, "source of column 2 at the top has a resistance of nan Ohm"),
        ({"left": Drive(1.0, [1.0, 2.0])}, "source resistances at the left have shape"),
        ({"left": Drive(1.0, 1j)}, "source resistances at the left are of type complex"),
    ],
)
def test_sources_that_are_none(method: network.Method, sources: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        solve(G, **sources, lines=LINES, method=method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 2.0), "r_row is -1 Ohm: give 0 or more"),
        ((1.0, -2.0), "r_column is -2 Ohm"),
        ((NAN, 1.0), "r_row is nan Ohm"),
        ((1.0, 1.0, -0.5), "r_contact is -0.5 Ohm"),
        ((1.0, 1.0, NAN), "r_contact is nan Ohm"),
        ((1.0, 1.0, np.inf), "r_contact is inf: give one finite number"),
        ((1.0, 1.0, np.ones(3)), "give one finite number"),
        ((1j, 1.0), "r_row are of type complex128: give real numbers in Ohm"),
        ((None, 1.0), "r_row are of type object: give real numbers in Ohm"),
        ((np.array([[1.0, 2.0], [3.0, -4.0]]), 1.0), r"r_row at \[1, 1\] is -4 Ohm"),
    ],
)
def test_lines_that_are_none(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Lines(*arguments)


def test_segments_of_another_array() -> None:
    with pytest.raises(NetworkError, match=r"r_row has shape \(3, 4\), which does not broadcast to \(3, 5\)"):
        solve(G, left=1.0, bottom=0.0, lines=Lines(np.ones((3, 4)), 1.0))


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1e-9, NAN, 1e-15])
def test_tolerances_out_of_range(tolerance: float) -> None:
    with pytest.raises(NetworkError, match="give a relative error from 1e-13 up to below 1"):
        solve(G, left=1.0, bottom=0.0, lines=LINES, tolerance=tolerance)


def test_methods_that_do_not_fit() -> None:
    with pytest.raises(NetworkError, match="no method 'fast': give auto, lines, transfer or direct"):
        solve(G, left=1.0, bottom=0.0, lines=LINES, method="fast")  # type: ignore[arg-type]
    for lines in (Lines(0.0, 1.0), Lines(1.0, np.inf), Lines(np.ones((3, 5)), 1.0)):
        for method in ("lines", "transfer"):
            with pytest.raises(NetworkError, match="use method='direct' or 'auto'"):
                solve(G, left=1.0, bottom=0.0, lines=lines, method=method)
    with pytest.raises(NetworkError, match="linear cells: use method='lines' or 'auto'"):
        solve(Sinh(G, 2.0), left=1.0, bottom=0.0, lines=LINES, method="transfer")


def test_cell_results_have_to_be_asked_for() -> None:
    for method in METHODS:
        solution = solve(G, left=1.0, bottom=0.0, lines=LINES, method=method)
        for name in ("v_cell", "i_cell"):
            with pytest.raises(AttributeError, match="cells=True"):
                getattr(solution, name)


def test_leading_axes_that_do_not_broadcast() -> None:
    with pytest.raises(NetworkError, match=r"do not broadcast: devices \(3, 3, 4\), left \(2, 3\)"):
        solve(np.stack([G] * 3), left=np.ones((2, 3)), bottom=0.0, lines=LINES)


@pytest.mark.parametrize("lines", [LINES, Lines()])
def test_contradictory_voltages_on_a_perfect_line(lines: Lines) -> None:
    perfect = Lines(0.0, lines.r_column)
    with pytest.raises(NetworkError, match=r"row 1 has no resistance between its two sources of 1 V .* 0.5 V"):
        solve(G, left=1.0, right=[1.0, 0.5, NAN], bottom=0.0, lines=perfect)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nonlinear", [False, True])
def test_lines_that_nothing_holds(method: network.Method, nonlinear: bool) -> None:
    if nonlinear and method == "transfer":
        pytest.skip("the transfer matrix is for linear cells")
    island = np.array([[1e-4, 0.0], [0.0, 1e-4]])
    batch = np.stack([np.full((2, 2), 1e-4), island])
    for g, message in ((island, "row 1"), (batch, "row 1 of array 1")):
        devices = Sinh(g, 2.0) if nonlinear else g
        with pytest.raises(NetworkError, match=message):
            solve(devices, left=[1.0, NAN], bottom=[0.0, NAN], lines=LINES, method=method)
    held = solve(island, left=[1.0, NAN], bottom=[0.0, 0.0], lines=LINES)
    assert held.i_bottom[1] == 0


def test_refusals_come_before_the_work() -> None:
    g = np.full((400, 400), 1e-4)
    g[399, 399] = -1.0
    started = time.perf_counter()
    with pytest.raises(NetworkError, match="row 399, column 399"):
        solve(g, left=np.ones((50, 400)), bottom=0.0, lines=LINES)
    refused = time.perf_counter() - started
    started = time.perf_counter()
    solve(np.abs(g), left=1.0, bottom=0.0, lines=LINES)
    assert refused < 50 * (time.perf_counter() - started) / 4


@pytest.mark.slow
def test_neither_torch_nor_newtons_kernels_are_loaded_for_linear_cells() -> None:
    code = "import sys\nfrom sim_backends.array.solver.network import Lines, solve\n"
    code += "solve([[1e-4]], left=1.0, bottom=0.0, lines=Lines(1.0, 1.0))\n"
    code += "assert not {'torch', 'sim_backends.array.solver.newton_kernels'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
