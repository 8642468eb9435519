"""`xbar run mtj-mnist`, the whole way: JSON, report, the same numbers again, a station served by hand, the truth."""

import json
import re
import shutil
import signal
import time
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from command_line import end_served, run_xbar, served, xbar
from happened import assert_left_safely, fired_per_cell, happened, of_kind
from in_process import sim_here

from analysis.record.record import Record
from analysis.record.step_names import CLASSIFY_IMAGES, MEASURE_STATES
from analysis.results.mtj_mnist import lot_results
from analysis.results.summary import summary
from protocols.commands.replay import replay
from sim_backends.array.dies.lot import load_lot
from sim_backends.array.dies.mtj_die import Die as SimulatedDie

#: The first three dies of the route have a dead row, a dead column and a row dead in all blocks among them.
SEED, DIES, IMAGES = 31, 3, 60


@pytest.fixture(scope="module")
def small(few_digits):
    """Options of a run that takes seconds."""
    return ("--dies", DIES, "--images", IMAGES, "--epochs", 6, "--hidden", 20, "--inputs", 40, "--mnist", few_digits)


@pytest.fixture(scope="module")
def first(small, tmp_path_factory):
    """A run with the simulated station that it starts by itself: its folder and numbers."""
    home = tmp_path_factory.mktemp("first")
    arguments = ("run", "mtj-mnist", *small, "--seed", SEED, "--out", home / "lot", "--json", home / "run.json")
    done = run_xbar(*arguments, said=home / "said")
    assert done.status == 0, done.said
    return home / "lot", json.loads((home / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def by_hand(small, tmp_path_factory):
    """The same run with a station that was served by hand: its folder, its numbers, log and truth of the station."""
    home = tmp_path_factory.mktemp("by_hand")
    station, truth, log = home / "station.yaml", home / "truth.npz", home / "physical.jsonl"
    with sim_here("mtj", seed=SEED, truth=truth, log=log, write=station):
        arguments = ("run", "mtj-mnist", *small, "--seed", SEED, "--station", station, "--out", home / "lot")
        done = xbar(*arguments, "--json", home / "run.json")
        assert done.status == 0, done.said
    return home / "lot", json.loads((home / "run.json").read_text(encoding="utf-8")), log, truth


REQUIRED = """
dies cells_per_die images seed data assumed error.software
error.unaware.mean error.unaware.sd error.unaware.per_die
error.die_aware.mean error.die_aware.sd error.die_aware.per_die
error.die_aware_moved.emulated error.die_aware_moved.measured
error.statistics_aware.mean error.statistics_aware.sd error.statistics_aware.per_die
error.statistics_aware.fit_half error.statistics_aware.unseen_half
error.calibrated.mean error.calibrated.sd error.calibrated.per_die
programming.cells programming.verified programming.gave_up programming.pulses_per_cell
defects.per_die time.wall_s time.station_s time.training_s
"""


def test_the_json_has_all_numbers(first):
    _, numbers = first
    for key in REQUIRED.split():
        value = numbers
        for part in key.split("."):
            assert part in value, f"{key} is missing"
            value = value[part]
        assert value is not None and value != [], key
    assert (numbers["dies"], numbers["images"], numbers["seed"]) == (DIES, IMAGES, SEED)
    assert numbers["cells_per_die"] == 20_000 and numbers["missing"] == []
    assert len(numbers["defects"]["per_die"]) == DIES
    assert {len(numbers["error"][name]["per_die"]) for name in ("unaware", "die_aware", "calibrated")} == {DIES}
    programming = numbers["programming"]
    assert programming["verified"] + programming["gave_up"] == programming["cells"] > 0
    assert 0 < programming["pulses_per_cell"] < 2
    assert min(numbers["time"].values()) > 0


def test_errors_are_those_of_the_pictures_in_the_record(first):
    """The numbers of the JSON, counted once more from what each die answered."""
    folder, numbers = first
    with Record.open(folder, create=False) as record:
        answers = record.results("mtj-mnist", CLASSIFY_IMAGES)
    for name in ("unaware", "die_aware", "statistics_aware", "calibrated"):
        of_name = [[a for a in answers[die] if a.attrs["training"] == name] for die in numbers["names"]]
        assert [len(each) for each in of_name] == [1] * DIES
        wrong = [float((~each[0]["correct"].values).mean()) for each in of_name]
        assert numbers["error"][name]["per_die"] == pytest.approx(wrong)
        assert numbers["error"][name]["mean"] == pytest.approx(np.mean(wrong))
        assert numbers["error"][name]["sd"] == pytest.approx(np.std(wrong, ddof=1))


def test_the_networks_have_learnt_something(first):
    """Ten digits: guessing is wrong nine times of ten. Even 400 digits teach more than that."""
    error = first[1]["error"]
    assert error["software"] < 0.7
    assert error["die_aware"]["mean"] < 0.7 and error["statistics_aware"]["mean"] < 0.7


def test_the_report_is_one_file_that_needs_no_other(first):
    folder, numbers = first
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = _Links()
    page.feed(text)
    assert page.tags["img"] + page.tags["svg"] + page.tags["script"] > 0
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert "@import" not in text
    assert all(name in text for name in numbers["names"])


class _Links(HTMLParser):
    """Which tags a page has, and everything that they make a browser fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.links = Counter(), []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]


def test_a_station_served_by_hand_gives_the_same_numbers(first, by_hand):
    """The same seed in another folder, by the other way to a station."""
    for key in ("error", "defects", "programming", "names", "sensitivity"):
        assert by_hand[1][key] == first[1][key], key


def test_two_stations_of_one_seed_saw_the_same(first, by_hand):
    logs = happened(first[0] / "station" / "physical.jsonl"), happened(by_hand[2])
    pulses = [
        [(e["die"], e["kernel"], e["mask"], e["v"], e["count"]) for e in of_kind(log, "pulse") if e["contact"]]
        for log in logs
    ]
    assert pulses[0] == pulses[1] and len(pulses[0]) > 100


def test_everything_fired_is_in_the_record_and_every_die_was_left_safely(by_hand):
    folder, numbers, log, _ = by_hand
    entries = happened(log)
    assert_left_safely(entries)
    assert all(pulse["contact"] for pulse in of_kind(entries, "pulse"))
    assert entries[-1]["what"] == "end"
    with Record.open(folder, create=False) as record:
        for die in numbers["names"]:
            really = fired_per_cell(entries, record, die, (32, 25, 25))
            assert np.array_equal(really, record.dose(die, (32, 25, 25))), die
            assert record.unfired(die) == []


def test_station_time_is_what_the_station_took(by_hand):
    _, numbers, log, _ = by_hand
    end = happened(log)[-1]["station_s"]
    assert numbers["time"]["station_s"] == pytest.approx(end, abs=1.0)  # the last way down comes after the last look


def test_another_seed_is_another_lot(first, tmp_path):
    with sim_here("mtj", seed=SEED + 1, write=tmp_path / "station.yaml"):
        script = tmp_path / "look.py"
        script.write_text(LOOK, encoding="utf-8")
        done = xbar(
            "run", f"{script}:look", "--dies", 1, "--station", tmp_path / "station.yaml", "--out", tmp_path / "l"
        )
    assert done.status == 0, done.said
    with Record.open(tmp_path / "l", create=False) as record, Record.open(first[0], create=False) as other:
        ((die, (here,)),) = record.results("look.py:look", MEASURE_STATES).items()
        there = other.results("mtj-mnist", MEASURE_STATES)[die][-1]
    likeness = np.corrcoef(here["g_p"].values.ravel(), there["g_p"].values.ravel())[0, 1]
    assert abs(likeness) < 0.1
    assert not np.array_equal(here["cell_class"].values, there["cell_class"].values)


LOOK = """
from protocols.steps.characterise import measure_states
from protocols.sequencer.run import protocol

@protocol
def look(run):
    for die in run.dies():
        run.step(measure_states, die)
"""


def test_the_same_command_again_comes_from_the_record_without_a_station(first, small, tmp_path):
    folder, numbers = first
    log = folder / "station" / "physical.jsonl"
    before, began = log.read_bytes(), time.monotonic()
    done = xbar("run", "mtj-mnist", *small, "--seed", SEED, "--out", folder, "--json", tmp_path / "again.json")
    assert done.status == 0, done.said
    assert time.monotonic() - began < 0.5 * numbers["time"]["wall_s"] + 5.0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    for key in ("error", "defects", "programming", "sensitivity"):
        assert again[key] == numbers[key], key
    assert again["time"]["station_s"] == pytest.approx(numbers["time"]["station_s"])
    assert log.read_bytes() == before
    with Record.open(folder, create=False) as record:
        last = record.runs()[-1]
        assert last["status"] == "finished"
        assert {e["kind"] for e in record.events() if e["run"] == last["id"]} == {"time", "computed"}


def test_report_gives_the_same_numbers_from_the_record(by_hand, tmp_path):
    """Also when another protocol has been run over the lot since."""
    folder, numbers, *_ = by_hand
    shutil.copytree(folder, tmp_path / "lot")
    with Record.open(tmp_path / "lot") as record:
        record.begin_run("noise.py:noise", {"seed": SEED + 1})
    done = xbar("report", tmp_path / "lot", "--json", tmp_path / "report.json")
    assert done.status == 0, done.said
    again = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert again["error"] == numbers["error"] and again["seed"] == SEED
    assert again["provenance"] == numbers["provenance"]


def test_a_run_is_replayed_bit_for_bit_with_its_table(by_hand, tmp_path):
    """Without a station, from what went over the wires."""
    folder = shutil.copytree(by_hand[0], tmp_path / "lot")
    found = replay(folder)
    assert found.deviation == "" and found.exact and found.steps == found.same > 20
    with Record.open(folder, create=False, write=False) as record:
        recorded, replayed = (summary(results) for results in (lot_results(record), found.value))
    assert recorded["networks"] == replayed["networks"] if "networks" in recorded else True
    for key in set(recorded) - {"station_time_s", "wall_s", "training_s", "seconds"}:
        if not re.search(r"time|wall|run|provenance", key):
            assert json.dumps(recorded[key]) == json.dumps(replayed[key]), key


def test_what_was_found_and_programmed_agrees_with_the_truth(by_hand, tmp_path):
    folder, _, _, truth = by_hand
    done = xbar("score", folder, truth, "--json", tmp_path / "score.json")
    assert done.status == 0, done.said
    score = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))
    assert score["dies"] == DIES
    assert score["in_state"] >= 0.999
    assert score["defect_recall"] >= 0.99 and score["defect_precision"] >= 0.99 and score["class_right"] >= 0.99
    assert score["line_recall"] == 1.0 and score["line_precision"] == 1.0
    for die in score["per_die"]:
        assert die["healthy"] > 1000 and die["defects_true"] > 10
        assert die["lines_true"] == _dead_lines(die["die"])
    assert sum(die["lines_true"] for die in score["per_die"]) >= 3


def test_fewer_dies_and_pictures_and_back_again(first, small, tmp_path, monkeypatch):
    """Results are those of the newest run, whatever an earlier one left in the folder; nothing is mixed."""
    folder, numbers = first
    shutil.copytree(folder, tmp_path / "lot")

    def run(**changed):
        options = dict(zip(small[::2], small[1::2], strict=True)) | {f"--{key}": v for key, v in changed.items()}
        flat = [part for pair in options.items() for part in pair]
        json_file = tmp_path / "run.json"
        done = xbar("run", "mtj-mnist", *flat, "--seed", SEED, "--out", tmp_path / "lot", "--json", json_file)
        assert done.status == 0, done.said
        return json.loads(json_file.read_text(encoding="utf-8"))

    fewer = run(dies=2, images=40)
    assert (fewer["dies"], fewer["images"], fewer["names"]) == (2, 40, numbers["names"][:2])
    assert len(fewer["error"]["die_aware"]["per_die"]) == len(fewer["defects"]["per_die"]) == 2
    assert fewer["programming"]["cells"] < numbers["programming"]["cells"]
    # a third page, of what the first was of, is looked at by nobody
    monkeypatch.setattr("analysis.reports.mtj_mnist.write_report", lambda _, path: path)
    again = run()
    assert (again["dies"], again["images"], again["names"]) == (3, IMAGES, numbers["names"])
    assert again["error"]["software"] == numbers["error"]["software"]
    assert again["error"]["die_aware_moved"]["emulated"] == numbers["error"]["die_aware_moved"]["emulated"]
    assert again["sensitivity"] == numbers["sensitivity"]
    assert again["programming"]["cells"] == numbers["programming"]["cells"]
    for name in ("unaware", "die_aware", "statistics_aware"):  # measured again on dies that read with noise
        assert again["error"][name]["mean"] == pytest.approx(numbers["error"][name]["mean"], abs=0.1)


def _dead_lines(die):
    """Dead lines of a die as it was made, those that kill the same cells counted once."""
    lot = load_lot("mtj")
    column, row = (int(part) for part in die.removeprefix("c").split("r"))
    made = SimulatedDie.from_lot(lot, SEED, lot.wafer.sites().index((column, row)))
    return len({line.mask.tobytes() for line in made.dead_lines})


@pytest.fixture
def interrupt_ignored():
    """What is started now has the interrupt ignored, as a job in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_station_in_the_background_of_a_script_ends_at_ctrl_c_and_saves_what_it_knows(tmp_path, interrupt_ignored):
    log = tmp_path / "physical.jsonl"
    with served("mtj", "--log", log, "--truth", tmp_path / "truth.npz", write=tmp_path / "station.yaml") as serving:
        status = end_served(serving)
    assert status == 0
    assert happened(log)[-1]["what"] == "end" and (tmp_path / "truth.npz").is_file()
