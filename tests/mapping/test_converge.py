"""Decisions of analog write-verify: which pulse comes next, and when a cell is given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.writing.converge import (
    ARRAY,
    LABORATORY,
    CellWrites,
    ConvergeToTarget,
    Incremental,
    Logarithmic,
    Outcome,
    write,
)
from sim_backends.array.circuit.passive_array import PassiveArray
from sim_backends.array.devices.tio2 import WINDOW, TiO2Devices
from sim_backends.array.solver.network import Lines

VARIANTS = (None, Logarithmic(), Incremental("set"), Incremental("reset"))


def follow(reads, how=LABORATORY, target=300e-6):
    """Amplitudes after each of the reads of one cell (uS), and the writes."""
    writes = CellWrites(how, np.array([target]))
    return [round(float(writes.next(np.array([g * 1e-6]))[0]), 6) for g in reads], writes


def test_ramps_rise_fall_back_on_overshoot_and_end_in_the_band():
    amplitudes, writes = follow([200, 210, 230, 350, 340, 310, 280, 302])
    assert amplitudes == [1.1, 1.12, 1.14, -1.1, -1.12, -1.14, 1.1, 0.0]
    assert writes.outcome[0] == Outcome.REACHED
    assert (writes.pulses[0], writes.reversals[0]) == (7, 2)


def test_reads_in_the_band_are_counted_over_the_whole_write():
    amplitudes, writes = follow([200, 301, 299, 250, 300, 200], replace(LABORATORY, reads_in_band=3))
    assert amplitudes == [1.1, 0, 0, 1.1, 0, 0]
    assert writes.outcome[0] == Outcome.REACHED and writes.hits[0] == 3


def test_a_guarded_write_ends_well_inside_the_band():
    _, loose = follow([302.5])
    amplitudes, guarded = follow([302.5, 301], replace(LABORATORY, guard=0.5))
    assert loose.outcome[0] == Outcome.REACHED
    assert amplitudes == [-1.1, 0.0] and guarded.outcome[0] == Outcome.REACHED


@pytest.mark.parametrize(
    ("reads", "change", "why", "fired"),
    [
        ([200] * 60, {}, Outcome.CAP, 51),  # 1.10 to 2.10 V in steps of 20 mV
        ([400] * 80, {}, Outcome.CAP, 66),  # to -2.40 V
        ([200] * 60, {"pulses_at_cap": 5}, Outcome.CAP, 55),
        ([200] * 9, {"pulses_max": 7}, Outcome.PULSES, 7),
        ([200, 400] * 5, {"reversals_max": 3}, Outcome.REVERSALS, 4),
        ([400, 15], {}, Outcome.JUMP, 1),  # 385 uS at once
        ([400, 90, 300], {"r_ceiling": 10_500.0}, Outcome.CEILING, 1),
        ([200, np.nan], {}, Outcome.UNREADABLE, 1),
        ([np.inf], {}, Outcome.UNREADABLE, 0),
    ],
)
def test_why_a_cell_is_given_up(reads, change, why, fired):
    amplitudes, writes = follow(reads, replace(LABORATORY, **change))
    assert Outcome(int(writes.outcome[0])) is why
    assert writes.pulses[0] == fired == np.count_nonzero(amplitudes)


def test_logarithmic_ramps_stay_rise_when_tired_and_fall_back():
    """Five pulses without effect raise the amplitude by gain (R / R_max) log10(what is left / shift)."""
    how = replace(LABORATORY, variant=Logarithmic())
    ohms = np.array([8000, 7999, 7998, 7997, 7996, 7995, 7994, 5000, 4900])  # the last but one: more than 30 %
    amplitudes, _ = follow(1e6 / ohms, how, target=1 / 4000)
    assert amplitudes[:5] == [1.1] * 5
    assert amplitudes[5] == pytest.approx(1.1 + 0.2 * 0.7995 * np.log10(3995), rel=1e-3)
    assert amplitudes[6] == amplitudes[5] and amplitudes[7:] == [1.1, 1.1]


def test_incremental_pulses_come_from_one_side_only():
    amplitudes, _ = follow([200, 250, 320, 290, 265, 280, 310], replace(LABORATORY, variant=Incremental("set")))
    assert amplitudes == [1.1, 1.12, -1.1, -1.12, 1.1, 1.12, -1.1]
    amplitudes, _ = follow([400, 280, 310, 335, 320], replace(LABORATORY, variant=Incremental("reset")))
    assert amplitudes == [-1.1, 1.1, 1.12, -1.1, -1.12]


@given(
    reads=st.lists(st.floats(1e-6, 2e-3) | st.sampled_from([np.nan, np.inf]), min_size=1, max_size=60),
    target=st.floats(*WINDOW),
    variant=st.sampled_from(VARIANTS),
    cap=st.floats(1.2, 2.4),
)
@settings(deadline=None, max_examples=150)
def test_no_reading_whatever_leads_beyond_a_limit(reads, target, variant, cap):
    how = replace(ARRAY, cap_set=cap, cap_reset=-cap - 0.1, variant=variant, pulses_max=20, reversals_max=5)
    writes, before = CellWrites(how, np.array([target])), 0
    for read in reads:
        going = bool(writes.going[0])
        amplitude = float(writes.next(np.array([read]))[0])
        assert how.cap_reset <= amplitude <= how.cap_set
        assert amplitude == 0 or (going and abs(amplitude) >= how.start)
        before += amplitude != 0
        assert writes.pulses[0] == before <= how.pulses_max
    assert writes.reversals[0] <= how.reversals_max + 1


@given(st.lists(st.lists(st.floats(50e-6, 900e-6), min_size=4, max_size=4), min_size=1, max_size=30))
@settings(deadline=None, max_examples=50)
def test_slots_know_nothing_of_each_other(reads):
    targets = np.array([150e-6, 250e-6, 350e-6, 450e-6])
    for variant in VARIANTS:
        how = replace(LABORATORY, variant=variant)
        together, alone = CellWrites(how, targets), [CellWrites(how, targets[i : i + 1]) for i in range(4)]
        for read in reads:
            expected = [one.next(np.array([g]))[0] for one, g in zip(alone, read, strict=True)]
            assert together.next(np.array(read)).tolist() == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_single_devices_are_written_by_every_variant(variant):
    rng = np.random.default_rng(7)
    array = PassiveArray(TiO2Devices.draw((300, 1, 1), rng), Lines())
    targets = rng.uniform(*WINDOW, (300, 1, 1))
    how = replace(LABORATORY, variant=variant, pulses_at_cap=5)
    done = write(array, targets, np.zeros((300, 1), dtype=np.int64), rng, how)
    error = np.abs(array.read_all(0.2) / targets - 1)[done.outcome == Outcome.REACHED]
    assert np.mean(done.outcome == Outcome.REACHED) > 0.97
    assert np.mean(error < 0.01) > 0.9 and error.max() < 0.02  # a read in the band is a read with noise


def test_what_is_not_in_the_order_is_not_pulsed():
    rng = np.random.default_rng(3)
    array = PassiveArray(TiO2Devices.draw((2, 3, 3), rng, g=200e-6), Lines())
    order = np.array([[4, -1, 2], [-1, -1, -1]])
    done = write(array, np.full((2, 3, 3), 300e-6), order, rng)
    assert np.flatnonzero(done.pulses[0]).tolist() == [2, 4] and not done.pulses[1].any()
    assert done.outcome[0].ravel().tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0] and not done.gave_up.any()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_settings_come_back_from_a_file(variant):
    how = replace(LABORATORY, tolerance=0.015, variant=variant)
    assert ConvergeToTarget.from_dict(how.to_dict()) == how


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": 0.0},
        {"tolerance": float("nan")},
        {"guard": 1.5},
        {"start": 2.2},
        {"step": 0.0},
        {"pulses_max": 0},
        {"pulses_max": 1.5},
        {"reversals_max": -1},
        {"g_min": 600e-6},
        {"r_ceiling": 9e3},
        {"width": "1"},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    name = next(iter(wrong))
    with pytest.raises(
        ValueError, match="ramps" if name in ("start", "step") else "window" if name == "g_min" else name
    ):
        ConvergeToTarget(**wrong)


@pytest.mark.parametrize("variant", [{"name": "os.system"}, {"name": "Logarithmic", "gain": -1}, {"gain": 1}])
def test_unknown_variants_in_a_file_are_refused(variant):
    with pytest.raises((ValueError, TypeError)):
        ConvergeToTarget.from_dict(LABORATORY.to_dict() | {"variant": variant})
