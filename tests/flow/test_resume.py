"""A run that ends in the middle, however it ends: the die is left safely, and the same command goes on where it was.

Judged by the physical log of the station: what was fired is in the record, what was committed is not done again.
"""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from command_line import ended, start_xbar, wait_for, xbar
from happened import assert_left_safely, fired_per_cell, happened, of_kind
from in_process import sim_here

from analysis.record.record import Record

SHAPE, STEPS = (32, 25, 25), 4
DIES = ("c2r6", "c3r6")

SCRIPT = """
import os
import time
from pathlib import Path

import numpy as np
import xarray as xr

from protocols.sequencer.run import protocol


def write(bench, die, *, number):
    mask = np.zeros((25, 25), bool)
    mask[number::4] = True
    for kernel in (0, 31):
        bench.array.pulse(kernel, mask, (-1) ** number * 0.9, 200e-9)
    if os.environ.get("FAIL_AT") == f"{die.name}:{number}":
        raise RuntimeError("the needle card is on fire")
    if os.environ.get("WAIT_AT") == f"{die.name}:{number}":
        Path(os.environ["REACHED"]).write_text("here")
        while not Path(os.environ["GO_ON"]).exists():
            time.sleep(0.05)
            bench.report("waiting", 0.5)
    return xr.Dataset({"current": (("row", "column"), bench.array.read(0, 0.1), {"units": "A"})})


@protocol
def exercise(run):
    for die in run.dies():
        for number in range(4):
            run.step(write, die, number=number)
"""

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that one process sends another")


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    """A station that was served by hand and outlives every run: its file and log."""
    home = tmp_path_factory.mktemp("station")
    file, log = home / "station.yaml", home / "physical.jsonl"
    with sim_here("mtj", log=log, write=file):
        yield file, log


@pytest.fixture
def command(tmp_path):
    """The command that is given again and again, without a station."""
    (tmp_path / "mine.py").write_text(SCRIPT, encoding="utf-8")
    return ("run", f"{tmp_path / 'mine.py'}:exercise", "--dies", 2, "--out", tmp_path / "lot")


@pytest.fixture
def interrupted(command, tmp_path):
    """Starts the command as a process of its own and holds it in the middle of a step; `go_on` lets it finish.

    While it is held it shows progress.
    """
    holding = {"WAIT_AT": f"{DIES[1]}:2", "REACHED": str(tmp_path / "reached"), "GO_ON": str(tmp_path / "go_on")}

    def start(*options):
        process = start_xbar(*command, *options, said=tmp_path / "said", **holding)
        wait_for(lambda: (tmp_path / "reached").exists() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "said").read_text(encoding="utf-8")
        return process

    start.go_on = lambda: (tmp_path / "go_on").touch()
    start.said = lambda: " ".join((tmp_path / "said").read_text(encoding="utf-8").split())
    return start


def _steps(folder):
    """Every step that was ever committed on the dies: die, run."""
    with Record.open(folder, create=False, write=False) as record:
        return [(step.die, step.run) for die in DIES for step in record.history("mine.py:exercise", die)]


def _check_ledger(entries, folder, *, exactly):
    """What the dies really got is what the record holds, or (after a death in a step) no more than that."""
    with Record.open(folder, create=False) as record:
        for die in DIES:
            really, held = fired_per_cell(entries, record, die, SHAPE), record.dose(die, SHAPE)
            assert np.array_equal(really, held) if exactly else (really <= held).all()
            assert really.sum() >= STEPS * 2 * 150


def _check_finished(folder, runs):
    """All steps of both dies, the first `runs[0]` of them of the first run, and none of them twice."""
    assert [run for _, run in _steps(folder)] == [1] * runs[0] + [2] * runs[1]
    with Record.open(folder, create=False) as record:
        assert record.events("superseded") == []


