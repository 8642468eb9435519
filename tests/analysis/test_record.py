"""The record: what goes in comes out bit for bit, intents are there before pulses, nothing is lost or unpickled."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.digest import digest
from analysis.record import Pulse, Record, RecordError

DTYPES = st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.uint16, np.bool_])


@given(array=DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=3, max_side=5))))
def test_a_step_reads_back_bit_for_bit(tmp_path_factory, array):
    dims = [f"d{i}" for i in range(array.ndim)]
    data = xr.Dataset({"x": (dims, array, {"units": "S"})}, coords={"d0": np.arange(array.shape[0])}, attrs={"n": 1})
    with Record.open(tmp_path_factory.mktemp("record")) as record:
        run = record.begin_run("p", {})
        step = record.append_step(run, "p", "c0r0", "f", "s", "k", {}, time.time(), data)
        back = record.load(step)
    assert back["x"].dtype == array.dtype
    assert back["x"].values.tobytes() == array.tobytes()
    assert back["x"].attrs == {"units": "S"} and back.attrs == {"n": 1} and back["x"].dims == tuple(dims)


def test_objects_and_unknown_attributes_are_refused(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        objects = xr.Dataset({"x": ("i", np.array([object()]))})
        with pytest.raises(TypeError, match="dtype object"):
            record.append_step(run, "p", "", "f", "s", "k", {}, 0.0, objects)
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
        assert record.unfired("d") == 2
        assert record.unfired("other") == 0


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


WRITER = """
import sys, time, numpy as np, xarray as xr
from analysis.record import Pulse, Record
record = Record.open(sys.argv[1])
run = record.begin_run("p", {})
for i in range(100000):
    record.intend(run, "d", [Pulse(0, np.ones((5, 5), bool), 0.8, 1e-7)])
    record.append_step(run, "p", "d", "f", "s", str(i), {}, 0.0, xr.Dataset({"x": ("i", np.full(1000, i))}))
    sys.stdout.write(f"{i}\\n"); sys.stdout.flush()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills with a POSIX signal")
def test_nothing_committed_is_lost_by_kill(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last = [int(writer.stdout.readline()) for _ in range(20)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with Record.open(tmp_path, create=False) as record:
        steps = record.history("p", "d")
        assert len(steps) > last
        assert [int(record.load(step)["x"].values[0]) for step in steps] == list(range(len(steps)))
        assert record.dose("d", (1, 5, 5)).min() >= len(steps)
