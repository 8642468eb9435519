"""What a caller may give as numbers: whatever it is, the solution is right or refused; and it is the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from sim_backends.array.devices.conduction import Cubic, Ohmic, Sinh, Tabulated
from sim_backends.array.devices.messaris import N1257R, Messaris
from sim_backends.array.devices.nili import Nili
from sim_backends.array.devices.series import Series
from sim_backends.array.devices.tio2 import TiO2Devices
from sim_backends.array.devices.transistor import Transistor
from sim_backends.array.solver.gradients import terminal_currents
from sim_backends.array.solver.network import Drive, Lines, Method, NetworkError, solve, transfer_matrix

RNG = np.random.default_rng(0)
WHOLE = RNG.integers(1, 100, (4, 5)).astype(np.float64)  # numbers that every type holds exactly
LINES = Lines(0.25, 0.5, 0.125)
SAME: dict[str, Callable[[Any], Any]] = {
    "float32": lambda x: np.asarray(x, np.float32),
    "float16": lambda x: np.asarray(x, np.float16),
    "int8": lambda x: np.asarray(x, np.int8),
    "uint8": lambda x: np.asarray(x, np.uint8),
    "int64": lambda x: np.asarray(x, np.int64),
    "big endian": lambda x: np.asarray(x, ">f8"),
    "read-only": lambda x: np.frombuffer(np.asarray(x, np.float64).tobytes()).reshape(np.shape(x)),
    "negative strides": lambda x: np.asarray(x)[..., ::-1].copy()[..., ::-1],
    "every other": lambda x: np.repeat(np.asarray(x), 2, axis=-1)[..., ::2],
    "by columns": lambda x: np.asfortranarray(x),
    "nothing masked": lambda x: np.ma.masked_invalid(x),
    "lists": lambda x: np.asarray(x).tolist(),
    "pandas": lambda x: pd.DataFrame(x) if np.ndim(x) == 2 else pd.Series(x),
    "xarray": lambda x: xr.DataArray(x),
    "torch": lambda x: torch.as_tensor(np.asarray(x)),
}
NONE: dict[str, Callable[[Any], Any]] = {
    "masked": lambda x: np.ma.masked_equal(x, np.asarray(x).flat[-1]),
    "bool": lambda x: np.asarray(x) > 50,
    "complex": lambda x: np.asarray(x) + 0j,
    "object": lambda x: np.asarray(x).astype(object),
    "text": lambda x: np.asarray(x).astype(str),
    "ragged": lambda x: [[1.0], [1.0, 2.0]],
    "dates": lambda x: np.asarray(x).astype("M8[s]"),
}


def currents(cells: Any, left: Any, lines: Lines = LINES, **how: Any) -> Any:
    return solve(cells, left=left, bottom=0.0, lines=lines, **how).i_bottom


RIGHT = currents(1e-6 * WHOLE, WHOLE[:, 0])


@pytest.mark.parametrize("kind", SAME)
def test_numbers_of_any_type_and_layout_give_the_same_currents(kind: str) -> None:
    as_kind = SAME[kind]
    whole = solve(WHOLE, left=WHOLE[:, 0], bottom=0.0, lines=LINES).i_bottom
    for method in ("auto", "lines", "direct"):
        np.testing.assert_allclose(currents(as_kind(WHOLE), as_kind(WHOLE[:, 0]), method=method), whole, rtol=1e-8)
    np.testing.assert_allclose(currents(Ohmic(as_kind(WHOLE)), as_kind(WHOLE[:, 0])), whole, rtol=1e-8)
    np.testing.assert_allclose(transfer_matrix(as_kind(WHOLE), lines=LINES) @ WHOLE[:, 0], whole, rtol=1e-7)


@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_array_of_real_numbers_is_refused(kind: str) -> None:
    as_kind = NONE[kind]
    for refused in (
        lambda: currents(as_kind(WHOLE), 1.0),
        lambda: currents(WHOLE, as_kind(WHOLE[:, 0])),
        lambda: currents(WHOLE, Drive(1.0, as_kind(WHOLE[:, 0]))),
        lambda: Lines(as_kind(np.ones((4, 6))), 1.0),
        lambda: transfer_matrix(as_kind(WHOLE), lines=LINES),
    ):
        with pytest.raises(NetworkError):
            refused()
    for made in (Ohmic, lambda x: Sinh(1e-5, x), lambda x: Cubic(x, 0.0), lambda x: Nili(1e-6 * x), TiO2Devices):
        with pytest.raises((ValueError, TypeError)):
            made(as_kind(WHOLE))
    with pytest.raises((ValueError, TypeError)):
        Messaris(N1257R, as_kind(20 * WHOLE + 1000))


@pytest.mark.parametrize("number", [np.float32, np.float16, np.int8, np.uint8, lambda r: np.array(r, np.int8)])
def test_resistances_of_small_types_are_worked_with_in_full(number: Any) -> None:
    """100 + 100 Ohm do not fit into int8, and 1 / 100 has three digits in float16."""
    given = Lines(number(100), number(100), number(100))
    for method in ("lines", "direct"):
        expected = currents(1e-6 * WHOLE, WHOLE[:, 0], Lines(100.0, 100.0, 100.0), method=method)
        np.testing.assert_allclose(currents(1e-6 * WHOLE, WHOLE[:, 0], given, method=method), expected, rtol=1e-8)
    behind = solve(1e-6 * WHOLE, left=Drive(WHOLE[:, 0], number(100)), bottom=0.0, lines=given).i_bottom
    expected = solve(
        1e-6 * WHOLE, left=Drive(WHOLE[:, 0], 100.0), bottom=0.0, lines=Lines(100.0, 100.0, 100.0)
    ).i_bottom
    np.testing.assert_allclose(behind, expected, rtol=1e-8)


@pytest.mark.parametrize("method", ["auto", "lines", "transfer", "direct"])
def test_an_infinite_voltage_is_refused_even_where_nothing_is_connected(method: Any) -> None:
    for left in (np.inf, Drive(np.r_[np.inf, 1.0, 1.0, 1.0], np.r_[np.inf, 0.0, 0.0, 0.0])):
        with pytest.raises(NetworkError, match=r"infinite voltage|inf V"):
            currents(1e-6 * WHOLE, left, method=method)


@pytest.mark.parametrize("tolerance", ["1e-9", None, 1j, [1e-9], np.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance: Any) -> None:
    with pytest.raises(NetworkError, match="tolerance"):
        currents(WHOLE, 1.0, tolerance=tolerance)


@pytest.mark.parametrize("devices", [lambda g: g, Ohmic, lambda g: Sinh(g, 3.0)])
@pytest.mark.parametrize("method", ["auto", "direct"])
@pytest.mark.parametrize("r", [0.0, 2.0])
def test_a_solution_is_its_own(devices: Any, method: Any, r: float) -> None:
    """What the caller does with his arrays, and later solutions, change nothing of it."""
    g, v, source, segments = 1e-6 * WHOLE, 0.01 * WHOLE[:, 0], np.full(4, 1.0), np.full((4, 6), r)
    lines = Lines(segments, r)

    def found() -> Any:
        return solve(devices(g), left=Drive(v, source), bottom=0.0, lines=lines, cells=True, method=method)

    def told(solution: Any) -> list[Any]:
        names = ("i_left", "i_right", "i_top", "i_bottom", "v_cell", "i_cell", "power")
        return [np.array(getattr(solution, name)) for name in names]

    solution, expected = found(), told(found())
    segments[:] = 7.0
    np.testing.assert_array_equal(told(found())[0], expected[0])  # lines are kept, too
    g[:], v[:], source[:] = 1.0, 9.0, 3.0
    found()
    for now, before in zip(told(solution), expected, strict=True):
        np.testing.assert_array_equal(now, before)


def test_many_vectors_on_one_array_are_their_own() -> None:
    g, v = 1e-6 * WHOLE, RNG.uniform(0, 1, (40, 4))
    solution = solve(g, left=v, bottom=0.0, lines=LINES, cells=True)
    cells, power = solution.i_cell.copy(), solution.power.copy()
    v[:], g[:] = 9.0, 1.0
    np.testing.assert_array_equal(solution.i_cell, cells)
    np.testing.assert_array_equal(solution.power, power)


TABLE = Tabulated([-0.5, 0.0, 0.5], [-0.5, 0.0, 0.5], np.full((3, 3), 1e-5))


@pytest.mark.parametrize("method", ["auto", "lines", "direct"])
def test_a_table_is_not_left_beyond_its_ends(method: Any) -> None:
    lines = Lines(1.0, 1.0)
    inside = solve(TABLE, left=0.5, bottom=0.0, lines=lines, method=method, cells=True)
    assert inside.v_cell.max() <= 0.5
    with pytest.raises(NetworkError, match=r"row 0, column 0.*outside of the table"):
        solve(TABLE, left=0.6, bottom=0.0, lines=lines, method=method)
    with pytest.raises(NetworkError, match="outside of the table"):
        solve(Series(TABLE, Ohmic(1e-2)), left=0.6, bottom=0.0, lines=lines, method=method)
    assert solve(Series(TABLE, Ohmic(1e-5)), left=0.6, bottom=0.0, lines=lines, method=method).i_bottom.min() > 0


def test_a_table_on_perfect_lines_may_be_used_up_to_its_ends() -> None:
    assert solve(TABLE, left=0.5, bottom=0.0).i_bottom == pytest.approx(1.5e-5)
    with pytest.raises(NetworkError, match="outside of the table"):
        solve(TABLE, left=0.5, bottom=-1e-3)


def test_laws_that_overflow_are_no_answer() -> None:
    with pytest.raises((NetworkError, RuntimeError)):
        solve(Sinh(np.full((2, 2), 1e-5), 1000.0), left=1.0, bottom=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64])
def test_gradients_refuse_types_that_cannot_hold_currents(dtype: torch.dtype) -> None:
    with pytest.raises(NetworkError, match="float32 or float64"):
        terminal_currents(torch.ones(3, 3).to(dtype), left=0.1, bottom=0.0, lines=LINES)


def test_gradients_take_voltages_as_exactly_as_they_are_given() -> None:
    g = torch.full((3, 3), 2.0**-16, dtype=torch.float64)
    exact = terminal_currents(g, left=0.3, bottom=0.0, lines=Lines(1.0, 1.0)).bottom
    from_int8 = terminal_currents(g, left=torch.tensor([3, 3, 3], dtype=torch.int8), bottom=0.0, lines=Lines(1.0, 1.0))
    torch.testing.assert_close(from_int8.bottom, 10 * exact, rtol=1e-12, atol=0)
    of_float32 = terminal_currents(g.float(), left=0.3, bottom=0.0, lines=Lines(1.0, 1.0)).bottom
    torch.testing.assert_close(of_float32, exact.float(), rtol=1e-7, atol=0)
    with pytest.raises(NetworkError):
        terminal_currents(g, left=torch.tensor([1j, 1j, 1j]), bottom=0.0, lines=LINES)


def test_open_transistors_and_flat_tables_are_refused_by_all_methods_alike() -> None:
    floating = {"left": np.r_[0.5, np.nan], "bottom": 0.0}
    flat = Tabulated([-1.0, -0.1, 0.0, 0.1, 1.0], [-1.0, 0.0, 0.0, 0.0, 1.0], np.full((2, 2), 1e-5))
    for devices in (
        Sinh(np.array([[1e-5, 1e-5], [0.0, 0.0]]), 2.0),
        Transistor(np.full((2, 2), 1e-4), gate=-1.0, v_threshold=0.5, kp=1e-4),
        flat,
    ):
        for method in ("auto", "lines", "direct"):
            with pytest.raises((NetworkError, RuntimeError)):
                solve(devices, lines=Lines(1.0, 1.0), method=method, **floating)
    with pytest.raises(NetworkError, match="row 1"):
        solve(flat, lines=Lines(1.0, 1.0), **floating)


def test_cells_that_conduct_only_under_voltage_are_solved_by_auto_and_direct_alike() -> None:
    """A cube has no slope at rest; what it carries is known all the same."""
    cubes = Cubic(np.zeros((2, 2)), np.full((2, 2), 1e-4))
    given = {"left": np.r_[0.5, -0.4], "right": np.nan, "top": np.r_[np.nan, np.nan]}
    auto, direct = (solve(cubes, lines=Lines(1.0, 1.0), method=method, **given) for method in ("auto", "direct"))
    np.testing.assert_allclose(auto.i_left, direct.i_left, rtol=1e-8)
    assert auto.i_left[0] == pytest.approx(2e-4 * 0.45**3, rel=1e-3)


@pytest.mark.parametrize("method", ["lines", "auto", "direct"])
def test_a_source_behind_an_infinite_resistance_is_none(method: Method) -> None:
    """Its voltage is not where its line begins: what one source alone drives is nothing."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        g = 10 ** rng.uniform(-9, -2, (8, 8))
        left = Drive(rng.uniform(-1, 1, 8), np.where(np.arange(8) == 0, 0.0, np.inf))
        found = solve(g, left=left, lines=Lines(*10 ** rng.uniform(-3, 3, 3)), cells=True, method=method)
        assert np.abs(found.currents).max() <= 1e-15 * g.sum() and np.abs(found.v_cell).max() <= 1e-12


def test_the_columns_may_not_together_miss_more_than_the_tolerance() -> None:
    """Many columns, each of which misses a little less than it may, are iterated on, not refused."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        g, v = 10 ** rng.uniform(-9, -2, (2, 67)), rng.uniform(-1, 1, (4, 67))
        lines = Lines(*10 ** rng.uniform(-1, 2, 2))
        ends = {"left": v[0, :2], "right": v[1, :2], "top": v[2], "bottom": v[3]}
        found = solve(g, **ends, lines=lines, cells=True, method="lines")
        missed = found.i_left.sum() + found.i_right.sum() - found.i_top.sum() - found.i_bottom.sum()
        assert abs(missed) <= 1e-9 * np.abs(found.currents).max()