def test_an_exception_leaves_the_die_and_keeps_what_was_committed(station, command, tmp_path, monkeypatch):
    file, log = station
    before = len(happened(log))
    monkeypatch.setenv("FAIL_AT", f"{DIES[1]}:2")
    with pytest.raises(RuntimeError, match="on fire"):
        xbar(*command, "--station", file)
    assert_left_safely(happened(log)[before:])
    assert len(_steps(tmp_path / "lot")) == STEPS + 2
    with Record.open(tmp_path / "lot", create=False) as record:
        assert record.runs()[-1]["status"] == "failed"
    monkeypatch.delenv("FAIL_AT")
    done = xbar(*command, "--station", file)
    assert done.status == 0, done.said
    _check_finished(tmp_path / "lot", (STEPS + 2, 2))
    entries = happened(log)[before:]
    assert_left_safely(entries)
    _check_ledger(entries, tmp_path / "lot", exactly=True)


def test_going_on_fires_nothing_that_was_committed(station, command, tmp_path, monkeypatch):
    file, log = station
    monkeypatch.setenv("FAIL_AT", f"{DIES[1]}:2")
    with pytest.raises(RuntimeError):
        xbar(*command, "--station", file)
    before = len(happened(log))
    monkeypatch.delenv("FAIL_AT")
    assert xbar(*command, "--station", file).status == 0
    new = of_kind(happened(log)[before:], "pulse")
    assert [pulse["kernel"] for pulse in new] == [0, 31, 0, 31]  # the step that died, and the one after it
    assert {tuple(pulse["site"]) for pulse in new} == {(3, 6)}
    before = len(happened(log))
    assert xbar(*command, "--station", file).status == 0
    assert happened(log)[before:] == []


@posix_only
def test_ctrl_c_finishes_the_step_and_leaves_the_die(command, interrupted, tmp_path):
    """As from a terminal: the interrupt reaches the run and everything it started, its simulated station too."""
    with ended(interrupted()) as process:
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: "stopping after this step" in interrupted.said())
        interrupted.go_on()
        status = process.wait(60)
    log = tmp_path / "lot" / "station" / "physical.jsonl"
    assert status == 130
    assert f"xbar resume {tmp_path / 'lot'} goes on" in interrupted.said()
    assert_left_safely(happened(log))
    assert len(_steps(tmp_path / "lot")) == STEPS + 3  # the step that was being done was finished
    done = xbar(*command)
    assert done.status == 0, done.said
    _check_finished(tmp_path / "lot", (STEPS + 3, 1))
    entries = happened(log)
    assert_left_safely(entries)
    _check_ledger(entries, tmp_path / "lot", exactly=True)
    with Record.open(tmp_path / "lot", create=False) as record:
        assert [run["status"] for run in record.runs()] == ["stopped", "finished"]
        spent = sum(event["data"]["station_s"] for event in record.events("time"))
    assert spent == pytest.approx(entries[-1]["station_s"], abs=2.0)  # each run counted once


@posix_only
def test_a_second_ctrl_c_aborts_now(station, command, interrupted, tmp_path):
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: "Ctrl-C again aborts now" in interrupted.said())
        os.kill(process.pid, signal.SIGINT)
        status = process.wait(60)
    assert status == 130
    assert f"xbar resume {tmp_path / 'lot'} goes on" in interrupted.said()
    _check_aborted(station, command, before, tmp_path)


@posix_only
def test_termination_leaves_the_die_safely(station, command, interrupted, tmp_path):
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        process.terminate()
        status = process.wait(60)
    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in interrupted.said()
    _check_aborted(station, command, before, tmp_path)


def _check_aborted(station, command, before, tmp_path):
    """The board was stopped and is latched, the needles are up, and the next run goes on with a board that works."""
    file, log = station
    entries = happened(log)[before:]
    assert_left_safely(entries)
    assert any(entry["why"] == "ESTOP" and entry["contact"] for entry in of_kind(entries, "outputs"))
    assert len(_steps(tmp_path / "lot")) == STEPS + 2
    done = xbar(*command, "--station", file)
    assert done.status == 0, done.said
    _check_finished(tmp_path / "lot", (STEPS + 2, 2))
    _check_ledger(happened(log)[before:], tmp_path / "lot", exactly=True)


@pytest.mark.skipif(sys.platform == "win32", reason="the process is held by a signal that Windows does not have")
def test_a_run_that_is_killed_is_gone_on_with_though_the_needles_are_down(station, command, interrupted, tmp_path):
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        process.kill()
        process.wait(60)
    time.sleep(0.2)
    done = xbar(*command, "--station", file)
    assert done.status == 0, done.said
    entries = happened(log)[before:]
    assert_left_safely(entries)
    _check_finished(tmp_path / "lot", (STEPS + 2, 2))
    _check_ledger(entries, tmp_path / "lot", exactly=False)


