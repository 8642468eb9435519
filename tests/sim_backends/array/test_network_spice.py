"""The network solver against ngspice: random arrays, random terminations, line resistance, nonlinear cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import spice
from numpy.typing import NDArray

from sim_backends.array.devices.conduction import Sinh
from sim_backends.array.devices.transistor import Transistor
from sim_backends.array.solver.network import Drive, Lines, solve

FloatArray = NDArray[np.float64]

pytestmark = pytest.mark.skipif(spice.NGSPICE is None, reason=spice.WHY_MISSING)

SIZES = [(8, 8), (13, 21), (32, 32), (64, 64)]
SIDES = ("left", "right", "bottom", "top")

# What may differ: terminal currents, of the largest one; cell voltages, of the largest voltage. `solve` promises the
# first; the factorisation of linear networks is as good as ngspice's own last digits.
PROMISED = (1e-9, 1e-7)
FACTORISED = (1e-11, 1e-10)


@dataclass(frozen=True)
class Case:
    """The same cells for both, and the largest voltage they are driven with."""

    ours: Any
    theirs: spice.Cells
    volts: float

    @property
    def tolerances(self) -> dict[str, tuple[float, float]]:
        """By method."""
        return {"auto": PROMISED, "direct": FACTORISED if isinstance(self.ours, np.ndarray) else PROMISED}


def linear(shape: tuple[int, int], rng: np.random.Generator) -> Case:
    g = 10 ** rng.uniform(-6, -3, shape)
    g[rng.random(shape) < 0.05] = 0.0
    return Case(g, spice.Resistors(g), volts=1.0)


def sinh(shape: tuple[int, int], rng: np.random.Generator) -> Case:
    g, alpha = 10 ** rng.uniform(-6, -3, shape), rng.uniform(0.5, 4.0, shape)
    return Case(Sinh(g, alpha), spice.SinhSources(g, alpha), volts=1.0)


def transistor(shape: tuple[int, int], rng: np.random.Generator) -> Case:
    g = 10 ** rng.uniform(-5, -3, shape)
    gate = rng.uniform(1.2, 1.8, (shape[0], 1))
    return Case(Transistor(g, gate, 0.4, 1e-3), spice.TransistorsInSeries(g, gate, 0.4, 1e-3), volts=0.4)


def terminations(shape: tuple[int, int], volts: float, rng: np.random.Generator) -> dict[str, spice.Terminals]:
    """Lines driven or grounded at one end or both, with or without source resistance; about one in six floats."""
    rows, columns = shape
    found = {}
    for kind, start, end in ((rows, "left", "right"), (columns, "bottom", "top")):
        ends = rng.choice(["start", "end", "both", "floating"], kind, p=[0.5, 0.17, 0.17, 0.16])
        ends[0] = "start"
        for side, there in ((start, "start"), (end, "end")):
            v = np.where(rng.random(kind) < 0.4, 0.0, rng.uniform(-0.2 * volts, volts, kind))
            v[(ends != there) & (ends != "both")] = np.nan
            found[side] = spice.Terminals(v, rng.choice([0.0, 0.0, 50.0, 1000.0], kind))
    return found


def assert_equal_to_spice(case: Case, lines: Lines, sides: dict[str, spice.Terminals]) -> None:
    expected = spice.operating_point(spice.Circuit(case.theirs, lines.r_row, lines.r_column, **sides))
    drives = {side: Drive(t.voltage, t.resistance) for side, t in sides.items()}
    largest = max(np.max(np.abs(getattr(expected, f"i_{side}"))) for side in SIDES)
    for method, (of_current, of_voltage) in case.tolerances.items():
        solution = solve(case.ours, **drives, lines=lines, cells=True, method=method)
        for side in SIDES:
            error = np.abs(getattr(solution, f"i_{side}") - getattr(expected, f"i_{side}"))
            assert np.max(error) <= of_current * largest, (method, side)
        v_cell = expected.v_row - expected.v_column
        assert np.max(np.abs(solution.v_cell - v_cell)) <= of_voltage * case.volts, method


@pytest.mark.parametrize("kind", [linear, sinh, transistor])
@pytest.mark.parametrize("shape", SIZES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_random_arrays_with_random_terminations(
    kind: Callable[[tuple[int, int], np.random.Generator], Case], shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(shape[0])
    case = kind(shape, rng)
    lines = Lines(r_row=10 ** rng.uniform(-0.5, 1.5), r_column=10 ** rng.uniform(-0.5, 1.5))
    assert_equal_to_spice(case, lines, terminations(shape, case.volts, rng))


@pytest.mark.parametrize("kind", [linear, sinh, transistor])
@pytest.mark.parametrize("seed", range(3))
def test_uneven_broken_and_perfect_segments(
    kind: Callable[[tuple[int, int], np.random.Generator], Case], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = shape = (9, 7)
    case = kind(shape, rng)
    choice = np.array([0.0, 1.0, 20.0, 3000.0])
    r_row, r_column = rng.choice(choice, (rows, columns + 1)), rng.choice(choice, (rows + 1, columns))
    r_row[rng.random(r_row.shape) < 0.04] = np.inf
    r_column[1:-1] = np.where(rng.random((rows - 1, columns)) < 0.04, np.inf, r_column[1:-1])
    assert_equal_to_spice(case, Lines(r_row, r_column), terminations(shape, case.volts, rng))


@pytest.mark.parametrize("kind", [linear, sinh, transistor])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_one_row_one_column_one_cell(
    kind: Callable[[tuple[int, int], np.random.Generator], Case], shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(7)
    case = kind(shape, rng)
    assert_equal_to_spice(case, Lines(r_row=5.0, r_column=80.0), terminations(shape, case.volts, rng))


@pytest.mark.parametrize("seed", range(3))
def test_transistors_off_in_saturation_and_in_reverse(seed: int) -> None:
    """Gates of single cells, a third of them off. Columns are held: one above all gates would be undefined."""
    rng = np.random.default_rng(seed)
    shape = (12, 10)
    g, gate = 10 ** rng.uniform(-5, -2, shape), rng.choice([0.0, 0.8, 1.8], shape)
    gate[:, 0] = 1.8
    case = Case(Transistor(g, gate, 0.4, 1e-3), spice.TransistorsInSeries(g, gate, 0.4, 1e-3), volts=1.2)
    sides = terminations(shape, case.volts, rng)
    sides["bottom"] = spice.Terminals(rng.choice([0.0, 0.1, 1.0], shape[1]), 20.0)
    assert_equal_to_spice(case, Lines(r_row=3.0, r_column=0.7), sides)


def test_only_one_row_and_one_column_are_held() -> None:
    """All sneak paths: every other line floats, sinh cells, drivers with resistance."""
    rng = np.random.default_rng(4)
    shape = (16, 16)
    case = sinh(shape, rng)
    one = np.where(np.arange(16) == 3, 1.0, np.nan)
    sides = {
        "left": spice.Terminals(one, 100.0),
        "right": spice.Terminals(),
        "bottom": spice.Terminals(),
        "top": spice.Terminals(0.0 * one, 20.0),
    }
    assert_equal_to_spice(case, Lines(r_row=2.0, r_column=2.0), sides)
