import numpy as np
import pytest

from sim_backends.array.dies.mtj_die import stream
from sim_backends.array.dies.readout import Readout, ReadoutSpec

QUIET = ReadoutSpec(current_noise=0.0)
CHANNELS = np.arange(25)


def readout(spec=QUIET, seed=1):
    return Readout.draw(spec, 25, stream(seed))


def test_codes_are_whole_and_within_half_a_step():
    board = readout()
    currents = np.linspace(-0.99e-4, 0.99e-4, 25)
    codes = board.digitise(currents, 0.0, 0, CHANNELS, 1, stream(2))
    np.testing.assert_array_equal(codes, np.rint(codes))
    back = board.gain[0] * (codes - board.offset[0])
    assert np.all(np.abs(back - currents) <= 0.5001 * board.gain[0])


@pytest.mark.parametrize("current_range", range(5))
def test_full_scale_fits_every_channel_and_more_saturates(current_range):
    board = readout()
    full = board.spec.full_scales[current_range]
    for sign, end in ((1, 4095), (-1, 0)):
        inside = board.digitise(np.full(25, sign * full), 0.0, current_range, CHANNELS, 1, stream(2))
        assert np.all((inside > 0) & (inside < 4095))
        beyond = board.digitise(np.full(25, sign * full * 1.2), 0.0, current_range, CHANNELS, 4, stream(2))
        assert np.all(beyond == end)


def test_calibration_leaves_a_small_error():
    board = readout()
    raw = np.std(board.gain / board.gain.mean(axis=1, keepdims=True))
    left = np.std(board.reported_gain / board.gain - 1)
    assert raw == pytest.approx(0.01, rel=0.4)
    assert left == pytest.approx(2e-4, rel=0.4)
    assert np.std(board.reported_offset - board.offset) == pytest.approx(0.05, rel=0.4)


def test_the_mean_narrows_with_the_root_of_averages():
    noisy = ReadoutSpec(current_noise=2e-7)  # several codes wide, so rounding does not matter
    board = readout(noisy)
    many = np.zeros((4000, 25))
    single = board.digitise(many, 0.0, 0, CHANNELS, 1, stream(3)) * board.gain[0]
    mean = board.digitise(many, 0.0, 0, CHANNELS, 16, stream(4)) * board.gain[0]
    assert np.std(single, axis=0).mean() == pytest.approx(2e-7, rel=0.03)
    assert np.std(mean, axis=0).mean() == pytest.approx(2e-7 / 4, rel=0.03)


def test_cell_noise_adds_in_squares():
    board = readout(ReadoutSpec(current_noise=3e-7))
    codes = board.digitise(np.zeros((4000, 25)), np.full((4000, 25), 4e-7), 0, CHANNELS, 1, stream(3))
    assert np.std(codes * board.gain[0], axis=0).mean() == pytest.approx(5e-7, rel=0.03)
