"""The record: what goes in comes out bit for bit, whatever it is."""

import json
import os
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from record_files import append, edit, some_result

from analysis.record.datasets import from_json, to_json
from analysis.record.digest import digest
from analysis.record.record import Pulse, Record, RecordError

DTYPES = st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.uint16, np.bool_])


@pytest.fixture(scope="module")
def one_record(tmp_path_factory):
    with Record.open(tmp_path_factory.mktemp("record")) as record:
        yield record


@given(array=DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=3, max_side=5))))
def test_a_step_reads_back_bit_for_bit(one_record, array):
    dims = [f"d{i}" for i in range(array.ndim)]
    data = xr.Dataset({"x": (dims, array, {"units": "S"})}, coords={"d0": np.arange(array.shape[0])}, attrs={"n": 1})
    run = one_record.begin_run("p", {})
    back = one_record.load(one_record.append_step(run, "p", "c0r0", "f", "s", "k", {}, time.time(), data))
    assert back["x"].dtype == array.dtype
    assert back["x"].values.tobytes() == array.tobytes()
    assert back["x"].attrs == {"units": "S"} and back.attrs == {"n": 1} and back["x"].dims == tuple(dims)


def test_objects_and_unknown_attributes_are_refused(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        objects = xr.Dataset({"x": ("i", np.array([object()]))})
        with pytest.raises(TypeError, match="dtype object"):
            record.append_step(run, "p", "", "f", "s", "k", {}, 0.0, objects)
        with pytest.raises(TypeError, match="own"):
            record.append_step(run, "p", "", "f", "s", "k", {}, 0.0, xr.Dataset(attrs={"a": {"$float": "nan"}}))
        with pytest.raises(TypeError, match="attributes must be"):
            record.append_step(run, "p", "", "f", "s", "k", {}, 0.0, xr.Dataset(attrs={"a": object()}))
        assert record.history("p", "") == []


def test_superseded_steps_stay_but_no_longer_hold(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        steps = [
            record.append_step(run, "p", "d", f"f{i}", "s", "k", {}, 0.0, xr.Dataset(attrs={"i": i})) for i in range(3)
        ]
        record.supersede(steps[1:], run)
        assert [s.function for s in record.history("p", "d")] == ["f0"]
        assert record.load(steps[2]).attrs == {"i": 2}


def test_dose_is_the_sum_of_all_intents_fired_or_not(tmp_path):
    rng = np.random.default_rng(1)
    expected = np.zeros((2, 3, 5), int)
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        for count in (1, 4, 2):
            mask = rng.random((3, 5)) < 0.5
            batch = record.intend(run, "d", [Pulse(count % 2, mask, 0.8, 1e-7, count)])
            expected[count % 2] += mask * count
            if count == 4:
                record.fired(batch)
        assert (record.dose("d", (2, 3, 5)) == expected).all()
        assert [batch.id for batch in record.unfired("d")] == [1, 3]
        assert record.unfired("other") == []


def test_an_unwritable_folder_and_a_missing_record_say_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="--out"):
        Record.open(tmp_path / "file")
    with pytest.raises(RecordError, match=r"record\.sqlite"):
        Record.open(tmp_path / "nothing", create=False)


def test_equal_content_has_equal_digests_and_other_content_others():
    data = xr.Dataset({"x": ("i", np.arange(3))})
    assert digest({"a": data, "b": (1, 2.0)}) == digest({"b": [1, 2.0], "a": data.copy(deep=True)})
    assert digest(data) != digest(data.astype(float))
    assert digest(np.zeros((2, 3))) != digest(np.zeros((3, 2)))
    with pytest.raises(TypeError, match="cannot be recorded"):
        digest(open)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(attrs=st.dictionaries(st.text(), VALUES, max_size=4))
def test_attributes_read_back_and_are_valid_json_with_nan_too(attrs):
    text = to_json(attrs, "attributes")
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert repr(from_json(text)) == repr(attrs)


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (np.random.default_rng(0).random(2500), "raw"),
        (np.random.default_rng(0).normal(size=2500).astype(np.float32), "raw"),
        (np.zeros(2500), "zlib"),
        (np.arange(2500) % 2 == 0, "zlib"),
        (np.random.default_rng(0).integers(0, 3, 2500).astype(np.int16), "zlib"),
        (np.arange(3), "raw"),
    ],
)
def test_only_what_becomes_smaller_is_compressed(tmp_path, array, stored):
    with Record.open(tmp_path) as record:
        step = append(record, record.begin_run("p", {}), xr.Dataset({"x": ("i", array)}))
        assert np.array_equal(record.load(step)["x"].values, array)
        assert record._db.execute("SELECT stored FROM arrays").fetchall() == [(stored,)]


def test_runs_say_what_they_resume_which_process_and_how_they_ended(tmp_path):
    with Record.open(tmp_path) as record:
        first = record.begin_run("p", {"x": float("nan")})
        record.set_status(first, "paused")
        assert record.runs()[0]["status"] == "paused" and record.runs()[0]["pid"] == os.getpid()
        record.end_run(first, "aborted")
        record.begin_run("p", {}, resumes=first)
        assert [(run["status"], run["resumes"]) for run in record.runs()] == [("aborted", None), ("running", 1)]
        assert np.isnan(record.runs()[0]["provenance"]["x"])
        with pytest.raises(ValueError, match="none of"):
            record.end_run(first, "over")


def test_sources_are_kept_once_and_checked(tmp_path):
    with Record.open(tmp_path) as record:
        digests = {record.keep_source("def f(): ...") for _ in range(3)}
        assert len(digests) == 1 and record.source(digests.copy().pop()) == "def f(): ..."
        assert record.source("none") is None
    edit(tmp_path, "UPDATE sources SET text='def f(): evil'")
    with Record.open(tmp_path) as record, pytest.raises(RecordError, match="edited or damaged"):
        record.source(digests.pop())


def test_the_newest_verdict_of_a_die_holds(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        record.set_verdict(run, "a", "fail", bin=3, reason="open line")
        record.set_verdict(run, "b", "pass", bin=1)
        record.set_verdict(record.begin_run("q", {}), "a", "pass", bin=1)
        assert {die: (v.run, v.verdict, v.bin) for die, v in record.verdicts().items()} == {
            "a": (2, "pass", 1),
            "b": (1, "pass", 1),
        }
        with pytest.raises(ValueError, match="inconclusive"):
            record.set_verdict(run, "a", "good", bin=1)


def test_the_newest_step_with_variables_is_found_over_protocols_and_supersessions(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        step = append(record, run, some_result(1.0))
        record.supersede([append(record, run, some_result(2.0), protocol="q")], run)
        append(record, run, xr.Dataset({"x": ("i", np.zeros(2))}))
        assert record.newest_step_with("d", "x", "ok").id == step.id + 1
        assert record.latest_with("d", "ok").attrs["number"] == 2.0
        assert record.latest_with("d", "y") is None and record.latest_with("e", "x") is None
