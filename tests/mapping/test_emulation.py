from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mapping.dies.classify_cells import classify
from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import MTJ_20K
from mapping.placement.coding import AP, DONT_CARE, P, encode
from mapping.placement.placement import place
from mapping.training.emulation import LineResistance, cell_arrays, emulate_multiply, weight_unit, without_lines
from sim_backends.array.dies.lot import load_lot
from sim_backends.array.dies.mtj_die import Die
from sim_backends.array.dies.readout import ReadoutSpec

V_READ = 0.1
BOARD = ReadoutSpec()
SHAPES = [(196, 40), (40, 10)]
PLACEMENT = place(SHAPES, MTJ_20K, (1, 4))
LOT = load_lot("mtj")
LINES = LineResistance(LOT.lines.r_row, LOT.lines.r_column, LOT.lines.r_contact)
NO_LINES = LineResistance(0, 0, 0)


def read_all(die: Die, antiparallel: bool, voltage: float) -> np.ndarray:
    die.put(antiparallel)
    return np.stack([die.read(kernel, voltage) / voltage for kernel in range(MTJ_20K.kernels)])


def measured(die: Die) -> DieRecord:
    """A record as a station takes it, without noise: two maps, and the maps again at half the voltage."""
    maps, curvature = [], {}
    for name, antiparallel in (("p", False), ("ap", True)):
        g = read_all(die, antiparallel, V_READ)
        half = read_all(die, antiparallel, V_READ / 2)
        maps.append(g)
        with np.errstate(invalid="ignore"):
            curvature[f"curvature_{name}"] = float((1 - np.nanmedian(half / g)) / 0.75)
    cell_class, faults = classify(*maps, MTJ_20K)
    return DieRecord("die", MTJ_20K, *maps, cell_class, faults, {"v_read": V_READ} | curvature)


def analog(die: Die, number: int, x: np.ndarray, unit: float, v_read: float = V_READ) -> np.ndarray:
    """What the simulated array gives for the reads of a layer, in weight units, without noise."""
    layer = PLACEMENT.layers[number]
    lines = np.zeros((len(x), layer.copies, layer.groups, 2 * layer.n_out))
    for read in layer.reads:
        vectors = np.zeros((len(x), MTJ_20K.rows))
        vectors[:, read.row_mask] = x[:, layer.inputs_of(read.group)] * v_read
        currents = die.product(read.kernel, "backward", read.column_mask, v_read).currents(vectors)
        lines[:, read.copies, read.group, read.lines] = currents[:, read.column_mask]
    return (lines[..., 0::2] - lines[..., 1::2]) / (v_read * unit)


@pytest.fixture(scope="module")
def case() -> tuple[Die, DieRecord, np.ndarray]:
    die = Die.from_lot(LOT, seed=5, index=4)
    record = measured(die)
    rng = np.random.default_rng(0)
    weights = [rng.choice([-1, 1], (n_out, n_in)).astype(np.int8) for n_in, n_out in SHAPES]
    states = encode(weights, PLACEMENT).states
    die.put(states == AP)
    return die, record, states


