"""From analog weights to conductances on a passive die: `xbar map`, `xbar program`, also killed in the middle."""

import json
import os

import numpy as np
import pytest
from command_line import killed_at, xbar
from happened import assert_frames_were_intended, assert_left_safely, assert_read_before_pulsed, happened
from safetensors.numpy import save_file

from analysis.record.record import Record
from mapping.writing.analog_schedule import AnalogSchedule
from mapping.writing.converge import Outcome

SEED, FIRST, SITE = 2, "c2r6", (2, 6)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("analog")
    rng = np.random.default_rng(8)
    shapes = {"fc1.weight": (4, 3), "fc2.weight": (2, 4)}  # 40 of the 64 cells
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(state, str(home / "w.safetensors"))
    arguments = ("--geometry", "passive-8x8", "--coding", "analog", "--parallel", "line", "--tolerance", "3 %")
    mapped = xbar("map", home / "w.safetensors", "-o", home / "w.h5", *arguments)
    assert mapped.status == 0 and "40 of 64 cells" in mapped.said, mapped.said
    return home


def result(folder):
    with Record.open(folder, create=False, write=False) as record:
        return record.results("program", "write-analog")[FIRST][-1]


def test_what_is_mapped_arrives_on_the_die(home):
    out = home / "lot"
    done = xbar("program", home / "w.h5", "--lot", "tio2-8x8", "--dies", 1, "--seed", SEED, "--out", out)
    assert done.status == 0 and "a cell" in done.said, done.said
    wanted = AnalogSchedule.load(home / "w.h5").targets.g
    written = result(out)
    np.testing.assert_array_equal(written["target"].values, wanted)
    assert written.attrs["verdict"] == "pass" and written.attrs["cells"] == 40
    good = written["outcome"].values == Outcome.REACHED
    assert good.sum() >= 36 and (np.abs(written["achieved"].values / wanted - 1)[good] <= 0.03).all()
    entries = happened(out / "station" / "physical.jsonl")
    assert_left_safely(entries)
    assert all(-2.4 <= entry["v"] <= 2.1 for entry in entries if entry["what"] == "pulse")
    mapped = xbar("map", home / "w.safetensors", "-o", home / "again.h5", "--geometry", "passive-8x8", "--coding",
                  "analog", "--die", f"{out}:{FIRST}")  # fmt: skip
    assert mapped.status == 0, mapped.said
    assert AnalogSchedule.load(home / "again.h5").provenance["die"] == FIRST


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pairs", "paper"), "choose physical for a die"),
        (("--pairs", "odd"), "choose physical or paper"),
        (("--scheme", "grounded"), "does not write"),
        (("--parallel", "all"), "choose cell or line"),
        (("--cap", "0.5V"), "a cap of 0.5 V: ramps start at 1.1 V"),
        (("--cap", "1A"), "expected 'V'"),
        (("--tolerance", "150 %"), "not plausible"),
    ],
)
def test_bad_arguments_say_what_to_change(home, options, said):
    done = xbar("map", home / "w.safetensors", "-o", home / "no.h5", "--geometry", "passive-8x8", "--coding", "analog",
                *options)  # fmt: skip
    assert done.status == 1 and said in " ".join(done.said.split()), done.said
    assert not (home / "no.h5").exists()


@pytest.mark.skipif(os.name != "posix", reason="how a process dies is judged by a signal that Windows lacks")
def test_killed_in_the_middle_of_a_write_nothing_is_pulsed_twice(home):
    out = home / "killed"
    command = ("program", home / "w.h5", "--lot", "tio2-8x8", "--dies", 1, "--seed", SEED)
    when = killed_at(2500, *command, out=out)
    log = out / "station" / "physical.jsonl"
    before = len([entry for entry in happened(log) if entry["what"] == "pulse"])
    with Record.open(out, create=False, write=False) as record:
        assert not record.results("program", "write-analog").get(FIRST)
        assert len(record.intents(FIRST)) > 250, "it died while it wrote"
        cut = record.unfired(FIRST)
    resumed = xbar("resume", out)
    assert resumed.status == 0, resumed.said
    written = result(out)
    assert written.attrs["verdict"] == "pass" and json.loads(written.attrs["settings"])["cap_set"] == 2.1
    entries = happened(log)
    with Record.open(out, create=False, write=False) as record:
        assert assert_frames_were_intended(entries, record, {SITE: FIRST}) > before
        assert not record.unfired(FIRST) and len(cut) <= 1
    assert_read_before_pulsed(entries, SITE, {0}, when + 0.5)
    assert_left_safely(entries)
