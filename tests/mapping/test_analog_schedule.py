"""Targets, what is refused before any pulse, and schedules that read back bit for bit."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.dies.analog_die import AnalogDie, classify_analog
from mapping.dies.die_record import CellClass, LineFault
from mapping.dies.geometry import ArrayGeometry
from mapping.placement.placement import place
from mapping.writing.analog_schedule import AnalogSchedule, build_analog_schedule
from mapping.writing.conductance_targets import ConductanceTargets, TargetError
from mapping.writing.converge import ARRAY, LABORATORY, Incremental, Logarithmic
from mapping.writing.schedule import WriteSchedule
from mapping.writing.schedule_file import ScheduleFileError
from mapping.writing.touch_up import Passes, SchemeError

DIE = ArrayGeometry.tiled(8, 8, 1, 8, 8)


def targets(seed=0, **change):
    rng = np.random.default_rng(seed)
    made = ConductanceTargets.of(DIE, rng.uniform(100e-6, 500e-6, DIE.shape), sensitivity=rng.random(DIE.shape))
    return replace(made, **change)


def measured(**change):
    shape = DIE.shape
    full = {
        "g": np.full(shape, 3e-4),
        "read_noise": np.full(shape, 2e-3),
        "v_set": np.full(shape, 1.3),
        "v_reset": np.full(shape, -1.4),
        "cell_class": np.zeros(shape, np.uint8),
    }
    return AnalogDie("c1r1", DIE, **(full | change))


def changed(array, cell, value):
    new = array.copy()
    new[cell] = value
    return new


def test_a_target_outside_of_the_window_is_refused_by_cell():
    wrong = targets(g=changed(targets().g, (0, 3, 4), 612e-6))
    with pytest.raises(TargetError, match=r"cell \[3, 4\] of kernel 0: target 0.000612 S is outside of the window"):
        build_analog_schedule(wrong)
    build_analog_schedule(wrong, replace(ARRAY, g_max=700e-6))
    edge = targets(g=changed(targets().g, (0, 3, 4), 500e-6 * (1 + 1e-12)))
    build_analog_schedule(edge)


def test_a_tolerance_below_the_read_noise_is_refused():
    fine = targets(tolerance=changed(targets().tolerance, (0, 2, 5), 1e-3))
    with pytest.raises(TargetError, match=r"cell \[2, 5\].*tolerance 0.001 is below the noise of a read.*averages"):
        build_analog_schedule(fine, LABORATORY, die=measured())
    build_analog_schedule(fine, replace(LABORATORY, averages=16), die=measured())


def test_caps_below_the_threshold_are_refused_by_setting():
    with pytest.raises(TargetError, match=r"cap_set of 1\.2 V is below its threshold, 1\.3 V.*raise cap_set"):
        build_analog_schedule(targets(), replace(ARRAY, cap_set=1.2), die=measured())
    with pytest.raises(TargetError, match="cap_reset"):
        build_analog_schedule(targets(), replace(ARRAY, cap_reset=-1.35), die=measured())
    few = measured(v_set=changed(np.full(DIE.shape, 1.3), (0, 0, 0), 2.2))  # one cell: it will be given up, that is all
    build_analog_schedule(targets(), ARRAY, die=few)


def test_a_cell_on_a_dead_line_is_refused_and_names_the_line():
    classes = np.zeros(DIE.shape, np.uint8)
    classes[:, 6, :] = CellClass.DEAD_LINE
    die = measured(cell_class=classes, line_faults=(LineFault("row", 0, 6),))
    with pytest.raises(TargetError, match=r"cell \[6, 0\].*dead line of die c1r1 \(row 6\).*7 more cells"):
        build_analog_schedule(targets(), die=die)
    build_analog_schedule(targets(g=changed(targets().g, (0, 6), np.nan)), die=die)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("g", -1e-4, "positive conductance"),
        ("tolerance", 0.0, "share of the target"),
        ("sensitivity", np.nan, "number"),
    ],
)
def test_targets_that_are_none_are_refused(name, value, said):
    with pytest.raises(TargetError, match=rf"cell \[1, 2\].*{said}"):
        targets(**{name: changed(getattr(targets(), name), (0, 1, 2), value)})


def test_schemes_and_doses_that_cannot_be_are_refused():
    with pytest.raises(SchemeError, match="does not write"):
        build_analog_schedule(targets(), scheme="grounded")
    with pytest.raises(ValueError, match="dose_limit"):
        build_analog_schedule(targets(), dose_limit=0)


@pytest.mark.parametrize("parallel", ["cell", "line"])
def test_batches_hold_every_cell_once_and_end_with_the_sensitive_ones(parallel):
    made = targets(g=changed(targets().g, (0, slice(None), 2), np.nan))
    stuck = measured(cell_class=changed(np.zeros(DIE.shape, np.uint8), (0, 7, 7), CellClass.STUCK_HRS))
    schedule = build_analog_schedule(made, parallel=parallel, die=stuck)
    total = sum(batch.mask.astype(int) for batch in schedule.batches)
    assert np.array_equal(total, (made.wanted & stuck.writable)[0])
    care = [float(made.sensitivity[0][batch.mask].max()) for batch in schedule.batches]
    assert care == sorted(care)
    assert all(batch.mask.any(axis=0).sum() == 1 for batch in schedule.batches)
    assert schedule.station_time > 0 and schedule.cells == 55


@given(
    seed=st.integers(0, 99),
    parallel=st.sampled_from(["cell", "line"]),
    variant=st.sampled_from([None, Logarithmic(gain=0.1), Incremental("reset")]),
    placed=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_a_schedule_reads_back_bit_for_bit(tmp_path_factory, seed, parallel, variant, placed):
    path = tmp_path_factory.mktemp("analog") / "s.h5"
    made = targets(seed, g=np.where(np.random.default_rng(seed).random(DIE.shape) < 0.2, np.nan, targets(seed).g))
    schedule = build_analog_schedule(
        made,
        replace(ARRAY, variant=variant),
        parallel=parallel,
        scheme="V/3",
        passes=Passes(4),
        placement=place([(3, 4)], DIE) if placed else None,
        provenance={"source": "w.safetensors", "scales": [1.5]},
    )
    schedule.save(path)
    back = AnalogSchedule.load(path)
    assert back.content_digest() == schedule.content_digest()
    for name in ("g", "tolerance", "sensitivity"):
        assert getattr(back.targets, name).tobytes() == getattr(made, name).tobytes()
    assert [(b.kernel, b.mask.tolist()) for b in back.batches] == [
        (b.kernel, b.mask.tolist()) for b in schedule.batches
    ]
    assert (back.settings, back.passes, back.scheme, back.parallel) == (schedule.settings, Passes(4), "V/3", parallel)
    assert (back.placement is None) == (not placed) and back.provenance == schedule.provenance
    schedule.save(path.with_name("again.h5"))
    assert path.read_bytes() == path.with_name("again.h5").read_bytes()


def spoil(path, how):
    with h5py.File(path, "r+") as file:
        how(file)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda f: f["targets/g"].write_direct(np.full(DIE.shape, 9e-4)), "outside of the window"),
        (lambda f: f["targets/g"].write_direct(np.full(DIE.shape, 2e-4)), "changed after it was saved"),
        (lambda f: f["batches/mask"].write_direct(np.ones((64, 8, 8), "u1")), "twice"),
        (lambda f: f.attrs.__setitem__("scheme", '"floating"'), "does not write"),
        (lambda f: f.attrs.__setitem__("settings", '{"cap_set": 99, "volts": 1}'), "unexpected keyword"),
        (lambda f: f.attrs.__setitem__("settings", "[]"), "not a sound"),
        (lambda f: f.attrs.__setitem__("version", 7), "version is 7"),
        (lambda f: f.__delitem__("targets"), "missing"),
    ],
)
def test_spoilt_files_are_refused(tmp_path, how, said):
    path = tmp_path / "s.h5"
    build_analog_schedule(targets()).save(path)
    spoil(path, how)
    with pytest.raises(ScheduleFileError, match=said):
        AnalogSchedule.load(path)


def test_a_schedule_of_the_other_kind_is_told_apart(tmp_path):
    build_analog_schedule(targets()).save(tmp_path / "a.h5")
    with pytest.raises(ScheduleFileError, match="its format is 'xbarlab analog write schedule'"):
        WriteSchedule.load(tmp_path / "a.h5")


def test_classes_by_what_moved():
    v_set, v_reset, g = np.full(DIE.shape, 1.3), np.full(DIE.shape, -1.4), np.full(DIE.shape, 3e-4)
    for cell, value in (((0, 0, 0), 6e-4), ((0, 0, 1), 3e-5), ((0, 0, 2), 1e-6), ((0, 1, slice(None)), 0.0)):
        g[cell], v_set[cell], v_reset[cell] = value, np.nan, np.nan
    v_set[0, 3, 3], g[0, 4, 4] = np.nan, np.inf
    found, faults = classify_analog(g, v_set, v_reset, DIE, 3e-4)
    assert [CellClass(int(c)) for c in found[0, 0, :4]] == [
        CellClass.STUCK_LRS, CellClass.STUCK_HRS, CellClass.OPEN, CellClass.GOOD,
    ]  # fmt: skip
    assert (found[0, 1] == CellClass.DEAD_LINE).all() and faults == (LineFault("row", 0, 1),)
    assert found[0, 3, 3] == CellClass.WEAK and found[0, 4, 4] == CellClass.SHORT
    die = measured(g=np.nan_to_num(g, posinf=1.0), cell_class=found, line_faults=faults)
    back = AnalogDie.from_dataset(die.to_dataset())
    assert np.array_equal(back.cell_class, found) and back.line_faults == faults
    assert not back.writable[0, 0, 0] and back.writable[0, 3, 3] and back.stuck[0, 0, 0] == 6e-4
