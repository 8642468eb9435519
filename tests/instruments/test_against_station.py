"""Both drivers against the simulated station: two programs that share nothing but the documents of their wires."""

import numpy as np
import pytest
from in_process import serve_here

from instruments.board_protocol.link import BoardError
from instruments.roles.interfaces import LimitError, ZState
from instruments.station import load_station, write_station


@pytest.fixture(scope="module")
def simulated():
    with serve_here({"lot": "mtj", "seed": 11, "dies": 3}) as process:
        yield process


@pytest.fixture
def station(simulated, tmp_path):
    with load_station(write_station(tmp_path / "sim.yaml", simulated.prober, simulated.board)) as station:
        yield station


@pytest.fixture
def array(station):
    """The board, with the needles on the first die."""
    station.prober.first_die()
    station.prober.contact()
    return station.array


def test_both_say_who_they_are(station):
    assert "SENTIO" in station.prober.identify()
    assert len(station.array.identify().split(",")) == 4
    caps = station.array.capabilities()
    assert caps.kernels == len(caps.kernel_row) and caps.v_read_max > 0
    assert isinstance(station.prober.chuck_temperature(), float)


def test_the_route_is_walked_to_its_end(station):
    prober = station.prober
    sites = prober.die_sites()
    walked = [prober.first_die()]
    while (site := prober.next_die()) is not None:
        walked.append(site)
        assert prober.where() == site
    assert walked == sites and len(sites) == 3
    assert prober.last_die
    for site in reversed(sites):
        assert prober.goto_die(site) == site
        prober.contact()
        assert prober.z_state() is ZState.CONTACT
        prober.separate()
        assert prober.z_state() is ZState.SEPARATED
        prober.set_bin(site, 1)


def test_no_contact_no_current(station):
    station.prober.first_die()
    apart = station.array.read(0, 0.1)
    station.prober.contact()
    touching = station.array.read(0, 0.1)
    assert np.nanmedian(np.abs(apart)) < 0.02 * np.nanmedian(np.abs(touching[np.isfinite(touching)]))


def test_a_masked_reading_agrees_with_a_full_one(array):
    full = array.read(1, 0.1, averages=64)
    mask = np.random.default_rng(3).random(full.shape) < 0.3
    part = array.read(1, 0.1, mask=mask, averages=64)
    assert np.isnan(part[~mask]).all()
    both = mask & np.isfinite(full) & np.isfinite(part)
    np.testing.assert_allclose(part[both], full[both], rtol=0.05, atol=2e-7)


def test_pulses_are_counted(array):
    mask = np.zeros((array.capabilities().rows, array.capabilities().columns), dtype=bool)
    mask[2, 3] = True
    _, before = array.last_action()
    array.pulse(0, mask, 0.05, 100e-9)
    reading = array.pulse_and_read(0, mask, -0.05, 100e-9, 0.1, averages=16)
    assert array.last_action()[1] == before + 2
    assert np.isfinite(reading[mask]).all() or np.isinf(reading[mask]).all()
    assert np.isnan(reading[~mask]).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_one_line_at_a_time_multiplies_to_single_readings(array, direction):
    caps = array.capabilities()
    lines = caps.rows if direction == "backward" else caps.columns
    driven = np.zeros(lines, dtype=bool)
    driven[4] = True
    array.load_vectors(0, np.array([[0.1], [0.05], [0.0]]))
    currents = array.multiply(0, 0, direction=direction, driven=driven, averages=64)
    assert currents.shape == (3, caps.columns if direction == "backward" else caps.rows)
    usable = np.isfinite(currents).all(axis=0)
    assert usable.mean() > 0.5
    np.testing.assert_allclose(currents[1, usable], currents[0, usable] / 2, rtol=0.2, atol=5e-7)


def test_a_full_batch(array):
    caps = array.capabilities()
    vectors = np.random.default_rng(5).uniform(0, 0.1, (1000, caps.rows))
    array.load_vectors(1, vectors)
    currents = array.multiply(0, 1, direction="backward", current_range=caps.ranges[-1].index)
    assert currents.shape == (1000, caps.columns)
    np.testing.assert_array_equal(np.isnan(currents), False)


def test_a_stop_latches_until_reset(array):
    mask = np.ones((array.capabilities().rows, array.capabilities().columns), dtype=bool)
    array.safe()
    with pytest.raises(BoardError, match="reset"):
        array.pulse(0, mask, 0.05, 100e-9)
    array.reset()
    array.pulse(0, mask, 0.05, 100e-9)


def test_the_board_agrees_with_our_limits(array):
    """What lies on a limit is accepted by both sides; what lies beyond is refused by ours."""
    caps = array.capabilities()
    array.read(0, caps.v_read_max)
    array.read(0, -caps.v_read_max)
    array.load_vectors(0, np.full((1, caps.rows), caps.v_read_max))
    array.multiply(0, 0)
    mask = np.zeros((caps.rows, caps.columns), dtype=bool)
    mask[0, 0] = True
    array.pulse(caps.kernels - 1, mask, caps.v_max, caps.width_min)
    array.pulse(caps.kernels - 1, mask, caps.v_min, caps.width_min)
    with pytest.raises(LimitError):
        array.pulse(0, mask, caps.v_max + caps.dac_lsb, caps.width_min)
