"""The present schema; records of schema 3 are read as they are and converted when they are to be written."""

import hashlib
import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import xarray as xr
from record_files import SHAPE, append, edit, some_result
from schema_3 import as_schema_3

from analysis.open_run import open_run
from analysis.record import schema_3 as record_schema_3
from analysis.record.datasets import seal
from analysis.record.record import Pulse, Record, RecordError
from analysis.record.step_names import MEASURE_STATES, OLD_NAMES

MASK = np.ones(SHAPE[1:], bool)
PULSE = {"kernel": 0, "amplitude": 0.9, "width": 2e-7, "count": 1, "shape": "[3, 5]", "mask": b"\xff\x7f"}


@pytest.fixture
def old(tmp_path):
    """A record as schema 3 had it: a measured die, and a batch that its second run settled."""
    with Record.open(tmp_path / "new") as record:
        run = record.begin_run("p", {})
        append(record, run, some_result(), function="protocols.characterise.measure_states")
        append(record, run, some_result(2.0), function="noise.py.read_noise")
        batch = record.intend(run, "d", [Pulse(1, MASK, 0.9, 2e-7, 2)] * 3, tester="board 1", actions=7)
        record.end_run(run, "failed")
        record.begin_run("p", {}, resumes=run)
        record.settle(batch, 1)
    folder = tmp_path / "old"
    as_schema_3(tmp_path / "new", folder)
    return folder


def contents(folder, write=False):
    with Record.open(folder, create=False, write=write) as record:
        steps = [(vars(row.step), row.inputs, record.load(row.step).to_dict()) for row in record.steps()]
        return repr((steps, record.intents("d"), record.dose("d", SHAPE).tolist(), record.unfired("d"), record.runs()))


def digest(folder):
    return hashlib.sha256((folder / "record.sqlite").read_bytes()).hexdigest()


def test_a_record_of_schema_3_is_read_without_a_change_to_it(old):
    before = digest(old)
    assert contents(old) == contents(old.parent / "new")
    with open_run(old) as lot:
        assert lot.results("measure-states").keys() == lot.results("measure_states").keys() == {"d"}
        assert lot.results("protocols.characterise.measure_states") and lot.results("read_noise")
        assert lot.record.results("p", MEASURE_STATES)
    assert digest(old) == before


def test_it_is_converted_when_it_is_to_be_written_and_nothing_is_lost(old):
    before = contents(old)
    assert contents(old, write=True) == before == contents(old)
    with closing(sqlite3.connect(old / "record.sqlite")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)
        assert database.execute("SELECT name FROM steps ORDER BY id").fetchall() == [
            ("measure-states",), ("noise.py.read_noise",)
        ]  # fmt: skip
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_conversion_that_is_broken_off_leaves_the_record_as_it_was(old, monkeypatch):
    before = contents(old)

    def broken(database):
        raise KeyboardInterrupt

    monkeypatch.setattr(record_schema_3, "_move_impossible", broken)
    with pytest.raises(KeyboardInterrupt):
        Record.open(old)
    monkeypatch.undo()
    assert contents(old) == before
    with closing(sqlite3.connect(old / "record.sqlite")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)


def test_pulses_that_schema_3_let_in_lower_no_dose_and_become_events(old):
    with closing(sqlite3.connect(old / "record.sqlite", isolation_level=None)) as database:
        row = database.execute("SELECT id, run, die, time, tester, actions, after_step FROM batches").fetchone()
        database.execute("UPDATE pulses SET count=-4 WHERE position=0")
        database.execute("UPDATE batches SET settled=NULL, frames=NULL")
        pulses = database.execute(
            "SELECT kernel, amplitude, width, count, scheme, shape, mask FROM pulses ORDER BY position"
        ).fetchall()
        database.execute("UPDATE batches SET seal=?", (seal(*row, *((*p[:-1], p[-1].hex()) for p in pulses)),))
    with Record.open(old, write=False) as record:
        assert record.dose("d", SHAPE).max() == 4  # two pulses of count 2; -4 is none
    with Record.open(old) as record:
        assert record.dose("d", SHAPE).max() == 4
        (event,) = record.events("impossible")
        assert event["die"] == "d" and "-4" in json.dumps(event["data"])


