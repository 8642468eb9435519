"""The fixtures of the plugin with a lot of passive dies: a bench that pulses under a scheme, and keeps it."""

import numpy as np
import pytest
from in_process import serve_here

from analysis.record.record import Pulse
from instruments.roles.interfaces import LimitError
from instruments.station import load_station, write_station
from protocols.pytest_plugin import LotChoice

WIDTH = 1.04e-6


@pytest.fixture
def lot():
    return LotChoice("tio2-8x8", seed=7)


def test_a_station_of_its_own_process_has_a_board_that_reaches_the_caps(station):
    caps = station.array.capabilities()
    assert caps.v_min < -2.4 and caps.v_max > 2.1
    assert max(each.full_scale for each in caps.ranges) >= 64 * 500e-6 * 0.2


def test_what_a_station_file_says_of_the_board_holds_and_nothing_else_is_lost(tmp_path):
    config = {"lot": "tio2-8x8", "dies": 1, "board": {"readout": {"v_max": "1.2 V"}}}
    with (
        serve_here(config) as process,
        load_station(write_station(tmp_path / "station.yaml", process.prober, process.board)) as station,
    ):
        caps = station.array.capabilities()
    assert caps.v_max == pytest.approx(1.2, abs=1e-3) and caps.v_min < -2.4


def test_a_passive_die_is_entered_and_pulsed_under_a_scheme(bench, die, record):
    assert bench.contact_check.passed
    mask = np.zeros((8, 8), dtype=bool)
    mask[2, 3] = True
    before = bench.array.read(0, 0.2, mask=mask, averages=64)
    with pytest.raises(LimitError, match="needs a bias scheme"):
        bench.array.pulse(0, mask, 1.5, WIDTH)
    bench.array.pulse(0, mask, 1.5, WIDTH, scheme="V/2")
    after = bench.array.pulse_and_read(0, mask, 1.5, WIDTH, 0.2, averages=64, scheme="V/3")
    assert after[2, 3] > before[2, 3]
    bench.array.fire([Pulse(0, mask, -1.5, WIDTH, 2, "V/2")])
    kept = [intent.pulse.scheme for intent in record.intents(die.name)]
    assert kept == ["V/2", "V/3", "V/2"]  # what was refused was never meant
    assert bench.array.dose()[0, 2, 3] >= 4
