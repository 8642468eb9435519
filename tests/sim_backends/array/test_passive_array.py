"""A passive array: every device sees every pulse and read through the network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from sim_backends.array.circuit.bias import FLOATING, GROUNDED, HALF, THIRD, BiasScheme, line_mask
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.interface import DeviceLimitError, refuse_where
from sim_backends.array.devices.vteam import Vteam, VteamParameters
from sim_backends.array.solver.network import Lines, solve

FloatArray = NDArray[np.float64]
LINES = Lines(2.0, 2.0)
# Thresholds between V/2 and V of 1 V; made up.
KIND = VteamParameters(r_on=2e3, r_off=10e3, k_on=-0.05, k_off=0.05, a_on=2.0, a_off=1.5, v_on=-0.6, v_off=0.7)


class Remembering:
    """Resistors that keep every pulse they saw, grow by a tenth at each, and bear 1.5 V."""

    assumed: Mapping[str, str] = {}

    def __init__(self, g: FloatArray, noise: float = 0.0) -> None:
        self.g, self.noise = g, noise
        self.seen: list[tuple[FloatArray, float]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self.g.shape

    def current(self, v: FloatArray) -> tuple[FloatArray, FloatArray]:
        i = self.g * v
        return i, np.broadcast_to(self.g, i.shape)

    def check(self, v: FloatArray, width: float) -> None:
        refuse_where(np.abs(v) > 1.5, lambda cell: f"{v[cell]:.3g} V is more than 1.5 V")

    def pulse(self, v: FloatArray, width: float, rng: np.random.Generator) -> None:
        self.seen.append((v, width))
        self.g = self.g * 1.1

    def read_noise(self) -> FloatArray:
        return np.full(self.shape, self.noise)


def conductances(shape: tuple[int, ...], seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).uniform(100e-6, 500e-6, shape)


def vteam(shape: tuple[int, ...], seed: int = 0) -> Vteam:
    return Vteam(np.random.default_rng(seed).uniform(0, KIND.d, shape), KIND)


@pytest.mark.parametrize("scheme", [HALF, THIRD, GROUNDED, FLOATING], ids=lambda scheme: scheme.name)
def test_every_device_sees_the_pulse_through_the_network(scheme: BiasScheme) -> None:
    g, rng = conductances((7, 9)), np.random.default_rng(1)
    devices = Remembering(g)
    array = PassiveArray(devices, LINES)
    for row, column, amplitude in ((3, 5, 1.2), (0, 8, -1.1), (6, 0, 0.7)):  # the second starts from the first, and on
        rows, columns = line_mask(row, 7), line_mask(column, 9)
        before = devices.g
        solution = array.pulse(rows, columns, amplitude, 1e-6, rng, scheme)
        left, bottom = scheme.voltages(rows, columns, amplitude)
        expected = solve(before, left=left, bottom=bottom, lines=LINES, cells=True, method="direct").v_cell
        seen, width = devices.seen[-1]
        assert width == 1e-6
        np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5 * abs(amplitude))
        np.testing.assert_array_equal(solution.v_cell, seen)
    assert len(devices.seen) == 3


@pytest.mark.parametrize("where", ["selected", "other"])
def test_a_pulse_beyond_a_limit_anywhere_is_refused_before_anything_happens(where: str) -> None:
    devices = Remembering(conductances((4, 4)))
    array, before = PassiveArray(devices, Lines()), devices.g.copy()
    # a scheme that puts more across a cell that is not selected
    scheme = HALF if where == "selected" else BiasScheme("careless", other_rows=-1.0, other_columns=0.5)
    amplitude = 1.6 if where == "selected" else 1.2
    with pytest.raises(DeviceLimitError, match=r"cell at row \d, column \d: -?1.\d+ V is more than 1.5 V"):
        array.pulse(line_mask(1, 4), line_mask(2, 4), amplitude, 1e-6, np.random.default_rng(0), scheme)
    np.testing.assert_array_equal(devices.g, before)
    assert not devices.seen
    array.pulse(line_mask(1, 4), line_mask(2, 4), 1.4, 1e-6, np.random.default_rng(0))
    assert len(devices.seen) == 1


def test_one_array_of_many_beyond_its_limit_keeps_all_from_being_pulsed() -> None:
    devices = Remembering(conductances((3, 4, 4)))
    with pytest.raises(DeviceLimitError, match="of array 1"):
        PassiveArray(devices, LINES).pulse(
            line_mask([0, 1, 2], 4), line_mask([3, 0, 1], 4), [1.0, 1.7, 1.0], 1e-6, np.random.default_rng(0)
        )
    assert not devices.seen


def test_devices_below_threshold_do_not_move_at_all_in_a_whole_write() -> None:
    """V/2 at 1 V and below: half-selected cells see at most 0.5 V, of 0.6 V that they need."""
    rng = np.random.default_rng(2)
    devices = vteam((16, 16))
    array = PassiveArray(devices, LINES)
    targets, moved = devices.resistance.copy(), np.zeros((16, 16), dtype=int)
    for row in range(16):
        for column in range(16):
            before = devices.x.copy()
            array.pulse(line_mask(row, 16), line_mask(column, 16), rng.choice([-1.0, 1.0]), 2e-9, rng)
            changed = before != devices.x
            before[row, column] = devices.x[row, column]
            np.testing.assert_array_equal(devices.x, before)
            moved += changed
    assert np.all(moved <= 1) and np.count_nonzero(moved) > 200, "the selected ones do"
    assert np.max(np.abs(devices.resistance - targets)) > 100


def test_a_read_on_ideal_lines_is_the_conductance() -> None:
    g = conductances((6, 5))
    array = PassiveArray(Remembering(g), Lines())
    np.testing.assert_allclose(array.read_all(0.2), g, rtol=1e-6)
    np.testing.assert_allclose(array.read(line_mask(4, 6), -0.1), g[4], rtol=1e-6)


def test_a_read_loses_what_the_lines_take_and_gains_what_sneaks() -> None:
    g = np.full((8, 8), 300e-6)
    grounded = PassiveArray(Remembering(g), Lines(5.0, 5.0)).read_all(0.2)
    assert np.all(grounded < g) and grounded[7, 0] > grounded[0, 7]
    floating = PassiveArray(Remembering(g), Lines(), tolerance=1e-9)
    one = floating.biased(line_mask(0, 8), line_mask(0, 8), 0.2, FLOATING)
    assert one.i_bottom[0] / 0.2 / 300e-6 == pytest.approx(1 + 1 / (2 / 7 + 1 / 49), rel=1e-6)


@pytest.mark.parametrize("shape", [(20, 30), (3, 20, 30)])
def test_noise_of_reads(shape: tuple[int, ...]) -> None:
    array, rng = PassiveArray(Remembering(conductances(shape), noise=0.02), Lines()), np.random.default_rng(3)
    relative = np.stack([array.read_all(0.2, rng) for _ in range(20)]) / array.devices.current(np.ones(shape))[0] - 1
    count = relative.size
    assert np.std(relative) == pytest.approx(0.02, rel=5 / np.sqrt(2 * count))
    assert abs(np.mean(relative)) < 5 * 0.02 / np.sqrt(count)


def test_noise_is_that_of_the_cells_that_are_read() -> None:
    class Uneven(Remembering):
        def read_noise(self) -> FloatArray:
            return np.where(np.arange(6)[:, None] == 2, 0.05, 0.0) * np.ones(self.shape)

    array, rng = PassiveArray(Uneven(conductances((6, 5))), Lines()), np.random.default_rng(4)
    quiet = array.read_all(0.2)
    changed = array.read_all(0.2, rng) != quiet
    assert changed[2].all() and not np.delete(changed, 2, axis=0).any()


def test_many_arrays_at_once_are_the_arrays_one_by_one() -> None:
    many = vteam((5, 8, 6))
    alone = [Vteam(x, KIND) for x in many.x]
    together = PassiveArray(many, LINES, tolerance=1e-11)
    single = [PassiveArray(devices, LINES, tolerance=1e-11) for devices in alone]
    rng = np.random.default_rng(5)
    for _ in range(6):
        rows, columns = rng.integers(8, size=5), rng.integers(6, size=5)
        amplitudes = rng.choice([-1.0, 0.0, 1.0], 5)
        together.pulse(line_mask(rows, 8), line_mask(columns, 6), amplitudes, 2e-9, rng)
        for k, array in enumerate(single):
            array.pulse(line_mask(rows[k], 8), line_mask(columns[k], 6), amplitudes[k], 2e-9, rng)
    np.testing.assert_allclose(many.x, np.stack([devices.x for devices in alone]), rtol=0, atol=1e-8 * KIND.d)
    rows = line_mask(rng.integers(8, size=5), 8)
    read = np.stack([array.read(row, 0.2) for array, row in zip(single, rows, strict=True)])
    np.testing.assert_allclose(together.read(rows, 0.2), read, rtol=1e-8)
    np.testing.assert_allclose(together.read_all(0.2)[3], single[3].read_all(0.2), rtol=1e-8)


def test_an_amplitude_of_zero_leaves_an_array_alone() -> None:
    devices = vteam((2, 5, 5))
    before = devices.x.copy()
    PassiveArray(devices, LINES).pulse(
        line_mask([1, 1], 5), line_mask([2, 2], 5), [0.0, 1.0], 2e-9, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(devices.x[0], before[0])
    assert not np.array_equal(devices.x[1], before[1])


def test_driving_both_ends_halves_the_way_to_the_farthest_cell() -> None:
    g = np.full((16, 16), 300e-6)
    corner = line_mask(0, 16), line_mask(15, 16)
    one = PassiveArray(Remembering(g), Lines(5.0, 5.0)).biased(*corner, 1.0, HALF)
    both = PassiveArray(Remembering(g), Lines(5.0, 5.0), sides=("left", "right", "bottom", "top")).biased(
        *corner, 1.0, HALF
    )
    assert one.v_cell[0, 15] < both.v_cell[0, 15] < 1
    v_row, v_column = HALF.voltages(*corner, 1.0)
    expected = solve(g, left=v_row, right=v_row, bottom=v_column, top=v_column, lines=Lines(5.0, 5.0), cells=True)
    np.testing.assert_allclose(both.v_cell, expected.v_cell, atol=1e-5)


@pytest.mark.parametrize("sides", [("left", "top"), ("right", "bottom"), ("left", "right", "bottom", "top")])
def test_reads_at_any_sides(sides: tuple[str, ...]) -> None:
    g = conductances((5, 4))
    np.testing.assert_allclose(PassiveArray(Remembering(g), Lines(1e-6, 1e-6), sides=sides).read_all(0.2), g, rtol=1e-5)


@pytest.mark.parametrize("sides", [(), ("left",), ("bottom", "top"), ("left", "bottom", "front")])
def test_sides_that_make_no_array(sides: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="give left or right for the rows and bottom or top for the columns"):
        PassiveArray(Remembering(conductances((3, 3))), LINES, sides=sides)


def test_the_solution_before_does_not_decide_the_next() -> None:
    """Reads, then pulses under another scheme, of another polarity, on other cells: as from a fresh array."""
    devices = vteam((9, 9), seed=6)
    used = PassiveArray(devices, LINES)
    rng = np.random.default_rng(7)
    used.read_all(0.2)
    for scheme in (HALF, FLOATING, HALF, THIRD):
        rows, columns = line_mask(rng.integers(9), 9), line_mask(rng.integers(9), 9)
        amplitude = rng.choice([-0.9, 0.9])
        fresh = PassiveArray(Vteam(devices.x, KIND), LINES).biased(rows, columns, amplitude, scheme)
        np.testing.assert_allclose(
            used.pulse(rows, columns, amplitude, 1e-9, rng, scheme).v_cell, fresh.v_cell, rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("v_read", [0.0, np.nan, np.inf])
def test_reads_without_a_voltage(v_read: float) -> None:
    with pytest.raises(ValueError, match="measures nothing"):
        PassiveArray(Remembering(conductances((3, 3))), LINES).read(line_mask(0, 3), v_read)