@pytest.mark.skipif(sys.platform == "win32", reason="the process is held by a signal that Windows does not have")
def test_status_and_resume_after_a_kill(station, command, interrupted, tmp_path):
    """Nobody remembers the command; `xbar resume` knows it, and what was committed is not done again."""
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        going = _status(tmp_path)
        assert going["status"] == "running" and going["now"]["die"] == DIES[1] and going["now"]["step"] == "write"
        refused = xbar("resume", tmp_path / "lot")
        assert refused.status == 1 and str(process.pid) in refused.said and "xbar abort" in refused.said
        process.kill()
        process.wait(60)
    wait_for(lambda: _status(tmp_path)["status"] == "died")
    found = _status(tmp_path)
    assert found["next"] == [f"xbar resume {tmp_path / 'lot'}"] and found["dies"][DIES[0]]["verdict"] == "pass"
    done = xbar("resume", tmp_path / "lot")
    assert done.status == 0, done.said
    assert "7 steps from the record, goes on at die c3r6, step write" in " ".join(done.said.split())
    _check_finished(tmp_path / "lot", (STEPS + 2, 2))
    _check_ledger(happened(log)[before:], tmp_path / "lot", exactly=False)
    assert_left_safely(happened(log)[before:])
    with Record.open(tmp_path / "lot", write=False) as record:
        assert [(run["resumes"], run["status"]) for run in record.runs()] == [(None, "died"), (1, "finished")]
        assert len(record.events("died")) == 1
    assert [run["status"] for run in _status(tmp_path)["runs"]] == ["died", "finished"]


def test_pause_and_resume_from_another_terminal(station, command, interrupted, tmp_path):
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        assert xbar("pause", tmp_path / "lot").status == 0
        interrupted.go_on()
        wait_for(lambda: _status(tmp_path)["status"] == "paused")
        assert len(_steps(tmp_path / "lot")) == STEPS + 3  # the step that was being done was finished
        assert of_kind(happened(log)[before:], "contact", "separation")[-1]["what"] == "separation"
        assert xbar("resume", tmp_path / "lot").status == 0
        assert process.wait(60) == 0, interrupted.said()
    assert f"xbar resume {tmp_path / 'lot'} goes on" in interrupted.said()
    assert len(_steps(tmp_path / "lot")) == 2 * STEPS
    assert_left_safely(happened(log)[before:])
    with Record.open(tmp_path / "lot", write=False) as record:
        assert [event["data"]["step"] for event in record.events("paused")] == [1 + STEPS + 3]  # and the survey


@posix_only
def test_a_run_that_hangs_is_aborted_over_its_broker(station, command, interrupted, tmp_path, monkeypatch):
    file, log = station
    monkeypatch.setattr("protocols.commands.abort.PATIENCE", 1.0)  # a process that was stopped never answers
    with ended(interrupted("--station", file)) as process:
        process.send_signal(signal.SIGSTOP)
        done = xbar("abort", tmp_path / "lot")
        assert done.status == 0 and "made safe over the broker" in done.said
        assert_left_safely(happened(log))
        process.send_signal(signal.SIGCONT)
        (tmp_path / "go_on").touch()
        assert process.wait(60) != 0
    assert "xbar resume" in interrupted.said() and "Traceback" not in interrupted.said()
    assert _status(tmp_path)["status"] in ("aborted", "failed")


def test_abort_from_another_terminal(station, command, interrupted, tmp_path):
    file, log = station
    before = len(happened(log))
    with ended(interrupted("--station", file)) as process:
        assert xbar("abort", tmp_path / "lot").status == 0
        status = process.wait(60)
    assert status == 130
    assert f"xbar resume {tmp_path / 'lot'} goes on" in interrupted.said()
    found = _status(tmp_path)
    assert found["status"] == "aborted" and found["dies"][DIES[1]]["verdict"] == "aborted"
    _check_aborted(station, command, before, tmp_path)


def _status(tmp_path):
    return json.loads(xbar("status", tmp_path / "lot", "--json").said)
