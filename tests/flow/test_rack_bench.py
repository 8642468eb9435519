"""A rack under the runner's bench: intents before pulses, settling after a cut, and entering and leaving a die."""

import json

import numpy as np
import pytest
from in_process import simulated_station

from analysis.record.record import Record
from instruments.station import load_station
from protocols.bench.bench import Bench, Die


@pytest.fixture
def home(tmp_path):
    return tmp_path


def test_a_die_is_entered_read_and_left_over_a_rack(home):
    with simulated_station("tio2-8x8", 3, home, rack=True) as file, load_station(file) as station:
        with Record.open(home / "lot") as record:
            bench = Bench(station.prober, station.array, record, record.begin_run("test", {}))
            site = station.prober.die_sites()[0]
            bench.enter(Die(str(site), site, 0))
            assert bench.contact_check.passed
            read = station.array.read(0, 0.2, current_range=4)
            assert np.nanmedian(read) / 0.2 == pytest.approx(300e-6, rel=0.3)
            bench.leave()
        assert station.elapsed() is not None
    log = home / "station" / "physical.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["outputs"] for each in entries if each["what"] == "separation"][-1] == "hard_ground"
    assert not [each for each in entries if each["what"] in ("damage", "hot_switch", "dwell")]


def test_a_rack_needs_dies_without_gates(home):
    from sim_backends.station import Station, StationError, station_config

    with pytest.raises(StationError, match="the dies of lot mtj have gates; a rack drives passive arrays"):
        Station(station_config({"lot": "mtj", "rack": {}}, "test", home))
    with pytest.raises(StationError, match="more than the six slots"):
        Station(station_config({"lot": "tio2-64x64", "rack": {}}, "test", home))