def inputs(kind: str, n_in: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return {
        "binary": rng.integers(0, 2, (30, n_in)).astype(float),
        "grey": rng.random((30, n_in)),
        "signed": rng.uniform(-1, 1, (30, n_in)),
    }[kind]


@pytest.mark.parametrize("kind", ["binary", "grey", "signed"])
@pytest.mark.parametrize("number", [0, 1])
def test_agrees_with_the_analog_multiply(case, kind, number):
    """Within the noise of one multiply of the simulated board at worst, a tenth of it rms.

    At worst, as the states of cells without a weight (rows that are not driven) are not known.
    """
    die, record, states = case
    assert record.defects > 200 and record.line_faults
    x = inputs(kind, SHAPES[number][0])
    expected = analog(die, number, x, weight_unit(record))
    found = emulate_multiply(record, states, PLACEMENT, lines=LINES)(number, x)
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    cells_driven = 2 * np.mean(np.sum(x**2, axis=1)) / expected.shape[2]
    variance = cells_driven * (BOARD.cell_noise * 110e-6 * V_READ) ** 2 + 2 * BOARD.current_noise**2
    noise = np.sqrt(variance) / (V_READ * weight_unit(record))
    assert error.max() < noise and np.sqrt(np.mean(error**2)) < noise / 10


def test_lines_and_bias_matter_and_are_included(case):
    die, record, states = case
    x = inputs("grey", SHAPES[0][0])
    expected = analog(die, 0, x, weight_unit(record))

    def rms(of: DieRecord, lines: LineResistance) -> float:
        return float(np.sqrt(np.mean((emulate_multiply(of, states, PLACEMENT, lines=lines)(0, x) - expected) ** 2)))

    flat = replace(record, conditions={"v_read": V_READ})
    full = rms(record, LINES)
    assert rms(record, NO_LINES) > 3 * full
    assert rms(flat, LINES) > 2 * full


def test_another_voltage_than_that_of_the_record(case):
    die, record, states = case
    x = inputs("binary", SHAPES[0][0])
    expected = analog(die, 0, x, weight_unit(record), v_read=0.2)
    error = emulate_multiply(record, states, PLACEMENT, v_read=0.2, lines=LINES)(0, x) - expected
    assert np.sqrt(np.mean(error**2)) < 0.05


def ideal() -> DieRecord:
    p, ap = np.full(MTJ_20K.shape, 143e-6), np.full(MTJ_20K.shape, 77e-6)
    return DieRecord("ideal", MTJ_20K, p, ap, np.zeros(MTJ_20K.shape, np.uint8))


def test_ideal_cells_multiply_exactly():
    rng = np.random.default_rng(2)
    weights = [rng.integers(-1, 2, (n_out, n_in)) for n_in, n_out in SHAPES]
    multiply = emulate_multiply(ideal(), encode(weights, PLACEMENT).states, PLACEMENT, lines=NO_LINES)
    for number, w in enumerate(weights):
        x = rng.uniform(-1, 1, (5, w.shape[1]))
        partials = multiply(number, x)
        assert partials.shape == (5, (1, 4)[number], (8, 2)[number], len(w))
        for copy in range(partials.shape[1]):
            np.testing.assert_allclose(partials[:, copy].sum(axis=1), x @ w.T, atol=1e-9)


def test_a_reading_below_zero_is_a_cell_that_is_open():
    records = [ideal(), ideal()]
    for record, reading in zip(records, (-0.2e-6, 0.0), strict=True):
        record.g_p[:, 3, 4] = record.g_ap[:, 3, 4] = reading
    rng = np.random.default_rng(4)
    states = encode([rng.integers(-1, 2, (n_out, n_in)) for n_in, n_out in SHAPES], PLACEMENT).states
    x = inputs("grey", SHAPES[0][0])
    noisy, exact = (emulate_multiply(record, states, PLACEMENT, lines=LINES)(0, x) for record in records)
    np.testing.assert_allclose(noisy, exact, atol=1e-3)


def test_reading_through_lines_is_undone():
    die = Die.from_lot(LOT, seed=1, index=0)
    through = read_all(die, False, V_READ)
    cells = die.conductance(V_READ)
    ordinary = die.alive & (cells < 200e-6) & (cells > 1e-6)
    before = np.abs(through / np.where(ordinary, cells, 1) - 1)[ordinary].max()
    after = np.abs(without_lines(through, LINES) / np.where(ordinary, cells, 1) - 1)[ordinary].max()
    assert after < 1e-3 < 3e-2 < before


def test_cell_arrays_are_never_nan():
    record = ideal()
    record.g_p[0, 0, :3] = np.inf, np.nan, 400e-6
    record.g_ap[0, 0, :3] = np.inf, np.nan, 400e-6
    record.g_ap[1, 0, 0] = -np.inf
    record.cell_class[0, 0, :2] = record.cell_class[1, 0, 0] = CellClass.SHORT
    m, d = cell_arrays(record)
    assert m.shape == d.shape == (MTJ_20K.cells,) and np.isfinite(m).all() and np.isfinite(d).all()
    np.testing.assert_allclose(m[:4], [400e-6, 0, 400e-6, 110e-6])
    np.testing.assert_allclose(d[:4], [0, 0, 0, 33e-6], atol=1e-12)
    assert cell_arrays(replace(record, conditions={"g_max": 1e-3}))[0][0] == pytest.approx(1e-3)


def test_cells_without_a_state_count_as_the_mean():
    placement = place([(4, 1)], MTJ_20K)
    states = np.full(MTJ_20K.shape, DONT_CARE, np.int8)
    states.reshape(-1)[placement.layers[0].cells[0, :, 0, 0]] = P
    partials = emulate_multiply(ideal(), states, placement, lines=NO_LINES)(0, np.ones((1, 4)))
    np.testing.assert_allclose(partials.ravel(), [2.0])


def test_a_die_without_good_cells_is_refused():
    record = replace(ideal(), cell_class=np.full(MTJ_20K.shape, CellClass.OPEN, np.uint8))
    with pytest.raises(ValueError, match="no good cell"):
        emulate_multiply(record, np.zeros(MTJ_20K.shape, np.int8), PLACEMENT)
