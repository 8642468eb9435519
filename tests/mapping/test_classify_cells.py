from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.dies.classify_cells import ClassLimits, NotSwitchingError, classify, healthy_levels
from mapping.dies.die_record import HARD_DEFECTS, CellClass, LineFault
from mapping.dies.geometry import MTJ_20K, ArrayGeometry

P, AP, SHORT, OPEN, NOISE = 143e-6, 77e-6, 476e-6, 0.1e-6, 0.005
KINDS = (CellClass.SHORT, CellClass.OPEN, CellClass.STUCK_P, CellClass.STUCK_AP, CellClass.WEAK)


@dataclass(frozen=True)
class Truth:
    g_p: np.ndarray
    g_ap: np.ndarray
    cell_class: np.ndarray


def die(rate: float, seed: int, lines: tuple[LineFault, ...] = (), geometry: ArrayGeometry = MTJ_20K) -> Truth:
    """A die drawn by itself, not by the simulator: two log-normal states, defects, noise of two reads."""
    rng = np.random.default_rng(seed)
    low = P * rng.lognormal(0, 0.05, geometry.shape)
    tmr = (P / AP - 1) * rng.lognormal(0, 0.03, geometry.shape)
    kind = np.where(rng.random(geometry.shape) < rate, rng.choice(KINDS, geometry.shape), CellClass.GOOD)
    tmr = np.where(kind == CellClass.WEAK, tmr * rng.uniform(0.1, 0.4, geometry.shape), tmr)
    g_p, g_ap = low.copy(), low / (1 + tmr)
    g_ap[kind == CellClass.STUCK_P] = g_p[kind == CellClass.STUCK_P]
    g_p[kind == CellClass.STUCK_AP] = g_ap[kind == CellClass.STUCK_AP]
    for code, level in ((CellClass.SHORT, SHORT), (CellClass.OPEN, OPEN)):
        g_p[kind == code] = g_ap[kind == code] = level
    for line in lines:
        mask = line.cells(geometry)
        kind[mask], g_p[mask], g_ap[mask] = CellClass.DEAD_LINE, 0, 0
    return Truth(noisy(g_p, rng), noisy(g_ap, rng), kind)


def noisy(g: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return g * (1 + NOISE * rng.standard_normal(g.shape)) + 0.2e-6 * rng.standard_normal(g.shape)


SEVERAL_LINES = (
    LineFault("column", 1, 7),
    LineFault("column", 1, 30),
    LineFault("row", 0, 55),
    LineFault("row", 3, 99),
    LineFault("shared_row", -1, 12),
)


@pytest.mark.parametrize("lines", [(), SEVERAL_LINES])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.06])
def test_defects_and_lines_are_found(rate, lines):
    truth = die(rate, 5, lines)
    found, faults = classify(truth.g_p, truth.g_ap, MTJ_20K)
    assert set(faults) == set(lines)
    for kind in HARD_DEFECTS:
        true, called = truth.cell_class == kind, found == kind
        assert np.count_nonzero(true & called) >= 0.99 * max(np.count_nonzero(true), np.count_nonzero(called))
    weak, called = truth.cell_class == CellClass.WEAK, found == CellClass.WEAK
    assert np.count_nonzero(weak & called) >= 0.97 * max(np.count_nonzero(weak), np.count_nonzero(called))


