"""A write-verify on a rack that is killed in the middle and goes on, judged by the physical log and the record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import PATIENCE, ended, wait_for, wait_for_broker, xbar
from happened import assert_left_safely, happened, of_kind, safe_after
from happened_rack import (
    assert_limits_were_kept,
    assert_no_mark_came_twice,
    assert_shots_were_intended,
    dose_of,
    shots_of,
)

from analysis.record import Record
from analysis.step_names import MEASURE_ANALOG, WRITE_ANALOG
from protocols.bench import DOSE_LIMIT

DIE, CAP, CURRENT_LIMIT = "c2r6", 2.1, 5e-3
#: Of the boundaries of such a run, one in the middle of the write.
DIES_AT = 4400

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="how a process dies is judged by a signal that Windows lacks"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run that was killed while it wrote, and what then came of it."""
    home = tmp_path_factory.mktemp("rack")
    out, noted = home / "lot", home / "boundaries"
    dying = [sys.executable, str(Path(__file__).parent / "dying_xbar.py"), str(noted), str(DIES_AT)]
    how = ["--lot", "tio2-8x8@rack", "--scheme", "V/2", "--cap", f"{CAP}V", "--averages", "1", "--tolerance", "0.06"]
    with (home / "said").open("wb") as said:
        command = [*dying, "run", "grey-picture", "--dies", "1", "--seed", "1", *how, "--out", str(out)]
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        with ended(child):
            assert child.wait(PATIENCE) == -9, (home / "said").read_text(encoding="utf-8")
    when = float(noted.read_text(encoding="utf-8").splitlines()[-1].split("\t")[2])
    log = out / "station" / "physical.jsonl"
    wait_for(lambda: safe_after(happened(log), when) is not None, 10)
    wait_for_broker(out)
    killed = happened(log)
    with Record.open(out, create=False, write=False) as record:
        assert record.results("grey-picture", MEASURE_ANALOG) and not record.results("grey-picture", WRITE_ANALOG), (
            "while it wrote"
        )
    for command in (("resume", out), ("report", out, "--json", home / "numbers.json")):
        done = xbar(*command)
        assert done.status == 0, done.said
    (home / "killed.json").write_text(json.dumps({"when": when, "pulses": len(of_kind(killed, "pulse"))}), "utf-8")
    return home


@pytest.fixture(scope="module")
def entries(home):
    return happened(home / "lot" / "station" / "physical.jsonl")


@pytest.fixture
def record(home):
    with Record.open(home / "lot", create=False, write=False) as record:
        yield record


def test_nothing_is_pulsed_twice(home, entries, record):
    before = json.loads((home / "killed.json").read_text(encoding="utf-8"))["pulses"]
    assert (
        assert_shots_were_intended(entries, record, DIE, dead_rows=(7,)) == len(of_kind(entries, "pulse")) > before > 0
    )
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
    assert_limits_were_kept(entries, CAP, CURRENT_LIMIT)
    dose = record.dose(DIE, (1, 8, 8))[0]
    assert dose.max() <= DOSE_LIMIT
    known, unknown = dose_of(record, DIE, True), dose_of(record, DIE, None)
    assert np.array_equal(dose, known + unknown), "what nobody can tell counts as fired"
    assert unknown.sum() <= 8, "the batch that was cut: the generator was without power since"
    shots = sum(len(shots_of(intent.pulse.mask)) for intent in record.intents(DIE) if intent.fired)
    assert shots == len(of_kind(entries, "pulse"))


def test_the_write_ends_as_it_would_have(home, entries):
    numbers = json.loads((home / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["programming"]["within_tolerance"] >= 0.95 and numbers["mean_error"] < 0.06
    assert numbers["defects"][DIE]["lines"] == ["row 7"]
    assert_left_safely(entries)
