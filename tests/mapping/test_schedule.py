from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import MTJ_20K
from mapping.placement.coding import AP, DONT_CARE, P, decode
from mapping.placement.placement import place
from mapping.writing.schedule import (
    PulseSettings,
    ScheduleFileError,
    StationTimes,
    VerifyRule,
    WriteSchedule,
    build_schedule,
    file_digest,
)

SHAPES = [(60, 12), (12, 5)]
PROVENANCE = {"source": "net.safetensors", "sha256": "0" * 64, "scales": [0.1, 1 / 3]}


def weights(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-1, 2, (n_out, n_in)).astype(np.int8) for n_in, n_out in SHAPES]


def schedule(seed: int = 0, **changes: object) -> WriteSchedule:
    placement = place(SHAPES, MTJ_20K, (1, 2))
    return build_schedule(weights(seed), placement, **({"provenance": PROVENANCE} | changes))


def record() -> DieRecord:
    rng = np.random.default_rng(3)
    p, ap = (g * rng.lognormal(0, 0.05, MTJ_20K.shape) for g in (143e-6, 77e-6))
    return DieRecord("die", MTJ_20K, p, ap, np.zeros(MTJ_20K.shape, np.uint8))


def test_batches_write_every_wanted_cell_once():
    plan = schedule()
    written = np.full(MTJ_20K.shape, DONT_CARE, np.int8)
    for batch in plan.batches:
        assert batch.mask.any() and np.all(written[batch.kernel][batch.mask] == DONT_CARE)
        written[batch.kernel][batch.mask] = batch.state
    np.testing.assert_array_equal(written, plan.states)
    for given, found in zip(weights(), decode(written, plan.placement), strict=True):
        np.testing.assert_array_equal(given, found)
    assert plan.cells == np.count_nonzero(plan.states != DONT_CARE)


@pytest.mark.parametrize(("to_ap", "to_p", "first"), [(0.8, -0.8, AP), (0.9, -0.7, AP), (0.7, -0.9, P)])
def test_stronger_pulse_comes_first_and_kernels_in_order(to_ap, to_p, first):
    plan = schedule(pulse=PulseSettings(amplitude_to_ap=to_ap, amplitude_to_p=to_p))
    order = [(batch.kernel, batch.state != first) for batch in plan.batches]
    assert order == sorted(order) and len(set(order)) == len(order)
    assert plan.batches[0].state == first


def test_hard_defects_are_not_pulsed_but_weak_cells_are():
    die = record()
    used = np.argwhere(schedule().states != DONT_CARE)
    short, weak = (tuple(used[n]) for n in (0, 5))
    die.cell_class[short], die.cell_class[weak] = CellClass.SHORT, CellClass.WEAK
    plan = schedule(die=die)
    assert plan.cells == schedule().cells - 1
    assert plan.states[short] != DONT_CARE
    assert not any(b.kernel == short[0] and b.mask[short[1:]] for b in plan.batches)
    assert any(b.kernel == weak[0] and b.mask[weak[1:]] for b in plan.batches)


def test_saved_schedule_reads_back_bit_for_bit(tmp_path: Path):
    plan = schedule(
        pulse=PulseSettings(width=1 / 3 * 1e-7, attempts_max=3),
        verify=VerifyRule(v_read=0.1 + 1e-17, threshold="kernel"),
        times=StationTimes(exchange=1 / 7),
    )
    path = tmp_path / "schedule.h5"
    plan.save(path)
    back = WriteSchedule.load(path)
    assert (back.pulse, back.verify, back.times) == (plan.pulse, plan.verify, plan.times)
    assert back.provenance == plan.provenance == PROVENANCE
    assert back.geometry == plan.geometry == back.placement.geometry
    np.testing.assert_array_equal(back.states, plan.states, strict=True)
    assert len(back.batches) == len(plan.batches)
    for a, b in zip(back.batches, plan.batches, strict=True):
        assert (a.kernel, a.state) == (b.kernel, b.state)
        np.testing.assert_array_equal(a.mask, b.mask, strict=True)
    for a, b in zip(back.placement.layers, plan.placement.layers, strict=True):
        for name in ("cells", "input_group", "input_row"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    assert back.content_digest() == plan.content_digest() and back.station_time == plan.station_time
    assert [p.name for p in tmp_path.iterdir()] == ["schedule.h5"]


def test_equal_inputs_give_equal_files(tmp_path: Path):
    for name in ("a", "b"):
        schedule().save(tmp_path / name)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")


def test_digest_sees_every_part():
    plan = schedule()
    others = [
        schedule(seed=1),
        schedule(provenance={}),
        schedule(pulse=PulseSettings(width=201e-9)),
        schedule(verify=VerifyRule(averages=5)),
        schedule(times=StationTimes(settling=2e-5)),
        replace(plan, batches=plan.batches[::-1]),
    ]
    assert len({plan.content_digest(), *(other.content_digest() for other in others)}) == 1 + len(others)


def test_failed_save_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "schedule.h5"
    schedule().save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        replace(schedule(), provenance={"loss": float("nan")}).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def tampered(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("states", None, "states is missing"),
        ("states", np.zeros((2, 2), np.int8), r"states is int8 \(2, 2\)"),
        ("states", np.zeros(MTJ_20K.shape, np.float64), "states is float64"),
        ("states", np.full(MTJ_20K.shape, 7, np.int8), "outside -1 ... 1"),
        ("states", np.zeros(MTJ_20K.shape, np.int8), "other cells than those that hold weights"),
        ("states", h5py.ExternalLink("other.h5", "/states"), "states is missing"),
        ("states", h5py.SoftLink("/batches/kernel"), "states is missing"),
        ("layers/0/input_row", np.zeros(60, np.int64), "does not count its inputs"),
        ("layers/1/cells", np.zeros((2, 12, 5, 2), np.int64), "one column|two weights"),
        ("layers/1/cells", np.full((2, 12, 5, 2), 10**6), "outside 0"),
        ("layers/count", np.array([3]), "missing"),
        ("geometry/sizes", np.array([10**6, 10**6, 10**6, 1, 10**6, 10**6]), "more cells than any die"),
        ("batches/kernel", np.array([99]), "outside 0 ... 31"),
        ("batches/state", np.array([1], np.int8), "batches/state"),
    ],
)
def test_unsound_files_are_refused(tmp_path: Path, name, value, message):
    path = tmp_path / "schedule.h5"
    schedule().save(path)
    tampered(path, name, value)
    with pytest.raises(ScheduleFileError, match=message):
        WriteSchedule.load(path)