def test_a_record_of_schema_3_is_replayed_from_as_it_was_before_a_run(old, tmp_path):
    with Record.open(old, write=False) as lot, lot.copy_before(2, tmp_path / "copy") as copy:
        assert [batch.id for batch in copy.unfired("d")] == [1]
        assert [step.name for step in copy.history("p", "d")] == ["measure-states", "noise.py.read_noise"]
        assert copy.load(copy.history("p", "d")[0]).attrs["number"] == 1.0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_what_came_when_is_told_by_numbers_and_not_by_the_clock(tmp_path, monkeypatch, jump):
    clock = [1e9]
    monkeypatch.setattr("time.time", lambda: clock[0])
    with Record.open(tmp_path / "lot") as record:
        first = record.begin_run("p", {})
        append(record, first, some_result(), die="c0")
        batch = record.intend(first, "c1", [Pulse(0, MASK, 0.9, 2e-7)])
        append(record, first, some_result(), die="c2")
        clock[0] += jump
        second = record.begin_run("p", {}, resumes=first)
        record.settle(batch, 0)
        append(record, second, some_result(), die="c3")
        clock[0] -= jump - 1
        third = record.begin_run("p", {}, resumes=second)
        append(record, third, some_result(), die="c0")
        assert record.dies() == ["c0", "c1", "c2", "c3"]
        with record.copy_before(third, tmp_path / "third") as copy:
            assert copy.unfired("c1") == [] and copy.dose("c1", SHAPE).max() == 0
            assert copy.dies() == ["c0", "c1", "c2", "c3"]
        with record.copy_before(second, tmp_path / "second") as copy:
            assert [each.id for each in copy.unfired("c1")] == [batch] and copy.dies() == ["c0", "c1", "c2"]


def test_a_changed_name_is_noticed(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        for name, function in (("x", "m.f"), ("", "m.f"), ("", "protocols.characterise.measure_states")):
            record.append_step(run, "p", "d", function, "s", "k", {}, 0.0, xr.Dataset(), name=name)
    for number, name in ((1, "m.f"), (2, "x"), (3, "protocols.characterise.measure_states")):
        edit(tmp_path, "UPDATE steps SET name=? WHERE id=?", name, number)
        with Record.open(tmp_path, write=False) as record, pytest.raises(RecordError, match="seal"):
            record.load(number)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0}, {"count": -4}, {"count": 1.5}, {"count": "many"}, {"kernel": -1}, {"kernel": 0.5},
        {"amplitude": float("nan")}, {"amplitude": float("inf")}, {"amplitude": "x"}, {"amplitude": -1e9},
        {"width": float("nan")}, {"width": float("inf")}, {"width": -1e-9}, {"width": None},
        {"mask": b"\xff"}, {"mask": b"\xff\xff\xff"}, {"mask": "text"}, {"shape": "[0, 5]"}, {"shape": "x"},
        {"shape": "[3, 5, 2]"},
    ],
)  # fmt: skip
def test_the_database_refuses_pulses_that_cannot_be(tmp_path, wrong):
    with Record.open(tmp_path) as record:
        record.intend(record.begin_run("p", {}), "d", [])
    values = {"batch": 1, "position": 0} | PULSE
    statement = f"INSERT INTO pulses ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
    edit(tmp_path, statement, *(values | {"position": 1}).values())
    with pytest.raises(sqlite3.IntegrityError):
        edit(tmp_path, statement, *(values | wrong).values())


def test_old_names_are_all_different():
    assert len(set(OLD_NAMES.values())) == len(OLD_NAMES)
