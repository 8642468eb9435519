"""`xbar replay`: a recorded run, done again without a station, gives the same results to the last bit.

A whole mtj-mnist, with its table, is replayed in test_mtj_mnist.py.
"""

import contextlib
import re
import shutil
import signal
import time

import pytest
from command_line import start_xbar, wait_for, xbar

from analysis.record.record import Record
from instruments.wire.traffic import Kind, TrafficWriter, read_traffic
from protocols.commands.replay import replay
from protocols.sequencer.open_station import traffic_file
from protocols.sequencer.provenance import made_by

SCRIPT = """
import time
from pathlib import Path

import numpy as np
import xarray as xr

from protocols.steps.characterise import check_contact
from protocols.sequencer.run import protocol


def exercise_cells(bench, die, *, number, wait):
    mask = np.zeros((25, 25), bool)
    mask[number::4] = True
    bench.array.pulse(0, mask, (-1) ** number * 0.9, 200e-9)
    if wait and number == 2 and not Path(wait).exists():  # once, so that neither the rest nor a replay waits too
        Path(wait).write_text("here")
        time.sleep(1.0)
    return xr.Dataset({"current": (("row", "column"), bench.array.read(0, 0.1), {"units": "A"})})


@protocol
def exercise(run, *, wait: str = ""):
    for die in run.dies():
        if run.step(check_contact, die).attrs["verdict"] == "pass":
            for number in range(4):
                run.step(exercise_cells, die, number=number, wait=wait)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A finished run on one die; its station is gone."""
    home = tmp_path_factory.mktemp("recorded")
    (home / "mine.py").write_text(SCRIPT, encoding="utf-8")
    done = xbar("run", f"{home / 'mine.py'}:exercise", "--dies", 1, "--out", home / "lot")
    assert done.status == 0, done.said
    return home / "lot"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return f"{path}:exercise"


def rewritten(recording, change):
    """Write a recording anew, entry by entry, each as `change(number, entry)` gives it."""
    entries = list(read_traffic(recording))
    recording.unlink()
    writer = TrafficWriter(recording)
    for number, entry in enumerate(entries):
        writer.add(entry.session, entry.kind, change(number, entry))
    writer.close()


def test_a_flipped_byte_of_the_recording_is_found_and_named(recorded, tmp_path):
    lot = shutil.copytree(recorded, tmp_path / "lot")
    recording = traffic_file(lot, 1)
    content = bytearray(recording.read_bytes())
    content[len(content) // 2] ^= 0x10
    recording.write_bytes(content)
    done = xbar("replay", lot, "--trust")
    assert done.status == 1
    assert re.search(r"block \d+ \(bytes \d+ to \d+\) is not what was written", done.said)


def test_a_flipped_byte_of_a_request_is_shown_with_both_sides(recorded, tmp_path):
    lot = shutil.copytree(recorded, tmp_path / "lot")
    sends = [n for n, entry in enumerate(read_traffic(traffic_file(lot, 1))) if entry.kind is Kind.SEND]
    chosen = sends[len(sends) // 2]

    def flip(number, entry):
        return entry.payload if number != chosen else bytes([entry.payload[0] ^ 1]) + entry.payload[1:]

    rewritten(traffic_file(lot, 1), flip)
    done = xbar("replay", lot, "--trust")
    assert done.status == 1
    assert "byte 0 differs" in done.said and "recorded from byte 0" in done.said and "sent now from byte 0" in done.said


def test_a_lot_is_named_from_where_the_user_stands(recorded, tmp_path, monkeypatch):
    """The protocol runs in the folder in which the run was begun, which may be another."""
    shutil.copytree(recorded, tmp_path / "copy")
    begun = tmp_path / "begun"
    begun.mkdir()
    with Record.open(recorded, create=False, write=False) as record:
        known = record.runs()[-1]["provenance"]
    monkeypatch.setattr("protocols.commands.replay.in_folder_of", lambda _: contextlib.chdir(begun))
    assert known["folder"] and not (begun / "copy").exists()
    monkeypatch.chdir(tmp_path)
    done = xbar("replay", "copy", "--trust")
    assert done.status == 0, done.said


@pytest.mark.parametrize(
    ("git", "says"),
    [("", "pip install xbarlab==9.9.9"), ("0123abc-dirty", "check out 0123abc")],
)
def test_bytes_of_another_version_say_which_one_to_install(recorded, tmp_path, monkeypatch, git, says):
    """The run was made by this one: the replay is made to be of another, that sends other bytes."""
    lot = shutil.copytree(recorded, tmp_path / "lot")

    def other(number, entry):
        return bytes([entry.payload[0] ^ 1]) + entry.payload[1:] if entry.kind is Kind.SEND else entry.payload

    rewritten(traffic_file(lot, 1), other)
    with Record.open(lot, create=False, write=False) as record:
        known = record.runs()[-1]["provenance"]
    was = known | {"packages": known["packages"] | {"xbarlab": "9.9.9"}, "git": git}
    monkeypatch.setattr("protocols.commands.replay.made_by", lambda _: made_by(was))
    done = xbar("replay", lot, "--trust")
    assert done.status == 1 and "differs" in done.said
    assert "the run was made by xbarlab 9.9.9" in done.said and says in " ".join(done.said.split())


def test_a_changed_answer_shows_in_the_result(recorded, tmp_path):
    lot = shutil.copytree(recorded, tmp_path / "lot")
    answers = [n for n, e in enumerate(read_traffic(traffic_file(lot, 1))) if e.payload.startswith(b"0,0,25")]

    def hotter(number, entry):
        return entry.payload if number not in answers else entry.payload.replace(b"0,0,25", b"0,0,26")

    rewritten(traffic_file(lot, 1), hotter)
    found = replay(lot, trust=True)
    assert not found.exact and "attributes differ" in found.deviation and "chuck_temperature" in found.deviation


def test_a_killed_run_is_replayed_to_where_it_was_cut_and_a_resumed_one_after_it(script, tmp_path):
    lot, here = tmp_path / "lot", tmp_path / "here"
    process = start_xbar("run", script, "--dies", 2, "--set", f"wait={here}", "--out", lot, said=tmp_path / "said")
    wait_for(lambda: here.exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    time.sleep(0.5)
    cut = replay(lot, 1)
    assert cut.exact and cut.steps == 4  # the survey, contact, two steps; the third was not committed
    assert xbar("resume", lot).status == 0
    rest = replay(lot, 2)
    assert rest.exact and rest.ended == "finished" and rest.steps == 7


def test_a_paused_run_is_replayed_with_its_pause(script, tmp_path):
    lot, here = tmp_path / "lot", tmp_path / "here"
    process = start_xbar("run", script, "--dies", 2, "--set", f"wait={here}", "--out", lot, said=tmp_path / "said")
    wait_for(lambda: here.exists() or process.poll() is not None)
    assert xbar("pause", lot).status == 0
    with Record.open(lot, create=False, write=False) as record:
        wait_for(lambda: record.runs()[-1]["status"] == "paused")
    assert xbar("resume", lot).status == 0
    assert process.wait(60) == 0, (tmp_path / "said").read_text()
    found = replay(lot)
    assert found.exact and found.steps == 11


def test_what_cannot_be_replayed_says_so(recorded, tmp_path):
    lot = shutil.copytree(recorded, tmp_path / "lot")
    traffic_file(lot, 1).unlink()
    assert "did nothing with hardware, or its" in xbar("replay", lot).said
    assert "there is no run 7" in xbar("replay", lot, "--run", 7).said
