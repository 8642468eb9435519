"""The page of a real bench does not speak of a simulated lot, and says which dies a fit used."""

import numpy as np
import pytest
import xarray as xr

from analysis.record.assumed import assumed, of_station
from analysis.record.own_files import sealed
from analysis.record.record import Record
from analysis.results import grey_picture as picture_results
from analysis.results import iv_sweep as iv_results
from analysis.results import tio2_moons as moons_results
from analysis.results.mtj_mnist import _halves, _when
from protocols.shipped import mtj_mnist

BENCH = "instruments:\n  prober: {type: x, address: TCPIP::192.168.1.20::35555::SOCKET}\n"


@pytest.fixture
def record(tmp_path):
    with Record.open(tmp_path / "lot") as opened:
        yield opened


def run_at(record, station, lot="mtj"):
    """A run whose station file held this text; None: one that started its own."""
    run = record.begin_run("p", {"lot": lot, "station_file": None if station is None else "bench.yaml", "seed": 0})
    if station is not None:
        record.event(run, "station", "connected", station=station)
    return record.runs()[-1]


def test_a_bench_has_no_simulated_lot(record):
    said = of_station(record, run_at(record, BENCH))
    assert "simulated" not in said and "lot" not in said.split() and "calibrations" in said


@pytest.mark.parametrize("station", [None, BENCH + "  clock: {type: y, address: z}\n", sealed(BENCH),
                                     sealed(BENCH) + "# edited\n"])  # fmt: skip
def test_a_simulated_station_has_one(record, station):
    assert "simulated" in of_station(record, run_at(record, station))


def test_the_lot_is_named(record):
    assert "lot tio2-8x8@rack" in of_station(record, run_at(record, None, "tio2-8x8@rack"))


def test_what_old_records_say_of_it_is_left_out(record):
    before = ["device values, defect rates and voltages of a simulated lot (its lot file says so value by value)", "b"]
    assert assumed(record, run_at(record, BENCH), before)[1:] == ("b",)


@pytest.mark.parametrize("of", [iv_results, moons_results, picture_results, mtj_mnist])
def test_no_protocol_speaks_of_a_lot_by_itself(of):
    assert not any("simulated lot" in text for text in of.ASSUMED)


def test_a_fit_says_which_dies_it_used():
    dies = ["c1r1", "c2r1", "c3r1"]
    assert list(_halves(xr.Dataset(attrs={"fitted_on": ["c2r1", "c3r1"]}), dies)) == [1, 0, 0]
    assert list(_halves(xr.Dataset(), dies)) == [0, 1, 0]  # records that do not say
    assert list(_halves(None, dies)) == [0, 1, 0]
    assert np.issubdtype(_halves(None, dies).dtype, np.integer)


def test_when_it_was_measured(record):
    first = record.begin_run("p", {})
    record.end_run(first, "stopped")
    record.begin_run("p", {}, resumes=first)
    began, going_on = _when(record, record.runs()[0]), _when(record, record.runs()[1])
    assert " to " in began and " to " not in going_on and began[:16] == going_on[:16] and "(UTC" in began
