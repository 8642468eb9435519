"""The ledger: dose is an upper bound of what was fired, exact where the tester could tell, and cheap to ask for."""

import sqlite3
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import SHAPE, append, some_result

from analysis.record.record import COMPUTED, Pulse, Record, RecordError

masks = st.integers(1, 2**15 - 1).map(lambda bits: np.array([bits >> i & 1 for i in range(15)], bool).reshape(3, 5))
pulses = st.builds(Pulse, st.integers(0, 1), masks, st.just(-0.8), st.just(1e-7), st.integers(1, 5))
#: What becomes of a batch: confirmed, left open, or settled with so many frames (None: unknown).
ends = st.sampled_from(["fired", "open", None]) | st.integers(0, 4)
batches = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(pulses, max_size=3), ends), max_size=6)


@settings(max_examples=40)
@given(batches=batches, look=st.booleans())
def test_dose_is_the_sum_of_what_may_have_been_fired(tmp_path_factory, batches, look):
    expected = {"a": np.zeros(SHAPE, int), "b": np.zeros(SHAPE, int)}
    bound = {"a": np.zeros(SHAPE, int), "b": np.zeros(SHAPE, int)}
    folder, waiting = tmp_path_factory.mktemp("record"), {"a": [], "b": []}
    with Record.open(folder) as record, Record.open(folder, write=False) as reader:
        run = record.begin_run("p", {})
        for die, batch, end in batches:
            number = record.intend(run, die, batch, tester="board 1", actions=7, power_on="on 1", last_seq=9)
            for position, pulse in enumerate(batch):
                bound[die][pulse.kernel] += pulse.mask * pulse.count
                if not isinstance(end, int) or position < end:
                    expected[die][pulse.kernel] += pulse.mask * pulse.count
            if look:  # before it is known what became of it: an upper bound, from the sum of before
                assert (record.dose(die, SHAPE) >= expected[die]).all() and (
                    reader.dose(die, SHAPE) <= bound[die]
                ).all()
            _end(record, number, end)
            if end == "open":
                waiting[die].append((number, run, die, "board 1", 7, tuple(pulse.kernel for pulse in batch), "on 1", 9))
        for die in ("a", "b"):
            assert np.array_equal(record.dose(die, SHAPE), expected[die])
            assert np.array_equal(reader.dose(die, SHAPE), expected[die])
            total = np.zeros(SHAPE, int)
            for pulse in record.pulses(die):
                total[pulse.kernel] += pulse.mask * pulse.count
            assert np.array_equal(total, expected[die])
            assert [tuple(vars(batch).values()) for batch in record.unfired(die)] == waiting[die]
    with Record.open(folder, write=False) as record:
        assert all(np.array_equal(record.dose(die, SHAPE), expected[die]) for die in ("a", "b"))


def nothing_but(**changed):
    """A pulse that is in order but for one field."""
    return Pulse(**({"kernel": 1, "mask": np.ones((3, 5), bool), "amplitude": 0.8, "width": 1e-7} | changed))


@pytest.mark.parametrize("changed", [
    {"count": 0}, {"count": -4}, {"count": 1.0}, {"count": 2.5}, {"count": True}, {"count": "3"}, {"count": 10**9},
    {"count": None}, {"amplitude": np.nan}, {"amplitude": np.inf}, {"amplitude": "1 V"}, {"amplitude": 1 + 0j},
    {"amplitude": 1e4}, {"amplitude": np.array([1.0, 2.0])}, {"width": np.nan}, {"width": -1e-7}, {"width": 1e9},
    {"width": None}, {"kernel": -1}, {"kernel": 2}, {"kernel": 0.5}, {"kernel": True}, {"mask": np.ones((3, 5))},
    {"mask": np.zeros((3, 5), bool)}, {"mask": np.ones((5, 3), bool)}, {"mask": np.ones(15, bool)},
    {"mask": [[True] * 5] * 3}, {"mask": None}, {"mask": np.ma.array(np.ones((3, 5), int))}, {"scheme": 3},
])  # fmt: skip
def test_a_pulse_that_no_tester_fires_is_refused_and_nothing_of_its_batch_is_kept(tmp_path, changed):
    with Record.open(tmp_path) as record:
        run, good = record.begin_run("p", {}), nothing_but()
        record.fired(record.intend(run, "d", [good], shape=SHAPE))
        with pytest.raises(ValueError, match="pulse"):
            record.intend(run, "d", [good, nothing_but(**changed)], shape=SHAPE)
        assert record.dose("d", SHAPE).sum() == 15 and record.unfired("d") == []


