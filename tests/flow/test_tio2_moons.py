"""Half moons on passive dies, the whole way over sockets, judged by the truth file and the physical log."""

import json
from unittest import mock

import numpy as np
import pytest
from command_line import xbar
from fast_lot import fast_lot
from happened import assert_frames_were_intended, assert_left_safely, happened
from in_process import sim_here

from analysis.record.record import Record
from analysis.record.step_names import CLASSIFY_POINTS, MEASURE_ANALOG, WRITE_ANALOG
from mapping.dies.die_record import CellClass
from mapping.writing.converge import ARRAY, Outcome

SEED = 1  # the first die has a dead row, the second a stuck cell
EPOCHS = 1500
TOLERANCE = 0.03  # three times the default: half of the pulses
ROUTE = {(2, 6): "c2r6", (3, 6): "c3r6"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run of two dies on the board of a served station, with its truth and its log."""
    home = tmp_path_factory.mktemp("moons")
    kept = {"truth": home / "truth.npz", "log": home / "physical.jsonl", "state": home / "state"}
    few = mock.patch("protocols.shipped.tio2_moons.MONTE_CARLO_LOTS", 4)  # nobody here looks at the spread between lots
    with sim_here(fast_lot(home / "fast.yaml"), seed=SEED, **kept, write=home / "station.yaml"), few:
        where = ("--station", home / "station.yaml", "--dies", 2, "--seed", SEED, "--out", home / "lot")
        done = xbar(
            "run",
            "tio2-moons",
            *where,
            "--epochs",
            EPOCHS,
            "--parallel",
            "line",
            "--tolerance",
            TOLERANCE,
            "--json",
            home / "n.json",
        )
        assert done.status == 0, done.said
        (home / "said").write_text(done.said, encoding="utf-8")
        scored = xbar("score", home / "lot", home / "truth.npz", "--json", home / "score.json")
        assert scored.status == 0, scored.said
    return home


@pytest.fixture(scope="module")
def numbers(home):
    return json.loads((home / "n.json").read_text(encoding="utf-8"))


def true_conductance(file, site):
    """What a read without noise gives of a die (S), ``[row, column]``."""
    with np.load(file, allow_pickle=False) as truth:
        at = next(i for i, there in enumerate(truth["site"]) if tuple(there) == site)
        return truth["g_read"][at, 0]


def results(folder, function):
    with Record.open(folder, create=False, write=False) as record:
        return record.results("tio2-moons", function)


def test_the_numbers_are_those_that_were_measured(home, numbers):
    right = np.stack([sets[-1]["right"].values for sets in results(home / "lot", CLASSIFY_POINTS).values()])
    assert numbers["dies"]["written"] == 2 and numbers["dies"]["names"] == list(ROUTE.values())
    assert numbers["accuracy"]["mean"] == pytest.approx(right.mean())
    assert numbers["f95"] == pytest.approx((right.mean(axis=0) >= 0.95).mean())
    assert numbers["accuracy"]["worst"] == right.mean(axis=0).min()
    assert numbers["accuracy"]["mean"] >= 0.94 and numbers["accuracy"]["noise_free"] >= 0.94
    assert {"within_tolerance", "pulses_per_cell", "gave_up", "passes"} <= numbers["programming"].keys()
    assert numbers["time"]["wall_s"] > 0 and numbers["time"]["writing_s"] > 0
    assert set(numbers["others"]) == {"all techniques", "regular"}
    assert abs(numbers["by_map"]["mean"] - numbers["accuracy"]["mean"]) <= 0.02


def test_the_cells_hold_their_targets_when_the_whole_array_is_finished(home, numbers):
    """By what the dies really hold after the run, not by what was read of them."""
    took = numbers["programming"]
    assert (took["cells"], took["known_broken"]) == (128, 9)  # the dead row and the stuck cell
    assert took["within_tolerance"] * took["cells"] >= 0.95 * (took["cells"] - took["known_broken"])
    healthy = close = 0
    for site, die in ROUTE.items():
        held = true_conductance(home / "truth.npz", site)
        last = results(home / "lot", WRITE_ANALOG)[die][-1]
        chosen = last["outcome"].values[0] > Outcome.GOING
        error = np.abs(held - last["target"].values[0])[chosen] / last["target"].values[0][chosen]
        healthy, close = (
            healthy + chosen.sum(),
            close + int((error <= TOLERANCE + 0.003).sum()),
        )  # read noise and lines beside it
    assert close >= 0.95 * healthy


def test_no_cap_is_passed_and_the_dies_are_left_safely(home):
    entries = happened(home / "physical.jsonl")
    pulses = [entry for entry in entries if entry["what"] == "pulse"]
    assert pulses and all(ARRAY.cap_reset - 1e-9 <= entry["v"] <= ARRAY.cap_set + 1e-9 for entry in pulses)
    assert_left_safely(entries)
    with Record.open(home / "lot", create=False, write=False) as record:
        assert assert_frames_were_intended(entries, record, ROUTE) == len(pulses)


def test_stuck_cells_and_dead_lines_are_found(home, numbers):
    score = json.loads((home / "score.json").read_text(encoding="utf-8"))
    assert score["defect_recall"] == score["defect_precision"] == score["class_right"] == 1
    assert score["line_recall"] == score["line_precision"] == 1
    assert score["in_state"] >= 0.95
    assert numbers["defects"]["c2r6"]["lines"] == ["row 7"]
    classes = results(home / "lot", MEASURE_ANALOG)["c3r6"][-1]["cell_class"].values
    assert np.count_nonzero(classes == CellClass.STUCK_LRS) == 1


def test_table_and_report_tell_it(home):
    said = " ".join((home / "said").read_text(encoding="utf-8").split())
    assert "row 7" in said and "Monte Carlo" in said
    page = (home / "lot" / "report.html").read_text(encoding="utf-8")
    assert "Half moons" in page and "row 7" in page and page.count("data-root-id") >= 7
    again = xbar("report", home / "lot", "--json", home / "again.json")
    assert again.status == 0, again.said
    assert json.loads((home / "again.json").read_text(encoding="utf-8"))["f95"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--epochs", 0), "epochs 0: at least 1"),
        (("--tolerance", "0.0001"), "tolerance 0.0001"),
        (("--averages", 0), "averages 0"),
        (("--parallel", "all"), "choose cell or line"),
        (("--scheme", "grounded"), "does not write"),
        (("--lot", "mtj"), "one array of 8 x 8"),
        (("--moons", "nowhere"), "cannot read nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_moves(tmp_path, options, said):
    lot = () if "--lot" in options else ("--lot", "tio2-8x8")
    done = xbar("run", "tio2-moons", "--dies", 1, "--out", tmp_path / "lot", *lot, *options)
    assert done.status == 1 and said in " ".join(done.said.split()), done.said
    log = tmp_path / "lot" / "station" / "physical.jsonl"
    assert not [entry for entry in happened(log) if entry["what"] in ("move", "contact", "pulse", "read")]
