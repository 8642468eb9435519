"""Exports: each format holds what the record holds, value by value, or is not there at all."""

import json
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from analysis.export import hdf5 as export_hdf5
from analysis.export import qcodes as export_qcodes
from analysis.export import tables as export_csv
from analysis.export.formats import ExportError, export
from analysis.record.record import COMPUTED, Pulse, Record, RecordError

RNG = np.random.default_rng(3)
DIMS = ("kernel", "row", "column")
OUT = {"hdf5": "run.h5", "qcodes": "run.db", "csv": "run"}


def _measured(seed):
    """A result with all that makes trouble: NaN, infinities, -0.0, text, dates, scalars, coordinates, odd names."""
    rng = np.random.default_rng(seed)
    g = rng.random((2, 3, 4))
    g.flat[:4] = np.nan, np.inf, -np.inf, -0.0
    return xr.Dataset(
        {
            "g": (DIMS, g, {"units": "S", "limits": [0.0, float("nan")]}),
            "good": (DIMS, g > 0.5),
            "small": (DIMS, g.astype(np.float32)),
            "line": ("row", np.array([1, -2, 3], np.int8)),
            "took": ("row", np.array([1, -5, 7], "timedelta64[ms]")),
            "G": ("row", np.zeros(3, ">f4")),
            "z": ("row", np.array([1 + 2j, complex(np.nan, 1), 0], np.complex128)),
            "a/b c": ("training", rng.integers(0, 2**63, 2, np.uint64)),
            "when": ("row", np.array(["2026-01-01", "NaT", "1999-12-31"], "datetime64[ns]")),
            "one": ((), np.float64(0.1 + 0.2)),
            "none": ("empty", np.zeros(0)),
        },
        coords={"training": ["die aware", 'a "b",\nµ '], "row": [0.5, 1.5, 2.5], "site": ("row", ["a", "", "ccc"])},
        attrs={"verdict": "pass", "geometry": {"rows": 3, "x": [1, None, float("inf")]}, "n": 3, "long": "é" * 70_000},
    )


@pytest.fixture
def lot(tmp_path):
    """A lot of two runs of a protocol and one of another; the second of the protocol superseded a step."""
    folder = tmp_path / "lot"
    with Record.open(folder) as record:
        first = record.begin_run("p", {"seed": 1, "station": "bench"})
        steps = [_append(record, first, "c0r0", f"m.f{i}", _measured(i)) for i in range(3)]
        _append(record, first, "", "m.survey", xr.Dataset(attrs={"x": float("nan")}))
        cached = _append(record, first, COMPUTED, "m.train", xr.Dataset({"w": ("i", np.arange(5))}))
        _append(record, first, COMPUTED, "m.unused", xr.Dataset({"w": ("i", np.arange(5))}))
        for count in (1, 3):
            mask = RNG.random((3, 4)) < 0.5
            record.fired(record.intend(first, "c0r0", [Pulse(1, mask, -0.8, 2e-7, count)]))
        record.settle(record.intend(first, "c0r0", [Pulse(0, np.ones((3, 4), bool), 0.8, 1e-7)] * 3), 1)
        record.set_verdict(first, "c0r0", "fail", bin=4, reason='no, "really"\nno')
        record.event(first, "note", 'hello, "you"', "c0r0", value=float("nan"))
        record.end_run(first, "finished")
        other = record.begin_run("q", {})
        _append(record, other, "c0r0", "m.other", xr.Dataset())
        record.end_run(other, "finished")
        last = record.begin_run("p", {"seed": 1}, resumes=first)
        record.supersede(steps[2:], last)
        _append(record, last, "c0r0", "m.f2", _measured(9))
        record.event(last, "computed", "m.train", COMPUTED, step=cached.id)
        record.intend(last, "c1r0", [Pulse(1, np.eye(3, 4, dtype=bool), 0.8, 1e-7)])
    return folder


def _append(record, run, die, function, result):
    protocol = {known["id"]: known["protocol"] for known in record.runs()}[run]
    return record.append_step(run, protocol, die, function, "source", "digest", {"v": 0.1}, time.time(), result)


@pytest.mark.parametrize("to", OUT)
def test_every_format_is_made_of_a_run_in_progress_and_nothing_else_is_left(lot, tmp_path, to):
    with Record.open(lot):
        made = export(lot, None, to, tmp_path / "out" / OUT[to])
    assert made == tmp_path / "out" / OUT[to] and [path.name for path in made.parent.iterdir()] == [OUT[to]]
    with pytest.raises(ExportError, match="exists"):
        export(lot, None, to, made)