@pytest.mark.parametrize("column, value", [
    ("count", 0), ("count", -4), ("count", 1.5), ("count", "x"), ("kernel", -1), ("kernel", 2), ("amplitude", 1e4),
    ("amplitude", "x"), ("amplitude", np.inf), ("width", -1.0), ("width", np.inf), ("mask", b"\0\0"), ("mask", b"\1"),
    ("shape", "[5, 5]"),
])  # fmt: skip
def test_the_database_refuses_them_by_itself(tmp_path, column, value):
    with Record.open(tmp_path) as record:
        record.intend(record.begin_run("p", {}), "d", [nothing_but()], shape=SHAPE)
        with pytest.raises(sqlite3.IntegrityError, match=r"a pulse that cannot be|a kernel that the die has not"):
            record._db.execute(f"UPDATE pulses SET {column}=?", (value,))


def test_numbers_of_numpy_are_numbers(tmp_path):
    given = nothing_but(kernel=np.int64(0), amplitude=np.float32(0.5), count=np.uint8(3), width=np.float64(2e-7))
    with Record.open(tmp_path) as record:
        record.fired(record.intend(record.begin_run("p", {}), "d", [given], shape=SHAPE))
        assert record.dose("d", SHAPE)[0].max() == 3 and record.pulses("d")[0].amplitude == 0.5


def _end(record, number, end):
    if end == "fired":
        record.fired(number)
    elif end != "open":
        record.settle(number, end)


def _pulse(mask=None):
    return Pulse(1, np.ones((3, 5), bool) if mask is None else mask, 0.8, 1e-7, 2)


