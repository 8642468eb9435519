"""Records from elsewhere, odd media and odd ways of use: nothing acts, nothing takes all memory, errors say where."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import zlib
from contextlib import closing

import numpy as np
import pytest
import xarray as xr
from record_files import SHAPE, append, edit, some_result

from analysis.record import database as record_database
from analysis.record.datasets import seal
from analysis.record.record import COMPUTED, Pulse, Record, RecordError
from analysis.record.schema import SCHEMA

MASK = np.ones(SHAPE[1:], bool)


@pytest.fixture
def lot(tmp_path):
    """A folder with a record of a run with two steps, an event and a batch."""
    with Record.open(tmp_path / "lot") as record:
        run = record.begin_run("p", {"find": "x"})
        append(record, run, some_result())
        append(record, run, some_result(2.0), die=COMPUTED)
        record.event(run, "noted", "something", "d", step=1)
        record.fired(record.intend(run, "d", [Pulse(1, MASK, 0.9, 2e-7)]))
    return tmp_path / "lot"


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("CREATE TRIGGER t AFTER UPDATE ON runs BEGIN DELETE FROM steps; END", "trigger 't'"),
        ("CREATE TRIGGER t AFTER INSERT ON requests BEGIN DELETE FROM steps; END", "trigger 't'"),
        ("CREATE VIEW v AS SELECT * FROM runs", "view 'v'"),
        ("CREATE TABLE more (a, b GENERATED ALWAYS AS (a * 2))", "table 'more'"),
        ("CREATE INDEX i ON steps (abs(id))", "index 'i'"),
        ("CREATE VIRTUAL TABLE f USING fts5(text)", "table 'f"),
        ("ALTER TABLE runs ADD COLUMN x GENERATED ALWAYS AS (abs(pid))", "'runs'"),
        ("DROP INDEX steps_of_die", "'steps_of_die'"),
        ("DROP TABLE arrays", "'arrays'"),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_a_database_that_holds_more_than_a_record_is_refused_before_anything_of_it_is_used(
    lot, statement, names, write
):
    with closing(sqlite3.connect(lot / "record.sqlite")) as database:
        database.execute(statement)
        database.commit()
    with pytest.raises(RecordError, match=names):
        Record.open(lot, write=write)


def test_a_view_in_place_of_a_table_is_refused(lot):
    with closing(sqlite3.connect(lot / "record.sqlite")) as database:
        database.executescript(
            "ALTER TABLE runs RENAME TO other; CREATE VIEW runs AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x "
            "FROM c) SELECT * FROM other, c;"
        )
    with pytest.raises(RecordError, match="'batches'"):
        Record.open(lot, write=False)


def test_statistics_that_sqlite_makes_for_itself_are_no_strangers(lot):
    with closing(sqlite3.connect(lot / "record.sqlite")) as database:
        database.execute("ANALYZE")
        database.commit()
        database.execute("VACUUM")
    with Record.open(lot, write=False) as record:
        assert len(record.steps()) == 2


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "{", "[1]", "3", '{"$float": [1]}', '{"$float": "x"}', "9" * 5000]
)
def test_texts_that_are_no_json_or_absurdly_deep_name_their_row(lot, text):
    edit(lot, "UPDATE events SET data=?", text)
    with Record.open(lot, write=False) as record, pytest.raises(RecordError, match="event 1 of run 1"):
        record.events()
    edit(lot, "UPDATE runs SET provenance=?", text)
    with Record.open(lot, write=False) as record, pytest.raises(RecordError, match="run 1"):
        record.runs()


FIELDS = ["id", "run", "protocol", "die", "function", "source", "inputs_digest", "inputs", "started", "ended",
          "verdict", "attrs", "variables"]  # fmt: skip


def forge(lot, **values):
    """Change a step and give it a seal that holds: seals find accidents, not forgers."""
    with closing(sqlite3.connect(lot / "record.sqlite", isolation_level=None)) as database:
        old = database.execute(f"SELECT {', '.join(FIELDS)} FROM steps WHERE id=1").fetchone()
        row = dict(zip(FIELDS, old, strict=True))
        row |= values
        sets = ", ".join(f"{name}=?" for name in values)
        database.execute(f"UPDATE steps SET {sets}, seal=? WHERE id=1", (*values.values(), seal(*row.values())))


@pytest.mark.parametrize(
    "values",
    [
        {"inputs": DEEP}, {"attrs": DEEP}, {"variables": DEEP}, {"attrs": "[]"}, {"attrs": "3"}, {"variables": "3"},
        {"variables": "{}"}, {"variables": "[[1]]"}, {"variables": '[["x", 5, ["i"], {}, "h"]]'}, {"variables": "[7]"},
        {"variables": '[["x", false, 7, {}, "h"]]'}, {"variables": '[["x", false, ["i"], {}, ["h"]]]'},
    ],
)  # fmt: skip
def test_a_forged_step_is_an_error_that_names_it(lot, values):
    forge(lot, **values)
    with Record.open(lot, write=False) as record:
        for read in (lambda: record.load(1), record.steps, lambda: record.newest_step_with("d", "nothing such")):
            try:
                read()
            except RecordError as error:
                assert "step 1" in str(error)
                return
    assert values in ({"variables": "{}"}, {"attrs": "[]"}), "nothing was wrong with it"


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("<f8", "[100000000000]"), ("<f8", "[-1]"), ("|u1", "[-1]"), ("<f8", "[1e3]"), ("<f8", "[true, 1000]"),
        ("|O", "[1000]"),
        ("<f8", DEEP), ("<f8", "3"), ("(1000000000,)f8", "[1000]"), ("i4,(100000000,)f8", "[1]"), ("|V8", "[1000]"),
        ("x" * 1000, "[1000]"), ("<U500000000", "[1]"),
    ],
)  # fmt: skip
def test_what_an_array_says_of_its_size_is_checked_before_it_is_unpacked(lot, dtype, shape):
    edit(lot, "UPDATE arrays SET dtype=?, shape=?, stored='zlib', data=?", dtype, shape, zlib.compress(bytes(2**24)))
    with Record.open(lot, write=False) as record, pytest.raises(RecordError, match=r"step 1 .*array 'x' was edited"):
        record.load(1)


def test_an_array_larger_than_a_record_holds_is_refused_when_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.record.datasets.LARGEST", 100)
    with Record.open(tmp_path) as record, pytest.raises(TypeError, match="a record holds arrays of up to"):
        append(record, record.begin_run("p", {}), xr.Dataset({"x": ("i", np.zeros(1000))}))


@pytest.mark.parametrize(
    "values", [{"kernel": 10**9}, {"shape": "[100000, 100000]"}, {"shape": "[0, 0]"}, {"shape": "x"}]
)
def test_a_forged_pulse_takes_no_memory(lot, values):
    with closing(sqlite3.connect(lot / "record.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints=ON")
        batch = database.execute("SELECT id, run, die, time, tester, actions, after_step FROM batches").fetchone()
        names = ("kernel", "amplitude", "width", "count", "scheme", "shape", "mask")
        pulse = (
            dict(zip(names, database.execute(f"SELECT {', '.join(names)} FROM pulses").fetchone(), strict=True))
            | values
        )
        for name, value in values.items():
            database.execute(f"UPDATE pulses SET {name}=?", (value,))
        sealed = seal(*batch, (*list(pulse.values())[:-1], pulse["mask"].hex()))
        database.execute("UPDATE batches SET seal=?", (sealed,))
    with Record.open(lot, write=False) as record, pytest.raises(RecordError, match="pulse batch 1"):
        record.intents("d")


def test_text_with_half_characters_ends_no_run(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {"command": ["a\udc80b"]})
        record.event(run, "fault", "no file a\udc80b\0")
        record.set_verdict(run, "d", "error", bin=6, reason="a\udc80b")
        assert record.source(record.keep_source("a\udc80b")) == "a\\udc80b"
        assert record.events("fault")[0]["message"] == "no file a\\udc80b\0"
        assert record.runs()[0]["provenance"]["command"] == ["a\udc80b"]


def test_a_record_may_be_read_and_written_from_any_thread(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        faults = []

        def work(number):
            try:
                for each in range(20):
                    step = append(
                        record, run, xr.Dataset({"x": ("i", np.full(50, number * 100 + each))}), die=f"d{number}"
                    )
                    assert record.load(step)["x"].values[0] == number * 100 + each
                    record.intend(run, f"d{number}", [Pulse(0, MASK, 0.9, 2e-7)])
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert [len(record.history("p", f"d{number}")) for number in range(4)] == [20] * 4
        assert {record.dose(f"d{number}", (1, *MASK.shape)).max() for number in range(4)} == {20}


def test_a_copy_of_the_one_file_holds_all_that_was_folded_in(tmp_path):
    with Record.open(tmp_path / "lot") as record:
        run = record.begin_run("p", {})
        step = append(record, run, some_result())
        record.fold_in()
        append(record, run, some_result(2.0))
        (tmp_path / "copy").mkdir()
        shutil.copyfile(record.path, tmp_path / "copy" / "record.sqlite")
    with Record.open(tmp_path / "copy", write=False) as copy:
        assert [found.id for found in copy.history("p", "d")] == [step.id]


@pytest.mark.slow
def test_a_full_disk_while_a_record_is_made_leaves_nothing_broken(tmp_path):
    code = (
        "import resource, sys\nfrom analysis.record.record import Record, RecordError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in sys.argv[2:]:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))\n"
        "    try:\n        Record.open(f'{sys.argv[1]}/{limit}')\n"
        "    except RecordError as error:\n        print(limit, 'said', error)\n"
    )
    limits = ("0", "100", "5000", "20000", "60000")
    done = subprocess.run([sys.executable, "-c", code, tmp_path, *limits], capture_output=True, text=True)
    for limit in limits:
        said = [line for line in done.stdout.splitlines() if line.startswith(f"{limit} said ")]
        assert len(said) == 1 and "--out" in said[0], done.stdout + done.stderr
        folder = tmp_path / limit
        assert list(folder.iterdir()) == []
        Record.open(folder).close()


test_a_full_disk_while_a_record_is_made_leaves_nothing_broken = pytest.mark.skipif(
    os.name != "posix", reason="limits a process"
)(test_a_full_disk_while_a_record_is_made_leaves_nothing_broken)


@pytest.mark.parametrize("log", [False, True])
def test_a_record_on_a_medium_that_cannot_be_written_is_read(lot, tmp_path, monkeypatch, log):
    folder = tmp_path / "medium"
    folder.mkdir()
    with Record.open(lot) as record:
        append(record, 1, some_result(3.0))
        if not log:
            record.fold_in()
        for ending in ("", "-wal") if log else ("",):
            shutil.copyfile(lot / f"record.sqlite{ending}", folder / f"record.sqlite{ending}")
    connect, was = record_database._connect, sorted(path.name for path in folder.iterdir())

    def refused(path, mode):  # as SQLite does where it cannot make its index
        if path.parent == folder and "immutable" not in mode:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, mode)

    monkeypatch.setattr(record_database, "_connect", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Record.open(folder, write=False) as record:
        assert record.load(3).attrs["number"] == 3.0 and len(record.runs()) == 1
    assert sorted(path.name for path in folder.iterdir()) == was


def test_the_schema_is_what_new_records_have(tmp_path):
    Record.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "record.sqlite")) as database:
        made = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL")}
    assert all(f" {name} " in SCHEMA for name in made) and json.dumps(sorted(made))
