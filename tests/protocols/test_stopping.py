"""Ctrl-C, SIGTERM and hangups end what they should, also in a process that was started with them ignored."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX; Ctrl-Break is tested beside them")

SERVES = """
import signal, threading, time
from sim_backends.lifetime import wait_for_end
def tell():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    print("up", flush=True)
threading.Thread(target=tell).start()
wait_for_end(forever=True)
print("saved")
"""
RUNS = """
import time
from protocols.sequencer.stopping import RunStopped, StopRequest
with StopRequest() as stop:
    print("up", flush=True)
    try:
        for _ in range(600):
            time.sleep(0.1)
            stop.check()
    except RunStopped:
        print("between two steps")
"""
LOOKS = """
import time
from unittest import mock
from protocols import cli
def slow():
    print("up", flush=True)
    time.sleep(60)
with mock.patch.object(cli, "app", slow):
    cli.main()
"""


@contextlib.contextmanager
def _up(code, ignoring):
    """A program that was started with some signals ignored; up when this gives it, gone afterwards."""
    started = [sys.executable, "-c", code]
    if ignoring:  # what a shell without job control does to the jobs in its background, and what nohup does
        started = ["sh", "-c", f"trap '' {ignoring}; exec \"$@\"", "sh", *started]
    group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # in which Windows ignores Ctrl-C
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, creationflags=group) as program:
        try:
            assert program.stdout.readline() == "up\n"
            yield program
        finally:
            program.kill()


def _end(code, number, ignoring):
    """What a program says, and how it ends, at a signal."""
    with _up(code, ignoring) as program:
        program.send_signal(number)
        said, _ = program.communicate(timeout=60)
    return said.strip(), program.returncode


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("ignoring", ["", "INT"], ids=["foreground", "background"])
def test_a_station_ends_and_saves(name, ignoring):
    assert _end(SERVES, getattr(signal, name), ignoring) == ("saved", 0)


@posix_only
@pytest.mark.parametrize("ignoring", ["", "INT"], ids=["foreground", "background"])
def test_a_run_stops_between_two_steps_at_ctrl_c(ignoring):
    assert _end(RUNS, signal.SIGINT, ignoring) == ("between two steps", 0)


@posix_only
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_run_is_terminated(name):
    number = getattr(signal, name)
    assert _end(RUNS, number, "INT TERM") == ("", 128 + number)


@posix_only
def test_any_other_command_ends_at_ctrl_c_in_the_background_too():
    said, status = _end(LOOKS, signal.SIGINT, "INT")
    assert said == "" and status != 0


@posix_only
@pytest.mark.parametrize("code", [SERVES, RUNS], ids=["station", "run"])
def test_who_was_started_with_nohup_outlives_the_terminal(code):
    with _up(code, "HUP") as program:
        program.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.3)


@pytest.mark.skipif(os.name == "posix", reason="Ctrl-Break is of Windows")
@pytest.mark.parametrize(("code", "ended"), [(SERVES, ("saved", 0)), (RUNS, ("", 128 + 21))], ids=["station", "run"])
def test_ctrl_break_ends_on_windows(code, ended):
    assert _end(code, getattr(signal, "CTRL_BREAK_EVENT", None), "") == ended
