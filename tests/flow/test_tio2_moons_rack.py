"""Half moons on one passive die over a rack, killed while it writes and gone on with, the whole way.

Judged by the truth file, the physical log and the record.
"""

import json
import os

import numpy as np
import pytest
from command_line import killed_at, xbar
from fast_lot import fast_lot
from happened import assert_left_safely, happened, of_kind, safe_after
from happened_rack import (
    assert_limits_were_kept,
    assert_no_mark_came_twice,
    assert_shots_were_intended,
    dose_of,
    shots_of,
)
from in_process import sim_here

from analysis.record.record import Record
from analysis.record.step_names import MEASURE_ANALOG, WRITE_ANALOG
from mapping.training.moons import FILES, half_moons
from mapping.writing.converge import ARRAY, Outcome
from protocols.bench.bench import DOSE_LIMIT

DIE, SITE, SEED, CURRENT_LIMIT = "c4r0", (4, 0), 1, 5e-3  # it has a dead row and a stuck cell
DEAD_ROW = 5
#: Wider than the default of 1 %: that fires some thousand pulses more, each of thirty questions on the wire.
TOLERANCE = 0.08
#: Of the boundaries of such a run, one in the middle of the write.
DIES_AT = 4200

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="how a process dies is judged by a signal that Windows lacks"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run that was killed while it wrote, and what then came of it."""
    home = tmp_path_factory.mktemp("rack")
    out = home / "lot"
    _few_points(home / "points")
    how = ("--epochs", 1500, "--averages", 1, "--tolerance", TOLERANCE, "--moons", home / "points")
    lot = fast_lot(home / "fast.yaml")
    which = ("--lot", f"{lot}@rack", "--only", DIE, "--seed", SEED)
    when = killed_at(DIES_AT, "run", "tio2-moons", *which, *how, out=out)
    killed = happened(out / "station" / "physical.jsonl")
    with Record.open(out, create=False, write=False) as record:
        assert record.results("tio2-moons", MEASURE_ANALOG) and not record.results("tio2-moons", WRITE_ANALOG), (
            "while it wrote"
        )
    for command in (("resume", out), ("report", out, "--json", home / "numbers.json")):
        done = xbar(*command)
        assert done.status == 0, done.said
    with sim_here(lot, seed=SEED, state=out / "station" / "dies", truth=home / "truth.npz",
                  write=home / "station.yaml"):  # fmt: skip
        pass  # what the dies are now, as a station that is ended writes it down
    scored = xbar("score", out, home / "truth.npz", "--json", home / "score.json")
    assert scored.status == 0, scored.said
    (home / "killed.json").write_text(json.dumps({"when": when, "pulses": len(of_kind(killed, "pulse"))}), "utf-8")
    return home


def _few_points(folder):
    """Our own half moons, but few of them to test with: on a rack each takes six sources and ten readings."""
    folder.mkdir()
    moons = half_moons()
    for name, points, count in zip(FILES, (moons.train, moons.validation, moons.test), (875, 125, 40), strict=True):
        table = np.column_stack([points.x, points.label])[:count]
        np.savetxt(folder / name, table, delimiter=",", header="x0,x1,label", comments="")


@pytest.fixture(scope="module")
def entries(home):
    return happened(home / "lot" / "station" / "physical.jsonl")


@pytest.fixture
def record(home):
    with Record.open(home / "lot", create=False, write=False) as record:
        yield record


def test_nothing_is_pulsed_twice(home, entries, record):
    before = json.loads((home / "killed.json").read_text(encoding="utf-8"))["pulses"]
    shots = assert_shots_were_intended(entries, record, DIE, dead_rows=(DEAD_ROW,))
    assert shots == len(of_kind(entries, "pulse")) > before > 0
    assert not record.unfired(DIE)
    assert_no_mark_came_twice(entries)


def test_outputs_went_off_when_it_was_killed(home, entries):
    when = json.loads((home / "killed.json").read_text(encoding="utf-8"))["when"]
    took = safe_after(entries, when)
    assert took is not None and took < 5
    later = [entry for entry in entries if entry["wall_s"] > when]
    separated = next(i for i, entry in enumerate(later) if entry["what"] == "separation")
    again = next(i for i, entry in enumerate(later) if entry["what"] == "contact")
    assert separated < again and not of_kind(later[separated:again], "pulse")
    units = {entry["channel"]: entry for entry in of_kind(later[:separated], "smu")}
    assert not any(entry["output"] for entry in units.values())


def test_it_looks_before_it_pulses_again(home, entries):
    when = json.loads((home / "killed.json").read_text(encoding="utf-8"))["when"]
    later = [entry for entry in entries if entry["wall_s"] > when]
    contact = next(i for i, entry in enumerate(later) if entry["what"] == "contact")
    pulse = next(i for i, entry in enumerate(later) if entry["what"] == "pulse" and i > contact)
    reads = [e for e in of_kind(later[contact:pulse], "smu") if e["channel"] == "smu.a" and e["level"]]
    assert len(reads) >= 64, "all cells are read first"


def test_caps_compliance_and_dose_are_kept(entries, record):
    assert_limits_were_kept(entries, max(ARRAY.cap_set, 2.1), CURRENT_LIMIT)
    dose = record.dose(DIE, (1, 8, 8))[0]
    assert dose.max() <= DOSE_LIMIT
    known, unknown = dose_of(record, DIE, True), dose_of(record, DIE, None)
    assert np.array_equal(dose, known + unknown), "what nobody can tell counts as fired"
    assert unknown.sum() <= 8, "the batch that was cut: the generator was without power since"
    shots = sum(len(shots_of(intent.pulse.mask)) for intent in record.intents(DIE) if intent.fired)
    assert shots == len(of_kind(entries, "pulse")) > 1000
    assert_left_safely(entries)


def test_the_cells_hold_their_targets_when_the_whole_array_is_finished(home, record):
    """By what the die really holds after the run; the figures of the run say the same."""
    numbers = json.loads((home / "numbers.json").read_text(encoding="utf-8"))
    with np.load(home / "truth.npz", allow_pickle=False) as truth:
        held = truth["g_read"][next(at for at, site in enumerate(truth["site"]) if tuple(site) == SITE), 0]
    last = record.results("tio2-moons", WRITE_ANALOG)[DIE][-1]
    healthy = last["outcome"].values[0] > Outcome.GOING
    target = last["target"].values[0]
    error = np.abs(held - target)[healthy] / target[healthy]
    assert healthy.sum() >= 40 and (error <= TOLERANCE + 0.01).mean() >= 0.9  # read noise of one average beside it
    assert numbers["programming"]["within_tolerance"] >= 0.8  # of all 64, a row of which is dead
    assert numbers["dies"]["written"] == 1 and numbers["accuracy"]["mean"] >= 0.85
    assert numbers["programming"]["pulses_per_cell"] == pytest.approx(last.attrs["pulses_per_cell"], rel=0.5)


def test_defects_are_found(home):
    score = json.loads((home / "score.json").read_text(encoding="utf-8"))
    assert score["defect_recall"] == score["defect_precision"] == score["class_right"] == 1
    assert score["line_recall"] == score["line_precision"] == 1