@given(
    st.lists(st.tuples(st.sampled_from(["row", "column"]), st.integers(0, 3), st.integers(0, 49)), max_size=12),
    st.lists(st.integers(0, 99), max_size=2),
    st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_dead_lines_are_reported_as_lines(single, shared, seed):
    lines = {LineFault(*line) for line in single} | {LineFault("shared_row", -1, row) for row in shared}
    truth = die(0.03, seed, tuple(lines))
    _, faults = classify(truth.g_p, truth.g_ap, MTJ_20K)
    rows = {b: {f.index for f in lines if f.kind == "row" and f.block == b} for b in range(4)}
    everywhere = set(shared) | set.intersection(*rows.values())
    expected = {f for f in lines if f.kind != "row" or f.index not in everywhere}
    assert set(faults) == expected | {LineFault("shared_row", -1, row) for row in everywhere}
    assert len(faults) == len(set(faults))


def test_a_few_cells_that_conduct_do_not_hide_a_dead_line():
    line = LineFault("row", 2, 40)
    truth = die(0.0, 0, (line,))
    cells = np.argwhere(line.cells(MTJ_20K))
    for kernel, row, column in cells[[3, 11, 30, 44]]:
        truth.g_p[kernel, row, column] = truth.g_ap[kernel, row, column] = SHORT
    found, faults = classify(truth.g_p, truth.g_ap, MTJ_20K)
    assert faults == (line,)
    np.testing.assert_array_equal(found == CellClass.DEAD_LINE, line.cells(MTJ_20K))


def test_a_row_dead_in_one_kernel_stays_open_cells():
    truth = die(0.0, 0)
    truth.g_p[9, 4], truth.g_ap[9, 4] = 0, 0
    found, faults = classify(truth.g_p, truth.g_ap, MTJ_20K)
    assert faults == () and np.all(found[9, 4] == CellClass.OPEN)


@pytest.mark.parametrize(
    ("reads", "kind"),
    [
        ((P, AP), CellClass.GOOD),
        ((np.inf, np.inf), CellClass.SHORT),
        ((-np.inf, np.inf), CellClass.SHORT),
        ((P, SHORT), CellClass.SHORT),
        ((AP, 0), CellClass.OPEN),
        ((-2e-6, 3e-6), CellClass.OPEN),
        ((P, P * 1.002), CellClass.STUCK_P),
        ((AP * 1.002, AP), CellClass.STUCK_AP),
        ((P, P / 1.09), CellClass.WEAK),
        ((AP, P), CellClass.WEAK),
    ],
)
def test_class_of_a_pair_of_reads(reads, kind):
    truth = die(0.0, 1)
    truth.g_p[3, 2, 1], truth.g_ap[3, 2, 1] = reads
    assert classify(truth.g_p, truth.g_ap, MTJ_20K)[0][3, 2, 1] == kind


def test_levels_hold_when_most_of_the_die_is_dead():
    truth = die(0.06, 2, tuple(LineFault("row", block, row) for block in range(4) for row in range(75)))
    levels = healthy_levels(truth.g_p, truth.g_ap)
    assert levels.p == pytest.approx(P, rel=0.01) and levels.ap == pytest.approx(AP, rel=0.01)


def test_more_noise_makes_fewer_weak_cells_and_no_false_good_ones():
    truth = die(0.06, 3)
    found, _ = classify(truth.g_p, truth.g_ap, MTJ_20K, ClassLimits(read_noise=0.03))
    weak = truth.cell_class == CellClass.WEAK
    assert 0 < np.count_nonzero(found == CellClass.WEAK) < 0.7 * np.count_nonzero(weak)
    assert not np.any(weak & (found == CellClass.GOOD))


def test_a_die_without_two_states_is_refused():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1e-6, (2, *MTJ_20K.shape))
    for g_p, g_ap in ((noise[0], noise[1]), (P + 0 * noise[0], P + 0 * noise[1]), (AP + noise[0], P + noise[1])):
        with pytest.raises(NotSwitchingError, match=r"written|contact"):
            classify(g_p, g_ap, MTJ_20K)


def test_missing_readings_and_wrong_shapes_are_refused():
    truth = die(0.0, 0)
    with pytest.raises(ValueError, match="shape"):
        classify(truth.g_p[0], truth.g_ap[0], MTJ_20K)
    truth.g_p[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 cells were not read"):
        classify(truth.g_p, truth.g_ap, MTJ_20K)


def test_short_lines_are_never_called_dead():
    geometry = ArrayGeometry.tiled(4, 4, 1, 4, 4)
    g_p, g_ap = np.full(geometry.shape, P), np.full(geometry.shape, AP)
    g_p[0, 1], g_ap[0, 1] = 0, 0
    found, faults = classify(g_p, g_ap, geometry)
    assert faults == () and np.all(found[0, 1] == CellClass.OPEN)
