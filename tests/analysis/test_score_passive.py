"""Scores of passive dies: their own truth file against records that are made up from it."""

import json
import time

import numpy as np
import pytest
import xarray as xr

from analysis.record.record import Record
from analysis.score import score, totals
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass, LineFault
from mapping.dies.geometry import ArrayGeometry
from sim_backends.array.dies.failures import CAUSES
from sim_backends.array.dies.kinds import die_of, load_any_lot
from sim_backends.array.dies.passive_lot import passive_lot_from_tree
from sim_backends.bench.truth import TruthFile

MEASURE, PROGRAM = "protocols.characterise_analog.measure_analog", "protocols.analog_write.write_analog"
GEOMETRY = ArrayGeometry.tiled(rows=8, columns=8, blocks=1, block_rows=8, block_columns=8)
CLASSES = {"stuck_lrs": CellClass.STUCK_LRS, "stuck_hrs": CellClass.STUCK_HRS, "open": CellClass.OPEN,
           "short": CellClass.SHORT, "works": CellClass.GOOD}  # fmt: skip
DIMS = ("kernel", "row", "column")


@pytest.fixture(scope="module")
def die():
    """A die with isolated defects of each kind, and a row that is open."""
    tree = load_any_lot("tio2-8x8").model_dump()
    nothing = ("row_lrs", "row_hrs", "row_short", "rows_tied", "alternating", "column_open")
    cells = {"stuck_lrs": 0.1, "stuck_hrs": 0.1, "cell_open": 0.05, "cell_short": 0.05, "row_open": 0.1}
    tree["defects"].update({**dict.fromkeys(nothing, 0), **cells})
    lot = passive_lot_from_tree(tree, "test")
    dies = (die_of(lot, 1, index) for index in range(36))
    return next(
        die for die in dies if len(die.dead_lines) == 1 and not (die.truth()["kind"][die.truth()["alive"]] > 4).any()
    )


@pytest.fixture
def scored(die, tmp_path):
    """Score a record that holds what the truth says but for `change(cell_class)`, and a write of these targets."""

    def run(change=lambda cell_class: None, target=None, tolerance=0.01):
        site = die.lot.wafer.sites()[die.index]
        TruthFile(tmp_path / "truth.npz", die.lot.wafer.sites()).write([die])
        truth = die.truth()
        cell_class = np.array([CLASSES[CAUSES[code]] for code in truth["kind"].ravel()], np.uint8).reshape(1, 8, 8)
        (line,) = die.dead_lines
        cell_class[line.mask] = CellClass.DEAD_LINE
        change(cell_class)
        unknown, faults = np.full((1, 8, 8), np.nan), (LineFault(line.kind, 0, line.index),)
        name = f"c{site[0]}r{site[1]}"
        found = AnalogDie(name, GEOMETRY, truth["g_read"], unknown, unknown, unknown, cell_class, faults)
        steps = [(MEASURE, found.to_dataset().assign_attrs(verdict="pass"))]
        if target is not None:
            settings = {"settings": json.dumps({"tolerance": tolerance}), "verdict": "pass"}
            steps.append((PROGRAM, xr.Dataset({"target": (DIMS, target)}, attrs=settings)))
        with Record.open(tmp_path / "lot") as record:
            number = record.begin_run("p", {})
            for function, result in steps:
                record.append_step(number, "p", name, function, "s", "k", {}, time.time(), result)
            (only,) = score(record, tmp_path / "truth.npz")
        return only

    return run


def test_what_is_in_the_truth_is_found_right(scored, die):
    found = scored()
    fixed = ~np.isnan(die.failures.fixed) & ~die.dead_lines[0].mask[0]
    assert found.defects_true == found.defects_found == found.defects_right == found.class_right
    assert found.defects_true >= fixed.sum() > 5
    assert (found.lines_true, found.lines_found, found.lines_right) == (1, 1, 1)
    assert (found.healthy, found.in_state) == (0, 0), "nothing was written"


def test_a_mistaken_class_and_a_missed_defect_count(scored, die):
    shorts = np.argwhere((die.truth()["kind"] == CAUSES.index("stuck_hrs")) & die.truth()["alive"])

    def change(cell_class):
        cell_class[tuple(shorts[0])] = CellClass.GOOD
        cell_class[tuple(shorts[1])] = CellClass.STUCK_LRS

    whole, worse = scored(), scored(change)
    assert worse.defects_found == whole.defects_true - 1
    assert worse.class_right == whole.class_right - 2
    assert totals([worse])["defect_recall"] < 1


def test_conductances_count_that_a_read_without_noise_shows_in_tolerance(scored, die):
    g = die.truth()["g_read"]
    target = g * 1.004
    target[0, :4] *= 1.02
    target[0, 4] = np.nan
    healthy = np.isnan(die.failures.fixed) & ~die.failures.cut_off
    found = scored(target=target)
    assert found.healthy == healthy[:4].sum() + healthy[5:].sum()
    assert found.in_state == healthy[5:].sum()
    assert scored(target=target, tolerance=0.05).in_state == found.healthy
