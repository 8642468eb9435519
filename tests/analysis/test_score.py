"""Scores of a small made-up die: every number can be counted by hand."""

import json
import time

import numpy as np
import pytest
import xarray as xr

from analysis.record.record import Record
from analysis.record.step_names import MEASURE_STATES, PROGRAM
from analysis.score import TruthError, score, totals
from mapping.dies.die_record import CellClass, DieRecord, LineFault
from mapping.dies.geometry import ArrayGeometry

GEOMETRY = ArrayGeometry.tiled(rows=5, columns=6, blocks=1, block_rows=10, block_columns=6)
KINDS = ("good", "short", "open", "stuck_p", "stuck_ap", "weak_tmr")
SITES = [(0, 0), (1, 0)]


class MadeUp:
    """Truth of two dies and a record that found all of it, until a test changes something."""

    def __init__(self, folder):
        self.folder = folder
        shape = (2, *GEOMETRY.shape)
        self.kind, self.state = np.zeros(shape, np.uint8), np.zeros(shape, bool)
        self.broken, self.lines = np.zeros(shape, bool), []
        self.found = [np.zeros(GEOMETRY.shape, np.uint8) for _ in SITES]
        self.faults = [(), ()]
        self.kind[0, 0, 0, :4] = [1, 2, 3, 4]
        self.found[0][0, 0, :4] = [CellClass.SHORT, CellClass.OPEN, CellClass.STUCK_P, CellClass.STUCK_AP]
        self.wanted = np.zeros(GEOMETRY.shape, np.int8)
        self.wanted[1] = -1
        self.state[:] = True  # all AP, as wanted

    def dead_line(self, die, fault):
        mask = fault.cells(GEOMETRY)
        self.lines.append((die, mask))
        return mask

    def truth_file(self):
        alive = np.ones(self.kind.shape, bool)
        for die, mask in self.lines:
            alive[die] &= ~mask
        path = self.folder / "truth.npz"
        np.savez(
            path,
            die=np.array([7, 9]),
            site=np.array(SITES),
            kind=self.kind,
            state=self.state,
            broken=self.broken,
            alive=alive,
            line_die=np.array([[7, 9][die] for die, _ in self.lines], int),
            line_mask=np.array([mask for _, mask in self.lines], bool).reshape(-1, *GEOMETRY.shape),
            meta=np.array(json.dumps({"kinds": KINDS})),
        )
        return path

    def measured(self, die):
        g = np.full(GEOMETRY.shape, 1e-4)
        name = f"c{SITES[die][0]}r{SITES[die][1]}"
        record = DieRecord(name, GEOMETRY, g, g / 2, self.found[die], self.faults[die], {"v_read": 0.1})
        return record.to_dataset().assign_attrs(verdict="pass")

    def programmed(self, wanted=None):
        return xr.Dataset({"wanted": (("kernel", "row", "column"), self.wanted if wanted is None else wanted)})

    def scores(self, *steps):
        """Scores of a record with these steps ``(protocol, die, function, result)``; by default a plain run."""
        dies = range(len(SITES))
        plain = [
            ("p", die, *step)
            for die in dies
            for step in ((MEASURE_STATES, self.measured(die)), (PROGRAM, self.programmed()))
        ]
        with Record.open(self.folder / "lot") as record:
            for protocol, die, function, result in steps or plain:
                run = record.begin_run(protocol, {})
                name = f"c{SITES[die][0]}r{SITES[die][1]}"
                record.append_step(run, protocol, name, function, "s", "k", {}, time.time(), result)
            return score(record, self.truth_file())


@pytest.fixture
def made_up(tmp_path):
    return MadeUp(tmp_path)


def test_everything_found_and_programmed(made_up):
    first, second = made_up.scores()
    assert (first.die, second.die) == ("c0r0", "c1r0")
    assert (first.defects_true, first.defects_found, first.defects_right, first.class_right) == (4, 4, 4, 4)
    assert (first.healthy, first.in_state) == (26, 26) and (second.healthy, second.in_state) == (30, 30)
    assert set(totals([first, second]).values()) == {2, 1.0}