def test_what_is_known_of_a_dose_is_never_made_less(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        confirmed, settled = (record.intend(run, "d", [_pulse()]) for _ in range(2))
        record.fired(confirmed)
        record.settle(settled, None)
        for batch in (confirmed, settled, 77):
            with pytest.raises(RecordError, match="not waiting to be settled"):
                record.settle(batch, 0)
        with pytest.raises(ValueError, match="-1"):
            record.settle(record.intend(run, "d", [_pulse()]), -1)
        assert record.dose("d", SHAPE).sum() == 3 * 2 * 15


def test_a_dose_that_is_given_out_is_a_copy(tmp_path):
    with Record.open(tmp_path) as record:
        record.intend(record.begin_run("p", {}), "d", [_pulse()])
        record.dose("d", SHAPE)[:] = 99
        assert record.dose("d", SHAPE).max() == 2


def test_asking_for_the_dose_again_does_not_read_the_pulses_again(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        for _ in range(300):
            record.intend(run, "d", [_pulse()])
        record.dose("d", SHAPE)
        statements = []
        record._db.set_trace_callback(statements.append)
        record.intend(run, "d", [_pulse()])
        assert record.dose("d", SHAPE).max() == 2 * 301
        read = record._db.execute("SELECT COUNT(*) FROM pulses WHERE batch > 300").fetchone()[0]
        assert read == 1 and any("id>300" in statement for statement in statements)


def test_an_intent_is_committed_with_full_synchronisation_and_a_step_is_not(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        statements = []
        record._db.set_trace_callback(statements.append)
        record.intend(run, "d", [_pulse()])
        assert statements[0] == "PRAGMA synchronous=FULL" and statements.index("COMMIT") < statements.index(
            "PRAGMA synchronous=NORMAL"
        )
        statements.clear()
        append(record, run, some_result())
        assert not any("synchronous" in statement for statement in statements)


def test_a_record_that_is_thrown_away_waits_for_no_disk(tmp_path):
    with Record.open(tmp_path, kept=False) as record:
        run = record.begin_run("p", {})
        statements = []
        record._db.set_trace_callback(statements.append)
        batch = record.intend(run, "d", [_pulse()])
        assert not any("synchronous" in statement for statement in statements)
        assert record._db.execute("PRAGMA synchronous").fetchone() == (0,)
        assert [each.batch for each in record.intents("d")] == [batch]


def test_conductances_are_kept_as_a_dataset_of_them_is(tmp_path):
    kernels, g = np.array([1, 4]), np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    data = xr.Dataset({"g": (("kernel", "row", "column"), g, {"units": "S"})}, coords={"kernel": kernels})
    with Record.open(tmp_path) as record:
        batch = record.intend(record.begin_run("p", {}), "d", [_pulse()])
        record.keep_readings(batch, data)
        record.keep_conductances(batch, kernels, g)
        with pytest.raises(ValueError, match=r"\[2, 3\] is not \[kernel, row, column\] of \[2\] kernels"):
            record.keep_conductances(batch, kernels, g[0])
        one, two = record._rows("SELECT attrs, variables FROM readings")
        assert one == two and all(found.identical(data) for _, found in record.readings("d"))


def test_readings_are_kept_with_their_batch(tmp_path):
    data = xr.Dataset({"current": (("row", "column"), np.eye(2), {"units": "A"})}, attrs={"n": float("inf")})
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        batch, other = record.intend(run, "d", [_pulse()]), record.intend(run, "e", [_pulse()])
        for number in (batch, other, batch):
            record.keep_readings(number, data)
        found = record.readings("d")
        assert [number for number, _ in found] == [batch, batch] and found[0][1].identical(data)


def test_dies_and_pulses_since_a_step(tmp_path):
    with Record.open(tmp_path) as record:
        run = record.begin_run("p", {})
        record.intend(run, "c9r9", [_pulse()])
        step = append(record, run, some_result(), die="c0r0")
        append(record, run, some_result(), die=COMPUTED)
        append(record, run, some_result(), die="")
        assert record.dies() == ["c9r9", "c0r0"]
        assert not record.pulsed_since("c0r0", step.id)
        record.settle(record.intend(run, "c0r0", [_pulse()]), 0)
        assert not record.pulsed_since("c0r0", step.id)
        record.intend(run, "c0r0", [_pulse()])
        assert record.pulsed_since("c0r0", step.id)
        later = append(record, run, some_result(), die="c0r0")
        assert not record.pulsed_since("c0r0", later.id)


# copies


@pytest.fixture
def two_runs(tmp_path):
    """A record in which the second run superseded, settled and computed."""
    with Record.open(tmp_path / "lot") as record:
        first = record.begin_run("p", {"seed": 1})
        steps = [append(record, first, some_result(i), function=f"m.f{i}") for i in range(3)]
        record.supersede(steps[:1], first)
        batch = record.intend(first, "d", [_pulse(), _pulse()], actions=3)
        record.keep_readings(batch, xr.Dataset({"r": ("i", np.arange(4))}))
        record.set_verdict(first, "d", "fail", bin=2)
        record.event(first, "k", "m")
        record.end_run(first, "failed")
        time.sleep(0.01)
        second = record.begin_run("p", {}, resumes=first)
        record.settle(batch, 1)
        record.supersede(steps[2:], second)
        append(record, second, some_result(7.0), function="m.f2")
        append(record, second, some_result(8.0), die=COMPUTED, function="m.train")
        record.fired(record.intend(second, "d", [_pulse()]))
        record.set_verdict(second, "d", "pass", bin=1)
        record.keep_source("text")
        yield record, second


def test_a_copy_is_the_lot_as_it_was_before_a_run_and_all_computations(two_runs, tmp_path):
    record, second = two_runs
    with record.copy_before(second, tmp_path / "copy") as copy:
        assert [step.function for step in copy.history("p", "d")] == ["m.f1", "m.f2"]
        assert copy.load(copy.history("p", "d")[-1]).attrs["number"] == 2
        (computed,) = copy.history("p", COMPUTED)
        assert copy.load(computed).attrs["number"] == 8.0
        assert [batch.actions for batch in copy.unfired("d")] == [3]
        assert copy.dose("d", SHAPE).max() == 4 and record.dose("d", SHAPE).max() == 4
        assert len(copy.readings("d")) == 1 and len(copy.events()) == 1
        assert {die: v.verdict for die, v in copy.verdicts().items()} == {"d": "fail"}
        assert [run["id"] for run in copy.runs()] == [1] and copy.runs()[0]["provenance"] == {"seed": 1}
        assert copy.source(record.keep_source("text")) == "text"
        assert copy.begin_run("p", {}) == second
        append(copy, second, some_result(9.0))  # it is a record like any other
    with Record.open(tmp_path / "copy") as copy:
        assert [copy.load(row.step).attrs["number"] for row in copy.steps()] == [0, 1, 2, 8.0, 9.0]
        assert len(copy.steps()) == 5
    assert [run["id"] for run in record.runs()] == [1, 2]


def test_a_copy_before_the_first_run_holds_only_computations(two_runs, tmp_path):
    record, _ = two_runs
    with record.copy_before(1, tmp_path / "copy") as copy:
        assert copy.dies() == [] and len(copy.history("p", COMPUTED)) == 1 and copy.runs() == []
        arrays = copy._db.execute("SELECT COUNT(*) FROM arrays").fetchone()[0]
        assert arrays == len(copy.load(copy.history("p", COMPUTED)[0]).variables)


def test_a_copy_of_a_record_that_is_only_read(two_runs, tmp_path):
    record, second = two_runs
    with Record.open(record.folder, write=False) as reader, reader.copy_before(second, tmp_path / "copy") as copy:
        assert len(copy.steps()) == 4


def test_a_copy_says_why_it_cannot_be_made(two_runs, tmp_path):
    record, _ = two_runs
    with pytest.raises(RecordError, match=r"no run 9.*1, 2"):
        record.copy_before(9, tmp_path / "copy")
    with pytest.raises(RecordError, match="holds a record already"):
        record.copy_before(1, record.folder)
    assert not (tmp_path / "copy").exists()


def test_the_bias_scheme_of_a_pulse_is_kept(tmp_path):
    mask = np.ones((2, 2), bool)
    given = [Pulse(0, mask, 1.1, 1e-6, 1, scheme) for scheme in ("V/2", None, "V/3")]
    with Record.open(tmp_path) as record:
        record.fired(record.intend(record.begin_run("p", {}), "d", given))
        assert [pulse.scheme for pulse in record.pulses("d")] == ["V/2", None, "V/3"]