def test_hdf5_holds_steps_dose_pulses_verdicts_and_provenance(lot, tmp_path):
    with h5py.File(export(lot, 3, "hdf5", tmp_path / "run.h5")) as file:
        assert list(file["dies/c0r0/steps"]) == ["000001_f0", "000002_f1", "000008_f2"]
        assert list(file["computed/steps"]) == ["000005_train"] and list(file["lot/steps"]) == ["000004_survey"]
        step = file["dies/c0r0/steps/000008_f2"]
        assert np.array_equal(step["g"][()], _measured(9)["g"].values, equal_nan=True)
        assert step["g"].attrs["units"] == "S" and step.attrs["verdict"] == "pass" and step.attrs["step.run"] == 3
        assert step["g"].dims[1].keys() == ["row"] and step["g"].dims[0].label == "kernel"
        assert json.loads(file.attrs["provenance"]) == {"seed": 1} and file.attrs["resumes"] == 1
        pulses = file["dies/c0r0/pulses"]
        assert pulses["fired"].asstr()[()].tolist() == ["yes", "yes", "yes", "no", "no"]
        dose = (pulses["mask"][()] * pulses["count"][()][:, None, None])[:3]
        assert np.array_equal(file["dies/c0r0/dose"][1], dose[0] + dose[1])
        assert np.array_equal(file["dies/c0r0/dose"][0], dose[2])
        assert file["dies/c1r0/dose"][()].sum() == 3
        assert file["verdicts/verdict"].asstr()[()].tolist() == ["fail"]
        assert "note" in file["events/kind"].asstr()[()]


def test_an_earlier_run_is_exported_as_it_was_at_its_end(lot, tmp_path):
    with h5py.File(export(lot, 1, "hdf5", tmp_path / "run.h5")) as file:
        assert list(file["dies"]) == ["c0r0"]
        assert list(file["dies/c0r0/steps"]) == ["000001_f0", "000002_f1", "000003_f2"]
        assert list(file["computed/steps"]) == ["000005_train", "000006_unused"]


def test_qcodes_loads_every_step_and_the_users_own_database_is_not_touched(lot, tmp_path):
    import qcodes
    from qcodes.dataset import load_by_id
    from qcodes.dataset.sqlite.database import connect

    own = qcodes.config["core"]["db_location"]
    made = export(lot, 3, "qcodes", tmp_path / "run.db")
    assert qcodes.config["core"]["db_location"] == own
    connection = connect(made)
    data = load_by_id(5, conn=connection)  # the fifth step of the run
    read = data.get_parameter_data()
    assert np.array_equal(read["g"]["g"][0], _measured(9)["g"].values, equal_nan=True)
    assert read["g"]["row"][0][0, :, 0].tolist() == [0.5, 1.5, 2.5]
    assert data.exp_name == "p" and data.sample_name == "c0r0" and data.paramspecs["g"].unit == "S"
    assert json.loads(data.metadata["xbarlab_run"])["provenance"] == {"seed": 1}
    assert data.paramspecs["a_b_c"].label == "a/b c"
    with Record.open(lot, write=False) as record:  # the time of the measurement, not that of the export
        step = next(
            row.step for row in record.steps() if row.step.id == json.loads(data.metadata["xbarlab_step"])["id"]
        )
    assert (data.run_timestamp_raw, data.completed_timestamp_raw) == (step.started, step.ended)
    connection.close()


def test_csv_is_a_folder_of_tables(lot, tmp_path):
    made = export(lot, 3, "csv", tmp_path / "run")
    cells = pd.read_csv(made / "steps" / "000008_c0r0_f2" / "kernel-row-column.csv")
    assert list(cells) == ["kernel", "row", "column", "g", "good", "small"]
    assert np.array_equal(cells["g"], _measured(9)["g"].values.ravel(), equal_nan=True)
    assert pd.read_csv(made / "verdicts.csv")["reason"].tolist() == ['no, "really"\nno']
    assert pd.read_csv(made / "pulses.csv")["fired"].tolist() == ["yes", "yes", "yes", "no", "no", "unknown"]
    dose = pd.read_csv(made / "dose.csv").groupby("die")["pulses"].sum()
    with Record.open(lot, write=False) as record:
        assert dose["c0r0"] == record.dose("c0r0", (2, 3, 4)).sum() and dose["c1r0"] == 3


def _spoil_hdf5(path):
    with h5py.File(path, "r+") as file:
        file["dies/c0r0/steps/000008_f2/g"][1, 1, 1] += 1e-16


def _spoil_csv(path):
    file = path / "steps" / "000008_c0r0_f2" / "row.csv"
    file.write_text(file.read_text().replace("-2", "-3"))


def _spoil_qcodes(path):
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("UPDATE runs SET xbarlab_attrs = '{}' WHERE run_id = 5")
    database.close()


@pytest.mark.parametrize(
    ("to", "module", "spoil"),
    [("hdf5", export_hdf5, _spoil_hdf5), ("csv", export_csv, _spoil_csv), ("qcodes", export_qcodes, _spoil_qcodes)],
)
def test_an_export_that_reads_back_differently_is_refused_and_removed(lot, tmp_path, monkeypatch, to, module, spoil):
    write = module.write
    monkeypatch.setattr(module, "write", lambda contents, path: (write(contents, path), spoil(path)))
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"(step 8|000008).*does not read back"):
        export(lot, 3, to, tmp_path / "out" / OUT[to])
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_says_why(lot, tmp_path):
    with pytest.raises(RecordError, match=r"no run 7.*1, 2, 3"):
        export(lot, 7, "hdf5", tmp_path / "x.h5")
    with pytest.raises(ExportError, match="hdf5, qcodes, csv"):
        export(lot, None, "pickle", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="another --out"):
        export(lot, None, "csv", tmp_path / "file" / "x")
