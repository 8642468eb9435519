"""Analog write-verify at a simulated passive die, over its sockets: what is fired, kept, reported and spared."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from in_process import simulated_station

from analysis.record.record import Record
from instruments.roles.interfaces import LimitError
from instruments.station import load_station
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import CellClass
from mapping.writing.analog_schedule import build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets, TargetError
from mapping.writing.converge import ARRAY, Outcome
from mapping.writing.touch_up import Passes
from protocols.bench.bench import Bench, Die
from protocols.steps.analog_write import _Write, drift, gave_up, pulses_for, write_analog
from protocols.steps.characterise_analog import PROBE, measure_analog, within_caps

pytestmark = pytest.mark.slow

SEED = 1  # its first die has a dead row
WIDTH = 1.04e-6


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passive")
    with simulated_station("tio2-8x8", SEED, folder) as file, load_station(file) as station:
        yield station, folder / "station" / "physical.jsonl"


@pytest.fixture(scope="module")
def bench(station, tmp_path_factory):
    with Record.open(tmp_path_factory.mktemp("lot")) as record:
        parts, _ = station
        bench = Bench(parts.prober, parts.array, record, record.begin_run("test", {}))
        bench.record = record
        yield bench
        bench.leave()


@pytest.fixture(scope="module")
def how(bench):
    """The settings of arrays, with caps that the station fires."""
    caps = bench.array.capabilities()
    cap_set, cap_reset = min(2.1, caps.v_max), max(-2.4, caps.v_min)
    return replace(ARRAY, cap_set=cap_set, cap_reset=cap_reset, pulses_at_cap=1 if cap_set > 2 else 30)


def go_to(bench, number):
    site = bench.prober.die_sites()[number]
    die = Die(str(site), site, number)
    bench.enter(die)
    return die


@pytest.fixture(scope="module")
def measured(bench, how):
    die = go_to(bench, 1)
    return AnalogDie.from_dataset(measure_analog(bench, die, settings=how, probe=within_caps(PROBE, how)))


@pytest.fixture(scope="module")
def schedule(measured, how):
    rng = np.random.default_rng(4)
    targets = ConductanceTargets.of(measured.geometry, rng.uniform(100e-6, 500e-6, measured.geometry.shape))
    return build_analog_schedule(targets, how, die=measured)


@pytest.fixture(scope="module")
def written(bench, measured, schedule):
    return write_analog(bench, go_to(bench, 1), schedule=schedule, found=measured)


def pulses_in(log):
    entries = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return [entry for entry in entries if entry["what"] == "pulse"]


def test_the_whole_array_ends_in_tolerance(written, measured):
    asked = ~np.isnan(written["target"].values)
    error = np.abs(written["achieved"].values / written["target"].values - 1)[asked]
    a = written.attrs
    assert a["verdict"] == "pass" and a["within_tolerance"] == np.mean(error <= 0.01) >= 0.95
    assert a["mean_error"] == pytest.approx(np.mean(np.nan_to_num(error, nan=1.0)))
    assert a["cells"] == asked.sum() == a["healthy"] + a["known_broken"]
    assert a["passes"] == written.sizes["pass"] and written["within"].values[-1] == a["within_tolerance"]
    assert a["pulses"] == written["pulses"].values.sum() and 15 < a["pulses_per_cell"] < 60
    broken = [(cell, why) for cell, why in gave_up(written) if why == Outcome.DEFECT]
    assert len(broken) == np.count_nonzero(~measured.writable)
    assert written["pulses"].values[~measured.writable].sum() == 0


@pytest.mark.parametrize(
    ("rows", "verdict"), [((), "pass"), ((2,), "fail"), ((0, 1, 2), "fail"), (range(8), "fail")],
)  # fmt: skip
def test_a_verdict_is_of_the_whole_schedule(bench, measured, schedule, rows, verdict):
    """What is known to be broken is not held against the writing, but it is not on the die either."""
    classes = np.full(schedule.geometry.shape, CellClass.GOOD, np.uint8)
    classes[:, list(rows)] = CellClass.STUCK_LRS
    work = _Write(bench, schedule, replace(measured, cell_class=classes))
    read = np.where(classes == CellClass.GOOD, schedule.targets.g, 1e-3)
    read[:, 7, 7] = np.nan  # one cell cannot be read
    a = work._result(read).attrs
    missing = 8 * len(rows) + (7 not in rows)
    assert a["verdict"] == verdict and a["within_tolerance"] == 1 - missing / 64
    assert (a["cells"], a["known_broken"]) == (64, 8 * len(rows)) and ("reason" in a) == (verdict == "fail")
    assert a["mean_error"] >= 1 / 64 and (a["mean_error"] > 0.1 or not rows)


def test_drift_is_told_against_the_order_of_the_first_pass(written, measured):
    order = written["order"].values
    events = drift(written)
    assert np.array_equal(np.sort(order[order >= 0]), np.arange(events.sizes["event"]))
    first, last = np.array_split(np.abs(events["drift"].values), 2)
    assert first.mean() > last.mean()


def test_every_pulse_was_committed_first_and_none_was_beyond_a_cap(bench, written, how, station):
    die = bench.die
    kept = bench.record.intents(die.name)
    assert {intent.pulse.scheme for intent in kept} == {"V/2"} and all(intent.fired for intent in kept)
    assert len(bench.record.readings(die.name)) >= len({intent.batch for intent in kept})
    bench.leave()  # brings the log to its file
    fired = pulses_in(station[1])
    go_to(bench, 1)
    assert len(fired) == len(kept)
    assert all(how.cap_reset <= entry["v"] <= how.cap_set for entry in fired)
    assert [round(entry["v"], 6) for entry in fired] == [round(intent.pulse.amplitude, 6) for intent in kept]


def test_what_is_right_is_not_pulsed_again(bench, written, schedule, measured, how):
    """As after a crash: it reads before it pulses. Noise takes a cell or two over the edge of its band."""
    before = bench.array.dose()
    loose = replace(schedule, targets=replace(schedule.targets, tolerance=schedule.targets.tolerance * 2))
    keep = np.isin(written["outcome"].values, [Outcome.REACHED])
    loose = replace(loose, targets=loose.targets.without(~keep))
    again = write_analog(bench, go_to(bench, 1), schedule=loose, found=measured)
    assert again.attrs["pulses"] == 0 == again.attrs["passes"]
    assert np.array_equal(bench.array.dose(), before)


def test_lines_at_once_come_to_the_same(bench, measured, how):
    g = np.random.default_rng(9).uniform(100e-6, 500e-6, measured.geometry.shape)
    g[:, 4:] = np.nan  # half of the die
    targets = ConductanceTargets.of(measured.geometry, g, tolerance=0.03)
    schedule = build_analog_schedule(targets, how, die=measured, parallel="line")
    before = bench.record.intents("c3r6")[-1].batch
    done = write_analog(bench, go_to(bench, 1), schedule=schedule, found=measured)
    assert done.attrs["within_tolerance"] >= 0.95
    assert len(bench.record.readings("c3r6", after=before)) < done.attrs["pulses"]


def test_the_dose_limit_is_kept_and_said(bench, measured, how):
    targets = ConductanceTargets.of(measured.geometry, np.where(np.arange(64).reshape(8, 8) < 8, 450e-6, np.nan))
    limit = int(bench.array.dose().max()) + 3
    schedule = build_analog_schedule(targets, how, die=measured, passes=Passes(2), dose_limit=limit)
    done = write_analog(bench, go_to(bench, 1), schedule=schedule, found=measured)
    assert bench.array.dose().max() <= limit
    reasons = {why for _, why in gave_up(done)}
    assert reasons <= {Outcome.DOSE, Outcome.DRIFTED, Outcome.DEFECT, Outcome.CAP, Outcome.REVERSALS}
    assert done["pulses"].values.max() <= limit


@pytest.mark.parametrize(
    ("change", "scheme", "said"),
    [
        ({"cap_set": 5.0}, "V/2", "cap_set of 5 V"),
        ({"cap_reset": -5.0}, "V/2", "cap_reset of -5 V"),
        ({"v_read": 1.0}, "V/2", "v_read of 1 V"),
        ({"width": 1.0}, "V/2", "width of 1 s"),
        ({"averages": 100_000}, "V/2", "averages of 100000"),
    ],
)
def test_what_the_tester_would_refuse_is_refused_before_any_pulse(bench, measured, how, change, scheme, said):
    die, before = go_to(bench, 1), bench.array.dose()
    targets = ConductanceTargets.of(measured.geometry, 300e-6)
    schedule = build_analog_schedule(targets, replace(how, **change), scheme=scheme)
    with pytest.raises(LimitError, match=said):
        write_analog(bench, die, schedule=schedule)
    assert np.array_equal(bench.array.dose(), before)


def test_a_dead_row_is_found_and_its_cells_refused(bench, how):
    die = go_to(bench, 0)
    found = measure_analog(bench, die, settings=how, probe=within_caps(PROBE, how))
    known = AnalogDie.from_dataset(found)
    assert found.attrs["verdict"] == "pass"
    assert [(fault.kind, fault.index) for fault in known.line_faults] == [("row", 7)]
    assert (known.cell_class[0, 7] == CellClass.DEAD_LINE).all()
    assert 1e-3 < known.read_noise[0, 0, 0] < 1e-2
    targets = ConductanceTargets.of(known.geometry, 300e-6)
    before = bench.array.dose()
    schedule = build_analog_schedule(targets, how)
    with pytest.raises(TargetError, match=r"cell \[7, 0\] of kernel 0.*dead line.*row 7"):
        write_analog(bench, die, schedule=schedule, found=known)
    assert np.array_equal(bench.array.dose(), before)


def test_pulses_are_grouped_by_amplitude_and_never_rounded_beyond_it():
    cells = np.zeros((4, 4), bool)
    cells[1, [0, 2, 3]] = cells[2, 2] = True
    amplitudes = np.array([1.1, -2.4, 1.1, 0.0])
    pulses = pulses_for(0, cells, amplitudes, ARRAY, "V/3", lsb=0.0012)
    assert [round(pulse.amplitude, 6) for pulse in pulses] == [-2.4, 1.0992]
    assert [pulse.mask.nonzero()[1].tolist() for pulse in pulses] == [[2], [0, 3]]
    assert {(pulse.scheme, pulse.width, pulse.count) for pulse in pulses} == {("V/3", WIDTH, 1)}
