"""However a program that holds a rack ends, its outputs go off and nothing is pulsed twice: by the physical log."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from command_line import wait_for
from in_process import serve_here

from instruments.station import write_rack_station

LIMIT = 3.0  # s; from the end of the program to needles up
PULSE_LIMIT = 1.6

PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from instruments.broker.client import Broker
from instruments.station import load_station

mask = np.zeros((8, 8), dtype=bool)
mask[2, 3] = True
with Broker(Path(sys.argv[1]), lease=2.0) as broker, load_station(sys.argv[1], broker) as station:
    station.prober.first_die()
    station.prober.contact()
    station.array.idle()
    sign = 1
    while True:
        station.array.pulse(0, mask, sign * 1.1, 1e-6, scheme="V/2")
        station.array.read(0, 0.2, mask=mask, current_range=4)
        sign = -sign
        if sys.argv[2] == "raise" and station.array.last_action()[1] == 5:
            raise RuntimeError("a fault of the program")
        if sys.argv[2] == "hang" and station.array.last_action()[1] == 5:
            time.sleep(60)
"""


def entries(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def station(tmp_path):
    """Station file and physical log of a station that outlives the program."""
    log = tmp_path / "physical.jsonl"
    with serve_here({"lot": "tio2-8x8", "seed": 3, "dies": 1, "log": str(log), "rack": {}}) as served:
        wired = served.addresses["rack"]
        file = write_rack_station(
            tmp_path / "station.yaml",
            served.addresses,
            outputs=wired["rows"],
            rows=wired["die_rows"],
            columns=wired["die_columns"],
            pulse_limit=PULSE_LIMIT,
        )
        yield file, log


def wait_until_it_works(log):
    """Outputs are on, and some pulses were fired."""
    wait_for(lambda: any(each["what"] == "outputs" and each["mode"] == "driven" for each in entries(log)), 30)
    time.sleep(0.5)


@pytest.mark.parametrize("end", ["raise", "kill", "hang"])
def test_the_rack_goes_off(station, end):
    file, log = station
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file), end], stderr=subprocess.DEVNULL)
    try:
        wait_until_it_works(log)
        if end == "kill":
            os.kill(program.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        if end != "hang":
            program.wait(30)
        ended = time.time()
        wait_for(lambda: any(each["what"] == "separation" for each in entries(log)), 20)
    finally:
        program.kill()
        program.wait()
    happened = entries(log)
    (separation,) = (each for each in happened if each["what"] == "separation")
    if end != "hang":
        assert separation["wall_s"] - ended < LIMIT
    assert separation["outputs"] == "hard_ground"
    assert [each["mode"] for each in happened if each["what"] == "outputs"][-1] == "hard_ground"
    units = {each["channel"]: each for each in happened if each["what"] == "smu"}
    assert not any(each["output"] or each["level"] for each in units.values())
    assert not [each for each in happened if each["what"] in ("damage", "hot_switch", "dwell")]
    pulses = [each for each in happened if each["what"] == "pulse"]
    assert all(abs(each["v"]) <= PULSE_LIMIT for each in pulses)
    assert all(max(map(abs, each["volts"].values())) <= PULSE_LIMIT for each in pulses)


def test_after_a_kill_the_generator_still_tells_how_many_pulses_there_were(station, tmp_path):
    from instruments.station import load_station

    file, log = station
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file), "kill"], stderr=subprocess.DEVNULL)
    try:
        wait_until_it_works(log)
    finally:
        program.kill()
        program.wait()
    wait_for(lambda: any(each["what"] == "separation" for each in entries(log)), 20)
    with load_station(file) as again:
        told = again.array.last_action()[1]
    happened = entries(log)
    assert told == sum(each["what"] == "pulse" for each in happened) > 0
    assert not [each for each in happened if each["what"] == "damage"]