def test_batches_that_contradict_the_states_are_refused(tmp_path: Path):
    path = tmp_path / "schedule.h5"
    schedule().save(path)
    with h5py.File(path, "r+") as file:
        file["batches/state"][...] = 1 - file["batches/state"][...]
    with pytest.raises(ScheduleFileError, match="state that it is not to have"):
        WriteSchedule.load(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", "else", "format"),
        ("version", 2, "version 1"),
        ("pulse", '{"width": -1}', "positive"),
        ("pulse", '{"colour": 1}', "colour"),
        ("pulse", "no json", "not a sound"),
        ("provenance", '{"source": "other"}', "changed after it was saved"),
        ("provenance", "[]", "not a table"),
    ],
)
def test_unsound_settings_are_refused(tmp_path: Path, name, value, message):
    path = tmp_path / "schedule.h5"
    schedule().save(path)
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ScheduleFileError, match=message):
        WriteSchedule.load(path)


def test_data_kept_in_another_file_are_refused(tmp_path: Path):
    path = tmp_path / "schedule.h5"
    schedule().save(path)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MTJ_20K.cells))
    with h5py.File(path, "r+") as file:
        del file["states"]
        file.create_dataset("states", MTJ_20K.shape, "i1", external=[(str(raw), 0, MTJ_20K.cells)])
    with pytest.raises(ScheduleFileError, match="not an ordinary dataset"):
        WriteSchedule.load(path)


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no write schedule"):
        WriteSchedule.load(tmp_path / "nothing.h5")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ScheduleFileError, match="not a sound write schedule"):
        WriteSchedule.load(tmp_path / "text")


def test_attempts_rise_to_the_ceiling():
    pulse = PulseSettings(amplitude_to_ap=0.8, amplitude_to_p=-0.7, amplitude_step=0.1, amplitude_ceiling=0.95)
    np.testing.assert_allclose([pulse.amplitude(AP, n) for n in range(4)], [0.8, 0.9, 0.95, 0.95])
    np.testing.assert_allclose([pulse.amplitude(P, n) for n in range(4)], [-0.7, -0.8, -0.9, -0.95])


@pytest.mark.parametrize(
    "wrong",
    [
        {"amplitude_to_ap": -0.8},
        {"amplitude_to_ap": 2.0},
        {"width": 0.0},
        {"width": float("nan")},
        {"attempts_max": 0},
        {"amplitude_step": -0.1},
        {"dose_limit": 0},
        {"dose_limit": 1.5},
        {"width": "1"},
    ],
)
def test_impossible_pulses_are_refused(wrong):
    with pytest.raises(ValueError, match=r"V|width|attempts|finite"):
        PulseSettings(**wrong)


def test_thresholds_lie_between_the_states():
    die = record()
    die.g_p[2, 3, 4] = die.g_ap[2, 3, 4] = np.inf
    die.cell_class[2, 3, 4] = CellClass.SHORT
    die.cell_class[7] = CellClass.DEAD_LINE
    for rule in ("cell", "kernel"):
        threshold = VerifyRule(threshold=rule).thresholds(die)
        assert np.isfinite(threshold).all() and 100e-6 < threshold[2, 3, 4] < 120e-6
        assert np.ptp(threshold[7]) == 0
    good = die.cell_class == 0
    threshold = VerifyRule(threshold="cell").thresholds(die)
    assert np.all((threshold < die.g_p)[good] & (threshold > die.g_ap)[good])


def test_station_time_counts_what_is_done():
    base = schedule()
    slow = replace(base, times=replace(base.times, exchange=base.times.exchange + 1))
    per_batch = 1 + 2 * base.times.pulses_per_cell
    np.testing.assert_allclose(slow.station_time - base.station_time, per_batch * len(base.batches))