def test_missed_false_and_mistaken_defects(made_up):
    made_up.found[0][0, 0, 0] = CellClass.GOOD  # missed
    made_up.found[0][0, 0, 1] = CellClass.SHORT  # an open taken for a short
    made_up.found[0][1, 2, 2] = CellClass.STUCK_P  # there is nothing
    made_up.found[0][1, 3, 3] = CellClass.WEAK  # no hard defect
    first, _ = made_up.scores()
    assert (first.defects_true, first.defects_found, first.defects_right, first.class_right) == (4, 4, 3, 2)
    whole = totals([first])
    assert whole["defect_recall"] == 3 / 4 and whole["defect_precision"] == 3 / 4 and whole["class_right"] == 2 / 3


def test_states_count_where_a_healthy_cell_was_written(made_up):
    made_up.wanted[0, 4] = 1  # six cells shall be P
    made_up.state[:, 0, 4, :5] = False  # five are
    made_up.kind[1, 0, 4, 5] = 5  # on the second die the sixth is weak
    first, second = made_up.scores()
    assert (first.healthy, first.in_state) == (26, 25)
    assert (second.healthy, second.in_state) == (29, 29)


def test_a_cell_broken_by_a_pulse_is_a_short(made_up):
    made_up.broken[1, 0, 1, 1] = True
    _, second = made_up.scores()
    assert (second.defects_true, second.defects_found, second.healthy) == (1, 0, 29)
    made_up.found[1][0, 1, 1] = CellClass.SHORT


@pytest.mark.parametrize("fault", [LineFault("column", 0, 2), LineFault("row", 0, 7)])
def test_a_dead_line_is_one_fault_and_no_cells(made_up, fault):
    mask = made_up.dead_line(1, fault)
    made_up.found[1][mask], made_up.faults[1] = CellClass.DEAD_LINE, (fault,)
    first, second = made_up.scores()
    assert (second.lines_true, second.lines_found, second.lines_right) == (1, 1, 1)
    assert (second.defects_true, second.defects_found) == (0, 0)
    assert second.healthy == np.count_nonzero(~mask[0])
    assert first.lines_true == 0


def test_a_dead_gate_beside_its_column_counts_once_and_a_wrong_line_is_wrong(made_up):
    column = LineFault("column", 0, 2)
    made_up.dead_line(0, column)
    made_up.dead_line(0, column)
    made_up.faults[0] = (column, LineFault("row", 0, 3))
    first, _ = made_up.scores()
    assert (first.lines_true, first.lines_found, first.lines_right) == (1, 2, 1)
    assert totals([first])["line_precision"] == 0.5


def test_what_was_programmed_last_counts_by_whatever_protocol(made_up):
    """The die holds what the second protocol wrote; the first one's wishes are history."""
    other = np.where(made_up.wanted == 0, 1, -1).astype(np.int8)
    made_up.state[0] = False
    steps = [
        ("mtj-mnist", 0, MEASURE_STATES, made_up.measured(0)),
        ("mtj-mnist", 0, PROGRAM, made_up.programmed()),
        ("another", 0, MEASURE_STATES, made_up.measured(0)),
        ("another", 0, PROGRAM, made_up.programmed(other)),
    ]
    (only,) = made_up.scores(*steps)
    assert (only.healthy, only.in_state) == (26, 26)


def test_a_die_measured_again_holds_nothing_any_more(made_up):
    steps = [
        ("p", 0, MEASURE_STATES, made_up.measured(0)),
        ("p", 0, PROGRAM, made_up.programmed()),
        ("q", 0, MEASURE_STATES, made_up.measured(0)),
    ]
    (only,) = made_up.scores(*steps)
    assert only.healthy == 0 and only.defects_right == 4
    assert totals([only])["in_state"] is None and totals([only])["right"] is None  # nothing is no success


def test_a_die_that_could_not_be_measured_is_left_out(made_up):
    failed = xr.Dataset(attrs={"verdict": "fail", "reason": "no two states"})
    steps = [("p", 0, MEASURE_STATES, failed), ("p", 1, MEASURE_STATES, made_up.measured(1))]
    assert [each.die for each in made_up.scores(*steps)] == ["c1r0"]


def test_truth_of_other_dies_or_no_truth_is_refused(made_up, tmp_path):
    with Record.open(tmp_path / "empty") as record:
        with pytest.raises(TruthError, match="c0r0, c1r0"):
            score(record, made_up.truth_file())
        (tmp_path / "no.npz").write_text("no", encoding="utf-8")
        with pytest.raises(TruthError, match="is not a truth file"):
            score(record, tmp_path / "no.npz")
        with pytest.raises(TruthError, match="is not a truth file"):
            score(record, tmp_path / "missing.npz")
