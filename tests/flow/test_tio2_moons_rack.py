"""Half moons on one passive die over a rack, the whole way, judged by the truth file and the physical log."""

import json

import numpy as np
import pytest
from command_line import xbar
from happened import assert_left_safely, happened, of_kind
from happened_rack import assert_limits_were_kept, assert_no_mark_came_twice, assert_shots_were_intended, dose_of
from in_process import sim_here

from analysis.record import Record
from analysis.step_names import WRITE_ANALOG
from mapping.converge import ARRAY, Outcome
from protocols.bench import DOSE_LIMIT

DIE, SITE, SEED, CURRENT_LIMIT = "c3r6", (3, 6), 1, 5e-3  # it has a stuck cell
TOLERANCE = 0.08  # a write to the default of 1 % fires some thousand pulses more, each of thirty questions
#: A rack of which nothing is special.
STATION = {"lot": "tio2-8x8", "seed": SEED, "rack": {}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("moons")
    (home / "served.yaml").write_text(json.dumps(STATION), encoding="utf-8")
    kept = {"truth": home / "truth.npz", "log": home / "physical.jsonl", "state": home / "state"}
    with sim_here(home / "served.yaml", **kept, write=home / "station.yaml"):
        where = ("--station", home / "station.yaml", "--only", DIE, "--seed", SEED, "--out", home / "lot")
        done = xbar(
            "run",
            "tio2-moons",
            *where,
            "--epochs",
            1500,
            "--averages",
            1,
            "--tolerance",
            TOLERANCE,
            "--json",
            home / "n.json",
        )
        assert done.status == 0, done.said
        scored = xbar("score", home / "lot", home / "truth.npz", "--json", home / "score.json")
        assert scored.status == 0, scored.said
    return home


@pytest.fixture(scope="module")
def entries(home):
    return happened(home / "physical.jsonl")


@pytest.fixture
def record(home):
    with Record.open(home / "lot", create=False, write=False) as record:
        yield record


def test_the_cells_hold_their_targets_when_the_whole_array_is_finished(home, record):
    """By what the die really holds after the run; the figure of the run says the same."""
    numbers = json.loads((home / "n.json").read_text(encoding="utf-8"))
    with np.load(home / "truth.npz", allow_pickle=False) as truth:
        held = truth["g_read"][next(at for at, site in enumerate(truth["site"]) if tuple(site) == SITE), 0]
    last = record.results("tio2-moons", WRITE_ANALOG)[DIE][-1]
    healthy = last["outcome"].values[0] > Outcome.GOING
    target = last["target"].values[0]
    error = np.abs(held - target)[healthy] / target[healthy]
    assert healthy.sum() >= 40 and (error <= TOLERANCE + 0.01).mean() >= 0.9  # read noise of one average beside it
    assert numbers["programming"]["within_tolerance"] >= 0.9
    assert numbers["dies"]["written"] == 1 and numbers["accuracy"]["mean"] >= 0.85
    assert numbers["programming"]["pulses_per_cell"] == pytest.approx(last.attrs["pulses_per_cell"], rel=0.5)


def test_defects_are_found(home):
    score = json.loads((home / "score.json").read_text(encoding="utf-8"))
    assert score["defect_recall"] == score["defect_precision"] == score["class_right"] == 1


def test_no_limit_is_passed_and_every_shot_was_intended_once(entries, record):
    assert_limits_were_kept(entries, max(ARRAY.cap_set, 2.1), CURRENT_LIMIT)
    assert_no_mark_came_twice(entries)
    shots = assert_shots_were_intended(entries, record, DIE, ())
    dose = record.dose(DIE, (1, 8, 8))[0]
    assert shots == len(of_kind(entries, "pulse")) > 300
    assert np.array_equal(dose, dose_of(record, DIE, True)) and dose.max() <= DOSE_LIMIT
    assert_left_safely(entries)
