"""Write-verify at a simulated die: reads first, spares broken cells, raises its pulses, keeps to the dose."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mapping.dies.die_record import HARD_DEFECTS, CellClass, DieRecord
from mapping.placement.coding import AP, DONT_CARE, P
from mapping.placement.placement import place
from mapping.writing.schedule import PulseSettings, build_schedule
from protocols.steps.characterise import measure_states
from protocols.steps.write_verify import _outcome, program

SHAPE = (32, 25, 25)


@pytest.fixture(scope="module")
def measured(bench, die):
    return DieRecord.from_dataset(measure_states(bench, die))


@pytest.fixture
def network(measured):
    """Makes a schedule of random weights; every seed another one. It may know of broken cells or not."""
    placement = place([(60, 40), (40, 10)], measured.geometry)

    def make(seed, pulse=None):
        rng = np.random.default_rng(seed)
        weights = [rng.choice(np.array([-1, 1], np.int8), (n_out, n_in)) for n_in, n_out in placement.shapes]
        return build_schedule(weights, placement, pulse)

    return make


@pytest.fixture
def pulses(bench, die, served):
    """What the station fired since the last call, by its own log."""

    def new():
        bench.leave()  # brings the log to its file
        lines = served.log.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines[new.seen :]]
        new.seen = len(lines)
        bench.enter(die)
        return [entry for entry in found if entry["what"] == "pulse"]

    new.seen = 0
    new()
    return new


def test_programming_twice_fires_nothing_the_second_time(bench, die, measured, network, pulses):
    schedule = network(1)
    first = program(bench, die, schedule=schedule, die_record=measured)
    assert first.attrs["verdict"] == "pass" and first.attrs["changed"] > 1000
    assert len(pulses()) > 0
    before = bench.array.dose()
    second = program(bench, die, schedule=schedule, die_record=measured)
    assert pulses() == [] and np.array_equal(bench.array.dose(), before)
    assert second.attrs["pulses"] == second.attrs["changed"] == 0
    assert np.array_equal(second["states"], first["states"])


def test_only_cells_that_are_wrong_are_pulsed(bench, die, measured, network, pulses):
    schedule = network(2)
    program(bench, die, schedule=schedule, die_record=measured)
    other = network(3)
    change = (schedule.states != other.states) & (measured.cell_class == CellClass.GOOD)
    pulses()
    before = bench.array.dose()
    outcome = program(bench, die, schedule=other, die_record=measured)
    given = bench.array.dose() - before
    assert np.array_equal(outcome["pulses"].values, given)
    assert (given[change] >= 1).all()
    same = (schedule.states == other.states) & (measured.cell_class == CellClass.GOOD)
    assert np.count_nonzero(given[same]) <= 2  # a read in a million is wrong
    assert {np.sign(pulse["v"]) for pulse in pulses()} == {-1.0, 1.0}


def test_what_is_counted_is_what_is_there(bench, die, measured, network):
    schedule = network(4)
    outcome = program(bench, die, schedule=schedule, die_record=measured)
    wanted, states = outcome["wanted"].values, outcome["states"].values
    right = (wanted != DONT_CARE) & (states == wanted)
    broken = np.isin(measured.cell_class, HARD_DEFECTS)
    assert np.array_equal(wanted, schedule.states)
    assert set(np.unique(states)) == {DONT_CARE, AP, P} and np.array_equal(states == DONT_CARE, wanted == DONT_CARE)
    a = outcome.attrs
    assert a["cells"] == np.count_nonzero(wanted != DONT_CARE) and a["verified"] == np.count_nonzero(right)
    assert a["gave_up"] == a["cells"] - a["verified"]
    assert a["writable_wrong"] == np.count_nonzero((wanted != DONT_CARE) & ~right & ~broken)
    assert a["pulses"] == outcome["pulses"].values.sum() and a["changed"] == np.count_nonzero(outcome["pulses"].values)


def test_broken_cells_are_not_pulsed(bench, die, measured, network):
    """The record calls one row of every kernel broken, one class after the other: they get nothing."""
    classes = measured.cell_class.copy()
    for row, kind in enumerate(HARD_DEFECTS):
        classes[:, row] = kind
    before = bench.array.dose()
    outcome = program(bench, die, schedule=network(5), die_record=replace(measured, cell_class=classes))
    given = bench.array.dose() - before
    assert given[:, : len(HARD_DEFECTS)].sum() == 0 and given.sum() > 500
    assert outcome.attrs["writable_wrong"] == 0 and outcome.attrs["gave_up"] > 50
    assert outcome.attrs["known_broken"] > outcome.attrs["gave_up"]
    assert outcome.attrs["verdict"] == "fail" and "are known as broken" in outcome.attrs["reason"]


@pytest.mark.parametrize(
    ("broken", "wrong", "verdict", "says"),
    [
        (0, 0, "pass", ""),
        (6, 0, "pass", ""),  # 3 of 60 columns of 2 cells each: what is stuck is right by chance half of the time
        (40, 0, "fail", "80 of 120 cells hold what was asked, 40 are known as broken"),
        (120, 0, "fail", "0 of 120 cells hold what was asked, 120 are known as broken"),
        (0, 1, "fail", "1 of 120 writable cells are wrong"),
        (40, 1, "fail", "79 of 120"),
    ],
)
def test_a_verdict_is_of_the_whole_schedule(network, broken, wrong, verdict, says):
    schedule = network(7)
    wanted = np.zeros(SHAPE, bool)
    wanted.reshape(-1)[np.flatnonzero(schedule.states != DONT_CARE)[:120]] = True
    schedule = replace(schedule, states=np.where(wanted, schedule.states, DONT_CARE).astype(np.int8))
    states, classes = schedule.states.copy(), np.zeros(SHAPE, bool)
    places = np.flatnonzero(wanted)
    classes.reshape(-1)[places[:broken]] = True
    off = np.concatenate([places[:broken], places[120 - wrong :]])
    states.reshape(-1)[off] = np.where(states.reshape(-1)[off] == P, AP, P)
    a = _outcome(schedule, states, np.ones(SHAPE, np.uint16), wanted, classes).attrs
    assert (a["verdict"], a["cells"], a["known_broken"]) == (verdict, 120, broken)
    assert a["verified"] == 120 - broken - wrong == a["cells"] - a["gave_up"] and says in a.get("reason", "")


def test_a_schedule_of_nothing_does_not_pass(network):
    nothing = replace(network(7), states=np.full(SHAPE, DONT_CARE, np.int8))
    none = np.zeros(SHAPE, bool)
    assert _outcome(nothing, nothing.states, np.zeros(SHAPE, np.uint16), none, none).attrs["verdict"] == "fail"


def test_weak_cells_are_written_as_the_good_ones(bench, die, measured, network):
    called_weak = (measured.cell_class == CellClass.GOOD) & (np.arange(25) >= 5)[:, None]
    classes = np.where(called_weak, np.uint8(CellClass.WEAK), measured.cell_class)
    outcome = program(bench, die, schedule=network(6), die_record=replace(measured, cell_class=classes))
    assert outcome.attrs["changed"] > 1000 and outcome.attrs["writable_wrong"] == 0


#: Pulses that no junction notices, so that every attempt is made.
FEEBLE = PulseSettings(
    amplitude_to_ap=0.2, amplitude_to_p=-0.15, amplitude_step=0.05, amplitude_ceiling=0.3, attempts_max=4
)


def test_every_attempt_is_stronger_up_to_the_ceiling(bench, die, measured, network, pulses):
    pulses()
    outcome = program(bench, die, schedule=network(7, FEEBLE), die_record=measured)
    fired = pulses()
    to_ap = [round(pulse["v"], 2) for pulse in fired if pulse["v"] > 0 and pulse["kernel"] == 0]
    to_p = [round(pulse["v"], 2) for pulse in fired if pulse["v"] < 0 and pulse["kernel"] == 0]
    assert to_ap == [0.2, 0.25, 0.3, 0.3]
    assert to_p == [-0.15, -0.2, -0.25, -0.3]
    assert {round(pulse["width_s"], 10) for pulse in fired} == {FEEBLE.width}
    assert outcome.attrs["verdict"] == "fail" and outcome.attrs["writable_wrong"] == outcome.attrs["changed"] > 1000
    assert outcome["pulses"].values.max() == FEEBLE.attempts_max


def test_the_dose_limit_of_a_cell_is_kept_over_all_programs(bench, die, measured, network):
    """Two more pulses are allowed to the cells that had most; they are refused the third, others go on."""
    schedule = network(8, FEEBLE)
    dose = bench.array.dose()
    limit = int(dose.max()) + 2
    limited = replace(schedule, pulse=replace(FEEBLE, dose_limit=limit))
    for _ in range(3):
        program(bench, die, schedule=limited, die_record=measured)
    after = bench.array.dose()
    assert after.max() <= limit
    tried = (after > dose) & (dose == dose.max())
    assert tried.any() and (after[tried] == limit).all()
    assert ((after - dose) > 2).any()


def test_all_cells_that_are_left_alone_stay_as_they_are(bench, die, measured, network):
    unused = network(9).states == DONT_CARE
    before = bench.array.dose()
    program(bench, die, schedule=network(9), die_record=measured)
    assert (bench.array.dose() - before)[unused].sum() == 0
